"""Which filters share which donors, with which gains: read from the plans of a run, bounded so that a page stays small.

Of a layer some row groups are shown, evenly spaced, and the first filters; sums are over the whole layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prap_pim.plan import LayerPlan, NetworkPlan
from prap_pim.report.quantities import count, percent, significant

_FILTERS = 512  # at most, of a layer
_GROUPS = 24  # row groups at most, of a layer
_CELLS = 600_000  # of all maps together: filters times row groups


@dataclass(frozen=True)
class ReuseMap:
    """One layer under one method.

    Attributes:
        method, layer: names.
        summary: the whole layer, in words.
        part: what is shown of it, in words; empty: all of it.
        gains: of the whole layer: gain, uses, share of them.
        filters: shown, the first ones.
        gain_names: gains that occur in ``uses``.
        groups: numbers of the row groups that are shown.
        uses: for each of these, for each shown filter: donor of the row group, and number of its gain; None where the
            filter uses none.
    """

    method: str
    layer: str
    summary: str
    part: str
    gains: list[tuple[str, str, str]]
    filters: int
    gain_names: list[str]
    groups: list[int]
    uses: list[list[list[int] | None]]


def reuse_maps(plans: Mapping[str, NetworkPlan]) -> list[ReuseMap]:
    """Of every layer, in each plan that shares any pattern."""
    sharing = {method: plan for method, plan in plans.items() if any(map(_shares, plan.layers.values()))}
    layers = sum(len(plan.layers) for plan in sharing.values())
    return [
        _map(method, layer, max(1, _CELLS // layers))
        for method, plan in sharing.items()
        for layer in plan.layers.values()
    ]


def _shares(plan: LayerPlan) -> bool:
    return len(plan.donors) < plan.uses


def _map(method: str, plan: LayerPlan, cells: int) -> ReuseMap:
    filters = min(plan.filters, _FILTERS, cells)
    shown = _spaced(plan.groups, max(1, min(_GROUPS, cells // filters)))
    codes = plan.use_sign.astype(np.int64) * 256 + plan.use_exponent  # unlike for unlike gains
    names = {code: _gain(sign, exponent) for code, sign, exponent in _distinct(codes, plan)}
    number = {code: i for i, code in enumerate(names)}
    uses: list[list[list[int] | None]] = []
    for group in shown:
        row: list[list[int] | None] = [None] * filters
        for use in range(int(plan.use_start[group]), int(plan.use_start[group + 1])):
            if plan.use_filter[use] < filters:
                donor = int(plan.use_donor[use] - plan.donor_start[group])
                row[int(plan.use_filter[use])] = [donor, number[int(codes[use])]]
        uses.append(row)
    return ReuseMap(
        method=method,
        layer=plan.name,
        summary=_summary(plan),
        part=_part(plan, len(shown), filters),
        gains=_gains(codes, names),
        filters=filters,
        gain_names=list(names.values()),
        groups=shown,
        uses=uses,
    )


def _spaced(whole: int, part: int) -> list[int]:
    """So many numbers of 0..whole - 1, evenly spaced, the first and the last among them."""
    if part >= whole:
        return list(range(whole))
    return sorted({round(i * (whole - 1) / max(1, part - 1)) for i in range(part)})


def _distinct(codes: NDArray[np.int64], plan: LayerPlan) -> list[tuple[int, int, int]]:
    """Code, sign and exponent of the gains that occur, the most frequent first."""
    found, first, times = np.unique(codes, return_index=True, return_counts=True)
    order = np.argsort(-times, kind="stable")
    return [(int(found[i]), int(plan.use_sign[first[i]]), int(plan.use_exponent[first[i]])) for i in order]


def _gain(sign: int, exponent: int) -> str:
    size = str(2**exponent) if exponent >= 0 else f"1/{2**-exponent}"
    return f"{'+' if sign > 0 else '−'}{size}"


def _gains(codes: NDArray[np.int64], names: Mapping[int, str]) -> list[tuple[str, str, str]]:
    found, times = np.unique(codes, return_counts=True)
    uses = dict(zip(found.tolist(), times.tolist(), strict=True))
    return [(name, count(uses[code]), percent(uses[code] / len(codes))) for code, name in names.items()]


def _summary(plan: LayerPlan) -> str:
    donors = len(plan.donors)
    told = f"{count(donors)} donors serve {count(plan.uses)} uses of {count(plan.filters)} filters"
    if not donors:
        return f"{told}; nothing is left of this layer"
    sharers = np.bincount(plan.use_donor, minlength=donors)
    return (
        f"{told} in {count(plan.groups)} row groups: {significant(plan.uses / donors)} filters a donor on the average, "
        f"{count(int(sharers.max()))} at most; {percent(float((sharers == 1).mean()))} of the donors serve one filter"
    )


def _part(plan: LayerPlan, groups: int, filters: int) -> str:
    parts = []
    if groups < plan.groups:
        parts.append(f"{count(groups)} of {count(plan.groups)} row groups, evenly spaced")
    if filters < plan.filters:
        parts.append(f"the first {count(filters)} of {count(plan.filters)} filters")
    return " and ".join(parts)


def plain(maps: Sequence[ReuseMap]) -> list[dict[str, Any]]:
    """For the page's script."""
    return [vars(each) for each in maps]
