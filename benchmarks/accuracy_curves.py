"""The accuracy tables of docs/accuracy.md as curves: what every line loses at every ratio."""

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from accuracy_tables import LOSS, LOST, METHOD, sections

from prap_pim.report.figures.draw import render
from prap_pim.report.figures.frame import dashes, legend, mark_style, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACROSS = 3
_FLOOR = 0.1  # points: an image in 900 is 0.11
_LINES = ("similar", "prap", "identical", "orc", "prap-tuned", METHOD, f"{METHOD}-tuned")  # their colours and marks

Curves = dict[str, list[tuple[Fraction, float]]]  # by line: ratios, and points lost


def curves_of(section: str) -> Curves:
    """What each line of a section loses: as its table of that says, else mean float accuracy less that of the line.

    Where a line has fewer seeds than the float network, that would compare the one's seeds with the other's: left out.
    """
    whole = float(section.removeprefix("Float ").split()[0].rstrip(","))
    tables = {part.split("|")[1].strip(): part for part in reversed(section.split("\n\n")) if part.startswith("|")}
    told = LOST in tables
    table = tables[LOST if told else "line"]
    head, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines())
    return {
        line: [
            (Fraction(ratio), float(cell.split()[0]) if told else whole - float(cell.split()[0]))
            for ratio, cell in zip(head[1:], cells, strict=True)
            if "/" in ratio and cell not in ("", "-") and "seeds" not in cell
        ]
        for line, *cells in rows
        if line in _LINES
    }


def drawing(page: str) -> bytes:
    """All networks of a page, as SVG."""
    networks = {name: curves_of(text) for name, text in sections(page).items()}

    def draw(figure: "Figure", _: Any) -> None:
        deep = -(-len(networks) // _ACROSS)
        figure.set_figheight(2.2 * deep)
        entries: dict[str, Any] = {}
        for i, (name, curves) in enumerate(networks.items()):
            axes = figure.add_subplot(deep, _ACROSS, i + 1, title=name, xscale="log", yscale="log")
            for line, points in curves.items():
                index = _LINES.index(line)
                x, y = [float(ratio) for ratio, _ in points], [max(_FLOOR, lost) for _, lost in points]
                (entries[line],) = axes.plot(x, y, linestyle=dashes(index), **mark_style(index))
            ratios = sorted({ratio for points in curves.values() for ratio, _ in points})
            axes.set_xticks([float(ratio) for ratio in ratios], map(str, ratios))
            axes.minorticks_off()
            axes.invert_xaxis()
            axes.set_ylim(100, 0.8 * _FLOOR)
            axes.set_yticks([_FLOOR, 1, 10, 100], [f"≤ {_FLOOR:g}", *map(number, (1, 10, 100))])
            axes.axhline(100 * LOSS, color="black", linewidth=0.6, linestyle=(0, (4, 2)))
            axes.grid(axis="y")
            if i % _ACROSS == 0:
                axes.set_ylabel("points of accuracy lost")
            if i + _ACROSS >= len(networks):
                axes.set_xlabel("compute ratio")
        legend(figure, [(line, entries[line]) for line in _LINES if line in entries])

    return render(draw, None, "svg", "page")  # type: ignore[arg-type]  # it needs no table
