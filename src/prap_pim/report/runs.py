"""Several runs side by side: what they have in common, what differs, every figure. One page and a terminal table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prap_pim.errors import printable
from prap_pim.files import write_whole
from prap_pim.report.drawing import Chart, Choice, bar_layout, color, hatch, label, room_for_text, safe, symbol
from prap_pim.report.page import render_page
from prap_pim.report.quantities import bits, count, percent, quantity, scale, significant, times
from prap_pim.report.summary import Comparison, comparisons
from prap_pim.report.tables import print_table
from prap_pim.results import Results

_BAR = 26  # pixels
_PLOT = 280  # pixels


@dataclass(frozen=True)
class NamedRun:
    """The results of a run, and what the user called it."""

    name: str
    results: Results


@dataclass(frozen=True)
class Aspect:
    """What a run was made with.

    Attributes:
        label: in words.
        values: of each run.
        decisive: whether figures of runs that differ in it are not of the same thing.
    """

    label: str
    values: tuple[str, ...]
    decisive: bool

    @property
    def differs(self) -> bool:
        """Whether not all runs have the same."""
        return len(set(self.values)) > 1


def aspects(runs: Sequence[NamedRun]) -> list[Aspect]:
    """What runs were made with: first what must be equal for their figures to be comparable."""

    def aspect(label: str, value: Callable[[Results], str], decisive: bool = False) -> Aspect:
        return Aspect(label, tuple(value(run.results) for run in runs), decisive)

    return [
        Aspect("chip", tuple(_chips(runs)), True),
        aspect("network", lambda r: f"{r.network}, {count(r.parameters)} weights", True),
        aspect("data", lambda r: f"{r.data} ({', '.join(f'{k} {count(n)}' for k, n in r.images.items())})", True),
        aspect("zero-input skipping", lambda r: "on" if r.zero_input_skipping else "off", True),
        aspect("weights", lambda r: r.weights),
        aspect("crossbar budget", lambda r: count(r.methods[0].at_budget.budget)),
        aspect("seed", lambda r: str(r.seed)),
        aspect("compared with", lambda r: r.methods[0].name),
        aspect("prap-pim", lambda r: r.versions.get("prap-pim", "not told")),
        aspect("command", lambda r: r.command),
    ]


def _chips(runs: Sequence[NamedRun]) -> list[str]:
    """A name for each chip; chips of one name whose figures differ are numbered."""
    known: dict[str, list[Any]] = {}
    names = []
    for run in runs:
        chip = run.results.chip
        facts = chip.model_dump(include={"geometry", "figures", "conventions"})
        variants = known.setdefault(chip.name, [])
        if facts not in variants:
            variants.append(facts)
        number = variants.index(facts) + 1
        names.append(chip.name if number == 1 else f"{chip.name}, with other figures ({number})")
    return names


def verdict(runs: Sequence[NamedRun]) -> tuple[bool, str]:
    """Whether figures of different runs may be compared, and why, in a sentence."""
    different = [aspect.label for aspect in aspects(runs) if aspect.decisive and aspect.differs]
    if not different:
        return True, "These runs are of the same chip, network and data: their figures can be compared."
    told = " and ".join([", ".join(different[:-1]), different[-1]] if len(different) > 1 else different)
    return False, (
        f"These runs differ in {told}: figures of different runs are not of the same thing. "
        "Gains are within each run, over its own first method."
    )


HEADINGS = (
    "accuracy",
    "compute ratio",
    "latency, serial",
    "latency, pipelined",
    "throughput, pipelined",
    "energy",
    "area",
    "speedup, serial",
    "speedup, pipelined",
    "energy gain",
    "throughput gain, equal crossbars",
)


def rows(runs: Sequence[NamedRun]) -> list[tuple[str, str, list[tuple[str, float | None]]]]:
    """Run, method and cells (text, SI value to sort by) for each of ``HEADINGS``."""
    return [(run.name, each.method.name, _cells(each)) for run in runs for each in comparisons(run.results)]


def _cells(each: Comparison) -> list[tuple[str, float | None]]:
    method = each.method
    quality = (
        (percent(method.bit_true_accuracy), method.bit_true_accuracy)
        if method.bit_true_bits_per_byte is None
        else (f"{bits(method.bit_true_bits_per_byte)} bits/byte", method.bit_true_bits_per_byte)
    )
    gains = (each.serial_speedup, each.pipelined_speedup, each.energy_gain, each.budget_throughput_gain)
    return [
        quality,
        (significant(method.compute_ratio), method.compute_ratio),
        (quantity(method.serial.latency_s, "s"), method.serial.latency_s),
        (quantity(method.pipelined.latency_s, "s"), method.pipelined.latency_s),
        (f"{significant(method.pipelined.throughput_per_s)} /s", method.pipelined.throughput_per_s),
        (quantity(method.energy_j, "J"), method.energy_j),
        (quantity(method.area_m2, "m2"), method.area_m2),
        *((times(gain), gain) for gain in gains),
    ]


def write_runs(runs: Sequence[NamedRun], path: Path) -> None:
    """Write the page that compares runs, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_whole(path, render_runs(runs))


