"""The exact path against 64-bit integers, and against the path that visits every cell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.crossbar import CrossbarLayer, CrossbarModel, ExactLayer, ExactProduct, exact_metrics
from prap_pim.crossbar.array import loses_nothing
from prap_pim.frontend import capture
from prap_pim.frontend.evaluate import InMemory, Labelled
from prap_pim.frontend.quantize import InputGrid, input_grids
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from tests.crossbar.plans import dense_network_plan, simulate
from tests.strategies import examples, layer_for, layer_plans

SEEDS = st.integers(0, 2**32 - 1)


def plan_of(weights: np.ndarray) -> LayerPlan:
    """A plan whose weights are these integers, int8 times a power of two each: a row group of one row a weight."""
    filters, inputs = weights.shape
    filter_, row = (places.astype(np.int32) for places in np.nonzero(weights))
    values = weights[filter_, row].astype(np.int64)
    exponent = np.array([max(0, int(abs(v)).bit_length() - 7) for v in values], np.int64)
    assert ((values >> exponent << exponent) == values).all()
    every = np.arange(len(values) + 1, dtype=np.int64)
    return LayerPlan(
        name="layer",
        inputs=inputs,
        rows=row[:, None],
        donors=(values >> exponent).astype(np.int8)[:, None],
        donor_start=every,
        use_start=every,
        use_filter=filter_,
        use_donor=np.arange(len(values), dtype=np.int32),
        use_sign=np.ones(len(values), np.int8),
        use_exponent=(exponent - 8).astype(np.int8),  # fraction_bits is 8 if any weight has fewer than 8 bits
        step=np.ones(filters, np.float32),
        bias=np.zeros(filters, np.float32),
    )


def linear_for(plan: LayerPlan) -> Layer:
    ones = np.ones(plan.filters, np.float32)
    weight = np.zeros((plan.filters, plan.inputs), np.float32)
    return Layer("layer", "linear", weight, ones, ones, (plan.inputs,), (plan.filters,), ())


def product(plan: LayerPlan, x: np.ndarray) -> tuple[str, np.ndarray]:
    exact = ExactProduct(linear_for(plan), plan)
    return exact.path, exact(torch.from_numpy(x)).numpy()


def worst_inputs(weights: np.ndarray) -> np.ndarray:
    """Inputs that bring every filter's sum to its largest magnitude, and some that are one off; int8 [.., inputs]."""
    same = np.where(weights >= 0, -128, 127)
    odd = same.copy()
    odd[:, 0] += np.where(odd[:, 0] > 0, -1, 1)
    return np.concatenate([same, odd, -1 - same]).astype(np.int8)


@pytest.mark.parametrize(
    ("inputs", "large", "path"),
    [
        (1024, 127, "float32"),  # 128 * 127 * 1024 = 127 / 128 of 2**24
        (1100, 127, "float32 in 2 parts"),
        (200, 127 * 256, "float32 in 2 parts"),
        (3000, 127 * 256, "float32 in 3 parts"),
        (120000, 127 * 256, "float64"),
        (140000, 127, "float64"),  # even single bits are too many
    ],
)
def test_the_path_and_its_integers_at_the_bound(inputs: int, large: int, path: str) -> None:
    random = np.random.default_rng(inputs)
    small = np.array([1, 3, 127])
    weights = np.where(random.random((2, inputs)) < 0.5, large, random.choice(small, (2, inputs)))
    weights[:, 0] = 1  # odd: no power of two can be taken out
    weights *= random.choice([-1, 1], weights.shape)
    weights[0] = np.abs(weights[0])
    if large == 127:
        weights[0, 1:] = 127
    plan = plan_of(weights)
    x = worst_inputs(weights)
    got_path, got = product(plan, x)
    assert got_path == path
    np.testing.assert_array_equal(got, x.astype(np.int64) @ plan.weights().T.astype(np.int64))


def test_a_power_of_two_that_a_filter_shares_costs_nothing() -> None:
    weights = np.full((2, 1000), 127)
    weights[1] <<= 7
    weights[0, 0], weights[1, 0] = 126, 127  # the second filter now holds an odd number beside large ones
    x = worst_inputs(weights)
    assert product(plan_of(weights), x)[0] == "float32 in 2 parts"
    weights[1, 0] = 127 << 7
    path, got = product(plan_of(weights), x)
    assert path == "float32"
    np.testing.assert_array_equal(got, x.astype(np.int64) @ plan_of(weights).weights().T.astype(np.int64))


def test_float32_is_not_trusted_when_torch_may_round_its_inputs() -> None:
    plan = plan_of(np.array([[3, 5]]))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert product(plan, np.ones((1, 2), np.int8))[0] == "float64"
    finally:
        torch.set_float32_matmul_precision(before)


