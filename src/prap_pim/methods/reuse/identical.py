"""Reuse of (nearly) identical patterns, after PattPIM (Zhang et al., DAC 2020; TCAD 2022).

Patterns are compared as the int8 integers that would be stored. A filter whose pattern is near enough to a donor's
takes it as it is, without a gain; one that is near enough to zero is not computed at all.
"""

from math import floor
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from prap_pim.common.parallel import over_ranges
from prap_pim.common.settings import Settings
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternArrays, PatternSet, ReuseMap, shared_step
from prap_pim.methods.reuse.base import reuse_method

Int8 = NDArray[np.int8]
Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

_TILE = 512  # filters compared at a time, so that they stay in the first-level cache


class IdenticalReuse(Settings):
    """Attributes:
    threshold: theta. In each block the filters are ordered by the L1 norm of their int8 pattern, descending (of equals
        the lower filter). tau, the L1 distance that is near enough, is the norm of the filter that floor(filters *
        theta) others come before. In that order each filter takes the nearest of the donors so far, or "nothing" (the
        zero pattern), if it is at most tau away (of equals the earlier donor, "nothing" last); else it becomes a donor.

    So at least the share 1 - theta of a block's filters, those with the smallest patterns, is near enough to nothing.
    1 makes tau 0: as integers of one step for the whole layer, equal patterns are shared and zero ones dropped; where
    nothing is shared, what is left is stored with a step per filter. A theta below 1 / filters makes tau the largest
    norm: all are near enough to nothing, and nothing is computed.

    Where filters have different shapes in a block, a filter is compared on the donor's rows and takes its shape, as in
    ``SimilarReuse``; its norm and its distance to "nothing" are those under its own shape.
    """

    kind: Literal["identical"] = "identical"
    threshold: float = Field(gt=0, le=1)


@reuse_method.register
def _(config: IdenticalReuse, layer: Layer, patterns: PatternSet, grain: Grain) -> ReuseMap:
    matrix, step = layer.matrix, shared_step(layer.matrix)
    stored = np.empty(matrix.shape, np.int8)

    def quantise(first: int, end: int) -> None:  # as a plan does
        stored[first:end] = np.rint(matrix[first:end].astype(np.float64) / step)

    over_ranges(patterns.filters, quantise)
    rank = floor(patterns.filters * config.threshold)
    source = np.full(patterns.shape.shape, -1, np.int32)

    def merge(first: int, end: int) -> None:
        # a distance is at most 2 * 127 * rows of an OU, far below 2**24: float32 holds every sum exactly
        _merge(stored, patterns.arrays, rank, np.empty(_TILE, np.float32), first, end, source)

    over_ranges(patterns.blocks, merge)
    return ReuseMap(source, np.ones(source.shape, np.int8), np.zeros(source.shape, np.int8))


# numpy's error model: the default's test for a zero divisor would keep loops from being vectorised
@njit(cache=True, nogil=True, error_model="numpy")
def _merge(
    stored: Int8, patterns: PatternArrays, rank: int, distance: Float32, first: int, end: int, source: Int32
) -> None:
    """Sources of blocks first .. end. Values are integers, so sums are exact; ``distance`` is scratch of their type."""
    rows, block_start, shape = patterns
    filters = len(shape)
    real = distance.dtype
    number = np.full(stored.shape[1], -1, np.int32)  # of a row, among those that the block uses
    used = np.empty(stored.shape[1], np.int32)
    for block in range(first, end):
        count = 0
        for s in range(block_start[block], block_start[block + 1]):
            for row in rows[s]:
                if row >= 0 and number[row] < 0:
                    number[row] = count
                    used[count] = row
                    count += 1
        norm = np.zeros(filters, real)  # L1 under the filter's own shape
        for o in range(filters):
            if shape[o, block] >= 0:
                for row in rows[shape[o, block]]:
                    if row >= 0:
                        norm[o] += abs(stored[o, row])
        order = np.argsort(-norm, kind="mergesort")  # stable
        limit = norm[order[rank]] if rank < filters else real.type(0)
        x = np.empty((count, filters), real)  # [row in use, filter in order]
        for j in range(filters):
            for r in range(count):
                x[r, j] = stored[order[j], used[r]]

        # of the donors so far, the nearest to each filter; a filter's turn comes when all that precede it are settled
        least = np.full(filters, np.inf, real)
        nearest = np.full(filters, -1, np.int32)
        for turn in range(filters):
            o = order[turn]
            if shape[o, block] < 0:
                continue
            if min(least[turn], norm[o]) <= limit:
                source[o, block] = nearest[turn] if least[turn] <= norm[o] else -1
                continue
            source[o, block] = o
            for start in range(turn + 1, filters, _TILE):
                size = min(_TILE, filters - start)
                distance[:size] = 0
                for row in rows[shape[o, block]]:
                    if row >= 0:
                        values = x[number[row], start : start + size]
                        value = x[number[row], turn]
                        for j in range(size):
                            distance[j] += abs(values[j] - value)
                best, donor = least[start : start + size], nearest[start : start + size]
                for j in range(size):
                    nearer = distance[j] < best[j]  # of equals the earlier donor stays
                    best[j] = distance[j] if nearer else best[j]
                    donor[j] = np.int32(o) if nearer else donor[j]
        for r in range(count):
            number[used[r]] = -1
