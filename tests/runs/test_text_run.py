"""Whole runs of a tiny GPT on real source text: bits per byte everywhere, donors trained under AdamW, kills."""

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

from prap_pim.__main__ import main
from prap_pim.crossbar import CrossbarModel, compressed_model, measure
from prap_pim.results.run import Results
from prap_pim.runs.finished import reopen
from prap_pim.training import Checkpoint
from tests.folders import renew

TINY = {
    "name": "tiny gpt",
    "seed": 1,
    "data": {"name": "stdlib", "length": 16, "held_out": 0.2, "calibration": 20, "test": 30},
    "model": {"name": "gpt", "layers": 1, "width": 16, "heads": 2},
    "training": {"epochs": 6, "compress_at": 4, "epoch_size": 120, "batch_size": 12, "optimizer": "adamw"}
    | {"learning_rate": 0.01, "restart": 0.002, "warmup": 0.5, "weight_decay": 0.01, "project_every": 1},
    "checked_images": 5,
    "methods": [
        {"name": "dense"},
        {
            "name": "prap",
            "prune": {"kind": "pattern", "pointwise_group": 16},
            "reuse": {"kind": "similar", "keep": 0.5},
        },
        {"name": "calibrated", "reuse": {"kind": "calibrated", "compute_ratio": 0.5}, "finetune": False},
        {"name": "tuned", "reuse": {"kind": "calibrated", "compute_ratio": 0.5}},
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _surroundings(small_library: None) -> Iterator[None]:
    """One thread: so small a network gains nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(["compare", str(config), "--output", str(folder), "--quiet"]) == 0
    return folder


def test_bits_per_byte_are_those_of_the_compressed_networks(finished: Path) -> None:
    """Taken anew from the saved plans, with every test window at once and the mean over all bytes."""
    with reopen(finished) as run:
        test = run.splits.test
        assert len(run.results.methods) == 4
        for method in run.results.methods:
            captured, plan = run.method(method.name)
            with torch.no_grad():
                logits = compressed_model(captured, plan)(test.inputs)
            chosen = logits.double().log_softmax(-1).gather(-1, test.labels[..., None])
            assert method.compressed_bits_per_byte == pytest.approx(-float(chosen.mean()) / math.log(2), rel=1e-6)
            share = float((logits.argmax(-1) == test.labels).double().mean())
            assert method.compressed_accuracy == pytest.approx(share, abs=1e-9)
            bit_true = measure(captured, plan, CrossbarModel.of(run.chip), test.inputs, test.labels)
            assert method.bit_true_bits_per_byte == pytest.approx(bit_true.quality.bits, rel=1e-6)
            assert sum(layer.mismatches for layer in method.layers) == 0
            checked = {layer.name: layer.checked_outputs for layer in method.layers}
            assert checked["head"] == 5 * 16 * 256  # windows, bytes, outputs


def test_it_has_learnt(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    dense, prap, calibrated, tuned = results.methods
    assert results.float_bits_per_byte is not None
    assert results.float_bits_per_byte < 5.5  # 8 without any knowledge
    assert dense.bit_true_bits_per_byte == pytest.approx(results.float_bits_per_byte, rel=0.02)
    assert all(0.3 < method.compute_ratio <= 0.5 for method in (calibrated, tuned))
    assert calibrated.bit_true_bits_per_byte is not None
    assert tuned.bit_true_bits_per_byte is not None
    assert tuned.bit_true_bits_per_byte < calibrated.bit_true_bits_per_byte
    assert prap.bit_true_bits_per_byte is not None
    assert prap.bit_true_bits_per_byte < 6
    # by hand: 16 windows' bytes, 48 filters over 16 inputs, 8 input bits
    assert next(layer.ou_steps for layer in dense.layers if layer.name == "blocks.0.qkv") == 16 * (16 // 8) * 48 * 8


def test_the_float_network_is_the_last_checkpoint(finished: Path) -> None:
    with reopen(finished) as run:
        from prap_pim.training.models import build

        model = build(run.config.model, 16, 256, 0)
        newest = sorted((finished / "checkpoints").glob("epoch-*"))[-1]
        Checkpoint.load(newest).restore(model)
        test = run.splits.test
        with torch.no_grad():
            logits = model.eval()(test.inputs)
        nats = functional.cross_entropy(logits.flatten(0, 1).double(), test.labels.flatten())
        assert run.results.float_bits_per_byte == pytest.approx(float(nats) / math.log(2), rel=1e-6)


def test_donors_begin_anew_and_the_rest_goes_on(finished: Path) -> None:
    """AdamW's own count of steps, 10 an epoch: of donors, those of epochs 4 and 5; of all else, those of all six."""
    last = Checkpoint.load(finished / "methods/tuned/checkpoints/epoch-00006.safetensors")
    steps = {name.partition(":")[0]: int(value) for name, value in last.momentum.items() if name.endswith(":step")}
    donors = {name for name in steps if "parametrizations" in name}
    assert len(donors) >= 3  # of qkv, out, up, down and head, those that the budget does not leave whole
    new = donors | {"head.bias"}  # which takes back the mean of the layer's error
    assert {name: count for name, count in steps.items() if count != (20 if name in new else 60)} == {}
    assert steps["embedding.weight"] == 60


def test_everything_shows_them(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results.load(finished / "results.json")
    assert main(["report", str(finished)]) == 0
    shown = capsys.readouterr().out
    page = (finished / "report.html").read_text()
    for value in (results.float_bits_per_byte, *(method.bit_true_bits_per_byte for method in results.methods)):
        assert value is not None
        assert f"{value:.3f}" in shown
        assert f"{value:.3f}" in page
    assert "Bits per byte" in shown
    assert "Accuracy of the next byte" in shown
    assert "5 of 30 test sequences" in " ".join(shown.split())
    assert "12 calibration inputs without labels" in " ".join(shown.split())
    found = [method.calibration for method in results.methods if method.calibration is not None]
    told = any(calibration.changed is not None for calibration in found)  # not where all bytes are as good as equal
    assert ("of their bytes classified differently" in " ".join(shown.split())) == told
    assert re.search(r"SHA-256 [0-9a-f]{64}", results.data)
    rows = list(csv.DictReader((finished / "comparison.csv").read_text().splitlines()))
    for row, method in zip(rows, results.methods, strict=True):
        assert float(row["bit_true_bits_per_byte"]) == method.bit_true_bits_per_byte
        assert float(row["float_bits_per_byte"]) == results.float_bits_per_byte


def test_under_device_effects(finished: Path) -> None:
    """Accuracy of the next byte; on cells that are exact, the run's own."""
    before = Results.load(finished / "results.json")
    arguments = ["--methods", "dense", "--devices", "1", "--samples", "3", "--processes", "1", "--quiet"]
    assert main(["simulate", str(finished), "--set", "device.variation.sigma=0.3", *arguments]) == 0
    results = Results.load(finished / "results.json")
    (simulation,) = results.simulations
    assert simulation.images == 3
    assert 0 < simulation.points[0].mean < 1
    assert round(simulation.exact_accuracy["dense"] * 3 * 16, 9).is_integer()  # of 3 windows' bytes
    before.save(finished / "results.json")
    renew(finished)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("phase", "call"), [("training to epoch 6", 57), ("prap: fine-tuning", 15), ("tuned: fine-tuning", 15)]
)
def test_a_killed_run_goes_on(finished: Path, config: Path, tmp_path: Path, phase: str, call: int) -> None:
    from prap_pim.runs.config import RunConfig
    from prap_pim.runs.pipeline import run

    def kill(told: str, done: int, total: int, note: str) -> None:
        if (told, done) == (phase, call):
            raise Killed

    folder = tmp_path / "r"
    with pytest.raises(Killed):
        run(RunConfig.load(config), folder, "c", False, kill)
    assert not (folder / "results.json").exists()
    assert main(["run", str(config), "--output", str(folder), "--resume", "--quiet"]) == 0
    first, second = (json.loads((place / "results.json").read_text()) for place in (finished, folder))
    assert first["methods"] == second["methods"]
    assert first["float_bits_per_byte"] == second["float_bits_per_byte"]


def test_the_users_own_checkpoint(finished: Path, config: Path, tmp_path: Path) -> None:
    newest = sorted((finished / "checkpoints").glob("epoch-*"))[-1]
    changes = [f"checkpoint={newest}", "training=none"]
    arguments = [part for change in changes for part in ("--set", change)]
    folder = tmp_path / "own"
    assert main(["compare", str(config), "--methods", "dense", "--output", str(folder), "--quiet", *arguments]) == 0
    own, before = (Results.load(place / "results.json") for place in (folder, finished))
    assert own.float_bits_per_byte == before.float_bits_per_byte
    assert own.methods[0].plan_sha256 == before.methods[0].plan_sha256


@pytest.mark.parametrize("change", ["data={name: digits}", "model={name: cnn}"])
def test_images_and_tokens_are_told_apart(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert main(["run", str(config), "--output", str(tmp_path / "r"), "--set", change]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "does not run on an input" in error
    assert not (tmp_path / "r").exists()
