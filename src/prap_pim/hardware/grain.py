"""The grain of the hardware: what one operation unit (OU) holds. The only place that knows it."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest
from prap_pim.common.texts import shown_value

Encoding = Literal["two's complement", "offset", "differential"]

_WHOLE = 8  # bits of a weight that methods do not store in fewer
_MOST = {  # of each setting
    "ou_rows": 4096,
    "ou_columns": 4096,
    "cell_bits": 16,
    "weight_bits": 32,
    "input_bits": 32,
    "dac_bits": 16,
}


@dataclass(frozen=True)
class Grain:
    """Geometry of an operation unit, the cells of a crossbar that are read in one step.

    Attributes:
        ou_rows: wordlines of an OU (h); the length of a weight pattern.
        ou_columns: bitlines of an OU (w).
        cell_bits: bits that one cell stores.
        weight_bits: bits of one weight.
        input_bits: bits of one activation, applied bit-serially.
        dac_bits: input bits applied in one step.
        encoding: how a signed weight becomes cells. "two's complement" and "offset" take a cell for every ``cell_bits``
            bits; "differential" takes two sets of cells, for the magnitudes of positive and of negative weights, with a
            bit less each. None: two's complement for 1-bit cells, offset for wider ones.

    Source of the defaults: Shen et al., High-Confidence Computing 2023 (8x8 OU, 1-bit cells, 8-bit weights and inputs).
    """

    ou_rows: int = 8
    ou_columns: int = 8
    cell_bits: int = 1
    weight_bits: int = 8
    input_bits: int = 8
    dac_bits: int = 1
    encoding: Encoding | None = None

    def __new__(cls, *_: Any, **named: Any) -> "Grain":
        """
        Raises:
            UserError: there is no such setting.
        """
        known = list(cls.__dataclass_fields__)
        for name in named:
            if name not in known:
                raise UserError(f"unknown key {shown_value(name)} ({nearest(name, known)})")
        return super().__new__(cls)

    @staticmethod
    def given(value: Any) -> Any:
        """Settings by name, for pydantic to check: what is wrong is a ValueError."""
        if not isinstance(value, dict):
            return value
        try:
            return Grain(**{str(key): number for key, number in value.items()})
        except UserError as error:
            raise ValueError(str(error)) from error

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UserError(f"{name} must be a whole number, not {shown_value(value)}")
            if not 1 <= value <= most:
                limit = "at least 1" if value < 1 else f"at most {most}"
                raise UserError(f"{name} must be {limit}, not {shown_value(value)}")
        if self.cell_bits > self.weight_bits:
            raise UserError(f"cell_bits ({self.cell_bits}) must not exceed weight_bits ({self.weight_bits})")
        if self.dac_bits > self.input_bits:
            raise UserError(f"dac_bits ({self.dac_bits}) must not exceed input_bits ({self.input_bits})")
        if self.encoding not in (None, *get_args(Encoding)):
            raise UserError(f"encoding must be {' or '.join(get_args(Encoding))}, not {self.encoding!r}")
        if self.encoding == "two's complement" and self.cell_bits > 1:
            raise UserError(
                f"two's complement needs 1-bit cells, not {self.cell_bits}: a wider top cell holds no sign alone"
            )
        if self.encoding == "differential" and self.weight_bits < 2:
            raise UserError("differential weights need at least 2 bits")

    @property
    def columns_per_weight(self) -> int:
        """Bitlines that the cells of one weight take."""
        if self.encoding == "differential":
            return 2 * -(-(self.weight_bits - 1) // self.cell_bits)
        return -(-self.weight_bits // self.cell_bits)

    def step_bits(self) -> tuple[int, ...]:
        """Input bits of each step of an input: ``dac_bits``, and in the last one what is left."""
        return tuple(min(self.dac_bits, self.input_bits - begin) for begin in range(0, self.input_bits, self.dac_bits))

    @property
    def stored_bits(self) -> int:
        """Bits of the weights that methods store: those of the chip's weights, at most 8."""
        return min(_WHOLE, self.weight_bits)

    def reading(self, bits: int) -> "Grain":
        """The grain as it reads inputs of ``bits`` bits, if the chip's have more."""
        if bits >= min(_WHOLE, self.input_bits):
            return self
        return replace(self, input_bits=bits, dac_bits=min(self.dac_bits, bits))

    @property
    def weight_encoding(self) -> Encoding:
        """``encoding``, or the one that the cells call for."""
        return self.encoding or ("two's complement" if self.cell_bits == 1 else "offset")

    def of_bits(self, bits: int) -> "Grain":
        """The grain as the donors of a plan fill it, whose weights have ``bits`` bits.

        Those of 8 bits take what the chip gives a weight, ``weight_bits``, be it more. Narrower ones take their own
        bits, and at least a cell.

        Raises:
            UserError: the chip's weights have fewer.
        """
        if bits > self.weight_bits:
            raise UserError(f"a plan of {bits}-bit weights does not fit a chip of {self.weight_bits}-bit weights")
        return self if bits == _WHOLE else replace(self, weight_bits=max(bits, self.cell_bits))

    @property
    def input_steps(self) -> int:
        """Steps in which an activation is applied."""
        return -(-self.input_bits // self.dac_bits)

    def row_groups(self, rows: int) -> int:
        """OU rows that ``rows`` im2col rows fill when packed densely."""
        return -(-rows // self.ou_rows)

    def dense_cut(self, rows: int, filters: int, groups: int = 1) -> tuple[int, ...]:
        """Where the row groups of a layer without pruning or reuse begin; ``rows`` at the end.

        A row group is a stretch of im2col rows, and every filter of the convolution groups that they belong to has a
        pattern in it, those of several groups side by side, each with zeros on the others' rows. A stretch has at most
        ``ou_rows`` rows of at most p groups, p being the one that takes the fewest OUs (of equals the least). p is 1, a
        group by itself, where the filters of a group fill whole OUs: an OU gives each of its filters at most
        ``ou_rows`` rows, so R rows of O filters take at least ceil(R / ou_rows) * O OUs of one filter each. Where two
        groups' filters fit an OU, a stretch runs on from group to group, and no row is driven twice.
        """
        return _dense_cut(self, rows, filters // groups, groups)[0]

    def dense_ous(self, rows: int, filters: int, groups: int = 1) -> int:
        """OUs of a layer without pruning or reuse, cut as ``dense_cut`` says."""
        return _dense_cut(self, rows, filters // groups, groups)[1]

    def ous(self, patterns: int) -> int:
        """OUs that ``patterns`` weight patterns of one row group fill."""
        return -(-patterns * self.columns_per_weight // self.ou_columns)


def combined_range(bits: int, encoding: str) -> tuple[int, int]:
    """The lowest and the highest that the combined columns of a weight of so many bits stand for."""
    if encoding == "offset":
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)) + (encoding == "differential"), 2 ** (bits - 1) - 1


@cache
def _dense_cut(grain: Grain, rows: int, filters: int, groups: int) -> tuple[tuple[int, ...], int]:
    """``Grain.dense_cut`` of ``groups`` groups of ``filters`` filters each, and its OUs."""
    fan_in = rows // groups
    found: list[tuple[tuple[int, ...], int]] = []
    alone = filters * grain.columns_per_weight % grain.ou_columns == 0  # a group's filters fill whole OUs
    for most in range(1, 1 + (1 if alone else min(groups, grain.ou_rows))):
        cut, ous = [0], 0
        while (first := cut[-1]) < rows:
            cut.append(min(first + grain.ou_rows, (first // fan_in + most) * fan_in, rows))
            ous += grain.ous(((cut[-1] - 1) // fan_in - first // fan_in + 1) * filters)
        found.append((tuple(cut), ous))
    return min(found, key=lambda each: each[1])
