"""Pattern (shape) pruning: step 1 of PRAP (Shen et al., High-Confidence Computing 2023).

A group of n input channels keeps p positions of each kernel, the same p for the n channels, so that a filter's weights
in a group, n * p of them, fill one OU row group. Few different shapes (8) are allowed per group, so that many filters
can share a row group. A kernel of one position has no shape: there, ou_rows of the group's inputs are kept.
"""

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
from prap_pim.ir.patterns import PatternSet
from prap_pim.methods.arguments import checked_count, checked_weight, read_only
from prap_pim.methods.prune.base import prune_method

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

_KEPT = 4  # positions of a kernel, of 9 in most networks


class PatternPruning(Settings):
    """Attributes:
    group_channels: n, input channels that share a shape, for kernels of more than one position; ou_rows / n positions
        of a kernel are kept. The paper uses 1, 2 and 4. None: as many as fill an OU with 4 positions of each, as 2
        channels do an OU of 8 rows; where 4 is not possible, with the number next to it.
    pointwise_group: inputs of which ou_rows are kept, for 1x1 convolutions and linear layers; with 8 rows in an OU, 8
        prunes nothing and 32 keeps a quarter. None: twice the OU's rows, so that half is kept.
    shapes: the most shapes that a channel group may have.
    """

    kind: Literal["pattern"] = "pattern"
    group_channels: int | None = Field(default=None, ge=1, le=4096)
    pointwise_group: int | None = Field(default=None, ge=1, le=4096)
    shapes: int = Field(default=8, ge=1, le=65536)


