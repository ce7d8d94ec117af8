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
Uint64 = NDArray[np.uint64]
Integers = NDArray[np.signedinteger[Any]]

POSITIONS_PER_TASK = 64  # their accumulators and one row group's table stay in a core's cache together
_BYTE = np.uint64(255)


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
def _ones(word: np.uint64) -> np.int64:
    """Ones in a word. Source: Warren, Hacker's Delight, 2nd ed., section 5-1."""
    x = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def respond(
    levels: Int64,
    column_factor: Int64,
    codes: Int64,
    offset: int,
    start: Int64,
    table: Integers,
    begin: int,
    end: int,
) -> None:
    """What every donor answers to each of the 256 ways of driving its rows, after ADC and shift-add over its columns.

    Args:
        levels: int64 [donors, columns, 8], what each cell stores; 0 on rows that do not exist or are not used.
        column_factor: int64 [columns], what a column counts.
        codes: int64, the ADC's code for each count of a bitline.
        offset: taken off for each driven row; unused rows are never driven.
        start: int64 [groups + 1], first donor of each row group, from 0.
        table: [donors * 256], filled here: donor k of group g answers to ``byte`` (bit r drives row r) with entry
            256 * start[g] + byte * K_g + k.
        begin, end: the row groups to do.
    """
    for g in range(begin, end):
        first, donors = start[g], start[g + 1] - start[g]
        count = np.zeros(256, np.int64)
        answer = np.zeros(256, np.int64)
        for k in range(donors):
            answer[0] = 0
            for row in range(8):  # a byte whose highest row is ``row`` is a smaller byte and that row
                for byte in range(1 << row):
                    answer[(1 << row) + byte] = answer[byte] - offset
            for column in range(len(column_factor)):
                for row in range(8):
                    for byte in range(1 << row):
                        count[(1 << row) + byte] = count[byte] + levels[first + k, column, row]
                for byte in range(256):
                    answer[byte] += column_factor[column] * codes[count[byte]]
            for byte in range(256):
                table[256 * first + byte * donors + k] = answer[byte]


@njit(cache=True, nogil=True)
def accumulate_by_table(
    inputs: Int8,
    rows: Int32,
    plane_factor: Integers,
    start: Int64,
    table: Integers,
    use_start: Int64,
    use_filter: Int32,
    use_donor: Int32,
    use_gain: Int64,
    accumulator: Int64,
    begin: int,
    end: int,
) -> None:
    """Drive each row group bit-plane by bit-plane, shift and add the donors' answers, and serve the uses.

    Args:
        inputs: int8 [positions, im2col rows].
        rows: int32 [groups, h <= 8], -1 where unused.
        plane_factor: [8], what each input bit counts, in the type of ``table``.
        start, table: as ``respond`` left them.
        use_start: int64 [groups + 1].
        use_filter, use_donor, use_gain: [uses]; donors counted from 0 like ``start``.
        accumulator: int64 [positions, filters], added to.
        begin, end: the tasks of POSITIONS_PER_TASK positions to do.
    """
    positions = len(inputs)
    most_donors = 0
    for g in range(len(start) - 1):
        most_donors = max(most_donors, start[g + 1] - start[g])
    partial = np.empty(most_donors, table.dtype)
    for task in range(begin, end):
        for g in range(len(start) - 1):
            first, donors = start[g], start[g + 1] - start[g]
            answers = table[256 * first : 256 * start[g + 1]]
            for n in range(task * POSITIONS_PER_TASK, min(positions, (task + 1) * POSITIONS_PER_TASK)):
                packed = np.uint64(0)
                for r in range(rows.shape[1]):
                    if rows[g, r] >= 0:
                        packed |= np.uint64(np.uint8(inputs[n, rows[g, r]])) << np.uint64(8 * r)
                planes = _transpose_bits(packed)
                partial[:donors] = 0
                for i in range(0, 8, 4):  # four planes a pass: the partial sums are read and written half as often
                    p = planes >> np.uint64(8 * i)
                    if p & np.uint64(0xFFFFFFFF) == 0:
                        continue  # no row is driven: every count is 0
                    byte0, byte1 = np.int64(p & _BYTE), np.int64(p >> np.uint64(8) & _BYTE)
                    byte2, byte3 = np.int64(p >> np.uint64(16) & _BYTE), np.int64(p >> np.uint64(24) & _BYTE)
                    answer0 = answers[byte0 * donors : (byte0 + 1) * donors]
                    answer1 = answers[byte1 * donors : (byte1 + 1) * donors]
                    answer2 = answers[byte2 * donors : (byte2 + 1) * donors]
                    answer3 = answers[byte3 * donors : (byte3 + 1) * donors]
                    factor0, factor1 = plane_factor[i], plane_factor[i + 1]
                    factor2, factor3 = plane_factor[i + 2], plane_factor[i + 3]
                    for k in range(donors):
                        low = factor0 * answer0[k] + factor1 * answer1[k]
                        partial[k] += low + factor2 * answer2[k] + factor3 * answer3[k]
                for u in range(use_start[g], use_start[g + 1]):
                    donor = np.uint64(use_donor[u] - first)
                    accumulator[n, np.uint64(use_filter[u])] += use_gain[u] * partial[donor]


