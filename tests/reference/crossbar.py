"""A crossbar cell by cell: one input step, one bitline, one row at a time, in plain Python."""

import math
from collections.abc import Callable

from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan


def signed_digits(value: int, bits: int, width: int) -> tuple[list[int], list[int], int]:
    """Digits of a signed number, lowest first; what each counts; and what is to be taken off in the end."""
    if width == 1:  # two's complement
        digits = [(value % 2**bits) // 2**i % 2 for i in range(bits)]
        return digits, [2**i for i in range(bits - 1)] + [-(2 ** (bits - 1))], 0
    return offset_digits(value, bits, width)


def offset_digits(value: int, bits: int, width: int) -> tuple[list[int], list[int], int]:
    """The same for a number that is stored with 2**(bits - 1) added."""
    stored, digits, counts = value + 2 ** (bits - 1), [], []
    position = 0
    while position < bits:
        take = min(width, bits - position)
        digits.append(stored // 2**position % 2**take)
        counts.append(2**position)
        position += take
    return digits, counts, 2 ** (bits - 1)


def weight_digits(value: int, bits: int, width: int, encoding: str | None) -> tuple[list[int], list[int], int]:
    """Levels of a weight's cells, column after column; what each column counts; and what is to be taken off."""
    if encoding is None or encoding == "two's complement":
        return signed_digits(value, bits, width)
    if encoding == "offset":
        return offset_digits(value, bits, width)
    columns = math.ceil((bits - 1) / width)
    up, down = [], []
    for column in range(columns):
        up.append(max(value, 0) // 2 ** (column * width) % 2**width)
        down.append(max(-value, 0) // 2 ** (column * width) % 2**width)
    counts = [2 ** (column * width) for column in range(columns)]
    return up + down, counts + [-count for count in counts], 0


def convert_signed(current: float, adc_bits: int, largest: int, adc_range: str) -> int:
    """What an ADC with codes of both signs makes of a current: the nearest, half way the higher."""
    step = 1
    while adc_range == "scale" and step * max(1, 2 ** (adc_bits - 1) - 1) < largest:
        step *= 2
    return min(max(math.floor(current / step + 0.5), -(2 ** (adc_bits - 1))), 2 ** (adc_bits - 1) - 1) * step


def convert(current: float, adc_bits: int, largest: int, adc_range: str) -> int:
    """What the ADC makes of a current, as a count."""
    step = 1
    while adc_range == "scale" and step * (2**adc_bits - 1) < largest:
        step *= 2
    code = 0
    while code < 2**adc_bits - 1 and current >= (code + 0.5) * step:
        code += 1
    return code * step


def step_of_weights(driven: list, converter: Callable[[float], int]) -> int:
    """One conversion of a whole weight: each column's current counts as much as the column does."""
    current = 0.0
    for digit, (levels, counts, _), copy, row in driven:
        for column, count in enumerate(counts):
            current += count * digit * (levels[column] if copy is None else copy[column][row])
    return converter(current)


def combined(
    current: float, adc_bits: int, height: int, bits: int, grain: Grain, encoding: str | None, adc_range: str
) -> int:
    """A weight's current as its ADC counts it."""
    kind = encoding or grain.encoding or ("two's complement" if grain.cell_bits == 1 else "offset")
    largest = height * (2**grain.dac_bits - 1) * (2 ** (bits if kind == "offset" else bits - 1) - 1)
    return (convert if kind == "offset" else convert_signed)(current, adc_bits, largest, adc_range)


def fit(value: int, bits: int | None, overflow: str) -> tuple[int, int]:
    """What a signed register of ``bits`` bits holds of a value, and 1 if it does not fit."""
    if bits is None or -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        return value, 0
    if overflow == "wrap":
        return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1), 1
    return (2 ** (bits - 1) - 1 if value > 0 else -(2 ** (bits - 1))), 1


def brute_force(plan: LayerPlan, inputs: list[list[int]], grain: Grain, adc_bits: int) -> list[list[int]]:
    """Accumulators [position][filter] of ideal crossbars, in units of 2**-plan.fraction_bits."""
    return brute_force_with(plan, inputs, grain, adc_bits)[0]


def brute_force_with(
    plan: LayerPlan,
    inputs: list[list[int]],
    grain: Grain,
    adc_bits: int,
    adc_range: str = "clip",
    encoding: str | None = None,
    dot_bits: int | None = None,
    accumulator_bits: int | None = None,
    fraction_bits: int | None = None,
    overflow: str = "saturate",
    cells: list[list[list[list[float]]]] | None = None,
    conversions: str = "per column",
) -> tuple[list[list[int]], int]:
    """Accumulators [position][filter] in units of 2**-places, and how many values did not fit their registers.

    ``cells[donor][copy][column][row]`` is what a cell adds to the current of its bitline; default: its level.
    """
    places = plan.fraction_bits if fraction_bits is None else min(fraction_bits, plan.fraction_bits)
    bits = grain.weight_bits if plan.weight_bits == 8 else max(plan.weight_bits, grain.cell_bits)  # at least a cell
    height = plan.rows.shape[1]
    largest = height * (2**grain.dac_bits - 1) * (2**grain.cell_bits - 1)
    result, misfits = [], 0
    for position in inputs:
        accumulators = [0] * plan.filters
        for group in range(plan.groups):
            dots = {}
            for donor in range(plan.donor_start[group], plan.donor_start[group + 1]):
                driven, stored, used = [], [], []
                for r, (row, weight) in enumerate(zip(plan.rows[group], plan.donors[donor], strict=True)):
                    if row >= 0:
                        driven.append(signed_digits(position[row], grain.input_bits, grain.dac_bits))
                        stored.append(weight_digits(int(weight), bits, grain.cell_bits, encoding))
                        used.append(r)
                copies = [None] if cells is None else cells[donor]
                total = 0
                for copy in copies:
                    for step in range(grain.input_steps):
                        if conversions == "per weight":
                            total += step_of_weights(
                                [(x[0][step], w, copy, r) for x, w, r in zip(driven, stored, used, strict=True)],
                                lambda current: combined(current, adc_bits, height, bits, grain, encoding, adc_range),
                            ) * (driven[0][1][step] if driven else 0)
                            continue
                        for column in range(len(stored[0][0]) if stored else 0):
                            current = 0.0
                            for x, w, r in zip(driven, stored, used, strict=True):
                                current += x[0][step] * (w[0][column] if copy is None else copy[column][r])
                            code = convert(current, adc_bits, largest, adc_range)
                            total += driven[0][1][step] * stored[0][1][column] * code
                    for x, w in zip(driven, stored, strict=True):  # (X - x0)(W - w0) = X W - x0 W - w0 X + x0 w0
                        whole_x = sum(digit * count for digit, count in zip(x[0], x[1], strict=True))
                        whole_w = sum(digit * count for digit, count in zip(w[0], w[1], strict=True))
                        total += -x[2] * whole_w - w[2] * whole_x + x[2] * w[2]
                mean = math.floor(total / len(copies) + 0.5)
                dots[donor], misfit = fit(mean, dot_bits, overflow)
                misfits += misfit
            for use in range(plan.use_start[group], plan.use_start[group + 1]):
                shift = int(plan.use_exponent[use]) + places
                shifted = math.floor(dots[int(plan.use_donor[use])] * 2.0**shift)
                f = plan.use_filter[use]
                accumulators[f], misfit = fit(
                    accumulators[f] + int(plan.use_sign[use]) * shifted, accumulator_bits, overflow
                )
                misfits += misfit
        result.append(accumulators)
    return result, misfits
