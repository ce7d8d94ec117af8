"""Sums over OUs by table: a donor's answer to each input byte is computed once and looked up."""

from typing import NamedTuple

import numpy as np
from numba import njit

from prap_pim.crossbar.kernels.bits import (
    BYTE,
    POSITIONS_PER_TASK,
    Behind,
    Cells,
    Driven,
    Float32,
    Int64,
    Integers,
    Noise,
    Sums,
    Uint64,
    as_uniform,
    bit_planes,
    converted,
    mixed,
    popcount,
    serve,
)
from prap_pim.crossbar.kernels.noise import disturbed, near_edge, stream_of, unchanged_probability

_FEW_DONORS = 4  # below this, a donor's answers are looked up for many positions, not many donors' for a position


class Answers(NamedTuple):
    """What donors answer.

    Attributes:
        start: int64 [groups + 1], first donor of each row group, from 0.
        table: [donors * 256]: donor k of group g answers to ``byte`` (bit r drives row r) with entry
            256 * start[g] + byte * K_g + k.
        quiet: float32 like ``table`` if there is noise: the probability that no bitline's code changes by it.
    """

    start: Int64
    table: Integers
    quiet: Float32


@njit(cache=True, nogil=True)
def respond(cells: Cells, answers: Answers, begin: int, end: int) -> None:
    """What every donor answers to each of the 256 ways of driving its rows, after ADC and shift-add over its columns.

    Args:
        cells: of all stored donors.
        answers: filled here, but for ``start``.
        begin, end: the row groups to do.
    """
    signal, variance, step, top = cells.signal, cells.variance, cells.step, cells.top
    start, table, quiet = answers.start, answers.table, answers.quiet
    noisy = len(variance) > 0
    current = np.zeros(256)
    current[0] = cells.bias
    noise = np.zeros(256)
    answer = np.zeros(256, np.int64)
    same = np.ones(256)
    for g in range(begin, end):
        first, donors = start[g], start[g + 1] - start[g]
        for k in range(donors):
            answer[:] = 0
            same[:] = 1.0
            for stored in range(cells.copy_start[first + k], cells.copy_start[first + k + 1]):
                for byte in range(1, 256):
                    answer[byte] -= cells.offset * popcount(np.uint64(byte))
                for column in range(len(cells.factors)):
                    for row in range(8):  # a byte whose highest row is ``row`` is a smaller byte and that row
                        for byte in range(1 << row):
                            current[(1 << row) + byte] = current[byte] + signal[stored, row, column]
                    for byte in range(256):
                        answer[byte] += cells.factors[column] * (converted(current[byte], step, top) - cells.bias)
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
def accumulate_by_table(driven: Driven, answers: Answers, behind: Behind, sums: Sums, begin: int, end: int) -> None:
    """Drive each row group bit-plane by bit-plane, shift and add the donors' answers, and serve the uses.

    Args:
        driven: at most 8 rows a group.
        answers: as ``respond`` left them.
        behind: of these row groups.
        sums: a task's overflows in a row.
        begin, end: the tasks of POSITIONS_PER_TASK positions to do.
    """
    start, table, average = answers.start, answers.table, behind.average
    most_donors = 0
    for g in range(len(start) - 1):
        most_donors = max(most_donors, start[g + 1] - start[g])
    planes = np.empty(POSITIONS_PER_TASK, np.uint64)
    partial = np.empty(most_donors, table.dtype)
    dots = np.empty((most_donors, POSITIONS_PER_TASK), table.dtype)
    for task in range(begin, end):
        first_position = task * POSITIONS_PER_TASK
        positions = min(len(driven.base) - first_position, POSITIONS_PER_TASK)
        for g in range(len(start) - 1):
            first, donors = start[g], start[g + 1] - start[g]
            of_group = table[256 * first : 256 * start[g + 1]]
            for j in range(positions):
                planes[j] = bit_planes(driven, first_position + j, g)
            if donors < _FEW_DONORS:
                for k in range(donors):
                    _dots_of_donor(planes[:positions], of_group[k:], donors, driven.factors, dots[k])
            else:
                for j in range(positions):
                    _dots_at_position(planes[j], of_group, driven.factors, partial[:donors])
                    for k in range(donors):
                        dots[k, j] = partial[k]
            if len(average) > 0:
                for k in range(donors):
                    if average[first + k] > 0:
                        for j in range(positions):
                            dots[k, j] = (dots[k, j] + (1 << (average[first + k] - 1))) >> average[first + k]
            if len(behind.limits) == 0:
                for u in range(behind.use_start[g], behind.use_start[g + 1]):
                    gain = behind.use_gain[u]
                    added = dots[behind.use_donor[u] - first]
                    total = sums.accumulator[behind.use_filter[u], first_position : first_position + positions]
                    for j in range(len(total)):
                        total[j] += gain * added[j]
            else:
                for j in range(positions):
                    of_position = sums.accumulator[:, first_position + j]
                    serve(dots[:donors, j], first, g, behind, of_position, sums.overflows[task])


