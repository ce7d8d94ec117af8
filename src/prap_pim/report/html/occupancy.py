"""How full the crossbars are: cells that are programmed, places for OUs that stay empty, load of each crossbar.

Of one copy of every layer, as the methods are compared at equal chip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prap_pim.report.html.drawing import Chart, Choice, bar_layout, color, safe
from prap_pim.report.quantities import count, percent
from prap_pim.results.run import LayerResult, MethodResult, Results

CHOOSER = "occupancy-method"
_SQUARES = 48  # crossbars of a layer that are drawn one by one; of more, each square stands for several
_BAR = 22  # pixels
_TICKS = 5  # numbers beside the crossbars, at most
_EMPTY = "rgba(128,128,128,0.12)"


@dataclass(frozen=True)
class Occupancy:
    """One layer under one method.

    Attributes:
        method, layer: names.
        crossbars: that it takes.
        cells: of these crossbars.
        stored: cells that are programmed.
        places: for OUs, on these crossbars.
        loads: OUs on each crossbar.
        cells_per_ou: cells of an OU.
    """

    method: str
    layer: str
    crossbars: int
    cells: int
    stored: int
    places: int
    loads: tuple[int, ...]
    cells_per_ou: int

    @property
    def ous(self) -> int:
        """OUs that hold weights."""
        return sum(self.loads)

    @property
    def fragments(self) -> int:
        """Cells of OUs that hold weights, which are not programmed: unused rows and columns."""
        return self.ous * self.cells_per_ou - self.stored

    @property
    def empty(self) -> int:
        """Cells of places without an OU."""
        return (self.places - self.ous) * self.cells_per_ou

    @property
    def balance(self) -> float:
        """Mean load of a crossbar / that of the fullest: 1 is even. 1 without any load."""
        return self.ous / (len(self.loads) * max(self.loads)) if any(self.loads) else 1.0


def occupancies(results: Results) -> list[Occupancy]:
    """Layer by layer, methods in turn; empty where the results are older than these figures."""
    chip = results.chip
    return [
        _occupancy(
            method, layer, chip.cells_per_crossbar, chip.ous_per_crossbar, layer.stored_cells, layer.crossbar_ous
        )
        for method in results.methods
        for layer in method.layers
        if chip.cells_per_crossbar is not None
        and chip.ous_per_crossbar is not None
        and layer.stored_cells is not None
        and layer.crossbar_ous is not None
    ]


def _occupancy(
    method: MethodResult, layer: LayerResult, cells: int, places: int, stored: int, runs: Sequence[tuple[int, int]]
) -> Occupancy:
    loads = tuple(load for load, crossbars in runs for _ in range(crossbars))
    return Occupancy(
        method=method.name,
        layer=layer.name,
        crossbars=len(loads),
        cells=cells * len(loads),
        stored=stored,
        places=places * len(loads),
        loads=loads,
        cells_per_ou=cells // places,
    )


def occupancy_charts(found: Sequence[Occupancy]) -> list[Chart]:
    """Cells by layer, and every crossbar's load; a choice for every method."""
    methods = list(dict.fromkeys(each.method for each in found))
    if not methods:
        return []
    of = {method: [each for each in found if each.method == method] for method in methods}
    return [
        Chart(
            "occupancy-cells",
            "What the cells hold",
            "Share of the cells of a layer's crossbars. Fragments: rows and columns that an OU leaves unused. Empty: "
            "places for OUs that hold none.",
            chooser=CHOOSER,
            choices=[_cells(method, of[method]) for method in methods],
        ),
        Chart(
            "occupancy-crossbars",
            "How full each crossbar is",
            "A row is a layer, its squares are its crossbars, coloured by how many of their OU places are filled. "
            "Beside it: OU places filled in the whole layer. All squares of a row alike: the load is even.",
            kind="Heat map",
            chooser=CHOOSER,
            choices=[_squares(method, of[method]) for method in methods],
        ),
    ]


