"""Sums over OUs by table: a donor's answer to each input byte is computed once and looked up."""

import numpy as np
from numba import njit

from prap_pim.crossbar.kernels.bits import (
    BYTE,
    POSITIONS_PER_TASK,
    Float32,
    Float64,
    Int8,
    Int32,
    Int64,
    Integers,
    Uint64,
    as_uniform,
    bit_planes,
    converted,
    mixed,
    popcount,
    serve,
)
from prap_pim.crossbar.kernels.noise import disturbed, near_edge, unchanged_probability

_FEW_DONORS = 4  # below this, a donor's answers are looked up for many positions, not many donors' for a position


@njit(cache=True, nogil=True)
def respond(
    signal: Float64,
    variance: Float64,
    column_factor: Int64,
    step: int,
    top: int,
    offset: int,
    copy_start: Int64,
    start: Int64,
    table: Integers,
    quiet: Float32,
    begin: int,
    end: int,
) -> None:
    """What every donor answers to each of the 256 ways of driving its rows, after ADC and shift-add over its columns.

    Args:
        signal: float64 [stored donors, 8, columns], what each cell adds to the current of its bitline; 0 on rows that
            do not exist or are not used.
        variance: the same for the variance of the read noise; [0, 8, columns] if there is none.
        column_factor: int64 [columns], what a column counts.
        step, top: counts of a code; the highest code.
        offset: taken off for each driven row; unused rows are never driven.
        copy_start: int64 [donors + 1], where the copies of each donor are stored; their answers are added.
        start: int64 [groups + 1], first donor of each row group, from 0.
        table: [donors * 256], filled here: donor k of group g answers to ``byte`` (bit r drives row r) with entry
            256 * start[g] + byte * K_g + k.
        quiet: float32 like ``table``, filled if there is noise: the probability that no bitline's code changes by it.
        begin, end: the row groups to do.
    """
    noisy = len(variance) > 0
    current = np.zeros(256)
    noise = np.zeros(256)
    answer = np.zeros(256, np.int64)
    same = np.ones(256)
    for g in range(begin, end):
        first, donors = start[g], start[g + 1] - start[g]
        for k in range(donors):
            answer[:] = 0
            same[:] = 1.0
            for stored in range(copy_start[first + k], copy_start[first + k + 1]):
                for byte in range(1, 256):
                    answer[byte] -= offset * popcount(np.uint64(byte))
                for column in range(len(column_factor)):
                    for row in range(8):  # a byte whose highest row is ``row`` is a smaller byte and that row
                        for byte in range(1 << row):
                            current[(1 << row) + byte] = current[byte] + signal[stored, row, column]
                    for byte in range(256):
                        answer[byte] += column_factor[column] * converted(current[byte], step, top)
                    if noisy:
                        for row in range(8):
                            for byte in range(1 << row):
                                noise[(1 << row) + byte] = noise[byte] + variance[stored, row, column]
                        for byte in range(256):
                            if near_edge(current[byte], noise[byte], step, top):
                                same[byte] *= unchanged_probability(current[byte], np.sqrt(noise[byte]), step, top)
            for byte in range(256):
                table[256 * first + byte * donors + k] = answer[byte]
            if noisy:
                for byte in range(256):
                    quiet[256 * first + byte * donors + k] = same[byte]


