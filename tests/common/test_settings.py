from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Saved, Settings, read_yaml
from prap_pim.common.texts import parse_yaml


class Item(Settings):
    name: str
    size: int | float = 1


class Inner(Settings):
    epochs: int = 3
    rate: float = 0.1


class Outer(Settings):
    kind: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    items: tuple[Item, ...] = Field(default=(Item(name="x"),), min_length=1)
    share: float = Field(default=0.5, gt=0, le=1)
    whole: bool = True


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"inner": {"epoch": 1}}, "f.yaml: inner: unknown key 'epoch' (did you mean 'epochs'?)"),
        ({"zzz": 1}, "f.yaml: unknown key 'zzz' (allowed: inner, items, kind, share, whole)"),
        ({"inner": 3}, "f.yaml: inner: must be pairs of a key and a value, not 3"),
        ({"inner": {"epochs": None}}, "f.yaml: inner.epochs: must be a whole number, not nothing"),
        ({"inner": {"epochs": 1.5}}, "f.yaml: inner.epochs: must be a whole number, not 1.5"),
        ({"items": []}, "f.yaml: items: must not be empty"),
        ({"items": {}}, "f.yaml: items: must be a list"),
        ({"items": [{"size": 1}]}, "f.yaml: items.0.name is missing"),
        ({"items": [{"name": 3}]}, "f.yaml: items.0.name: must be text, not 3"),
        ({"items": [{"name": "prap", "size": "x"}]}, "f.yaml: items.prap.size: must be a number, not 'x'"),
        (
            {"items": [{"name": "a", "size": "x"}, {"name": "a"}]},
            "f.yaml: items.0.size: must be a number, not 'x'",
        ),
        ({"share": 0}, "f.yaml: share: must be above 0, not 0"),
        ({"share": 1.5}, "f.yaml: share: must be at most 1, not 1.5"),
        ({"whole": "perhaps"}, "f.yaml: whole: must be true or false, not 'perhaps'"),
        ({"kind": "c"}, "f.yaml: kind: must be 'a' or 'b', not 'c'"),
        (
            {"inner": {"epochs": "many"}},
            "f.yaml: inner.epochs: must be a whole number, not 'many'",
        ),
        ({"inner": {"rate": float("nan")}}, "f.yaml: inner.rate: must be finite, not nan"),
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
    path.write_text("a: {b: 1, chip.bits: 1}\nitems:\n - {x: 1}\n - {x: 2, name: two}\n")
    given = ["a.b=2", "a.c=[1, 2]", "items.0.x=5", "items.two.x=7", "new.deep=true", "a.chip.bits=9"]
    assert read_yaml(path, given) == {
        "a": {"b": 2, "c": [1, 2], "chip.bits": 9},
        "items": [{"x": 5}, {"x": 7, "name": "two"}],
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": {"epochs": "x"}}, "Outer: inner.epochs: must be a whole number, not 'x'"),
        ({"items": [{"name": "a", "size": None}]}, "Outer: items.a.size: must be a number, not nothing"),
        ({"shar": 1}, "Outer: unknown key 'shar' (did you mean 'share'?)"),
    ],
)
def test_one_who_calls_the_class_gets_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Outer(**settings)
    assert str(error.value) == message


def test_a_value_without_a_name_is_told_the_first_name() -> None:
    with pytest.raises(UserError, match=r"^Inner: settings are given by name: give epochs=7$"):
        Inner(7)  # type: ignore[misc]


def test_a_file_holds_saved_values_by_the_name_of_its_path(tmp_path: Path) -> None:
    class Kept(Saved):
        value: int

    Kept(value=3).save(str(tmp_path / "a.json"))
    assert Kept.load(str(tmp_path / "a.json")) == Kept(value=3)


class _File(Settings):
    path: Path


def test_a_path_that_is_a_word_of_yaml() -> None:
    with pytest.raises(UserError, match="a file: path: must be a path, not false"):
        _File.checked({"path": False}, "a file")
