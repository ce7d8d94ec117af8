"""Bookkeeping of studies whose front is known by arithmetic: proposals, journal, front, tables, processes, kills."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from prap_pim.common.errors import UserError
from prap_pim.common.progress import quiet
from prap_pim.results.study import TrialResult
from prap_pim.runs.study import StudyConfig, run_study, search
from prap_pim.runs.study.explore import Study
from prap_pim.runs.study.folder import StudyFolder
from tests.runs.study.analytic import SLOW, Analytic, Dying, DyingTwice, OnFullDisk, runs, study


def run(config: StudyConfig, folder: Path, processes: int = 1, resume: bool = False) -> Study:
    return run_study(config, folder, "test", resume, processes, None, quiet, Analytic)


def journal(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """What Optuna itself reads from the folder."""
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return optuna.load_study(study_name="analytic", storage=storage).trials


def dominated(one: tuple[float, ...], points: list[tuple[float, ...]]) -> bool:
    return any(all(a <= b for a, b in zip(p, one, strict=True)) and p != one for p in points)


def test_many_random_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Proposed batch after batch by samplers of their own; the journal is not listed after each."""
    monkeypatch.setattr(search, "_BLIND", 100)
    counted = 0

    def count(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
        nonlocal counted
        counted += 1
        return study.get_trials(deepcopy=False)

    monkeypatch.setattr(search.Search, "finished", property(lambda self: len(count(self._journal))))
    results = run(study(sampler="random", trials=300), tmp_path / "s")
    for trial in results.trials:
        seed = int(np.random.SeedSequence([5, trial.number]).generate_state(1)[0])
        alone = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask()
        bits = alone.suggest_int("chip.adc_bits", 1, 16)
        adcs = alone.suggest_categorical("chip.adcs_per_crossbar", [1, 2, 4])
        assert trial.values == {"chip.adc_bits": bits, "chip.adcs_per_crossbar": adcs}
    assert [trial.number for trial in journal(tmp_path / "s")] == list(range(300))
    assert counted < 100 + 120 + 10  # the first hundred, 1.01**110 = 3 times that, ends of batches


def test_the_front_of_a_grid_is_the_known_one(tmp_path: Path):
    results = run(study(), tmp_path / "s")
    assert len(results.trials) == 48
    points = {(t.values["chip.adc_bits"], t.values["chip.adcs_per_crossbar"]) for t in results.trials}
    assert points == {(x, y) for x in range(1, 17) for y in (1, 2, 4)}
    front = [(t.values["chip.adc_bits"], t.values["chip.adcs_per_crossbar"]) for t in results.front_trials]
    assert front == [(x, 1) for x in range(1, 17)]  # the least energy first
    (failed,) = [trial for trial in results.trials if trial.reason is not None]
    assert (failed.reason, failed.figures) == ("this point cannot be", {})

    of_optuna = journal(tmp_path / "s")
    assert [trial.number for trial in of_optuna] == list(range(48))
    for mine, its in zip(results.trials, of_optuna, strict=True):
        assert its.params == mine.values
        if mine.reason is None:
            assert its.values == [mine.figures["energy_j"], mine.figures["pipelined.latency_s"]]
        else:
            assert its.state is TrialState.FAIL
    table = pq.read_table(tmp_path / "s/trials.parquet").to_pylist()
    assert [row["energy_j"] for row in table] == [trial.figures.get("energy_j") for trial in results.trials]
    assert [row["chip.adc_bits"] for row in table] == [trial.values["chip.adc_bits"] for trial in results.trials]
    assert [row["chip.adc_bits"] for row in pq.read_table(tmp_path / "s/front.parquet").to_pylist()] == list(
        range(1, 17)
    )
    assert json.loads((tmp_path / "s/study.json").read_text()) == results.model_dump()
    assert "<html" in (tmp_path / "s/report.html").read_text()


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_a_search_finds_the_front_that_comparing_all_pairs_finds(sampler: str, tmp_path: Path):
    config = study(sampler=sampler, trials=40, batch=8, constraints={"area": "<= 2", "energy": ">= 3"})
    results = run(config, tmp_path / "s")
    assert len(results.trials) == 40
    feasible = {}
    for trial in results.trials:
        if trial.reason is None:
            energy, latency, area = (trial.figures[n] for n in ("energy_j", "pipelined.latency_s", "area_m2"))
            assert trial.feasible == (area <= 2 and energy >= 3)
            if trial.feasible:
                feasible[trial.number] = (energy, latency)
    best = {point for point in feasible.values() if not dominated(point, list(feasible.values()))}
    assert {feasible[number] for number in results.front} == best
    assert len(results.front) == len(best)  # a point is there once
    assert 0 < len(best) < len(feasible)


def test_a_guided_search_learns(tmp_path: Path):
    """NSGA-II tries more of the front (y = 1) in its last generations than in its first, which is random."""
    config = study(sampler="nsga2", trials=96, batch=16)
    trials = run(config, tmp_path / "s").trials
    on_front = [trial.values["chip.adcs_per_crossbar"] == 1 for trial in trials]
    assert sum(on_front[-32:]) > 1.5 * sum(on_front[:32])


@pytest.mark.parametrize("sampler", ["nsga2", pytest.param("tpe", marks=pytest.mark.slow)])
def test_several_processes_find_what_one_finds(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = study(sampler=sampler, trials=24, batch=6)
    one = run(config, tmp_path / "one")
    monkeypatch.setenv(SLOW, "0.3")  # so that the second process comes before the first has done all
    two = run(config, tmp_path / "two", processes=2)
    monkeypatch.delenv(SLOW)
    assert one == two
    assert len(runs(tmp_path / "two")) == 24
    assert len({line.split()[0] for line in (tmp_path / "two/runs.log").read_text().splitlines()}) == 2
    other = run(study(sampler=sampler, trials=24, batch=6, seed=6), tmp_path / "other")
    assert [t.values for t in other.trials] != [t.values for t in one.trials]


def test_it_is_the_same_study_when_it_goes_on(tmp_path: Path):
    """Stopped after any number of trials, by a full disk say, and gone on with in other processes."""
    config = study(sampler="nsga2", trials=24, batch=6)
    whole = run(config, tmp_path / "whole")
    for stop in (1, 6, 13, 23):
        folder = tmp_path / f"stopped-{stop}"

        class Stopped(Analytic):
            left = stop

            def __call__(self, values: Any) -> dict[str, int | float | None]:
                type(self).left -= 1
                if type(self).left < 0:
                    raise UserError("cannot write x: No space left on device") from OSError(28, "No space left")
                return super().__call__(values)

        with pytest.raises(UserError, match="No space left"):
            run_study(config, folder, "test", False, 1, None, quiet, Stopped)
        assert len(journal(folder)) == stop
        with pytest.raises(UserError, match="holds this study already: go on with --resume"):
            run(config, folder)
        assert run(config, folder, resume=True) == whole
        assert len(runs(folder)) == 24  # none twice


def test_another_study_is_refused(tmp_path: Path):
    run(study(trials=3), tmp_path / "s")
    before = (tmp_path / "s/study.json").read_text()
    for other in (study(trials=4), study(seed=6, trials=3)):
        with pytest.raises(UserError, match="holds another study") as error:
            run(other, tmp_path / "s", resume=True)
        assert "\n" not in str(error.value)
    assert (tmp_path / "s/study.json").read_text() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no study"):
        run(study(), tmp_path / "full")


def test_a_journal_with_half_a_line_opens_again(tmp_path: Path):
    config = study(sampler="tpe", trials=12, batch=4)
    whole = run(config, tmp_path / "s")
    path = tmp_path / "s/journal.log"
    lines = path.read_text().splitlines(keepends=True)
    for cut in (1, 40, len(lines[-1]) - 1):
        (tmp_path / "s/study.json").unlink()
        path.write_text("".join(lines)[:-cut])
        assert run(config, tmp_path / "s", resume=True) == whole
        assert path.read_text().count("\n") == len(lines)
        assert len(journal(tmp_path / "s")) == 12
    assert len(runs(tmp_path / "s")) == 12  # the trial's own file was there


@pytest.mark.parametrize("lost", [("study.json",), ("study.json", "journal.log")])
def test_a_damaged_trial_is_run_again(lost: tuple[str, ...], tmp_path: Path):
    """Whether the journal has it already or not."""
    config = study(trials=6)
    whole = run(config, tmp_path / "s")
    for name in lost:
        (tmp_path / "s" / name).unlink()
    trial = tmp_path / "s/trials/000003.json"
    trial.write_text(trial.read_text().replace('"energy_j": ', '"energy_j": 1'))
    assert run(config, tmp_path / "s", resume=True) == whole
    assert len(runs(tmp_path / "s")) == 7


def test_a_trial_is_that_of_its_number_and_values(tmp_path: Path):
    folder, trial = StudyFolder(tmp_path), TrialResult(number=3, values={"x": 1, "y": [2.5]})
    folder.save_trial(trial)
    assert folder.load_trial(3, trial.values) == trial
    folder.trial(3).rename(folder.trial(4))
    assert folder.load_trial(4, trial.values) is None
    folder.save_trial(trial)
    assert folder.load_trial(3, {**trial.values, "x": 2}) is None


@pytest.mark.parametrize("broken", ["", "{", "{}", '{"schema_version": 7}'])
def test_broken_results_are_made_of_the_trials_anew(broken: str, tmp_path: Path):
    whole = run(study(trials=3), tmp_path / "s")
    (tmp_path / "s/study.json").write_text(broken)
    assert run(study(trials=3), tmp_path / "s", resume=True) == whole
    assert len(runs(tmp_path / "s")) == 3  # none of them again


def test_a_damaged_journal_is_made_anew_of_the_trials(tmp_path: Path):
    """Whichever byte of it is another, and whether Optuna notices or not."""
    config, path = study(sampler="nsga2", trials=6, batch=3), tmp_path / "s/journal.log"
    whole = run(config, tmp_path / "s")
    content = path.read_bytes()
    broken = [b"no journal\n" * 3, content.replace(b'"op_code"', b'"op_c0de"', 3)]
    places = random.Random(0).sample(range(len(content)), 40)
    broken += [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in places]
    for one in broken:
        path.write_bytes(one)
        (tmp_path / "s/study.json").unlink()
        assert run(config, tmp_path / "s", resume=True) == whole
        storage = JournalStorage(JournalFileBackend(str(path)))
        (again,) = storage.get_all_studies()
        trials = storage.get_all_trials(again._study_id)
        assert [trial.params for trial in trials] == [trial.values for trial in whole.trials]
    assert len(runs(tmp_path / "s")) == 6  # none again


def test_a_damaged_journal_is_left_alone_while_others_use_it(tmp_path: Path):
    folder = tmp_path / "s"
    process = start(folder, 1, 5)
    wait_for(lambda: list((folder / "proposals").glob("*.json")), process)
    (folder / "journal.log").write_bytes(b"no journal\n" * 3)
    with pytest.raises(UserError, match=r"journal.log is damaged: it is made anew when nobody else works"):
        run(study(sampler="nsga2", trials=24, batch=6), folder, resume=True)
    assert (folder / "journal.log").read_bytes() == b"no journal\n" * 3
    process.kill()
    process.communicate()


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_a_damaged_proposal_is_made_of_the_trials_before_it(tmp_path: Path, sampler: str) -> None:
    config = study(sampler=sampler, trials=9, batch=3)
    whole = run(config, tmp_path / "s")
    for path in sorted((tmp_path / "s/proposals").glob("*.json")):
        content = path.read_bytes()
        at = content.index(b'"values"') + 20
        for damaged in (content[:-9], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], b"[{}]", b"{}"):
            path.write_bytes(damaged)
            (tmp_path / "s/study.json").unlink()
            assert run(config, tmp_path / "s", resume=True) == whole
            assert path.read_bytes() == content


def test_a_damaged_study_is_named_and_made_anew(tmp_path: Path):
    folder, config = StudyFolder(tmp_path / "s"), study(trials=3)
    whole = run(config, folder.path)
    for file, renewed in ((folder.study, True), (folder.config, False), (folder.manifest, False)):
        content = file.read_bytes()
        for damaged in (content[:-9], content.replace(b"a", b"b", 1), None):
            file.write_bytes(damaged) if damaged is not None else file.unlink()
            if damaged is not None or file != folder.study:
                with pytest.raises(UserError, match=str(file)):
                    folder.read_study()
            if renewed or (file == folder.config and damaged is not None):
                assert run(config, folder.path, resume=True) == whole
                assert file != folder.config or file.read_bytes() == content
            else:
                with pytest.raises(UserError, match=file.name if damaged is not None else "missing|holds no study"):
                    run(config, folder.path, resume=True)
            if not renewed:
                file.write_bytes(content)
    assert folder.read_study().model_dump() == whole.model_dump()


def test_a_full_disk_is_one_line_and_what_was_finished_stays(tmp_path: Path):
    """The size of files is limited, as a disk's is; the journal is the file that grows."""
    config, folder = study(), tmp_path / "s"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*journal.log: File too large") as error:
            run(config, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    kept = len(journal(folder))
    assert 5 < kept < 40
    assert run(config, folder, resume=True) == run(config, tmp_path / "whole")
    assert len(runs(folder)) == 48


PROGRAM = """
import sys
from pathlib import Path
from prap_pim.runs.study import run_study
from prap_pim.common.progress import quiet
from tests.runs.study.analytic import Analytic, study
if __name__ == "__main__":
    config = study(sampler="nsga2", trials=24, batch=6)
    run_study(config, Path(sys.argv[1]), "test", True, int(sys.argv[2]), None, quiet, Analytic)
"""


def start(folder: Path, processes: int, seconds: float) -> "subprocess.Popen[bytes]":
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}", "PRAP_PIM_TEST_SECONDS": str(seconds)}
    command = [sys.executable, "-c", PROGRAM, str(folder), str(processes)]
    if processes > 1:  # spawned processes want a file to import
        script = folder.parent / "program.py"
        script.write_text(PROGRAM)
        command = [sys.executable, str(script), str(folder), str(processes)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def wait_for(done: Any, process: "subprocess.Popen[bytes] | None" = None) -> None:
    limit = time.monotonic() + 240
    while not done():
        assert time.monotonic() < limit
        assert process is None or process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)


def finished(folder: Path) -> int:
    return len(list((folder / "trials").glob("*.json")))


def killed_at(moments: Iterable[tuple[int, float]], processes: int, folder: Path, config: StudyConfig) -> None:
    """Start the study and kill it, so many seconds after so many trials have finished; again and again."""
    for count, seconds in moments:
        before = {path.name: path.read_bytes() for path in folder.glob("trials/*.json")}
        process = start(folder, processes, 0.05)
        wait_for(lambda count=count: finished(folder) >= count, process)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        # the journal opens, and every trial that has finished is there once, as it was
        assert [trial.number for trial in journal(folder)] == list(range(len(journal(folder))))
        assert all((folder / "trials" / name).read_bytes() == content for name, content in before.items())


def test_killed_it_is_the_same_study(tmp_path: Path):
    config, folder = study(sampler="nsga2", trials=24, batch=6), tmp_path / "s"
    killed_at([(2, 0.01)], 1, folder, config)
    assert run(config, folder, resume=True) == run(config, tmp_path / "whole")
    assert 24 <= len(runs(folder)) <= 24 + 1  # the trial that was running when it was killed, again


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_twenty_random_moments(processes: int, tmp_path: Path):
    config, folder = study(sampler="nsga2", trials=24, batch=6), tmp_path / "s"
    moments = random.Random(processes)
    killed_at([(i, moments.uniform(0, 0.2)) for i in range(1, 21)], processes, folder, config)
    assert run(config, folder, resume=True) == run(config, tmp_path / "whole")
    assert 24 <= len(runs(folder)) <= 24 + 20 * processes


def test_two_that_are_started_by_hand_share_the_trials(tmp_path: Path):
    config, folder = study(sampler="nsga2", trials=24, batch=6), tmp_path / "s"
    processes = [start(folder, 1, 0.1), start(folder, 1, 0.1)]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    assert len({line.split()[0] for line in (folder / "runs.log").read_text().splitlines()}) == 2
    assert len(runs(folder)) == 24
    assert run(config, folder, resume=True) == run(config, tmp_path / "one")


def test_processes_that_die_are_replaced_and_their_trials_run_again(tmp_path: Path):
    """The two that were begun with die in their first trials."""
    config = study(sampler="nsga2", trials=12, batch=6)
    results = run_study(config, tmp_path / "s", "test", False, 2, None, quiet, DyingTwice)
    assert results == run(config, tmp_path / "one")
    assert (tmp_path / "s/deaths").read_text() == "xx"


@pytest.mark.slow
def test_processes_that_die_again_and_again_are_given_up(tmp_path: Path):
    with pytest.raises(UserError, match=r"3 processes died one after the other \(the last by signal 9\)"):
        run_study(study(trials=6), tmp_path / "s", "test", False, 2, None, quiet, Dying)


def test_what_is_wrong_in_a_process_is_told_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot write here: No space left on device"):
        run_study(study(trials=6), tmp_path / "s", "test", False, 2, None, quiet, OnFullDisk)
