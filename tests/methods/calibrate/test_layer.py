"""One layer: structure, errors against the slow rule, the best donors and the best shapes by brute force."""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan
from prap_pim.methods.calibrate import layer as solving
from prap_pim.methods.calibrate.layer import (
    Problem,
    Setting,
    approximate,
    blocks,
    choose_shapes,
    donors_together,
    expected,
    most_ous,
    shapes_fit,
)
from tests.layers import layer_of, weights
from tests.methods.calibrate.problems import GRAIN, cost, normal_layer, odd_layers, ous, problem_of, relative, solve
from tests.reference.calibrate import slow_best_donors, slow_kept, slow_shapes, slow_weight
from tests.strategies import examples

INPUTS = st.sampled_from(["correlated", "few", "dead", "independent", "zero"])
SEEDS = st.integers(0, 2**32)


def weights_with(plan: LayerPlan, donors: np.ndarray) -> np.ndarray:
    """Real weights with other stored numbers, each filter's in its own step."""
    return np.array(slow_weight(plan, donors.tolist())) * plan.step.astype(np.float64)[:, None]


def plain_steps(problem: Problem) -> np.ndarray:
    """The largest weight of each filter is 127 of its steps."""
    largest = np.abs(problem.target).max(1)
    return np.where(largest > 0, largest / 127, 1)


def without_factors(problem: Problem, plan: LayerPlan) -> LayerPlan:
    """The plan as it is before each filter is multiplied by what suits it best."""
    return replace(plan, step=plain_steps(problem).astype(np.float32))


def rows_of_blocks(layer: Layer, positions: int | None, grain: Grain = GRAIN) -> list[np.ndarray]:
    return [np.arange(layer.rows)[rows] for rows in blocks(layer, positions, grain)]


@given(st.one_of(odd_layers(), weights().map(layer_of)), INPUTS, st.integers(1, 10), SEEDS)
@examples(40)
def test_any_layer_becomes_a_plan_of_so_many_donors(layer: Layer, inputs: str, donors: int, seed: int):
    assume(layer.rows < 60)
    plan = solve(layer, problem_of(layer, seed, inputs=inputs), donors, passes=1)  # a plan that exists is sound
    assert (plan.name, plan.inputs, plan.filters) == (layer.name, layer.rows, layer.filters)
    assert (plan.donors_per_group <= donors).all()
    groups = {tuple(row[row >= 0]) for row in plan.rows}  # those that hold nothing are left out
    assert groups <= {tuple(range(first, min(first + 8, layer.rows))) for first in range(0, layer.rows, 8)}
    assert len(groups) == plan.groups
    assert (np.abs(plan.donors.astype(int)) <= 127).all()
    assert plan.donors.any(axis=1).all()  # no pattern of zeros is stored
    assert (plan.step > 0).all()
    assert not plan.bias.any()


@given(st.one_of(odd_layers(), weights().map(layer_of)), INPUTS, st.integers(1, 10), SEEDS)
@examples(40)
def test_no_other_step_of_a_filter_would_be_better(layer: Layer, inputs: str, donors: int, seed: int):
    assume(layer.rows < 60)
    problem = problem_of(layer, seed, inputs=inputs)
    plan = solve(layer, problem, donors, passes=1)
    found, plain, hessian = plan.real_weights(), plain_steps(problem), problem.metric.hessian
    for filter_, (own, wanted) in enumerate(zip(found, problem.target, strict=True)):
        along, square = own @ hessian @ wanted, own @ hessian @ own
        if along > 0:
            assert along == pytest.approx(square, rel=1e-5)  # the error is orthogonal to what is there
        else:  # nothing, or no factor above 0 that is better than nothing
            assert plan.step[filter_] == np.float32(plain[filter_])


