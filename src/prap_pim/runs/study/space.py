"""The search space: which settings of a run and its chip may be what, and the run that a choice of them makes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

from pydantic import ValidationError

from prap_pim.common.errors import UserError
from prap_pim.common.settings import complaint, nearest
from prap_pim.common.texts import shown_value
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.runs.config import RunConfig
from prap_pim.runs.study.config import Choices, Range, StudyConfig

_METHOD = "method"  # which of the base's methods a trial has
_CHIP = "chip"
_LABELS = ("name", "layers")  # what an item of a list is called by
_MOST_CHIPS = 2000  # that are made to see which values are possible
_FIXED = ("name", "output")  # of no effect on a figure

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Point:
    """A run of one method, and its chip."""

    config: RunConfig
    chip: Chip


@dataclass(frozen=True, eq=False)
class Dimension:
    """Settings that take the same value.

    Attributes:
        name: as in the configuration: one setting, or several with commas between them.
        paths: of each setting in the tree of plain values.
        method: the method that they belong to; None: all trials have them.
        values: what they may be.
    """

    name: str
    paths: tuple[Path, ...]
    method: str | None
    values: Choices | Range

    @property
    def ends(self) -> tuple[Any, ...]:
        """All choices, or the ends of the range."""
        return self.values.values if isinstance(self.values, Choices) else (self.values.low, self.values.high)


class SearchSpace:
    """What a study may try.

    A setting is named as in a run configuration with dots between nested keys (``training.epochs``,
    ``crossbar_budget``); in a list an item is named by its ``name`` or ``layers``, or its number
    (``methods.prap.reuse.keep``, ``methods.prap.exceptions.stem.conv.reuse.keep``). ``chip.`` stands before what a
    chip's file holds (``chip.adc_bits``, ``chip.grain.ou_rows``), ``chip`` alone is which chip, ``method`` which of the
    base's methods. A method's settings take part only in trials of that method. Settings with a comma between them
    take the same value.
    """

    def __init__(self, study: StudyConfig) -> None:
        """
        Raises:
            UserError: the base is no run configuration, there is no such setting, or a value that it cannot have.
        """
        base = RunConfig.checked({"name": study.name, **study.base}, "base")
        self.base = base
        self._tree = base.resolved()
        self._chip_values = cache(lambda name: load_chip(name).model_dump(mode="json"))
        self._chip_values(base.chip)
        self._methods = [method.name for method in base.methods]
        self.dimensions = [self._dimension(name, values) for name, values in study.space.items()]
        self.dimensions.sort(key=lambda dimension: dimension.name != _METHOD)  # it says which of the others there are
        taken = [path for dimension in self.dimensions for path in dimension.paths]
        for index, path in enumerate(taken):
            for other in taken[:index]:
                shorter, longer = sorted((path, other), key=len)
                if longer[: len(shorter)] == shorter and shorter != (_CHIP,):
                    raise UserError(f"space: {'.'.join(map(str, longer))} is given twice")
        for dimension in self.dimensions:
            self._check(dimension)
        self._check_chips()
        names = [dimension.name for dimension in self.dimensions]
        if _METHOD not in names and len(self._methods) > 1:
            raise UserError(
                f"space: the base has {len(self._methods)} methods; say which to try: method: "
                f"[{', '.join(self._methods)}]"
            )

    def _dimension(self, name: str, values: Choices | Range) -> Dimension:
        settings = [part.strip() for part in name.split(",")]
        paths = tuple(self._locate(setting) for setting in settings)
        owners = {self._methods[int(path[1])] for path in paths if path[0] == "methods"}
        if len(owners) > 1 or (owners and any(path[0] != "methods" for path in paths)):
            raise UserError(f"space: {name}: settings of one method cannot be tied to others")
        return Dimension(name, paths, next(iter(owners), None), values)

    def _locate(self, setting: str) -> Path:
        """Where a setting is in the tree; of a chip: below "chip"."""
        if setting in (_METHOD, _CHIP):
            return (setting,)
        if not setting:
            raise UserError("space: a setting's name is empty")
        tree: Any = {**self._tree, _METHOD: None, _CHIP: self._chip_values(self.base.chip)}
        path: Path = ()
        rest = setting
        while rest:
            key, rest = self._step(tree, rest, setting)
            tree = tree[key]
            path = (*path, key)
        if path[-1] in _FIXED and path != ("data", "name") and (len(path) == 1 or path[0] in ("methods", _CHIP)):
            raise UserError(f"space: {setting} has no effect on a figure")
        if path == ("methods",):
            raise UserError("space: methods: say which to try with method: [...]")
        return path

    def _step(self, tree: Any, rest: str, setting: str) -> tuple[str | int, str]:
        """The key that ``rest`` begins with, and what is left of it."""
        if isinstance(tree, list):
            labels = {str(i): i for i in range(len(tree))}
            labels |= {str(item[key]): i for i, item in enumerate(tree) for key in _LABELS if key in item}
            fitting = [label for label in labels if rest == label or rest.startswith(f"{label}.")]
            if fitting:
                label = max(fitting, key=len)
                return labels[label], rest[len(label) + 1 :]
            known = [label for label in labels if not label.isdigit()]
        elif isinstance(tree, dict):
            key, _, after = rest.partition(".")
            if key in tree:
                return key, after
            known = list(tree)
        else:
            raise UserError(f"space: there is no setting {setting!r}: nothing is below {setting[: -len(rest) - 1]!r}")
        wrong = rest.partition(".")[0]
        raise UserError(f"space: there is no setting {setting!r}: {wrong!r} is unknown ({nearest(wrong, known)})")

    def _check(self, dimension: Dimension) -> None:
        """Refuse values that a setting cannot have, whatever the others are."""
        for path, setting in zip(dimension.paths, dimension.name.split(","), strict=True):
            for value in dimension.ends:
                where = f"space: {setting.strip()}"
                if path == (_METHOD,):
                    if value not in self._methods:
                        hint = nearest(str(value), self._methods)
                        raise UserError(f"{where}: the base has no method {value!r} ({hint})")
                elif path == (_CHIP,):
                    self._chip_values(str(value))
                else:
                    self._check_alone(path, value, where)

    def _check_alone(self, path: Path, value: Any, where: str) -> None:
        kind: type[Chip] | type[RunConfig] = RunConfig
        tree: Any = {**self._tree, "name": self.base.name}
        if path[0] == _CHIP:
            kind, tree, path = Chip, self._chip_values(self.base.chip), path[1:]
        try:
            kind.model_validate(_with(tree, path, value))
        except ValidationError as error:
            for one in error.errors(include_url=False):
                loc = [part for part in one["loc"] if part in path]
                grain = path[0] == "grain" and one["msg"].startswith(f"Value error, {path[-1]} must be")
                if loc == list(path) or grain:
                    raise UserError(f"{where}: {complaint(one)}") from error

    @property
    def varies_reach(self) -> bool:
        """Whether which compute ratios a method can reach differs from trial to trial."""
        paths = [path for dimension in self.dimensions for path in dimension.paths]
        return any(
            path[0] in ("methods", "model", _METHOD) or path[:2] in ((_CHIP,), (_CHIP, "grain")) for path in paths
        )

    def _check_chips(self) -> None:
        """Refuse a value with which there is no chip, whatever the chip's other settings are."""
        varied = [each for each in self.dimensions if any(path[0] == _CHIP for path in each.paths)]
        every = [_all(each.values) or each.ends for each in varied]
        if prod(map(len, every)) > _MOST_CHIPS:
            return
        left = {(i, j) for i, values in enumerate(every) for j in range(len(values))}
        reasons: dict[tuple[int, int], str] = {}
        for places in product(*(range(len(values)) for values in every)):
            chosen = {path: values[j] for d, values, j in zip(varied, every, places, strict=True) for path in d.paths}
            try:
                self._chip(chosen)
                left -= set(enumerate(places))
            except UserError as error:
                reasons |= {place: str(error) for place in enumerate(places)}
        for i, j in sorted(left):
            reason = reasons[i, j].removeprefix("chip: ")
            raise UserError(f"space: {varied[i].name}: {shown_value(every[i][j])} is possible on no chip: {reason}")

    def _chip(self, chosen: Mapping[Path, Any]) -> Chip:
        """The chip with the values of a trial, by path.

        Raises:
            UserError: there can be no such chip.
        """
        chip = self._chip_values(str(chosen.get((_CHIP,), self.base.chip)))
        for path, value in chosen.items():
            if path[0] == _CHIP and len(path) > 1:
                chip = _with(chip, path[1:], value)
        return Chip.checked(chip, "chip")

    def values_of(self, chosen: Mapping[str, Any]) -> Iterator[Dimension]:
        """Dimensions that a trial has: read one by one while ``chosen``, value by dimension, is filled."""
        for dimension in self.dimensions:
            if dimension.method is None or dimension.method == chosen.get(_METHOD, self._methods[0]):
                yield dimension

    def grid(self) -> list[dict[str, Any]]:
        """All points, in the order in which the values were written; the last setting changes fastest."""
        every = [[dict(zip([d.name], [value], strict=True)) for value in _all(d.values)] for d in self.dimensions]
        points: dict[str, dict[str, Any]] = {}
        for combination in product(*every):
            whole = {name: value for part in combination for name, value in part.items()}
            point = {dimension.name: whole[dimension.name] for dimension in self.values_of(whole)}
            points.setdefault(json.dumps(point, sort_keys=True, default=str), point)
        return list(points.values())

    def point(self, values: Mapping[str, Any]) -> Point:
        """The run that a trial's values make.

        Raises:
            UserError: there can be no such run, or no such chip.
        """
        chosen = {path: values[d.name] for d in self.dimensions if d.name in values for path in d.paths}
        name = chosen.pop((_METHOD,), self._methods[0])
        chip, tree = self._chip(chosen), self._tree
        chip_name = str(chosen.get((_CHIP,), self.base.chip))
        for path, value in chosen.items():
            if path[0] != _CHIP:
                tree = _with(tree, path, value)
        tree = {**tree, "chip": chip_name, "methods": [m for m in tree["methods"] if m["name"] == name]}
        return Point(RunConfig.checked(tree, "run"), chip)


def _all(values: Choices | Range) -> tuple[Any, ...]:
    return values.values if isinstance(values, Choices) else values.numbers or ()


def _with(tree: Any, path: Path, value: Any) -> Any:
    """A copy of plain values with one of them changed."""
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, list):
        return [_with(item, tuple(rest), value) if i == key else item for i, item in enumerate(tree)]
    return {**tree, key: _with(tree[key], tuple(rest), value)}
