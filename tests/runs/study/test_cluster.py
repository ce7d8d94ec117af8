"""Studies on a Dask cluster: a real scheduler and workers in processes of their own."""

import os
import signal
import time
from pathlib import Path

import pytest

from prap_pim.common.errors import UserError
from prap_pim.common.progress import quiet
from prap_pim.runs.study import run_study
from tests.cluster import ROOT, scheduler, worker
from tests.runs.study.analytic import SLOW, Analytic, runs, study


def test_two_workers_find_what_one_process_finds_also_if_one_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = study(sampler="nsga2", trials=24, batch=6)
    one = run_study(config, Path("one"), "test", False, 1, None, quiet, Analytic)
    killed: list[int] = []
    slow = {SLOW: "0.2"}

    def kill_one(phase: str, done: int, total: int, note: str) -> None:
        """When a few trials are done, in the midst of the next one."""
        if done >= 4 and not killed:
            limit = time.monotonic() + 60
            while len(runs(Path("two"))) <= 5 and time.monotonic() < limit:
                time.sleep(0.01)
            killed.append(int(Path("two/runs.log").read_text().splitlines()[-1].split()[0]))
            os.kill(killed[0], signal.SIGKILL)

    with scheduler(tmp_path) as address, worker(address, tmp_path, **slow), worker(address, tmp_path, **slow):
        two = run_study(config, Path("two"), "test", False, None, address, kill_one, Analytic)
        assert two == one
        lines = Path("two/runs.log").read_text().splitlines()
        assert len({line.split()[0] for line in lines}) == 2
        assert killed
        assert 24 <= len(lines) <= 26  # what the killed worker had begun and what it had not yet told, again

        with worker(address, ROOT):  # in another folder
            limit, complaint = time.monotonic() + 60, ""
            while not complaint and time.monotonic() < limit:  # until it has come
                here = Path(f"three-{time.monotonic()}"), "test", False, None
                try:
                    run_study(study(trials=2), *here, address, quiet, Analytic)
                except UserError as error:
                    complaint = str(error)
            assert f"runs in {ROOT}: start it in {tmp_path}, on files that all workers share" in complaint


def test_no_scheduler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prap_pim.common.cluster._ANSWER", 1)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 ") as error:
        run_study(study(trials=2), tmp_path / "s", "test", False, None, "tcp://127.0.0.1:1", quiet, Analytic)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "s").exists()  # so that the same command with another address goes through
    for address in ("nonsense", "http://127.0.0.1:1"):
        with pytest.raises(UserError, match="no Dask scheduler answers"):
            run_study(study(trials=2), tmp_path / "s", "test", False, None, address, quiet, Analytic)
