"""YAML and TOML of users as plain values: what is too large or deep, or multiplies itself, is refused unbuilt."""

import re
import tomllib
from typing import Any

import yaml

from prap_pim.common.errors import UserError, one_line

MOST_BYTES = 4 << 20  # of a text
MOST_DEPTH = 50  # lists and mappings inside one another
MOST_VALUES = 200_000  # each use of an alias counted
_MOST_DOTS = 200  # in a line of TOML, whose reader takes time with the square of them
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where PyYAML was built with it
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(_BASE):  # type: ignore[misc]
    """Safe YAML with plain values alone, that refuses a key given twice and reads numbers as people write them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue  # <<: what is written here goes before what is merged
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
            if key in seen:
                where = key_node.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {shown_value(key)} is given twice", where)
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _PLAIN
}
# not the numbers of YAML 1.1, to which 1_0 is ten, 010 is eight and 1:30 is ninety; nor its dates
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in (
    ("int", r"[-+]?(0|[1-9][0-9]*)"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"({_pattern})$"), list("-+.0123456789"))


def shown_value(value: object, most: int = 60) -> str:
    """A user's value for a message, cut in the middle; of a list or mapping only what it is."""
    if isinstance(value, list | tuple | dict | set):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value):,}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * most:
        return f"a number of about {int(value.bit_length() * 0.30103) + 1:,} digits"
    text = repr(value[: 4 * most] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 4) :]}"


def parse_yaml(text: str, origin: str) -> Any:
    """Plain values from YAML text, with the safe loader.

    Raises:
        UserError: not YAML, or too large; one line with the line number.
    """
    _check_size(text, origin)
    try:
        _check_events(text)
        return _apart(yaml.load(text, Loader=_Loader))  # derived from the safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or "this is not valid YAML").replace("did not find expected", "expected")
        raise UserError(f"{origin}{line}: {one_line(problem)}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{origin}: this is not valid YAML ({one_line(error)})") from error


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """Plain values from TOML text.

    Raises:
        UserError: not TOML, or too large; one line.
    """
    _check_size(text, origin)
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise UserError(f"{origin}: a line has more than {_MOST_DOTS} dots")
    try:
        found = tomllib.loads(text)
        _check_depth(found)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"cannot read {origin}: it is not valid TOML ({one_line(error)})") from error
    except (RecursionError, ValueError, OverflowError) as error:
        reason = one_line(error) if isinstance(error, ValueError) else _TOO_DEEP
        raise UserError(f"cannot read {origin}: {reason}") from error
    return found


_TOO_DEEP = f"more than {MOST_DEPTH} lists or mappings are inside one another"
_TOO_MANY = f"more than {MOST_VALUES:,} values (an alias counts each time)"


def _check_size(text: str, origin: str) -> None:
    if len(text) > MOST_BYTES:
        raise UserError(f"{origin}: it is larger than {MOST_BYTES >> 20} MiB")


def _check_events(text: str) -> None:
    """
    Raises:
        YAMLError: the text is not YAML, or what it stands for is too large or holds itself.
    """
    sizes: dict[str, int] = {}  # of finished anchors
    open_nodes: list[tuple[str | None, int]] = []  # anchor, values before it
    total = 0
    for event in yaml.parse(text, Loader=_BASE):
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                held = any(anchor == event.anchor for anchor, _ in open_nodes)
                what = "holds itself" if held else "is nowhere in front of it"
                problem = f"what *{shown_value(event.anchor)[1:-1]} stands for {what}"
                raise yaml.composer.ComposerError(None, None, problem, mark)
            total += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if len(open_nodes) > MOST_DEPTH or total > MOST_VALUES:
            problem = _TOO_MANY if total > MOST_VALUES else _TOO_DEEP
            raise yaml.composer.ComposerError(None, None, problem, mark)


def _apart(value: Any) -> Any:
    """A copy in which nothing is shared, as aliases are: a change of one place changes no other."""
    if isinstance(value, dict):
        return {key: _apart(each) for key, each in value.items()}
    return [_apart(each) for each in value] if isinstance(value, list) else value


def _check_depth(value: Any) -> None:
    """
    Raises:
        ValueError: there are too many values, or they are too deep.
    """
    level, total = [value], 0
    for _ in range(MOST_DEPTH + 1):
        total += len(level)
        if total > MOST_VALUES:
            raise ValueError(_TOO_MANY)
        level = [
            each
            for inner in level
            if isinstance(inner, dict | list)
            for each in (inner.values() if isinstance(inner, dict) else inner)
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)
