"""Tables drawn by matplotlib for the columns of a paper. No colour alone carries meaning; bars begin at 0."""

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from math import ceil
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from prap_pim.errors import printable
from prap_pim.figure_names import WIDTHS, Width
from prap_pim.report.drawing import color as color_of
from prap_pim.report.figures.content import BEHIND, MISSES, ON_THE_FRONT
from prap_pim.report.figures.table import Column, Table, shown
from prap_pim.report.quantities import quantity, significant
from prap_pim.report.simulation import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_T = TypeVar("_T")
Drawer = Callable[["Figure", Table], None]

_HATCHES = (
    "",
    "////",
    "....",
    "xxxx",
    "----",
    "\\\\\\\\",
    "||||",
    "++++",
)  # seven colours, eight hatches: 56 that differ
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_SAME_PLACE = 1.05  # of two shares of OU steps
_SLIVER = 0.015  # of a method's energy: components below it in every method are drawn as one
_LABEL, _LAYER_LABEL = 24, 32  # characters of a name
_BAR, _GAP, _FRAME, _LEGEND = 0.115, 0.09, 0.55, 0.15  # inches: a bar, the space between groups, axis, a legend's row
_NAMED_LAYERS = 90  # layers whose names fit a page's width
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
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
# what would differ from run to run, or from place to place
_NO_METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


