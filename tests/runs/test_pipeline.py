"""Whole runs on real digits with a tiny network: figures, mistakes, kills."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from prap_pim.__main__ import main
from prap_pim.hardware.chip import CHIPS
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.run import Results
from prap_pim.training import torch_threads
from tests.folders import as_earlier

TINY = {
    "name": "tiny",
    "seed": 3,
    "data": {"name": "digits", "size": 16, "train": 240, "calibration": 60, "test": 60},
    "model": {"name": "resnet", "depth": 8, "width": 8},
    "training": {"epochs": 4, "compress_at": 2, "batch_size": 60, "project_every": 1},
    "methods": [
        {"name": "dense"},
        {
            "name": "prap",
            "prune": {"kind": "pattern", "group_channels": 2, "pointwise_group": 8},
            "reuse": {"kind": "similar", "keep": 0.5},
            "exceptions": [{"layers": "stem.conv"}, {"layers": "classifier"}],
        },
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


def figures(folder: Path) -> dict[str, object]:
    values = json.loads((folder / "results.json").read_text())
    del values["command"]
    return values


def test_what_a_run_leaves(finished: Path):
    results = Results.load(finished / "results.json")
    dense, prap = results.methods
    layers = {layer.name: layer for layer in dense.layers}
    # by hand: 16x16 maps in the stem, 8 filters over 9 inputs (one channel): ceil(9 / 8) * 8 patterns, 8 input bits
    assert layers["stem.conv"].ou_steps == 16 * 16 * 2 * 8 * 8
    assert layers["classifier"].ou_steps == (32 // 8) * 10 * 8
    assert dense.compute_ratio == 1
    assert 0.1 < prap.compute_ratio < 0.5
    assert prap.ou_steps == sum(layer.ou_steps for layer in prap.layers)
    assert prap.energy_j < dense.energy_j
    assert prap.serial.latency_s < dense.serial.latency_s
    for method in results.methods:
        assert sum(method.energy_breakdown_j.values()) == pytest.approx(method.energy_j, rel=1e-9)
        plan = NetworkPlan.load(finished / "methods" / method.name / "plan.safetensors")
        assert plan.digest() == method.plan_sha256
        for layer in method.layers:
            # every test image, every output position, every filter was compared
            assert layer.checked_outputs == 60 * layer.positions * layer.weight_shape[0]
            assert (layer.mismatches, layer.overflows) == (0, 0)
            # the crossbars hold every OU once: OU steps are 8 input bits times positions times OUs
            assert layer.crossbar_ous is not None
            assert sum(ous * number for ous, number in layer.crossbar_ous) * 8 * layer.positions == layer.ou_steps
            assert sum(number for _, number in layer.crossbar_ous) == layer.crossbars
            assert layer.bottleneck
        assert sum(layer.stored_cells or 0 for layer in method.layers) == method.stored_cells
        assert method.serial_breakdown_s is not None
        assert sum(method.serial_breakdown_s.values()) == pytest.approx(method.serial.latency_s, rel=1e-9)
        assert method.checked_images == 60
    # by hand: 8 filters of 9 weights of 8 one-bit cells
    assert layers["stem.conv"].stored_cells == 8 * 9 * 8
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["plans"] == {method.name: method.plan_sha256 for method in results.methods}
    assert "<html" in (finished / "report.html").read_text()


def test_the_compressed_model_is_the_plan(finished: Path):
    """PRAP's structure is in the plan: at most 8 inputs of a channel pair, at most half of the filters donors."""
    plan = NetworkPlan.load(finished / "methods/prap/plan.safetensors").layers["stage1.block1.conv1"]
    assert plan.inputs == 8 * 9
    assert (plan.rows >= 0).all()
    assert plan.donors_per_group.sum() <= 4 * 4  # 4 channel pairs, floor(8 * 0.5) donors in each
    assert ((plan.weights() != 0).sum(axis=1) <= 4 * 8).all()


