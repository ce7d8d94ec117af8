"""Which filters share which donors, with which gains: read from the plans of a run, packed so that a page stays small.

A layer that has too many uses for its share of the page is shown by some of its row groups, evenly spaced, each with
all its filters; sums are over the whole layer. The method that the page is about, the last, is served first.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.report.html.frame import pack_json
from prap_pim.report.quantities import count, percent, significant

_LAST = 0.7  # of the room for all maps: what the last method's maps may take before the others'
_SAMPLE = 16  # row groups that tell how many characters one takes


@dataclass(frozen=True)
class ReuseMap:
    """One layer under one method.

    Attributes:
        method, layer: names.
        summary: the whole layer, in words.
        part: which part of it is here, in words; empty: all of it.
        command: what a user types for all of it.
        gains: of the whole layer: gain, uses, share of them.
        filters: of the layer.
        gain_names: gains that occur, the most frequent first.
        most: filters that share one donor, at most.
        start: place in ``groups`` and filter of the first use of the donor that most filters share.
        groups: numbers of the row groups that are here.
        uses: of each of these three lists, an item for each use: by how much the filter's number is larger than that
            of the use before (of the first: than -1; 0: the same filter again), donor of the row group, number of its
            gain.
    """

    method: str
    layer: str
    summary: str
    part: str
    command: str
    gains: list[tuple[str, str, str]]
    filters: int
    gain_names: list[str]
    most: int
    start: tuple[int, int]
    groups: list[int]
    uses: list[tuple[list[int], list[int], list[int]]]


@dataclass(frozen=True)
class Packed:
    """A map as a page carries it.

    Attributes:
        method, layer: names.
        sharing: uses of a donor, on the average.
        data: a ``ReuseMap``, packed.
    """

    method: str
    layer: str
    sharing: float
    data: Markup


@dataclass(frozen=True)
class ReuseMaps:
    """All maps of a page.

    Attributes:
        maps: in the order of methods and layers.
        left_out: method and layer for which there was no room.
    """

    maps: tuple[Packed, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


def reuse_maps(plans: Mapping[str, NetworkPlan], room: int, only: Sequence[tuple[str, str]] = ()) -> ReuseMaps:
    """Of every layer, in each plan that shares any pattern.

    Args:
        plans: by method.
        room: characters that all maps together may take.
        only: method and layer of the maps that are wanted; empty: all.

    Raises:
        UserError: a wanted one is not among the plans.
    """
    for method, layer in only:
        if method not in plans:
            raise UserError(f"no plan of a method {method!r} was read ({nearest(method, list(plans))})")
        if layer not in plans[method].layers:
            raise UserError(f"{method} has no layer {layer!r} ({nearest(layer, list(plans[method].layers))})")
    wanted = [
        (method, layer)
        for method, plan in plans.items()
        for layer in plan.layers
        if ((method, layer) in only if only else shares(plan))
    ]
    last = [each for each in wanted if each[0] == wanted[-1][0]]
    others = [each for each in wanted if each[0] != wanted[-1][0]]
    packed = _share_out(plans, last, int(_LAST * room) if others else room)
    packed |= _share_out(plans, others, room - sum(len(each.data) for each in packed.values() if each is not None))
    maps = tuple(found for each in wanted if (found := packed[each]) is not None)
    return ReuseMaps(maps, tuple(each for each in wanted if packed[each] is None))


def _share_out(
    plans: Mapping[str, NetworkPlan], wanted: Sequence[tuple[str, str]], room: int
) -> dict[tuple[str, str], Packed | None]:
    """Maps in so many characters: the smaller ones are whole, the larger ones have the rest in equal shares."""
    packed: dict[tuple[str, str], Packed | None] = {}
    by_uses = sorted(wanted, key=lambda each: plans[each[0]].layers[each[1]].uses)
    for number, (method, layer) in enumerate(by_uses):
        found = _packed(method, plans[method].layers[layer], room // (len(wanted) - number))
        room -= len(found.data) if found is not None else 0
        packed[method, layer] = found
    return packed


def shares(plan: NetworkPlan) -> bool:
    """Whether any donor of any layer serves several filters."""
    return any(len(layer.donors) < layer.uses for layer in plan.layers.values())


def _packed(method: str, plan: LayerPlan, share: int) -> Packed | None:
    """With as many row groups as have room in ``share`` characters; None: not even one has."""
    groups = plan.groups
    if groups > _SAMPLE:
        each = len(_pack(method, plan, _SAMPLE)) / _SAMPLE
        groups = max(1, min(groups, int(share / each)))
    data = _pack(method, plan, groups)
    while len(data) > share:
        if groups == 1:
            return None
        groups = max(1, min(groups - 1, int(0.98 * groups * share / len(data))))
        data = _pack(method, plan, groups)
    return Packed(method, plan.name, plan.uses / max(1, len(plan.donors)), data)


def _pack(method: str, plan: LayerPlan, groups: int) -> Markup:
    return pack_json(vars(reuse_map(method, plan, groups)))


def reuse_map(method: str, plan: LayerPlan, groups: int | None = None) -> ReuseMap:
    """Of one layer, with so many of its row groups; None: all."""
    shown = _spaced(plan.groups, plan.groups if groups is None else groups)
    codes = plan.use_sign.astype(np.int64) * 256 + plan.use_exponent  # unlike for unlike gains
    found, first, gain, times = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(-times, kind="stable")
    names = [_gain(int(plan.use_sign[first[i]]), int(plan.use_exponent[first[i]])) for i in order]
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    sharers = np.bincount(plan.use_donor, minlength=max(1, len(plan.donors)))
    uses, start, most = [], (0, 0), 0
    for place, group in enumerate(shown):
        these = slice(int(plan.use_start[group]), int(plan.use_start[group + 1]))
        filters, donors = plan.use_filter[these], plan.use_donor[these]
        if len(donors) and (here := int(sharers[donors].max())) > most:
            most, start = here, (place, int(filters[int(sharers[donors].argmax())]))
        local = donors - plan.donor_start[group]
        uses.append((np.diff(filters, prepend=-1).tolist(), local.tolist(), rank[gain[these]].tolist()))
    return ReuseMap(
        method=method,
        layer=plan.name,
        summary=_summary(plan, sharers),
        part=_part(plan, len(shown)),
        command=f"prap-pim report RUN --reuse {shlex.quote(method)} {shlex.quote(plan.name)} --output reuse.html",
        gains=[
            (name, count(int(times[i])), percent(times[i] / len(codes))) for name, i in zip(names, order, strict=True)
        ],
        filters=plan.filters,
        gain_names=names,
        most=int(sharers.max()),
        start=start,
        groups=shown,
        uses=uses,
    )


def _spaced(whole: int, part: int) -> list[int]:
    """So many numbers of 0..whole - 1, evenly spaced, the first and the last among them."""
    if part >= whole:
        return list(range(whole))
    return sorted({round(i * (whole - 1) / max(1, part - 1)) for i in range(part)})


def _gain(sign: int, exponent: int) -> str:
    size = str(2**exponent) if exponent >= 0 else f"1/{2**-exponent}"
    return f"{'+' if sign > 0 else '−'}{size}"


def _summary(plan: LayerPlan, sharers: NDArray[np.int64]) -> str:
    donors = len(plan.donors)
    told = f"{count(donors)} donors serve {count(plan.uses)} uses of {count(plan.filters)} filters"
    if not donors:
        return f"{told}; nothing is left of this layer"
    return (
        f"{told} in {count(plan.groups)} row groups: {significant(plan.uses / donors)} filters a donor on the average, "
        f"{count(int(sharers.max()))} at most; {percent(float((sharers == 1).mean()))} of the donors serve one filter"
    )


def _part(plan: LayerPlan, groups: int) -> str:
    if groups == plan.groups:
        return ""
    told = f"{count(groups)} of the layer's {count(plan.groups)} row groups, evenly spaced"
    return f"{told}, each with all {count(plan.filters)} filters"
