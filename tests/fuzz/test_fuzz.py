"""Hostile inputs end with 0, or with 2 and one line: forty of each format here, ten thousand by ``make fuzz``."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import server

ROOT = Path(__file__).parents[2]


@pytest.mark.flow
def test_forty_of_each_format(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "500", "--kept", str(tmp_path / "kept")]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (total,) = (line.split() for line in done.stdout.splitlines() if line.startswith("all "))
    tried, fine, refused, other = map(int, total[1:])
    assert (tried, other) == (500, 0)
    assert fine > 20
    assert refused > 250  # both kinds come up: the cases are hostile, and the good files good


def _hungry() -> int:
    bytearray(server.MEMORY + (1 << 30))
    return 0


def _talking(code: int, text: str) -> Callable[[], int]:
    def work() -> int:
        os.write(2, text.encode())
        return code

    return work


def _endless() -> int:
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "wrong"),
    [
        (_talking(0, ""), ""),
        (_talking(2, "prap-pim: no\n"), ""),
        (_talking(2, "prap-pim: no\nmore\n"), "exit 2 with 2 lines"),
        (_talking(2, ""), "exit 2 with 0 lines"),
        (_talking(0, "UserWarning\n"), "exit 0 with something on stderr"),
        (_talking(1, "a fault\n"), "exit 1: a fault"),
        (_talking(2, "prap-pim: " + "x" * 1000), "a message that is too long"),
        (_hungry, "exit 70: MemoryError"),
        (_endless, "it took too long"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM) or 0, "exit -15"),
    ],
)
def test_what_goes_wrong_in_a_child_is_seen(
    work: Callable[[], int], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative control: each kind of failure is found, and only that."""
    monkeypatch.setattr(server, "SECONDS", 2.0)
    found = server.run(work, tmp_path).wrong
    assert found.startswith(wrong) if wrong else not found
