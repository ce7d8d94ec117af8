"""SIGKILL at random, after files exist: what is called again ends as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("run", "compare", "simulate", "explore", "compress", "finetune")


def kill(count: int, *names: str) -> None:
    """In a process of its own: one that has trained can no longer be forked."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.runs.kills", str(count), *names]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [[name, "killed", str(count)] for name in names]


def test_few() -> None:
    kill(2, *NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many(name: str) -> None:
    kill(20, name)
