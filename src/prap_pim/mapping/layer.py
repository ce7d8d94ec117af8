"""One layer's OUs on crossbars: contiguous ranges in row-group order, so that few input-register loads are needed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan

Int64 = NDArray[np.int64]
Mode = Literal["spread", "pack"]


@dataclass(frozen=True, eq=False)
class LayerMapping:
    """The OUs of one layer on N crossbars. G row groups, T OUs, X runs.

    A group of K patterns fills ``grain.of_bits(plan.weight_bits).ous(K)`` OUs; its patterns lie side by side in them,
    in the order of the plan's donors. OUs are numbered row group after row group; a crossbar holds a range of them and
    walks it in order. A *run* is a stretch of OUs of one row group on one crossbar: the input registers are loaded once
    for it.

    Attributes:
        plan: what is mapped.
        group_start: int64 [G + 1]; the OUs of group g are group_start[g] : group_start[g + 1].
        crossbar_start: int64 [N + 1]; the OUs of crossbar c are crossbar_start[c] : crossbar_start[c + 1].
        run_group, run_crossbar, run_ous: int64 [X], a run's row group, crossbar and number of OUs, in OU order.
        crossbars_per_pe, crossbars_per_tile: crossbar c sits in PE c // crossbars_per_pe, and likewise its tile.
        copies: times that all of this is built. Each copy has its own PEs; copies that fit share a tile, a copy that
            is larger has tiles of its own. The copies share the layer's output positions.
    """

    plan: LayerPlan
    group_start: Int64
    crossbar_start: Int64
    run_group: Int64
    run_crossbar: Int64
    run_ous: Int64
    crossbars_per_pe: int
    crossbars_per_tile: int
    copies: int = 1

    @property
    def ous(self) -> int:
        """T, OUs that hold weights, of one copy."""
        return int(self.group_start[-1])

    @property
    def crossbars(self) -> int:
        """N, of one copy."""
        return len(self.crossbar_start) - 1

    @property
    def pes(self) -> int:
        """PEs that the crossbars of one copy fill, the last one perhaps in part."""
        return -(-self.crossbars // self.crossbars_per_pe)

    @property
    def tiles(self) -> int:
        """Tiles that one copy reaches into."""
        return -(-self.crossbars // self.crossbars_per_tile)

    @property
    def copies_per_tile(self) -> int:
        """Copies that a tile has room for; 1 if a copy fills it, or more than it."""
        return max(1, self.crossbars_per_tile // self.crossbars_per_pe // self.pes)

    def output_tiles(self, copies: int) -> int:
        """Tiles in which so many copies begin: each finishes the outputs of its copies."""
        return -(-copies // self.copies_per_tile)

    @property
    def total_crossbars(self) -> int:
        """Crossbars of all copies."""
        return self.crossbars * self.copies

    @property
    def total_pes(self) -> int:
        """PEs of all copies."""
        return self.pes * self.copies

    @property
    def total_tiles(self) -> int:
        """Tiles of all copies; no other layer has a part of them."""
        return self.output_tiles(self.copies) * self.tiles

    @property
    def ous_per_crossbar(self) -> Int64:
        """Load of each crossbar, int64 [N]."""
        return np.diff(self.crossbar_start)

    def donor_crossbar(self, grain: Grain) -> Int64:
        """The crossbar on which a donor's result is complete (that of its last OU), int64 [D]; of the plan's grain."""
        plan, columns_per_weight, ou_columns = self.plan, grain.columns_per_weight, grain.ou_columns
        if columns_per_weight == ou_columns:  # one donor, one OU
            first_donor = self.crossbar_start
        else:
            within = np.arange(len(plan.donors)) - plan.donor_start[plan.donor_group]
            last_ou = self.group_start[plan.donor_group] + ((within + 1) * columns_per_weight - 1) // ou_columns
            first_donor = np.searchsorted(last_ou, self.crossbar_start)
        return np.repeat(np.arange(self.crossbars), np.diff(first_donor))


def ous_per_group(plan: LayerPlan, chip: Chip) -> Int64:
    """OUs of each row group, int64 [G]: ``grain.ous`` for all groups at once.

    Raises:
        UserError: the plan's weights have more bits than the chip's.
    """
    grain = chip.grain.of_bits(plan.weight_bits)
    return -(-plan.donors_per_group * grain.columns_per_weight // grain.ou_columns)


def fewest_crossbars(plan: LayerPlan, chip: Chip) -> int:
    """Crossbars that hold a layer when they are filled; 1 for a layer without weights."""
    return max(1, -(-int(ous_per_group(plan, chip).sum()) // chip.ous_per_crossbar))


def map_layer(plan: LayerPlan, chip: Chip, crossbars: int | None = None, mode: Mode = "spread") -> LayerMapping:
    """Lay a layer's OUs on crossbars.

    Args:
        plan: the layer.
        chip: gives the sizes.
        crossbars: a budget to map on instead of what the dense plan takes.
        mode: "spread": all ``crossbars``, loads balanced to within one OU: freed OUs shorten every crossbar's walk.
            "pack": the fewest crossbars that are no slower than the dense plan on ``crossbars``, each filled up to the
            dense plan's load: freed OUs empty crossbars. It is one or the other, never both.

    A plan with more OUs than the dense plan's crossbars hold (irregular pruning can end so) fills as many as it needs,
    unless a budget was given.

    Raises:
        UserError: the plan's patterns do not have the OU's rows, its weights have more bits than the chip's, or the
            budget is too small.
    """
    grain = chip.grain
    if plan.rows.shape[1] != grain.ou_rows:
        raise UserError(
            f"layer {plan.name}: patterns of {plan.rows.shape[1]} weights do not fit OUs of {grain.ou_rows} rows"
        )
    if crossbars is not None and crossbars < 1:
        raise UserError(f"layer {plan.name}: a budget of {crossbars} crossbars; at least 1 is needed")
    group_start = np.concatenate([[0], np.cumsum(ous_per_group(plan, chip))]).astype(np.int64)
    total, capacity = int(group_start[-1]), chip.ous_per_crossbar
    if crossbars is not None and total > crossbars * capacity:
        raise UserError(
            f"layer {plan.name}: {total} OUs do not fit {crossbars} crossbars of {capacity}; "
            f"at least {-(-total // capacity)} are needed"
        )
    dense = grain.dense_ous(plan.inputs, plan.filters, plan.convolution_groups)
    count = crossbars if crossbars is not None else -(-dense // capacity)
    if mode == "pack":
        starts = _filled(total, max(min(capacity, -(-dense // count)), -(-total // crossbars) if crossbars else 1))
    elif total > count * capacity:  # overflow: full crossbars, or more OUs would make a layer faster
        starts = _filled(total, capacity)
    else:
        starts = _balanced(total, count)

    # a run ends where a row group or a crossbar ends
    edges = np.unique(np.concatenate([group_start, starts]))
    first = edges[:-1]
    return LayerMapping(
        plan=plan,
        group_start=group_start,
        crossbar_start=starts,
        run_group=np.searchsorted(group_start, first, side="right") - 1,
        run_crossbar=np.searchsorted(starts, first, side="right") - 1,
        run_ous=np.diff(edges),
        crossbars_per_pe=chip.crossbars_per_pe,
        crossbars_per_tile=chip.crossbars_per_tile,
    )


def _balanced(total: int, count: int) -> Int64:
    """Borders of ``count`` consecutive ranges of 0..total whose lengths differ by at most 1, the longer first."""
    length, longer = divmod(total, count)
    borders = np.arange(count + 1, dtype=np.int64)
    return borders * length + np.minimum(borders, longer)


def _filled(total: int, load: int) -> Int64:
    """Borders of as few consecutive ranges of 0..total as hold at most ``load`` each; one empty range if total is 0."""
    return np.append(np.arange(0, max(total, 1), load), total).astype(np.int64)
