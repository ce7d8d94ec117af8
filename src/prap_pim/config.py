"""The configuration of one run, as a user's YAML file gives it."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from prap_pim.calibrate import CalibratedReuse
from prap_pim.data import DataConfig, DigitsConfig
from prap_pim.errors import UserError
from prap_pim.method_presets import with_presets
from prap_pim.models import ModelConfig, ResNetConfig
from prap_pim.network import Network
from prap_pim.prune import NoPruning, PruneConfig
from prap_pim.quantize import QuantizeConfig
from prap_pim.reuse import IdenticalReuse, NoReuse, ReuseConfig, SimilarReuse
from prap_pim.settings import Settings, nearest, read_yaml
from prap_pim.training import PRAP_2023, TrainingConfig

_SCHEDULES = {"prap-2023": PRAP_2023}


def _schedule(value: Any) -> Any:
    """A schedule's name stands for its settings, "none" for no training."""
    if value == "none":
        return None
    if isinstance(value, str):
        if value not in _SCHEDULES:
            raise ValueError(f"unknown schedule ({nearest(value, ['none', *_SCHEDULES])})")
        return _SCHEDULES[value]
    return value


AnyReuse = Annotated[IdenticalReuse | NoReuse | SimilarReuse | CalibratedReuse, Field(discriminator="kind")]


class LayerRule(Settings):
    """Other settings for some layers of a method; the first rule that matches a layer's name counts."""

    layers: str  # a name, or a pattern with * and ?
    prune: PruneConfig = NoPruning()
    reuse: ReuseConfig = NoReuse()


class MethodConfig(Settings):
    """A method: how to prune, whose patterns to reuse, and whether to fine-tune afterwards."""

    name: str
    description: str = ""
    prune: PruneConfig = NoPruning()
    reuse: AnyReuse = NoReuse()
    exceptions: tuple[LayerRule, ...] = ()
    finetune: bool = True

    @field_validator("name")
    @classmethod
    def _of_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", name):
            raise ValueError("must be 1 to 64 letters, digits and _.+-, the first a letter or digit")
        return name

    @model_validator(mode="after")
    def _calibrated_alone(self) -> Self:
        if isinstance(self.reuse, CalibratedReuse):
            if self.prune != NoPruning():
                raise ValueError("calibrated reuse prunes by itself (reuse.shapes): leave prune out")
            if any((rule.prune, rule.reuse) != (NoPruning(), NoReuse()) for rule in self.exceptions):
                raise ValueError("calibrated reuse has one budget: an exception can only leave layers whole")
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


class RunConfig(Settings):
    """Everything that a run depends on: the same configuration gives the same plan and figures."""

    name: str = Field(min_length=1, max_length=200)
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DigitsConfig()
    model: ModelConfig = ResNetConfig()
    checkpoint: Path | None = None  # start from these weights instead of random ones
    training: Annotated[TrainingConfig | None, BeforeValidator(_schedule)] = PRAP_2023
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    quantize: QuantizeConfig = QuantizeConfig()
    chip: str = "isaac-32nm"  # a preset, or a TOML file
    mapping: Literal["spread", "pack"] = "spread"
    crossbar_budget: int | None = Field(default=None, ge=1)  # that every method may fill; None: what dense takes
    checked_images: int | None = Field(default=None, ge=0)  # test images that go through every cell; None: all
    zero_input_skipping: bool = False  # do not read OUs whose input bits are all 0, for all methods alike
    output: Path = Path("runs/run")

    @field_validator("methods", mode="before")
    @classmethod
    def _presets(cls, methods: Any, info: ValidationInfo) -> Any:
        model = info.data.get("model")  # absent if it is wrong itself, which is complained of first
        return with_presets(methods, model) if model is not None else methods

    @model_validator(mode="after")
    def _distinct_methods(self) -> Self:
        names = [method.name.lower() for method in self.methods]  # they name folders
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"methods.{index}.name: two methods are called {self.methods[index].name!r}")
        return self

    @staticmethod
    def load(path: Path, overrides: list[str] | None = None) -> "RunConfig":
        """Read and check a configuration file.

        Raises:
            UserError: one line that says what is wrong and where.
        """
        return RunConfig.checked(read_yaml(path, overrides), str(path))

    def only(self, names: list[str]) -> "RunConfig":
        """The same with some of the methods, in the order of ``names``.

        Raises:
            UserError: there is no such method.
        """
        known = {method.name: method for method in self.methods}
        for name in names:
            if name not in known:
                raise UserError(f"no method {name!r} in the configuration ({nearest(name, list(known))})")
        return self.model_copy(update={"methods": tuple(known[name] for name in dict.fromkeys(names))})

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default written out, without the place where the run is kept."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude={"output"})
        return values
