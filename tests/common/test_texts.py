"""Text that stands for too much, or for something else than it seems to say, is one line; what is plain is read."""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from prap_pim.common.arrays import read_arrays, read_headers
from prap_pim.common.errors import UserError
from prap_pim.common.texts import MOST_DEPTH, parse_toml, parse_yaml

_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_BOMB, "f, line 6: more than 200,000 values"),
        (
            "a0: &a0 {x: 1}\n"
            + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)),
            "200,000",
        ),
        ("a: " + "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "line 1: more than 50 lists or mappings"),
        ("a: " + "[" * 100_000, "more than 50 lists or mappings"),
        ("a: &a [*a]\n", "line 1: what .a stands for holds itself"),
        ("a: *b\n", "line 1: what .b stands for is nowhere in front of it"),
        ("x" * (5 << 20), "f: it is larger than 4 MiB"),
        ("[" + "0," * 250_000 + "]", "more than 200,000 values"),
        ("a: !!set {b}\n", "could not determine a constructor"),
        ("a: !!timestamp 2001-01-01\n", "could not determine a constructor"),
        ("a: " + "9" * 5000, "not valid YAML"),
    ],
)
def test_yaml_that_stands_for_too_much(text: str, message: str) -> None:
    before = time.process_time()
    with pytest.raises(UserError, match=message) as caught:
        parse_yaml(text, "f")
    assert len(str(caught.value)) < 300
    assert time.process_time() - before < 60


def test_yaml_is_what_people_write() -> None:
    """Not what YAML 1.1 makes of it: 1_0 is ten there, 010 eight, 1:30 ninety and 2001-01-01 a date."""
    for text in ("1_0", "010", "1:30", "0x1F", "0b11", "2001-01-01", "1e", "1.2.3"):
        assert parse_yaml(f"a: {text}", "f") == {"a": text}
    numbers = {
        "0": 0,
        "-7": -7,
        "+3": 3,
        "10": 10,
        ".5": 0.5,
        "5.": 5.0,
        "1.5e3": 1500.0,
        "1E-3": 0.001,
        "-.inf": -np.inf,
    }
    for text, value in numbers.items():
        found = parse_yaml(f"a: {text}", "f")["a"]
        assert (found, type(found)) == (value, type(value))


def test_a_merge_works_and_what_is_written_goes_before_it() -> None:
    text = "base: &b {x: 1, y: [1]}\none: {<<: *b, x: 2}\ntwo: {<<: [*b, {z: 3}]}\n"
    found = parse_yaml(text, "f")
    assert found["one"] == {"x": 2, "y": [1]}
    assert found["two"] == {"x": 1, "y": [1], "z": 3}
    found["one"]["y"].append(2)  # as --set does
    assert found["base"]["y"] == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 60 + "]" * 60, "more than 50 lists or mappings"),
        ("a = " + "[" * 5000 + "]" * 5000, "more than 50 lists or mappings"),
        ("a." * 60 + "a = 1", "more than 50 lists or mappings"),
        ("a." * 100_000 + "a = 1", "a line has more than 200 dots"),
        ("a = [" + "0," * 250_000 + "]", "more than 200,000 values"),
        ("#" * (5 << 20), "larger than 4 MiB"),
        ("a = " + "9" * 5000, "cannot read f"),
        ("a = ", "not valid TOML"),
    ],
)
def test_toml_that_stands_for_too_much(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_toml(text, "f")


def test_arrays_are_known_before_they_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    small = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez_compressed(path, small=small, zeros=np.zeros((600, 1 << 20), np.uint8))  # 600 MiB of less than 1
    headers = read_headers(path)
    assert {name: (each.shape, each.dtype) for name, each in headers.items()} == {
        "small": ((2, 3), np.float32),
        "zeros": ((600, 1 << 20), np.uint8),
    }
    assert np.array_equal(read_arrays(path, ["small"])["small"], small)  # the other is not unpacked
    with pytest.raises(UserError, match=r"its arrays unpack to 0\.6 GiB, [\d,]+ times the file"):
        read_arrays(path)


def test_arrays_larger_than_memory_are_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(path := tmp_path / "a.npz", a=np.zeros(1000))
    monkeypatch.setattr("prap_pim.common.memory.available_memory", lambda: 1000)
    with pytest.raises(UserError, match="to unpack its arrays needs about"):
        read_arrays(path)


@pytest.mark.parametrize("place", range(0, 260, 3))
def test_a_flipped_bit_of_an_archive_is_found(place: int, tmp_path: Path) -> None:
    """Or changes nothing, as a date in it does."""
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(4.0))
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 4
    path.write_bytes(content)
    found = None
    with suppress(UserError):
        found = read_arrays(path)
    assert found is None or np.array_equal(next(iter(found.values())), np.arange(4.0))
