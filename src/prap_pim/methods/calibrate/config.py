"""The settings of calibrated reuse."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from prap_pim.common.settings import Settings


class CalibratedReuse(Settings):
    """Donors that keep each layer's output on calibration inputs; no labels, no training.

    Attributes:
        compute_ratio: OU steps of the network, of the dense one's.
        max_drop: instead: the least compute ratio at which at most this share of the calibration inputs is classified
            otherwise than by the network itself.
        shapes: what the filters of a 3x3 layer may keep of a kernel: 9 positions (all of it), 8 or 4; the budget
            chooses for each layer. A layer whose OU rows none of them fills keeps all of it.
        balance: for a pipeline of layers, whose interval its slowest layer sets: no layer takes longer than the
            compute ratio times the dense network's slowest layer, on the crossbars that its dense plan takes. It costs
            accuracy.
        passes: over all row groups of a layer after the first one.
        mimic: how far each layer makes good what the layers before it have changed, 0 (not at all) to 1. What is made
            good on a few inputs is in part peculiar to them: half of it loses less on others.
        damping: added to the covariance of a layer's inputs, in its mean diagonal; where a layer sees few im2col rows,
            at least a tenth of its inputs over its rows.
        update_weight: what adding up one partial sum counts, in OU steps: a filter does without a row group that would
            gain it less than that much more computing would gain elsewhere. 0: every gain is taken.
        outputs: what outputs of the network count, by name (a key, or a number in order); 0 leaves one out, those that
            are not named count 1.
    """

    kind: Literal["calibrated"] = "calibrated"
    compute_ratio: float | None = Field(default=None, gt=0, le=1)
    max_drop: float | None = Field(default=None, ge=0, le=1)
    shapes: tuple[Literal[9, 8, 4], ...] = Field(default=(9, 8, 4), min_length=1)
    balance: bool = False
    passes: int = Field(default=3, ge=0, le=100)
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
