"""Several runs side by side: what they have in common, what differs, every figure. One page and a terminal table."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prap_pim.common.errors import printable
from prap_pim.common.files import write_whole
from prap_pim.report.differences import NamedRun, aspects, settings, verdict
from prap_pim.report.html.drawing import Chart, Choice, bar_layout, color, hatch, label, room_for_text, safe, symbol
from prap_pim.report.html.frame import render_page
from prap_pim.report.quantities import bits, percent, quantity, scale, significant, times
from prap_pim.report.summary import Comparison, Exactness, caveat, comparisons, exactness
from prap_pim.report.terminal.tables import print_table

_BAR = 26  # pixels
_PLOT = 280  # pixels


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


_Cells = list[tuple[str, float | None]]


def rows(runs: Sequence[NamedRun]) -> list[tuple[str, str, _Cells, str]]:
    """Run, method, cells (text, SI value to sort by) for each of ``HEADINGS``, and what to know of the accuracy."""
    return [
        (run.name, each.method.name, _cells(each), caveat(run.results, each.method))
        for run in runs
        for each in comparisons(run.results)
    ]


def proofs(runs: Sequence[NamedRun]) -> list[tuple[str, str, Exactness]]:
    """Run, whether its crossbars are exact in words, and what was found."""
    found = [(run.name, exactness(run.results)) for run in runs]
    words = {(True, True): "exact", (True, False): "not exact", (False, False): "not checked"}
    return [(name, words[each.checked > 0, each.proven], each) for name, each in found]


def _cells(each: Comparison) -> _Cells:
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
    return render_page(
        "runs.html",
        parts=[("differences", "What differs"), ("exact", "Exactness"), ("figures", "Figures")],
        charts=figures,
        runs=runs,
        aspects=aspects(runs),
        settings=settings(runs),
        verdict=verdict(runs),
        proofs=proofs(runs),
        charts_=figures,
        headings=HEADINGS,
        rows=rows(runs),
    )


def _figures(runs: Sequence[NamedRun]) -> Chart:
    """A bar for every method, the methods of each run together, in its colour."""
    of_run = [rows([run]) for run in runs]
    first = accumulate((len(methods) for methods in of_run), initial=0)
    names = [method for methods in of_run for _, method, *_ in methods]
    places = [range(start, start + len(methods)) for start, methods in zip(first, of_run, strict=False)]

    def choice(index: int, unit: str) -> Choice:
        heading = HEADINGS[index]
        values = [cells[index][1] or 0.0 for methods in of_run for _, _, cells, _ in methods]
        chosen = scale(values, unit)
        data = [
            {
                "type": "bar",
                "orientation": "h",
                "name": label(run.name),
                "y": list(place),
                "x": [(cells[index][1] or 0.0) * chosen.factor for _, _, cells, _ in methods],
                "text": [cells[index][0] for _, _, cells, _ in methods],
                "textposition": "outside",
                "cliponaxis": False,
                "hovertext": [f"{safe(run.name)}, {safe(name)}: {cells[index][0]}" for _, name, cells, _ in methods],
                "hoverinfo": "text",
                "marker": {"color": color(number), "pattern": {"shape": hatch(7 * (number % 4))}},
            }
            for number, (run, place, methods) in enumerate(zip(runs, places, of_run, strict=True))
        ]
        layout = bar_layout(names, f"{heading} / {chosen.unit}", _BAR * len(names), legend=len(runs))
        layout["barmode"] = "overlay"
        layout["xaxis"]["range"] = room_for_text(values, chosen)
        return Choice(heading, data, layout)

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
        chosen = scale((cells[index][1] or 0.0 for _, _, cells, _ in every), unit)
        data = []
        for number, run in enumerate(runs):
            mine = list(zip(run.results.methods, rows([run]), strict=True))
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": label(run.name),
                    "x": [(cells[index][1] or 0.0) * chosen.factor for _, (_, _, cells, _) in mine],
                    "y": [100 * (method.bit_true_accuracy or 0.0) for method, _ in mine],
                    "hovertext": [
                        f"{safe(run.name)}, {safe(method.name)}: {cells[index][0]}, {percent(method.bit_true_accuracy)}"
                        for method, (_, _, cells, _) in mine
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
    """Print what differs, what was proven, then a line for every method of every run."""
    found = verdict(runs)
    console.print(Text(printable(" ".join(found.sentences)), style="green" if found.same else "yellow"))
    for aspect in aspects(runs):
        if aspect.differs:
            console.print(Text(f"{printable(aspect.label)}:"))
            for run, value in zip(runs, aspect.values, strict=True):
                console.print(Padding(Text(f"{printable(run.name)}: {printable(value)}"), (0, 0, 0, 2), expand=False))
    for name, _, proof in proofs(runs):
        console.print(Text(printable(f"{name}: {proof.line}"), style="green" if proof.proven else "bold red"))
    shown = [0, 2, 3, 5, 6, 7, 9]
    headings = ["", *(HEADINGS[index].replace(", ", "\n").replace(" gain", "\ngain") for index in shown)]
    for run in runs:
        console.print()
        table = [(method, *(cells[index][0] for index in shown)) for _, method, cells, _ in rows([run])]
        print_table(console, headings, table, run.name, spare=(5, 2))
