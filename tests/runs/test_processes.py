"""Whole runs on two processes: begun, killed and resumed in every way, they end as on one, and leave nobody behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from prap_pim.__main__ import main
from prap_pim.results.folder import RunFolder
from prap_pim.runs.config import RunConfig
from prap_pim.runs.pipeline import run
from tests.runs.test_pipeline import TINY, figures

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

SHARED = {
    **TINY,
    "data": {"name": "digits", "size": 16, "train": 120, "calibration": 40, "test": 40},
    "training": {"epochs": 24, "compress_at": 12, "batch_size": 60, "project_every": 3, "shards": 2},
    "checked_images": 2,
    "methods": [*TINY["methods"][1:], {"name": "calibrated", "reuse": {"kind": "calibrated", "compute_ratio": 0.3}}],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "shared.yaml"
    path.write_text(yaml.safe_dump(SHARED))
    return path


@pytest.fixture(scope="module")
def by_one(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert main(["run", str(config), "--output", str(folder), "--quiet"]) == 0
    return folder


class Killed(Exception):
    """Stands for the end of the process."""


def killed_after_the_first_epoch(config: Path, folder: Path) -> None:
    def kill(told: str, done: int, total: int, note: str) -> None:
        if told.startswith("training") and done == 3:  # of 2 batches an epoch
            raise Killed

    with pytest.raises(Killed):
        run(RunConfig.load(config), folder, "by one", False, kill)
    assert list(folder.glob("checkpoints/epoch-00001*"))


def start(config: Path, folder: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "prap_pim", "run", str(config), "--output", str(folder), "--resume", *flags]
    environment = {key: value for key, value in os.environ.items() if key not in ("MASTER_ADDR", "LOCAL_RANK")}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def children(process: "subprocess.Popen[str]") -> list[int]:
    """In the order in which they were started."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    """Whether all end within seconds; a zombie has ended."""
    for _ in range(500):
        alive = []
        for pid in pids:
            try:
                alive.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX")
            except OSError:
                continue
        if not any(alive):
            return True
        time.sleep(0.02)
    return False


def wait_for(process: "subprocess.Popen[str]", folder: Path, mark: str) -> list[int]:
    """Until a file is there; returns the processes that were launched."""
    while not list(folder.glob(mark)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    return children(process)


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def end(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    return output


def test_ended_in_every_way_and_resumed(config: Path, by_one: Path, tmp_path: Path):
    folder = tmp_path / "two"
    killed_after_the_first_epoch(config, folder)

    process = start(config, folder, "--devices", "2", "--quiet")
    pids = wait_for(process, folder, "checkpoints/epoch-00005*")
    assert len(pids) == 2
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "prap-pim: interrupted; go on with --resume\n")
    assert gone(pids)

    process = start(config, folder, "--devices", "2", "--quiet")
    pids = wait_for(process, folder, "checkpoints/epoch-00009*")
    process.kill()
    assert gone(pids)
    process.communicate()

    for number, mark in ((2, "checkpoints/epoch-00017*"), (1, "methods/prap/checkpoints/epoch-00016*")):
        process = start(config, folder, "--devices", "2", "--quiet")
        pids = wait_for(process, folder, mark)
        os.kill(pids[number - 1], signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
        assert errors == f"prap-pim: process {number} of 2 was killed (SIGKILL); go on with --resume\n"
        assert (process.returncode, output) == (2, "")
        assert gone(pids)

    output = end(start(config, folder, "--devices", "2", "--json"))
    assert json.loads(output) == json.loads((folder / "results.json").read_text())
    assert figures(folder) == figures(by_one)
    one, two = (RunFolder(place).read_manifest() for place in (by_one, folder))
    assert (one.origin, one.plans) == (two.origin, two.plans)
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_begun_by_two_and_ended_by_one(config: Path, by_one: Path, tmp_path: Path):
    folder = tmp_path / "two"
    process = start(config, folder, "--devices", "2", "--quiet")
    pids = wait_for(process, folder, "methods/prap/checkpoints/epoch-00016*")
    kill(process)
    assert gone(pids)
    end(start(config, folder, "--quiet"))
    assert figures(folder) == figures(by_one)


@pytest.mark.slow
def test_started_by_torchrun(config: Path, by_one: Path, tmp_path: Path):
    folder = tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "prap_pim", "run", str(config), "--output", str(folder), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "results.json").read_text())
    assert figures(folder) == figures(by_one)


def test_another_arithmetic_is_refused(config: Path, by_one: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--resume", "--precision", "bf16-mixed"]
    assert main(["run", str(config), "--output", str(by_one), *flags]) == 2
    assert "was begun with --precision 32-true: go on with that" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mistake_is_one_line_of_the_first_process(config: Path, tmp_path: Path):
    process = start(config, tmp_path / "r", "--devices", "2", "--set", "training.shards=3")
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (2, "")
    assert errors.startswith(
        "prap-pim: 2 processes share the shards of a batch evenly: set training.shards to a multiple"
    )
    assert errors.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("flags", [["--devices", "0"], ["--precision", "fp4"], ["--nodes", "2"]])
def test_mistakes_before_anything_is_launched(
    flags: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", str(config), "--output", str(tmp_path / "r"), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r").exists()
