"""How one budget was shared out among layers, as rows that the terminal and the page both show."""

from dataclasses import dataclass
from math import prod

from prap_pim.report.quantities import percent, significant
from prap_pim.results.run import AllocationResult, LayerResult, MethodResult, Results, spent_budget, unused_budget

HEADINGS = ("sensitivity, nats", "donors of filters", "bits", "positions kept", "compute ratio", "output error")


@dataclass(frozen=True)
class Allocation:
    """The allocation of one method.

    Attributes:
        method: its name.
        summary: one line about all of it.
        rows: by layer, a cell for each of ``HEADINGS``, in the order of the network.
    """

    method: str
    summary: str
    rows: dict[str, tuple[str, ...]]


def allocations(results: Results) -> list[Allocation]:
    """Of the methods that have one."""
    judged = "them" if results.inputs == "images" else "their bytes"
    return [_allocation(method, judged) for method in results.methods if method.calibration is not None]


def _allocation(method: MethodResult, judged: str) -> Allocation:
    assert method.calibration is not None
    layers = {layer.name: layer for layer in method.layers}
    calibration, parts = method.calibration, [f"{method.calibration.inputs} calibration inputs without labels"]
    if calibration.tuned:
        parts.append("before the donors were trained")
    if calibration.changed is not None:
        parts.append(f"{percent(calibration.changed)} of {judged} classified differently from the original network")
    whole = sum(layer.donors is None for layer in calibration.layers)
    parts.append(f"{whole} of {len(layers)} layers keep all patterns")
    if unused := unused_budget(method.compute_ratio, calibration.asked):
        parts.append(unused)
    for quantity, allowed in (calibration.budget or {}).items():
        if calibration.share is not None:
            parts.append(spent_budget(quantity, allowed, calibration.share))
    if calibration.limit is not None and calibration.changed is not None:
        limit = percent(calibration.limit)
        if calibration.changed > calibration.limit:
            parts.append(f"the limit of {limit} could not be met: int8 alone changes more")
        elif whole == len(layers):
            parts.append(f"no compute ratio below 1 that was tried meets the limit of {limit}")
    summary = "; ".join(parts)
    rows = {layer.name: _row(layer, layers[layer.name]) for layer in calibration.layers}
    return Allocation(method.name, summary, rows)


def _row(given: AllocationResult, layer: LayerResult) -> tuple[str, ...]:
    return (
        "-" if given.sensitivity_nats is None else significant(given.sensitivity_nats, 2),
        f"{given.donors or layer.weight_shape[0]} of {layer.weight_shape[0]}",
        f"{given.bits}" if given.uses == 1 else f"{given.bits}, sums of {given.uses}",
        "all" if given.kept_positions is None else f"{given.kept_positions} of {prod(layer.weight_shape[2:])}",
        significant(layer.ou_steps / layer.dense_ou_steps, 3),
        percent(given.output_error),
    )
