from pathlib import Path
from typing import Literal

import pytest

from prap_pim.errors import UserError
from prap_pim.settings import Settings, parse_yaml, read_yaml


class Inner(Settings):
    epochs: int = 3
    rate: float = 0.1


class Outer(Settings):
    kind: Literal["a", "b"] = "a"
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"inner": {"epoch": 1}}, "f.yaml: inner: unknown key 'epoch' (did you mean 'epochs'?)"),
        ({"zzz": 1}, "f.yaml: unknown key 'zzz' (allowed: inner, kind)"),
        ({"kind": "c"}, "f.yaml: kind: Input should be 'a' or 'b', not 'c'"),
        (
            {"inner": {"epochs": "many"}},
            "f.yaml: inner.epochs: Input should be a valid integer, unable to parse string as an integer, not 'many'",
        ),
        ({"inner": {"rate": float("nan")}}, "f.yaml: inner.rate: Input should be a finite number, not nan"),
    ],
)
def test_a_mistake_is_one_line(value, message):
    with pytest.raises(UserError) as caught:
        Outer.checked(value, "f.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "f, line 2: key 'a' is given twice"),
        ("a: [1, 2\n", "f, line 2: expected ',' or ']'"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("? [1]\n: 2\n", "f, line 1: a key must be a plain word"),
    ],
)
def test_bad_yaml_is_one_line_and_runs_nothing(text, message):
    with pytest.raises(UserError, match="f") as caught:
        parse_yaml(text, "f")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_numbers():
    assert parse_yaml("a: 1e-3\nb: -2E+4\nc: 1\nd: 0.5\ne: e1\n", "f") == {
        "a": 0.001,
        "b": -20000.0,
        "c": 1,
        "d": 0.5,
        "e": "e1",
    }


def test_overrides(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("a: {b: 1}\nitems:\n - {x: 1}\n - {x: 2}\n")
    assert read_yaml(path, ["a.b=2", "a.c=[1, 2]", "items.1.x=5", "new.deep=true"]) == {
        "a": {"b": 2, "c": [1, 2]},
        "items": [{"x": 1}, {"x": 5}],
        "new": {"deep": True},
    }


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", "a.b.c=1", "items.7.x=1", "items.x=1", "a.b=["])
def test_bad_overrides(tmp_path: Path, override: str):
    path = tmp_path / "c.yaml"
    path.write_text("a: {b: 1}\nitems: [1]\n")
    with pytest.raises(UserError, match="--set"):
        read_yaml(path, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"- 1\n", "found a list"), (b"\xff\xfe\x00", "not UTF-8"), (None, "cannot read")],
)
def test_unreadable(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_yaml(path)
