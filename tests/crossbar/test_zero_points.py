"""Layers whose int8 inputs have a zero point, cell by cell and by the exact product, against plain integers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from prap_pim.crossbar import CrossbarLayer, CrossbarModel, ExactLayer
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import plan_weights
from prap_pim.ir.plan import LayerPlan
from tests.convolutions import Convolution, convolutions, decided, integer_convolution
from tests.crossbar.test_convolutions import fitting
from tests.crossbar.test_exact import linear_for
from tests.strategies import examples, layer_plans

ENCODINGS = [("two's complement", 1), ("offset", 1), ("offset", 2), ("differential", 1), ("differential", 2)]
STEP = 0.25  # and steps of filters that are powers of two: then nothing rounds


def with_steps(plan: LayerPlan, seed: int) -> LayerPlan:
    """Steps that are powers of two, and biases that are multiples of what the least of them gives."""
    random = np.random.default_rng(seed)
    step = np.ldexp(random.choice([-1.0, 1.0], plan.filters), random.integers(-3, 4, plan.filters))
    bias = random.integers(-1000, 1000, plan.filters) / 8
    return replace(plan, step=step.astype(np.float32), bias=bias.astype(np.float32))


def expected(plan: LayerPlan, products: torch.Tensor, axis: int) -> torch.Tensor:
    """The real outputs of what integer weights and inputs without their zero give, float64."""
    scale = torch.from_numpy(plan.step.astype(np.float64)) * STEP * 2.0**-plan.fraction_bits
    whole = products.movedim(axis, -1).double() * scale + torch.from_numpy(plan.bias.astype(np.float64))
    return whole.movedim(-1, axis)


@pytest.mark.parametrize(("encoding", "cell_bits"), ENCODINGS)
@examples(15)
@given(case=convolutions(), method=st.sampled_from(["dense", "orc", "prap", "similar"]), zero=st.integers(-128, 127))
def test_convolutions_of_every_kind(encoding: str, cell_bits: int, case: Convolution, method: str, zero: int) -> None:
    """Padded, strided, dilated, grouped. Their padding is a real 0, as torch's of the integers less the zero is."""
    grain = Grain(ou_rows=8 // cell_bits, cell_bits=cell_bits)
    if not fitting(method, case, grain):
        return
    layer = case.layer
    made = plan_weights(layer.name, layer.matrix, *decided(method, layer, grain))
    if encoding == "differential":  # which has no code for the most negative weight
        made = replace(made, donors=np.maximum(made.donors, -127))
    plan = with_steps(made, zero + 128)
    model = CrossbarModel(grain=grain, adc_bits=20, encoding=encoding)
    of_zero = replace(case, x=case.x - zero)
    wanted = expected(plan, integer_convolution(of_zero, plan), 1)
    real, grid = of_zero.x.double() * STEP, InputGrid(STEP, zero)
    cells, exact = CrossbarLayer(layer, plan, grid, model), ExactLayer(layer, plan, grid, model)
    assert torch.equal(cells(real), wanted)
    assert torch.equal(exact(real), wanted)
    assert (cells.checked, cells.mismatches) == (wanted.numel(), 0)


@pytest.mark.parametrize(("encoding", "cell_bits"), ENCODINGS)
@examples(15)
@given(plan=layer_plans(inputs=9, filters=5), zero=st.integers(-128, 127), seed=st.integers(0, 99))
def test_linear_layers_with_any_gains(encoding: str, cell_bits: int, plan: LayerPlan, zero: int, seed: int) -> None:
    if encoding == "differential":
        plan = replace(plan, donors=np.maximum(plan.donors, -plan.largest_weight).astype(np.int8))
    plan, layer = with_steps(plan, seed), linear_for(plan)
    integers = torch.from_numpy(np.random.default_rng(seed).integers(-128, 128, (3, 4, 9)))
    weights = torch.from_numpy(plan.weights().astype(np.int64))
    wanted = expected(plan, functional.linear(integers - zero, weights), -1)
    model = CrossbarModel(grain=Grain(ou_rows=4, cell_bits=cell_bits), adc_bits=20, encoding=encoding)
    real, grid = (integers - zero).double() * STEP, InputGrid(STEP, zero)
    cells, exact = CrossbarLayer(layer, plan, grid, model), ExactLayer(layer, plan, grid, model)
    assert torch.equal(cells(real), wanted)
    assert torch.equal(exact(real), wanted)
    assert (cells.checked, cells.mismatches) == (wanted.numel(), 0)


@pytest.mark.parametrize("zero", [-128, -100, 0, 127])
def test_what_int8_cannot_reach_is_clipped_around_the_zero(zero: int) -> None:
    """A layer that passes its input on: from -128 - zero to 127 - zero steps, halves to even."""
    eye = np.eye(1, dtype=np.int8)
    start = np.array([0, 1])
    index, exponent = np.zeros(1, np.int32), np.zeros(1, np.int8)
    one = np.ones(1, np.float32)
    plan = LayerPlan("layer", 1, index[None], eye, start, start, index, index, exponent + 1, exponent, one, 0 * one)
    layer, grid, model = linear_for(plan), InputGrid(STEP, zero), CrossbarModel(grain=Grain(ou_rows=1), adc_bits=4)
    given_ = torch.tensor([-1e9, -300.0, -1.5, -0.5, 0.0, 0.5, 1.5, 2.4, 300.0, 1e9], dtype=torch.float64)[:, None]
    steps = [min(127 - zero, max(-128 - zero, round(value))) for value in given_.flatten().tolist()]
    wanted = torch.tensor(steps, dtype=torch.float64)[:, None] * STEP
    for kind in (CrossbarLayer, ExactLayer):
        assert torch.equal(kind(layer, plan, grid, model)(given_ * STEP), wanted)
