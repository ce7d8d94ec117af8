"""SIGKILL at random, after files exist: what is called again ends as undisturbed. And disks that are full."""

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


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.runs.full_disk", "20"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("'full'") == done.stdout.count("'fine'") == len(NAMES)