def _cells(method: str, layers: Sequence[Occupancy]) -> Choice:
    kinds: list[tuple[str, list[int], str, str]] = [
        ("programmed", [each.stored for each in layers], color(0), ""),
        ("fragments", [each.fragments for each in layers], color(1), "/"),
        ("empty", [each.empty for each in layers], _EMPTY, ""),
    ]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(range(len(layers))),
            "x": [100 * part / each.cells for part, each in zip(parts, layers, strict=True)],
            "hovertext": [
                f"{safe(each.layer)}: {count(part)} of {count(each.cells)} cells {name}, {percent(part / each.cells)}"
                for part, each in zip(parts, layers, strict=True)
            ],
            "hoverinfo": "text",
            "marker": {
                "color": tone,
                "pattern": {"shape": shape},
            },
        }
        for name, parts, tone, shape in kinds
    ]
    layout = bar_layout([each.layer for each in layers], "cells / %", _BAR * len(layers), legend=3)
    layout |= {"barmode": "stack"}
    layout["xaxis"] |= {"range": [0, 130], "tickvals": [0, 25, 50, 75, 100]}
    layout["annotations"] = [
        _beside(100 * (1 - each.empty / each.cells), i, percent(each.stored / each.cells))
        for i, each in enumerate(layers)
    ]
    return Choice(method, data, layout)


def _squares(method: str, layers: Sequence[Occupancy]) -> Choice:
    """Rows of crossbars; of a layer with many, a square shows the mean of several."""
    most = max(each.crossbars for each in layers)
    together = -(-most // _SQUARES)
    rows, texts = [], []
    for each in layers:
        places = each.places / each.crossbars
        parts = [each.loads[i : i + together] for i in range(0, each.crossbars, together)]
        rows.append([100 * sum(part) / len(part) / places for part in parts])
        texts.append(
            [
                f"{safe(each.layer)}, crossbar {i * together + 1}"
                + (f" to {i * together + len(part)}" if len(part) > 1 else "")
                + f": {sum(part) / len(part):.4g} of {places:.0f} OUs"
                for i, part in enumerate(parts)
            ]
        )
    width = max(map(len, rows))
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x0": (together + 1) / 2,  # the middle of crossbars 1 to together
            "dx": together,
            "z": [[*row, *[None] * (width - len(row))] for row in rows],
            "hovertext": [[*row, *[""] * (width - len(row))] for row in texts],
            "hoverinfo": "text",
            "hoverongaps": False,
            "zmin": 0,
            "zmax": 100,
            "xgap": 1,
            "ygap": 2,
            "colorbar": {
                "title": {"text": "OU places filled / %", "side": "top"},
                "tickvals": [0, 25, 50, 75, 100],
                "ticks": "outside",
                "orientation": "h",
                "y": 1.0,
                "yanchor": "bottom",
                "ypad": 2,
                "thickness": 12,
                "len": 1.0,
            },
        }
    ]
    layout = bar_layout([each.layer for each in layers], "crossbar", _BAR * len(layers))
    layout["height"] += 50  # the colours, for which Plotly makes room
    if together > 1:
        layout["xaxis"]["title"]["text"] += f" ({together} to a square)"
    layout["annotations"] = [
        _beside(0.5 + together * len(row), i, percent(each.ous / each.places))
        for i, (row, each) in enumerate(zip(rows, layers, strict=True))
    ]
    layout["xaxis"] |= {
        "range": [0.5, 0.5 + 1.25 * together * width],
        "showgrid": False,
        "zeroline": False,
        "tickvals": _ticks(most),
        "ticks": "outside",
        "tickformat": ",d",
    }
    layout["yaxis"] |= {"range": [len(layers) - 0.5, -0.5]}
    del layout["yaxis"]["autorange"]
    return Choice(method, data, layout)


def _ticks(most: int) -> list[int]:
    """Round numbers from 1 to ``most``, the first of them 1."""
    steps = (factor * 10**power for power in range(len(str(most)) + 1) for factor in (1, 2, 5))
    step = next(step for step in steps if most // step < _TICKS)
    return sorted({1, *range(step, most + 1, step)})


def _beside(x: float, y: int, text: str) -> dict[str, Any]:
    return {"x": x, "y": y, "text": text, "showarrow": False, "xanchor": "left"}


def table(found: Sequence[Occupancy]) -> list[tuple[str, str, list[tuple[str, float]]]]:
    """Layer, method and cells (text, value to sort by) of the table."""
    return [
        (
            each.layer,
            each.method,
            [
                (count(each.crossbars), each.crossbars),
                (count(each.cells), each.cells),
                (count(each.stored), each.stored),
                (percent(each.stored / each.cells), each.stored / each.cells),
                (count(each.fragments), each.fragments),
                (count(each.places - each.ous), each.places - each.ous),
                (count(min(each.loads)), min(each.loads)),
                (count(max(each.loads)), max(each.loads)),
                (percent(each.balance), each.balance),
            ],
        )
        for each in found
    ]
