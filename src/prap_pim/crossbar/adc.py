"""The analog-to-digital converter at the foot of a bitline."""

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError


def adc_codes(largest_count: int, adc_bits: int, step: int = 1) -> NDArray[np.int64]:
    """What the ADC makes of every count 0..largest_count of a bitline, as a count, int64 [largest_count + 1].

    It has the codes 0..2**adc_bits - 1, each of which stands for ``step`` counts. A count becomes the nearest code
    (half way: the higher), what is above the highest code is clipped. Nothing is lost if the step is 1 and
    2**adc_bits > largest_count.

    Raises:
        UserError: adc_bits is below 1.
    """
    if adc_bits < 1:
        raise UserError(f"adc_bits must be at least 1, not {adc_bits}")
    highest_code = (1 << min(adc_bits, 62)) - 1
    nearest = (2 * np.arange(largest_count + 1, dtype=np.int64) + step) // (2 * step)
    return np.minimum(nearest, highest_code) * step
