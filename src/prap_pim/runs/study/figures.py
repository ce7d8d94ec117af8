"""The figures that a study can be asked for: those of results.json, with dots between nested names."""

from collections.abc import Collection, Iterator

from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest
from prap_pim.cost.price import COMPONENTS
from prap_pim.results.run import CostFigures, TimingResult
from prap_pim.results.study import OWN, SHORT, Direction
from prap_pim.runs.metric import ACCURACY, BITS

QUALITY = ("compressed_accuracy", "bit_true_accuracy", "compressed_bits_per_byte", "bit_true_bits_per_byte")
_LIFE = "endured_inferences"  # no number where nothing is written, as where nobody knows
BUDGET = "at_budget."  # figures of the plan when layers are replicated to fill the crossbar budget


def _of_costs() -> Iterator[str]:
    for name, field in CostFigures.model_fields.items():
        if field.annotation is TimingResult:
            yield from (f"{name}.{figure}" for figure in TimingResult.model_fields)
        elif name == "energy_breakdown_j":
            yield from (f"{name}.{component}" for component in COMPONENTS)
        elif field.annotation != list[str] and name != _LIFE:
            yield name


_COST = tuple(_of_costs())
FIGURES = (*QUALITY, "compute_ratio", "ou_steps", *_COST, *(f"{BUDGET}{name}" for name in ("budget", *_COST)))
_MORE_IS_BETTER = ("bit_true_accuracy", "compressed_accuracy", "throughput_per_s", "tops_per_w")


def figure_name(name: str) -> str:
    """The whole name of a figure.

    Raises:
        UserError: there is no such figure.
    """
    whole = SHORT.get(name, name)
    if whole.startswith("metrics."):
        own = whole.removeprefix("metrics.")
        whole = f"bit_true_{own}" if own in (ACCURACY, BITS) else OWN + own
    if whole.removeprefix(BUDGET) == _LIFE:
        raise UserError(
            f"{name} cannot be asked for in a study: it is n/a where a network fits the chip, which writes nothing, or "
            "where the cells' endurance is not known; give cells_written, of which less is better"
        )
    if whole not in FIGURES and not whole.startswith(OWN):
        hint = nearest(name, [*SHORT, *FIGURES])
        if not hint.startswith("did"):
            hint = f"allowed: {', '.join(SHORT)}, and those of results.json, as energy_j or serial.latency_s"
        raise UserError(f"unknown figure {name!r} ({hint})")
    return whole


def better(name: str, less: Collection[str] = ()) -> Direction:
    """Which way a figure gets better; ``less`` names the user's own of which less is."""
    if name.startswith(OWN):
        return "minimize" if name.removeprefix(OWN) in less else "maximize"
    return "maximize" if name.rpartition(".")[2] in _MORE_IS_BETTER else "minimize"