def render(drawer: Drawer, table: Table, format_: Literal["pdf", "svg", "png"], width: Width) -> bytes:
    """The figure as a file; the same table and libraries give the same bytes."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of its cache of fonts
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # not the user's style
        for key, value in _STYLE.items():
            matplotlib.rcParams[key] = value  # type: ignore[index,unused-ignore]  # typed by literals since 3.11
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # it is drawn as a box
        figure = Figure(figsize=(WIDTHS[width], 2.0))
        drawer(figure, table)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=format_, metadata=_NO_METADATA[format_])
    return buffer.getvalue()


def bars(*names: str, axis: str, note: str | None = None, line: float | None = None) -> Drawer:
    """A drawer of horizontal bars: a group for each row, a bar for each of these columns of one kind.

    Args:
        names: of the columns.
        axis: what the values are; ``{reference}`` is whom gains are over; the unit is added.
        note: a column whose value stands beside the bar's own.
        line: where to draw a line, as at a gain of 1.
    """

    def draw(figure: "Figure", table: Table) -> None:
        chosen, columns = table.scale(*names), [table.column(name) for name in names]
        labels, axes = [_label(table, key) for key in _keys(table)], figure.add_subplot()
        step, legend = _GAP + _BAR * len(names), []
        for i, column in enumerate(columns):
            place = [row * step + i * _BAR for row in range(len(labels))]
            lengths = [value * chosen.factor for value in table.numbers(column.name)]
            legend.append((column.label, axes.barh(place, lengths, _BAR, **_bar_style(i))))
            beside = [""] * len(labels)
            if note is not None:
                beside = [f"  ({shown(table.column(note), value)})" for value in table.values(note)]
            for y, length, value, more in zip(place, lengths, table.values(column.name), beside, strict=True):
                _beside(axes, 0 if value is None else length, y, shown(column, value) + more)
        middle = _BAR * (len(names) - 1) / 2
        axes.set_yticks([row * step + middle for row in range(len(labels))], labels)
        references = _distinct(table.texts("reference"))
        named = axis.format(reference=_short(references[0]) if len(references) == 1 else "each run's first method")
        _horizontal(figure, axes, f"{named} / {chosen.unit}" if chosen.unit else named, step * len(labels))
        if line is not None:
            axes.axvline(line, color="black", linewidth=0.6, linestyle=(0, (4, 2)))
        if len(names) > 1:
            _legend(figure, legend)

    return draw


def stacked(part: str, name: str) -> Drawer:
    """A drawer of horizontal bars that are sums: of column ``name``, by the words in column ``part``."""

    def draw(figure: "Figure", table: Table) -> None:
        chosen, axes = table.scale(name), figure.add_subplot()
        groups = _distinct(_keys(table))
        parts: dict[str, list[float]] = {}
        for key, word, value in zip(_keys(table), table.texts(part), table.numbers(name), strict=True):
            parts.setdefault(word, [0.0] * len(groups))[groups.index(key)] += value
        totals = [sum(values) for values in zip(*parts.values(), strict=True)]
        slivers = [
            word for word, values in parts.items() if all(v <= _SLIVER * t for v, t in zip(values, totals, strict=True))
        ]
        if len(slivers) > 1:
            small = [parts.pop(word) for word in slivers]
            parts[f"{len(slivers)} smaller ones"] = [sum(values) for values in zip(*small, strict=True)]
        height, step, legend = 1.4 * _BAR, 1.4 * _BAR + _GAP, []
        place, left = [row * step for row in range(len(groups))], [0.0] * len(groups)
        for i, (word, values) in enumerate(parts.items()):
            lengths = [value * chosen.factor for value in values]
            legend.append((_short(word), axes.barh(place, lengths, height, left, **_bar_style(i))))
            left = [a + b for a, b in zip(left, lengths, strict=True)]
        for y, end, total in zip(place, left, totals, strict=True):
            _beside(axes, end, y, quantity(total, table.column(name).unit))
        axes.set_yticks(place, [_label(table, key) for key in groups])
        axis = table.column(name).label
        _horizontal(figure, axes, f"{axis} / {chosen.unit}", step * len(groups))
        _legend(figure, legend)

    return draw


def per_layer(name: str) -> Drawer:
    """A drawer of a bar for every layer and method, of column ``name``."""

    def draw(figure: "Figure", table: Table) -> None:
        axes, chosen = figure.add_subplot(), table.scale(name)
        series, layers = _keys(table), _distinct(table.texts("layer"))
        methods = _distinct(series)
        width, legend = 0.84 / len(methods), []
        values = {
            (method, layer): value * chosen.factor
            for method, layer, value in zip(series, table.texts("layer"), table.numbers(name), strict=True)
        }
        thin = {"linewidth": 0.4 if len(methods) * len(layers) <= 150 else 0.1}
        for i, method in enumerate(methods):
            place = [j - 0.42 + width * (i + 0.5) for j in range(len(layers))]
            heights = [values.get((method, layer), 0.0) for layer in layers]
            legend.append((_label(table, method), axes.bar(place, heights, width, **_bar_style(i) | thin)))
        every = ceil(len(layers) * WIDTHS["page"] / figure.get_figwidth() / _NAMED_LAYERS)
        ticks = range(0, len(layers), every)
        named = [_short(layers[j], _LAYER_LABEL) for j in ticks]
        axes.set_xticks(list(ticks), named, rotation=90, fontsize=6)
        axes.set_xlim(-0.7, len(layers) - 0.3)
        axes.set_ylabel(f"{table.column(name).label} / {chosen.unit}" if chosen.unit else table.column(name).label)
        axes.yaxis.set_major_formatter(lambda value, _: significant(value) if value % 1 else f"{value:,.0f}")
        axes.grid(axis="y")
        axes.tick_params(axis="x", length=0)
        figure.set_figheight(1.5 + 0.05 * max(map(len, named)))
        if len(methods) > 1:
            _legend(figure, legend)

    return draw


def against_compute(figure: "Figure", table: Table) -> None:
    """What networks are worth against the share of OU steps that is left, a line for each series.

    The last three columns are measures of the float network, the compressed one, and this one on crossbars.
    """
    baseline, *measures = (column.name for column in table.columns[-3:])
    axes, name = (
        figure.add_subplot(),
        next(n for n in reversed(measures) if any(v is not None for v in table.values(n))),
    )
    chosen = table.scale(name)
    several, legend = len(set(table.values("network"))) > 1, list[tuple[str, Any]]()
    kinds = list(zip(table.texts("series"), table.texts("network"), strict=True))
    points = [
        (kind, x, y * chosen.factor)
        for kind, x, y in zip(kinds, table.numbers("compute_ratio"), table.numbers(name), strict=True)
        if y == y
    ]
    for i, kind in enumerate(_distinct([point[0] for point in points])):
        mine = sorted((x, y) for word, x, y in points if word == kind)
        means = _means(mine)
        series, network = map(_short, kind)
        color, marker = color_of(i), _MARKERS[i % len(_MARKERS)]
        style: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "markeredgecolor": "black",
            "markeredgewidth": 0.3,
            "clip_on": False,
        }
        if len(mine) > len(means):
            axes.plot(*zip(*mine, strict=True), linestyle="", **style | {"markersize": 2.5, "alpha": 0.6})
        (handle,) = axes.plot(*zip(*means, strict=True), linestyle=_DASHES[i % len(_DASHES)], **style)
        legend.append((f"{series}, {network}" if several else series, handle))
    known = [value * chosen.factor for value in table.numbers(baseline) if value == value]
    if known and not several:
        floating = axes.axhline(fmean(known), color="#666666", linewidth=0.8, linestyle=(0, (1, 1)))
        legend.append(("float network", floating))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_fraction)
    axes.set_xlabel(table.column("compute_ratio").label)
    measure = table.column(name)
    axes.set_ylabel(_measure(measure, chosen.unit))
    axes.grid()
    figure.set_figheight(2.5)
    _legend(figure, legend)


def under_noise(figure: "Figure", table: Table) -> None:
    """Mean accuracy against the swept quantity, with its standard deviation; a panel for each simulation."""
    from matplotlib.ticker import MaxNLocator

    panels = _distinct(list(zip(table.texts("run"), table.texts("simulation"), strict=True)))
    methods, handles = _distinct(table.texts("method")), dict[str, Any]()
    figure.set_figheight(2.2 * len(panels) + 0.3)
    for number, (run, simulation) in enumerate(panels, start=1):
        mine, axes = table.where("run", run).where("simulation", simulation), figure.add_subplot(len(panels), 1, number)
        for i, method in enumerate(methods):
            points = mine.where("method", method)
            if not points.rows:
                continue
            handles[method] = axes.errorbar(
                points.numbers("value"),
                [100 * value for value in points.numbers("mean_accuracy")],
                [100 * value for value in points.numbers("spread")],
                color=color_of(i),
                marker=_MARKERS[i % len(_MARKERS)],
                markeredgecolor="black",
                markeredgewidth=0.3,
                linestyle=_DASHES[i % len(_DASHES)],
                capsize=2,
                elinewidth=0.6,
            )
        axes.set_ylim(0, 103)
        axes.set_xlabel(mine.texts("swept")[0])
        axes.set_ylabel("accuracy / %")
        axes.grid()
        if len(panels) > 1:
            axes.set_title(_short(simulation) if "run" in table.hidden else f"{_short(run)}: {_short(simulation)}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=mine.texts("swept")[0] == QUANTITIES["adc-bits"]))
    _legend(figure, [(_short(method), handle) for method, handle in handles.items()])


def front(figure: "Figure", table: Table) -> None:
    """Trials of a study by their objectives: the first upwards, a panel for each of the others."""
    upwards, *others = table.columns[2:]
    looks: dict[str, dict[str, Any]] = {
        MISSES: {"marker": "x", "color": "#999999", "linewidths": 0.6, "s": 9},
        BEHIND: {"marker": "o", "facecolor": "none", "edgecolor": "#666666", "linewidths": 0.6, "s": 9},
        ON_THE_FRONT: {"marker": "D", "color": color_of(0), "edgecolor": "black", "linewidths": 0.4, "s": 18},
    }
    legend: dict[str, Any] = {}
    figure.set_figheight(2.3 * len(others))
    for number, across in enumerate(others, start=1):
        axes = figure.add_subplot(len(others), 1, number)
        scales = table.scale(across.name), table.scale(upwards.name)
        for state, look in looks.items():
            trials = table.where("state", state)
            x, y = (
                [v * s.factor for v in trials.numbers(c.name)] for c, s in zip((across, upwards), scales, strict=True)
            )
            if x:
                legend[state] = axes.scatter(x, y, **look)
        (to_x, to_y) = (
            f"{c.label} / {s.unit}" if s.unit else c.label for c, s in zip((across, upwards), scales, strict=True)
        )
        axes.set_xlabel(to_x)
        axes.set_ylabel(to_y)
        axes.grid()
    _legend(figure, list(legend.items()))


def _means(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of sorted points, the means of those at one place: runs that differ in their seed have nearly the same share."""
    groups: list[list[tuple[float, float]]] = []
    for point in points:
        if groups and point[0] <= _SAME_PLACE * groups[-1][0][0]:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def _measure(column: Column, unit: str) -> str:
    if column.kind == "share":
        return f"accuracy, {column.label} / {unit}"
    return f"bits per byte, {column.label}"


