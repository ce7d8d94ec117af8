"""Similarity-based reuse: step 2 of PRAP (Shen et al., High-Confidence Computing 2023).

A filter need not store a weight pattern that is close to a power of two times another filter's. The filters with the
largest patterns are donors; every other filter takes the donor, and the power of two, that come closest.
"""

from functools import cache
from math import floor
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.parallel import over_ranges
from prap_pim.common.settings import Settings
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternArrays, PatternSet, ReuseMap
from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN
from prap_pim.methods.arguments import checked_count, checked_share, checked_weight, read_only
from prap_pim.methods.reuse.base import reuse_method

Float32 = NDArray[np.float32]
Real = NDArray[np.float32] | NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

_FINEST_PER_MAX = np.float32(127 * 256)  # the largest |weight| becomes 127 int8 steps of 256 each
_TILE = 512  # reusers matched at a time, so that they stay in the first-level cache
_LARGEST_EXPONENT = 40  # no ratio of two patterns comes near 2**40
_MOST_ROWS = 1 << 15  # of a group in similar_reuse
# A distance is at most (1 + sqrt(2)) * |x|_1, and |x|_1 at most 127 * 256 * rows: up to this many rows that is below
# 2**24 and float32 holds every sum exactly; wider patterns are matched in float64
_ROWS_EXACT_IN_FLOAT32 = 128


class SimilarReuse(Settings):
    """Attributes:
    keep: floor(filters * keep) filters of a block, at least one, are donors; fewer where that many patterns are not
        nonzero. (By the paper's rule none is where the floor is 0, and the block is lost: a convolution group may have
        two or three filters, the paper's layers have at least 10.)
    """

    kind: Literal["similar"] = "similar"
    keep: float = Field(gt=0, le=1)


@reuse_method.register
def _(config: SimilarReuse, layer: Layer, patterns: PatternSet, grain: Grain) -> ReuseMap:
    # A scale above 2**EXPONENT_MAX is limited to it, and judged by its distance like any other. It takes an OU of more
    # than 40 rows to see that: a reuser is no larger than the donor before rounding, |y|_1 + 128 a row, while the
    # distance is at least |x|_1 - 2**7 |y|_1 with |x|_1 > 2**7.5 |y|_1; in narrower OUs "nothing" is always nearer.
    donors = max(1, floor(patterns.filters * config.keep))
    source, scale = _match_all(layer.matrix, patterns, donors, EXPONENT_MAX)
    exponent = np.where(source >= 0, np.frexp(scale)[1] - 1, 0)
    return ReuseMap(source, np.ones(source.shape, np.int8), exponent.astype(np.int8))


def similar_reuse(weight: Float32, mask: NDArray[Any] | None, group_channels: Any, keep: Any) -> tuple[Int32, Float32]:
    """Who reuses whose pattern, and with which scale (PRAP, step 2).

    Args:
        weight: float32 [O, C, kh, kw] or [O, C].
        mask: of the same shape, 1 (or True) where a weight is kept: ``pattern_mask``'s; None keeps all.
        group_channels: input channels of a group; the last group is smaller when it does not divide C.
        keep: in 0..1; floor(O * keep) filters of a group are donors.

    Returns:
        source: int32 [O, G], the filter whose pattern a filter takes: itself for a donor, -1 for nothing.
        scale: float32 [O, G], the factor, a power of two of at least 2**-8; 1 for a donor, 0 for nothing.

    Raises:
        UserError: an argument is not as above, or ``weight`` holds NaN or infinity.
    """
    kernels = checked_weight(weight)
    filters, channels, positions = kernels.shape
    group = checked_count("group_channels", group_channels)
    share = checked_share("keep", keep)
    if min(group, channels) * positions > _MOST_ROWS:
        raise UserError(f"a group of {min(group, channels) * positions} rows is too large: {_MOST_ROWS} are allowed")
    kept = _checked_mask(mask, weight).reshape(filters, -1)
    edges = np.append(np.arange(0, channels, group), channels) * positions
    donors = floor(filters * share)
    return _match_all(kernels.reshape(filters, -1), _patterns_of(kept, edges), donors, _LARGEST_EXPONENT)


def _checked_mask(mask: Any, weight: Float32) -> NDArray[np.uint8]:
    if mask is None:
        return np.ones(weight.shape, np.uint8)
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "buif":
        raise UserError("mask must be a NumPy array of zeros and ones")
    if mask.shape != weight.shape:
        raise UserError(f"mask must have the shape of weight, {weight.shape}, not {mask.shape}")
    if mask.dtype == np.bool_:
        return np.ascontiguousarray(mask).view(np.uint8)
    if (mask.max() > 1) if mask.dtype == np.uint8 else not np.isin(mask, (0, 1)).all():
        raise UserError("mask must hold zeros and ones only")
    return np.ascontiguousarray(mask, np.uint8)


