"""Several runs on one page."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from prap_pim.common.files import write_whole
from prap_pim.report.differences import NamedRun, aspects, settings, verdict
from prap_pim.report.html.drawing import Chart, Choice, bar_layout, color, hatch, label, room_for_text, safe, symbol
from prap_pim.report.html.frame import render_page
from prap_pim.report.quality import qualities
from prap_pim.report.quantities import scale
from prap_pim.report.runs import HEADINGS, proofs, rows

_BAR = 26  # pixels


_PLOT = 280  # pixels


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
    first = qualities(runs[0].results)[0]
    each = [qualities(run.results)[0] for run in runs]
    known = all(
        of.bit_true(method) is not None for run, of in zip(runs, each, strict=True) for method in run.results.methods
    )
    if not known or {of.name for of in each} != {first.name}:
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
                    "y": [first.factor * (each[number].bit_true(method) or 0.0) for method, _ in mine],
                    "hovertext": [
                        f"{safe(run.name)}, {safe(method.name)}: {cells[index][0]}, {cells[0][0]}"
                        for method, (_, _, cells, _) in mine
                    ],
                    "hoverinfo": "text",
                    "cliponaxis": False,
                    "marker": {"color": color(number), "symbol": symbol(number), "size": 12},
                }
            )
        layout = bar_layout([], f"{name} / {chosen.unit}", _PLOT, legend=len(runs))
        layout["yaxis"] = {"title": {"text": first.axis}, "fixedrange": True, "automargin": True}
        return Choice(name, data, layout)

    return [
        Chart(
            "runs-tradeoff",
            f"{first.title} against cost",
            "A mark for every method. The best are at the top left. The vertical axis does not begin at 0.",
            kind="Scatter plot",
            choosing="Cost",
            choices=[choice(2, "s"), choice(3, "s"), choice(5, "J")],
        )
    ]