@njit(cache=True, nogil=True)
def accumulate_by_table(
    inputs: Int8,
    base: Int64,
    offset: Int64,
    rows: Int32,
    plane_factor: Integers,
    start: Int64,
    table: Integers,
    average: Int64,
    use_start: Int64,
    use_filter: Int32,
    use_donor: Int32,
    use_gain: Int64,
    use_drop: Int64,
    limits: Int64,
    wrap: bool,
    accumulator: Int64,
    overflows: Int64,
    begin: int,
    end: int,
) -> None:
    """Drive each row group bit-plane by bit-plane, shift and add the donors' answers, and serve the uses.

    Args:
        inputs, base, offset: position n's input of im2col row r is ``inputs[base[n] + offset[r]]`` (``Windows``).
        rows: int32 [groups, h <= 8], -1 where unused.
        plane_factor: [8], what each input bit counts, in the type of ``table``.
        start, table: as ``respond`` left them.
        average: int64 [donors], a dot product is shifted right by it, rounded; [0] if all would be 0.
        use_start: int64 [groups + 1].
        use_filter, use_donor, use_gain, use_drop: [uses], as for ``serve``; donors counted from 0 like ``start``.
        limits, wrap: as for ``serve``; ``limits`` [0] if no register can overflow and ``use_drop`` is 0.
        accumulator: int64 [filters, positions], added to.
        overflows: int64 [tasks, 2], added to.
        begin, end: the tasks of POSITIONS_PER_TASK positions to do.
    """
    most_donors = 0
    for g in range(len(start) - 1):
        most_donors = max(most_donors, start[g + 1] - start[g])
    planes = np.empty(POSITIONS_PER_TASK, np.uint64)
    partial = np.empty(most_donors, table.dtype)
    dots = np.empty((most_donors, POSITIONS_PER_TASK), table.dtype)
    for task in range(begin, end):
        first_position = task * POSITIONS_PER_TASK
        positions = min(len(base) - first_position, POSITIONS_PER_TASK)
        for g in range(len(start) - 1):
            first, donors = start[g], start[g + 1] - start[g]
            answers = table[256 * first : 256 * start[g + 1]]
            for j in range(positions):
                planes[j] = bit_planes(inputs, base[first_position + j], offset, rows[g])
            if donors < _FEW_DONORS:
                for k in range(donors):
                    _dots_of_donor(planes[:positions], answers[k:], donors, plane_factor, dots[k])
            else:
                for j in range(positions):
                    _dots_at_position(planes[j], answers, plane_factor, partial[:donors])
                    for k in range(donors):
                        dots[k, j] = partial[k]
            if len(average) > 0:
                for k in range(donors):
                    if average[first + k] > 0:
                        for j in range(positions):
                            dots[k, j] = (dots[k, j] + (1 << (average[first + k] - 1))) >> average[first + k]
            if len(limits) == 0:
                for u in range(use_start[g], use_start[g + 1]):
                    gain = use_gain[u]
                    added = dots[use_donor[u] - first]
                    sums = accumulator[use_filter[u], first_position : first_position + positions]
                    for j in range(len(sums)):
                        sums[j] += gain * added[j]
            else:
                uses = slice(use_start[g], use_start[g + 1])
                for j in range(positions):
                    serve(
                        dots[:donors, j],
                        first,
                        use_filter[uses],
                        use_donor[uses],
                        use_gain[uses],
                        use_drop[uses],
                        limits,
                        wrap,
                        accumulator[:, first_position + j],
                        overflows[task],
                    )


@njit(cache=True)
def _dots_of_donor(planes: Uint64, answers: Integers, donors: np.int64, plane_factor: Integers, dots: Integers) -> None:
    """One donor's dot products at all positions; its answers are every ``donors``-th."""
    for j in range(len(planes)):
        p = planes[j]
        total = plane_factor[0] * answers[np.int64(p & BYTE) * donors]
        for i in range(1, 8):
            total += plane_factor[i] * answers[np.int64(p >> np.uint64(8 * i) & BYTE) * donors]
        dots[j] = total


@njit(cache=True)
def _dots_at_position(planes: np.uint64, answers: Integers, plane_factor: Integers, partial: Integers) -> None:
    """All donors' dot products at one position."""
    donors = len(partial)
    partial[:] = 0
    for i in range(0, 8, 4):  # four planes a pass: the partial sums are read and written half as often
        p = planes >> np.uint64(8 * i)
        if p & np.uint64(0xFFFFFFFF) == 0:
            continue  # no row is driven: every count is 0
        byte0, byte1 = np.int64(p & BYTE), np.int64(p >> np.uint64(8) & BYTE)
        byte2, byte3 = np.int64(p >> np.uint64(16) & BYTE), np.int64(p >> np.uint64(24) & BYTE)
        answer0 = answers[byte0 * donors : (byte0 + 1) * donors]
        answer1 = answers[byte1 * donors : (byte1 + 1) * donors]
        answer2 = answers[byte2 * donors : (byte2 + 1) * donors]
        answer3 = answers[byte3 * donors : (byte3 + 1) * donors]
        factor0, factor1 = plane_factor[i], plane_factor[i + 1]
        factor2, factor3 = plane_factor[i + 2], plane_factor[i + 3]
        for k in range(donors):
            low = factor0 * answer0[k] + factor1 * answer1[k]
            partial[k] += low + factor2 * answer2[k] + factor3 * answer3[k]


