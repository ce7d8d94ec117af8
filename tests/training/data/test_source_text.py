"""Windows of source text: cut as one would by hand, whole files held out, the same for the same seed."""

import sysconfig
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.training.data import Examples, SourceTextConfig, Splits, load
from prap_pim.training.data.source_text import windows


@given(text=st.binary(max_size=60), length=st.integers(1, 9))
def test_windows_are_the_text_cut_up(text: bytes, length: int) -> None:
    found = windows(text, length)
    expected = []
    start = 0
    while start + length + 1 <= len(text):
        expected.append(list(text[start : start + length + 1]))
        start += length
    assert found.tolist() == expected
    assert found.shape == (len(expected), length + 1)


def test_by_hand() -> None:
    assert [bytes(window) for window in windows(b"def f(x)", 3)] == [b"def ", b" f(x"]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten modules of one letter each and what does not belong to it, in the place of the standard library."""
    for letter in "abcdefghij":
        place = tmp_path / ("package" if letter > "e" else "") / f"{letter}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(letter.encode() * (40 + ord(letter) % 3))
    for other in ("test/t.py", "x/tests/t.py", "idlelib/idle_test/t.py", "site-packages/t.py", "__pycache__/t.py"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_bytes(b"?" * 100)
    (tmp_path / "_sysconfigdata_linux.py").write_bytes(b"?" * 100)
    (tmp_path / "c.txt").write_bytes(b"?" * 100)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def of_library(seed: int = 0, **changes: object) -> Splits:
    values = {"length": 8, "held_out": 0.2, "calibration": 7, "test": 6} | changes
    return load(SourceTextConfig.model_validate(values), seed)


def letters(examples: Examples) -> set[str]:
    return set(bytes(examples.inputs.flatten().tolist()).decode())


def test_files_are_held_out_whole(library: Path) -> None:
    splits = of_library()
    parts = [letters(part) for part in (splits.train, splits.calibration, splits.test)]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert set().union(*parts) == set("abcdefghij")  # every file once, and nothing else
    for part in (splits.train, splits.calibration, splits.test):
        assert (part.inputs == part.labels).all()  # no window reaches into the next file
        assert part.inputs.shape[1:] == (8,)
    # ceil((n - 8) / 8) windows of a file of n = 40, 41 or 42 bytes: the byte after the last one must be there
    sizes = {letter: 40 + ord(letter) % 3 for letter in "abcdefghij"}
    assert len(splits.train) == sum((sizes[letter] - 1) // 8 for letter in parts[0])
    assert (len(splits.calibration), len(splits.test)) == (7, 6)
    assert splits.classes == 256


def test_the_seed_decides_the_split(library: Path) -> None:
    first, again = of_library(3), of_library(3)
    assert all(
        torch.equal(getattr(first, part).inputs, getattr(again, part).inputs)
        for part in ("train", "calibration", "test")
        for part in ("train", "calibration", "test")
    )
    assert len({frozenset(letters(of_library(seed).test)) for seed in range(5)}) > 1
    fewer = of_library(3, train=4)
    assert torch.equal(fewer.train.inputs, first.train.inputs[:4])


def test_the_description_tells_the_text(library: Path) -> None:
    text = b"".join(letter.encode() * (40 + ord(letter) % 3) for letter in "abcdefghij")
    assert sha256(text).hexdigest() in of_library().description
    (library / "a.py").write_bytes(b"a" * 39 + b"b")
    assert sha256(text).hexdigest() not in of_library().description


@pytest.mark.parametrize("part", ["train", "calibration", "test"])
def test_too_little_text_is_a_mistake_of_the_user(library: Path, part: str) -> None:
    with pytest.raises(UserError, match="too few for 100") as caught:
        of_library(**{part: 100})
    assert "\n" not in str(caught.value)


def test_a_python_without_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "none.zip"))
    with pytest.raises(UserError, match="keeps no source"):
        of_library()


def test_labels_are_the_next_bytes_of_this_python() -> None:
    """On the real library: every window is found in its files, with its label behind it."""
    splits = load(SourceTextConfig(calibration=20, test=20), 0)
    whole = b"\0".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    found = 0
    for inputs, labels in zip(splits.test.inputs, splits.test.labels, strict=True):
        assert torch.equal(inputs[1:], labels[:-1])
        found += bytes([*inputs.tolist(), int(labels[-1])]) in whole
    assert found >= 2  # the others are of packages
    assert splits.train.inputs.dtype == splits.train.labels.dtype == torch.int64
    assert int(splits.train.inputs.max()) < 256
    assert len(splits.train) * 128 > 5_000_000
    assert np.isin(np.frombuffer(b"def ", np.uint8), splits.train.inputs.numpy()).all()


def test_examples_of_tokens_check_themselves() -> None:
    tokens = torch.zeros(3, 5, dtype=torch.int64)
    assert Examples(tokens, tokens).are_tokens
    with pytest.raises(UserError, match=r"labels must be int64 \[3, 5\]"):
        Examples(tokens, tokens[:, 0])
    with pytest.raises(UserError, match=r"tokens, int64 \[N, T\]"):
        Examples(tokens.float(), tokens)
