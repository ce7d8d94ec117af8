import errno
import os
from pathlib import Path

import pytest

from prap_pim.common.errors import UserError
from prap_pim.common.files import check_writable, read_json, write_json, write_whole


def test_written_whole(tmp_path: Path):
    path = tmp_path / "deep" / "a.txt"
    write_whole(path, "old")
    write_whole(path, b"new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def full_disk(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_whole(tmp_path / "file" / "a.txt", "x")


def test_json(tmp_path: Path):
    write_json(tmp_path / "a.json", {"a": [1, 0.1]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "c.json")


def test_a_file_without_end_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot read /dev/zero: it is larger than 256 MiB"):
        read_json(Path("/dev/zero"))


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*new"):
        check_writable(tmp_path / "new" / "file")
    (tmp_path / "file").write_text("kept")
    check_writable(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]  # nothing is left behind
    assert (tmp_path / "file").read_text() == "kept"
    os.mkfifo(tmp_path / "pipe")  # as a device: a file must not take its place
    for path in (tmp_path, tmp_path / "file" / "below", Path("/proc/file"), tmp_path / "pipe"):
        for write in (check_writable, lambda path: write_whole(path, b"x")):
            with pytest.raises(UserError, match=f"cannot write {path}"):
                write(path)
    assert (tmp_path / "pipe").is_fifo()
