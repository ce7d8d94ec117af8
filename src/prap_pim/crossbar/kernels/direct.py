"""Sums over OUs cell by cell, for few positions or devices whose tables would not pay."""

import numpy as np
from numba import njit

from prap_pim.crossbar.kernels.bits import Float64, Int8, Int32, Int64, Uint64, converted, mixed, popcount, serve
from prap_pim.crossbar.kernels.noise import as_normal
from prap_pim.crossbar.kernels.table import add_average


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
                                    ones += popcount(planes[i, word] & weights[donor, j, word])
                                count += ones << (i - step * dac_bits + j - column_start[column])
                        total += plane_factor[step] * column_factor[column] * codes[count]
                partial[k] = total
            uses = slice(use_start[g], use_start[g + 1])
            serve(
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
        stream = mixed(np.uint64(key) + np.uint64(first_position + n) * np.uint64(0x9E3779B97F4A7C15))
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
                word = mixed(stream ^ np.uint64(first_donor + donor))
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
                                current += np.sqrt(noise) * as_normal(mixed(word + draw))
                            code = converted(current, adc_step, top)
                            total += plane_factor[step] * column_factor[column] * code
                partial[k] = total
            if len(average) > 0:
                add_average(partial, average[start[g] : start[g + 1]])
            uses = slice(use_start[g], use_start[g + 1])
            serve(
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