@njit(cache=True)
def _dots_of_donor(planes: Uint64, answers: Integers, donors: np.int64, factors: Integers, dots: Integers) -> None:
    """One donor's dot products at all positions; its answers are every ``donors``-th."""
    for j in range(len(planes)):
        p = planes[j]
        total = factors[0] * answers[np.int64(p & BYTE) * donors]
        for i in range(1, 8):
            total += factors[i] * answers[np.int64(p >> np.uint64(8 * i) & BYTE) * donors]
        dots[j] = total


@njit(cache=True)
def _dots_at_position(planes: np.uint64, answers: Integers, factors: Integers, partial: Integers) -> None:
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
        factor0, factor1 = factors[i], factors[i + 1]
        factor2, factor3 = factors[i + 2], factors[i + 3]
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
    driven: Driven, answers: Answers, cells: Cells, noise: Noise, behind: Behind, sums: Sums, begin: int, end: int
) -> None:
    """``accumulate_by_table`` with read noise, drawn anew for every bitline, input step and position.

    A donor's answer is the table's if the noise changes no code, which has the probability ``quiet``. Else its bitlines
    are drawn under the condition that one changes.
    """
    start, average = answers.start, behind.average
    positions = len(driven.base)
    most_donors = 0
    for g in range(len(start) - 1):
        most_donors = max(most_donors, start[g + 1] - start[g])
    partial = np.empty(most_donors, np.int64)
    words = np.empty(most_donors, np.uint64)
    changed = np.empty(most_donors, np.bool_)
    room = np.empty(len(cells.factors)), np.empty(len(cells.factors))
    for task in range(begin, end):
        for g in range(len(start) - 1):
            first, donors = start[g], start[g + 1] - start[g]
            for n in range(task * POSITIONS_PER_TASK, min(positions, (task + 1) * POSITIONS_PER_TASK)):
                planes = bit_planes(driven, n, g)
                partial[:donors] = 0
                stream = stream_of(noise, n)
                for i in range(8):
                    byte = np.int64(planes >> np.uint64(8 * i) & BYTE)
                    if byte == 0:
                        continue  # no row is driven: no current, no noise
                    at = 256 * first + byte * donors
                    usual, calm = answers.table[at : at + donors], answers.quiet[at : at + donors]
                    number = np.uint64((noise.first_donor + first) * 8 + i)
                    any_changed = False
                    for k in range(donors):
                        words[k] = mixed(stream ^ (number + np.uint64(8 * k)))
                        changed[k] = as_uniform(words[k]) >= calm[k]
                        any_changed |= changed[k]
                        partial[k] += driven.factors[i] * usual[k]
                    if not any_changed:
                        continue
                    for k in range(donors):
                        if changed[k]:
                            copies = cells.copy_start[first + k], cells.copy_start[first + k + 1]
                            drawn = disturbed(words[k], byte, cells, copies, room)
                            partial[k] += driven.factors[i] * (drawn - usual[k])
                if len(average) > 0:
                    add_average(partial[:donors], average[first : start[g + 1]])
                serve(partial[:donors], first, g, behind, sums.accumulator[:, n], sums.overflows[task])
