"""How charts look: colours that colour-blind people tell apart, marks beside them, names shown letter by letter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prap_pim.report.quantities import Scale

# Okabe and Ito, "Color Universal Design" (2008), without black: the page is light or dark
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
_HATCHES = ("", "/", "x", ".")  # a new one each time the palette is used up
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # of lines
# of points; with the colours 56 that differ
_SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "triangle-down")
_FRAME = 90  # pixels of a chart above and below its bars
_LEGEND_ROW = 20  # pixels
_LABEL_LENGTH = 26  # characters of a name beside an axis; the whole name shows in the hover text and in the tables
_SHORT_LENGTH = 16  # the same on a narrow screen
NUMBERS = "~g"  # d3's format of an axis whose unit has its prefix already


@dataclass(frozen=True)
class Choice:
    """One of the variants of a chart.

    Attributes:
        label: in the list to choose from.
        data, layout: as ``Chart`` has them.
    """

    label: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One figure of the page.

    Attributes:
        id: of its element.
        title: heading.
        note: how to read it.
        data, layout: Plotly's traces and layout, colours of the theme left open; empty where there are choices.
        kind: what it is, for those who do not see it.
        choosing: what the reader chooses, where there are choices.
        choices: the last one is shown first.
        chooser: id of a list that several charts share (``chooser`` makes it); empty: the chart has its own.
    """

    id: str
    title: str
    note: str
    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    kind: str = "Bar chart"
    choosing: str = ""
    choices: list[Choice] = field(default_factory=list)
    chooser: str = ""


LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}  # above the plot


def bar_layout(labels: Sequence[str], axis: str, height: int, legend: int = 0) -> dict[str, Any]:
    """Horizontal bars in so many pixels, the first on top; ``legend``: its entries, above the bars.

    ``meta`` is for the page's script: names for a narrow screen, and how many entries the legend has.
    """
    rows = -(-legend // 2)  # two entries in a row; the page's script knows how many there is room for
    return {
        "height": _FRAME + height + _LEGEND_ROW * rows,
        "margin": {"l": 8, "r": 8, "t": 8 + _LEGEND_ROW * rows, "b": 8},
        "bargap": 0.3,
        "meta": {"short": [label(name, _SHORT_LENGTH) for name in labels], "legend": legend},
        "dragmode": False,
        "showlegend": legend > 0,
        "legend": {**LEGEND, "traceorder": "normal", "maxheight": 1},  # of the plot: else a long one is scrolled
        "hoverlabel": {"align": "left", "namelength": -1},
        "xaxis": {
            "title": {"text": axis},
            "rangemode": "tozero",
            "fixedrange": True,
            "automargin": True,
            "tickformat": NUMBERS,
            "tickangle": 0,
            "nticks": 4,
        },
        "yaxis": {
            "tickmode": "array",
            "tickvals": list(range(len(labels))),
            "ticktext": [label(name) for name in labels],
            "autorange": "reversed",
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "automargin": True,
            "ticks": "outside",  # invisible: keeps the labels off the bars
            "tickcolor": "rgba(0,0,0,0)",
        },
    }


def room_for_text(values: Iterable[float], chosen: Scale) -> list[float]:
    """Range of an axis whose bars have their figures written behind them."""
    largest = max(values) * chosen.factor
    return [0, (largest or 1.0) * 1.35]


def color(index: int) -> str:
    """Of the method or component with this number; ``hatch``, ``dash`` or ``symbol`` go with it."""
    return _PALETTE[index % len(_PALETTE)]


def transparent(of: str) -> str:
    """The same colour for an area behind lines."""
    red, green, blue = (int(of[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def dash(index: int) -> str:
    """Of the line with this number."""
    return _DASHES[index % len(_DASHES)]


def symbol(index: int) -> str:
    """Of the points with this number."""
    return _SYMBOLS[index % len(_SYMBOLS)]


def hatch(index: int) -> str:
    """Of the bars with this number."""
    return _HATCHES[index // len(_PALETTE) % len(_HATCHES)]


def label(name: str, longest: int = _LABEL_LENGTH) -> str:
    """A name beside an axis or in a legend, shortened in the middle."""
    if len(name) > longest:
        half = (longest - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    return safe(name)


def safe(name: str) -> str:
    """A name that Plotly shows letter by letter: it knows numeric entities, and would read tags and link targets."""
    return name.replace("&", "&#38;").replace("<", "&#60;").replace(">", "&#62;")
