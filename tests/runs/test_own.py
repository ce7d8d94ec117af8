"""A user's own network in the commands: as from Python, as a network of the package, killed, mistaken."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import prap_pim
from prap_pim.__main__ import main
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.run import Results
from prap_pim.runs.study.explore import Study

EXAMPLE = Path(__file__).parents[2] / "examples/own_network"
CODE = """
import sys
import torch
from torch import nn
from tests import own
from prap_pim.training.models import CNNConfig, build as of_package

def build():
    print("a word on the way")
    return own.classifier().model

def trained():
    return of_package(CNNConfig(width=4), 1, 10, 3)

def splits():
    given = own.classifier()
    return {"calibration": given.calibration, "test": (given.calibration, torch.arange(40) % 5)}

def accuracy(model, test):
    return own.classifier().evaluate(model)

def share(model, of):
    return {"accuracy": own.classifier().evaluate(model), "share": of}

def nothing(): return 3
def empty(): return {}
def odd(): return {"calibration": own.classifier().calibration, "tset": []}
def ends(): sys.exit("enough")
def fails(): raise RuntimeError("no such luck")
"""
OWN: dict[str, Any] = {
    "name": "own",
    "model": {"import": "mine:build"},
    "data": {"import": "mine:splits"},
    "metric": {"import": "mine:accuracy"},
    "training": "none",
    "methods": [{"name": "dense"}, {"name": "calibrated", "reuse": {"kind": "calibrated", "compute_ratio": 0.5}}],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's code, in which the commands run."""
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def run(config: dict[str, Any], folder: Path, *more: str) -> int:
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return main(["run", str(path), "--output", str(folder), "--allow-imports", "--quiet", *more])


def plans(folder: Path) -> list[str]:
    return [NetworkPlan.load(path).digest() for path in sorted(folder.glob("methods/*/plan.safetensors"))]


def parts(folder: Path, method: str = "calibrated") -> list[list[Any]]:
    """The layers of a plan, whatever they are called."""
    plan = NetworkPlan.load(folder / "methods" / method / "plan.safetensors")
    arrays = ("donors", "use_filter", "use_exponent")
    return [[getattr(x, name).tolist() for name in arrays] + [x.real_weights().tolist()] for x in plan.layers.values()]


def test_python_import_and_onnx_give_the_same_plan(here: Path) -> None:
    from tests.own import classifier

    own = classifier()
    assert run(OWN, here / "import") == 0
    calibrated = prap_pim.Calibrated(compute_ratio=0.5)
    how: dict[str, Any] = {"evaluate": own.evaluate, "methods": ["dense", calibrated]}
    python = prap_pim.compare(own.model, own.calibration, output=here / "python", **how).results
    assert plans(here / "python")[0] == plans(here / "import")[0]
    torch.onnx.export(own.model, (own.calibration[:2],), here / "mine.onnx", dynamo=False, dynamic_axes={"x": {0: "n"}},
                      input_names=["x"])  # fmt: skip
    assert run({**OWN, "model": {"onnx": "mine.onnx"}}, here / "onnx") == 0
    assert parts(here / "onnx") == parts(here / "import") == parts(here / "python")
    found = [Results.load(here / name / "results.json") for name in ("import", "onnx")]
    for results in (*found, python):
        assert [method.energy_j for method in results.methods] == [method.energy_j for method in python.methods]
        assert [m.bit_true_accuracy for m in results.methods] == [m.bit_true_accuracy for m in python.methods]
    assert found[0].float_accuracy == own.evaluate(own.model)


@pytest.mark.parametrize("method", ["prap", "calibrated"])
def test_a_network_of_the_package_is_one_of_ones_own(here: Path, method: str) -> None:
    """Trained, fine-tuned, compressed and measured alike, bit for bit, whether the package makes it or the user."""
    reuse = {"kind": "calibrated", "compute_ratio": 0.5}
    prap = {
        "prune": {"kind": "pattern"},
        "reuse": {"kind": "similar", "keep": 0.5},
        "exceptions": [{"layers": "conv1"}],
    }
    config = {
        "name": "tiny",
        "seed": 3,
        "data": {"name": "digits", "size": 8, "train": 120, "calibration": 40, "test": 40},
        "model": {"name": "cnn", "width": 4},
        "training": {"epochs": 4, "compress_at": 2, "batch_size": 40, "project_every": 1},
        "methods": [{"name": "dense"}, {"name": method, **({"reuse": reuse} if method == "calibrated" else prap)}],
    }
    assert run(config, here / "package") == 0
    assert run({**config, "model": {"import": "mine:trained"}}, here / "own") == 0
    assert plans(here / "package") == plans(here / "own")
    package, own = (Results.load(here / name / "results.json") for name in ("package", "own"))
    same = {"float_accuracy", "methods", "images", "classes", "data", "parameters"}
    assert package.model_dump(include=same) == own.model_dump(include=same)


