"""The inner loops of the crossbar model, compiled. ``crossbar.py`` prepares their arguments.

Arrays are C-contiguous. Rows of a table are taken as slices or by unsigned index: a signed index that may be negative
costs numba a check that keeps the loop from being vectorised.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Uint64 = NDArray[np.uint64]
Integers = NDArray[np.signedinteger[Any]]

POSITIONS_PER_TASK = 64  # their accumulators and one row group's table stay in a core's cache together


BYTE = np.uint64(255)


@njit(cache=True, inline="always")
def _transpose_bits(rows: np.uint64) -> np.uint64:
    """Byte r holds the bits of row r; byte i of the result holds bit i of every row.

    Source: Warren, Hacker's Delight, 2nd ed., section 7-3.
    """
    x = rows
    t = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    x = x ^ t ^ (t << np.uint64(7))
    t = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    x = x ^ t ^ (t << np.uint64(14))
    t = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return x ^ t ^ (t << np.uint64(28))


@njit(cache=True, inline="always")
def popcount(word: np.uint64) -> np.int64:
    """Ones in a word. Source: Warren, Hacker's Delight, 2nd ed., section 5-1."""
    x = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, inline="always")
def mixed(x: np.uint64) -> np.uint64:
    """A hash of 64 bits. Source: Steele, Lea, Flood, OOPSLA 2014 (SplitMix64's finaliser)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, inline="always")
def as_uniform(word: np.uint64) -> float:
    """A number in [0, 1) from 64 random bits."""
    return np.float64(word >> np.uint64(11)) * 2.0**-53


@njit(cache=True, inline="always")
def converted(current: float, step: int, top: int) -> np.int64:
    """What the ADC makes of a current: the nearest code in 0..top, as a count."""
    code = np.floor(current / step + 0.5)
    return np.int64(min(max(code, 0.0), np.float64(top))) * step


@njit(cache=True, inline="always")
def _held(value: np.int64, lowest: np.int64, highest: np.int64, wrap: bool) -> np.int64:
    """What a register of the range lowest..highest holds of a value that is outside."""
    if wrap:
        return ((value - lowest) & (highest - lowest)) + lowest
    return highest if value > highest else lowest


@njit(cache=True, nogil=True)
def serve(
    partial: Integers,
    first: int,
    use_filter: Int32,
    use_donor: Int32,
    use_gain: Int64,
    use_drop: Int64,
    limits: Int64,
    wrap: bool,
    sums: Int64,
    overflows: Int64,
) -> None:
    """Add a row group's dot products to the accumulators of one position, through registers of limited width.

    Args:
        partial: [donors], in and out: the dot products.
        first: number of the first donor.
        use_filter, use_donor, use_gain, use_drop: the row group's uses; a use adds
            ``use_gain * (dot product >> use_drop)``.
        limits: int64 [4], lowest and highest dot product, lowest and highest sum.
        wrap: overflow wraps around; else it saturates.
        sums: int64 [filters].
        overflows: int64 [2], dot products and sums that did not fit, added to.
    """
    for k in range(len(partial)):
        if partial[k] < limits[0] or partial[k] > limits[1]:
            partial[k] = _held(partial[k], limits[0], limits[1], wrap)
            overflows[0] += 1
    for u in range(len(use_filter)):
        added = use_gain[u] * (np.int64(partial[use_donor[u] - first]) >> use_drop[u])
        total = sums[use_filter[u]] + added
        if total < limits[2] or total > limits[3]:
            total = _held(total, limits[2], limits[3], wrap)
            overflows[1] += 1
        sums[use_filter[u]] = total


@njit(cache=True, inline="always")
def bit_planes(inputs: Int8, base: np.int64, offset: Int64, rows: Int32) -> np.uint64:
    """Byte i holds bit i of the inputs of up to 8 rows."""
    packed = np.uint64(0)
    for r in range(len(rows)):
        if rows[r] >= 0:
            packed |= np.uint64(np.uint8(inputs[base + offset[rows[r]]])) << np.uint64(8 * r)
    return _transpose_bits(packed)
