"""Three processes on one run, which one of them takes, and on one study, which they share; one is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prap_pim.__main__ import main
from tests.runs.kills import begun, contents

RUN = ("run", "c.yaml", "--output", "out", "--resume", "--quiet")
STUDY = ("explore", "s.yaml", "--output", "out", "--resume", "--quiet", "--processes", "1")
MINUTES = 3 * 60.0


@contextmanager
def started(place: Path, words: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone at the end, whatever happens."""
    python = [sys.executable, "-W", "ignore", "-m", "prap_pim", *words]
    with subprocess.Popen(python, cwd=place, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=MINUTES)
    return process.returncode, errors


def wait_for_files(process: subprocess.Popen[str], place: Path) -> None:
    until = time.monotonic() + MINUTES
    while not list((place / "out").glob("*/*")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)


def undisturbed(words: tuple[str, ...], root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(begun("alone", root, None))
    assert main(words) == 0
    return contents(root / "alone")


def test_a_run_is_for_one_process_and_goes_on_when_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = begun("shared", tmp_path, None)
    with started(place, RUN) as first:
        wait_for_files(first, place)
        os.kill(first.pid, signal.SIGSTOP)  # it holds the folder until the others have come
        with started(place, RUN) as second:
            monkeypatch.chdir(place)
            third = main(RUN), capsys.readouterr().err
            for code, errors in (ended(second), third):
                assert (code, errors.count("\n")) == (2, 1)
                assert "in use by another process" in errors
        first.kill()
        assert ended(first)[0] == -signal.SIGKILL
    assert main(RUN) == 0
    assert contents(place) == undisturbed(RUN, tmp_path, monkeypatch)


def test_a_study_is_shared_and_loses_no_trial_of_one_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = begun("shared", tmp_path, None)
    with started(place, STUDY) as first, started(place, STUDY) as second, started(place, STUDY) as third:
        wait_for_files(first, place)
        first.kill()
        assert [ended(each) for each in (second, third)] == [(0, ""), (0, "")]
    assert contents(place) == undisturbed(STUDY, tmp_path, monkeypatch)
