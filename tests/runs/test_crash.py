"""Runs, studies and simulations that die while they write, or whose files are damaged, end as undisturbed ones."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prap_pim.__main__ import main
from tests.folders import as_earlier
from tests.runs.crash import Killed, killed_at_write
from tests.runs.study.test_trial import STUDY
from tests.runs.test_simulate import NOISY, TINY

CALIBRATED = {"name": "calibrated", "reuse": {"kind": "calibrated", "compute_ratio": 0.5}}
TUNED = {**CALIBRATED, "name": "tuned", "tune": {"steps": 45}}  # two checkpoints on the way, one at the end
RUN: dict[str, Any] = {**TINY, "methods": [*TINY["methods"], CALIBRATED, TUNED], "zero_input_skipping": True}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "space": {**STUDY["space"], "chip.adc_bits": [2]}}))
    assert main(["run", str(folder / "run.yaml"), "--output", str(folder / "run"), "--quiet"]) == 0
    return folder


def ended(command: list[str], patch: pytest.MonkeyPatch) -> int:
    """Call it again and again, killed at the first write, then at the second, and so on; returns how often."""
    for deaths in range(100):
        with patch.context() as here:
            killed_at_write(here, deaths + 1)
            try:
                assert main(command) == 0
            except Killed:
                continue
        return deaths
    raise AssertionError


def results(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return values | {"command": "", "simulations": [each | {"command": ""} for each in values["simulations"]]}


def test_a_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = ["run", str(finished / "run.yaml"), "--output", str(tmp_path / "run"), "--resume", "--quiet"]
    assert ended(again, monkeypatch) > 8
    assert results(tmp_path / "run") == results(finished / "run")
    for name in ("plan", "calibrated", "zero-inputs"):
        for path in finished.glob(f"run/methods/*/{name}.safetensors"):
            assert (tmp_path / path.relative_to(finished)).read_bytes() == path.read_bytes()


def test_a_study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["explore", str(finished / "study.yaml"), "--processes", "1", "--quiet", "--resume", "--output"]
    assert main([*command, str(tmp_path / "undisturbed")]) == 0
    assert ended([*command, str(tmp_path / "killed")], monkeypatch) > 6
    whole, killed = (json.loads((tmp_path / name / "study.json").read_text()) for name in ("undisturbed", "killed"))
    assert killed | {"command": ""} == whole | {"command": ""}


def test_a_simulation(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = (Path(shutil.copytree(finished / "run", tmp_path / name)) for name in ("whole", "killed"))
    flags = [*NOISY, "--processes", "1", "--quiet", "--methods", "prap"]
    assert main(["simulate", str(whole), *flags]) == 0
    assert ended(["simulate", str(killed), *flags], monkeypatch) > 2
    assert results(killed) == results(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def refused(file: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command names the file in its one line and writes nothing."""
    pages = {path: path.read_bytes() for path in file.parents[2].rglob("*.html")}
    for command in commands:
        assert main(command) == 2, command
        (line,) = capsys.readouterr().err.splitlines()
        assert str(file) in line
    assert {path: path.read_bytes() for path in file.parents[2].rglob("*.html")} == pages


def readers(folder: Path, other: Path) -> list[list[str]]:
    """All that reads the folder of a finished run."""
    figure = ["--figure", "energy", "--output", str(folder.parent / "figure.pdf")]
    page = ["--output", str(folder.parent / "runs.html")]
    plots = [["plot", str(folder), *figure], ["plot", str(other), str(folder), *figure]]
    return [
        ["simulate", str(folder), *NOISY],
        ["report", str(folder)],
        ["report", str(other), str(folder), *page],
        *plots,
    ]


def edited(path: Path) -> None:
    text = path.read_text()
    path.write_text(re.sub(r"([1-9])", lambda digit: str(int(digit[1]) % 9 + 1), text, count=1))


@pytest.mark.parametrize("damage", [cut, flipped, edited, Path.unlink])
@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "results.json"])
def test_a_finished_run_with_a_damaged_file_is_not_shown_and_gone_on_with_where_it_can_be(
    finished: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    if (name, damage) == ("results.json", Path.unlink):
        return  # then it has not finished
    folder = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    damage(folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    resume = ["run", str(finished / "run.yaml"), "--output", str(folder), "--resume", "--quiet"]
    gone = not (folder / name).exists()
    refused(folder / name, readers(folder, finished / "run")[gone and name == "config.yaml" :], capsys)
    again = main(resume)
    lines = capsys.readouterr().err.splitlines()
    if name == "manifest.json" or gone:  # nothing else tells what it held
        assert again == 2
        (line,) = lines
        assert str(folder / name) in line or (gone and "holds no run" in line)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return
    assert again == 0
    assert [str(folder / name) in line for line in lines] == [True] * (name == "results.json")
    assert results(folder) == results(finished / "run")
    assert (folder / "config.yaml").read_bytes() == (finished / "run/config.yaml").read_bytes()
    assert main(["report", str(folder), "--quiet"]) == 0


def test_a_finished_run_by_an_earlier_version_is_shown_and_its_damage_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    as_earlier(folder)
    commands = readers(folder, finished / "run")
    for command in commands:
        assert main([*command, "--quiet"]) == 0
    as_earlier(folder)
    for entry in folder.glob("methods/dense/*.json"):  # earlier still
        entry.unlink()
    plan = folder / "methods/dense/plan.safetensors"
    whole = plan.read_bytes()
    plan.write_bytes((folder / "methods/prap/plan.safetensors").read_bytes())
    refused(plan, commands, capsys)
    plan.write_bytes(whole.replace(b'"format"', b'"formaz"'))
    refused(plan, commands, capsys)
    plan.unlink()
    for command in commands[1:]:
        assert main([*command, "--quiet"]) == 0
    assert "The run's folder holds no plan of" in (folder / "report.html").read_text()


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink])
@pytest.mark.parametrize("name", ["plan.safetensors", "zero-inputs.safetensors", "compressed-", "accuracy-"])
@pytest.mark.parametrize("unfinished", [False, True])
def test_a_damaged_file_is_named_by_all_that_read_it_and_computed_anew_by_resume(
    finished: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
    unfinished: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    (file,) = folder.glob(f"methods/prap/{name}*")
    whole = file.read_bytes()
    damage(file)
    resume = ["run", str(finished / "run.yaml"), "--output", str(folder), "--resume", "--quiet"]
    refused(file, readers(folder, finished / "run"), capsys)
    if unfinished:
        (folder / "results.json").unlink()
    assert main(resume) == 0
    assert [str(file) in line for line in capsys.readouterr().err.splitlines()] == [True] * (not unfinished)
    assert results(folder) == results(finished / "run")
    assert file.read_bytes() == whole
    for name in ("results.json", "manifest.json") if not unfinished else ():
        assert (folder / name).read_bytes() == (finished / "run" / name).read_bytes()