@prune_method.register
def _(config: PatternPruning, layer: Layer, grain: Grain) -> PatternSet:
    kernels = layer.weight.reshape(layer.filters, layer.weight.shape[1], -1)
    positions = kernels.shape[2]
    if positions == 1:
        width = 2 * grain.ou_rows if config.pointwise_group is None else config.pointwise_group
        if width % grain.ou_rows:
            raise UserError(
                f"layer {layer.name}: pointwise_group ({width}) must be a multiple of the OU's {grain.ou_rows} rows"
            )
        return _patterns(kernels, width, 1, config.shapes, grain.ou_rows)
    fitting = fitting_groups(positions, grain)
    group = config.group_channels
    if group is None:
        group = min(fitting, key=lambda n: abs(grain.ou_rows // n - _KEPT))
    if group not in fitting:
        raise UserError(
            f"layer {layer.name}: group_channels ({group}) does not fit its kernel of {positions} "
            f"positions and an OU of {grain.ou_rows} rows (allowed: {', '.join(map(str, fitting))})"
        )
    return _patterns(kernels, group, grain.ou_rows // group, config.shapes, grain.ou_rows)


def fitting_groups(positions: int, grain: Grain) -> list[int]:
    """Numbers of channels, ascending, that fill an OU's rows with equally many positions of a kernel of ``positions``
    each."""
    return [n for n in range(1, grain.ou_rows + 1) if grain.ou_rows % n == 0 and grain.ou_rows // n <= positions]


def pattern_mask(
    weight: Float32, group_channels: Any, kept_positions: Any, shapes: Any = 8, rows: Any = 8
) -> NDArray[np.uint8]:
    """Which weights pattern pruning keeps (PRAP, step 1).

    Args:
        weight: float32 [O, C, kh, kw] or [O, C].
        group_channels: n, input channels of a group; the last group is smaller when n does not divide C.
        kept_positions: p, positions kept of each kernel; of no effect (None or 1) for 1x1 kernels and [O, C].
        shapes: the most shapes that a group may have.
        rows: weights of a pattern; n * p must not exceed it.

    Returns:
        uint8, 1 where a weight is kept, of the shape of ``weight``.

    Raises:
        UserError: an argument is not as above, or ``weight`` holds NaN or infinity.
    """
    kernels = checked_weight(weight)
    group = checked_count("group_channels", group_channels)
    most, height = checked_count("shapes", shapes), checked_count("rows", rows)
    positions = kernels.shape[2]
    if positions == 1:
        kept = 1 if kept_positions is None else checked_count("kept_positions", kept_positions)
        if kept != 1:
            raise UserError(f"kept_positions must be 1 or None for a kernel of one position, not {kept}")
    else:
        kept = checked_count("kept_positions", kept_positions)
        if kept > positions:
            raise UserError(f"kept_positions ({kept}) exceeds the kernel's {positions} positions")
        if group * kept > height:
            raise UserError(
                f"group_channels * kept_positions ({group} * {kept}) exceeds the {height} rows of a pattern"
            )
    patterns = _patterns(kernels, group, kept, most, height)
    mask = np.zeros((patterns.filters, patterns.inputs), np.uint8)
    over_ranges(patterns.filters, lambda first, end: _mark(patterns.rows, patterns.shape, mask, first, end))
    return mask.reshape(weight.shape)


def _patterns(kernels: Float32, group: int, kept: int, shapes: int, height: int) -> PatternSet:
    """Step 1 for kernels [O, C, positions]; a pattern has at most ``height`` weights."""
    kernels = read_only(kernels)
    if kernels.shape[2] == 1:
        return _of_inputs(kernels, group, height)
    return _of_positions(kernels, group, kept, shapes, height)


def _of_inputs(kernels: Float32, group: int, height: int) -> PatternSet:
    """Kernels of one position: a block is a group of inputs, its one shape those that matter most to all filters."""
    filters, channels, _ = kernels.shape
    matrix = kernels.reshape(filters, channels)
    importance = np.zeros(channels, np.float32)
    over_ranges(channels, lambda first, end: _sum_of_magnitudes(matrix, importance, first, end))
    starts = range(0, channels, group)
    rows = np.full((len(starts), height), -1, np.int32)
    for block, first in enumerate(starts):
        best = np.argsort(-importance[first : first + group], kind="stable")[:height]
        rows[block, : len(best)] = first + np.sort(best)
    block_of = np.arange(len(rows), dtype=np.int32)
    return PatternSet(channels, rows, np.arange(len(rows) + 1, dtype=np.int64), np.tile(block_of, (filters, 1)))


def _of_positions(kernels: Float32, group: int, kept: int, shapes: int, height: int) -> PatternSet:
    """Kernels of several positions: a block is a channel group, a shape its kept positions in each of the channels."""
    filters, channels, positions = kernels.shape
    blocks = -(-channels // group)
    candidates = np.zeros((blocks, shapes, kept), np.int32)  # positions, ascending
    counts = np.zeros(blocks, np.int64)
    choice = np.zeros((filters, blocks), np.int32)
    over_ranges(blocks, lambda first, end: _choose_shapes(kernels, group, kept, first, end, candidates, counts, choice))
    block_start = np.append(0, np.cumsum(counts))
    rows = np.full((block_start[-1], height), -1, np.int32)
    real = np.arange(shapes) < counts[:, None]  # [block, shape]
    block = np.nonzero(real)[0]  # of each shape
    for i in range(group):
        channel = block * group + i
        inside = channel < channels
        rows[inside, i * kept : (i + 1) * kept] = channel[inside, None] * positions + candidates[real][inside]
    return PatternSet(channels * positions, rows, block_start, choice + block_start[:-1].astype(np.int32))


@njit(cache=True, nogil=True)
def _sum_of_magnitudes(matrix: Float32, importance: Float32, first: int, end: int) -> None:
    """importance[i] = float32 sum over filters, in their order, of |matrix[:, i]|, for i in first .. end."""
    for o in range(len(matrix)):
        for i in range(first, end):
            importance[i] += abs(matrix[o, i])


@njit(cache=True, nogil=True)
def _first_slot(shape: NDArray[np.uint64], slots: int) -> np.int64:
    """Where to look for a shape in a hash table whose size is a power of two."""
    mixed = np.uint64(0)
    for word in shape:
        mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads low bits upward
    return np.int64((mixed >> np.uint64(32)) & np.uint64(slots - 1))


@njit(cache=True, nogil=True)
def _equal(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> bool:
    same = True
    for i in range(len(one)):
        same &= one[i] == other[i]
    return same


@njit(cache=True, nogil=True)
def _shape_of(value: Float32, kept: int, shape: NDArray[np.uint64]) -> None:
    """The shape of the ``kept`` largest values, of equals those that come first."""
    shape[:] = 0
    for i in range(len(value)):
        rank = 0  # positions that come before i
        for j in range(len(value)):
            rank += (value[j] > value[i]) | ((value[j] == value[i]) & (j < i))
        if rank < kept:
            shape[len(shape) - 1 - i // 64] |= np.uint64(1) << np.uint64(i % 64)


@njit(cache=True, nogil=True)
def _most_frequent(found: NDArray[np.uint64], frequency: NDArray[np.int64], largest_first: bool) -> int:
    """The shape that most filters have, of equals the smallest or the largest; -1: no frequency is above 0."""
    best = -1
    for s in range(len(frequency)):
        if frequency[s] == 0:
            continue
        if best < 0 or frequency[s] > frequency[best]:
            best = s
        elif frequency[s] == frequency[best]:
            word = 0
            while found[s, word] == found[best, word]:
                word += 1
            if (found[s, word] > found[best, word]) == largest_first:
                best = s
    return best


@njit(cache=True, nogil=True)
def _retaining_most(importance: Float32, candidates: Int32, choice: Int32) -> None:
    """For each filter the candidate [shape, kept] whose positions matter most to it; the first of equals."""
    for o in range(len(importance)):
        most = np.float32(-1)
        for k in range(len(candidates)):
            retained = np.float32(0)
            for i in candidates[k]:
                retained += importance[o, i]
            if retained > most:
                most = retained
                choice[o] = k


@njit(cache=True, nogil=True)
def _choose_shapes(
    kernels: Float32,
    group: int,
    kept: int,
    first: int,
    end: int,
    candidates: Int32,
    counts: NDArray[np.int64],
    choice: Int32,
) -> None:
    """Candidate shapes of blocks first .. end, and each filter's choice.

    A shape is a bit set of positions, held as words of 64 bits, position 0 the lowest bit of the last word. So shapes
    with equally many positions compare as their positions in descending order do.
    """
    filters, channels, positions = kernels.shape
    words = (positions + 63) // 64
    largest_first = kept == 8 and positions == 9  # the shape whose dropped position is lower
    importance = np.empty((filters, positions), np.float32)
    found = np.empty((filters, words), np.uint64)  # distinct shapes
    frequency = np.empty(filters, np.int64)
    slots = 1
    while slots < 2 * filters:
        slots *= 2
    place_of = np.empty(slots, np.int32)  # a hash table into ``found``, -1 in its free slots
    for block in range(first, end):
        distinct = 0
        place_of[:] = -1
        for o in range(filters):
            value = importance[o]
            value[:] = 0
            for c in range(block * group, min((block + 1) * group, channels)):
                for i in range(positions):
                    value[i] += abs(kernels[o, c, i])
            own = found[distinct]  # where it stays if it is a new one
            _shape_of(value, kept, own)
            slot = _first_slot(own, slots)
            while place_of[slot] >= 0 and not _equal(found[place_of[slot]], own):
                slot = (slot + 1) % slots
            if place_of[slot] < 0:
                place_of[slot] = distinct
                frequency[distinct] = 0
                distinct += 1
            frequency[place_of[slot]] += 1

        counts[block] = min(distinct, candidates.shape[1])
        for k in range(counts[block]):
            best = _most_frequent(found, frequency[:distinct], largest_first)
            frequency[best] = 0  # a candidate now
            n = 0
            for i in range(positions):
                if found[best, words - 1 - i // 64] >> np.uint64(i % 64) & np.uint64(1):
                    candidates[block, k, n] = i
                    n += 1
        _retaining_most(importance, candidates[block, : counts[block]], choice[:, block])


@njit(cache=True, nogil=True)
def _mark(rows: Int32, shape: Int32, mask: NDArray[np.uint8], first: int, end: int) -> None:
    """Write 1 where filters first .. end keep a weight."""
    for o in range(first, end):
        for s in shape[o]:
            for row in rows[s]:
                if row >= 0:
                    mask[o, row] = 1
