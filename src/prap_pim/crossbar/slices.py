"""How a signed integer is spread over cells and over input steps."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError


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


@dataclass(frozen=True)
class WeightSlices:
    """A weight v of ``bits`` bits as the levels of its cells, one in each column.

    ``v = sum(factors * levels(v)) - offset``. Two's complement and offset are those of ``Slices``. Differential: the
    magnitude of v, of bits - 1 bits, in the first half of the columns if v is positive, in the second if negative.
    """

    bits: int
    width: int
    encoding: str

    @property
    def _digits(self) -> int:
        bits = self.bits - 1 if self.encoding == "differential" else self.bits
        return -(-bits // self.width)

    @property
    def columns(self) -> int:
        """Cells of one weight."""
        return 2 * self._digits if self.encoding == "differential" else self._digits

    @property
    def offset(self) -> int:
        """What is added before the weight is cut into levels."""
        return 1 << (self.bits - 1) if self.encoding == "offset" else 0

    @property
    def factors(self) -> NDArray[np.int64]:
        """What each column counts, int64 [columns]."""
        powers = np.left_shift(1, self.width * np.arange(self._digits, dtype=np.int64))
        if self.encoding == "differential":
            return np.concatenate([powers, -powers])
        if self.encoding == "two's complement":
            powers[-1] *= -1
        return powers

    @property
    def largest_level(self) -> int:
        """The highest level of a cell."""
        return (1 << self.width) - 1

    @property
    def highest_stored(self) -> int:
        """The highest level that a weight gives a cell: magnitudes of differential weights may have fewer bits."""
        return (
            min(self.largest_level, (1 << (self.bits - 1)) - 1)
            if self.encoding == "differential"
            else self.largest_level
        )

    def levels(self, weights: NDArray[np.int8]) -> NDArray[np.int64]:
        """int8 [..., h] to the levels of the cells, int64 [..., columns, h]."""
        values = weights.astype(np.int64)[..., None, :]
        shifts = (self.width * np.arange(self._digits))[:, None]
        if self.encoding == "differential":
            parts = [np.maximum(sign * values, 0) >> shifts & self.largest_level for sign in (1, -1)]
            return np.concatenate(parts, axis=-2)
        levels: NDArray[np.int64] = (values + self.offset) >> shifts & self.largest_level
        return levels

    def check(self, weights: NDArray[np.int8], what: str) -> None:
        """Refuse weights of ``bits`` bits that have no code.

        Raises:
            UserError: names ``what`` and the weight.
        """
        lowest = -(1 << (self.bits - 1))
        if self.encoding == "differential" and weights.size and weights.min() == lowest:
            raise UserError(f"{what} hold {lowest}, which has no differential code of {self.bits} bits")