def _fraction(value: float, _: object) -> str:
    """A share as a tick: 1, 1/2, 1/4."""
    over = round(1 / value)
    return "1" if over == 1 else f"1/{over}" if over > 1 and abs(over * value - 1) < 0.01 else significant(value, 2)


def _keys(table: Table) -> list[tuple[str, str]]:
    """Of each row: its run and method."""
    return list(zip(table.texts("run"), table.texts("method"), strict=True))


def _label(table: Table, key: tuple[str, str]) -> str:
    """What a reader calls a method: its name, and its run's where there are several."""
    run, method = key
    return _short(method) if "run" in table.hidden else f"{_short(run)}: {_short(method)}"


def _distinct(values: Sequence[_T]) -> list[_T]:
    return list(dict.fromkeys(values))


def _short(name: str, length: int = _LABEL) -> str:
    name = printable(name)
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _bar_style(index: int) -> dict[str, Any]:
    return {
        "color": color_of(index),
        "hatch": _HATCHES[index % len(_HATCHES)],
        "edgecolor": "black",
        "linewidth": 0.4,
    }


def _horizontal(figure: "Figure", axes: "Axes", label: str, height: float) -> None:
    """The frame of horizontal bars that are so many inches high together; the first is on top."""
    from matplotlib.text import Annotation

    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlim(0, axes.dataLim.x1 * 1.3 or 1.0)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    figure.set_figheight(_FRAME + height)
    figure.canvas.draw()
    wide, most = axes.get_window_extent().width, axes.get_xlim()[1]
    for text in axes.texts:  # room for the numbers at the ends of the bars
        end = text.xy[0] if isinstance(text, Annotation) else 0.0
        left = wide - text.get_window_extent().width - figure.dpi / 12
        most = max(most, end * wide / max(left, wide / 4))
    axes.set_xlim(0, most)


def _beside(axes: "Axes", x: float, y: float, text: str) -> None:
    """At the end of a bar."""
    axes.annotate(text, (x, y), (2, 0), textcoords="offset points", va="center", fontsize=6)


def _legend(figure: "Figure", entries: Sequence[tuple[str, Any]]) -> None:
    """Above the plot, in as many columns as fit. Entries are labels and what they stand for: what matplotlib would
    collect lacks labels that begin with an underscore."""
    labels, handles = zip(*entries, strict=True)
    longest = max(map(len, labels), default=1)
    columns = max(1, min(len(labels), int(figure.get_figwidth() / (0.33 + 0.05 * longest))))
    figure.set_figheight(figure.get_figheight() + _LEGEND * ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