def test_filters_of_other_sizes_share_donors():
    """What differs by a factor that is no power of two is the same pattern: one donor is enough."""
    kernel = np.random.default_rng(0).integers(-60, 61, (1, 2, 3, 3))
    kernel[0, 0, 0, 0] = 127
    sizes = np.array([1, 0.3, 1000 / 7, 1e-4])
    layer = layer_of((kernel * sizes[:, None, None, None]).astype(np.float32))
    plan = solve(layer, problem_of(layer, 0), 1)
    assert plan.donors_per_group.tolist() == [1, 1, 1]
    np.testing.assert_allclose(plan.real_weights(), layer.matrix, rtol=1e-6)
    np.testing.assert_allclose(plan.step, sizes, rtol=1e-6)


@pytest.mark.parametrize("filters", [1, 5])
def test_a_layer_of_one_row(filters: int):
    layer = normal_layer(filters, 1, (1, 1))
    plan = solve(layer, problem_of(layer, 0), 8)
    np.testing.assert_allclose(plan.real_weights(), layer.matrix, rtol=0.5 / 64)  # each fills the int8 range


@given(odd_layers(), INPUTS, st.integers(1, 4), SEEDS)
@examples(30)
def test_the_error_is_that_of_the_plans_integers(layer: Layer, inputs: str, donors: int, seed: int):
    problem = problem_of(layer, seed, inputs=inputs)
    plan = solve(layer, problem, donors)
    slow = weights_with(plan, plan.donors.astype(float))
    np.testing.assert_allclose(plan.real_weights(), slow, rtol=1e-12)
    assert problem.error(plan.real_weights()) == pytest.approx(relative(problem, plan), rel=1e-9)
    assert problem.error(plan.real_weights()) <= 1  # nothing at all would have been better
    assert problem.error(np.zeros_like(problem.target)) == pytest.approx(1)
    assert problem.error(problem.target) == 0
    assert plan.digest() == solve(layer, problem, donors).digest()


@given(odd_layers(), INPUTS, st.integers(1, 4), st.sampled_from([None, 8]), SEEDS)
@examples(30)
def test_compensation_never_makes_it_worse(layer: Layer, inputs: str, donors: int, positions: int | None, seed: int):
    """Against the donors that suit each row group best by itself, for the same filters with the same gains."""
    assume(positions is None or shapes_fit(layer, positions, GRAIN))
    problem = problem_of(layer, seed, inputs=inputs)
    plan = without_factors(problem, solve(layer, problem, donors, positions))
    found = cost(problem, plan.real_weights())
    hessian = problem.metric.hessian
    alone = np.zeros_like(hessian)
    for rows in rows_of_blocks(layer, positions):
        alone[np.ix_(rows, rows)] = hessian[np.ix_(rows, rows)]
    plain = np.clip(np.rint(slow_best_donors(plan, problem.target, alone, problem.weight)), -127, 127)
    rounding = np.abs(hessian).sum() * float(problem.weight @ (plan.step.astype(float) / 2) ** 2)  # the most it can be
    assert found <= 1.01 * cost(problem, weights_with(plan, plain)) + rounding
    # and no donors at all are better than those of least squares over all row groups at once
    best = slow_best_donors(plan, problem.target, hessian, problem.weight)
    assert found >= cost(problem, weights_with(plan, best)) * (1 - 1e-6) - 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_compensation_helps_where_inputs_depend_on_each_other(seed: int):
    layer = normal_layer(9, 3, (3, 3), seed)
    problem = problem_of(layer, seed)
    plan = solve(layer, problem, 3, passes=30)
    best = slow_best_donors(plan, problem.target, problem.metric.hessian, problem.weight)
    plain = slow_best_donors(plan, problem.target, np.diag(np.diag(problem.metric.hessian)), problem.weight)
    found = cost(problem, plan.real_weights())
    assert found < 0.8 * cost(problem, weights_with(plan, plain))
    assert found < 1.2 * cost(problem, weights_with(plan, best))  # of real numbers, not int8 steps


@given(odd_layers(), INPUTS, st.integers(1, 4), st.sampled_from([None, 8, 4]), SEEDS)
@examples(30)
def test_further_passes_never_make_it_worse(layer: Layer, inputs: str, donors: int, positions: int | None, seed: int):
    assume(positions is None or shapes_fit(layer, positions, GRAIN))
    problem = problem_of(layer, seed, inputs=inputs)
    plans = [solve(layer, problem, donors, positions, passes) for passes in (0, 1, 2, 5)]
    errors = [relative(problem, without_factors(problem, plan)) for plan in plans]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(errors))
    for plan, error in zip(plans, errors, strict=True):
        assert relative(problem, plan) <= error * (1 + 1e-6)  # nor do the filters' factors


