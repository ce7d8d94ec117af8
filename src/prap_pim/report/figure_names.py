"""Figures of ``prap-pim plot`` by name, and their forms: what the command line knows before it loads a library."""

from typing import Literal, get_args

Format = Literal["pdf", "svg", "png", "tex", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

Width = Literal["column", "page"]
WIDTHS: dict[Width, float] = {"column": 3.5, "page": 7.16}  # inches: IEEE's and ACM's two-column layouts

FIGURES = {
    "speedup": "gains in time over the first method",
    "energy": "energy of one inference",
    "area": "area that the network takes",
    "accuracy": "accuracy against compute, of one run or many",
    "breakdown": "energy by component",
    "layer-steps": "OU steps by layer",
    "layer-latency": "serial latency by layer",
    "layer-energy": "energy by layer",
    "noise": "accuracy against a device sweep",
    "pareto": "all trials of a study, and those that none is better than (of prap-pim explore)",
}
OF_STUDIES = ("pareto",)  # the others are of runs
