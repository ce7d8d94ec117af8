"""What a method is: how to prune and whose patterns to reuse, for every layer of a network."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings, nearest
from prap_pim.ir.network import Network
from prap_pim.methods.calibrate.config import Budgeted, CalibratedReuse, LowBits
from prap_pim.methods.prune import NoPruning, PruneConfig
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, ReuseConfig, SimilarReuse

AnyReuse = Annotated[IdenticalReuse | NoReuse | SimilarReuse | CalibratedReuse | LowBits, Field(discriminator="kind")]

METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")  # of a folder


class LayerRule(Settings):
    """Other settings for some layers of a method; the first rule that matches a layer's name counts."""

    layers: str  # a name, or a pattern with * and ?
    prune: PruneConfig = NoPruning()
    reuse: ReuseConfig = NoReuse()


class Tune(Settings):
    """Label-free tuning of a compressed network: it is trained to give the original network's outputs.

    Attributes:
        steps: of gradient descent.
        inputs: calibration inputs of a step, drawn at random.
        mixed: share of them that are mixed with others: few inputs then show more of what the network does.
        rate: of the filters' steps, biases and norms: the most that they change by in a step, of their size; it falls
            to 0 along a cosine, and rises for the first tenth of the steps.
        donor_rate: likewise of the donors, in the integers that they are rounded to: 4-bit donors move further than
            those of 8 bits, which are nearer to what they stand for.
    """

    steps: int = Field(default=300, ge=1, le=1_000_000)
    inputs: int = Field(default=32, ge=1, le=2**20)
    mixed: float = Field(default=0.5, ge=0, le=1)
    rate: float = Field(default=2e-4, gt=0, le=1)
    donor_rate: float = Field(default=0.01, ge=0, le=1)

    @staticmethod
    def given(value: "Tune | Mapping[str, Any] | int | None") -> "Tune | None":
        """As a user gives it: settings by name will do, or the number of steps.

        Raises:
            UserError: there is no such setting, or it is wrong.
        """
        if isinstance(value, Tune | None):
            return value
        return Tune.checked(dict(value) if isinstance(value, Mapping) else {"steps": value}, "tune")


class MethodConfig(Settings):
    """A method: how to prune, whose patterns to reuse, and how to train afterwards: with labels (``finetune``), or
    without (``tune``)."""

    name: str
    description: str = ""
    prune: PruneConfig = NoPruning()
    reuse: AnyReuse = NoReuse()
    exceptions: tuple[LayerRule, ...] = ()
    finetune: bool = True
    tune: Tune | None = None
    method: str | None = None  # with compute_ratio: which method; None: that of its name
    compute_ratio: float | None = Field(default=None, gt=0, le=1)  # in the place of prune and reuse

    @model_validator(mode="after")
    def _ratio_alone(self) -> Self:
        if self.compute_ratio is None and self.method is not None:
            raise ValueError("method is of use with a compute_ratio alone: give prune and reuse, or that")
        if self.compute_ratio is not None:
            rules = ((rule.prune, rule.reuse) for rule in self.exceptions)
            if any(each != (NoPruning(), NoReuse()) for each in ((self.prune, self.reuse), *rules)):
                raise ValueError("compute_ratio decides how to prune and reuse: exceptions can only leave layers dense")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_training(cls, data: Any) -> Any:
        """What is tuned without labels is not fine-tuned with them."""
        if isinstance(data, Mapping) and data.get("tune") is not None:
            if data.get("finetune"):
                raise ValueError("finetune trains with labels, tune without: choose one of them")
            return {**data, "finetune": False}
        return data

    @field_validator("name")
    @classmethod
    def _of_a_folder(cls, name: str) -> str:
        if not METHOD_NAME.fullmatch(name):
            raise ValueError("must be 1 to 64 letters, digits and _.+-, the first a letter or digit")
        return name

    @model_validator(mode="after")
    def _calibrated_alone(self) -> Self:
        if isinstance(self.reuse, Budgeted):
            if self.prune != NoPruning():
                raise ValueError(f"{self.reuse.title} {self.reuse.prunes}: leave prune out")
            if any((rule.prune, rule.reuse) != (NoPruning(), NoReuse()) for rule in self.exceptions):
                raise ValueError(f"{self.reuse.title} has one budget: an exception can only leave layers dense")
        return self

    def layer_settings(self, network: Network) -> dict[str, tuple[PruneConfig, AnyReuse]]:
        """The pruning and reuse of every layer, by name.

        Raises:
            UserError: an exception matches no layer (a misspelt name would otherwise be ignored silently).
        """
        names = [layer.name for layer in network.layers]
        for rule in self.exceptions:
            if not any(fnmatchcase(name, rule.layers) for name in names):
                raise UserError(
                    f"method {self.name}: exceptions name {rule.layers!r}, which matches no layer "
                    f"({nearest(rule.layers, names)})"
                )
        return {name: self._setting(name) for name in names}

    def _setting(self, name: str) -> tuple[PruneConfig, AnyReuse]:
        for rule in self.exceptions:
            if fnmatchcase(name, rule.layers):
                return rule.prune, rule.reuse
        return self.prune, self.reuse


def with_tune(method: MethodConfig, given: Tune | Mapping[str, Any] | int | None) -> MethodConfig:
    """A method that is tuned as a call asks for, if it does.

    Raises:
        UserError: a setting is wrong, or the method has some already.
    """
    tune = Tune.given(given)
    if tune is None:
        return method
    if method.tune is not None:
        raise UserError(f"tune is given twice: to method {method.name} and to the call")
    return method.model_copy(update={"tune": tune, "finetune": False})
