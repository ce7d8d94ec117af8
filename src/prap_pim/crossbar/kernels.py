"""The inner loops of the crossbar model, compiled. ``crossbar.py`` prepares their arguments.

Arrays are C-contiguous. Rows of a table are taken as slices or by unsigned index: a signed index that may be negative
costs numba a check that keeps the loop from being vectorised.
"""

import math
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
_FEW_DONORS = 4  # below this, a donor's answers are looked up for many positions, not many donors' for a position
_BYTE = np.uint64(255)
_FAR = 6.0  # sigmas that read noise never exceeds: its probability, 2e-9, is below the resolution of float32


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


@njit(cache=True, inline="always")
def _mixed(x: np.uint64) -> np.uint64:
    """A hash of 64 bits. Source: Steele, Lea, Flood, OOPSLA 2014 (SplitMix64's finaliser)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, inline="always")
def _uniform(word: np.uint64) -> float:
    """A number in [0, 1) from 64 random bits."""
    return np.float64(word >> np.uint64(11)) * 2.0**-53


@njit(cache=True)
def _normal(word: np.uint64) -> float:
    """A standard normal number (Box and Muller's)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - _uniform(_mixed(word ^ np.uint64(0x9E3779B97F4A7C15)))))
    return float(radius * np.cos(2.0 * np.pi * _uniform(_mixed(word ^ np.uint64(0xD1B54A32D192ED03)))))


@njit(cache=True, inline="always")
def _converted(current: float, step: int, top: int) -> np.int64:
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
def _serve(
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
                    answer[byte] -= offset * _ones(np.uint64(byte))
                for column in range(len(column_factor)):
                    for row in range(8):  # a byte whose highest row is ``row`` is a smaller byte and that row
                        for byte in range(1 << row):
                            current[(1 << row) + byte] = current[byte] + signal[stored, row, column]
                    for byte in range(256):
                        answer[byte] += column_factor[column] * _converted(current[byte], step, top)
                    if noisy:
                        for row in range(8):
                            for byte in range(1 << row):
                                noise[(1 << row) + byte] = noise[byte] + variance[stored, row, column]
                        for byte in range(256):
                            if _near_edge(current[byte], noise[byte], step, top):
                                same[byte] *= _unchanged(current[byte], np.sqrt(noise[byte]), step, top)
            for byte in range(256):
                table[256 * first + byte * donors + k] = answer[byte]
            if noisy:
                for byte in range(256):
                    quiet[256 * first + byte * donors + k] = same[byte]


@njit(cache=True, inline="always")
def _near_edge(current: float, variance: float, step: int, top: int) -> bool:
    """Whether noise of this variance may change a current's code: whether the code ends within ``_FAR`` sigmas."""
    code = min(max(np.floor(current / step + 0.5), 0.0), np.float64(top))
    below = current - (code - 0.5) * step if code > 0 else np.inf
    above = (code + 0.5) * step - current if code < top else np.inf
    nearest = min(below, above)
    return nearest * nearest < _FAR * _FAR * variance


@njit(cache=True)
def _unchanged(current: float, sigma: float, step: int, top: int) -> float:
    """The probability that a current with normal noise gets the code that it has without."""
    code = _converted(current, step, top) // step
    return 1.0 - _below(code, current, sigma, step) - _above(code, current, sigma, step, top)


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
        use_filter, use_donor, use_gain, use_drop: [uses], as for ``_serve``; donors counted from 0 like ``start``.
        limits, wrap: as for ``_serve``; ``limits`` [0] if no register can overflow and ``use_drop`` is 0.
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
                planes[j] = _planes(inputs, base[first_position + j], offset, rows[g])
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
                    _serve(
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


@njit(cache=True, inline="always")
def _planes(inputs: Int8, base: np.int64, offset: Int64, rows: Int32) -> np.uint64:
    """Byte i holds bit i of the inputs of up to 8 rows."""
    packed = np.uint64(0)
    for r in range(len(rows)):
        if rows[r] >= 0:
            packed |= np.uint64(np.uint8(inputs[base + offset[rows[r]]])) << np.uint64(8 * r)
    return _transpose_bits(packed)


@njit(cache=True)
def _dots_of_donor(planes: Uint64, answers: Integers, donors: np.int64, plane_factor: Integers, dots: Integers) -> None:
    """One donor's dot products at all positions; its answers are every ``donors``-th."""
    for j in range(len(planes)):
        p = planes[j]
        total = plane_factor[0] * answers[np.int64(p & _BYTE) * donors]
        for i in range(1, 8):
            total += plane_factor[i] * answers[np.int64(p >> np.uint64(8 * i) & _BYTE) * donors]
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


@njit(cache=True)
def _average(partial: Integers, average: Int64) -> None:
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
                planes = _planes(inputs, base[n], offset, rows[g])
                partial[:donors] = 0
                stream = _mixed(np.uint64(key) + np.uint64(first_position + n) * np.uint64(0x9E3779B97F4A7C15))
                for i in range(8):
                    byte = np.int64(planes >> np.uint64(8 * i) & _BYTE)
                    if byte == 0:
                        continue  # no row is driven: no current, no noise
                    at = 256 * first + byte * donors
                    answers, calm = table[at : at + donors], quiet[at : at + donors]
                    number = np.uint64((first_donor + first) * 8 + i)
                    any_changed = False
                    for k in range(donors):
                        words[k] = _mixed(stream ^ (number + np.uint64(8 * k)))
                        changed[k] = _uniform(words[k]) >= calm[k]
                        any_changed |= changed[k]
                        partial[k] += plane_factor[i] * answers[k]
                    if not any_changed:
                        continue
                    for k in range(donors):
                        if changed[k]:
                            drawn = _disturbed(
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
                    _average(partial[:donors], average[first : start[g + 1]])
                uses = slice(use_start[g], use_start[g + 1])
                _serve(
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


@njit(cache=True)
def _disturbed(
    word: np.uint64,
    byte: np.int64,
    signal: Float64,
    variance: Float64,
    column_factor: Int64,
    step: int,
    top: int,
    offset: int,
    first: int,
    end: int,
    current: Float64,
    noise: Float64,
) -> np.int64:
    """A donor's answer to ``byte`` given that noise changes at least one of its codes; ``word`` is its randomness.

    Bitlines are visited in order. The first whose code changes is found with the same uniform number that said that
    there is one; what it becomes is drawn from the tails of the normal distribution; later ones are drawn freely.
    ``current`` and ``noise`` are room for a value of each column.
    """
    uniform = _uniform(word)
    answer = -(end - first) * offset * _ones(np.uint64(byte))
    draw = np.uint64(1)
    unchanged = 1.0  # probability that no bitline so far has changed
    found = False
    for stored in range(first, end):
        current[:] = 0.0
        noise[:] = 0.0
        for row in range(8):
            if byte >> row & 1:
                cells, noises = signal[stored, row], variance[stored, row]
                for column in range(len(current)):
                    current[column] += cells[column]
                    noise[column] += noises[column]
        for column in range(len(current)):
            here = current[column]
            read = _converted(here, step, top)
            if _near_edge(here, noise[column], step, top):
                sigma = np.sqrt(noise[column])
                draw += np.uint64(1)
                if found:
                    read = _converted(here + sigma * _normal(_mixed(word + draw)), step, top)
                else:
                    unchanged *= _unchanged(here, sigma, step, top)
                    found = uniform >= unchanged
                    if found:
                        read = _changed(_mixed(word + draw), here, sigma, step, top)
            answer += column_factor[column] * read
    return answer


@njit(cache=True)
def _changed(word: np.uint64, current: float, sigma: float, step: int, top: int) -> np.int64:
    """What the ADC makes of a current with normal noise given that its code changes, as a count."""
    code = _converted(current, step, top) // step
    below = _below(code, current, sigma, step)
    above = _above(code, current, sigma, step, top)
    up = _uniform(_mixed(word)) * (below + above) >= below
    tail = above if up else below
    left = _uniform(_mixed(word ^ np.uint64(0xD1B54A32D192ED03))) * tail
    code += 1 if up else -1
    while (_above(code, current, sigma, step, top) if up else _below(code, current, sigma, step)) > left:
        code += 1 if up else -1
    return code * step


@njit(cache=True)
def _below(code: np.int64, current: float, sigma: float, step: int) -> float:
    """The probability that a current with normal noise gets a code below ``code``."""
    return 0.0 if code <= 0 else _beyond((current - (code - 0.5) * step) / sigma)


@njit(cache=True)
def _above(code: np.int64, current: float, sigma: float, step: int, top: int) -> float:
    """The probability that a current with normal noise gets a code above ``code``."""
    return 0.0 if code >= top else _beyond(((code + 0.5) * step - current) / sigma)


@njit(cache=True, inline="always")
def _beyond(sigmas: float) -> float:
    """The probability that noise exceeds so many sigmas."""
    return 0.0 if sigmas > _FAR else 0.5 * math.erfc(sigmas * math.sqrt(0.5))


@njit(cache=True, nogil=True)
def accumulate_by_count(
    inputs: Int8,
    base: Int64,
    offset: Int64,
    rows: Int32,
    input_bits: int,
    dac_bits: int,
    input_offset: int,
    plane_factor: Int64,
    weights: Uint64,
    weight_sum: Int64,
    column_start: Int64,
    column_factor: Int64,
    weight_offset: int,
    codes: Int64,
    start: Int64,
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
    """As ``accumulate_by_table`` for ideal cells, any h, cell bits and DAC bits: bitlines are counted at every step.

    Args:
        inputs, base, offset: as for ``accumulate_by_table``.
        rows: int32 [groups, h], -1 where unused.
        input_bits, dac_bits, input_offset, plane_factor: how an input is cut into steps (``Slices``).
        weights: uint64 [donors, stored bits, words], bit r % 64 of word r // 64 is that bit of row r's cells.
        weight_sum: int64 [donors], sum of a donor's stored weights, the weights' offset included.
        column_start: int64 [columns + 1], the stored bits that are the level of a column's cell.
        column_factor, weight_offset: what a column counts, what is taken off (``WeightSlices``).
        codes: int64, what the ADC makes of each count of a bitline.
        start, use_start, use_filter, use_donor, use_gain, use_drop, wrap, accumulator: as for ``accumulate_by_table``.
        limits: int64 [4], also if no register can overflow.
        overflows: int64 [positions, 2], added to.
        begin, end: the positions to do.
    """
    height = rows.shape[1]
    words = weights.shape[2]
    for n in range(begin, end):
        planes = np.empty((input_bits, words), np.uint64)
        for g in range(len(start) - 1):
            planes[:] = 0
            input_sum = np.int64(0)
            for r in range(height):
                if rows[g, r] >= 0:
                    value = np.int64(inputs[base[n] + offset[rows[g, r]]])
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
                            for j in range(column_start[column], column_start[column + 1]):
                                ones = np.int64(0)
                                for word in range(words):
                                    ones += _ones(planes[i, word] & weights[donor, j, word])
                                count += ones << (i - step * dac_bits + j - column_start[column])
                        total += plane_factor[step] * column_factor[column] * codes[count]
                partial[k] = total
            uses = slice(use_start[g], use_start[g + 1])
            _serve(
                partial,
                start[g],
                use_filter[uses],
                use_donor[uses],
                use_gain[uses],
                use_drop[uses],
                limits,
                wrap,
                accumulator[:, n],
                overflows[n],
            )


@njit(cache=True, nogil=True)
def accumulate_by_cell(
    inputs: Int8,
    base: Int64,
    offset: Int64,
    rows: Int32,
    dac_bits: int,
    input_offset: int,
    plane_factor: Int64,
    signal: Float64,
    variance: Float64,
    weight_sum: Int64,
    column_factor: Int64,
    weight_offset: int,
    adc_step: int,
    top: int,
    copy_start: Int64,
    key: int,
    first_position: int,
    first_donor: int,
    average: Int64,
    start: Int64,
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
    """Any h and DAC bits, any cells: the current of every bitline is added up cell by cell at every step.

    Args:
        signal, variance: float64 [stored donors, columns, h], as for ``respond``; a row driven at digit d adds
            d * signal and d**2 * variance.
        adc_step, top: counts of a code; the highest code.
        others: as for ``accumulate_by_count`` and ``accumulate_by_noisy_table``.
    """
    height = rows.shape[1]
    noisy = len(variance) > 0
    digits = np.empty((len(plane_factor), height))
    for n in range(begin, end):
        stream = _mixed(np.uint64(key) + np.uint64(first_position + n) * np.uint64(0x9E3779B97F4A7C15))
        for g in range(len(start) - 1):
            input_sum = np.int64(0)
            digits[:] = 0
            for r in range(height):
                if rows[g, r] >= 0:
                    value = np.int64(inputs[base[n] + offset[rows[g, r]]])
                    input_sum += value
                    for step in range(len(plane_factor)):
                        digits[step, r] = (value + input_offset) >> (step * dac_bits) & ((1 << dac_bits) - 1)
            partial = np.empty(start[g + 1] - start[g], np.int64)
            for k in range(len(partial)):
                donor = start[g] + k
                first, last = copy_start[donor], copy_start[donor + 1]
                word = _mixed(stream ^ np.uint64(first_donor + donor))
                draw = np.uint64(0)
                total = (last - first) * (-weight_offset * input_sum - input_offset * weight_sum[donor])
                for stored in range(first, last):
                    for step in range(len(plane_factor)):
                        for column in range(len(column_factor)):
                            current, noise = 0.0, 0.0
                            for r in range(height):
                                current += digits[step, r] * signal[stored, column, r]
                                if noisy:
                                    noise += digits[step, r] ** 2 * variance[stored, column, r]
                            if noise > 0:
                                draw += np.uint64(1)
                                current += np.sqrt(noise) * _normal(_mixed(word + draw))
                            code = _converted(current, adc_step, top)
                            total += plane_factor[step] * column_factor[column] * code
                partial[k] = total
            if len(average) > 0:
                _average(partial, average[start[g] : start[g + 1]])
            uses = slice(use_start[g], use_start[g + 1])
            _serve(
                partial,
                start[g],
                use_filter[uses],
                use_donor[uses],
                use_gain[uses],
                use_drop[uses],
                limits,
                wrap,
                accumulator[:, n],
                overflows[n],
            )


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


@njit(cache=True, nogil=True)
def to_real(accumulator: Int64, scale: Float64, bias: Float64, out: NDArray[Any], begin: int, end: int) -> None:
    """``out[n, f, p] = scale[f] * accumulator[f, n * P + p] + bias[f]``, rounded to the type of ``out`` at the end.

    Args:
        accumulator: int64 [filters, images * P].
        scale, bias: float64 [filters].
        out: [images, filters, P].
        begin, end: the images to do.
    """
    places = out.shape[2]
    for n in range(begin, end):
        for f in range(out.shape[1]):
            integers = accumulator[f, n * places : (n + 1) * places]
            real = out[n, f]
            for p in range(len(real)):
                real[p] = integers[p] * scale[f] + bias[f]