@njit(cache=True, nogil=True)
def accumulate_by_count(
    inputs: Int8,
    rows: Int32,
    input_bits: int,
    dac_bits: int,
    input_offset: int,
    plane_factor: Int64,
    weights: Uint64,
    weight_sum: Int64,
    cell_bits: int,
    column_factor: Int64,
    weight_offset: int,
    codes: Int64,
    start: Int64,
    use_start: Int64,
    use_filter: Int32,
    use_donor: Int32,
    use_gain: Int64,
    accumulator: Int64,
    begin: int,
    end: int,
) -> None:
    """As ``accumulate_by_table`` for any h, cell bits and DAC bits: every bitline is counted at every step.

    Args:
        inputs: int8 [positions, im2col rows].
        rows: int32 [groups, h], -1 where unused.
        input_bits, dac_bits, input_offset, plane_factor: how an input is cut into steps (``Slices``).
        weights: uint64 [donors, weight bits, words], bit r % 64 of word r // 64 is that bit of row r's stored weight.
        weight_sum: int64 [donors], sum of a donor's stored weights, the weights' offset included.
        cell_bits, column_factor, weight_offset: how a weight is cut into columns (``Slices``).
        codes: int64, the ADC's code for each count of a bitline.
        start, use_start, use_filter, use_donor, use_gain, accumulator: as for ``accumulate_by_table``.
        begin, end: the positions to do.
    """
    height = rows.shape[1]
    words, weight_bits = weights.shape[2], weights.shape[1]
    for n in range(begin, end):
        planes = np.empty((input_bits, words), np.uint64)
        for g in range(len(start) - 1):
            planes[:] = 0
            input_sum = np.int64(0)
            for r in range(height):
                if rows[g, r] >= 0:
                    value = np.int64(inputs[n, rows[g, r]])
                    input_sum += value
                    for i in range(input_bits):
                        bit = np.uint64((value + input_offset) >> i & 1)
                        planes[i, r // 64] |= bit << np.uint64(r % 64)
            partial = np.empty(start[g + 1] - start[g], np.int64)
            for k in range(len(partial)):
                donor = start[g] + k
                # (X - x0)(W - w0) summed over rows, with X and W as driven and stored: only X W is on the crossbar
                total = -weight_offset * input_sum - input_offset * weight_sum[donor]
                for step in range(len(plane_factor)):
                    for column in range(len(column_factor)):
                        count = np.int64(0)
                        for i in range(step * dac_bits, min(input_bits, (step + 1) * dac_bits)):
                            for j in range(column * cell_bits, min(weight_bits, (column + 1) * cell_bits)):
                                ones = np.int64(0)
                                for word in range(words):
                                    ones += _ones(planes[i, word] & weights[donor, j, word])
                                count += ones << (i - step * dac_bits + j - column * cell_bits)
                        total += plane_factor[step] * column_factor[column] * codes[count]
                partial[k] = total
            for u in range(use_start[g], use_start[g + 1]):
                accumulator[n, use_filter[u]] += use_gain[u] * partial[use_donor[u] - start[g]]


@njit(cache=True, nogil=True)
def count_driven(flags: Uint64, rows: Int32, first: int, end: int, driven: Int64) -> None:
    """Add to driven[g] the bits that are set on any of the rows of row group g, for g in first .. end.

    Args:
        flags: uint64 [im2col rows, words].
        rows: int32 [groups, h], -1 where unused.
        driven: int64 [groups].
    """
    any_row = np.empty(flags.shape[1], np.uint64)
    for g in range(first, end):
        any_row[:] = 0
        for row in rows[g]:
            if row >= 0:
                words = flags[row]
                for w in range(len(any_row)):
                    any_row[w] |= words[w]
        total = np.int64(0)
        for w in range(len(any_row)):
            total += _ones(any_row[w])
        driven[g] += total
