"""A run's folder does not depend on where it was started: what its configuration names moves along, or is kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from prap_pim.__main__ import main
from prap_pim.hardware.chip import CHIPS
from prap_pim.hardware.components import COMPONENTS
from prap_pim.results.run import Results

CONFIG = {
    "name": "moved",
    "data": {"name": "npz", "path": "data/mine.npz", "train": 60, "calibration": 20, "test": 20},
    "model": {"name": "cnn", "width": 2},
    "training": {"epochs": 2, "compress_at": 1, "batch_size": 30},
    "methods": [{"name": "dense"}, {"name": "similar", "reuse": {"kind": "similar", "keep": 0.5}}],
    "chip": "parts/mine.toml",
}


def project(place: Path) -> Path:
    """A folder with a configuration, and all that it names."""
    for name in ("data", "parts"):
        (place / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 100)
    images = (rng.random((100, 8, 8)) + labels[:, None, None]).astype(np.float32)
    np.savez(place / "data/mine.npz", images=images, labels=labels)
    chip = (
        (CHIPS / "isaac-32nm.toml").read_text().replace('components = "isaac-32nm"', 'components = "parts/mine-w.toml"')
    )
    (place / "parts/mine.toml").write_text(chip.replace('name = "isaac-32nm"', 'name = "mine"', 1))
    (place / "parts/mine-w.toml").write_text((COMPONENTS / "isaac-32nm.toml").read_text().replace("2e-3", "3e-3", 1))
    (place / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    return place


def run(*more: str, config: str = "run.yaml", folder: str = "runs/r") -> int:
    return main(["run", config, "--output", folder, "--quiet", *more])


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in a project that has moved since; this process is in neither place."""
    monkeypatch.chdir(project(tmp_path / "before"))
    assert run() == 0
    (tmp_path / "before").rename(tmp_path / "after")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "after"


def figures(folder: Path) -> dict[str, object]:
    values = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in values.items() if key not in ("command", "simulations")}


def test_a_project_that_has_moved_is_simulated_and_gone_on_with(elsewhere: Path) -> None:
    folder, config = elsewhere / "runs/r", str(elsewhere / "run.yaml")
    before = figures(folder)
    assert main(["simulate", str(folder), "--quiet", "--devices", "1"]) == 0
    assert main(["report", str(folder), "--output", "page.html", "--quiet"]) == 0
    assert figures(folder) == before
    for lost in ("results.json", "methods/similar/plan.safetensors"):
        (folder / lost).unlink()
    assert run("--resume", config=config, folder=str(folder)) == 0
    assert figures(folder) == before


def test_chip_and_table_are_kept(elsewhere: Path) -> None:
    folder, config = elsewhere / "runs/r", str(elsewhere / "run.yaml")
    before = figures(folder)
    assert (folder / "components/mine-w.toml").read_text() == (elsewhere / "parts/mine-w.toml").read_text()
    shutil.rmtree(elsewhere / "parts")
    (folder / "results.json").unlink()
    assert run("--resume", config=config, folder=str(folder)) == 0
    assert figures(folder) == before
    assert Results.load(folder / "results.json").chip.name == "mine"


def test_what_is_found_must_be_what_the_run_was_begun_with(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, config = elsewhere / "runs/r", str(elsewhere / "run.yaml")
    (folder / "results.json").unlink()
    table, data = elsewhere / "parts/mine-w.toml", elsewhere / "data/mine.npz"
    whole = table.read_text()
    table.write_text(whole.replace("3e-3", "4e-3", 1))
    assert run("--resume", config=config, folder=str(folder)) == 2
    assert "was begun with other content of component figures" in capsys.readouterr().err
    table.write_text(whole)
    kept = dict(np.load(data))
    np.savez(data, images=kept["images"] + 1, labels=kept["labels"])
    assert run("--resume", config=config, folder=str(folder)) == 2
    assert "other content of data" in capsys.readouterr().err
    data.unlink()
    assert run("--resume", config=config, folder=str(folder)) == 2
    assert "mine.npz" in capsys.readouterr().err


def test_a_kept_table_that_is_damaged_is_found(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = elsewhere / "runs/r"
    (folder / "components/mine-w.toml").write_text("")
    assert main(["report", str(folder), "--quiet"]) == 2
    assert "mine-w.toml is damaged" in capsys.readouterr().err
    assert run("--resume", config=str(elsewhere / "run.yaml"), folder=str(folder)) == 0
    assert (folder / "components/mine-w.toml").read_text() == (elsewhere / "parts/mine-w.toml").read_text()
