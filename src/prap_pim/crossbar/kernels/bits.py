"""What the compiled loops of the crossbar model share; ``array.py`` prepares their arguments.

Arrays are C-contiguous. Rows of a table are taken as slices or by unsigned index: a signed index that may be negative
costs numba a check that keeps the loop from being vectorised.
"""

from typing import Any, NamedTuple

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


class Driven(NamedTuple):
    """What drives the rows of row groups.

    Attributes:
        inputs, base, offset: position n's input of im2col row r is ``inputs[base[n] + offset[r]]`` (``Windows``).
        rows: int32 [groups, h], -1 where unused.
        factors: [steps], what a step of the inputs counts: of a byte of tables, each of its 8 bits, in their type.
        bits, width, added: how an input is cut into steps (``Slices``): its bits, those of a step, what is added first.
    """

    inputs: Int8
    base: Int64
    offset: Int64
    rows: Int32
    factors: Integers
    bits: int
    width: int
    added: int


class Cells(NamedTuple):
    """Programmed cells, and the ADC that reads them.

    Attributes:
        signal: float64 [stored donors, 8, columns] for tables, else [stored donors, columns, h]: what each cell adds to
            the current of its bitline; 0 on rows that do not exist or are not used.
        variance: the same for the variance of the read noise; of length 0 if there is none.
        factors: int64 [columns], what a column counts.
        step, top: of the ADC: counts of a code; the highest code.
        bias: counts that are added to a current before it is converted, and taken off after: half the codes of an ADC
            of currents that may be negative; else 0.
        offset: of the weights, taken off for each driven row; unused rows are never driven.
        copy_start: int64 [donors + 1], where the copies of each donor are stored; their answers are added.
    """

    signal: Float64
    variance: Float64
    factors: Int64
    step: int
    top: int
    bias: int
    offset: int
    copy_start: Int64


class Noise(NamedTuple):
    """Randomness of read noise: what is drawn depends on the key, the position, the donor and the step alone.

    Attributes:
        key: of the crossbars.
        first_position, first_donor: numbers of the first position and donor.
    """

    key: int
    first_position: int
    first_donor: int


class Behind(NamedTuple):
    """What happens to the dot products of row groups; their donors are counted from 0.

    Attributes:
        average: int64 [donors], a dot product is shifted right by it, rounded; [0] if all would be 0.
        use_start: int64 [groups + 1].
        use_filter, use_donor, use_gain, use_drop: [uses]; one adds ``use_gain * (dot product >> use_drop)``.
        limits: int64 [4], lowest and highest dot product, lowest and highest sum. For tables without noise it may be
            [0], if no register can overflow and ``use_drop`` is 0.
        wrap: overflow wraps around; else it saturates.
    """

    average: Int64
    use_start: Int64
    use_filter: Int32
    use_donor: Int32
    use_gain: Int64
    use_drop: Int64
    limits: Int64
    wrap: bool


class Sums(NamedTuple):
    """What is added to: accumulators int64 [filters, positions]; dot products and sums that overflowed, int64 [any, 2],
    a row for each task (of tables) or position."""

    accumulator: Int64
    overflows: Int64


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
def serve(partial: Integers, first: int, group: int, behind: Behind, sums: Int64, overflows: Int64) -> None:
    """Add a row group's dot products to the accumulators of one position, through registers of limited width.

    Args:
        partial: [donors], in and out: the dot products.
        first: number of the first donor.
        group: number of the row group.
        behind: what happens to them.
        sums: int64 [filters].
        overflows: int64 [2], dot products and sums that did not fit, added to.
    """
    limits = behind.limits
    for k in range(len(partial)):
        if partial[k] < limits[0] or partial[k] > limits[1]:
            partial[k] = _held(partial[k], limits[0], limits[1], behind.wrap)
            overflows[0] += 1
    for u in range(behind.use_start[group], behind.use_start[group + 1]):
        name = behind.use_filter[u]
        total = sums[name] + behind.use_gain[u] * (np.int64(partial[behind.use_donor[u] - first]) >> behind.use_drop[u])
        if total < limits[2] or total > limits[3]:
            total = _held(total, limits[2], limits[3], behind.wrap)
            overflows[1] += 1
        sums[name] = total


@njit(cache=True, inline="always")
def bit_planes(driven: Driven, position: int, group: int) -> np.uint64:
    """Byte i holds bit i of the inputs of up to 8 rows."""
    rows, base = driven.rows[group], driven.base[position]
    packed = np.uint64(0)
    for r in range(len(rows)):
        if rows[r] >= 0:
            packed |= np.uint64(np.uint8(driven.inputs[base + driven.offset[rows[r]]])) << np.uint64(8 * r)
    return _transpose_bits(packed)
