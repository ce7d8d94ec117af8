"""A whole network: bit-true, and in float with compressed weights."""

import numpy as np
import pytest
import torch
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.crossbar import CrossbarLayer, CrossbarModel, LayerCheck, compressed_model
from prap_pim.frontend import Captured, capture
from prap_pim.frontend.quantize import grid_in, input_grids
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import NetworkPlan
from tests.crossbar.plans import dense_network_plan, dense_plan, simulate


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(images: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8)
    ).extend([nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)])
    for _ in range(20):
        model(images)
    return model.eval()


@pytest.fixture(scope="module")
def captured(model: nn.Module, images: torch.Tensor) -> Captured:
    return capture(model, images[:1], "net")


@pytest.fixture(scope="module")
def plan(captured: Captured, images: torch.Tensor) -> NetworkPlan:
    return dense_network_plan(captured, input_grids(captured, images, 10))


def test_int8_network_is_near_the_float_network_and_every_integer_is_checked(
    model: nn.Module, captured: Captured, plan: NetworkPlan, images: torch.Tensor
) -> None:
    labels = model(images).argmax(dim=1)
    seen: list[tuple[int, int]] = []
    report = simulate(captured, plan, Grain(), 4, images, labels, batch_size=12, progress=lambda *at: seen.append(at))
    assert report.accuracy >= 0.9  # labels are what the float network says
    assert report.layers == {
        "0": LayerCheck(30 * 6 * 64, 0),
        "3": LayerCheck(30 * 8 * 9, 0),
        "7": LayerCheck(30 * 5, 0),
    }
    assert (report.images, report.mismatches) == (30, 0)
    assert seen == [(12, 30), (24, 30), (30, 30)]


def test_accuracy_counts_right_answers(captured: Captured, plan: NetworkPlan, images: torch.Tensor) -> None:
    layers = {
        layer.name: CrossbarLayer(layer, plan.layers[layer.name], grid_in(plan, layer.name), CrossbarModel(adc_bits=4))
        for layer in captured.network.layers
    }
    answers = captured.rebuild(layers)(images).argmax(dim=1)
    wrong = (answers + 1) % 5
    half = torch.cat([answers[:15], wrong[15:]])
    assert simulate(captured, plan, Grain(), 4, images, answers).accuracy == 1
    assert simulate(captured, plan, Grain(), 4, images, wrong).accuracy == 0
    assert simulate(captured, plan, Grain(), 4, images, half).accuracy == 0.5


def test_an_adc_that_is_too_small_is_reported(captured: Captured, plan: NetworkPlan, images: torch.Tensor) -> None:
    labels = torch.zeros(30, dtype=torch.int64)
    report = simulate(captured, plan, Grain(), 1, images, labels, batch_size=30)
    assert all(check.mismatches > 0 for check in report.layers.values())
    unchecked = simulate(
        captured, plan, Grain(), 1, images, torch.zeros(30, dtype=torch.int64), batch_size=30, check=False
    )
    assert set(unchecked.layers.values()) == {LayerCheck(0, 0)}
    assert unchecked.accuracy == report.accuracy


def test_compressed_model_is_the_network_with_rounded_weights(
    model: nn.Module, captured: Captured, plan: NetworkPlan, images: torch.Tensor
) -> None:
    state = torch.get_rng_state()
    compressed = compressed_model(captured, plan)
    assert torch.equal(torch.get_rng_state(), state)
    rounded = capture(model, images[:1], "copy").rebuild({})
    with torch.no_grad():
        for layer in captured.network.layers:
            weight = rounded.get_submodule(layer.name).weight
            step = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / 127
            weight.copy_(torch.round(weight / step) * step)
        torch.testing.assert_close(compressed(images), rounded(images), rtol=1e-4, atol=1e-5)


def test_a_plan_for_another_network_is_refused(captured: Captured, plan: NetworkPlan, images: torch.Tensor) -> None:
    short = {name: layer for name, layer in plan.layers.items() if name != "3"}
    fewer = NetworkPlan("dense", short, {name: 1.0 for name in short})
    long = dict(plan.layers) | {"9": dense_plan("9", np.ones((2, 3), np.float32))}
    more = NetworkPlan("dense", long, {name: 1.0 for name in long})
    with pytest.raises(UserError, match="network net: layer 3 is not in the plan"):
        simulate(captured, fewer, Grain(), 4, images, torch.zeros(30))
    with pytest.raises(UserError, match="network net: layer 9 is not in the network"):
        compressed_model(captured, more)


def test_images_without_labels_are_refused(captured: Captured, plan: NetworkPlan, images: torch.Tensor) -> None:
    with pytest.raises(UserError, match="not 30 with 29 labels"):
        simulate(captured, plan, Grain(), 4, images, torch.zeros(29))
    with pytest.raises(UserError, match="not 0 with 0 labels"):
        simulate(captured, plan, Grain(), 4, images[:0], torch.zeros(0))
