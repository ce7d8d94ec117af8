"""A real Dask scheduler and workers, in processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def started(*command: str, folder: Path, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} | more
    where = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", *command], **where)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    told = folder / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told))
    with started("distributed.cli.dask_scheduler", *options, folder=folder):
        limit = time.monotonic() + 120
        while not told.exists() or not told.read_text().strip():
            assert time.monotonic() < limit
            time.sleep(0.05)
        yield json.loads(told.read_text())["address"]


def worker(address: str, folder: Path, **more: str):
    options = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1")
    return started("distributed.cli.dask_worker", address, *options, folder=folder, **more)