def _patterns_of(mask: NDArray[np.uint8], edges: Int64) -> PatternSet:
    """The pattern set of a mask [O, inputs]: block b is inputs edges[b] .. edges[b + 1], its shapes those it shows."""
    filters, inputs = mask.shape
    blocks = len(edges) - 1
    shape = np.empty((filters, blocks), np.int32)  # first counted within the block
    counts = np.empty(blocks, np.int64)
    widest = np.empty(blocks, np.int64)
    over_ranges(blocks, lambda first, end: _distinct(mask, edges, first, end, shape, counts, widest))
    block_start = np.append(0, np.cumsum(counts))
    shape += block_start[:-1].astype(np.int32)
    rows = np.full((block_start[-1], widest.max()), -1, np.int32)
    over_ranges(blocks, lambda first, end: _list_rows(mask, edges, first, end, shape, rows))
    return PatternSet(inputs, rows, block_start, shape)


def _match_all(matrix: Float32, patterns: PatternSet, donors: int, largest_exponent: int) -> tuple[Int32, Float32]:
    """Step 2 on [O, inputs]: source int32 and scale float32 [O, B], scales limited to 2**largest_exponent.

    A filter without a shape in a block (-1) neither gives nor takes there.
    """
    matrix = read_only(matrix)
    source = np.full(patterns.shape.shape, -1, np.int32)
    scale = np.zeros(patterns.shape.shape, np.float32)
    step = max(matrix.max(), -matrix.min()) / _FINEST_PER_MAX  # float32
    if step > 0:  # else all weights are zero (or too small for float32 to tell from it): nothing is computed
        limits: Real = _ratio_limits(largest_exponent)
        if patterns.rows.shape[1] > _ROWS_EXACT_IN_FLOAT32:
            limits = limits.astype(np.float64)
        over_ranges(
            patterns.blocks,
            lambda first, end: _match(matrix, step, patterns.arrays, donors, limits, first, end, (source, scale)),
        )
    return source, scale


@cache
def _ratio_limits(largest_exponent: int) -> Float32:
    """The least float32 ratio that round(log2(ratio)) takes to EXPONENT_MIN + 1, + 2, ... largest_exponent.

    They lie near 2**(k - 1/2), but not on it: log2 in float32 comes out as exactly k - 1/2 for several ratios, and
    round takes that to the even one of k - 1 and k. A table also does not depend on anybody's logarithm: float64's is
    far more accurate than float32 can tell.
    """
    exponents = np.arange(EXPONENT_MIN + 1, largest_exponent + 1)
    middle = np.exp2(exponents - 0.5).astype(np.float32)
    ratios = (middle.view(np.int32)[:, None] + np.arange(-64, 65, dtype=np.int32)).view(np.float32)  # neighbours
    reached = np.rint(np.log2(ratios.astype(np.float64)).astype(np.float32)) >= exponents[:, None]
    limits: Float32 = ratios[np.arange(len(exponents)), reached.argmax(axis=1)]
    return limits


# numpy's error model: the default's test for a zero divisor would keep loops from being vectorised
@njit(cache=True, nogil=True, error_model="numpy")
def _match(
    matrix: Float32,
    step: np.float32,
    patterns: PatternArrays,
    wanted: int,
    limits: Real,
    first: int,
    end: int,
    taken: tuple[Int32, Float32],
) -> None:
    """Step 2 for blocks first .. end, in the precision of ``limits``.

    Quantised weights and what is made of them are integers, so sums are exact in any order.
    """
    (rows, block_start, shape), (source, scale) = patterns, taken
    filters, height = len(matrix), rows.shape[1]
    real = limits.dtype
    number = np.full(matrix.shape[1], -1, np.int32)
    ratio, gain = np.empty(_TILE, np.float32), np.empty(_TILE, real)
    distance, least = np.empty(_TILE, real), np.empty(_TILE, real)
    nearest, nearest_gain = np.empty(_TILE, np.int32), np.empty(_TILE, real)
    for block in range(first, end):
        low, shapes = block_start[block], block_start[block + 1] - block_start[block]
        used, place, count = _rows_in_use(rows[low : low + shapes], number)
        q = np.empty((filters, len(used)), real)  # quantised, [filter, row in use]
        for o in range(filters):
            for r in range(len(used)):
                q[o, r] = np.rint(matrix[o, used[r]] / step)
        own = np.zeros(filters, real)  # L1 under the filter's own shape
        for o in range(filters):
            s = shape[o, block] - low
            if s >= 0:
                for i in range(count[s]):
                    own[o] += abs(q[o, place[s, i]])
        order = np.argsort(-own, kind="mergesort")  # stable

        donor = np.zeros((wanted, height), real)  # on the int8 grid, in units of q
        donor_l1 = np.zeros(wanted, real)
        donors = 0
        while donors < wanted:
            o = order[donors]
            s = shape[o, block] - low
            if s >= 0:
                for i in range(count[s]):
                    donor[donors, i] = 256 * np.rint(q[o, place[s, i]] / 256)
                    donor_l1[donors] += abs(donor[donors, i])
            if donor_l1[donors] == 0:
                break
            source[o, block] = o
            scale[o, block] = 1
            donors += 1

        others = order[donors:]
        x = np.empty((len(used), len(others)), real)
        for r in range(len(used)):
            for j in range(len(others)):
                x[r, j] = q[others[j], r]
        # of the tile's reusers under a shape, as far as known: L1 and its extremes
        l1, lowest, highest = np.empty((shapes, _TILE), real), np.empty(shapes, real), np.empty(shapes, real)
        known = np.empty(shapes, np.bool_)
        for start in range(0, len(others), _TILE):
            size = min(_TILE, len(others) - start)
            known[:] = False
            least[:size] = np.inf
            nearest_gain[:size] = 0
            for d in range(donors):
                s = shape[order[d], block] - low
                total = l1[s]
                if not known[s]:
                    known[s] = True
                    total[:size] = 0
                    for i in range(count[s]):
                        row = x[place[s, i], start : start + size]
                        for j in range(size):
                            total[j] += abs(row[j])
                    lowest[s], highest[s] = total[:size].min(), total[:size].max()
                _gains(total[:size], lowest[s], highest[s], donor_l1[d], limits, ratio, gain)
                distance[:size] = 0
                for i in range(count[s]):
                    value = donor[d, i]
                    row = x[place[s, i], start : start + size]
                    for j in range(size):
                        distance[j] += abs(value * gain[j] - row[j])
                for j in range(size):
                    better = distance[j] < least[j]  # of equals the earlier donor stays
                    least[j] = distance[j] if better else least[j]
                    nearest_gain[j] = gain[j] if better else nearest_gain[j]
                    nearest[j] = np.int32(d) if better else nearest[j]
            for j in range(size):
                o = others[start + j]
                if nearest_gain[j] > 0 and least[j] <= own[o] and shape[o, block] >= 0:
                    source[o, block] = order[nearest[j]]
                    scale[o, block] = nearest_gain[j]


