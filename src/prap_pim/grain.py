"""The grain of the hardware: what one operation unit (OU) holds. The only place that knows it."""

from dataclasses import dataclass

from prap_pim.errors import UserError


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

    Source of the defaults: Shen et al., High-Confidence Computing 2023 (8x8 OU, 1-bit cells, 8-bit weights and inputs).
    """

    ou_rows: int = 8
    ou_columns: int = 8
    cell_bits: int = 1
    weight_bits: int = 8
    input_bits: int = 8
    dac_bits: int = 1

    def __post_init__(self) -> None:
        for name in ("ou_rows", "ou_columns", "cell_bits", "weight_bits", "input_bits", "dac_bits"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.cell_bits > self.weight_bits:
            raise UserError(f"cell_bits ({self.cell_bits}) must not exceed weight_bits ({self.weight_bits})")
        if self.dac_bits > self.input_bits:
            raise UserError(f"dac_bits ({self.dac_bits}) must not exceed input_bits ({self.input_bits})")

    @property
    def columns_per_weight(self) -> int:
        """Bitlines that the cells of one weight take."""
        return -(-self.weight_bits // self.cell_bits)

    @property
    def input_steps(self) -> int:
        """Steps in which an activation is applied."""
        return -(-self.input_bits // self.dac_bits)

    def row_groups(self, rows: int) -> int:
        """OU rows that ``rows`` im2col rows fill when packed densely."""
        return -(-rows // self.ou_rows)

    def ous(self, patterns: int) -> int:
        """OUs that ``patterns`` weight patterns of one row group fill."""
        return -(-patterns * self.columns_per_weight // self.ou_columns)
