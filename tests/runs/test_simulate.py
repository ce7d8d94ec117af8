"""Finished runs measured on crossbars with device effects: figures, interruptions, mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import prap_pim
from prap_pim.__main__ import main
from prap_pim.common.errors import UserError
from prap_pim.crossbar import CrossbarModel, Device, LognormalVariation, exact_metrics, monte_carlo
from prap_pim.frontend.evaluate import InMemory, Labelled
from prap_pim.hardware.chip import load_chip
from prap_pim.results.run import Results
from prap_pim.runs.crossbars import Crossbars, Sweep
from prap_pim.runs.finished import reopen
from tests.folders import as_earlier, renew

TINY = {
    "name": "tiny",
    "seed": 3,
    "data": {"name": "digits", "size": 8, "train": 240, "calibration": 60, "test": 60},
    "model": {"name": "cnn", "width": 4},
    "training": {"epochs": 4, "compress_at": 2, "batch_size": 20},
    "methods": [
        {"name": "dense"},
        {
            "name": "prap",
            "prune": {"kind": "pattern", "group_channels": 2, "pointwise_group": 8},
            "reuse": {"kind": "similar", "keep": 0.5},
            "exceptions": [{"layers": "conv1"}, {"layers": "classifier"}],
        },
    ],
}
NOISY = ["--set", "device.variation.sigma=0.3", "--set", "encoding=differential", "--samples", "20", "--devices", "3"]


def run(folder: Path, **changes: object) -> Path:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(TINY | changes))
    assert main(["run", str(config), "--output", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def simulate(folder: Path, *flags: str, processes: str = "1") -> int:
    return main(["simulate", str(folder), "--quiet", "--processes", processes, *flags])


def figures(folder: Path) -> list[dict[str, object]]:
    simulations = json.loads((folder / "results.json").read_text())["simulations"]
    return [{key: value for key, value in each.items() if key != "command"} for each in simulations]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    module, calls = import_module("prap_pim.crossbar.montecarlo"), []
    one = module._one
    monkeypatch.setattr(module, "_one", lambda *a: (calls.append(a), one(*a))[1])
    return calls


def test_the_network_is_that_of_the_run(original: Path) -> None:
    with reopen(original) as finished:
        test = finished.splits.test
        for method in finished.results.methods:
            captured, plan = finished.method(method.name)
            found = exact_metrics(captured, plan, finished.chip.grain, Labelled(InMemory(test.inputs, test.labels)))[
                "accuracy"
            ]
            assert found == method.bit_true_accuracy


def test_batch_norms_that_no_plan_holds_are_kept_in_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = {"name": "wide-resnet", "depth": 10, "widen": 1}
    folder = run(tmp_path, model=wide, methods=[{"name": "dense"}], training={**TINY["training"], "epochs": 8})
    with reopen(folder) as finished:
        test, (method,) = finished.splits.test, finished.results.methods
        captured, plan = finished.method("dense")
        assert (
            exact_metrics(captured, plan, finished.chip.grain, Labelled(InMemory(test.inputs, test.labels)))["accuracy"]
            == method.bit_true_accuracy
        )
    saved = folder / "methods/dense/digital.safetensors"
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-10])
    assert simulate(folder, *NOISY) == 2
    assert f"{saved} is damaged: it is not what was written" in capsys.readouterr().err
    saved.unlink()
    for entry in folder.glob("methods/dense/*.json"):  # as an earlier version left it
        entry.unlink()
    as_earlier(folder)
    assert simulate(folder, *NOISY) == 2
    assert "made by an earlier version, which did not keep the batch norms of wide-resnet" in capsys.readouterr().err


def test_figures_are_those_of_a_monte_carlo(finished: Path) -> None:
    assert simulate(finished, *NOISY, "--seed", "4", "--sweep", "adc-bits=3,6") == 0
    (found,) = Results.load(finished / "results.json").simulations
    assert [(point.method, point.value) for point in found.points] == [
        (method, bits) for method in ("dense", "prap") for bits in (3, 6)
    ]
    device = Device(variation=LognormalVariation(sigma=0.3))
    with reopen(finished) as opened:
        images, labels = opened.splits.test.inputs[:20], opened.splits.test.labels[:20]
        for point in found.points:
            bits = int(point.value or 0)
            model = CrossbarModel.of(opened.chip, adc_bits=bits, encoding="differential", device=device)
            many = monte_carlo(*opened.method(point.method), model, images, labels, 3, seed=4)
            assert point.accuracies == list(many.accuracies)
            assert (point.mean, point.worst) == (pytest.approx(many.mean), many.worst)
            assert point.spread == pytest.approx(many.spread)
            assert point.layers_by_cell == 7
    assert "Accuracy under device effects" in (finished / "report.html").read_text()


def test_simulations_accumulate_and_settings_tell_their_source(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("encoding: differential\ndevice: {stuck_off: 0.01, variation: wan-2022-1s}\n")
    flags = ["--device", str(file), "--samples", "10", "--devices", "1", "--methods", "dense"]
    before = Results.load(finished / "results.json")
    assert simulate(finished, *flags) == 0
    assert simulate(finished, *flags, "--set", "device.stuck_off=0.02", "--name", "worse") == 0
    results = Results.load(finished / "results.json")
    assert results.model_copy(update={"simulations": []}) == before
    assert [each.name for each in results.simulations] == ["mine", "worse"]
    told = {each.name: (each.value, each.source) for each in results.simulations[1].parameters}
    assert told["adc_bits"] == ("6", "chip isaac-32nm")
    assert told["encoding"] == ("differential", "mine.yaml")
    assert told["device.variation"] == ("wan-2022-1s", "mine.yaml")
    assert told["device.stuck_off"] == ("0.02", "--set")
    assert told["overflow"] == ("saturate", "default")
    assert not {"device.read_noise", "device.on_resistance_ohm"} & set(told)
    assert main(["report", str(finished)]) == 0
    assert "Accuracy under device effects: worse" in capsys.readouterr().out
    assert main(["simulate", str(finished), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mine"


def test_nothing_is_measured_twice_and_more_devices_only_add(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulate(finished, *NOISY) == 0
    once = figures(finished)
    calls = counted(monkeypatch)
    assert simulate(finished, *NOISY) == 0
    assert (len(calls), figures(finished)) == (0, once)
    assert simulate(finished, *NOISY, "--devices", "4", "--methods", "prap") == 0
    assert len(calls) == 1
    (more,) = Results.load(finished / "results.json").simulations
    assert more.points[0].accuracies[:3] == once[0]["points"][1]["accuracies"]
    assert simulate(finished, *NOISY, "--seed", "1", "--methods", "prap") == 0
    assert len(calls) == 4


def test_a_damaged_device_is_measured_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*NOISY, "--devices", "1", "--methods", "dense"]
    assert simulate(finished, *flags) == 0
    once = figures(finished)
    (device,) = (finished / "simulations").iterdir()
    device.write_bytes(device.read_bytes().replace(b'"accuracy": 0', b'"accuracy": 1'))
    calls = counted(monkeypatch)
    assert simulate(finished, *flags) == 0
    assert (len(calls), figures(finished)) == (1, once)


def test_killed_and_called_again_ends_the_same_whatever_the_processes(finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    flags = [*NOISY, "--devices", "8"]
    command = [sys.executable, "-m", "prap_pim", "simulate", str(finished), "--quiet", "--processes", "2", *flags]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while process.poll() is None and not list(finished.glob("simulations/*.json")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Results.load(finished / "results.json").simulations
    assert simulate(finished, *flags) == 0
    assert simulate(other, *flags) == 0
    assert figures(finished) == figures(other)


def test_interrupted_by_the_keyboard(finished: Path) -> None:
    command = [sys.executable, "-m", "prap_pim", "simulate", str(finished), "--quiet", "--processes", "2", *NOISY]
    process = subprocess.Popen([*command, "--devices", "200"], stderr=subprocess.PIPE, start_new_session=True)
    while not list(finished.glob("simulations/*.json")):
        time.sleep(0.01)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers, too
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.decode()) == (130, "prap-pim: interrupted; the same command goes on\n")


def test_swept_settings_by_hand() -> None:
    chip = load_chip("isaac-32nm")
    given = {"stuck_on": 0.01, "stuck_off": 0.03, "variation": {"sigma": 0.1}, "write_verify": None}
    crossbars = Crossbars({"device": given}, {}, "")
    for quantity, value, changed in (
        ("fault-rate", 0.2, {"stuck_on": 0.05, "stuck_off": 0.15}),  # 1 to 3, as given
        ("sigma", 0.4, {"variation": LognormalVariation(sigma=0.4)}),
        ("sigma", 0, {"variation": None}),
    ):
        sweep = Sweep.checked({"quantity": quantity, "values": [value]}, "")
        device = crossbars.model(chip, sweep, value).device
        assert device is not None
        expected = Device.checked({**given, **changed}, "").model_dump()
        found = device.model_dump()
        for each in (found, expected):
            each["stuck_on"], each["stuck_off"] = round(each["stuck_on"], 12), round(each["stuck_off"], 12)
        assert found == expected
    halves = Crossbars({}, {}, "").model(chip, Sweep.parse("fault-rate=0.2"), 0.2).device
    assert halves is not None
    assert (halves.stuck_on, halves.stuck_off) == (0.1, 0.1)
    assert Crossbars({}, {}, "").model(chip, Sweep.parse("adc-bits=3"), 3) == CrossbarModel.of(chip, adc_bits=3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "device.sigma=1"], "--set: device: unknown key 'sigma' (allowed: column_wire_ohm, "),
        (["--set", "device.variation.sigma=-1"], "sigma: must be at least 0, not -1"),
        (["--set", "device.variation=wan"], "no variation 'wan'"),
        (["--set", "adc_bits=0"], "adc_bits: must be at least 1, not 0"),
        (["--set", "grain.ou_rows=4"], "grain is the chip's: the plans of the run were made for it; only cell_bits"),
        (["--set", "grain.cell_bits=9"], "cell_bits (9) must not exceed weight_bits (8)"),
        (["--set", "grain.cell_bits=two"], "cell_bits must be a whole number, not 'two'"),
        (["--set", "device"], "expected KEY=VALUE"),
        (["--sweep", "adc-bits=0,4"], "adc-bits 0: adc_bits: must be at least 1, not 0"),
        (["--sweep", "adc-bits=3.5"], "adc_bits: must be a whole number"),
        (["--sweep", "sigma=-0.1"], "sigma: must be at least 0, not -0.1"),
        (["--sweep", "sigma=0.1", "--set", "device.variation=wan-2022-1s"], "is not lognormal, it has no sigma"),
        (["--sweep", "fault-rate=3"], "fault-rate 3: device"),
        (["--sweep", "sigma=much"], "--sweep sigma=much: values.0"),
        (["--sweep", "sigma=1,1"], "a value is given twice"),
        (["--sweep", "sigma"], "expected sigma=VALUE,VALUE"),
        (["--sweep", "sigmas=1"], "no quantity 'sigmas' (did you mean 'sigma'?)"),
        (["--samples", "0"], "samples: must be at least 1"),
        (["--samples", "61"], "the run has 60 test images, not 61"),
        (["--devices", "0"], "devices: must be at least 1"),
        (["--processes", "none"], "'--processes': must be a whole number, not 'none'"),
        (["--methods", "prep"], "no method 'prep' in the run"),
        (["--device", "nowhere.yaml"], "cannot read nowhere.yaml"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    original: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in original.rglob("*.*") if path.name != ".lock"}
    assert main(["simulate", str(original), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("prap-pim: ")
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in original.rglob("*.*") if path.name != ".lock"} == before


def test_settings_that_hold_themselves(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("device: &again\n  variation: *again\n")
    assert simulate(original, "--device", str(tmp_path / "mine.yaml")) == 2
    where = f"{tmp_path / 'mine.yaml'}, line 2"
    assert capsys.readouterr().err == f"prap-pim: {where}: what *again stands for holds itself\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("variation.sigma=1e300", "must be 0, or between 1e-30 and 1e+30 in size, not 1e+300"),
        ("variation.sigma=50", "must be at most 20, not 50"),
        ("variation.sigma=20", "variation or read noise is too large"),
        ("read_noise=1e200", "must be 0, or between"),
        ("read_noise=1000", "must be at most 100, not 1000"),
    ],
)
def test_errors_beyond_all_numbers(
    finished: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert simulate(finished, "--set", f"device.{setting}", "--samples", "5", "--devices", "1") == 2
    assert message in capsys.readouterr().err
    assert not recwarn.list


def test_folders_that_hold_no_finished_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(tmp_path / "nowhere") == 2
    assert f"there is no folder {tmp_path / 'nowhere'}\n" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    plan = finished / "methods/prap/plan.safetensors"
    shutil.copy(finished / "methods/dense/plan.safetensors", plan)
    for entry in finished.glob("methods/prap/*.json"):  # as in a run of an earlier version
        entry.unlink()
    as_earlier(finished)
    assert simulate(finished, *NOISY) == 2
    assert "is not the plan of this run's results" in capsys.readouterr().err
    (finished / "results.json").unlink()
    assert simulate(finished) == 2
    assert "has not finished" in capsys.readouterr().err


def test_data_that_changed_since_are_refused(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["data"]["size"] = 16
    (finished / "config.yaml").write_text(yaml.safe_dump(config))
    renew(finished)
    with pytest.raises(UserError, match="made with other content of data"), reopen(finished):
        pass


def test_from_python_as_from_the_command_line(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    assert simulate(folder, "--set", "device.variation.sigma=0.3", "--samples", "20", "--devices", "3") == 0
    (by_command,) = Results.load(folder / "results.json").simulations
    device = prap_pim.Device(variation={"kind": "lognormal", "sigma": 0.3})
    for crossbars in (device, {"device": {"variation": {"kind": "lognormal", "sigma": 0.3}}}):
        found = prap_pim.simulate(finished, crossbars, samples=20, devices=3)
        assert [point.accuracies for point in found.points] == [point.accuracies for point in by_command.points]
    with pytest.raises(UserError, match="simulate: unknown key 'device'"):
        prap_pim.simulate(finished, device=3)
    with pytest.raises(UserError, match="simulate: unknown key 'sigma'"):
        prap_pim.simulate(finished, {"sigma": 3})
