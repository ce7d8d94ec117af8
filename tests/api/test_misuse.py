"""What a caller may hand over in several forms, and one line for what nobody can use."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim import (
    Calibrated,
    Captured,
    Chip,
    Compression,
    CrossbarModel,
    Dense,
    Device,
    Pattern,
    Prap,
    QuantizeConfig,
    UserError,
    capture,
    compress,
    estimate,
    explore,
    load_chip,
    measure,
    monte_carlo,
    zero_input_rates,
)
from prap_pim.__main__ import main


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(20, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def found(model: nn.Module, x: Tensor) -> Compression:
    return compress(model, x, Dense())


@pytest.fixture(scope="module")
def captured(model: nn.Module, x: Tensor) -> Captured:
    return capture(model, x, "net")


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantizeConfig(foo=1), "QuantizeConfig: unknown key 'foo' (allowed: equalize,"),
        (lambda: Device(sigma=-1), "Device: unknown key 'sigma'"),
        (lambda: Device(variation={"sigma": -1}), "Device: variation.sigma: must be at least 0, not -1"),
        (lambda: CrossbarModel(foo=1), "CrossbarModel: unknown key 'foo'"),
        (lambda: Chip(), "Chip: name is missing"),
        (lambda: Calibrated(0.25), "give compute_ratio=0.25"),
        (lambda: Prap(0.25), "give keep=0.25"),
        (lambda: Dense(1), "method dense has no settings, 1 is none"),
        (lambda: Prap(keep=0.5, kind="pattern"), "unknown key 'kind' (allowed: compute_ratio, group_channels, keep,"),
        (lambda: Calibrated(compute_ratio=0.5, kind="calibrated"), "unknown key 'kind'"),
    ],
)
def test_a_wrong_setting_is_one_line(make: Callable[[], object], message: str) -> None:
    refused(make, message)


def test_methods_show_their_own_settings_alone() -> None:
    for method in (Calibrated(compute_ratio=0.5), Prap(keep=0.5), Pattern(), prap_pim.Structured(ratio=0.5)):
        assert "kind" not in repr(method)
        assert "kind" not in method.model_dump()


def test_a_chip_may_be_an_object(model: nn.Module, x: Tensor) -> None:
    chip = load_chip("isaac-32nm")
    assert load_chip(chip) is chip
    assert compress(model, x, Dense(), chip=chip).chip == chip
    assert estimate(model, x, chip).energy_j == estimate(model, x, "isaac-32nm").energy_j


def test_a_plan_may_be_a_file_or_a_compression(model: nn.Module, x: Tensor, found: Compression, tmp_path: Path) -> None:
    found.plan.save(tmp_path / "p.safetensors")
    wanted = estimate(model, x, plan=found.plan)
    assert estimate(model, x, plan=str(tmp_path / "p.safetensors")).energy_j == wanted.energy_j
    assert estimate(model, x, plan=found).energy_j == wanted.energy_j
    refused(lambda: estimate(model, x, plan=3), "plan must be a NetworkPlan, its file or a Compression, not int")  # type: ignore[arg-type]
    refused(lambda: estimate(found, plan=found.plan), "give either a plan as the model, or a model and its plan")


def test_measure_takes_arrays(captured: Captured, found: Compression, x: Tensor) -> None:
    labels, crossbars = torch.arange(20) % 4, CrossbarModel.of(load_chip("isaac-32nm"))
    arrays: list[Any] = [x.numpy(), labels.numpy()]
    assert measure(captured, found.plan, crossbars, *arrays) == measure(captured, found.plan, crossbars, x, labels)
    assert monte_carlo(captured, found.plan, crossbars, *arrays, 1).devices[0].images == 20


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0, "captured must be what capture(model, example, name) gives, not str"),
        (1, "plan must be a NetworkPlan, such as the plan of what compress gives, not str"),
        (2, "model must be a CrossbarModel, such as CrossbarModel.of(load_chip(...)), not str"),
        (3, "images must be a tensor or an array with one item each, not str"),
        (4, "labels must be a tensor or an array with one item each, not str"),
    ],
)
def test_measure_names_what_is_something_else(
    place: int, message: str, captured: Captured, found: Compression, x: Tensor
) -> None:
    given: list[Any] = [captured, found.plan, CrossbarModel.of(load_chip("isaac-32nm")), x, torch.arange(20)]
    given[place] = "isaac-32nm"
    refused(lambda: measure(*given), message)
    refused(lambda: monte_carlo(*given, 1), message)


def test_zero_input_rates_names_what_is_something_else(captured: Captured, found: Compression, x: Tensor) -> None:
    grain = load_chip("isaac-32nm").grain
    rates = zero_input_rates(captured, found.plan, x.numpy(), grain)
    assert set(rates) == set(found.plan.layers)
    refused(lambda: zero_input_rates(captured, found.plan, x, "isaac-32nm"), "grain must be a Grain, such as")
    refused(lambda: zero_input_rates(captured, found, x, grain), "plan must be a NetworkPlan")


def test_capture_takes_modules_alone(x: Tensor) -> None:
    refused(lambda: capture("m", x, "n"), "the model must be a torch.nn.Module, not str")  # type: ignore[arg-type]


def test_a_bit_true_network_names_a_batch_that_does_not_fit(found: Compression) -> None:
    refused(lambda: found.bit_true(torch.zeros(2, 3)), "model Sequential does not run on this batch: ")


def test_nobody_need_be_told_of_progress(model: nn.Module, x: Tensor) -> None:
    assert compress(model, x, Calibrated(compute_ratio=0.5), progress=None).compute_ratio <= 0.5


@pytest.mark.parametrize("processes", ["2", -1, 0, True])
def test_explore_checks_processes_before_its_folder(processes: Any, tmp_path: Path) -> None:
    base = {
        "name": "tiny",
        "data": {"name": "digits", "size": 8, "train": 120, "calibration": 40, "test": 40},
        "model": {"name": "cnn", "width": 4},
        "training": "none",
        "methods": [{"name": "dense"}],
    }
    study = {"name": "s", "base": base, "space": {"chip.adc_bits": [6]}, "objectives": ["energy"], "sampler": "grid"}
    refused(
        lambda: explore(study, tmp_path / "out", processes=processes),
        f"processes must be a whole number of at least 1, or None for one per core, not {processes!r}",
    )
    assert not (tmp_path / "out").exists()


def test_explore_takes_values_or_a_file() -> None:
    refused(lambda: explore(None), "config must be a study's values, or the path of a YAML file, not None")  # type: ignore[arg-type]


def test_folders_may_be_text(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=re.escape(missing)), prap_pim.reopen(missing):
        pass
    for kind in (prap_pim.Results, prap_pim.StudyResults):
        refused(lambda kind=kind: kind.load(f"{missing}/results.json"), f"cannot read {missing}/results.json")  # type: ignore[misc]


def test_pipes_are_no_files_and_no_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(pipe := str(tmp_path / "pipe"))
    refused(lambda: prap_pim.reopen(pipe), "pipe is no folder")
    refused(lambda: prap_pim.compress_onnx(pipe, pipe, tmp_path / "out", compute_ratio=0.5), "it is no plain file")
    for command, why in (
        (
            ["compress", pipe, "--calibration", pipe, "--ratio", "0.5", "-o", str(tmp_path / "out")],
            "it is no plain file",
        ),
        (["plot", pipe, "--figure", "speedup"], "is no folder"),
    ):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert why in line
    assert os.listdir(tmp_path) == ["pipe"]