def render_runs(runs: Sequence[NamedRun]) -> str:
    """The page as text."""
    figures = [_figures(runs), *_tradeoff(runs)]
    comparable, told = verdict(runs)
    return render_page(
        "runs.html",
        parts=[("differences", "What differs"), ("figures", "Figures")],
        charts=figures,
        runs=runs,
        aspects=aspects(runs),
        comparable=comparable,
        verdict=told,
        charts_=figures,
        headings=HEADINGS,
        rows=rows(runs),
    )


def _figures(runs: Sequence[NamedRun]) -> Chart:
    """A bar for every method of every run, in the colour of the run."""
    methods = [(number, run, method) for number, run in enumerate(runs) for method in run.results.methods]

    def choice(index: int, unit: str) -> Choice:
        name = HEADINGS[index]
        cells = [cells[index] for _, _, cells in rows(runs)]
        values = [value or 0.0 for _, value in cells]
        chosen = scale(values, unit)
        data = {
            "type": "bar",
            "orientation": "h",
            "y": list(range(len(methods))),
            "x": [value * chosen.factor for value in values],
            "text": [text for text, _ in cells],
            "textposition": "outside",
            "cliponaxis": False,
            "hovertext": [
                f"{safe(run.name)}, {safe(method.name)}: {text}"
                for (_, run, method), (text, _) in zip(methods, cells, strict=True)
            ],
            "hoverinfo": "text",
            "marker": {
                "color": [color(number) for number, *_ in methods],
                "pattern": {"shape": [hatch(7 * (number % 4)) for number, *_ in methods]},
            },
            "showlegend": False,
        }
        labels = [f"{run.name}: {method.name}" for _, run, method in methods]
        layout = bar_layout(labels, f"{name} / {chosen.unit}", _BAR * len(methods))
        layout["xaxis"]["range"] = room_for_text(values, chosen)
        return Choice(name, [data], layout)

    return Chart(
        "figures-chart",
        "Every method of every run",
        "One inference; shorter is better. A colour and hatching for each run.",
        choosing="Show",
        choices=[choice(6, "m2"), choice(2, "s"), choice(3, "s"), choice(5, "J")],
    )


def _tradeoff(runs: Sequence[NamedRun]) -> list[Chart]:
    """Accuracy against energy or latency, where every run measured accuracy."""
    if any(method.bit_true_accuracy is None for run in runs for method in run.results.methods):
        return []

    def choice(index: int, unit: str) -> Choice:
        name = HEADINGS[index]
        every = rows(runs)
        chosen = scale((cells[index][1] or 0.0 for _, _, cells in every), unit)
        data = []
        for number, run in enumerate(runs):
            mine = list(zip(run.results.methods, rows([run]), strict=True))
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": label(run.name),
                    "x": [(cells[index][1] or 0.0) * chosen.factor for _, (_, _, cells) in mine],
                    "y": [100 * (method.bit_true_accuracy or 0.0) for method, _ in mine],
                    "hovertext": [
                        f"{safe(run.name)}, {safe(method.name)}: {cells[index][0]}, {percent(method.bit_true_accuracy)}"
                        for method, (_, _, cells) in mine
                    ],
                    "hoverinfo": "text",
                    "cliponaxis": False,
                    "marker": {"color": color(number), "symbol": symbol(number), "size": 12},
                }
            )
        layout = bar_layout([], f"{name} / {chosen.unit}", _PLOT, legend=len(runs))
        layout["yaxis"] = {"title": {"text": "accuracy / %"}, "fixedrange": True, "automargin": True}
        return Choice(name, data, layout)

    return [
        Chart(
            "runs-tradeoff",
            "Accuracy against cost",
            "A mark for every method. Further up and further left is better. The upright axis does not begin at 0.",
            kind="Scatter plot",
            choosing="Cost",
            choices=[choice(2, "s"), choice(3, "s"), choice(5, "J")],
        )
    ]


def print_runs(runs: Sequence[NamedRun], console: Console) -> None:
    """Print what differs, then a line for every method of every run."""
    comparable, told = verdict(runs)
    console.print(Text(told, style="green" if comparable else "yellow"))
    for aspect in aspects(runs):
        if aspect.differs:
            console.print(Text(f"{aspect.label}:"))
            for run, value in zip(runs, aspect.values, strict=True):
                console.print(Padding(Text(f"{printable(run.name)}: {printable(value)}"), (0, 0, 0, 2), expand=False))
    shown = [0, 2, 3, 5, 6, 7, 9]
    headings = ["", *(HEADINGS[index].replace(", ", "\n").replace(" gain", "\ngain") for index in shown)]
    for run in runs:
        console.print()
        table = [(method, *(cells[index][0] for index in shown)) for _, method, cells in rows([run])]
        print_table(console, headings, table, run.name, spare=(5, 2))