def test_the_whole_flow_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The example: compared, simulated, searched, shown and drawn."""
    shutil.copytree(EXAMPLE, tmp_path / "own_network")
    monkeypatch.chdir(tmp_path / "own_network")
    monkeypatch.setattr(sys, "path", [*sys.path])
    flags = ["--allow-imports", "--quiet"]
    assert main(["compare", "own.yaml", *flags]) == 0
    results = Results.load("runs/denoiser/results.json")
    assert list(results.float_metrics) == ["psnr", "error"]
    assert results.minimize == ["error"]
    assert results.float_metrics["psnr"] > 12  # noise of 0.3 has 10.5 dB
    for method in results.methods:
        assert method.bit_true_metrics["psnr"] == pytest.approx(
            -10 * np.log10(method.bit_true_metrics["error"]), rel=1e-4
        )
        assert method.checked_images == 100
    assert (
        main(["simulate", "runs/denoiser", "--sweep", "sigma=0,0.2", "--devices", "2", "--processes", "2", *flags]) == 0
    )
    simulation = Results.load("runs/denoiser/results.json").simulations[0]
    assert simulation.metric == "psnr"
    for name, exact in simulation.exact_accuracy.items():
        assert exact == next(m for m in results.methods if m.name == name).bit_true_metrics["psnr"]
        ideal, varied = (p.mean for p in simulation.points if p.method == name)
        assert ideal == pytest.approx(exact, rel=1e-3)
        assert ideal > varied
    for figure in ("accuracy", "noise", "energy"):
        assert main(["plot", "runs/denoiser", "--figure", figure, "--format", "csv", "--quiet"]) == 0
        assert main(["plot", "runs/denoiser", "--figure", figure, "--format", "png", "--quiet"]) == 0
    assert "bit_true_psnr" in Path("accuracy.csv").read_text()
    assert "mean_psnr" in Path("noise.csv").read_text()
    capsys.readouterr()
    assert main(["report", "runs/denoiser"]) == 0
    shown = capsys.readouterr().out
    assert "psnr under device effects" in shown
    assert "accuracy was not measured" not in shown


def test_a_study_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "own_network")
    monkeypatch.chdir(tmp_path / "own_network")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["explore", "explore.yaml", "--allow-imports", "--quiet", "--processes", "2"]) == 0
    study = Study.load("runs/adcs/study.json")
    assert study.objectives == {"energy_j": "minimize", "bit_true_metrics.psnr": "maximize"}
    assert [trial.reason for trial in study.trials] == [None] * 6
    assert main(["explore", "explore.yaml", "--quiet", "--resume"]) == 2
    assert main(["plot", "runs/adcs", "--figure", "pareto", "--format", "png", "--quiet"]) == 0


def test_the_whole_flow_by_python(tmp_path: Path) -> None:
    command = [sys.executable, "flow.py", str(tmp_path)]
    ended = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert ended.returncode == 0, ended.stderr
    assert "MonteCarloReport(3 devices: psnr" in ended.stdout
    for folder in ("compared", "tuned"):
        assert (tmp_path / folder / "results.json").exists()
    assert (tmp_path / "explored/study.json").exists()


CONFIGURATION = {  # what is changed, and the line that says what is wrong
    "module": ({"model": {"import": "mien:build"}}, "model: import mien:build: there is no module mien"),
    "function": ({"model": {"import": "mine:biuld"}}, "mine has no biuld (did you mean 'build'?)"),
    "reference": ({"model": {"import": "mine.build"}}, "expected module:function, such as mynet:build"),
    "no function": ({"model": {"import": "mine:CODE"}}, "mine has no CODE"),
    "no module": ({"model": {"import": "mine:nothing"}}, "model: import mine:nothing gave int, not a torch.nn.Module"),
    "exits": ({"model": {"import": "mine:ends"}}, "import mine:ends: the code ended the program (exit enough)"),
    "fails": ({"model": {"import": "mine:fails"}}, "import mine:fails: RuntimeError: no such luck (mine.py, line"),
    "arguments": (
        {"model": {"import": "mine:build", "arguments": {"width": 3}}},
        "unexpected keyword argument 'width'",
    ),
    "key": ({"model": {"import": "mine:build", "argument": {}}}, "unknown key 'argument' (did you mean 'arguments'?)"),
    "no calibration": ({"data": {"import": "mine:empty"}}, "data: import mine:empty gave no calibration"),
    "part": ({"data": {"import": "mine:odd"}}, "gave a part 'tset' (did you mean 'test'?)"),
    "no training data": ({"training": {"epochs": 2, "compress_at": 1}}, "training: the data have no part to train on"),
    "checkpoint": ({"checkpoint": "mine.py"}, "cannot read mine.py: it is not a whole torch file"),
    "channels": ({"model": {"name": "cnn"}}, "model: cnn takes its channels and classes from data with labels"),
    "onnx": ({"model": {"onnx": "mine.onnx"}}, "cannot read mine.onnx"),
    "given": ({"model": {"name": "given", "kind": "Net"}}, "the network Net was given by a program"),
}


@pytest.mark.parametrize("name", CONFIGURATION)
def test_a_wrong_configuration_is_told_of_in_one_line(name: str, here: Path, capsys: Any) -> None:
    change, message = CONFIGURATION[name]
    assert run({**OWN, **change}, here / "run") == 2
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in complaint
    assert not (here / "run/results.json").exists()


def test_code_runs_only_where_it_may(here: Path, capsys: Any) -> None:
    """Neither to run nor to go on, simulate, search, or by a call from Python."""
    (here / "own.yaml").write_text(yaml.safe_dump(OWN))
    needed = "runs code that the configuration names: say --allow-imports"
    for command in (["run", "own.yaml", "--output", "run"], ["compare", "own.yaml", "--output", "run"]):
        assert main(command) == 2
        assert needed in capsys.readouterr().err
    assert not (here / "run").exists()
    assert "mine" not in sys.modules
    assert run(OWN, here / "run") == 0
    out, err = capsys.readouterr()
    assert "a word on the way" not in out  # what the code prints is no result
    assert "a word on the way" in err
    for command in (["run", "run.yaml", "--output", "run", "--resume"], ["simulate", "run"]):
        assert main(command) == 2
        assert needed in capsys.readouterr().err
    for call in (
        lambda: prap_pim.simulate("run"),
        lambda: prap_pim.explore({"name": "s", "base": OWN, **SPACE}, "study"),
    ):
        with pytest.raises(prap_pim.UserError, match="say --allow-imports"):
            call()
    assert prap_pim.simulate("run", {"adc_bits": 2}, allow_imports=True).metric == "accuracy"


SPACE = {"space": {"method": ["dense"]}, "objectives": ["energy"], "sampler": "grid"}


def test_compress_takes_a_users_code(here: Path, capsys: Any) -> None:
    """As model and as data; a model that is named by code may take other data, too."""
    (here / "words.txt").write_text("a text of bytes, " * 200)
    (here / "mine.py").write_text(
        CODE + "\ndef language(): return nn.Sequential(nn.Embedding(256, 8), nn.Linear(8, 256))\n"
    )
    for model, data in (("mine:build", "{import: 'mine:splits'}"), ("mine:language", "words.txt")):
        command = ["compress", f"{{import: '{model}'}}", "--calibration", data, "--ratio", "0.5", "--output", "small"]
        assert main([*command, "--allow-imports", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["compute_ratio"] <= 0.5
        assert main(command) == 2
        assert "say --allow-imports" in capsys.readouterr().err


def test_every_method_at_equal_compute(here: Path, capsys: Any) -> None:
    """By its ratio in a configuration, as by the library's; what cannot be reached is said of each before anything."""
    names = ("structured", "pattern", "orc", "similar", "identical", "calibrated", "lowbit")
    asked = [{"name": f"{name}-at", "method": name, "compute_ratio": 0.8} for name in names]
    assert run({**OWN, "methods": [{"name": "dense"}, *asked]}, here / "run") == 0
    results = Results.load(here / "run/results.json")
    ratios = {method.name: method.compute_ratio for method in results.methods[1:]}
    assert all(0.6 < ratio <= 0.8 for ratio in ratios.values()), ratios
    from tests.own import classifier

    alone = prap_pim.compress(classifier().model, classifier().calibration, "structured", compute_ratio=0.8)
    assert alone.compute_ratio == ratios["structured-at"]
    little = [{"name": name, "compute_ratio": 0.001} for name in ("orc", "prap")]
    assert run({**OWN, "methods": little}, here / "no") == 2
    said = capsys.readouterr().err
    assert "of reach: orc has 0." in said
    assert "of reach: prap has 0." in said
    assert not (here / "no").exists()
    trained = {"training": {"epochs": 2, "compress_at": 1}, "model": {"name": "cnn"}, "data": {"name": "digits"}}
    identical = [{"name": "identical", "compute_ratio": 0.5}]
    own = {key: value for key, value in OWN.items() if key != "metric"}
    assert run({**own, **trained, "methods": identical}, here / "no") == 2
    assert "how much it computes depends on the trained weights" in capsys.readouterr().err


