"""The chip: operation unit, crossbar, PE, tile, buffers, links and conventions, read from a TOML file and checked."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_text
from prap_pim.common.settings import Settings, nearest
from prap_pim.common.texts import parse_toml, shown_value
from prap_pim.hardware.grain import Grain

CHIPS = Path(__file__).parent / "chips"

Count = Annotated[int, Field(ge=1, le=2**20, strict=True)]
Side = Annotated[int, Field(ge=1, le=2**16, strict=True)]  # of a crossbar, in cells
Rate = Annotated[float, Field(ge=1, le=1e18)]  # a second: bits or clock cycles
Name = Annotated[str, Field(min_length=1)]


class Chip(Settings):
    """A ReRAM accelerator: tiles hold PEs, PEs hold crossbars, a crossbar is read one operation unit (OU) at a time.

    Who owns what: a crossbar has its input registers, DACs, ADCs, shift-adder, output register and an adder for
    partial sums; a PE has one port to the input buffer, one partial-sum buffer and one index port that its crossbars
    share; a tile has the buffers, an intra-tile bus and a port to the other tiles, and belongs to one layer (as in
    ISAAC and in the PRAP authors' model). To gather, a crossbar has registers for the dot products of two positions
    as well, and a PE a tree of adders.

    Attributes:
        name: what to call it in reports.
        description: one line on it.
        components: name of the component table in ``hardware/tables``, or the path of a user's.
        grain: geometry of the OU, bits of weights, inputs and DACs.
        crossbar_rows: cells of a crossbar from top to bottom; OUs tile it without remainder.
        crossbar_columns: cells from left to right; likewise.
        adcs_per_crossbar: they share the columns of one OU; more than the OU has columns are idle.
        adc_bits: resolution.
        sample_and_hold: True: an OU is read once and its columns wait for the ADCs; False: it is read again for every
            round of conversions, as in the PRAP authors' model.
        adc_time: a conversion takes "1/rate" (pipelined converter) or "(bits+2)/rate" (successive approximation).
        adc_energy: of a conversion: "power/rate" or "power*(bits+2)/rate".
        adc_scaling: "as published": the power of the table whatever ``adc_bits``; "2^b/(b+1)": scaled from the
            resolution of the table to ``adc_bits`` as ISAAC does; "by table": energy and area that the table gives for
            ``adc_bits``.
        crossbars_per_pe: crossbars that share the ports and buffers of a PE.
        pes_per_tile: PEs of a tile.
        max_tiles: tiles that the chip has; None: as many as the network needs.
        mesh_columns: tiles stand row by row in a mesh of this width; hops are Manhattan distances in it.
        buffer_port_bits: width of one access to the input buffer and the index buffer.
        partial_sum_bits: width of an accumulator; one access of the partial-sum buffer reads or writes one, to gather
            as many neighbouring ones as ``buffer_port_bits`` hold.
        accumulate: "scatter": as a donor is finished, each of its uses reads, adds to and writes its filter's
            accumulator. "gather": the dot products of a position are kept in registers; filter by filter, a PE adds up
            what its crossbars' donors give, and then updates the accumulator once.
        digital_lanes: digital operations that a layer's tile does at once.
        clock_hz: of the digital lanes.
        intra_tile_bits_per_s: rate of a tile's bus.
        inter_tile_bits_per_s: rate of a tile's port to the others.
    """

    name: Name
    description: Name
    components: Name
    grain: Grain
    crossbar_rows: Side
    crossbar_columns: Side
    adcs_per_crossbar: Count
    adc_bits: Annotated[int, Field(ge=1, le=16, strict=True)]
    sample_and_hold: Annotated[bool, Field(strict=True)]
    adc_time: Literal["1/rate", "(bits+2)/rate"]
    adc_energy: Literal["power/rate", "power*(bits+2)/rate"]
    adc_scaling: Literal["as published", "2^b/(b+1)", "by table"]
    crossbars_per_pe: Count
    pes_per_tile: Count
    max_tiles: Count | None = None
    mesh_columns: Count
    buffer_port_bits: Count
    partial_sum_bits: Annotated[int, Field(ge=2, le=62, strict=True)]  # the bit-true model adds up in 64 bits
    accumulate: Literal["scatter", "gather"] = "scatter"
    digital_lanes: Count
    clock_hz: Rate
    intra_tile_bits_per_s: Rate
    inter_tile_bits_per_s: Rate

    @field_validator("grain", mode="before")
    @classmethod
    def _grain(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = list(Grain.__dataclass_fields__)
        for key, number in value.items():
            if key not in known:
                raise ValueError(f"unknown key {shown_value(key)} ({nearest(str(key)[:40], known)})")
            if not isinstance(number, int) or isinstance(number, bool):
                raise ValueError(f"{key} must be a whole number, not {shown_value(number)}")
        try:
            return Grain(**value)
        except UserError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _ous_tile_the_crossbar(self) -> "Chip":
        for what, cells, unit in (
            ("rows", self.crossbar_rows, self.grain.ou_rows),
            ("columns", self.crossbar_columns, self.grain.ou_columns),
        ):
            if cells % unit:
                raise ValueError(f"an OU of {unit} {what} does not divide a crossbar of {cells} {what}")
        return self

    @property
    def ous_per_crossbar(self) -> int:
        """OUs that a crossbar holds."""
        return (self.crossbar_rows // self.grain.ou_rows) * (self.crossbar_columns // self.grain.ou_columns)

    @property
    def crossbars_per_tile(self) -> int:
        """Crossbars of all PEs of a tile."""
        return self.crossbars_per_pe * self.pes_per_tile

    @property
    def conversion_rounds(self) -> int:
        """Conversions one after another that all columns of an OU need: its ADCs work side by side."""
        return self.rounds(self.grain.ou_columns)

    @property
    def reads_per_step(self) -> int:
        """Times that an OU is driven and read in one input step."""
        return 1 if self.sample_and_hold else self.conversion_rounds

    def rounds(self, columns: int) -> int:
        """Rounds of conversions for ``columns`` columns of an OU."""
        return -(-columns // self.adcs_per_crossbar)

    @property
    def gathers(self) -> bool:
        """Whether partial sums are added up filter by filter."""
        return self.accumulate == "gather"

    @property
    def sums_per_access(self) -> int:
        """Accumulators that one access of the partial-sum buffer reads or writes."""
        return max(1, self.buffer_port_bits // self.partial_sum_bits) if self.gathers else 1

    @property
    def dot_bits(self) -> int:
        """Bits of a dot product, sign included: a product's, and the rows of an OU are added up."""
        return self.grain.input_bits + self.grain.weight_bits + (self.grain.ou_rows - 1).bit_length()

    def hops(self, tile: int, other: int) -> int:
        """Links between two tiles of the mesh."""
        (row, column), (other_row, other_column) = divmod(tile, self.mesh_columns), divmod(other, self.mesh_columns)
        return abs(row - other_row) + abs(column - other_column)

    @property
    def lossless_adc_bits(self) -> int:
        """ADC bits that tell apart every sum that the column of an OU can have."""
        largest = self.grain.ou_rows * (2**self.grain.cell_bits - 1) * (2**self.grain.dac_bits - 1)
        return math.ceil(math.log2(largest + 1))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but probably not meant, one line each."""
        found = []
        if self.adc_bits < self.lossless_adc_bits:
            found.append(
                f"chip {self.name}: an ADC of {self.adc_bits} bits cannot count what the {self.grain.ou_rows} rows "
                f"of an OU sum to; {self.lossless_adc_bits} bits lose nothing"
            )
        if self.adcs_per_crossbar > self.grain.ou_columns:
            found.append(
                f"chip {self.name}: {self.adcs_per_crossbar} ADCs share the {self.grain.ou_columns} columns of an OU: "
                f"{self.adcs_per_crossbar - self.grain.ou_columns} are idle"
            )
        return tuple(found)


def preset_names() -> list[str]:
    """The chips that come with the package."""
    return sorted(path.stem for path in CHIPS.glob("*.toml"))


def load_chip(name_or_path: str | Path | Chip) -> Chip:
    """Read a preset by name, or a user's TOML file by path; a chip is itself.

    Raises:
        UserError: there is no such preset or file, it is not TOML, or a value in it is unknown, missing or wrong.
    """
    if isinstance(name_or_path, Chip):
        return name_or_path
    if not isinstance(name_or_path, str | Path):
        raise UserError(f"a chip is a preset's name or a TOML file, not {shown_value(name_or_path)}")
    names = preset_names()
    path = CHIPS / f"{name_or_path}.toml" if str(name_or_path) in names else Path(name_or_path)
    if path.suffix != ".toml":
        raise UserError(f"no chip {str(name_or_path)!r} ({nearest(str(name_or_path), names)}); a file ends in .toml")
    return Chip.checked(read_toml(path), str(name_or_path))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        UserError: it is missing, unreadable or not TOML.
    """
    return parse_toml(read_text(path), str(path))
