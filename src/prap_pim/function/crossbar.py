"""The bit-true crossbar: what an operation unit's cells, ADC and shift-adders make of a plan. Integers only.

An input is applied a few bits at a time to the rows of one OU; every bitline adds up the levels of its driven cells;
the ADC turns that count into a code; codes are shifted by the weight of their column and input bit and added: that is
a donor's partial sum. Each use then adds it, shifted and signed, to its filter's accumulator. How OUs are placed on
crossbars and in which order they are read does not change any of these sums, so the plan is all that is needed.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prap_pim.errors import UserError
from prap_pim.function.adc import adc_codes
from prap_pim.function.kernels import POSITIONS_PER_TASK, accumulate_by_count, accumulate_by_table, respond
from prap_pim.function.slices import Slices
from prap_pim.grain import Grain
from prap_pim.parallel import over_ranges
from prap_pim.plan import LayerPlan

Int8 = NDArray[np.int8]
Int64 = NDArray[np.int64]

_TABLE_ENTRIES = 1 << 23  # at most 64 MiB of answers at a time
_FEW_POSITIONS = 32  # below this, counting each bitline is quicker than preparing its answers to all 256 bytes


def crossbar_matmul(plan: LayerPlan, inputs: Int8, grain: Grain, adc_bits: int) -> Int64:
    """The layer's accumulators, as its crossbars compute them.

    Args:
        plan: the layer; its row groups have at most ``grain.ou_rows`` rows.
        inputs: int8 [positions, plan.inputs], im2col rows.
        grain: geometry of the OU and bits of cells, weights, inputs and DAC.
        adc_bits: the ADC has the codes 0..2**adc_bits - 1 and clips what is above.

    Returns:
        int64 [positions, filters], in units of 2**-plan.fraction_bits.

    Raises:
        UserError: the plan does not fit the grain, or an input or weight exceeds its bits.
    """
    _check(plan, inputs)
    check_fit(plan, grain)
    check_inputs(plan, inputs, grain)
    input_slices, weight_slices = Slices(grain.input_bits, grain.dac_bits), Slices(grain.weight_bits, grain.cell_bits)
    codes = adc_codes(plan.rows.shape[1] * input_slices.largest_digit * weight_slices.largest_digit, adc_bits)
    inputs = np.ascontiguousarray(inputs)
    accumulator = np.zeros((len(inputs), plan.filters), np.int64)
    if plan.rows.shape[1] <= 8 and grain.dac_bits == 1 and len(inputs) >= _FEW_POSITIONS:
        _by_table(plan, inputs, input_slices, weight_slices, codes, accumulator)
    else:
        _by_count(plan, inputs, input_slices, weight_slices, codes, accumulator)
    return accumulator


def check_fit(plan: LayerPlan, grain: Grain) -> None:
    """Refuse a plan that the grain's OUs and cells cannot hold.

    Raises:
        UserError: a row group has more rows than an OU, or a weight exceeds its bits.
    """
    if plan.rows.shape[1] > grain.ou_rows:
        raise UserError(f"layer {plan.name}: its row groups have {plan.rows.shape[1]} rows, an OU has {grain.ou_rows}")
    Slices(grain.weight_bits, grain.cell_bits).check(plan.donors, f"layer {plan.name}: weights")


def check_inputs(plan: LayerPlan, inputs: Int8, grain: Grain) -> None:
    """Refuse inputs that exceed the grain's bits, of any shape.

    Raises:
        UserError: names the layer and the range.
    """
    Slices(grain.input_bits, grain.dac_bits).check(inputs, f"layer {plan.name}: inputs")


def loses_nothing(plan: LayerPlan, grain: Grain, adc_bits: int) -> bool:
    """Whether the crossbars compute the integer product for any inputs: the ADC can count all that a bitline sums."""
    digits = Slices(grain.input_bits, grain.dac_bits), Slices(grain.weight_bits, grain.cell_bits)
    largest = plan.rows.shape[1] * digits[0].largest_digit * digits[1].largest_digit
    return bool(adc_codes(largest, adc_bits)[-1] == largest)


def integer_matmul(plan: LayerPlan, inputs: Int8) -> Int64:
    """The same accumulators by ``inputs @ plan.weights().T``, exactly: what the crossbars must reproduce.

    Returns:
        int64 [positions, filters], in units of 2**-plan.fraction_bits.
    """
    _check(plan, inputs)
    return exact_matmul(inputs, plan.weights())


def exact_matmul(inputs: Int8, weights: NDArray[np.int32]) -> Int64:
    """``inputs @ weights.T`` in floating point, where it is fast, and yet exact, int64 [positions, filters].

    Every product and every partial sum, in whatever order, is an integer of at most 128 * sum(|weights|). A float holds
    all of these up to 2**24 (float32) or 2**53 (float64; 2**31 rows of the largest gain away).
    """
    largest = 128 * int(np.abs(weights.astype(np.int64)).sum(axis=1).max())
    kind = np.float32 if largest <= 1 << 24 else np.float64
    if largest > 1 << 53:
        raise UserError(f"a layer of {weights.shape[1]} inputs is too large to be multiplied exactly")
    product: NDArray[np.floating] = inputs.astype(kind) @ weights.T.astype(kind)
    return product.astype(np.int64)


def _check(plan: LayerPlan, inputs: Int8) -> None:
    if inputs.dtype != np.int8 or inputs.ndim != 2 or inputs.shape[1] != plan.inputs:
        raise UserError(
            f"layer {plan.name}: inputs must be int8 [positions, {plan.inputs}], not {inputs.dtype} {inputs.shape}"
        )


def _gains(plan: LayerPlan) -> Int64:
    """What each use multiplies its donor's partial sum by, int64 [U]."""
    return plan.use_sign.astype(np.int64) << (plan.use_exponent.astype(np.int64) + plan.fraction_bits)


