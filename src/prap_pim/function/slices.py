"""How a signed integer is spread over cells and over input steps."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prap_pim.errors import UserError


@dataclass(frozen=True)
class Slices:
    """A signed integer v of ``bits`` bits as unsigned digits of ``width`` bits, least significant first.

    ``v = sum(factors * digits(v)) - offset``. One bit a digit: two's complement, the top digit counts negative and
    offset is 0. Wider digits have no sign bit of their own, so v + 2**(bits - 1) is stored and the offset is taken off
    digitally (Shafiee et al., ISAAC, ISCA 2016, section IV: "biased" weights).
    """

    bits: int
    width: int

    @property
    def count(self) -> int:
        """Digits."""
        return -(-self.bits // self.width)

    @property
    def offset(self) -> int:
        """What is added before the number is cut into digits."""
        return 0 if self.width == 1 else 1 << (self.bits - 1)

    @property
    def factors(self) -> NDArray[np.int64]:
        """What each digit counts, int64 [count]."""
        powers = np.left_shift(1, self.width * np.arange(self.count, dtype=np.int64))
        if self.width == 1:
            powers[-1] *= -1
        return powers

    @property
    def largest_digit(self) -> int:
        """The highest level of one cell or one DAC step."""
        return (1 << self.width) - 1

    def check(self, values: NDArray[np.int8], what: str) -> None:
        """Refuse values that ``bits`` bits cannot hold.

        Raises:
            UserError: names ``what`` and the range.
        """
        limit = 1 << (self.bits - 1)
        if self.bits < 8 and values.size and (values.min() < -limit or values.max() >= limit):
            raise UserError(f"{what} exceed {self.bits} bits: they must lie in {-limit}..{limit - 1}")
