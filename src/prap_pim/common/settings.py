"""Settings from a user's file: read safely, checked completely, with a one-line error message when they are wrong."""

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from prap_pim.common.errors import UserError, shown
from prap_pim.common.files import read_json, read_text, write_json
from prap_pim.common.texts import MOST_DEPTH, MOST_VALUES, parse_yaml, shown_value

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_NUMBERS = {int, float, NoneType}  # pydantic would take true for 1, and "1_0" for 10
_ALL = 20  # words that are listed; of more, as many as these
_WORD = 40  # characters that are shown of one

# The ranges of numbers from outside, unless a setting has a narrower one: what follows multiplies and divides several
# of them and must neither overflow nor vanish.
LARGEST_WHOLE = 2**53
LARGEST, SMALLEST = 1e30, 1e-30
_LONGEST = 10_000  # characters of a text


def nearest(word: str, known: Sequence[str]) -> str:
    """``did you mean 'x'?`` for the known word nearest to ``word``, or a list of those allowed."""
    close = difflib.get_close_matches(word[: 2 * _WORD], known[:1000], n=1, cutoff=0.5)
    if close:
        return f"did you mean {shown_value(close[0])}?"
    more = f" and {len(known) - _ALL} more" if len(known) > _ALL else ""
    return f"allowed: {', '.join(shown(each, _WORD) for each in sorted(known)[:_ALL])}{more}"


class Settings(BaseModel):
    """Base of every configuration: frozen, no unknown keys (the nearest known one is named), no NaN or infinity, no
    yes, no or text for a number, and no number, text or depth that what follows could not bear."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
    written: ClassVar[dict[str, str]] = {}  # how users write a setting whose name Python cannot have
    as_text: ClassVar[bool] = False  # whether numbers come as text, as those of flags and variables do
    from_outside: ClassVar[bool] = True  # whether users write it; what only the program writes may hold any number

    def __init__(self, *unnamed: Any, **settings: Any) -> None:
        """
        Raises:
            UserError: a setting is wrong; one line that says which and what is allowed.
        """
        if unnamed:
            raise UserError(f"{self._called()}: settings are given by name: give {self._foremost()}={unnamed[0]!r}")
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise UserError(f"{self._called()}: {explain(error, settings)}") from error

    # what is read from a file is not made by calling the class: ``checked`` says where it is wrong
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def _called(cls) -> str:
        """What messages to one who calls the class call it."""
        return cls.__name__

    @classmethod
    def _foremost(cls) -> str:
        """The setting that a value without a name is most likely meant for."""
        return next(iter(cls.model_fields), "name")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = _known(cls)
            for key in value:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key {key} ({hint})",
                        {"key": shown_value(key), "hint": nearest(_alike(key), [cls.written.get(n, n) for n in known])},
                    )
            if cls.from_outside:
                for key, given in value.items():
                    if cls.as_text and isinstance(given, str) and given.isascii() and "_" not in given:
                        continue
                    for complaint in _unbearable(given, key, known[key], 0, [0]):
                        raise PydanticCustomError("unbearable", "{complaint}", {"complaint": complaint})
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
            raise UserError(f"{origin}: {explain(error, value)}") from error


@cache
def _known(settings: type[Settings]) -> dict[str, bool]:
    """The names of its settings, and whether each holds numbers alone."""
    fields = settings.model_fields.items()
    return {field.alias or name: set(_leaves(field.annotation)) <= _NUMBERS for name, field in fields}


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types of the values that an annotation allows, inside lists and mappings, too."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _leaves(inner[0])
    elif get_origin(annotation) is Literal or not inner:
        yield annotation
    else:
        keyed = get_origin(annotation) is dict
        for each in inner[1:] if keyed else inner:
            yield from () if each is Ellipsis else _leaves(each)


def _unbearable(value: Any, place: Any, number: bool, depth: int, count: list[int]) -> Iterator[str]:
    """What a setting can have of no kind; ``number``: numbers are asked for. ``count``: values so far."""
    count[0] += 1
    if depth > MOST_DEPTH or count[0] > MOST_VALUES:
        yield f"{place}: there are more values, or they are deeper, than anybody needs"
    elif isinstance(value, dict):
        for key, each in value.items():
            if isinstance(key, str):
                yield from _unbearable(key, place, False, depth + 1, count)
            yield from _unbearable(each, f"{place}.{_alike(key)}", number, depth + 1, count)
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from _unbearable(each, f"{place}.{i}", number, depth + 1, count)
    elif number and isinstance(value, bool):
        yield f"{place} must be a number, not {str(value).lower()}"
    elif number and isinstance(value, str) and _reads_as_number(value):
        yield f"{place} must be a number, not the text {shown_value(value)}"
    elif isinstance(value, str):
        if len(value) > _LONGEST:
            yield f"{place} must have at most {_LONGEST:,} characters, not {len(value):,}"
        elif "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
            yield f"{place}: {shown_value(value)} holds a character that no file can have"
    elif isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        yield f"{place} must be at most 2^53, not {shown_value(value)}"
    elif (
        isinstance(value, float) and value != 0 and not SMALLEST <= abs(value) <= LARGEST and abs(value) < float("inf")
    ):
        yield f"{place} must be 0, or between {SMALLEST:g} and {LARGEST:g} in size, not {value!r}"


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _alike(key: Any) -> str:
    """A key for a message."""
    return key[:_WORD] if isinstance(key, str) else shown_value(key)


class Saved(BaseModel):
    """Base of what is kept as a JSON file."""

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(Path(path), self.model_dump())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            UserError: it is missing, broken, or of another version.
        """
        value = read_json(Path(path))
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise UserError(f"cannot read {path}: {explain(error, value)}") from error


