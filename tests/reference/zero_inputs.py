"""Share of the OU steps of a row group in which no row is driven: one position, one input step, one row at a time."""

import numpy as np
from numpy.typing import NDArray

from prap_pim.hardware.grain import Grain
from tests.reference.crossbar import signed_digits


def slow_zero_input_rates(rows: NDArray[np.int32], inputs: NDArray[np.int8], grain: Grain) -> list[float]:
    """Of each row group [groups, h], for int8 inputs [positions, im2col rows]."""
    rates = []
    for group in rows:
        zero = 0
        for position in inputs:
            digits = [
                signed_digits(int(position[row]), grain.input_bits, grain.dac_bits)[0] for row in group if row >= 0
            ]
            for step in range(grain.input_steps):
                zero += not any(of_row[step] for of_row in digits)
        rates.append(zero / (len(inputs) * grain.input_steps))
    return rates
