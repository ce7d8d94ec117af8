"""Settings that come from a user's file: read safely, checked wholly, and explained in one line when they are wrong."""

import difflib
import re
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from prap_pim.errors import UserError
from prap_pim.files import read_json, read_text, write_json


def nearest(word: str, known: list[str]) -> str:
    """``(did you mean 'x'?)`` for the known word nearest to ``word``, or the list of those allowed."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(sorted(known))}"


class Settings(BaseModel):
    """Base of every configuration: frozen, no unknown keys (the nearest known one is named), no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key {key} ({hint})",
                        {"key": repr(key), "hint": nearest(str(key), known)},
                    )
        return value

    @classmethod
    def checked(cls, value: Any, origin: str) -> Self:
        """Build from plain values.

        Args:
            value: what the file holds.
            origin: the file's name, for the message.

        Raises:
            UserError: one line that says what is wrong and where.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise UserError(f"{origin}: {explain(error)}") from error


class Saved(BaseModel):
    """Base of what is kept as a JSON file."""

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.model_dump())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            UserError: it is missing, broken, or of another version.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise UserError(f"cannot read {path}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: where, what, and what was given."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    if first["type"] == "union_tag_not_found":
        message = f"{first['ctx']['discriminator']} is missing, it says which settings follow"
    if first["type"] == "union_tag_invalid":
        choice, tags = first["ctx"]["discriminator"].strip("'"), first["ctx"]["expected_tags"]
        known = [tag.strip(" '") for tag in tags.split(",")]
        message = f"unknown {choice} {first['ctx']['tag']!r} ({nearest(first['ctx']['tag'], known)})"
    plain = isinstance(given, str | int | float | bool | type(None))
    if plain and first["type"] not in ("unknown_key", "missing", "preset"):
        message += f", not {given!r}"
    return " ".join((f"{where}: {message}" if where else message).split())


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, origin: str) -> Any:
    """Plain values from YAML text, with the safe loader.

    Raises:
        UserError: not YAML; one line with the line number.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{origin}{line}: {error.problem or 'this is not valid YAML'}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{origin}: this is not valid YAML ({' '.join(str(error).split())})") from error


def read_yaml(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file, with ``a.b=value`` overrides put in (values are YAML too; list items by number).

    Raises:
        UserError: missing, unreadable, not YAML, not a mapping, or an override that does not fit.
    """
    value = parse_yaml(read_text(path), str(path))
    if value is None:
        raise UserError(f"{path}: the file is empty")
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found a {type(value).__name__}")
    return with_overrides(value, overrides or [])


def with_overrides(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """``tree`` itself after ``a.b=value`` overrides were put in, as for ``read_yaml``.

    Raises:
        UserError: an override does not fit.
    """
    for override in overrides:
        _put(tree, override)
    return tree


def _put(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"--set {override}: expected KEY=VALUE, with dots between nested keys")
    *path, last = key.split(".")
    place: Any = tree
    for part in path:
        place = _item(place, part, override)
    if isinstance(place, list):
        _item(place, last, override)
        place[int(last)] = parse_yaml(text, f"--set {override}")
    elif isinstance(place, dict):
        place[last] = parse_yaml(text, f"--set {override}")
    else:
        raise UserError(f"--set {override}: {'.'.join(path)} is a plain value, it has no {last!r}")


def _item(place: Any, part: str, override: str) -> Any:
    if isinstance(place, list):
        if not part.isdigit() or int(part) >= len(place):
            raise UserError(f"--set {override}: {part!r} is not an item number in 0..{len(place) - 1}")
        return place[int(part)]
    if isinstance(place, dict):
        return place.setdefault(part, {})
    raise UserError(f"--set {override}: there is nothing below a plain value at {part!r}")
