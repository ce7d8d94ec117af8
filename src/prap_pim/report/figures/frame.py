"""What all drawings for papers share: style, colours, hatches and marks, axes of any span, legends, names."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil, isfinite, log10
from typing import TYPE_CHECKING, Any, Literal

from prap_pim.common.errors import printable
from prap_pim.report.html.drawing import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = 7.5  # points: at least 7 also where a page's width is 7 inches
LINE = 0.12  # inches from one line of text to the next
_LEGEND = 0.15  # inches: a legend's row
_HATCHES = ("", "////", "....", "xxxx", "----", "\\\\\\\\", "||||", "++++")  # seven colours, eight hatches: 56
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = (("o", 1.0), ("s", 0.95), ("D", 0.9), ("^", 1.1), ("v", 1.1), ("P", 1.15), ("X", 1.15), ("*", 1.6))  # alike
_YELLOW = 6  # of the palette: seen beside black edges on a screen, but no line on white paper
_GREY = "#777777"
_NAME = 24  # characters
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#d0d0d0",
    "hatch.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "patch.linewidth": 0.4,
    "text.parse_math": False,  # a name may hold a $
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
    "pdf.fonttype": 42,  # whole TrueType fonts, as publishers ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "prap-pim",  # names of clips, else random
    "savefig.dpi": 300,
}


def color_of(index: int) -> str:
    """Of the series with this number: the page's colours, but for the one that white paper swallows."""
    return _GREY if index % 7 == _YELLOW else color(index)


def bar_style(index: int) -> dict[str, Any]:
    """Of the bars of the series with this number: colour and hatch, either of which tells the first seven apart."""
    return {"color": color_of(index), "hatch": _HATCHES[index % len(_HATCHES)], "edgecolor": "black", "linewidth": 0.4}


def mark_style(index: int, size: float = 4) -> dict[str, Any]:
    """Of the points of the series with this number: colour and shape."""
    marker, relative = _MARKERS[index % len(_MARKERS)]
    return {
        "color": color_of(index),
        "marker": marker,
        "markersize": size * relative,
        "markeredgecolor": "black",
        "markeredgewidth": 0.3,
    }


def dashes(index: int) -> Any:
    """Of the line of the series with this number."""
    return _DASHES[index % len(_DASHES)]


def logarithmic(axes: "Axes", along: Literal["x", "y"], values: Iterable[float]) -> float:
    """Make one axis logarithmic, for these values; returns where it begins, a place for zeros."""
    from matplotlib.ticker import LogLocator, NullFormatter

    positive = [value for value in values if value > 0 and isfinite(value)]
    low, high = min(positive) / 1.5, max(positive) * 1.5
    axis = axes.xaxis if along == "x" else axes.yaxis
    axes.set(**{f"{along}scale": "log", f"{along}lim": (low, high)})
    few = log10(high / low) < 2
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
    axis.set_minor_formatter(NullFormatter())
    return low


def number(value: float, _: object = None) -> str:
    """A tick's text."""
    return f"{value:,.0f}" if abs(value) >= 1 and value == round(value) else f"{value:g}"


def tick_numbers(axes: "Axes", along: Literal["x", "y"], counts: bool) -> None:
    """How an axis writes its numbers: counts as 20k and 3M."""
    from matplotlib.ticker import EngFormatter

    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_major_formatter(EngFormatter(sep="") if counts else number)


def horizontal(figure: "Figure", axes: "Axes", label: str, height: float, rows: tuple[float, float]) -> None:
    """The frame of horizontal bars: so many inches high, ``rows`` from the top to the bottom."""
    from matplotlib.text import Annotation

    axes.set_ylim(*reversed(rows))
    if axes.get_xscale() == "linear":
        axes.set_xlim(0, axes.dataLim.x1 * 1.3 or 1.0)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    figure.set_figheight(0.55 + height)
    figure.draw_without_rendering()  # lays out
    along = axes.xaxis.get_transform()  # to where the axis is linear
    first, most = along.transform(axes.get_xlim())
    wide = axes.get_window_extent().width
    for text in axes.texts:  # room for the numbers at the ends of the bars
        end = along.transform([text.xy[0] if isinstance(text, Annotation) else 0.0])[0]
        left = wide - text.get_window_extent().width - figure.dpi / 9
        most = max(most, first + (end - first) * wide / max(left, wide / 4))
    axes.set_xlim(right=along.inverted().transform([most])[0])


def beside(axes: "Axes", x: float, y: float, text: str) -> None:
    """At the end of a bar, or at a mark."""
    told = axes.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center")
    told.set_in_layout(False)  # ``horizontal`` makes room


def legend(figure: "Figure", entries: Sequence[tuple[str, Any]]) -> None:
    """Above the plot, in as many columns as fit. Entries are labels and what they stand for: what matplotlib would
    collect lacks labels that begin with an underscore."""
    labels, handles = zip(*entries, strict=True)

    def width(columns: int) -> float:
        """Inches, about; matplotlib fills column after column, the first ones with one entry more."""
        rows, more = divmod(len(labels), columns)
        starts = [i * rows + min(i, more) for i in range(columns + 1)]
        return sum(0.35 + 0.055 * max(map(len, labels[a:b])) for a, b in pairwise(starts))

    most = next((n for n in range(len(labels), 1, -1) if width(n) <= figure.get_figwidth()), 1)
    rows = ceil(len(labels) / most)
    columns = ceil(len(labels) / rows)  # as full as one another
    figure.set_figheight(figure.get_figheight() + _LEGEND * rows)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def short(name: str, length: int = _NAME) -> str:
    """A name as it is drawn, cut in the middle."""
    name = printable(name)
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