def _stored(plan: LayerPlan, donors: slice, weight_slices: Slices) -> Int64:
    """What the cells of each weight hold together, int64 [donors, h]; 0 on unused rows, which have no cells."""
    used = plan.rows[plan.donor_group[donors]] >= 0
    return np.where(used, plan.donors[donors].astype(np.int64) + weight_slices.offset, 0)


def _by_table(
    plan: LayerPlan, inputs: Int8, input_slices: Slices, weight_slices: Slices, codes: Int64, accumulator: Int64
) -> None:
    """h <= 8 and one input bit at a time: the driven rows are one byte, so a donor's answers are a table of 256."""
    height, columns = plan.rows.shape[1], weight_slices.count
    # int8 has 8 planes. Planes above the 8th repeat the sign bit and get the same answers: their factors add up.
    plane_factor = np.zeros(8, np.int64)
    np.add.at(plane_factor, np.minimum(np.arange(input_slices.count), 7), input_slices.factors)
    largest_answer = np.abs(weight_slices.factors).sum() * codes.max() + weight_slices.offset * height
    kind = np.int32 if largest_answer * np.abs(plane_factor).sum() < 1 << 31 else np.int64

    gains = _gains(plan)
    for low, high in _group_ranges(plan.donor_start, _TABLE_ENTRIES // 256):
        first, last = plan.donor_start[low], plan.donor_start[high]
        uses = slice(plan.use_start[low], plan.use_start[high])
        start = plan.donor_start[low : high + 1] - first
        stored = _stored(plan, slice(first, last), weight_slices)
        levels = np.zeros((last - first, columns, 8), np.int64)
        for column in range(columns):
            levels[:, column, :height] = stored >> (column * weight_slices.width) & weight_slices.largest_digit
        table = np.empty((last - first) * 256, kind)
        answering: tuple[Any, ...] = (levels, weight_slices.factors, codes, weight_slices.offset, start, table)
        over_ranges(high - low, partial(respond, *answering))
        adding: tuple[Any, ...] = (
            inputs,
            plan.rows[low:high],
            plane_factor.astype(kind),
            start,
            table,
            plan.use_start[low : high + 1] - plan.use_start[low],
            plan.use_filter[uses],
            plan.use_donor[uses] - np.int32(first),
            gains[uses],
            accumulator,
        )
        over_ranges(-(-len(inputs) // POSITIONS_PER_TASK), partial(accumulate_by_table, *adding))


def _group_ranges(donor_start: Int64, most_donors: int) -> list[tuple[int, int]]:
    """Cut the row groups into ranges of at most ``most_donors`` donors, one row group at the least."""
    ranges, low = [], 0
    while low < len(donor_start) - 1:
        high = int(np.searchsorted(donor_start, donor_start[low] + most_donors, side="right")) - 1
        ranges.append((low, max(high, low + 1)))
        low = ranges[-1][1]
    return ranges


def _by_count(
    plan: LayerPlan, inputs: Int8, input_slices: Slices, weight_slices: Slices, codes: Int64, accumulator: Int64
) -> None:
    """Any h, cell bits and DAC bits: count every bitline."""
    stored = _stored(plan, slice(None), weight_slices)
    donors, height = stored.shape
    words = np.zeros((donors, weight_slices.bits, -(-height // 64)), np.uint64)
    for bit in range(weight_slices.bits):
        for row in range(height):
            ones = (stored[:, row] >> bit & 1).astype(np.uint64)
            words[:, bit, row // 64] |= ones << np.uint64(row % 64)
    counting: tuple[Any, ...] = (
        inputs,
        plan.rows,
        input_slices.bits,
        input_slices.width,
        input_slices.offset,
        input_slices.factors,
        words,
        stored.sum(axis=1),
        weight_slices.width,
        weight_slices.factors,
        weight_slices.offset,
        codes,
        plan.donor_start,
        plan.use_start,
        plan.use_filter,
        plan.use_donor,
        _gains(plan),
        accumulator,
    )
    over_ranges(len(inputs), partial(accumulate_by_count, *counting))
