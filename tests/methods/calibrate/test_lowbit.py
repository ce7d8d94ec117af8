"""Weights of few bits: rounded as the paper's rule says, counted by hand, within the budget, the same on crossbars."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prap_pim import compress as compress_model
from prap_pim import estimate
from prap_pim.common.errors import UserError
from prap_pim.cost.activity import activity
from prap_pim.crossbar.array import crossbar_matmul, integer_matmul
from prap_pim.frontend import Captured, capture
from prap_pim.hardware.chip import load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerWeights
from prap_pim.mapping import map_layer
from prap_pim.mapping.steps import dense_ous, ous
from prap_pim.methods.calibrate import lowbit
from prap_pim.methods.calibrate.config import CalibratedReuse, LowBits
from prap_pim.methods.calibrate.hessian import upper_factor
from prap_pim.methods.calibrate.lowbit import Rounding, compensated, expected, low_bit
from prap_pim.methods.calibrate.network import check_budget
from prap_pim.methods.calibrate.problem import Part, Parts
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.prune import dense_weights
from tests.methods.calibrate.networks import GRAIN, compress, images, plan_ratio
from tests.methods.calibrate.problems import normal_layer, odd_layers, problem_of
from tests.methods.calibrate.test_depthwise import layer_of as depthwise_layer
from tests.methods.calibrate.test_depthwise import problem_of as depthwise_problem
from tests.reference.calibrate import slow_cost, slow_gptq
from tests.strategies import examples

BITS = st.integers(2, 8)


def parts_of(layer: Layer, seed: int = 0) -> Parts:
    """A layer of one convolution group, its inputs of mean 0."""
    mean = np.zeros(layer.rows)
    return Parts(layer, (Part(layer, problem_of(layer, seed), mean, mean),))


def filters_of(filters: int, rows: int, seed: int, own: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and a hessian for all or for each, of inputs that depend on one another."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(filters if own else 1, 4 * rows, rows)) @ rng.normal(size=(rows, rows))
    hessian = x.transpose(0, 2, 1) @ x / (4 * rows) + 0.01 * np.eye(rows)
    return rng.normal(size=(filters, rows)), hessian if own else hessian[0]


@pytest.mark.parametrize("own", [False, True])
@examples(30)
@given(st.integers(1, 4), st.integers(1, 9), BITS, st.integers(1, 9), st.integers(0, 2**32))
def test_weights_are_rounded_by_the_rule_of_the_paper(
    own: bool, filters: int, rows: int, bits: int, together: int, seed: int
) -> None:
    target, hessian = filters_of(filters, rows, seed, own)
    largest, steps = 2 ** (bits - 1) - 1, np.random.default_rng(seed).uniform(0.01, 1, filters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowbit, "_TOGETHER", together)
        whole = compensated(target.T.copy(), upper_factor(hessian), steps, largest)
    slow = [
        slow_gptq(row, hessian[o] if own else hessian, step, largest)
        for o, (row, step) in enumerate(zip(target, steps, strict=True))
    ]
    np.testing.assert_array_equal(whole.T, slow)


@pytest.mark.parametrize("own", [False, True])
@examples(20)
@given(st.integers(1, 5), st.integers(1, 12), BITS, st.integers(1, 5), st.integers(0, 2**32))
def test_no_filter_is_worse_than_with_the_widest_step(
    own: bool, filters: int, rows: int, bits: int, at_a_time: int, seed: int
) -> None:
    target, hessian = filters_of(filters, rows, seed, own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowbit, "_FILTERS_AT_A_TIME", at_a_time)
        rounding = Rounding(target, hessian)
        whole, steps, cost = rounding.in_bits(bits)
    largest = 2 ** (bits - 1) - 1
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole).max() <= largest
    for o in range(filters):
        mine = hessian[o] if own else hessian
        each = slow_cost((whole[o] * steps[o] - target[o])[None], mine, np.ones(1))
        assert cost[o] == pytest.approx(each, rel=1e-6, abs=1e-12)
        assert rounding.energy[o] == pytest.approx(slow_cost(target[o][None], mine, np.ones(1)), rel=1e-6)
        order = np.argsort(-np.diag(mine), kind="stable")
        widest = np.abs(target[o]).max() / largest
        plain = slow_gptq(target[o][order], mine[np.ix_(order, order)], widest, largest) * widest
        most = slow_cost((plain - target[o][order])[None], mine[np.ix_(order, order)], np.ones(1))
        assert each <= most * (1 + 1e-9) + 1e-20


def test_compensation_and_steps_save_most_of_the_error() -> None:
    """Of 4 bits: rounding to the nearest, with the largest weight as the largest integer, loses twice as much."""
    target, hessian = filters_of(40, 60, 1)
    _, _, cost = Rounding(target, hessian).in_bits(4)
    widest = np.abs(target).max(1, keepdims=True) / 7
    nearest = slow_cost(np.rint(target / widest) * widest - target, hessian, np.ones(40))
    assert cost.sum() < nearest / 2


@examples(20)
@given(odd_layers(), BITS, st.integers(0, 2**32))
def test_a_plan_holds_the_integers_and_the_crossbars_compute_them(layer: Layer, bits: int, seed: int) -> None:
    problem = parts_of(layer, seed)
    plan = low_bit(problem, bits, GRAIN)
    assert plan.weight_bits == bits
    assert np.abs(plan.donors).max() <= 2 ** (bits - 1) - 1
    whole, steps, cost = Rounding(problem.target, problem.groups[0].problem.metric.hessian).in_bits(bits)
    np.testing.assert_array_equal(plan.weights(), whole)
    np.testing.assert_array_equal(plan.step, steps.astype(np.float32))
    relative = cost @ problem.groups[0].problem.weight / problem.energy
    assert problem.error(plan.real_weights()) == pytest.approx(relative, rel=1e-3, abs=1e-9)
    assert ous(plan, GRAIN) == GRAIN.of_bits(bits).row_groups(layer.rows) * -(-layer.filters * bits // 8)
    x = np.random.default_rng(seed).integers(-128, 128, (3, layer.rows)).astype(np.int8)
    summed = crossbar_matmul(plan.alone(), x, GRAIN, adc_bits=4)
    np.testing.assert_array_equal(summed, integer_matmul(plan.alone(), x))
    np.testing.assert_array_equal(summed, x.astype(np.int64) @ whole.T.astype(np.int64))


@pytest.mark.parametrize(
    ("bits", "cells", "linear", "depthwise"),
    [
        (8, 1, 16, 8),  # 2 row groups x 8 patterns, an OU each; 4 filters x 9 rows: 8 and 1
        (4, 1, 8, 5),  # two patterns an OU; 36 rows in stretches of 8 of at most two filters
        (6, 1, 12, 8),  # 48 columns a row group; no two patterns in an OU
        (3, 1, 6, 5),
        (2, 1, 4, 5),  # four patterns an OU, stretches of 8 of 36 rows
        (4, 2, 4, 5),
        (3, 2, 4, 5),  # as many cells as 4 bits
    ],
)
def test_ous_by_hand(bits: int, cells: int, linear: int, depthwise: int) -> None:
    grain = Grain(cell_bits=cells)
    plan = low_bit(parts_of(normal_layer(8, 16, ())), bits, grain)
    assert ous(plan, grain) == linear
    layer = depthwise_layer(4, (3, 3))
    plan = low_bit(depthwise_problem(layer, 0), bits, grain)
    assert ous(plan, grain) == depthwise
    assert plan.convolution_groups == 4


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_nothing_needs_an_index(bits: int) -> None:
    chip = load_chip("isaac-32nm")
    shared, depthwise = normal_layer(10, 5, (3, 3)), depthwise_layer(6, (3, 3))
    for layer, problem in ((shared, parts_of(shared)), (depthwise, depthwise_problem(depthwise, 0))):
        plan = low_bit(problem, bits, GRAIN)
        counted = activity(map_layer(plan.alone(), chip), layer, chip)
        dense = activity(map_layer(dense_weights(layer, GRAIN).alone(), chip), layer, chip)
        assert counted.index_bits == dense.index_bits == 0
        assert counted.shifted_updates == 0
        assert counted.ou_steps < dense.ou_steps or bits == 8


def test_four_bits_take_half_of_everything_that_is_read() -> None:
    chip = load_chip("isaac-32nm")
    layer = normal_layer(16, 8, (3, 3))
    plans = [low_bit(parts_of(layer), bits, GRAIN) for bits in (8, 4)]
    eight, four = (activity(map_layer(plan.alone(), chip), layer, chip) for plan in plans)
    for what in ("ou_steps", "conversions", "cell_reads", "row_drives"):
        assert 2 * getattr(four, what) == getattr(eight, what)
    assert four.partial_sum_updates == eight.partial_sum_updates


def test_eight_bits_lose_next_to_nothing_and_each_bit_less_loses_more() -> None:
    problem = parts_of(normal_layer(20, 12, (3, 3)))
    errors = [problem.error(low_bit(problem, bits, GRAIN).real_weights()) for bits in (8, 6, 4, 3, 2)]
    assert errors[0] < 1e-4
    assert all(2 * before < after for before, after in pairwise(errors))
    assert errors == pytest.approx(expected(problem, (8, 6, 4, 3, 2)), rel=0.01)  # looks at all of so few filters
    assert errors[0] <= problem.error(dense_weights(problem.layer, GRAIN).real_weights())


def test_what_is_expected_of_some_filters_is_near() -> None:
    problem = parts_of(normal_layer(400, 30, ()))
    error = problem.error(low_bit(problem, 3, GRAIN).real_weights())
    assert expected(problem, (3,)) == [pytest.approx(error, rel=0.2)]
    depthwise = depthwise_problem(depthwise_layer(300, (3, 3)), 1)
    error = depthwise.error(low_bit(depthwise, 3, GRAIN).real_weights())
    assert expected(depthwise, (3,)) == [pytest.approx(error, rel=0.2)]


@pytest.mark.parametrize("network", ["odd", "normed"])
def test_mixed_bits_keep_the_budget(network: str, request: pytest.FixtureRequest) -> None:
    captured, errors = request.getfixturevalue(network), []
    for ratio in (0.9, 0.6, 0.5, 0.38):
        found = compress(captured, images(), kind="lowbit", compute_ratio=ratio)
        assert 0.85 * ratio < plan_ratio(captured, found) <= ratio
        for plan in found.plans.values():
            assert plan.weight_bits in (8, 6, 4, 3, 2)
            np.testing.assert_array_equal(plan.use_exponent, 0)
        errors.append(max(layer.error for layer in found.layers))
    assert all(before < 1.1 * after for before, after in pairwise(errors))
    assert errors[-1] > 2 * errors[0]
    bits = {plan.weight_bits for plan in compress(captured, images(), kind="lowbit", compute_ratio=0.4).plans.values()}
    assert len(bits) > 1


def test_one_number_of_bits_is_everybodys(normed: Captured) -> None:
    found = compress(normed, images(), kind="lowbit", bits=[5])
    assert [plan.weight_bits for plan in found.plans.values()] == [5] * len(normed.network.layers)
    for layer in normed.network.layers:
        own = [(f, f + g * layer.filters) for g in range(-(-layer.rows // 8)) for f in range(layer.filters)]
        assert list(zip(found.plans[layer.name].use_filter, found.plans[layer.name].use_donor, strict=True)) == own
        assert not found.plans[layer.name].use_exponent.any()
        assert ous(found.plans[layer.name], GRAIN) == -(-layer.rows // 8) * -(-layer.filters * 5 // 8)
    whole = compress(normed, images(), kind="lowbit", bits=[5], whole=("conv2",))
    assert whole.plans["conv3"].weight_bits == 5
    assert whole.plans.get("conv2", found.plans["conv2"]).weight_bits in (5, 8)
    assert {layer.name: layer.setting for layer in whole.layers}["conv2"] is None


def test_eight_bits_are_the_dense_network(normed: Captured) -> None:
    assert compress(normed, images(), kind="lowbit", bits=[8]).plans == {}


def test_a_mean_that_is_taken_back_makes_no_layer_sensitive() -> None:
    """One product whose inputs lie far from 0: what its output diverges by is the error about the mean."""
    model, generator = torch.nn.Sequential(torch.nn.Linear(24, 8)).eval(), torch.Generator().manual_seed(0)
    x = 30 + torch.randn(200, 24, generator=generator)
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(8, 24, generator=generator))
    found = compress(capture(model, x[:1], "far"), x, kind="lowbit", bits=[3], damping=1e-6)
    (layer,) = found.layers
    assert 0.001 < layer.error < 0.1
    assert layer.sensitivity == pytest.approx(layer.error, rel=0.5)


def test_a_limit_of_changes_is_kept(normed: Captured) -> None:
    found = compress(normed, images(60), kind="lowbit", max_drop=0.1)
    assert found.drop is not None
    assert found.drop <= 0.1
    assert plan_ratio(normed, found) < 0.8


def test_a_ratio_out_of_reach_is_one_line(normed: Captured) -> None:
    with pytest.raises(UserError, match=r"0\.2 is not possible here: with as few bits as may be it is 0\.2"):
        check_budget(normed.network, LowBits(compute_ratio=0.2), load_chip("isaac-32nm"), ())
    with pytest.raises(UserError, match="with as few bits as may be in the layers that are compressed it is 0"):
        check_budget(normed.network, LowBits(compute_ratio=0.3), load_chip("isaac-32nm"), ("conv3",))
    check_budget(normed.network, LowBits(compute_ratio=0.3), load_chip("isaac-32nm"), ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give compute_ratio (--ratio), budget (--budget), max_drop (--max-drop), or one number of bits alone"),
        ({"compute_ratio": 0.5, "max_drop": 0.1}, "give compute_ratio"),
        ({"bits": []}, "bits: "),
        ({"bits": [9]}, "bits.0: must be at most 8, not 9"),
        ({"bits": [1]}, "bits.0: must be at least 2, not 1"),
        ({"compute_ratio": 0.5, "uses": 2}, "unknown key 'uses'"),
        ({"compute_ratio": 0.5, "shapes": [4]}, "unknown key 'shapes'"),
    ],
)
def test_a_mistake_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        LowBits(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_has_one_budget_and_prunes_nothing() -> None:
    for more, message in (
        ({"prune": {"kind": "pattern"}}, "lowbit prunes nothing: leave prune out"),
        ({"exceptions": [{"layers": "a", "prune": {"kind": "pattern"}}]}, "lowbit has one budget"),
    ):
        with pytest.raises(UserError, match=message):
            MethodConfig.checked({"name": "m", "reuse": {"kind": "lowbit", "bits": [4]}, **more}, "f.yaml")
    assert not CalibratedReuse(compute_ratio=0.5).own


def test_the_library_compresses_and_costs_it() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8)).eval()
    x = torch.randn(80, 32, generator=torch.Generator().manual_seed(0))
    found = compress_model(model, x, "lowbit", bits=[4])
    assert found.compute_ratio == 0.5
    assert "16, 4 bits" in found.summary()
    cost, dense = estimate(found), estimate(model, x[:1])
    assert sum(layer.ou_steps for layer in cost.layers) * 2 == sum(layer.ou_steps for layer in dense.layers)
    weight = found.model[0].weight.detach().numpy()
    for row, step in zip(weight, found.plan.layers["0"].step, strict=True):
        np.testing.assert_allclose(np.rint(row / step) * step, row, atol=1e-6)
        assert np.abs(np.rint(row / step)).max() <= 7


def test_plans_of_layers_left_alone_stay(odd: Captured) -> None:
    plan: LayerWeights = compress(odd, images(), kind="lowbit", bits=[3]).plans["head"]
    assert dense_ous(odd.network.layers[-1], GRAIN) == 3  # 7 inputs, 3 filters
    assert ous(plan, GRAIN) == 2  # 9 columns
