"""Figures for papers, and the tables behind them: one table a figure, written in any format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prap_pim.common.errors import UserError
from prap_pim.common.files import write_whole
from prap_pim.report.figure_names import FIGURES, OF_STUDIES, Format, Width
from prap_pim.report.figures import content, draw
from prap_pim.report.figures.draw import Drawer, render
from prap_pim.report.figures.table import Column, Table, to_csv, to_parquet, to_tex
from prap_pim.results.run import LayerResult, Results
from prap_pim.results.study import StudyResults

__all__ = ["Table", "figure_table", "study_table", "write_figure"]

_TABLES: dict[str, Callable[[Table], bytes]] = {"tex": to_tex, "csv": to_csv, "parquet": to_parquet}


@dataclass(frozen=True)
class Figure:
    """A kind of figure; ``FIGURES`` says in words what it shows.

    Attributes:
        table: its table, from finished runs.
        draw: how the table is drawn.
        width: of the drawing, unless another is asked for.
    """

    table: Callable[[Sequence[content.Run]], Table]
    draw: Drawer
    width: Width = "column"


def _of_layers(column: Column, value: Callable[[LayerResult], int | float]) -> Figure:
    return Figure(content.layers(column, value), draw.per_layer(column.name), "page")


_FIGURES = {
    "speedup": Figure(
        content.speedup,
        draw.bars(
            "serial_speedup",
            "pipelined_speedup",
            "throughput_gain_at_budget",
            "throughput_gain_per_area_at_budget",
            axis="gain over {reference}",
            line=1.0,
        ),
    ),
    "energy": Figure(content.energy, draw.bars("energy_j", axis="energy", note="energy_gain")),
    "area": Figure(content.area, draw.bars("area_m2", "area_at_budget_m2", axis="area")),
    "accuracy": Figure(content.accuracy, draw.against_compute),
    "breakdown": Figure(content.breakdown, draw.stacked("component", "energy_j")),
    "layer-steps": _of_layers(Column("ou_steps", "OU steps", "count"), lambda layer: layer.ou_steps),
    "layer-latency": _of_layers(
        Column("serial_latency_s", "latency, serial", "quantity", "s"), lambda layer: layer.serial_latency_s
    ),
    "layer-energy": _of_layers(Column("energy_j", "energy", "quantity", "J"), lambda layer: layer.energy_j),
    "noise": Figure(content.noise, draw.under_noise),
}
_OF_STUDIES = {"pareto": (content.pareto, draw.front)}
assert [*_FIGURES, *_OF_STUDIES] == list(FIGURES)
assert tuple(_OF_STUDIES) == OF_STUDIES


def figure_table(name: str, folders: Sequence[Path], results: Sequence[Results], methods: Sequence[str] = ()) -> Table:
    """The table behind a figure.

    Args:
        name: of the figure, a key of ``FIGURES`` that is not in ``OF_STUDIES``.
        folders: of the runs; they name runs whose own names are not distinct.
        results: of the same runs.
        methods: of every run, the first of which is what gains are over; none means all.

    Raises:
        UserError: a run lacks a method, or the runs do not hold what the figure shows.
    """
    chosen = [content.only(each, methods) if methods else each for each in results]
    return _FIGURES[name].table(content.name_runs(folders, chosen))


def study_table(name: str, study: StudyResults) -> Table:
    """The table behind a figure of ``OF_STUDIES``.

    Raises:
        UserError: the study does not hold what the figure shows.
    """
    return _OF_STUDIES[name][0](study)


def write_figure(name: str, table: Table, path: Path, format_: Format, width: Width | None = None) -> None:
    """Write a figure's table, or the figure that is drawn from it, whole or not at all.

    Raises:
        UserError: the file's name ends otherwise than its format, or it cannot be written.
    """
    if path.suffix != f".{format_}":
        raise UserError(f"{path} does not end in .{format_}, the format asked for")
    if format_ in ("pdf", "svg", "png"):
        drawer, usual = _drawing(name)
        write_whole(path, render(drawer, table, format_, width or usual))
    else:
        write_whole(path, _TABLES[format_](table))


def _drawing(name: str) -> tuple[Drawer, Width]:
    if name in _OF_STUDIES:
        return _OF_STUDIES[name][1], "column"
    return _FIGURES[name].draw, _FIGURES[name].width
