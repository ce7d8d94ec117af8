"""The settings of calibrated reuse."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from prap_pim.common.settings import Settings


class CalibratedReuse(Settings):
    """Calibrated reuse of a network; what each setting is: ``Calibrated``."""

    kind: Literal["calibrated"] = "calibrated"
    compute_ratio: float | None = Field(default=None, gt=0, le=1)
    max_drop: float | None = Field(default=None, ge=0, le=1)
    shapes: tuple[Literal[9, 8, 4], ...] = Field(default=(9,), min_length=1)
    bits: tuple[Annotated[int, Field(ge=2, le=8)], ...] = Field(default=(3, 4, 5), min_length=1)
    uses: int = Field(default=3, ge=1, le=4)
    balance: bool = False
    passes: int = Field(default=1, ge=0, le=100)
    mimic: float = Field(default=0.5, ge=0, le=1)
    damping: float = Field(default=0.03, ge=1e-6, le=10)
    update_weight: float = Field(default=0.05, ge=0, le=1000)
    outputs: dict[str, float] | None = Field(default=None, min_length=1)

    @field_validator("outputs", mode="before")
    @classmethod
    def _by_number(cls, outputs: Any) -> Any:
        return {str(name): weight for name, weight in outputs.items()} if isinstance(outputs, Mapping) else outputs

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.compute_ratio is None) == (self.max_drop is None):
            raise ValueError("give either compute_ratio (--ratio) or max_drop (--max-drop)")
        return self
