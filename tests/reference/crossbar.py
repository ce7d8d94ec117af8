"""A crossbar cell by cell: one input step, one bitline, one row at a time, in Python integers."""

from prap_pim.grain import Grain
from prap_pim.plan import LayerPlan


def signed_digits(value: int, bits: int, width: int) -> tuple[list[int], list[int], int]:
    """Digits of a signed number, lowest first; what each counts; and what is to be taken off in the end."""
    if width == 1:  # two's complement
        digits = [(value % 2**bits) // 2**i % 2 for i in range(bits)]
        return digits, [2**i for i in range(bits - 1)] + [-(2 ** (bits - 1))], 0
    stored, digits, counts = value + 2 ** (bits - 1), [], []
    position = 0
    while position < bits:
        take = min(width, bits - position)
        digits.append(stored // 2**position % 2**take)
        counts.append(2**position)
        position += take
    return digits, counts, 2 ** (bits - 1)


def brute_force(plan: LayerPlan, inputs: list[list[int]], grain: Grain, adc_bits: int) -> list[list[int]]:
    """Accumulators [position][filter], in units of 2**-plan.fraction_bits."""
    result = []
    for position in inputs:
        accumulators = [0] * plan.filters
        for use in range(plan.uses):
            donor = int(plan.use_donor[use])
            group = max(g for g in range(plan.groups) if plan.donor_start[g] <= donor < plan.donor_start[g + 1])
            driven, stored = [], []
            for row, weight in zip(plan.rows[group], plan.donors[donor], strict=True):
                if row >= 0:
                    driven.append(signed_digits(position[row], grain.input_bits, grain.dac_bits))
                    stored.append(signed_digits(int(weight), grain.weight_bits, grain.cell_bits))
            partial = 0
            for step in range(grain.input_steps):
                for column in range(grain.columns_per_weight):
                    current = 0
                    for x, w in zip(driven, stored, strict=True):
                        current += x[0][step] * w[0][column]
                    code = min(current, 2**adc_bits - 1)
                    if driven:
                        partial += driven[0][1][step] * stored[0][1][column] * code
            for x, w in zip(driven, stored, strict=True):  # (X - x0)(W - w0) = X W - x0 W - w0 X + x0 w0
                whole_x = sum(digit * count for digit, count in zip(x[0], x[1], strict=True))
                whole_w = sum(digit * count for digit, count in zip(w[0], w[1], strict=True))
                partial += -x[2] * whole_w - w[2] * whole_x + x[2] * w[2]
            exponent = int(plan.use_exponent[use]) + plan.fraction_bits
            accumulators[plan.use_filter[use]] += int(plan.use_sign[use]) * 2**exponent * partial
        result.append(accumulators)
    return result
