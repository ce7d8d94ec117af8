"""The settings of the methods that share one budget out among the layers of a network: calibrated reuse, low bits."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from prap_pim.common.settings import Settings
from prap_pim.hardware.grain import Grain

Bits = Annotated[int, Field(ge=2, le=8)]


Quantity = Literal["compute", "energy", "latency", "interval"]


class Budget(Settings):
    """Exactly one share of what the dense network takes on the chip; what each is: ``Calibrated``."""

    compute: float | None = Field(default=None, gt=0, le=1)
    energy: float | None = Field(default=None, gt=0, le=1)
    latency: float | None = Field(default=None, gt=0, le=1)
    interval: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_quantity(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        return self


class _Budget(Settings):
    """What they have in common; what each setting is: ``Calibrated``."""

    compute_ratio: float | None = Field(default=None, gt=0, le=1)
    budget: Budget | None = None
    max_drop: float | None = Field(default=None, ge=0, le=1)
    balance: bool = False
    mimic: float = Field(default=0.5, ge=0, le=1)
    damping: float = Field(default=0.03, ge=1e-6, le=10)
    fisher: float = Field(default=0.0, ge=0, le=1)
    outputs: dict[str, float] | None = Field(default=None, min_length=1)
    _wanted: ClassVar[str] = "give either compute_ratio (--ratio), budget (--budget) or max_drop (--max-drop)"

    @field_validator("outputs", mode="before")
    @classmethod
    def _by_number(cls, outputs: Any) -> Any:
        return {str(name): weight for name, weight in outputs.items()} if isinstance(outputs, Mapping) else outputs

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = 3 - [self.compute_ratio, self.budget, self.max_drop].count(None)
        if given != 1 and not (given == 0 and self.uniform):
            raise ValueError(self._wanted)
        if self.balance and self.budget is not None and self.budget.interval is not None:
            raise ValueError("a budget of the interval bounds every layer's time already: leave balance out")
        return self

    @property
    def share(self) -> tuple[Quantity, float] | None:
        """What is limited, and to which share of the dense network's; None where ``max_drop`` or the bits decide."""
        if self.compute_ratio is not None:
            return "compute", self.compute_ratio
        if self.budget is None:
            return None
        return next((name, share) for name in get_args(Quantity) if (share := getattr(self.budget, name)) is not None)

    @property
    def uniform(self) -> bool:
        """Whether every layer is treated alike, so that there is nothing to share out."""
        return False


class CalibratedReuse(_Budget):
    """Calibrated reuse of a network; what each setting is: ``Calibrated``."""

    kind: Literal["calibrated"] = "calibrated"
    shapes: tuple[Literal[9, 8, 4], ...] = Field(default=(9,), min_length=1)
    bits: tuple[Bits, ...] = Field(default=(3, 4, 5), min_length=1)
    uses: int = Field(default=3, ge=1, le=4)
    passes: int = Field(default=1, ge=0, le=100)
    update_weight: float = Field(default=0.05, ge=0, le=1000)
    title: ClassVar[str] = "calibrated reuse"
    prunes: ClassVar[str] = "prunes by itself (reuse.shapes)"
    own: ClassVar[bool] = False  # whether every filter stores its own patterns


class LowBits(_Budget):
    """Weights of few bits, every filter its own patterns; what each setting is: ``LowBit``."""

    kind: Literal["lowbit"] = "lowbit"
    bits: tuple[Bits, ...] = Field(default=(8, 6, 4, 3, 2), min_length=1)
    title: ClassVar[str] = "lowbit"
    prunes: ClassVar[str] = "prunes nothing"
    own: ClassVar[bool] = True
    shapes: ClassVar[tuple[int, ...]] = ()  # no donors are shared
    uses: ClassVar[int] = 1
    passes: ClassVar[int] = 0
    update_weight: ClassVar[float] = 0.0
    _wanted: ClassVar[str] = (
        "give compute_ratio (--ratio), budget (--budget), max_drop (--max-drop), or one number of bits alone"
    )

    @property
    def uniform(self) -> bool:
        """Whether all layers have as many bits."""
        return len(set(self.bits)) == 1


Budgeted = CalibratedReuse | LowBits


def fitting(config: Budgeted, grain: Grain) -> Budgeted:
    """The settings on a chip: numbers of bits that nobody chose are at most those of its weights."""
    if config.bits != type(config).model_fields["bits"].default:
        return config
    fits = dict.fromkeys(min(each, max(2, grain.stored_bits)) for each in config.bits)
    return config.model_copy(update={"bits": tuple(fits)})
