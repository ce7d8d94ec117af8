"""Bytes of a user's file stay what they are; archives are tested where they are asked for."""

from pathlib import Path

import numpy as np
import pytest

from prap_pim.common import arrays

CONTENT = bytes(range(200))


def test_bytes_do_not_change_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    whole, part = arrays.bytes_of(path), arrays.bytes_of(path, 50, 100)
    path.write_bytes(b"")  # a page of a mapped file would be gone, and who reads it killed
    assert (whole.tobytes(), part.tobytes()) == (CONTENT, CONTENT[50:150])


def test_what_is_large_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    monkeypatch.setattr(arrays, "available_memory", lambda: 4 * 100)
    assert not isinstance(arrays.bytes_of(path, 0, 100), np.memmap)
    large = arrays.bytes_of(path, 50)
    assert isinstance(large, np.memmap)
    assert large.tobytes() == CONTENT[50:]


def test_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with pytest.raises(ValueError, match="cut while it was read"):
        arrays.bytes_of(path, 150, 51)
    with pytest.raises(ValueError, match="empty"):
        arrays.bytes_of(path, 200)