def test_each_convolution_group_has_its_parts_side_by_side() -> None:
    groups = [
        np.array([[127 << 12, 1, -3], [5, 127 << 15, 7]]),
        np.array([[3, -5, 1], [-127 << 15, 99 << 9, 1]]),
        np.array([[1, 1, 1], [2, 3, 127 << 14]]),
    ]
    plan = LayerPlan.of_groups("layer", [plan_of(weights) for weights in groups])
    np.testing.assert_array_equal(plan.weights(), np.concatenate(groups))
    layer = layer_for(plan, size=(1, 4))
    x = np.random.default_rng(0).integers(-128, 128, (2, 9, 1, 4)).astype(np.int8)
    exact = ExactProduct(layer, plan)
    assert exact.path == "float32 in 2 parts"
    shares = np.split(x.astype(np.int64), 3, axis=1)
    expected = [np.einsum("nchw,oc->nhwo", share, weights) for share, weights in zip(shares, groups, strict=True)]
    np.testing.assert_array_equal(exact(torch.from_numpy(x)).numpy(), np.concatenate(expected, axis=-1))


@examples(40)
@given(st.data(), st.integers(1, 200), st.integers(1, 20), SEEDS)
def test_equals_64_bit_integers_on_any_plan(data: st.DataObject, inputs: int, filters: int, seed: int) -> None:
    plan = data.draw(layer_plans(inputs, filters))
    x = np.random.default_rng(seed).integers(-128, 128, (3, inputs)).astype(np.int8)
    _, got = product(plan, x)
    np.testing.assert_array_equal(got, x.astype(np.int64) @ plan.weights().T.astype(np.int64))


@examples(40)
@given(st.data(), st.sampled_from([(1, 1), (3, 3), (2, 3)]), st.integers(1, 4), st.integers(1, 5), SEEDS)
def test_both_paths_give_the_same_bits(
    data: st.DataObject, kernel: tuple[int, int], channels: int, filters: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    plan = data.draw(layer_plans(channels * kernel[0] * kernel[1], filters, height=4))
    step, bias = random.normal(size=(2, filters)).astype(np.float32)
    plan = replace(plan, step=step, bias=bias)
    layer = replace(layer_for(plan, kernel, (4, 5)), stride=(1, 2), padding=(1, 0), output_shape=(filters, 6, 3))
    x = torch.from_numpy(random.normal(size=(3, *layer.input_shape)).astype(np.float32))
    model = CrossbarModel(grain=Grain(ou_rows=4), adc_bits=3)
    assert loses_nothing(plan, model)
    assert not loses_nothing(plan, model.model_copy(update={"adc_bits": 2}))
    cells, exact = CrossbarLayer(layer, plan, InputGrid(0.02), model), ExactLayer(layer, plan, InputGrid(0.02), model)
    assert torch.equal(cells(x), exact(x))
    assert (cells.checked, cells.mismatches) == (3 * filters * 18, 0)
    assert cells.path == "cells"


@pytest.fixture(scope="module")
def network() -> tuple[object, NetworkPlan, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 5))
    images = torch.rand(20, 1, 8, 8)
    captured = capture(model, images[:1], "net")
    labels = model(images).argmax(dim=1)
    return captured, dense_network_plan(captured, input_grids(captured, images, 10)), images, labels


@pytest.mark.parametrize(("check", "checked"), [(False, 0), (0, 0), (1, 1), (7, 7), (20, 20), (30, 20), (True, 20)])
def test_some_images_go_through_the_cells_as_proof(network: tuple, check: bool | int, checked: int) -> None:
    captured, plan, images, labels = network
    seen: list[tuple[int, int]] = []
    report = simulate(
        captured, plan, Grain(), 4, images, labels, batch_size=5, progress=lambda *at: seen.append(at), check=check
    )
    everything = simulate(captured, plan, Grain(), 4, images, labels)
    assert report.checked_images == checked
    assert [layer.checked for layer in report.layers.values()] == [checked * 6 * 64, checked * 5]
    assert report.paths == ({} if checked == 20 else {"0": "float32", "3": "float32"})
    assert (
        report.accuracy
        == everything.accuracy
        == exact_metrics(captured, plan, Grain(), Labelled(InMemory(images, labels)))["accuracy"]
    )
    assert seen[-1] == (20, 20)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_an_adc_loses_keeps_every_image_on_the_cells(network: tuple) -> None:
    captured, plan, images, labels = network
    report = simulate(captured, plan, Grain(), 1, images, labels, check=3)
    assert report.paths == {"0": "cells", "3": "cells"}
    assert report.mismatches > 0
    assert report.accuracy == simulate(captured, plan, Grain(), 1, images, labels).accuracy
    assert exact_metrics(captured, plan, Grain(), Labelled(InMemory(images, labels)))["accuracy"] != report.accuracy


def test_mistakes(network: tuple) -> None:
    captured, plan, images, labels = network
    with pytest.raises(UserError, match="images to check must not be negative, not -1"):
        simulate(captured, plan, Grain(), 4, images, labels, check=-1)
    with pytest.raises(UserError, match="inputs exceed 4 bits"):
        exact_metrics(captured, plan, Grain(input_bits=4), Labelled(InMemory(images, labels)))["accuracy"]
    with pytest.raises(UserError, match="an OU has 4"):
        exact_metrics(captured, plan, Grain(ou_rows=4), Labelled(InMemory(images, labels)))["accuracy"]
    with pytest.raises(UserError, match="there are no inputs with labels"):
        exact_metrics(captured, plan, Grain(), Labelled(InMemory(images[:0], labels[:0])))
