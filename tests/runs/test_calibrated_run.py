"""Whole runs of calibrated reuse, one-shot and with donors trained: figures, mistakes, kills."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from prap_pim.__main__ import main
from prap_pim.crossbar import CrossbarModel, ExactLayer
from prap_pim.frontend.quantize import InputGrid
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.run import MethodResult, Results
from prap_pim.runs.finished import reopen
from prap_pim.training import Checkpoint
from prap_pim.training.models import build

REUSE = {"kind": "calibrated", "compute_ratio": 0.4, "bits": [8], "uses": 1}
TINY = {
    "name": "tiny",
    "seed": 3,
    "data": {"name": "digits", "size": 8, "train": 120, "calibration": 40, "test": 40},
    "model": {"name": "cnn", "width": 4},
    "training": {"epochs": 4, "compress_at": 2, "batch_size": 60},
    "checked_images": 1,
    "methods": [
        {"name": "one-shot", "finetune": False, "reuse": REUSE, "exceptions": [{"layers": "conv1"}]},
        {"name": "trained", "reuse": {**REUSE, "shapes": [9, 4]}},
    ],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(["run", str(config), "--output", str(folder), "--quiet"]) == 0
    return folder


def resume(config: Path, folder: Path) -> int:
    return main(["run", str(config), "--output", str(folder), "--resume", "--quiet"])


def figures(folder: Path) -> dict[str, object]:
    values = json.loads((folder / "results.json").read_text())
    del values["command"]
    return values


def plan_of(folder: Path, name: str, file: str = "plan") -> NetworkPlan:
    return NetworkPlan.load(folder / "methods" / name / f"{file}.safetensors")


def test_what_a_run_leaves(finished: Path):
    one_shot, trained = Results.load(finished / "results.json").methods
    for method in (one_shot, trained):
        assert 0.25 < method.compute_ratio < 0.45
        assert method.calibration is not None
        assert method.calibration.inputs == 32  # of 40; 8 are held back
        assert [layer.name for layer in method.calibration.layers] == [layer.name for layer in method.layers]
        assert all(layer.mismatches == 0 and layer.checked_outputs > 0 for layer in method.layers)
        assert plan_of(finished, method.name).digest() == method.plan_sha256
        for layer, given in zip(method.layers, method.calibration.layers, strict=True):
            whole = layer.ou_steps == layer.dense_ou_steps
            assert (given.donors is None) == whole
            assert (given.output_error == 0) == (whole and layer is method.layers[0])  # later ones make good
    assert one_shot.layers[0].ou_steps == one_shot.layers[0].dense_ou_steps  # the exception
    assert one_shot.compute_ratio <= 0.4


def test_what_is_tuned_without_labels_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tuned = {"name": "tuned", "tune": {"steps": 8, "inputs": 8}, "reuse": REUSE}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**TINY, "methods": [tuned]}))
    assert main(["run", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    (found,) = Results.load(tmp_path / "run/results.json").methods
    assert found.check is not None
    assert found.check.tuning is not None
    assert found.check.tuning.steps == 8
    assert found.check.worst  # of the tuned network's layers
    assert "tuned without labels for 8 steps" in " ".join(told.split())
    assert "tuned without labels for 8 steps" in (tmp_path / "run/report.html").read_text()
    assert "finetune: false" in (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({**TINY, "methods": [{**tuned, "finetune": True}]}))
    assert main(["run", str(tmp_path / "both.yaml"), "--output", str(tmp_path / "both")]) == 2
    assert "finetune trains with labels, tune without: choose one of them" in capsys.readouterr().err


def test_with_shapes_too_the_budget_is_kept(finished: Path):
    assert Results.load(finished / "results.json").methods[1].compute_ratio <= 0.4


def test_what_is_told_is_of_what_is_saved(tmp_path: Path):
    """How many calibration inputs are classified otherwise, and the check, anew by the saved plan's integers."""
    one_shot = {**TINY["methods"][0], "reuse": {"kind": "calibrated", "compute_ratio": 0.3}}
    training = {"epochs": 12, "compress_at": 6, "batch_size": 40}
    data = {**TINY["data"], "train": 600, "calibration": 200}
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({**TINY, "data": data, "training": training, "methods": [one_shot]})
    )
    assert main(["run", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run"), "--quiet"]) == 0
    with reopen(tmp_path / "run") as run:
        captured, plan = run.method("one-shot")
        (found,) = run.results.methods
        model = build(run.config.model, 1, 10, run.config.seed)
        Checkpoint.load(sorted((tmp_path / "run/checkpoints").glob("epoch-*"))[-1]).restore(model)
        inputs = run.splits.calibration.inputs
        assert plan.digest() == found.plan_sha256
        layers = {
            layer.name: ExactLayer(
                layer,
                plan.layers[layer.name],
                InputGrid(plan.input_step[layer.name], plan.input_zero[layer.name]),
                CrossbarModel(adc_bits=20),
            )
            for layer in captured.network.layers
        }
        with torch.no_grad():
            own, other = model.eval()(inputs), captured.rebuild(layers)(inputs)
    assert found.calibration is not None
    assert found.check is not None
    differ = (own.argmax(1) != other.argmax(1)).double()
    held = torch.arange(200) % 10 == 5  # a tenth, the middle ones
    assert found.calibration.inputs == 180
    assert found.calibration.changed == float(differ[~held].mean()) > 0
    (output,) = found.check.outputs
    assert (found.check.inputs, found.check.held_back) == (20, True)
    assert output.changed == float(differ[held].mean())
    noise = own[held].double() - other[held].double()
    varies = own[held].double() - own[held].double().mean(0)
    sqnr = 10 * torch.log10(varies.square().sum() / noise.square().sum())
    assert output.sqnr_db == pytest.approx(float(sqnr), abs=1e-3)


def changed(method: MethodResult) -> set[str]:
    assert method.calibration is not None
    return {layer.name for layer in method.calibration.layers if layer.output_error > 0}


def test_training_changes_donors_and_nothing_else(finished: Path):
    trained = Results.load(finished / "results.json").methods[1]
    before, after = plan_of(finished, "trained", "calibrated"), plan_of(finished, "trained")
    assert set(before.layers) == changed(trained)
    for name, plan in before.layers.items():
        for key in ("rows", "donor_start", "use_filter", "use_donor", "use_sign", "use_exponent"):
            assert np.array_equal(getattr(plan, key), getattr(after.layers[name], key))
        assert not np.array_equal(plan.donors, after.layers[name].donors)


def test_one_shot_the_plan_is_what_calibration_found(finished: Path):
    one_shot = Results.load(finished / "results.json").methods[0]
    before, after = plan_of(finished, "one-shot", "calibrated"), plan_of(finished, "one-shot")
    assert set(before.layers) == changed(one_shot)
    assert all(np.array_equal(plan.donors, after.layers[name].donors) for name, plan in before.layers.items())


@pytest.mark.parametrize(("file", "content"), [("calibration-*.json", None), ("calibrated.safetensors", b"rubbish")])
def test_what_is_missing_or_damaged_is_found_again(
    config: Path, finished: Path, tmp_path: Path, file: str, content: bytes | None
):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    for path in (*folder.glob("methods/one-shot/compressed-*"), *folder.glob(f"methods/one-shot/{file}")):
        path.write_bytes(content or b"")
    assert resume(config, folder) == 0
    assert figures(folder) == figures(finished)
    assert plan_of(folder, "one-shot", "calibrated").digest() == plan_of(finished, "one-shot", "calibrated").digest()


def test_it_is_not_found_again_where_it_is_there(config: Path, finished: Path, tmp_path: Path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "methods/trained/checkpoints")
    for path in folder.glob("methods/trained/compressed-*"):
        path.unlink()
    monkeypatch.setattr("prap_pim.methods.compress.calibrate", None)
    assert resume(config, folder) == 0
    assert figures(folder) == figures(finished)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["methods.0.reuse.compute_ratio=0.001"],
            "a compute ratio of 0.001 is not possible here: with as few patterns as may be",
        ),
        (["methods.0.reuse.max_drop=0.1"], "give either compute_ratio"),
        (["methods.0.prune={kind: pattern}"], "calibrated reuse prunes by itself"),
        (["methods.0.exceptions.0.layers=conv9"], "matches no layer (did you mean 'conv"),
        (["methods.0.exceptions.0.reuse={kind: identical, threshold: 0.5}"], "calibrated reuse has one budget"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    overrides: list[str], message: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = [part for override in overrides for part in ("--set", override)]
    assert main(["run", str(config), "--output", str(tmp_path / "r"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("prap-pim: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_run_that_needs_more_memory_than_there_is_says_so(
    config: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "methods/one-shot")
    monkeypatch.setattr("prap_pim.methods.compress.available_memory", lambda: 1 << 10)
    assert resume(config, folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("prap-pim: ")
    assert "the covariance of its" in error
    assert error.count("\n") == 1
