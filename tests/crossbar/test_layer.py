"""A crossbar layer against torch on the dequantised integers, and its count of mismatches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from prap_pim.common.errors import UserError
from prap_pim.crossbar import CrossbarLayer, CrossbarModel, Device
from prap_pim.frontend import capture
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan
from tests.crossbar.plans import dense_plan
from tests.strategies import examples, layer_plans


def _layer(module: nn.Module, example: Tensor) -> Layer:
    return capture(nn.Sequential(module), example, "m").network.layers[0]


def _crossbars(layer: Layer, step: float, adc_bits: int = 4, check: bool = True) -> CrossbarLayer:
    scale = np.linspace(-0.5, 2, layer.filters, dtype=np.float32)
    bias = np.linspace(-1, 1, layer.filters, dtype=np.float32)
    plan = dense_plan(layer.name, layer.matrix, scale, bias)
    return CrossbarLayer(layer, plan, InputGrid(step), CrossbarModel(adc_bits=adc_bits), check)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (1, 1, 0, 1),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        ((2, 3), (1, 2), (0, 2), 1),
        (3, 1, 2, 2),
        ((3, 1), (3, 2), 0, (2, 1)),
    ],
)
def test_convolution_equals_torch_on_the_dequantised_integers(
    kernel: int, stride: int, padding: int, dilation: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 9, 11)
    layer = _layer(nn.Conv2d(5, 7, kernel, stride, padding, dilation), x)
    crossbars = _crossbars(layer, step=0.02)
    real_x = torch.clamp(torch.round(x / 0.02), -128, 127).double() * 0.02
    real_weight = torch.from_numpy(crossbars.plan.real_weights()).reshape(layer.weight.shape)
    bias = torch.tensor(crossbars.plan.bias).double()
    expected = functional.conv2d(real_x, real_weight, bias, stride, padding, dilation)
    torch.testing.assert_close(crossbars(x.double()), expected, rtol=1e-12, atol=1e-12)
    assert crossbars(x).dtype == torch.float32
    assert (crossbars.checked, crossbars.mismatches) == (2 * expected.numel(), 0)


@pytest.mark.parametrize("shape", [(6, 20), (2, 3, 20)])
def test_linear_layer_equals_torch_on_the_dequantised_integers(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    crossbars = _crossbars(_layer(nn.Linear(20, 4), x), step=0.02)
    real_x = torch.clamp(torch.round(x / 0.02), -128, 127).double() * 0.02
    plan = crossbars.plan
    expected = functional.linear(real_x, torch.from_numpy(plan.real_weights()), torch.tensor(plan.bias).double())
    torch.testing.assert_close(crossbars(x.double()), expected, rtol=1e-12, atol=1e-12)


@examples(20)
@given(layer_plans(inputs=8, filters=5), st.integers(0, 1000))
def test_donors_gains_and_steps_equal_torch_on_the_real_weights(plan: LayerPlan, seed: int) -> None:
    random = np.random.default_rng(seed)
    plan = replace(
        plan, step=random.uniform(-1, 1, 5).astype(np.float32), bias=random.normal(size=5).astype(np.float32)
    )  # fmt: skip
    integers = torch.from_numpy(random.integers(-128, 128, (6, 8)))
    crossbars = CrossbarLayer(
        _layer(nn.Linear(8, 5), torch.zeros(1, 8)),
        plan,
        InputGrid(0.25),
        CrossbarModel(grain=Grain(ou_rows=4), adc_bits=3),
    )
    real_weight, bias = torch.from_numpy(plan.real_weights()), torch.tensor(plan.bias).double()
    expected = functional.linear(integers.double() * 0.25, real_weight, bias)
    torch.testing.assert_close(crossbars(integers.double() * 0.25), expected, rtol=1e-12, atol=1e-9)


def test_a_large_batch_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 2, 5, 5)
    crossbars = _crossbars(_layer(nn.Conv2d(2, 3, 3), x), step=0.02)
    whole = crossbars(x)
    monkeypatch.setattr("prap_pim.crossbar.layer._BYTES_AT_A_TIME", 900)  # 9 positions of 18 + 24 bytes: 2 images
    assert torch.equal(crossbars(x), whole)
    assert crossbars.checked == 2 * whole.numel()


def test_an_adc_that_is_too_small_shows_as_mismatches() -> None:
    torch.manual_seed(0)
    x = (torch.rand(4, 5, 9, 9) < 0.9).float()  # only the lowest input bit: often 8 rows are driven together
    conv = nn.Conv2d(5, 7, 3)
    with torch.no_grad():
        conv.weight[0] = 1  # rounded to 127: 7 bitlines whose every cell conducts
    layer = _layer(conv, x)
    found = [_crossbars(layer, 1.0, adc_bits) for adc_bits in (1, 2, 3, 4)]
    outputs = [crossbars(x).numel() for crossbars in found]
    assert [crossbars.checked for crossbars in found] == outputs
    assert found[0].mismatches > 0.9 * outputs[0]
    assert found[0].mismatches >= found[1].mismatches > found[2].mismatches > found[3].mismatches == 0
    unchecked = _crossbars(layer, 1.0, adc_bits=1, check=False)
    unchecked(x)
    assert (unchecked.checked, unchecked.mismatches) == (0, 0)


def test_a_plan_of_another_layer_is_refused() -> None:
    layer = _layer(nn.Linear(20, 4), torch.zeros(1, 20))
    plan = dense_plan("0", np.ones((4, 19), np.float32))
    with pytest.raises(UserError, match="layer 0 has 4 filters of 20 inputs, its plan 4 of 19"):
        CrossbarLayer(layer, plan, InputGrid(1.0), CrossbarModel(adc_bits=4))


@pytest.mark.parametrize(
    ("module", "shape"), [(nn.Conv2d(2, 3, 3, padding=1), (6, 2, 5, 5)), (nn.Linear(8, 3), (6, 4, 8))]
)
@pytest.mark.parametrize("at_a_time", [1 << 25, 900])
def test_read_noise_of_an_input_depends_on_its_number_and_the_call_alone(
    module: nn.Module, shape: tuple[int, ...], at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that a network calls twice, on batches of any size in any order."""
    torch.manual_seed(0)
    x, again = torch.randn(shape), torch.randn(shape)
    layer = _layer(module, x)
    plan = dense_plan(layer.name, layer.matrix)

    def made() -> CrossbarLayer:
        model = CrossbarModel(adc_bits=4, device=Device(read_noise=0.3))
        return CrossbarLayer(layer, plan, InputGrid(0.02), model, check=False)

    whole = made()
    first, second = whole(x), whole(again)
    assert (whole(x) != first).any()  # another read
    monkeypatch.setattr("prap_pim.crossbar.layer._BYTES_AT_A_TIME", at_a_time)
    parts = made()
    for place in (slice(4, 6), slice(0, 1), slice(1, 4)):
        parts.begin(place.start, check=False)
        torch.testing.assert_close(parts(x[place]), first[place], rtol=0, atol=0)
        torch.testing.assert_close(parts(again[place]), second[place], rtol=0, atol=0)