def test_further_passes_do_help():
    layer = normal_layer(9, 3, (3, 3))
    problem = problem_of(layer, 0)
    errors = [relative(problem, solve(layer, problem, 3, passes=passes)) for passes in (0, 3)]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("inputs", ["independent", "correlated"])
def test_as_many_donors_as_filters_are_int8_rounding(inputs: str):
    layer = normal_layer(5, 3, (3, 3))
    problem = problem_of(layer, 0, inputs=inputs)
    plan = solve(layer, problem, 5)
    assert plan.donors_per_group.tolist() == [5, 5, 5, 5]
    assert (plan.use_sign == 1).all()
    assert (np.abs(plan.donors.astype(int)).max(1) >= 64).all()  # stored times a power of two, for the resolution
    nearest = np.empty_like(problem.target)
    for filter, group, donor, exponent in zip(
        plan.use_filter, plan.use_group, plan.use_donor, plan.use_exponent, strict=True
    ):
        rows = plan.rows[group][plan.rows[group] >= 0]
        step = float(plain_steps(problem)[filter]) * 2.0**exponent
        nearest[filter, rows] = np.rint(problem.target[filter, rows] / step) * step
        assert plan.use_donor[donor] == donor  # its own
    if inputs == "independent":
        np.testing.assert_allclose(without_factors(problem, plan).real_weights(), nearest, rtol=1e-6)
        np.testing.assert_allclose(plan.step, plain_steps(problem), rtol=0.5 / 127)  # little is left to make good
    assert cost(problem, plan.real_weights()) <= cost(problem, nearest)


def test_equal_filters_up_to_a_gain_need_one_donor():
    kernel = np.random.default_rng(0).integers(-60, 61, (1, 2, 3, 3))
    kernel[0, 0, 0, 0] = 127  # a step of 1 at gain 1
    gains = np.array([1, -1, 0.5, -0.25, 1 / 16, 0])
    layer = layer_of((kernel * gains[:, None, None, None]).astype(np.float32))
    plan = solve(layer, problem_of(layer, 0), 1)
    assert plan.donors_per_group.tolist() == [1, 1, 1]
    assert np.array_equal(plan.real_weights(), layer.matrix)
    assert plan.uses == 3 * 5  # the last filter takes nothing


def test_a_layer_of_zeros_stores_nothing():
    layer = layer_of(np.zeros((4, 3, 3, 3), np.float32))
    problem = problem_of(layer, 0)
    for donors, positions in ((2, None), (4, None), (2, 8), (4, 8)):
        plan = solve(layer, problem, donors, positions)
        assert (plan.groups, plan.uses, len(plan.donors)) == (0, 0, 0)
        assert problem.error(plan.real_weights()) == 0


def test_a_filter_that_counts_little_gives_way():
    """One donor for two filters that no gain makes alike: it suits the one whose error counts."""
    layer = normal_layer(2, 8, ())
    for heavy in (0, 1):
        problem = replace(problem_of(layer, 0), weight=np.where(np.arange(2) == heavy, 1.0, 1e-6))
        error = solve(layer, problem, 1).real_weights() - problem.target
        costs = np.einsum("or,rs,os->o", error, problem.metric.hessian, error)
        assert costs[heavy] < 1e-3 * costs[1 - heavy]


def test_what_uses_cost():
    layer = normal_layer(12, 4, (3, 3))
    free = problem_of(layer, 0)
    scale = cost(free, np.zeros_like(free.target)) / 12 / 5  # what a pattern holds on the average
    uses, totals = [], []
    for price in (0, 0.05, 0.3, 100):
        problem = problem_of(layer, 0, price=price * scale)
        plan = solve(layer, problem, 4)
        uses.append(plan.uses)
        totals.append(cost(free, plan.real_weights()))
    assert uses == sorted(uses, reverse=True)
    assert uses[-1] == 0
    assert 0 < uses[2] < uses[0]
    assert totals == sorted(totals)
    assert totals[2] - totals[0] < (uses[0] - uses[2]) * 0.3 * scale  # dearer in error than saved in uses it is not


