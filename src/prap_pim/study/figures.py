"""The figures that a study can be asked for: those of results.json, with dots between nested names."""

from prap_pim.cost.price import COMPONENTS
from prap_pim.errors import UserError
from prap_pim.settings import nearest
from prap_pim.study_results import SHORT, Direction

QUALITY = ("compressed_accuracy", "bit_true_accuracy", "compressed_bits_per_byte", "bit_true_bits_per_byte")
BUDGET = "at_budget."  # figures of the plan when layers are replicated to fill the crossbar budget
_COST = (
    "crossbars",
    "stored_cells",
    *(f"{timing}.{figure}" for timing in ("serial", "pipelined") for figure in ("latency_s", "throughput_per_s")),
    "energy_j",
    *(f"energy_breakdown_j.{component}" for component in COMPONENTS),
    "area_m2",
    "leakage_w",
    "tops_per_w",
    "index_stored_bytes",
    "index_read_bytes",
    "partial_sum_bytes",
)
FIGURES = (*QUALITY, "compute_ratio", "ou_steps", *_COST, *(f"{BUDGET}{name}" for name in ("budget", *_COST)))
_MORE_IS_BETTER = ("bit_true_accuracy", "compressed_accuracy", "throughput_per_s", "tops_per_w")


def figure_name(name: str) -> str:
    """The whole name of a figure.

    Raises:
        UserError: there is no such figure.
    """
    whole = SHORT.get(name, name)
    if whole not in FIGURES:
        raise UserError(f"there is no figure {name!r} ({nearest(name, [*SHORT, *FIGURES])})")
    return whole


def better(name: str) -> Direction:
    """Which way a figure gets better."""
    return "maximize" if name.rpartition(".")[2] in _MORE_IS_BETTER else "minimize"
