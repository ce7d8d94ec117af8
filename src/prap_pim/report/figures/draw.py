"""Tables drawn by matplotlib for the columns of a paper. No colour alone carries meaning. Bars begin at 0, or of gains
on a logarithmic axis at 1; other values that span decades are marks, not bars."""

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from math import ceil, floor, isfinite, log2, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from prap_pim.report.figure_names import WIDTHS, Width
from prap_pim.report.figures.content import DOMINATED, MISSES, ON_THE_FRONT
from prap_pim.report.figures.frame import (
    LINE,
    STYLE,
    bar_style,
    beside,
    color_of,
    dashes,
    horizontal,
    legend,
    logarithmic,
    mark_style,
    number,
    short,
    tick_numbers,
)
from prap_pim.report.figures.table import Column, Table, shown
from prap_pim.report.quantities import quantity, significant, spans_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_T = TypeVar("_T")
Drawer = Callable[["Figure", Table], None]

_SAME_PLACE = 1.05  # of two shares of OU steps
_SLIVER = 0.015  # of a method's energy: components below it in every method are drawn as one
_BAR, _GAP = 0.115, 0.09  # inches: a bar, the space between groups
_LAYER_BAR = 0.06  # inches of a layer's bar that a hatch can be seen on
_MARKS = (0.022, 0.06)  # inches from mark to mark: at least, at most
_TALLEST = 8.5  # inches that layers below one another take
_LAYER_LABELS = (32, 28)  # characters of a layer's name: upright, beside its row
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
        for key, value in STYLE.items():
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
        line: the value of no change, as a gain of 1: a line is drawn there, and bars begin there where the axis is
            logarithmic.
    """

    def draw(figure: "Figure", table: Table) -> None:
        chosen, columns = table.scale(*names), [table.column(name) for name in names]
        labels, axes = [_label(table, key) for key in _keys(table)], figure.add_subplot()
        step, entries = _GAP + _BAR * len(names), []
        every = [value * chosen.factor for name in names for value in table.numbers(name)]
        log = spans_decades(every)
        least = logarithmic(axes, "x", every if line is None else [line, *every]) if log else 0.0
        for i, column in enumerate(columns):
            place = [row * step + (i + 0.5) * _BAR for row in range(len(labels))]
            ends = [value * chosen.factor for value in table.numbers(column.name)]
            if log:
                ends = [max(end, least) for end in ends]  # nothing is left of the axis, zeros neither
            if not log:
                drawn: Any = axes.barh(place, ends, _BAR, **bar_style(i))
            elif line is not None:
                drawn = axes.barh(place, [end - line for end in ends], _BAR, line, **bar_style(i))
            else:
                (drawn,) = axes.plot(ends, place, linestyle="", **mark_style(i))
            entries.append((column.label, drawn))
            more = [""] * len(labels)
            if note is not None:
                more = [f"  ({shown(table.column(note), value)})" for value in table.values(note)]
            for y, end, value, last in zip(place, ends, table.values(column.name), more, strict=True):
                start = least if line is None else max(line, least)
                beside(axes, max(end, start) if isfinite(end) else start, y, shown(column, value) + last)
        middle = _BAR * len(names) / 2
        axes.set_yticks([row * step + middle for row in range(len(labels))], labels)
        tick_numbers(axes, "x", counts=False)
        references = _distinct(table.texts("reference"))
        named = axis.format(reference=short(references[0]) if len(references) == 1 else "each run's first method")
        horizontal(figure, axes, f"{named} / {chosen.unit}" if chosen.unit else named, *_groups(step, labels))
        if line is not None:
            axes.axvline(line, color="black", linewidth=0.6, linestyle=(0, (4, 2)))
        if len(names) > 1:
            legend(figure, entries)

    return draw


def stacked(part: str, name: str) -> Drawer:
    """A drawer of horizontal bars that are sums: of column ``name``, by the words in column ``part``.

    Where the sums span decades, every bar is as long as the others, and shows shares of its sum.
    """

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
        shares = spans_decades(totals)
        factors = [100 / (total or 1) if shares else chosen.factor for total in totals]
        height, step, entries = 1.4 * _BAR, 1.4 * _BAR + _GAP, []
        place, left = [row * step + height / 2 for row in range(len(groups))], [0.0] * len(groups)
        for i, (word, values) in enumerate(parts.items()):
            lengths = [value * factor for value, factor in zip(values, factors, strict=True)]
            entries.append((short(word), axes.barh(place, lengths, height, left, **bar_style(i))))
            left = [a + b for a, b in zip(left, lengths, strict=True)]
        for y, end, total in zip(place, left, totals, strict=True):
            beside(axes, end, y, quantity(total, table.column(name).unit))
        axes.set_yticks(place, [_label(table, key) for key in groups])
        axis = table.column(name).label
        axis = f"share of the {axis} / %" if shares else f"{axis} / {chosen.unit}"
        horizontal(figure, axes, axis, *_groups(step, groups))
        if shares:
            axes.set_xticks(range(0, 101, 20))
        legend(figure, entries)

    return draw


def per_layer(name: str) -> Drawer:
    """A drawer of column ``name`` for every layer and method: layers side by side on a page's width, below one another
    in a column. Bars, or marks where values span decades or bars would be too thin."""

    def draw(figure: "Figure", table: Table) -> None:
        axes, chosen, column = figure.add_subplot(), table.scale(name), table.column(name)
        keys, layers = _keys(table), _distinct(table.texts("layer"))
        methods = _distinct(keys)
        values = {
            (method, layer): value * chosen.factor
            for method, layer, value in zip(keys, table.texts("layer"), table.numbers(name), strict=True)
        }
        below = figure.get_figwidth() < WIDTHS["page"]
        along: Literal["x", "y"] = "x" if below else "y"
        room = (_TALLEST if below else figure.get_figwidth() - 0.6) / len(layers)  # inches that a layer may take
        log = spans_decades(values.values())
        as_marks = log or 0.8 * room < _LAYER_BAR * len(methods)
        if below:
            room = min(room, max(LINE, 0.05 + (_MARKS[0] if as_marks else _LAYER_BAR) * len(methods)))
        least = logarithmic(axes, along, values.values()) if log else 0.0
        apart = min(0.8 / len(methods), _MARKS[1] / room if as_marks else 1.0)
        entries = []
        for i, method in enumerate(methods):
            place = [j + apart * (i - (len(methods) - 1) / 2) for j in range(len(layers))]
            sizes = [max(values.get((method, layer), nan), least) for layer in layers]  # no zero on a logarithmic axis
            if as_marks:
                x, y = (sizes, place) if below else (place, sizes)
                (drawn,) = axes.plot(x, y, linestyle="", clip_on=False, zorder=3, **mark_style(i, 3.4))
            else:
                bar: Any = axes.barh if below else axes.bar
                drawn = bar(place, sizes, apart, **bar_style(i))
            entries.append((_label(table, method), drawn))
        for j in range(1, len(layers), 2):
            (axes.axhspan if below else axes.axvspan)(j - 0.5, j + 0.5, color="#f2f2f2", zorder=0, linewidth=0)
        named = [short(layer, _LAYER_LABELS[bool(below)]) for layer in layers]
        ticks = range(0, len(layers), ceil(LINE / room))
        label = f"{column.label} / {chosen.unit}" if chosen.unit else column.label
        if log and 0 in values.values():
            label += " (0: at the edge)"
        tick_numbers(axes, along, counts=column.kind == "count")
        if below:
            axes.set_yticks(list(ticks), [named[j] for j in ticks])
            horizontal(figure, axes, label, room * len(layers), (-0.5, len(layers) - 0.5))
        else:
            axes.set_xticks(list(ticks), [named[j] for j in ticks], rotation=90)
            axes.set_xlim(-0.5, len(layers) - 0.5)
            axes.set_ylabel(label)
            axes.grid(axis="y")
            axes.tick_params(axis="x", length=0)
            figure.set_figheight(1.8 + 0.057 * max(map(len, named)))
        if len(methods) > 1:
            legend(figure, entries)

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
    several, entries = len(set(table.values("network"))) > 1, list[tuple[str, Any]]()
    kinds = list(zip(table.texts("series"), table.texts("network"), strict=True))
    points = [
        (kind, x, y * chosen.factor)
        for kind, x, y in zip(kinds, table.numbers("compute_ratio"), table.numbers(name), strict=True)
        if y == y
    ]
    for i, kind in enumerate(_distinct([point[0] for point in points])):
        mine = sorted((x, y) for word, x, y in points if word == kind)
        means = _means(mine)
        series, network = map(short, kind)
        if len(mine) > len(means):
            axes.plot(*zip(*mine, strict=True), linestyle="", clip_on=False, alpha=0.6, **mark_style(i, 2.5))
        how = dashes(i) if len(means) > 1 else ""
        (handle,) = axes.plot(*zip(*means, strict=True), linestyle=how, clip_on=False, **mark_style(i))
        entries.append((f"{series}, {network}" if several else series, handle))
    known = [value * chosen.factor for value in table.numbers(baseline) if value == value]
    if known and not several:
        floating = axes.axhline(fmean(known), color="#666666", linewidth=0.8, linestyle=(0, (1, 1)))
        entries.append(("float network", floating))
    axes.set_xscale("log", base=2)
    axes.set_xlim(left=2.0 ** floor(log2(min(x for _, x, _ in points))))
    axes.xaxis.set_major_formatter(_fraction)
    axes.set_xlabel(table.column("compute_ratio").label)
    measure = table.column(name)
    axes.set_ylabel(_measure(measure, chosen.unit))
    axes.grid()
    figure.set_figheight(2.5)
    legend(figure, entries)


def under_noise(figure: "Figure", table: Table) -> None:
    """Mean accuracy against the swept quantity, with its standard deviation; a panel for each simulation."""
    mean = next(column.name for column in table.columns if column.name.startswith("mean_"))
    share = table.column(mean).kind == "share"
    factor = 100 if share else 1
    panels = _distinct(list(zip(table.texts("run"), table.texts("simulation"), strict=True)))
    methods, handles = _distinct(table.texts("method")), dict[str, Any]()
    figure.set_figheight(2.2 * len(panels) + 0.3)
    for position, (run, simulation) in enumerate(panels, start=1):
        mine = table.where("run", run).where("simulation", simulation)
        axes = figure.add_subplot(len(panels), 1, position)
        for i, method in enumerate(methods):
            points = mine.where("method", method)
            if not points.rows:
                continue
            bar = axes.errorbar(
                points.numbers("value"),
                [factor * value for value in points.numbers(mean)],
                [factor * value for value in points.numbers("spread")],
                linestyle=dashes(i),
                capsize=2,
                elinewidth=0.6,
                **mark_style(i),
            )
            handles[method] = bar.lines[0]
        if share:
            axes.set_ylim(0, 103)
        axes.set_xlabel(mine.texts("swept")[0])
        axes.set_ylabel("accuracy / %" if share else mean.removeprefix("mean_"))
        axes.grid()
        if len(panels) > 1:
            named = short(simulation, 46)
            axes.set_title(named if "run" in table.hidden else f"{short(run)}: {short(simulation)}")
        _ticks_at(axes, sorted(set(mine.numbers("value"))), figure.get_figwidth() - 0.6)
    legend(figure, [(short(method), handle) for method, handle in handles.items()])


def _ticks_at(axes: "Axes", values: Sequence[float], inches: float) -> None:
    """Ticks at these values, with a number wherever there is room for it."""
    from matplotlib.ticker import NullLocator

    if spans_decades(values):
        least = min(value for value in values if value > 0)
        if values[0] == 0:  # as far from the next as a decade
            axes.set_xscale("symlog", linthresh=least, linscale=1.0)
        else:
            axes.set_xscale("log")
    places = axes.xaxis.get_transform().transform(values)
    wide = (places[-1] - places[0]) or 1.0
    texts, free = [], float("-inf")
    for value, place in zip(values, places, strict=True):
        text, middle = number(value), 0.9 * inches * (place - places[0]) / wide
        half = 0.035 * len(text)
        texts.append(text if middle - half >= free else "")
        free = middle + half + 0.05 if texts[-1] else free
    axes.set_xticks(list(values), texts)
    axes.xaxis.set_minor_locator(NullLocator())


def front(figure: "Figure", table: Table) -> None:
    """Trials of a study by their objectives: the first upwards, a panel for each of the others."""
    upwards, *others = table.columns[2:]
    looks: dict[str, dict[str, Any]] = {
        MISSES: {"marker": "x", "color": "#999999", "linewidths": 0.6, "s": 9},
        DOMINATED: {"marker": "o", "facecolor": "none", "edgecolor": "#666666", "linewidths": 0.6, "s": 9},
        ON_THE_FRONT: {"marker": "D", "color": color_of(0), "edgecolor": "black", "linewidths": 0.4, "s": 18},
    }
    entries: dict[str, Any] = {}
    figure.set_figheight(2.3 * len(others))
    for position, across in enumerate(others, start=1):
        axes = figure.add_subplot(len(others), 1, position)
        for state, look in looks.items():
            trials = table.where("state", state)
            x, y = ([v * table.scale(c.name).factor for v in trials.numbers(c.name)] for c in (across, upwards))
            if x:
                entries[state] = axes.scatter(x, y, **look)
        _objective(axes, "x", table, across)
        _objective(axes, "y", table, upwards)
        axes.grid()
    legend(figure, list(entries.items()))


def _objective(axes: "Axes", along: Literal["x", "y"], table: Table, column: Column) -> None:
    chosen = table.scale(column.name)
    label = f"{column.label} / {chosen.unit}" if chosen.unit else column.label
    axes.set(**{f"{along}label": label})
    values = [value * chosen.factor for value in table.numbers(column.name)]
    if min(values) > 0 and spans_decades(values):
        logarithmic(axes, along, values)
    tick_numbers(axes, along, counts=False)


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
    return f"bits per byte, {column.label}" if column.kind == "bits" else column.label


def _fraction(value: float, _: object) -> str:
    """A share as a tick: 1, 1/2, 1/4."""
    over = round(1 / value)
    return "1" if over == 1 else f"1/{over}" if over > 1 and abs(over * value - 1) < 0.01 else significant(value, 2)


def _keys(table: Table) -> list[tuple[str, str]]:
    """Of each row: its run and method."""
    return list(zip(table.texts("run"), table.texts("method"), strict=True))


def _groups(step: float, groups: Sequence[object]) -> tuple[float, tuple[float, float]]:
    """The inches that groups take, one every ``step`` with a gap at its end; and from where to where."""
    height = step * len(groups)
    return height, (-_GAP / 2, height - _GAP / 2)


def _label(table: Table, key: tuple[str, str]) -> str:
    """What a reader calls a method: its name, and its run's where there are several."""
    run, method = key
    return short(method) if "run" in table.hidden else f"{short(run)}: {short(method)}"


def _distinct(values: Sequence[_T]) -> list[_T]:
    return list(dict.fromkeys(values))
