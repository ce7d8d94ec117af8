"""Filters that share nothing: which weights go, against every subset, and the plan of those that stay."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prap_pim.frontend import capture
from prap_pim.frontend.quantize import QuantizeConfig
from prap_pim.ir.network import Layer
from prap_pim.methods.calibrate.depthwise import Depthwise
from prap_pim.methods.calibrate.lowbit import few_weights
from prap_pim.methods.calibrate.problem import LayerInputs
from tests.methods.calibrate.networks import GRAIN, compress, plan_ratio
from tests.reference.calibrate import slow_covariance, slow_kept
from tests.reference.im2col import im2col
from tests.strategies import examples


def layer_of(filters: int, kernel: tuple[int, int], seed: int = 0) -> Layer:
    weight = np.random.default_rng(seed).normal(size=(filters, 1, *kernel)).astype(np.float32)
    one, shape = np.ones(filters, np.float32), (filters, 7, 7)
    return Layer("depthwise", "conv", weight, one, 0 * one, shape, shape, (), groups=filters, padding=(1, 1))


def problem_of(layer: Layer, seed: int) -> Depthwise:
    """Of each filter its own inputs, which depend on one another."""
    rng, (filters, taps) = np.random.default_rng(seed), layer.matrix.shape
    x = rng.normal(size=(filters, 40, taps)) @ rng.normal(size=(filters, taps, taps))
    hessian = x.transpose(0, 2, 1) @ x / 40 + 0.01 * np.eye(taps)
    mean = np.zeros((filters, taps))
    return Depthwise(layer, layer.matrix.astype(np.float64), hessian, rng.uniform(0.1, 2, filters), mean, mean)


@given(st.integers(1, 5), st.sampled_from([(3, 3), (2, 2), (1, 3)]), st.integers(0, 2**32))
@examples(30)
def test_the_one_that_is_dropped_is_the_best_of_all(filters: int, kernel: tuple[int, int], seed: int):
    problem = problem_of(layer_of(filters, kernel, seed), seed)
    taps = kernel[0] * kernel[1]
    weights, kept = problem.kept(taps - 1)
    assert (kept.sum(1) == taps - 1).all()
    total = none = 0.0
    for o in range(filters):
        wanted, hessian = problem.target[o], problem.hessian[o]
        tried = [slow_kept(wanted, hessian, subset) for subset in combinations(range(taps), taps - 1)]
        best, cost = min(tried, key=lambda each: each[1])
        np.testing.assert_allclose(weights[o], best, atol=1e-9)
        assert np.array_equal(kept[o], best != 0)
        total += problem.weight[o] * cost
        none += problem.weight[o] * float(wanted @ hessian @ wanted)
    assert problem.error(weights) == pytest.approx(total / none, rel=1e-6)


@given(st.integers(1, 8), st.integers(0, 2**32))
@examples(20)
def test_what_is_kept_is_solved_anew_however_many_go(count: int, seed: int):
    """Greed: not the best subset, but of those that drop one more each time."""
    problem = problem_of(layer_of(3, (3, 3), seed), seed)
    weights, kept = problem.kept(count)
    before = problem.kept(count + 1)[1]
    assert not (kept & ~before).any()
    for o in range(3):
        again, cost = slow_kept(problem.target[o], problem.hessian[o], np.flatnonzero(kept[o]))
        np.testing.assert_allclose(weights[o], again, atol=1e-8)
        had = np.flatnonzero(before[o])
        every = (slow_kept(problem.target[o], problem.hessian[o], [t for t in had if t != out])[1] for out in had)
        assert cost == pytest.approx(min(every), rel=1e-6)


@given(st.lists(st.integers(1, 9), max_size=4), st.integers(0, 2**32))
@examples(20)
def test_errors_are_those_of_what_is_kept(counts: list[int], seed: int):
    problem = problem_of(layer_of(3, (3, 3), seed), seed)
    wanted = [problem.error(problem.kept(count)[0]) for count in counts]
    assert problem.errors(counts) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_all_that_is_kept_is_the_target():
    problem = problem_of(layer_of(4, (3, 3)), 0)
    weights, kept = problem.kept(9)
    assert kept.all()
    assert np.array_equal(weights, problem.target)


@pytest.mark.parametrize(("kernel", "count"), [((3, 3), 8), ((5, 5), 16), ((5, 5), 8), ((3, 3), 5)])
def test_its_plan_has_the_weights_as_int8(kernel: tuple[int, int], count: int):
    """Each filter's own patterns on its own rows, each with its own step, and as many OUs as weights fill."""
    layer = layer_of(6, kernel)
    layer.weight[:] *= np.array([1, 1000, 1, 1e-3, 1, 0], np.float32).reshape(-1, 1, 1, 1)
    problem = problem_of(layer, 1)
    weights, _ = problem.kept(count)
    plan = few_weights(problem, count, GRAIN)
    assert (plan.filters, plan.fan_in, plan.groups) == (6, kernel[0] * kernel[1], 6 * -(-count // 8))
    assert plan.donors_per_group.tolist() == [1] * plan.groups
    steps = np.abs(weights).max(1) / 127
    np.testing.assert_allclose(plan.step, np.where(steps > 0, steps, 1), rtol=1e-6)
    assert (np.abs(plan.real_weights() - weights) <= 0.5001 * steps[:, None]).all()
    assert (np.count_nonzero(plan.real_weights(), axis=1) <= count).all()


@pytest.mark.parametrize(("bits", "count"), [(4, 8), (2, 5), (3, 1)])
def test_fewer_bits_are_rounded_to_make_good_one_anothers_errors(bits: int, count: int):
    """Nearer than each weight rounded by itself, with its best step of a thousand."""
    grain, problem = replace(GRAIN, weight_bits=bits), problem_of(layer_of(6, (3, 3)), 1)
    plan, (weights, kept) = few_weights(problem, count, grain), problem.kept(count)
    largest = 2 ** (bits - 1) - 1
    assert plan.weight_bits == bits
    assert np.abs(plan.donors).max() <= largest
    assert not plan.real_weights()[~kept].any()
    best = np.full(6, np.inf)
    for scale in np.linspace(0.001, 1, 1000):
        steps = scale * np.abs(weights).max(1, keepdims=True) / largest
        error = np.clip(np.rint(weights / steps), -largest, largest) * steps - problem.target
        best = np.minimum(best, np.einsum("ot,otu,ou->o", error, problem.hessian, error))
    error = plan.real_weights() - problem.target
    found = np.einsum("ot,otu,ou->o", error, problem.hessian, error)
    assert found.sum() < 1.02 * best.sum()
    assert problem.error(plan.real_weights()) > problem.errors([count])[0]


def test_the_metric_is_that_of_a_loop_filter_by_filter():
    """Of int8 inputs with a zero point, padded with it: the covariance of each filter's own im2col rows."""
    layer = layer_of(2, (3, 3))
    x = torch.rand(4, 2, 7, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 3.0]).reshape(1, 2, 1, 1)
    given = LayerInputs.of(layer, [x], None, [], QuantizeConfig(input_percentile=100))
    assert given.grid.zero == -128
    problem = given.depthwise(10**6, [0], 0.0, 0.01)
    rows = im2col(layer, given.now[0].numpy(), fill=-128).reshape(-1, 2, 9)
    for o in range(2):
        covariance = slow_covariance(rows[:, o], rows[:, o])
        damped = covariance + max(0.01, 0.1 * 9 / len(rows)) * np.trace(covariance) / 9 * np.eye(9)
        np.testing.assert_allclose(problem.hessian[o], damped, rtol=1e-9, atol=1e-6)
    mean = (rows.astype(float).mean(0) + 128) * given.grid.step
    np.testing.assert_allclose(problem.mean, mean, rtol=1e-9)


class Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.point(torch.relu(self.depthwise(torch.relu(self.first(x))))).mean((2, 3))


def test_a_network_with_depthwise_layers_drops_their_weights():
    x = torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    captured = capture(Separable().eval(), x[:1], "separable")
    found = compress(captured, x, compute_ratio=0.35)
    assert plan_ratio(captured, found) <= 0.35
    depthwise = found.layers[1]
    assert depthwise.setting is not None
    assert depthwise.setting.positions == 8
    assert depthwise.sensitivity > 0
    assert (np.count_nonzero(found.plans["depthwise"].real_weights(), axis=1) <= 8).all()