def test_a_finished_run_is_only_shown_again(finished: Path, config: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished / "results.json").read_text()
    assert main(["run", str(config), "--output", str(finished), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(before)
    assert main(["run", str(config), "--output", str(finished)]) == 2
    assert "holds this run already" in capsys.readouterr().err
    assert (finished / "results.json").read_text() == before


def test_report_again(finished: Path, capsys: pytest.CaptureFixture[str]):
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").exists()
    assert "prap" in capsys.readouterr().out


def test_report_with_the_reuse_map_that_is_asked_for(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own, page = (finished / "report.html").read_bytes(), tmp_path / "reuse.html"
    layer = json.loads((finished / "results.json").read_text())["methods"][1]["layers"][1]["name"]
    assert main(["report", str(finished), "--reuse", "prap", layer, "--output", str(page), "--quiet"]) == 0
    assert page.read_text().count('id="reuse-data-') == 1
    for wrong, why in (
        (["--reuse", "prap", "nowhere"], "prap has no layer 'nowhere'"),
        (["--reuse", "nobody", layer], "'nobody'"),
        ([str(tmp_path), "--reuse", "prap", layer], "only the page of one run"),
    ):
        assert main(["report", str(finished), *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert why in line
    assert (finished / "report.html").read_bytes() == own


def test_report_of_several_runs(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own, other = (finished / "report.html").read_bytes(), tmp_path / "other"
    shutil.copytree(finished, other)
    assert main(["report", str(finished), str(other), str(finished) + "/."]) == 0  # a run named twice is one run
    shown = capsys.readouterr().out
    assert "These runs have the same chip, network, data" in shown
    assert shown.count(finished.name) >= 1
    assert "2 runs side by side" in (finished / "runs.html").read_text()
    (finished / "runs.html").unlink()
    assert main(["report", str(finished), str(other), "--output", str(tmp_path / "both.html"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == [str(finished), str(other)]
    assert told[str(other)] == json.loads((other / "results.json").read_text())
    assert "2 runs side by side" in (tmp_path / "both.html").read_text()
    for output, why in (
        (other / "report.html", "that is the page of one run"),
        (finished / "results.json", "ends in .html"),
    ):
        before = output.read_bytes()
        assert main(["report", str(finished), str(other), "--output", str(output)]) == 2
        assert why in capsys.readouterr().err
        assert output.read_bytes() == before
    assert main(["report", str(finished), str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (finished / "report.html").read_bytes() == own
    assert not (finished / "runs.html").exists()


def test_results_of_an_earlier_version_are_shown(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Without what later versions tell; the reuse map is there, for the plans are."""
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    results = json.loads((old / "results.json").read_text())
    for key in ("cells_per_crossbar", "ous_per_crossbar"):
        del results["chip"][key]
    for method in results["methods"]:
        del method["serial_breakdown_s"]
        for layer in method["layers"]:
            for key in ("bottleneck", "stored_cells", "crossbar_ous"):
                del layer[key]
    (old / "results.json").write_text(json.dumps(results))
    as_earlier(old)
    assert main(["report", str(old), "--quiet"]) == 0
    page = (old / "report.html").read_text()
    assert "n/a: these results were written by an earlier version" in page
    assert "The parts of the latency are not in these results" in page
    assert 'id="reuse-map"' in page


def test_compare_saves_every_figure(config: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The same run under another name, methods in the order asked for."""
    folder = tmp_path / "r"
    assert main(["compare", str(config), "--methods", "prap,dense", "--output", str(folder)]) == 0
    shown = capsys.readouterr().out
    results, before = Results.load(folder / "results.json"), Results.load(finished / "results.json")
    assert results.methods == before.methods[::-1]
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["prap", "dense"]
    for row, method in zip(rows, results.methods, strict=True):
        assert float(row["energy_j"]) == method.energy_j
        assert float(row["energy_breakdown_j.adc"]) == method.energy_breakdown_j["adc"]
        assert float(row["at_budget.pipelined.throughput_per_s"]) == method.at_budget.pipelined.throughput_per_s
    for words in ("Energy of one inference, by component", "partial sum buffer", "TOPS/W", "index stored"):
        assert words in shown
    assert main(["compare", str(config), "--methods", "prep", "--output", str(tmp_path / "x")]) == 2
    assert "no method 'prep' in the configuration (did you mean 'prap'?)" in capsys.readouterr().err


def test_without_training_or_weights_only_costs_are_told(config: Path, tmp_path: Path):
    folder = tmp_path / "r"
    assert main(["run", str(config), "--output", str(folder), "--quiet", "--set", "training=none"]) == 0
    results = Results.load(folder / "results.json")
    assert results.float_accuracy is None
    assert "random (seed 3), never trained" in results.weights
    for method in results.methods:
        assert (method.compressed_accuracy, method.bit_true_accuracy) == (None, None)
        assert sum(layer.checked_outputs for layer in method.layers) == 0
    assert results.methods[1].energy_j < results.methods[0].energy_j
    page = (folder / "report.html").read_text()
    assert "Accuracy was not measured (random (seed 3), never trained" in page
    assert "Not checked:" in page


def test_a_users_own_weights_are_compressed_without_training(config: Path, finished: Path, tmp_path: Path):
    weights = finished / "checkpoints" / "epoch-00004.safetensors"
    overrides = ["--set", "training=none", "--set", f"checkpoint={weights}"]
    assert main(["run", str(config), "--output", str(tmp_path / "r"), "--quiet", *overrides]) == 0
    mine, before = Results.load(tmp_path / "r/results.json"), Results.load(finished / "results.json")
    assert mine.float_accuracy == before.float_accuracy
    for name, same in (("dense", True), ("prap", False)):  # prap: one-shot here, fine-tuned there
        one, other = (NetworkPlan.load(f / "methods" / name / "plan.safetensors") for f in (tmp_path / "r", finished))
        equal = [np.array_equal(plan.donors, other.layers[key].donors) for key, plan in one.layers.items()]
        assert all(equal) == same
    assert mine.methods[1].compute_ratio == pytest.approx(before.methods[1].compute_ratio, rel=0.05)


def test_accumulators_of_the_chip_that_are_too_narrow_are_counted_and_told(
    config: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chip = tmp_path / "narrow.toml"
    chip.write_text((CHIPS / "isaac-32nm.toml").read_text().replace("partial_sum_bits = 32", "partial_sum_bits = 14"))
    overrides = [f"chip={chip}", "training=none", f"checkpoint={finished / 'checkpoints/epoch-00004.safetensors'}"]
    flags = [part for override in [*overrides, "checked_images=20"] for part in ("--set", override)]
    assert main(["compare", str(config), "--output", str(tmp_path / "r"), "--methods", "dense", *flags]) == 0
    (dense,) = Results.load(tmp_path / "r/results.json").methods
    assert dense.checked_images == 20
    overflows, wrong = (sum(getattr(layer, key) for layer in dense.layers) for key in ("overflows", "mismatches"))
    assert overflows > 0
    assert wrong > 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{wrong:,} mismatches; 20 of 60 test images of each method went through every cell" in shown
    assert f"{overflows:,} sums did not fit their registers (dense, " in shown


def test_skipping_zero_inputs_saves_steps_for_all_alike_and_changes_no_result(
    config: Path, finished: Path, tmp_path: Path
):
    assert (
        main(["run", str(config), "--output", str(tmp_path / "r"), "--quiet", "--set", "zero_input_skipping=on"]) == 0
    )
    skipping, before = Results.load(tmp_path / "r/results.json"), Results.load(finished / "results.json")
    for mine, other in zip(skipping.methods, before.methods, strict=True):
        assert mine.plan_sha256 == other.plan_sha256
        assert mine.bit_true_accuracy == other.bit_true_accuracy
        assert mine.ou_steps < 0.8 * other.ou_steps  # after a ReLU the sign bit alone is an eighth, always 0
        assert mine.energy_j < other.energy_j
        assert mine.partial_sum_bytes == other.partial_sum_bytes


def start(config: Path, folder: Path, threads: str = "2") -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "prap_pim", "run", str(config), "--output", str(folder), "--resume", "--quiet"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": threads})


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def test_killed_in_training_and_fine_tuning_ends_the_same(config: Path, finished: Path, tmp_path: Path):
    """kill -9 as soon as a file appears; what is resumed ends as the undisturbed run did (test_crash.py: each file).

    The run begins with as many threads as the undisturbed one had (it has begun once its manifest is there, which the
    first kill may prevent); how many a later process would take must not matter.
    """
    folder = tmp_path / "killed"
    marks = ["config.yaml", "checkpoints/epoch-00003*", "methods/prap/checkpoints/epoch-00003*"]
    kills = 0
    for i, mark in enumerate(marks):
        process = start(config, folder, threads=str(torch.get_num_threads() if i < 2 else 1 + i % 3))
        while process.poll() is None and not list(folder.glob(mark)):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == len(marks)
    with torch_threads(2):
        assert resume(config, folder) == 0
    assert figures(folder) == figures(finished)
    assert not list(folder.rglob("*.part"))


def resume(config: Path, folder: Path, *flags: str) -> int:
    return main(["run", str(config), "--output", str(folder), "--resume", "--quiet", *flags])


def test_a_chip_file_edited_meanwhile_is_refused(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chip = tmp_path / "mine.toml"
    chip.write_text((CHIPS / "isaac-32nm.toml").read_text())
    flags = ["--set", f"chip={chip}", "--set", "training=none"]
    assert resume(config, tmp_path / "r", *flags) == 0
    chip.write_text(chip.read_text().replace("adc_bits = ", "adc_bits = 1"))
    assert resume(config, tmp_path / "r", *flags) == 2
    assert "begun with other content of chip" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(finished: Path):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "prap_pim", "report", str(finished)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.decode() == "prap-pim: cannot write to the output: No space left on device\n"


def test_a_terminal_without_unicode(finished: Path):
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "prap_pim", "report", str(finished)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"area" in done.stdout


def test_report_of_an_unfinished_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    (folder / "results.json").unlink()
    assert main(["report", str(folder)]) == 2
    assert "has not finished" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_random_moments_ends_the_same(config: Path, finished: Path, tmp_path: Path):
    chance = random.Random(0)
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        for _ in range(3):
            process = start(config, folder)
            time.sleep(chance.uniform(1, 12))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        finish(start(config, folder))
        assert figures(folder) == figures(finished)


def test_interrupted_by_the_keyboard(config: Path, finished: Path, tmp_path: Path):
    process = start(config, tmp_path / "r", threads=str(torch.get_num_threads()))
    while not list((tmp_path / "r").glob("checkpoints/*.safetensors")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().strip() == "prap-pim: interrupted; go on with --resume"
    assert resume(config, tmp_path / "r") == 0
    assert figures(tmp_path / "r") == figures(finished)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epoch=3"], "training: unknown key 'epoch' (did you mean 'epochs'?)"),
        (["trainings=1"], "unknown key 'trainings' (did you mean 'training'?)"),
        (["training.epochs=many"], "training.epochs: must be a whole number"),
        (["training.epochs=2"], "compress_at (2) must be less than epochs (2)"),
        (["training=prap-2032"], "training: unknown schedule (did you mean 'prap-2023'?)"),
        (["seed=-1"], "seed: must be at least 0, not -1"),
        (["methods=[]"], "methods: "),
        (["methods.0.name=../x"], "methods.0.name: must be 1 to 64 letters"),
        (["methods.1.name=DENSE"], "two methods are called 'DENSE'"),
        (["methods.1.reuse.keep=0"], "keep"),
        (["methods.1.reuse.kind=similr"], "methods.prap.reuse: unknown kind 'similr' (did you mean 'similar'?)"),
        (["methods.1.prune.group_channels=3"], "group_channels"),
        (["methods.1.exceptions.0.layers=stem.cnv"], "did you mean 'stem.conv'?"),
        (["model.depth=9"], "model"),
        (["model={depth: 8}"], "model: 'name' is missing"),
        (["model.width=100000"], "model.width: must be at most 65536"),
        (["model.width=60000"], "model: a resnet of"),
        (["data.test=5000"], "1797"),
        (["data={name: npz, path: nowhere.npz}"], "nowhere.npz"),
        (["crossbar_budget=3"], "crossbar"),
        (["checkpoint=nowhere.safetensors"], "nowhere.safetensors"),
        (["chip=isac-32nm"], "no chip 'isac-32nm' (did you mean 'isaac-32nm'?)"),
        (["chip=nowhere.toml"], "cannot read nowhere.toml: No such file or directory"),
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


def test_missing_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml: No such file or directory" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A disk of 300 KiB holds the start of a run and no more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        assert resume(config, disk / "r") == 2
        errors = capsys.readouterr().err
        assert "No space left on device" in errors
        assert errors.count("\n") == 1
        assert not list(disk.rglob("*.part"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
