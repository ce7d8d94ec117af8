"""How a plan becomes cells and how these are read: all settings of the bit-true model."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from prap_pim.common.settings import Settings
from prap_pim.crossbar.device import Device
from prap_pim.crossbar.slices import Slices, WeightSlices
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.grain import Grain, combined_range
from prap_pim.ir.plan import LayerPlan

Bits = Annotated[int, Field(ge=2, le=62, strict=True)]


class DonorCopies(Settings):
    """The most used donors are stored several times, and the mean of what the copies give is taken.

    Attributes:
        share: of a layer's donors, those with the most uses (of equals the first), rounded up.
        copies: how often each is stored: a power of two, so that the mean is a shift, rounded half up.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    copies: Literal[2, 4, 8, 16]


class CrossbarModel(Settings):
    """What stands between a plan and its accumulators.

    Attributes:
        grain: geometry of the OU, bits of cells, weights, inputs and DACs.
        adc_bits: the ADC has the codes 0..2**adc_bits - 1.
        adc_range: "clip": a code stands for one count, larger counts are clipped. "scale": a code stands for the least
            power of two of counts with which the largest count has a code.
        conversions: "per column", or "per weight": the currents of a weight's columns are weighted and combined before
            the ADC. If they may be negative, its codes are ``-2**(adc_bits - 1)``..``2**(adc_bits - 1) - 1``.
        encoding: of the weights. "two's complement" (1-bit cells alone: the top cell counts negative), "offset"
            (2**(weight_bits - 1) is added and taken off digitally) or "differential" (two sets of columns for the
            magnitudes of positive and negative weights, subtracted digitally; the most negative weight has no code).
            None: the grain's; if it has none, two's complement for 1-bit cells, offset for wider ones.
        dot_bits: width of the register for a donor's dot product, sign included; None: wide enough.
        accumulator_bits: width of a filter's accumulator, sign included; None: wide enough.
        fraction_bits: binary places that accumulators keep of what uses with negative exponents add; a shift drops
            the others (towards minus infinity). None: all that the plan has.
        overflow: what registers and accumulators do that are too narrow; it is counted.
        copies: donors that are stored several times; None: each once.
        device: the cells; None: ideal.
    """

    grain: Grain = Grain()
    adc_bits: Annotated[int, Field(ge=1, le=62, strict=True)]
    adc_range: Literal["clip", "scale"] = "clip"
    conversions: Literal["per column", "per weight"] = "per column"
    encoding: Literal["two's complement", "offset", "differential"] | None = None
    dot_bits: Bits | None = None
    accumulator_bits: Bits | None = None
    fraction_bits: Annotated[int, Field(ge=0, le=62, strict=True)] | None = None
    overflow: Literal["saturate", "wrap"] = "saturate"
    copies: DonorCopies | None = None
    device: Device | None = None

    @staticmethod
    def of(chip: Chip, **changes: Any) -> "CrossbarModel":
        """The chip's grain, ADC and accumulators, and any other field as given.

        Raises:
            UserError: a field is wrong.
        """
        fields = {"grain": chip.grain, "adc_bits": chip.adc_bits, "accumulator_bits": chip.partial_sum_bits}
        if chip.conversions != "per column":
            fields["conversions"] = chip.conversions
        return CrossbarModel.checked({**fields, **changes}, f"crossbars of chip {chip.name}")

    _grain = field_validator("grain", mode="before")(Grain.given)

    @model_validator(mode="after")
    def _encodable(self) -> "CrossbarModel":
        if self.encoding == "two's complement" and self.grain.cell_bits > 1:
            raise ValueError(
                f"two's complement needs 1-bit cells, not {self.grain.cell_bits}: a wider top cell holds no sign alone"
            )
        if self.encoding == "differential" and self.grain.weight_bits < 2:
            raise ValueError("differential weights need at least 2 bits")
        return self

    @property
    def input_slices(self) -> Slices:
        """How an input is cut into steps."""
        return Slices(self.grain.input_bits, self.grain.dac_bits)

    @property
    def weight_encoding(self) -> str:
        """``encoding``, or the one that the cells call for."""
        return self.encoding or self.grain.weight_encoding

    def weight_slices(self, plan: LayerPlan) -> WeightSlices:
        """How a weight of the plan is cut into cells.

        Raises:
            UserError: it has more bits than the model's weights.
        """
        grain = self.grain.of_bits(plan.weight_bits)
        return WeightSlices(grain.weight_bits, grain.cell_bits, self.weight_encoding)

    def count_range(self, plan: LayerPlan) -> tuple[int, int]:
        """The lowest and the highest count of an ideal bitline, or of the combined bitlines of a weight."""
        weights, driven = self.weight_slices(plan), int(plan.rows.shape[1]) * self.input_slices.largest_digit
        if self.conversions == "per column":
            return 0, driven * weights.highest_stored
        low, high = combined_range(weights.bits, weights.encoding)
        return driven * low, driven * high

    @property
    def noise_free(self) -> bool:
        """Whether the cells are ideal."""
        return self.device is None or self.device.ideal

    def adc_step(self, largest_count: int, signed: bool = False) -> int:
        """Counts that one code stands for."""
        if self.adc_range == "clip":
            return 1
        codes = max(1, (1 << (self.adc_bits - signed)) - 1)
        return 1 << (-(-largest_count // codes) - 1).bit_length()
