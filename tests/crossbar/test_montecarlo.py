"""A whole network on devices with errors: one device and many."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.crossbar import (
    CrossbarModel,
    Device,
    LognormalVariation,
    MonteCarloReport,
    Trial,
    device_seeds,
    measure,
    measure_each,
    monte_carlo,
)
from prap_pim.frontend import Captured, capture
from prap_pim.frontend.evaluate import InMemory, Labelled
from prap_pim.frontend.quantize import input_grids
from prap_pim.ir.plan import NetworkPlan
from tests.crossbar.plans import dense_network_plan

Data = tuple[Captured, NetworkPlan, torch.Tensor, torch.Tensor]
VARIED = CrossbarModel(adc_bits=5, device=Device(variation=LognormalVariation(sigma=0.5), read_noise=0.05))


@pytest.fixture(scope="module")
def data() -> Data:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 5))
    images = torch.rand(40, 1, 8, 8)
    captured = capture(model, images[:1], "net")
    labels = model(images).argmax(dim=1)
    return captured, dense_network_plan(captured, input_grids(captured, images, 10)), images, labels


def test_a_device_is_the_same_whatever_the_batch_and_the_memory(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    one = measure(*data[:2], VARIED, *data[2:], seed=1, check=True)
    assert all(layer.mismatches > 0 for layer in one.layers.values())
    assert measure(*data[:2], VARIED, *data[2:], seed=1, check=True, batch_size=7).layers == one.layers
    other = measure(*data[:2], VARIED, *data[2:], seed=2, check=True)
    assert other.layers != one.layers
    monkeypatch.setattr(
        import_module("prap_pim.crossbar.network"), "_TABLE_BYTES", 0
    )  # cells are programmed anew for every batch
    assert measure(*data[:2], VARIED, *data[2:], seed=1, check=True, batch_size=7).layers == one.layers


def test_images_that_are_not_checked_run_on_the_same_device(data: Data) -> None:
    whole = measure(*data[:2], VARIED, *data[2:], seed=1)
    part = measure(*data[:2], VARIED, *data[2:], seed=1, check=13)
    assert part.accuracy == whole.accuracy
    assert (part.checked_images, whole.checked_images) == (13, 0)
    assert set(whole.paths.values()) == {"cells"}
    assert [layer.checked for layer in part.layers.values()] == [13 * 6 * 64, 13 * 5]


def test_devices_are_numbered_and_do_not_depend_on_their_count(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    three = monte_carlo(*data[:2], VARIED, *data[2:], 3, seed=5, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(set(three.accuracies)) > 1
    assert monte_carlo(*data[:2], VARIED, *data[2:], 2, seed=5).devices == three.devices[:2]
    assert monte_carlo(*data[:2], VARIED, *data[2:], 3, seed=6).devices != three.devices
    module, given = import_module("prap_pim.crossbar.montecarlo"), list[int]()
    monkeypatch.setattr(module, "measure_each", lambda *_, processes: given.append(processes) or iter(()))
    with pytest.raises(KeyError):  # nothing is found; what is found on several is tested below
        monte_carlo(*data[:2], VARIED, *data[2:], 3, processes=2)
    assert given == [2]


def test_layers_and_devices_have_errors_of_their_own(data: Data) -> None:
    layers_of = import_module("prap_pim.crossbar.network")._layers
    cells = []
    for device in range(2):
        seed = np.random.SeedSequence(5, spawn_key=(device,))
        by_cell, _ = layers_of(*data[:2], VARIED, seed, True, False)
        signals = [layer.crossbars.signal() for layer in by_cell.values()]
        cells += [signal[signal > 0] for signal in signals]
    together = np.concatenate(cells)
    assert len(cells) == 4
    assert len(np.unique(together)) == len(together)


def test_what_is_not_random_is_measured_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    module = import_module("prap_pim.crossbar.montecarlo")
    one = module._one
    monkeypatch.setattr(module, "_one", lambda *a: (calls.append(a), one(*a))[1])
    seen: list[tuple[int, int]] = []
    ideal = CrossbarModel(adc_bits=4, device=Device(on_off_ratio=20))
    report = monte_carlo(*data[:2], ideal, *data[2:], 4, progress=lambda *at: seen.append(at))
    assert (len(calls), len(report.devices), seen) == (1, 4, [(4, 4)])
    assert report.spread == 0


@pytest.mark.flow
def test_trials_of_several_networks_and_models_are_those_of_each(data: Data) -> None:
    captured, plan, images, labels = data
    mild = CrossbarModel(adc_bits=5, device=Device(variation=LognormalVariation(sigma=0.1)))
    trials = [
        Trial(name, model, seed) for name in "ab" for model in (VARIED, mild) for seed in device_seeds(model, 2, 5)
    ]
    networks = {name: (captured, plan) for name in "ab"}
    alone = {model: monte_carlo(captured, plan, model, images, labels, 2, seed=5).devices for model in (VARIED, mild)}
    for processes in (1, 2):
        found = dict(measure_each(networks, trials, Labelled(InMemory(images, labels)), processes=processes))
        assert sorted(found) == list(range(8))
        for first, model in ((0, VARIED), (2, mild), (4, VARIED), (6, mild)):
            devices = tuple(found[first + number] for number in range(2))
            assert devices == alone[model]
    assert len(device_seeds(CrossbarModel(adc_bits=4), 9, 0)) == 1


@pytest.mark.flow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Killed with kill -9, the parent can tell them nothing."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from prap_pim.crossbar import monte_carlo\n"
        "from prap_pim.crossbar.montecarlo import _start\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, _start, (({}, None, None, 1), 1))\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.stdout.close()
    parent.kill()
    parent.wait()
    for _ in range(3000):
        stat = Path(f"/proc/{worker}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_mean_spread_and_worst_by_hand(data: Data) -> None:
    report = measure(*data[:2], CrossbarModel(adc_bits=4), *data[2:])
    devices = tuple(replace(report, metrics={"accuracy": accuracy}) for accuracy in (0.5, 0.9, 0.7))
    many = MonteCarloReport(devices)
    assert (many.mean, many.spread, many.worst) == (pytest.approx(0.7), pytest.approx(0.2), 0.5)
    assert MonteCarloReport(devices[:1]).spread == 0


def test_accumulators_that_are_too_narrow_are_counted_layer_by_layer(data: Data) -> None:
    exact = measure(*data[:2], CrossbarModel(adc_bits=4, accumulator_bits=32), *data[2:])
    assert set(exact.overflows.values()) == {0}
    assert exact.paths == {"0": "float32", "3": "float32"}
    narrow = measure(*data[:2], CrossbarModel(adc_bits=4, accumulator_bits=12), *data[2:])
    assert narrow.paths["3"] == "cells"
    assert narrow.overflows["3"] > 0
    assert narrow.accuracy < exact.accuracy


def test_mistakes(data: Data) -> None:
    for devices, processes in ((0, 1), (1, 0)):
        with pytest.raises(UserError, match=f"not {devices} and {processes}"):
            monte_carlo(*data[:2], VARIED, *data[2:], devices, processes=processes)
    with pytest.raises(UserError, match="not 40 with 39 labels"):
        monte_carlo(*data[:2], VARIED, data[2], data[3][1:], 1)


def test_accuracy_falls_with_the_variation(data: Data) -> None:
    means = []
    for sigma in (0.0, 0.3, 1.5):
        model = CrossbarModel(adc_bits=6, device=Device(variation=LognormalVariation(sigma=sigma)))
        means.append(monte_carlo(*data[:2], model, *data[2:], 4).mean)
    exact = measure(*data[:2], CrossbarModel(adc_bits=6), *data[2:]).accuracy
    assert means[0] == exact
    assert np.all(np.diff(means) < 0)
