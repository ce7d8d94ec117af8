"""The configuration of one run, as a user's YAML file gives it."""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from prap_pim.common.errors import UserError
from prap_pim.common.imports import Import
from prap_pim.common.settings import Settings, nearest, read_yaml
from prap_pim.common.texts import shown_value
from prap_pim.cost import PipelinedBy
from prap_pim.frontend.quantize import QuantizeConfig
from prap_pim.methods.config import METHOD_NAME, MethodConfig
from prap_pim.methods.method import METHODS
from prap_pim.methods.presets import with_presets
from prap_pim.training import PRAP_2023, TrainingConfig
from prap_pim.training.data import DataConfig, DigitsConfig
from prap_pim.training.models import ModelConfig, ResNetConfig

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


_DECIDES = {"prune", "reuse", "compute_ratio", "preset", "method"}  # of a method's settings: it may change a layer


def _refuse_method(item: dict[str, Any]) -> None:
    """
    Raises:
        PydanticCustomError: a method has no settings, so that it would change nothing, and a name that says otherwise.
    """
    name, rules = item.get("name"), item.get("exceptions")
    rules = rules if isinstance(rules, list | tuple) else ()
    if any(isinstance(each, dict) and _DECIDES & each.keys() for each in (item, *rules)):
        return
    if not isinstance(name, str) or not METHOD_NAME.fullmatch(name) or name.startswith("dense"):
        return  # what is no name at all is complained of as that
    close = difflib.get_close_matches(name[:40], METHODS, n=1, cutoff=0.75)
    hint = (
        "give its prune and reuse, or a compute_ratio or preset"
        if name in METHODS or not close
        else nearest(name, close)
    )
    raise PydanticCustomError("preset", f"{shown_value(name)} has no settings and would be dense ({hint})")


def _located(value: Any, roots: Sequence[Path]) -> Any:
    """Paths that are not here but in one of ``roots``, named there."""
    if isinstance(value, Path):
        return next((place for place in (value, *(root / value for root in roots)) if place.exists()), value)
    if isinstance(value, Settings):
        fields = {name: _located(getattr(value, name), roots) for name in type(value).model_fields}
        return value.model_copy(update=fields)
    return tuple(_located(each, roots) for each in value) if isinstance(value, tuple) else value


def _holds(root: Path, part: Import) -> bool:
    """Whether a user's module is in a directory."""
    module = part.function.partition(":")[0].partition(".")[0]
    return (root / module).is_dir() or (root / f"{module}.py").is_file()


class CostConfig(Settings):
    """How a plan is costed, where there is a choice.

    Attributes:
        timing: of the pipelined times, as in ``estimate``: by formula, layer by layer, or by a simulation in which
            messages of all layers wait for one another ("events").
        data: whose energy is told: that of uniform data, which is the component table's, or what the calibration inputs
            and the stored weights take ("calibration").
    """

    timing: PipelinedBy = "formula"
    data: Literal["uniform", "calibration"] = "uniform"


class MetricConfig(Import):
    """What a network is worth: a function of a module, and of the test data if it takes them.

    Attributes:
        minimize: names of the numbers that it gives of which less is better.
    """

    minimize: tuple[str, ...] = ()


class RunConfig(Settings):
    """Everything that a run depends on: the same configuration gives the same plan and figures."""

    name: str = Field(min_length=1, max_length=200)
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DigitsConfig()
    model: ModelConfig = ResNetConfig()
    checkpoint: Path | None = None  # start from these weights instead of random ones
    metric: MetricConfig | None = None  # None: how well the labels of the test data are predicted
    loss: Import | None = None  # None: the cross-entropy of the labels
    training: Annotated[TrainingConfig | None, BeforeValidator(_schedule)] = PRAP_2023
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    quantize: QuantizeConfig = QuantizeConfig()
    chip: str = "isaac-32nm"  # a preset, or a TOML file
    mapping: Literal["spread", "pack"] = "spread"
    crossbar_budget: int | None = Field(default=None, ge=1, le=10**9)  # for every method; None: what dense takes
    checked_images: int | None = Field(default=None, ge=0, le=10**9)  # that go through every cell; None: all
    zero_input_skipping: bool = False  # do not read OUs whose input bits are all 0, for all methods alike
    cost: CostConfig = CostConfig()
    output: Path = Path("runs/run")

    @field_validator("methods", mode="before")
    @classmethod
    def _presets(cls, methods: Any, info: ValidationInfo) -> Any:
        for item in methods if isinstance(methods, list | tuple) else ():
            if isinstance(item, dict):
                _refuse_method(item)
        model = info.data.get("model")  # absent if it is wrong itself, which is complained of first
        return with_presets(methods, model) if model is not None else methods

    @model_validator(mode="after")
    def _distinct_methods(self) -> Self:
        names = [method.name.lower() for method in self.methods]  # they name folders
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"methods.{index}.name: two methods are called {self.methods[index].name!r}")
        return self

    @model_validator(mode="after")
    def _one_energy(self) -> Self:
        if self.zero_input_skipping and self.cost.data == "calibration":
            raise ValueError("cost.data: the energy of calibration inputs is that of a chip that skips no zero inputs")
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

    @property
    def imports(self) -> dict[str, Import]:
        """What runs code of the user's, by its place."""
        parts = {"model": self.model, "data": self.data, "metric": self.metric, "loss": self.loss}
        return {where: part for where, part in parts.items() if isinstance(part, Import)}

    def located(self, roots: Sequence[Path]) -> "RunConfig":
        """The same, with files that are not here but in one of ``roots`` named there.

        The user's own modules are looked for there, too.
        """
        for root in roots:
            if str(root) not in sys.path and any(_holds(root, part) for part in self.imports.values()):
                sys.path.append(str(root))
        parts = {name: _located(getattr(self, name), roots) for name in ("data", "model", "checkpoint")}
        if self.chip.endswith(".toml"):
            parts["chip"] = str(_located(Path(self.chip), roots))
        return self.model_copy(update=parts)

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default written out, without the place where the run is kept."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude={"output"})
        return values