def explain(error: ValidationError, given: Any) -> str:
    """The first thing that is wrong with ``given``, in one line: where, what is allowed, and what is there instead."""
    first, *others = error.errors(include_url=False)
    if first["loc"][-1:] == ("int",):  # where any number will do
        first = next((other for other in others if other["loc"] == (*first["loc"][:-1], "float")), first)
    where = _where(first["loc"], given, first["type"] == "missing")
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {complaint(first)}" if where else complaint(first)


def complaint(error: "ErrorDetails") -> str:
    """One of pydantic's errors in plain words, without the place."""
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    message = error["msg"].removeprefix("Value error, ")
    if kind in _PLAIN:
        limits = {key: f"{limit:g}" if isinstance(limit, float) else limit for key, limit in context.items()}
        message = _PLAIN[kind].format(**limits)
    if kind.endswith("too_short"):
        message = (
            "must not be empty" if context["min_length"] == 1 else f"must have at least {context['min_length']} parts"
        )
    if kind.endswith("too_long") and kind not in _PLAIN:
        message = f"must have at most {context['max_length']:,} parts, not {context['actual_length']:,}"
    if kind == "union_tag_not_found":
        message = f"{context['discriminator']} is missing, it says which settings follow"
    if kind == "union_tag_invalid":
        choice, tags = context["discriminator"].strip("'"), context["expected_tags"]
        known = [tag.strip(" '") for tag in tags.split(",")]
        tag = str(context["tag"])
        message = f"unknown {choice} {shown_value(tag)} ({nearest(tag, known)})"
    if kind in ("unknown_key", "unbearable", "preset") or message == "must not be empty":
        return " ".join(message.split())
    plain = {None: "nothing", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        message += f", not {plain[value]}"
    elif isinstance(value, str | int | float):
        message += f", not {shown_value(value)}"
    return " ".join(message.split())


_PLAIN = {  # what pydantic says otherwise, by type
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be pairs of a key and a value"),
    **dict.fromkeys(("path_type", "path_parsing"), "must be a path"),
    "string_type": "must be text",
    "finite_number": "must be finite",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} letters",
}


def _where(loc: Sequence[str | int], given: Any, missing: bool) -> str:
    """The path of a wrong setting as a user writes it, without what pydantic adds for the members of a union."""
    words = []
    for i, part in enumerate(loc):
        if isinstance(given, dict) and part in given:
            words.append(str(part))
            given = given[part]
        elif isinstance(given, list | tuple) and isinstance(part, int) and part < len(given):
            words.append(labels(given)[part])
            given = given[part]
        elif missing and i == len(loc) - 1:
            words.append(str(part))
    return ".".join(words)


def labels(items: Sequence[Any]) -> list[str]:
    """What the items of a list are called: by their name, or the layers that they are of, if no other has it."""
    names = [
        next((str(item[key]) for key in ("name", "layers") if isinstance(item, dict) and key in item), "")
        for item in items
    ]
    usable = [re.fullmatch(r"[^\W\d][\w.+-]*", name) and names.count(name) == 1 for name in names]
    return [name if fits else str(i) for i, (name, fits) in enumerate(zip(names, usable, strict=True))]


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
        raise UserError(f"--set {shown(override)}: expected KEY=VALUE, with dots between nested keys")
    value = parse_yaml(text, f"--set {shown(override)}")
    place: Any = tree
    rest = key
    while rest:
        if isinstance(place, dict) and rest in place:  # whole, as a setting of a study's space: chip.adc_bits
            part, rest = rest, ""
        else:
            part, _, rest = rest.partition(".")
        if isinstance(place, list):
            index = _index(place, part, override)
            if not rest:
                place[index] = value
            place = place[index]
        elif isinstance(place, dict):
            if not rest:
                place[part] = value
            place = place.setdefault(part, {})
        else:
            raise UserError(f"--set {shown(override)}: there is nothing below a plain value at {part!r}")


def _index(items: list[Any], part: str, override: str) -> int:
    """Of an item of a list, by its name or number."""
    known = labels(items)
    if part in known:
        return known.index(part)
    if not part.isdigit() or int(part) >= len(items):
        names = [name for name in known if not name.isdigit()]
        hint = f", and no name ({nearest(part, names)})" if names else ""
        raise UserError(f"--set {shown(override)}: {part!r} is not an item number in 0..{len(items) - 1}{hint}")
    return int(part)
