"""The chip: operation unit, crossbar, PE, tile, buffers, links and conventions, read from a TOML file and checked."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_text
from prap_pim.common.settings import Settings, nearest
from prap_pim.common.texts import parse_toml, shown_value
from prap_pim.hardware.grain import Grain, combined_range

CHIPS = Path(__file__).parent / "chips"

Count = Annotated[int, Field(ge=1, le=2**20, strict=True)]
Side = Annotated[int, Field(ge=1, le=2**16, strict=True)]  # of a crossbar, in cells
Rate = Annotated[float, Field(ge=1, le=1e18)]  # a second: bits or clock cycles
Name = Annotated[str, Field(min_length=1)]

# Laws of a number of bits: cycles of a conversion, pulses of a read, growth of a converter's power.
LAWS: Mapping[str, Callable[[float], float]] = {
    "1": lambda bits: 1,
    "bits": lambda bits: bits,
    "bits+2": lambda bits: bits + 2,
    "2^bits": lambda bits: 2**bits,
    "2^bits-1": lambda bits: 2**bits - 1,
    "2^b/(b+1)": lambda bits: 2**bits / (bits + 1),
}


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
        crossbar_rows: cells of a crossbar from top to bottom. It holds whole OUs: rows that are left over (2 of 128
            with OUs of 9 rows) hold no weights.
        crossbar_columns: cells from left to right; likewise.
        adcs_per_crossbar: they share the columns of one OU; more than the OU has columns are idle.
        crossbars_per_adc: crossbars of a PE that share these ADCs, in fixed turns: a crossbar waits for the turns of
            the others, whether they have anything to convert or not. Needs ``sample_and_hold``.
        adc_bits: resolution.
        sample_and_hold: True: an OU is read once and its columns wait for the ADCs; False: it is read again for every
            round of conversions, as in the PRAP authors' model.
        adc_time: a conversion takes "1/rate" (pipelined converter), "bits/rate" (a step a bit), "(bits+2)/rate"
            (successive approximation), "2^bits/rate" (ramp), or what the table has for ``adc_bits`` ("by table").
        adc_energy: of a conversion: "power/rate", "power*bits/rate", "power*(bits+2)/rate" or "power*2^bits/rate".
        adc_scaling: "as published": the power of the table whatever ``adc_bits``; "bits", "2^bits", "2^b/(b+1)": scaled
            from the resolution of the table to ``adc_bits`` by this law; "by table": energy and area that the table
            gives for ``adc_bits``.
        conversions: "per column": each column of an OU is converted. "per weight": the currents of a weight's columns
            are weighted and combined first, so that a weight takes one conversion; of a weight that lies in two OUs,
            each part takes one. Needs ``sample_and_hold``.
        dac_time: pulses of a read, one after another, that bring n bits to a row: "1" (a level each), "bits" (a pulse a
            bit) or "2^bits-1" (a pulse a count, or pulses as long). Each takes the driving stages once.
        dac_energy: likewise, of the energy of rows driven, cells read and samples taken.
        crossbars_per_pe: crossbars that share the ports and buffers of a PE.
        pes_per_tile: PEs of a tile.
        max_tiles: tiles that the chip has; None: as many as the network needs. A network that needs more is written in
            turns.
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
    crossbars_per_adc: Count = 1
    adc_time: Literal["1/rate", "bits/rate", "(bits+2)/rate", "2^bits/rate", "by table"]
    adc_energy: Literal["power/rate", "power*bits/rate", "power*(bits+2)/rate", "power*2^bits/rate"]
    adc_scaling: Literal["as published", "bits", "2^bits", "2^b/(b+1)", "by table"]
    conversions: Literal["per column", "per weight"] = "per column"
    dac_time: Literal["1", "bits", "2^bits-1"] = "1"
    dac_energy: Literal["1", "bits", "2^bits-1"] = "1"
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

    _grain = field_validator("grain", mode="before")(Grain.given)

    @model_validator(mode="after")
    def _fits_together(self) -> "Chip":
        for what, cells, unit in (
            ("rows", self.crossbar_rows, self.grain.ou_rows),
            ("columns", self.crossbar_columns, self.grain.ou_columns),
        ):
            if cells < unit:
                raise ValueError(f"an OU of {unit} {what} does not fit a crossbar of {cells} {what}")
        if self.crossbars_per_pe % self.crossbars_per_adc:
            raise ValueError(
                f"crossbars_per_adc ({self.crossbars_per_adc}) must divide crossbars_per_pe ({self.crossbars_per_pe})"
            )
        for key, waits in (
            ("crossbars_per_adc", self.crossbars_per_adc > 1),
            ("conversions", self.conversions == "per weight"),
        ):
            if waits and not self.sample_and_hold:
                raise ValueError(f"{key} = {getattr(self, key)!r} needs sample_and_hold = true")
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
        return self.rounds(self.grain)

    @property
    def reads_per_step(self) -> int:
        """Times that an OU is driven and read in one input step."""
        return 1 if self.sample_and_hold else self.conversion_rounds

    def rounds(self, grain: Grain) -> int:
        """Rounds of conversions that a full OU needs, weights being cut as ``grain`` says (``Grain.of_bits``)."""
        needed = grain.ou_columns
        if self.conversions == "per weight":
            whole = grain.ou_columns % grain.columns_per_weight == 0  # else a weight may lie at both ends
            needed = min(needed, -(-grain.ou_columns // grain.columns_per_weight) + (not whole))
        return -(-needed // self.adcs_per_crossbar)

    def input_pulses(self, law: str, grain: Grain | None = None) -> int:
        """Pulses of all steps of an input of the chip's, or a plan's, bits, by ``dac_time`` or ``dac_energy``;
        ``grain.input_steps`` if every step is a level."""
        return sum(int(LAWS[law](bits)) for bits in (grain or self.grain).step_bits())

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
        grain, low = self.grain, 0
        high = 2 ** min(grain.cell_bits, grain.weight_bits - (grain.encoding == "differential")) - 1  # of one cell
        if self.conversions == "per weight":
            low, high = combined_range(grain.weight_bits, grain.weight_encoding)
        driven = grain.ou_rows * (2**grain.dac_bits - 1)
        widest = max(driven * high, driven * -low - 1)  # codes go from -2**n to 2**n - 1
        return int(widest).bit_length() + (low < 0)

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
