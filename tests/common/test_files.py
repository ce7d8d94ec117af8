import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prap_pim.common.arrays import read_arrays
from prap_pim.common.errors import UserError
from prap_pim.common.files import check_writable, file_digest, read_json, write_json, write_whole
from prap_pim.ir.plan import NetworkPlan
from prap_pim.training.checkpoint import Checkpoint


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


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("device", "cannot read /dev/zero: it is no plain file"),
        ("pipe", "it is no plain file"),
        ("folder", "Is a directory"),
        ("link", "No such file or directory"),
        ("NUL", "null|x00"),
    ],
)
@pytest.mark.parametrize("read", [read_json, file_digest, read_arrays, NetworkPlan.load, Checkpoint.load])
def test_what_is_no_file_is_one_line_and_nobody_waits(
    read: Callable[[Path], object], kind: str, message: str, tmp_path: Path
) -> None:
    path = {"device": Path("/dev/zero"), "NUL": Path("a\0b")}.get(kind, tmp_path / kind)
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    if kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=message):
        read(path)


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


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_json_holds_finite_numbers_alone(number: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(f'{{"seed": [1.5, {number}]}}')
    with pytest.raises(UserError, match=f"it is not valid JSON .{number} is not a finite number"):
        read_json(path)