def test_what_random_weights_are_worth_is_not_measured(here: Path) -> None:
    """A network of the package, too, that was never trained, whoever measures it."""
    data = {"name": "digits", "size": 8, "train": 120, "calibration": 40, "test": 40}
    assert run({**OWN, "model": {"name": "cnn", "width": 4}, "data": data}, here / "run") == 0
    results = Results.load(here / "run/results.json")
    assert results.float_accuracy is None
    assert "never trained" in results.weights


def test_a_metric_may_have_arguments_of_its_own(here: Path) -> None:
    metric = {"import": "mine:share", "arguments": {"of": 0.25}}
    assert run({**OWN, "metric": metric}, here / "run") == 0
    results = Results.load(here / "run/results.json")
    assert results.float_metrics == {"share": 0.25}
    assert results.float_accuracy is not None


def test_a_run_that_diverges_can_be_mended(here: Path, capsys: Any) -> None:
    """The advised change goes on in the same folder, and ends as a run that never went wrong."""
    config = yaml.safe_load((EXAMPLE / "own.yaml").read_text())
    shutil.copytree(EXAMPLE / "denoiser", here / "denoiser")
    config["data"] |= {"arguments": {"images": 120}}
    wrong = {**config, "training": {**config["training"], "learning_rate": 1e6}}
    assert run(wrong, here / "run") == 2
    said = capsys.readouterr().err.strip()
    assert "lower learning_rate (now 1e+06)" in said
    assert said.endswith(f"with that, the same call (--resume) begins anew in {here / 'run'}")
    assert run(config, here / "run") == 2  # not without --resume
    assert run({**config, "seed": 1}, here / "run", "--resume") == 2  # nor with another run
    assert run(config, here / "run", "--resume") == 0
    assert run(config, here / "undisturbed") == 0
    assert plans(here / "run") == plans(here / "undisturbed")
    assert not (here / "run/diverged").exists()