# shapes


@pytest.mark.parametrize(
    ("kernel", "channels", "positions", "fits"),
    [
        ((3, 3), 1, 8, True),
        ((3, 3), 3, 8, True),
        ((3, 3), 2, 4, True),
        ((3, 3), 3, 4, False),  # two channels fill an OU
        ((3, 3), 4, 5, False),  # 8 is no multiple of 5
        ((3, 3), 8, 9, False),
        ((2, 2), 4, 2, False),  # shapes are of 3x3 kernels
        ((2, 2), 8, 4, False),  # all that there is
        ((1, 1), 8, 8, False),
        ((), 8, 8, False),
    ],
)
def test_where_shapes_fit(kernel: tuple[int, ...], channels: int, positions: int, fits: bool):
    assert shapes_fit(normal_layer(2, channels, kernel), positions, GRAIN) == fits


def test_blocks():
    layer = normal_layer(2, 4, (3, 3))
    assert rows_of_blocks(layer, None)[-1].tolist() == [32, 33, 34, 35]
    for positions, grain, lengths in (
        (None, GRAIN, [8, 8, 8, 8, 4]),
        (8, GRAIN, [9, 9, 9, 9]),
        (4, GRAIN, [18, 18]),
        (4, Grain(ou_rows=16), [36]),
    ):
        found = rows_of_blocks(layer, positions, grain)
        assert [len(rows) for rows in found] == lengths
        assert np.array_equal(np.concatenate(found), np.arange(36))


