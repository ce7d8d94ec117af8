"""Gain-shape k-means against every donor and gain tried, and against every assignment of a few patterns."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN
from prap_pim.methods.calibrate.donors import Choice, choose, fit, rounded, seeds
from tests.reference.calibrate import GAINS, slow_best_saving, slow_two_donors
from tests.strategies import examples


def error(patterns: np.ndarray, donors: np.ndarray, weight: np.ndarray) -> float:
    """What is left after every pattern has taken what is best for it."""
    saving = choose(patterns, donors, np.zeros(len(patterns), np.float32)).saving
    return float(weight @ ((patterns.astype(np.float64) ** 2).sum(1) - saving))


@st.composite
def whole_numbers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Patterns and donors of few bits: float32 is exact, ties are common; some are far apart in size, some are 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, count, patterns = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 12))
    sizes = [rng.choice([1, 1, 0, 30], n)[:, None] for n in (patterns, count)]
    values = [rng.integers(-5, 6, (n, height)) * size for n, size in zip((patterns, count), sizes, strict=True)]
    return values[0].astype(np.float32), values[1].astype(np.float32)


@given(whole_numbers())
@examples(30)
def test_a_pattern_takes_the_best_of_all_donors_and_gains(case: tuple[np.ndarray, np.ndarray]):
    patterns, donors = case
    choice = choose(patterns, donors, np.zeros(len(patterns), np.float32))
    assert choice.donor.dtype == np.int32
    for n, pattern in enumerate(patterns.astype(np.float64)):
        assert choice.saving[n] == np.float32(slow_best_saving(pattern, donors.astype(np.float64)))
        if choice.donor[0, n] < 0:
            assert (choice.gain[0, n], choice.saving[n]) == (0, 0)
        else:  # and what it says of its choice is so
            assert choice.gain[0, n] in GAINS
            left = pattern - float(choice.gain[0, n]) * donors[choice.donor[0, n]]
            assert choice.saving[n] == (pattern**2).sum() - (left**2).sum()


def test_no_gain_is_out_of_range():
    donor = np.array([[1.0, 0.0]], np.float32)
    patterns = np.array([[1e6, 0], [-1e6, 1], [1e-6, 0], [-(2.0**-8), 0], [0, 1]], np.float32)
    choice = choose(patterns, donor, np.zeros(5, np.float32))
    largest, least = 2.0**EXPONENT_MAX, 2.0**EXPONENT_MIN
    assert choice.gain[0].tolist() == [largest, -largest, 0, -least, 0]  # 1e-6: the least gain would be worse than none
    assert choice.donor[0].tolist() == [0, 0, -1, 0, -1]
    saving = [
        gain * (2 * pattern - gain)
        for gain, pattern in zip(choice.gain[0].tolist(), patterns[:, 0].tolist(), strict=True)
    ]
    np.testing.assert_allclose(choice.saving, saving, rtol=1e-6)


def test_gains_round_to_the_nearest_power_of_two():
    donor = np.array([[2.0, 0.0]], np.float32)
    wanted = [1.0, 1.49, 1.51, 0.76, 0.74, -2.9, -3.1]  # between 2**k and 2**(k + 1) the middle is 1.5 * 2**k
    patterns = np.array([[2 * x, 1] for x in wanted], np.float32)
    assert choose(patterns, donor, np.zeros(7, np.float32)).gain[0].tolist() == [1, 1, 2, 1, 0.5, -2, -4]


def test_a_use_must_be_worth_its_price():
    patterns = np.array([[2, 0], [3, 0], [3, 1]], np.float32)
    donor = np.array([[1, 0]], np.float32)
    saving = choose(patterns, donor, np.zeros(3, np.float32)).saving
    assert saving.tolist() == [4, 8, 8]  # 2 -> 2 is exact; 3 -> 2 or 4 leaves 1
    assert choose(patterns, donor, np.array([3.9, 8, 7.9], np.float32)).donor[0].tolist() == [0, -1, 0]


def test_extreme_donors_give_no_nonsense():
    patterns = np.array([[1, 0], [0, 0], [1e-20, 0], [1e15, 0]], np.float32)
    donors = np.array([[0, 0], [1e-22, 0], [1e18, 0]], np.float32)
    choice = choose(patterns, donors, np.zeros(4, np.float32))
    assert np.isfinite(choice.saving).all()
    assert choice.donor[0, 1] == -1
    assert (np.isin(choice.gain, [0, *GAINS])).all()


def clustered(seed: int, count: int = 60, height: int = 8, kinds: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((kinds, height))[rng.integers(0, kinds, count)]
    gain = rng.choice([-1, 1], count) * 2.0 ** rng.integers(-3, 3, count)
    patterns = kernel * gain[:, None] + 0.05 * rng.standard_normal((count, height))
    return patterns.astype(np.float32), rng.uniform(0.1, 1, count).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_rounds_lower_the_weighted_error_and_stop_at_a_fixed_point(seed: int):
    patterns, weight = clustered(seed)
    worth = np.zeros(len(patterns), np.float32)
    start = seeds(patterns, weight, 5)
    errors = [error(patterns, fit(patterns, weight, worth, start, rounds)[0], weight) for rounds in range(8)]
    assert errors[0] == error(patterns, start, weight)
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(errors))
    # where it has settled, each donor is the least-squares one of those who take it
    donors, _ = fit(patterns, weight, worth, start, 100)
    choice = choose(patterns, donors, worth)
    for k, donor in enumerate(donors):
        mine = choice.donor[0] == k
        shares = weight[mine] * choice.gain[0, mine]
        best = shares @ patterns[mine] / (shares @ choice.gain[0, mine])
        np.testing.assert_allclose(donor, best, rtol=0.05, atol=0.05 * np.abs(donor).max())


def test_few_kinds_are_found_without_error():
    rng = np.random.default_rng(0)
    kinds = rng.integers(-9, 10, (4, 8))
    patterns = (kinds[rng.integers(0, 4, 40)] * (2.0 ** rng.integers(-3, 4, 40))[:, None]).astype(np.float32)
    weight = np.ones(40, np.float32)
    found = seeds(patterns, weight, 10)
    assert len(found) == 4  # no more are needed
    assert error(patterns, found, weight) == 0


def test_seeds_start_with_what_is_worst():
    patterns = np.array([[1, 0], [0, 3], [2, 2], [0, 0]], np.float32)
    assert seeds(patterns, np.ones(4, np.float32), 2).tolist() == [[0, 3], [2, 2]]
    assert seeds(patterns, np.array([100, 1, 1, 1], np.float32), 1).tolist() == [[1, 0]]
    assert seeds(np.zeros((5, 3), np.float32), np.ones(5, np.float32), 4).tolist() == [[0, 0, 0]]
    assert seeds(patterns, np.ones(4, np.float32), 0).shape == (1, 2)


def test_a_donor_that_nobody_takes_moves_to_the_pattern_served_worst():
    patterns = np.array([[1, 0], [2, 0], [0, 4]], np.float32)
    donors = np.array([[1, 0], [1, 0]], np.float32)  # the second loses every tie
    ones = np.ones(3, np.float32)
    found, _ = fit(patterns, ones, np.zeros(3, np.float32), donors, 5)
    assert error(patterns, found, ones) == 0


def test_donors_that_nobody_takes_move_to_different_patterns():
    patterns = np.array([[1, 0, 0], [0, 4, 0], [0, 0, 3]], np.float32)
    donors = np.array([[1, 0, 0]] * 3, np.float32)
    found, _ = fit(patterns, np.ones(3, np.float32), np.zeros(3, np.float32), donors, 1)
    assert found.tolist() == patterns.tolist()


@pytest.mark.parametrize("height", [1, 2])
def test_two_donors_are_near_the_best_of_all_assignments(height: int):
    """Brute force: every way to share 5 patterns out, every relative gain in -8..8. K-means finds a local optimum."""
    gains = [sign * 2.0**exponent for exponent in range(-3, 4) for sign in (1, -1)]
    found, best = [], []
    for seed in range(12):
        rng = np.random.default_rng([seed, height])
        patterns = rng.standard_normal((5, height)).astype(np.float32)
        weight = rng.uniform(0.3, 1, 5).astype(np.float32)
        best.append(slow_two_donors(patterns.astype(np.float64), weight.astype(np.float64), gains))
        donors, _ = fit(patterns, weight, np.zeros(5, np.float32), seeds(patterns, weight, 2), 50)
        found.append(error(patterns, donors, weight))
    assert all(f <= 2 * b for f, b in zip(found, best, strict=True))
    assert sum(found) <= 1.2 * sum(best)


def test_same_input_same_bits():
    patterns, weight = clustered(3)
    start, worth = seeds(patterns, weight, 4), np.zeros(len(patterns), np.float32)
    before = patterns.copy(), start.copy()
    first, second = (fit(patterns, weight, worth, start, 12)[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(patterns, before[0])
    assert np.array_equal(start, before[1])


@given(whole_numbers(), st.integers(2, 3))
@examples(30)
def test_a_sum_of_donors_is_what_it_says_and_its_last_use_the_best(case: tuple[np.ndarray, np.ndarray], uses: int):
    patterns, donors = case
    choice = choose(patterns, donors, np.zeros(len(patterns), np.float32), uses)
    fewer = choose(patterns, donors, np.zeros(len(patterns), np.float32), uses - 1)
    for n, pattern in enumerate(patterns.astype(np.float64)):
        taken, digits = choice.donor[choice.gain[:, n] != 0, n], 1e-5 * (pattern**2).sum() + 1e-4
        assert len(set(taken)) == len(taken)
        given = [g * donors[k].astype(np.float64) for k, g in zip(choice.donor[:, n], choice.gain[:, n], strict=True)]
        left = pattern - np.sum(given, 0)
        assert choice.saving[n] == pytest.approx((pattern**2).sum() - (left**2).sum(), abs=digits)
        others = np.delete(donors.astype(np.float64), [k for k in choice.donor[:-1, n] if k >= 0], axis=0)
        without_last = left + given[-1]
        best = slow_best_saving(without_last, others) if len(others) else 0.0
        last = (without_last**2).sum() - (left**2).sum()
        assert last == pytest.approx(best, abs=digits)
        assert choice.saving[n] >= fewer.saving[n] - digits


def test_uses_are_chosen_anew_given_the_others():
    """Found one after another alone, the first of two would be what a single one is."""
    patterns = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    worth = np.zeros(400, np.float32)
    donors = seeds(patterns, np.ones(400, np.float32), 40)
    one, two = (choose(patterns, donors, worth, uses) for uses in (1, 2))
    assert (one.donor[0] != two.donor[0]).any()
    assert (two.saving >= one.saving - 1e-3).all()


def test_each_further_use_halves_the_error_of_many_patterns_about():
    rng = np.random.default_rng(0)
    patterns, weight = rng.standard_normal((400, 8)).astype(np.float32), rng.uniform(0.5, 1, 400).astype(np.float32)
    worth, left = np.zeros(400, np.float32), []
    for uses in (1, 2, 3):
        donors, _ = fit(patterns, weight, worth, seeds(patterns, weight, 40), 12, uses)
        choice = choose(patterns, donors, worth, uses)
        left.append(float(weight @ ((patterns.astype(np.float64) ** 2).sum(1) - choice.saving)))
    assert left[1] < 0.5 * left[0]
    assert left[2] < 0.5 * left[1]


def test_donors_of_sums_are_the_least_squares_ones_where_rounds_have_settled():
    patterns, weight = clustered(1)
    worth = np.zeros(len(patterns), np.float32)
    donors, _ = fit(patterns, weight, worth, seeds(patterns, weight, 6), 200, 2)
    choice = choose(patterns, donors, worth, 2)
    shares = np.zeros((len(patterns), len(donors)))
    for use in range(2):
        mine = choice.donor[use] >= 0
        shares[mine, choice.donor[use, mine]] = choice.gain[use, mine]
    root = np.sqrt(weight.astype(np.float64))[:, None]
    best, *_ = np.linalg.lstsq(shares * root, patterns * root, rcond=None)
    of = [float((((patterns - shares @ d) * root) ** 2).sum()) for d in (donors.astype(np.float64), best)]
    assert of[0] <= 1.02 * of[1]


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_rounded_donors_fit_their_bits_and_make_good_what_rounding_changes(bits: int):
    rng = np.random.default_rng(bits)
    factor = np.linalg.cholesky(np.cov(rng.standard_normal((8, 50)) @ np.diag(rng.uniform(0.2, 2, 50))) + np.eye(8) / 9)
    wanted, weight = 40 * rng.standard_normal((300, 8)), np.ones(300, np.float32)
    scale, largest, worth = 90.0, 2 ** (bits - 1) - 1, np.zeros(300, np.float32)
    patterns = np.ascontiguousarray(wanted @ factor / scale, np.float32)
    donors, _ = fit(patterns, weight, worth, seeds(patterns, weight, 30), 12, 2)
    choice = choose(patterns, donors, worth, 2)
    whole, suiting = rounded(patterns, weight, donors, choice, factor, scale, largest)
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole).max() == largest
    assert np.array_equal(suiting.donor, choice.donor)
    plain = np.linalg.solve(factor.T, donors.T.astype(np.float64) * scale).T
    naive = np.exp2(np.floor(np.log2(largest / np.abs(plain).max(1, keepdims=True))))

    def left(stored: np.ndarray, gain: np.ndarray) -> float:
        own, error = stored @ factor / scale, patterns.astype(np.float64)
        for use in range(2):
            error = error - np.where(choice.donor[use] >= 0, gain[use], 0)[:, None] * own[choice.donor[use]]
        return float((error**2).sum())

    assert left(whole, suiting.gain) < left(np.clip(np.rint(plain * naive), -largest, largest) / naive, choice.gain)


def test_a_pattern_takes_the_better_of_what_it_had_and_of_what_is_found_without():
    rng = np.random.default_rng(0)
    patterns, donors = (np.asarray(rng.standard_normal((n, 8)), np.float32) for n in (400, 12))
    worth = np.zeros(400, np.float32)
    afresh = choose(patterns, donors, worth, 3)
    start = Choice(np.roll(afresh.donor, 1, 1), np.roll(afresh.gain, 1, 1), np.zeros(400))  # each has its neighbour's
    best = choose(patterns, donors, worth, 3, start)
    assert (best.saving >= afresh.saving).all()
    assert np.mean(best.saving > afresh.saving + 1e-3) > 0.1
    assert {tuple(sorted(taken)) for taken in best.donor.T} - {tuple(sorted(taken)) for taken in afresh.donor.T}
