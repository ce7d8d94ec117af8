"""Convolutions of one to three dimensions, grouped and depthwise: every method's integers, against torch's own."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prap_pim.crossbar import CrossbarLayer, CrossbarModel, ExactLayer, zero_input_rates
from prap_pim.crossbar.windows import Windows
from prap_pim.frontend import capture
from prap_pim.frontend.im2col import Rows
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import plan_weights
from prap_pim.ir.plan import NetworkPlan
from tests.convolutions import METHODS, Convolution, convolutions, decided, integer_convolution
from tests.reference.compress import slow_compressed_weights
from tests.reference.im2col import im2col
from tests.reference.zero_inputs import slow_zero_input_rates
from tests.strategies import examples

GRAINS = [Grain(), Grain(ou_columns=32), Grain(ou_rows=4, cell_bits=2), Grain(ou_rows=4, ou_columns=16, cell_bits=4)]


def fitting(method: str, case: Convolution, grain: Grain) -> bool:
    """Pattern pruning of 4 channels keeps ou_rows / 4 positions of a kernel, and ou_rows of 16 inputs of a 1x1."""
    positions = case.layer.kernel_positions
    return not (method in ("pattern", "prap") and 1 < positions < grain.ou_rows // 4)


@pytest.mark.parametrize("method", METHODS)
@examples(25)
@given(case=convolutions(), grain=st.sampled_from(GRAINS))
def test_every_method_computes_its_compressed_weights(method: str, case: Convolution, grain: Grain) -> None:
    if not fitting(method, case, grain):
        return
    layer = case.layer
    patterns, reused = decided(method, layer, grain)
    plan = plan_weights(layer.name, layer.matrix, patterns, reused).scaled(layer.filter_scale, layer.filter_bias)
    assert plan.convolution_groups == layer.groups
    unit = Fraction(1, 2**plan.fraction_bits)
    slow = slow_compressed_weights(layer.matrix, patterns, reused)
    assert [[int(value) * unit for value in row] for row in plan.weights()] == slow
    kept = np.array([[value != 0 for value in row] for row in slow])
    if METHODS[method][1].kind != "similar":  # there a reuser has its donor's shape
        assert not (kept & ~patterns.mask()).any()

    model = CrossbarModel(grain=grain, adc_bits=20)
    cells, exact = CrossbarLayer(layer, plan, InputGrid(1.0), model), ExactLayer(layer, plan, InputGrid(1.0), model)
    expected = integer_convolution(case, plan)
    quantized = case.x.to(torch.int8)
    integers = cells.crossbars.accumulate(Windows.of_batch(layer, quantized.numpy()))
    torch.testing.assert_close(torch.from_numpy(integers), expected.transpose(0, 1).flatten(1), rtol=0, atol=0)
    assert torch.equal(exact.product(quantized).movedim(-1, 1), expected.double())
    assert torch.equal(cells(case.x.double()), exact(case.x.double()))
    assert (cells.checked, cells.mismatches) == (expected.numel(), 0)
    assert exact(case.x.double()).shape == expected.shape


@examples(60)
@given(convolutions())
def test_im2col_is_the_convolution_s_inputs_in_three_ways(case: Convolution) -> None:
    """A kernel with a single 1 picks one input of each window: row r of ``im2col`` is the output of kernel r."""
    layer, x = case.layer, case.x
    convolve = {3: nn.functional.conv1d, 4: nn.functional.conv2d, 5: nn.functional.conv3d}[x.ndim]
    picking = torch.eye(layer.rows, dtype=torch.int64).reshape(layer.rows, layer.channels, *layer.weight.shape[2:])
    picked = convolve(x, picking, None, layer.stride, layer.padding, layer.dilation)
    expected = picked.movedim(1, -1).flatten(0, -2).numpy()
    integers = x.numpy().astype(np.int8)
    np.testing.assert_array_equal(im2col(layer, integers), expected)
    np.testing.assert_array_equal(Rows(layer, torch.from_numpy(integers)).transposed(), expected.T)
    windows = Windows.of_batch(layer, integers)
    np.testing.assert_array_equal(windows.inputs[windows.base[:, None] + windows.offset], expected)
    assert len(expected) == 2 * layer.map_positions


@examples(15)
@given(case=convolutions(), method=st.sampled_from(["dense", "orc", "similar"]))
def test_a_group_is_compressed_as_a_layer_by_itself(case: Convolution, method: str) -> None:
    """With OUs of one weight column, where groups never share a row group."""
    each = case.layer.filters // case.layer.groups
    weight = case.layer.weight.copy()
    weight.reshape(case.layer.filters, -1)[:, 0] = np.abs(weight).max()  # so that all have one int8 step, shared or not
    layer = replace(case.layer, weight=weight)
    whole = slow_compressed_weights(layer.matrix, *decided(method, layer, Grain()))
    for i, part in enumerate(layer.by_group()):
        assert (part.groups, part.rows, part.filters) == (1, layer.fan_in, each)
        nobody = method == "similar" and each == 1 < layer.groups  # whose pattern could be taken
        own = slow_compressed_weights(part.matrix, *decided("dense" if nobody else method, part, Grain()))
        assert whole[i * each : (i + 1) * each] == own


@pytest.mark.parametrize("method", ["dense", "prap"])
@examples(10)
@given(case=convolutions(), wide=st.booleans())
def test_a_file_and_the_rates_of_zero_inputs(
    method: str, case: Convolution, wide: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    grain = Grain(ou_columns=32 if wide else 8)
    if not fitting(method, case, grain):
        return
    x = (case.x * (case.x % 3 == 0)).float()
    captured = capture(nn.Sequential(case.module), x, "m")
    layer = captured.network.layers[0]
    patterns, reused = decided(method, layer, grain)
    plan = plan_weights("0", layer.matrix, patterns, reused).scaled(layer.filter_scale, layer.filter_bias)
    network = NetworkPlan("any", {"0": plan}, {"0": 1.0})
    path = Path(tmp_path_factory.mktemp("plan")) / "plan.safetensors"
    network.save(path)
    loaded = NetworkPlan.load(path)
    assert loaded.layers["0"].same_as(plan)
    assert loaded.digest() == network.digest()
    rates = zero_input_rates(captured, loaded, x, grain)["0"]
    rows = im2col(layer, x.numpy().astype(np.int8))
    np.testing.assert_array_equal(rates, slow_zero_input_rates(plan.rows, rows, grain))