def test_a_folder_is_opened_from_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, code and a chip that are named by paths of where the run was started; and a chip that is no more."""
    from prap_pim.hardware.chip import CHIPS

    (here / "mine.toml").write_text((CHIPS / "isaac-32nm.toml").read_text())
    x, y = np.random.default_rng(0).random((120, 8, 8)), np.arange(120) % 4
    np.savez(here / "mine.npz", images=x, labels=y)
    data = {"name": "npz", "path": "mine.npz", "calibration": 20, "test": 20}
    training = {"epochs": 2, "compress_at": 1, "batch_size": 40, "augment": {"kind": "crop-flip"}}
    config = {**OWN, "model": {"name": "cnn", "width": 4}, "data": data, "training": training, "chip": "mine.toml"}
    del config["metric"]
    assert run(config, here / "run") == 0
    assert run(OWN, here / "own") == 0
    (here / "mine.toml").unlink()
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = prap_pim.simulate("../run", {"adc_bits": 8}, devices=1)
    results = Results.load(here / "run/results.json")
    assert found.points[0].mean == results.methods[0].bit_true_accuracy
    assert prap_pim.simulate("../own", {"adc_bits": 8}, allow_imports=True).metric == "accuracy"
    (here / "mine.npz").unlink()
    with pytest.raises(prap_pim.UserError, match=r"cannot read mine\.npz"):
        prap_pim.simulate("../run", {"adc_bits": 8})


def test_a_killed_run_goes_on(here: Path) -> None:
    """kill -9 while three processes train the user's network by the user's loss; resumed, it ends as undisturbed."""
    shutil.copytree(EXAMPLE / "denoiser", here / "denoiser")
    config = yaml.safe_load((EXAMPLE / "own.yaml").read_text())
    config["training"] |= {"shards": 3}
    config["data"] |= {"arguments": {"images": 300}}
    (here / "own.yaml").write_text(yaml.safe_dump(config))
    cpu = ("--accelerator", "cpu")
    command = [sys.executable, "-m", "prap_pim", "run", "own.yaml", "--allow-imports", "--quiet", *cpu]
    assert run(config, here / "undisturbed", *cpu) == 0
    begun = subprocess.Popen([*command, "--output", "killed", "--devices", "3"], start_new_session=True)
    deadline = time.monotonic() + 300
    while not list((here / "killed").glob("checkpoints/epoch-*")):
        assert begun.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    time.sleep(0.5)  # its processes end with it
    assert not (here / "killed/results.json").exists()
    assert run(config, here / "killed", "--resume", *cpu) == 0
    assert plans(here / "killed") == plans(here / "undisturbed")
    killed, undisturbed = (json.loads((here / name / "results.json").read_text()) for name in ("killed", "undisturbed"))
    assert killed | {"command": ""} == undisturbed | {"command": ""}
