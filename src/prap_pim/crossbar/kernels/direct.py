"""Sums over OUs cell by cell, for few positions or devices whose tables would not pay."""

from typing import NamedTuple

import numpy as np
from numba import njit

from prap_pim.crossbar.kernels.bits import (
    Behind,
    Cells,
    Driven,
    Int64,
    Noise,
    Sums,
    Uint64,
    converted,
    mixed,
    popcount,
    serve,
)
from prap_pim.crossbar.kernels.noise import as_normal, stream_of
from prap_pim.crossbar.kernels.table import add_average


class Bits(NamedTuple):
    """Stored bits of ideal cells, and what the ADC makes of a bitline.

    Attributes:
        weights: uint64 [donors, stored bits, words], bit r % 64 of word r // 64 is that bit of row r's cells.
        column_start: int64 [columns + 1], the stored bits that are the level of a column's cell.
        factors, offset: what a column counts, what is taken off (``WeightSlices``).
        codes: int64, what the ADC makes of each count of a bitline.
    """

    weights: Uint64
    column_start: Int64
    factors: Int64
    offset: int
    codes: Int64


class Donors(NamedTuple):
    """First donor of each row group, from 0, int64 [groups + 1]; sum of a donor's stored weights, int64 [donors]."""

    start: Int64
    weight_sum: Int64


@njit(cache=True, nogil=True)
def accumulate_by_count(
    driven: Driven, donors: Donors, stored: Bits, behind: Behind, sums: Sums, begin: int, end: int
) -> None:
    """Ideal cells, any h, cell bits and DAC bits: bitlines are counted at every step; a position's overflows in a row.

    ``begin, end``: the positions to do. Nothing is averaged.
    """
    start, rows, weights = donors.start, driven.rows, stored.weights
    factors, column_start, width = stored.factors, stored.column_start, driven.width
    height = rows.shape[1]
    words = weights.shape[2]
    for n in range(begin, end):
        planes = np.empty((driven.bits, words), np.uint64)
        for g in range(len(start) - 1):
            planes[:] = 0
            input_sum = np.int64(0)
            for r in range(height):
                if rows[g, r] >= 0:
                    value = np.int64(driven.inputs[driven.base[n] + driven.offset[rows[g, r]]])
                    input_sum += value
                    for i in range(driven.bits):
                        bit = np.uint64((value + driven.added) >> i & 1)
                        planes[i, r // 64] |= bit << np.uint64(r % 64)
            partial = np.empty(start[g + 1] - start[g], np.int64)
            for k in range(len(partial)):
                donor = start[g] + k
                # (X - x0)(W - w0) summed over rows, with X and W as driven and stored: only X W is on the crossbar
                total = -stored.offset * input_sum - driven.added * donors.weight_sum[donor]
                for step in range(len(driven.factors)):
                    for column in range(len(factors)):
                        count = np.int64(0)
                        for i in range(step * width, min(driven.bits, (step + 1) * width)):
                            for j in range(column_start[column], column_start[column + 1]):
                                ones = np.int64(0)
                                for word in range(words):
                                    ones += popcount(planes[i, word] & weights[donor, j, word])
                                count += ones << (i - step * width + j - column_start[column])
                        total += driven.factors[step] * factors[column] * stored.codes[count]
                partial[k] = total
            serve(partial, start[g], g, behind, sums.accumulator[:, n], sums.overflows[n])


@njit(cache=True, nogil=True)
def accumulate_by_cell(
    driven: Driven, donors: Donors, cells: Cells, noise: Noise, behind: Behind, sums: Sums, begin: int, end: int
) -> None:
    """Any h and DAC bits, any cells: the current of every bitline is added up cell by cell at every step.

    A row driven at digit d adds d * signal and d**2 * variance. Others as for ``accumulate_by_count``.
    """
    start, rows, average = donors.start, driven.rows, behind.average
    signal, variance = cells.signal, cells.variance
    height = rows.shape[1]
    noisy = len(variance) > 0
    digits = np.empty((len(driven.factors), height))
    for n in range(begin, end):
        stream = stream_of(noise, n)
        for g in range(len(start) - 1):
            input_sum = np.int64(0)
            digits[:] = 0
            for r in range(height):
                if rows[g, r] >= 0:
                    value = np.int64(driven.inputs[driven.base[n] + driven.offset[rows[g, r]]])
                    input_sum += value
                    for step in range(len(driven.factors)):
                        digits[step, r] = (value + driven.added) >> (step * driven.width) & ((1 << driven.width) - 1)
            partial = np.empty(start[g + 1] - start[g], np.int64)
            for k in range(len(partial)):
                donor = start[g] + k
                first, last = cells.copy_start[donor], cells.copy_start[donor + 1]
                word = mixed(stream ^ np.uint64(noise.first_donor + donor))
                draw = np.uint64(0)
                total = (last - first) * (-cells.offset * input_sum - driven.added * donors.weight_sum[donor])
                for stored in range(first, last):
                    for step in range(len(driven.factors)):
                        for column in range(len(cells.factors)):
                            current, spread = float(cells.bias), 0.0
                            for r in range(height):
                                current += digits[step, r] * signal[stored, column, r]
                                if noisy:
                                    spread += digits[step, r] ** 2 * variance[stored, column, r]
                            if spread > 0:
                                draw += np.uint64(1)
                                current += np.sqrt(spread) * as_normal(mixed(word + draw))
                            code = converted(current, cells.step, cells.top) - cells.bias
                            total += driven.factors[step] * cells.factors[column] * code
                partial[k] = total
            if len(average) > 0:
                add_average(partial, average[start[g] : start[g + 1]])
            serve(partial, start[g], g, behind, sums.accumulator[:, n], sums.overflows[n])
