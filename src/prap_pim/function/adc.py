"""The analog-to-digital converter at the foot of a bitline."""

import numpy as np
from numpy.typing import NDArray

from prap_pim.errors import UserError


def adc_codes(largest_count: int, adc_bits: int) -> NDArray[np.int64]:
    """The code for every count 0..largest_count of a bitline, int64 [largest_count + 1].

    The step of the ADC is one count; it has the codes 0..2**adc_bits - 1 and clips what is above. Nothing is lost if
    2**adc_bits > largest_count.

    Raises:
        UserError: adc_bits is below 1.
    """
    if adc_bits < 1:
        raise UserError(f"adc_bits must be at least 1, not {adc_bits}")
    highest_code = (1 << min(adc_bits, 62)) - 1
    return np.minimum(np.arange(largest_count + 1, dtype=np.int64), highest_code)
