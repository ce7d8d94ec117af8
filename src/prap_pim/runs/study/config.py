"""The configuration of a study, as a user's YAML file gives it."""

import json
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings, read_yaml
from prap_pim.results.study import SHORT, Direction
from prap_pim.runs.study.figures import better, figure_name

_MOST_STEPS = 1_000_000  # of a range
_MOST_POINTS = 100_000  # of a grid, which is held in memory


class Range(Settings):
    """Numbers from ``low`` to ``high``, both included; whole ones if all of these are.

    Attributes:
        low, high: the ends.
        step: from number to number, counted from ``low``; None: any number, or every whole one.
        log: small numbers are tried as often as large ones, in proportion.
    """

    low: int | float
    high: int | float
    step: int | float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be less than high ({self.high})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0 and no step")
        if self.step is not None and (self.count or 0) > _MOST_STEPS:
            raise ValueError(f"step {self.step!r} makes {self.count:,} values, {_MOST_STEPS:,} are allowed")
        return self

    @property
    def whole(self) -> bool:
        """Whether all numbers are whole."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def numbers(self) -> tuple[int | float, ...] | None:
        """All of them, if they can be counted."""
        step = self.step or (1 if self.whole else None)
        return None if step is None else tuple(self.low + i * step for i in range(self.count or 0))

    @property
    def count(self) -> int | None:
        """How many there are, if they can be counted."""
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        most = self.high if self.whole else self.high + 1e-12 * abs(self.high)  # 0.1 + 2 * 0.1 is above 0.3
        return int((most - self.low) // step) + 1

    def __str__(self) -> str:
        step = "" if self.step is None else f" by {self.step}"
        return f"{self.low} to {self.high}{step}{', log' if self.log else ''}"


class Choices(Settings):
    """Values of any kind, one of which is taken."""

    values: tuple[Any, ...] = Field(min_length=1, max_length=10_000)

    @field_validator("values")
    @classmethod
    def _different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
        if len(set(texts)) < len(texts):
            raise ValueError("a value is given twice")
        return values

    def __str__(self) -> str:
        return ", ".join(value if isinstance(value, str) else json.dumps(value, default=str) for value in self.values)


def _values(given: Any) -> Any:
    """A list stands for choices, a mapping for a range."""
    if isinstance(given, list | tuple):
        return Choices.model_validate({"values": tuple(given)})
    if isinstance(given, dict):
        return Range.model_validate(given)
    if isinstance(given, Choices | Range):
        return given
    raise ValueError("expected a list of values, or {low: ..., high: ...}")


Values = Annotated[Choices | Range, BeforeValidator(_values)]


class Limit(Settings):
    """A figure is at most, or at least, a number."""

    at: Literal["<=", ">="]
    limit: float

    def violation(self, figure: float) -> float:
        """How far it is missed: as a share of the limit, if that is not 0; 0 or less: it is met."""
        excess = figure - self.limit if self.at == "<=" else self.limit - figure
        return excess / (abs(self.limit) or 1)

    def __str__(self) -> str:
        return f"{self.at} {self.limit:g}"


def _limit(given: Any) -> Any:
    if isinstance(given, str):
        match = re.fullmatch(r"\s*(<=|>=)\s*([-+0-9.eE]+)\s*", given)
        try:
            return {"at": match[1], "limit": float(match[2])} if match else _no_limit()
        except ValueError:
            return _no_limit()
    return given if isinstance(given, Limit | dict) else _no_limit()


def _no_limit() -> Any:
    raise ValueError("expected '<= NUMBER' or '>= NUMBER'")


class StudyConfig(Settings):
    """Everything that a study depends on: the same configuration gives the same trials and figures.

    Attributes:
        name: of the study.
        base: the run configuration that the space varies: in place, or the path of a file.
        space: what may vary, see ``SearchSpace``.
        objectives: figures and which way they get better.
        constraints: limits of figures.
        sampler: how points are proposed.
        trials: how many; None: all of a grid.
        batch: trials that are proposed together, from what those before them have shown; NSGA-II: its population. Of
            no effect on a grid and on random points, which look at nothing.
        seed: of the proposals. That of training and calibration is ``base.seed``, the same for all trials.
        threads: of each process; figures of trained networks depend on it, so it does not depend on the machine.
        output: the study's folder.
    """

    name: str = Field(min_length=1, max_length=200)
    base: dict[str, Any]
    space: dict[str, Values] = Field(min_length=1, max_length=1000)
    objectives: dict[str, Direction] = Field(min_length=1)
    constraints: dict[str, Annotated[Limit, BeforeValidator(_limit)]] = Field(default={})
    sampler: Literal["grid", "random", "nsga2", "tpe"] = "nsga2"
    trials: int | None = Field(default=None, ge=1, le=1_000_000)
    batch: int = Field(default=16, ge=2, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int = Field(default=1, ge=1, le=1024)
    output: Path = Path("runs/study")

    @field_validator("base", mode="before")
    @classmethod
    def _from_file(cls, base: Any) -> Any:
        try:
            return read_yaml(Path(base)) if isinstance(base, str) else base
        except UserError as error:
            raise PydanticCustomError("preset", "{complaint}", {"complaint": str(error)}) from error

    @field_validator("objectives", mode="before")
    @classmethod
    def _with_directions(cls, objectives: Any, info: ValidationInfo) -> Any:
        metric = (info.data.get("base") or {}).get("metric") or {}
        less = metric.get("minimize", ()) if isinstance(metric, dict) else ()
        if isinstance(objectives, str):
            objectives = [objectives]
        if isinstance(objectives, list | tuple) and all(isinstance(name, str) for name in objectives):
            figures = [_figure(name) for name in objectives]
            _refuse_twins(figures)
            objectives = {name: better(name, less) for name in figures}
        if not isinstance(objectives, dict) or not objectives:
            raise ValueError(
                f"expected a list of figures, as {', '.join(SHORT)}, or each with its direction: minimize or maximize"
            )
        return _whole_names(objectives)

    @field_validator("constraints")  # after the limits, whose complaints name a figure as it was given
    @classmethod
    def _of_figures(cls, constraints: dict[str, Limit]) -> dict[str, Limit]:
        return _whole_names(constraints)  # type: ignore[no-any-return]

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.sampler == "grid":
            for name, values in self.space.items():
                if isinstance(values, Range) and values.count is None:
                    raise ValueError(f"space.{name}: a grid needs a step, or a list of values")
            points = prod(
                each.count or 1 if isinstance(each, Range) else len(each.values) for each in self.space.values()
            )
            if points > _MOST_POINTS:
                raise ValueError(
                    f"space: a grid of {points:,} points, {_MOST_POINTS:,} are allowed; nsga2, tpe and random take some"
                )
        elif self.trials is None:
            raise ValueError(f"trials is missing: {self.sampler} goes on for ever")
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        """Figures that every trial must have."""
        return tuple(dict.fromkeys([*self.objectives, *self.constraints]))

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default written out, without the place where the study is kept."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude={"output"})
        return values


def _figure(name: str) -> str:
    try:
        return figure_name(name)
    except UserError as error:
        raise ValueError(str(error)) from error


def _whole_names(by_figure: Any) -> Any:
    if not isinstance(by_figure, dict):
        return by_figure
    figures = [_figure(str(name)) for name in by_figure]
    _refuse_twins(figures)
    return dict(zip(figures, by_figure.values(), strict=True))


def _refuse_twins(figures: Sequence[str]) -> None:
    for figure in figures:
        if figures.count(figure) > 1:
            raise ValueError(f"{figure} is given twice")