@njit(cache=True, nogil=True, error_model="numpy")
def _gains(l1: Real, least: float, most: float, donor_l1: float, limits: Real, ratio: Float32, gain: Real) -> None:
    """gain[j] = 2**round(log2(l1[j] / donor_l1)), at least 2**EXPONENT_MIN, at most what limits reaches; 0 for 0.

    ``least`` and ``most`` are the extremes of ``l1``: they bound the limits that have to be tried, few of them.
    """
    for j in range(len(l1)):
        ratio[j] = l1[j] / donor_l1
    smallest, largest = np.float32(least / donor_l1), np.float32(most / donor_l1)
    k = 0
    while k < len(limits) and limits[k] <= smallest:
        k += 1
    gain[: len(l1)] = 2.0 ** (EXPONENT_MIN + k)
    for j in range(len(l1)):
        gain[j] = gain[j] if ratio[j] > 0 else ratio[j]
    while k < len(limits) and limits[k] <= largest:
        limit = np.float32(limits[k])
        power = limits.dtype.type(2.0 ** (EXPONENT_MIN + k + 1))
        for j in range(len(l1)):
            gain[j] = power if ratio[j] >= limit else gain[j]
        k += 1


@njit(cache=True, nogil=True)
def _rows_in_use(shapes: Int32, number: Int32) -> tuple[Int32, Int32, Int64]:
    """The rows that some shape [S, h] has, each once; where a shape's rows are among them; each shape's length.

    ``number``, -1 for every row of the layer, is scratch and left as it was.
    """
    used = np.empty(shapes.size, np.int32)
    place = np.zeros(shapes.shape, np.int32)
    count = np.zeros(len(shapes), np.int64)
    n = 0
    for s in range(len(shapes)):
        for row in shapes[s]:
            if row >= 0:
                if number[row] < 0:
                    number[row] = n
                    used[n] = row
                    n += 1
                place[s, count[s]] = number[row]
                count[s] += 1
    for i in range(n):
        number[used[i]] = -1
    return used[:n], place, count


@njit(cache=True, nogil=True)
def _distinct(
    mask: NDArray[np.uint8], edges: Int64, first: int, end: int, shape: Int32, counts: Int64, widest: Int64
) -> None:
    """Number the different masks of blocks first .. end in the order in which filters show them."""
    filters = len(mask)
    owner = np.empty(filters, np.int64)  # the first filter with a shape
    for block in range(first, end):
        low, high = edges[block], edges[block + 1]
        distinct = 0
        widest[block] = 0
        for o in range(filters):
            s = 0
            while s < distinct:
                row = low
                while row < high and mask[o, row] == mask[owner[s], row]:
                    row += 1
                if row == high:
                    break
                s += 1
            if s == distinct:
                owner[s] = o
                distinct += 1
                widest[block] = max(widest[block], mask[o, low:high].sum())
            shape[o, block] = s
        counts[block] = distinct


@njit(cache=True, nogil=True)
def _list_rows(mask: NDArray[np.uint8], edges: Int64, first: int, end: int, shape: Int32, rows: Int32) -> None:
    """Write the rows of every shape of blocks first .. end, ascending."""
    for block in range(first, end):
        last = -1  # shapes are numbered in the order of the filters that show them first
        for o in range(len(mask)):
            if shape[o, block] > last:
                last = shape[o, block]
                n = 0
                for row in range(edges[block], edges[block + 1]):
                    if mask[o, row]:
                        rows[last, n] = row
                        n += 1