@njit(cache=True)
def add_average(partial: Integers, average: Int64) -> None:
    """Shift each dot product right, rounded half up."""
    for k in range(len(partial)):
        if average[k] > 0:
            partial[k] = (partial[k] + (1 << (average[k] - 1))) >> average[k]


@njit(cache=True, nogil=True)
def accumulate_by_noisy_table(
    inputs: Int8,
    base: Int64,
    offset: Int64,
    rows: Int32,
    plane_factor: Integers,
    start: Int64,
    table: Integers,
    quiet: Float32,
    signal: Float64,
    variance: Float64,
    column_factor: Int64,
    step: int,
    top: int,
    weight_offset: int,
    copy_start: Int64,
    key: int,
    first_position: int,
    first_donor: int,
    average: Int64,
    use_start: Int64,
    use_filter: Int32,
    use_donor: Int32,
    use_gain: Int64,
    use_drop: Int64,
    limits: Int64,
    wrap: bool,
    accumulator: Int64,
    overflows: Int64,
    begin: int,
    end: int,
) -> None:
    """``accumulate_by_table`` with read noise, drawn anew for every bitline, input step and position.

    A donor's answer is the table's if the noise changes no code, which has the probability ``quiet``. Else its bitlines
    are drawn under the condition that one changes.

    Args:
        quiet, signal, variance, column_factor, step, top, weight_offset, copy_start: as for ``respond``.
        key: of the noise; what is drawn depends on it, the position, the donor and the plane alone.
        first_position, first_donor: numbers of the first position and donor, for that purpose.
        limits: int64 [4], also if no register can overflow.
        others: as for ``accumulate_by_table``.
    """
    positions = len(base)
    most_donors = 0
    for g in range(len(start) - 1):
        most_donors = max(most_donors, start[g + 1] - start[g])
    partial = np.empty(most_donors, np.int64)
    words = np.empty(most_donors, np.uint64)
    changed = np.empty(most_donors, np.bool_)
    current, noise = np.empty(len(column_factor)), np.empty(len(column_factor))
    for task in range(begin, end):
        for g in range(len(start) - 1):
            first, donors = start[g], start[g + 1] - start[g]
            for n in range(task * POSITIONS_PER_TASK, min(positions, (task + 1) * POSITIONS_PER_TASK)):
                planes = bit_planes(inputs, base[n], offset, rows[g])
                partial[:donors] = 0
                stream = mixed(np.uint64(key) + np.uint64(first_position + n) * np.uint64(0x9E3779B97F4A7C15))
                for i in range(8):
                    byte = np.int64(planes >> np.uint64(8 * i) & BYTE)
                    if byte == 0:
                        continue  # no row is driven: no current, no noise
                    at = 256 * first + byte * donors
                    answers, calm = table[at : at + donors], quiet[at : at + donors]
                    number = np.uint64((first_donor + first) * 8 + i)
                    any_changed = False
                    for k in range(donors):
                        words[k] = mixed(stream ^ (number + np.uint64(8 * k)))
                        changed[k] = as_uniform(words[k]) >= calm[k]
                        any_changed |= changed[k]
                        partial[k] += plane_factor[i] * answers[k]
                    if not any_changed:
                        continue
                    for k in range(donors):
                        if changed[k]:
                            drawn = disturbed(
                                words[k],
                                byte,
                                signal,
                                variance,
                                column_factor,
                                step,
                                top,
                                weight_offset,
                                copy_start[first + k],
                                copy_start[first + k + 1],
                                current,
                                noise,
                            )
                            partial[k] += plane_factor[i] * (drawn - answers[k])
                if len(average) > 0:
                    add_average(partial[:donors], average[first : start[g + 1]])
                uses = slice(use_start[g], use_start[g + 1])
                serve(
                    partial[:donors],
                    first,
                    use_filter[uses],
                    use_donor[uses],
                    use_gain[uses],
                    use_drop[uses],
                    limits,
                    wrap,
                    accumulator[:, n],
                    overflows[task],
                )