@given(st.sampled_from([8, 4]), st.integers(1, 12), st.integers(1, 12), INPUTS, SEEDS)
@examples(25)
def test_each_filter_keeps_so_many_positions(positions: int, filters: int, donors: int, inputs: str, seed: int):
    layer = normal_layer(filters, 4, (3, 3), seed)
    plan = solve(layer, problem_of(layer, seed, inputs=inputs), donors, positions, passes=1)
    together = 8 // positions  # channels that fill an OU
    taken = np.zeros((filters, 4 // together), int)
    shapes: list[set[tuple[int, ...]]] = [set() for _ in range(4 // together)]
    for group, rows in enumerate(plan.rows):
        assert (rows >= 0).all()
        kept = rows.reshape(together, positions)
        block = rows[0] // 9 // together
        assert np.array_equal(kept // 9, np.arange(together)[:, None] + block * together + np.zeros((1, positions)))
        assert len({tuple(row % 9) for row in kept}) == 1  # the same positions in all channels
        shapes[block].add(tuple(kept[0] % 9))
        taken[plan.use_filter[plan.use_start[group] : plan.use_start[group + 1]], block] += 1
    assert taken.max() <= 1
    assert all(len(found) <= 8 for found in shapes)
    if donors >= filters:
        assert (taken == 1).all()


@pytest.mark.parametrize("positions", [8, 4])
@pytest.mark.parametrize("inputs", ["correlated", "few", "dead"])
def test_what_is_kept_is_solved_anew(positions: int, inputs: str):
    layer = normal_layer(6, 2, (3, 3))
    problem = problem_of(layer, 0, inputs=inputs)
    plan = solve(layer, problem, 6, positions)
    mask = plan.weights() != 0
    assert mask.sum(1).tolist() == [2 * positions] * 6
    found = cost(problem, plan.real_weights())
    assert found < cost(problem, problem.target * mask)  # plain masking, not even rounded
    best = np.array(
        [
            slow_kept(row, problem.metric.hessian, np.flatnonzero(kept))[0]
            for row, kept in zip(problem.target, mask, strict=True)
        ]
    )
    step = plain_steps(problem)[:, None]
    rounded = np.clip(np.rint(best / step), -127, 127) * step
    assert cost(problem, best) * (1 - 1e-9) <= found <= 1.1 * cost(problem, rounded)


@pytest.mark.parametrize(
    ("kernel", "positions", "channels", "filters", "most"),
    [(9, 8, 1, 7, 8), (9, 4, 2, 1, 8), (9, 4, 2, 4, 2), (4, 2, 4, 9, 8), (6, 4, 2, 20, 3), (9, 8, 1, 5, 1)],
)
def test_shapes_are_those_of_brute_force(kernel: int, positions: int, channels: int, filters: int, most: int):
    """Every set of positions, every filter, its other weights solved anew each time; then greed, as documented."""
    layer = normal_layer(filters, channels * kernel, ())
    problem = problem_of(layer, 5)
    found = list(choose_shapes(problem.target, problem.metric.hessian, problem.weight, positions, kernel, most))
    costs, offered = slow_shapes(problem.target, problem.metric.hessian, problem.weight, positions, kernel, most)
    names = {tuple(rows[:positions]): filters_ for rows, filters_ in found}
    for rows, _ in found:
        assert rows.tolist() == [c * kernel + i for c in range(channels) for i in rows[:positions]]
    assert np.array_equal(np.sort(np.concatenate(list(names.values()))), np.arange(filters))
    index = {shape: i for i, shape in enumerate(combinations(range(kernel), positions))}
    assert set(names) <= set(offered)
    for shape, mine in names.items():
        for o in mine:
            assert costs[index[shape], o] == pytest.approx(min(costs[index[other], o] for other in offered), rel=1e-9)
            if filters == 1 or len(index) <= most:
                assert costs[index[shape], o] == pytest.approx(costs[:, o].min(), rel=1e-9)


# what a setting would give


@pytest.mark.parametrize(("donors", "positions"), [(3, None), (9, None), (4, 8), (9, 4)])
def test_what_is_expected_is_what_comes_where_row_groups_do_not_depend_on_each_other(
    monkeypatch: pytest.MonkeyPatch, donors: int, positions: int | None
):
    monkeypatch.setattr(solving, "_ROUNDS_ALONE", solving._ROUNDS)  # a block by itself is looked at with fewer
    layer = normal_layer(9, 4, (3, 3))
    problem = problem_of(layer, 0, inputs="independent")
    plan = solve(layer, problem, donors, positions, passes=0)
    error = expected(layer, problem, Setting(donors, positions), (8,), GRAIN, 100).item()
    assert error == pytest.approx(relative(problem, without_factors(problem, plan)), rel=1e-5, abs=1e-7)  # of float32
    assert relative(problem, plan) <= error * (1 + 1e-6)
    of_two = expected(layer, problem, Setting(donors, positions), (8,), GRAIN, 2)  # blocks, the first and the last
    assert 0 < of_two.item() < 1
    assert ous(plan) <= len(blocks(layer, positions, GRAIN)) * donors


@given(
    st.sampled_from([None, 8, 4]), st.integers(1, 14), st.integers(1, 14), st.sampled_from([8, 16, 40]), INPUTS, SEEDS
)
@examples(25)
def test_no_layer_takes_more_than_its_setting_says(
    positions: int | None, filters: int, donors: int, columns: int, inputs: str, seed: int
):
    """Whatever the inputs: so many OUs a block as the donors fill, however many weights an OU is wide."""
    layer, grain = normal_layer(filters, 4, (3, 3), seed), Grain(ou_columns=columns)
    problem = problem_of(layer, seed, inputs=inputs)
    plan = approximate(layer, problem, Setting(donors, positions), grain, 1)
    taken = sum(grain.ous(int(count)) for count in plan.donors_per_group)
    assert taken <= len(blocks(layer, positions, grain)) * grain.ous(donors)
    assert 0 <= expected(layer, problem, Setting(donors, positions), (8,), grain, 2).item() <= 1


@pytest.mark.parametrize(("filters", "donors"), [(40, 12), (41, 7), (40, 40), (33, 3)])
def test_shares_of_a_very_wide_layer(monkeypatch: pytest.MonkeyPatch, filters: int, donors: int):
    layer = normal_layer(filters, 16, (1, 1), 3)
    problem = problem_of(layer, 3)
    together = solve(layer, problem, donors)
    monkeypatch.setattr("prap_pim.methods.calibrate.layer._MOST_TOGETHER", 10)
    apart = solve(layer, problem, donors)
    assert apart.donors_per_group.max() <= donors
    assert problem.error(apart.real_weights()) <= 1
    if donors == filters:
        assert apart.digest() == together.digest()  # nothing is shared
        return
    parts = min(round(filters / 10), donors)
    edges = [i * filters // parts for i in range(parts + 1)]
    for group in range(apart.groups):
        mine = slice(apart.use_start[group], apart.use_start[group + 1])
        share = np.searchsorted(edges, apart.use_filter[mine], side="right")
        for donor in np.unique(apart.use_donor[mine]):
            assert len(set(share[apart.use_donor[mine] == donor])) == 1  # a donor serves one share


def uses_of(plan: LayerPlan) -> np.ndarray:
    """How many donors each filter takes of each row group, [group, filter]."""
    counts = np.zeros((plan.groups, plan.filters), int)
    np.add.at(counts, (plan.use_group, plan.use_filter), 1)
    return counts


@given(odd_layers(), INPUTS, st.sampled_from([2, 3, 4, 6, 8]), st.integers(1, 3), st.integers(1, 6), SEEDS)
@examples(40)
def test_donors_of_few_bits_and_sums_of_donors(
    layer: Layer, inputs: str, bits: int, uses: int, donors: int, seed: int
) -> None:
    problem, setting = problem_of(layer, seed, inputs=inputs), Setting(donors, None, bits, uses)
    plans = [approximate(layer, problem, setting, GRAIN, passes) for passes in (0, 2)]
    together = donors_together(GRAIN.of_bits(bits))  # whole OUs are filled
    for plan in plans:
        assert plan.weight_bits == bits
        assert (plan.donors_per_group <= -(-donors // together) * together).all()
        assert uses_of(plan).max(initial=0) <= uses
        slow = weights_with(plan, plan.donors.astype(float))
        np.testing.assert_allclose(plan.real_weights(), slow, rtol=1e-12)
        assert problem.error(plan.real_weights()) <= 1
        taken = sum(GRAIN.of_bits(bits).ous(int(count)) for count in plan.donors_per_group)
        full = replace(setting, donors=-(-donors // together) * together)
        assert taken <= len(blocks(layer, None, GRAIN)) * most_ous(full, GRAIN)
    first, last = (relative(problem, without_factors(problem, plan)) for plan in plans)
    assert last <= first * (1 + 1e-6)


def test_the_same_ous_hold_twice_as_many_donors_of_4_bits_and_a_second_use_halves_the_error() -> None:
    """As measured on trained layers: about half the error for each."""
    layer = normal_layer(64, 6, (3, 3))
    problem = problem_of(layer, 0)

    def error(*setting: int) -> float:
        donors, bits, uses = setting
        plan = approximate(layer, problem, Setting(donors, None, bits, uses), GRAIN, 3)
        assert ous_of(plan) <= 16 * plan.groups
        return relative(problem, plan)

    def ous_of(plan: LayerPlan) -> int:
        return sum(GRAIN.of_bits(plan.weight_bits).ous(int(count)) for count in plan.donors_per_group)

    today, few_bits, sums, both = error(16, 8, 1), error(32, 4, 1), error(16, 8, 2), error(32, 4, 2)
    assert few_bits < 0.7 * today
    assert sums < 0.5 * today
    assert both < 0.6 * min(few_bits, sums)


def test_a_further_use_must_be_worth_its_price() -> None:
    layer = normal_layer(40, 4, (3, 3))
    counts = []
    for price in (0.0, 1e-3, 1e-2):
        problem = problem_of(layer, 0)
        dear = replace(problem, price=price * problem.energy / layer.filters)
        counts.append(approximate(layer, dear, Setting(8, None, 4, 3), GRAIN, 1).uses)
    assert counts[0] > counts[1] > counts[2]
