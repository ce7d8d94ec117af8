"""The configurations in examples/ are whole, and that of the paper works on the files it asks for."""

from pathlib import Path

import numpy as np
import pytest

import prap_pim
from prap_pim.__main__ import main
from prap_pim.common.settings import read_yaml
from prap_pim.hardware.chip import load_chip, preset_names
from prap_pim.runs.config import RunConfig
from prap_pim.runs.crossbars import Crossbars
from prap_pim.runs.stages import check
from prap_pim.runs.task import load_task
from prap_pim.training import PRAP_2023

EXAMPLES = Path(__file__).parent.parent / "examples"
DEVICES = sorted(EXAMPLES.glob("device-*.yaml"))
STUDIES = [EXAMPLES / "explore.yaml", EXAMPLES / "presets.yaml"]
PAPER = EXAMPLES / "cifar10-paper.yaml"


@pytest.mark.parametrize(
    "path", sorted(set(EXAMPLES.glob("*.yaml")) - {*DEVICES, *STUDIES}), ids=lambda path: path.stem
)
def test_every_example_is_valid(path: Path) -> None:
    load_chip(RunConfig.load(path).chip)


def test_the_study_of_presets_has_every_preset(tmp_path: Path) -> None:
    """Each can be costed, with a plan of its own."""
    study = read_yaml(STUDIES[1])
    assert study["space"]["chip"] == preset_names()
    found = prap_pim.explore({**study, "space": {**study["space"], "method": ["dense"]}}, tmp_path / "study").trials
    assert [trial.reason for trial in found] == [None] * len(preset_names())
    energies = {trial.figures["energy_j"] for trial in found}
    assert len(energies) == len(preset_names())


@pytest.mark.parametrize("path", DEVICES, ids=lambda path: path.stem)
def test_every_example_of_a_device_is_valid(path: Path) -> None:
    model = Crossbars.read(path, []).model(load_chip("isaac-32nm"))
    assert model.device is not None
    assert model.device.random


def test_the_papers_recipe() -> None:
    config = RunConfig.load(PAPER)
    assert config.training is not None
    assert config.training.model_copy(update={"augment": PRAP_2023.augment}) == PRAP_2023
    assert len(config.methods) == 8
    for name in ("vgg16", "resnet18", "resnet50", "wide-resnet"):
        changed = RunConfig.load(PAPER, [f"model.name={name}"])
        assert changed.model.name == name
        assert [method.name for method in changed.methods] == [method.name for method in config.methods]


def test_without_the_data_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(PAPER)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "there is no folder data/cifar-10-batches-bin with CIFAR-10" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.flow
def test_with_the_data_every_method_is_found_feasible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    records = np.random.default_rng(0).integers(0, 256, (20, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(20) % 10
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        (folder / name).write_bytes(records.tobytes())
    config = RunConfig.load(PAPER, ["data.calibration=10", "model.width=8"])
    check(config, load_task(config).graph, load_chip(config.chip))
