"""What cells do: distributions against their formulas, each with a negative control; wires; faults; seeds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prap_pim.common.errors import UserError
from prap_pim.crossbar import (
    PUBLISHED_VARIATIONS,
    CrossbarModel,
    Device,
    DonorCopies,
    Drift,
    LayerCrossbars,
    LognormalVariation,
    PolynomialVariation,
    WriteVerify,
)
from prap_pim.crossbar.wires import effective_conductances
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan
from tests.crossbar.plans import dense_plan
from tests.crossbar.test_model import one_filter_each
from tests.reference.crossbar import brute_force_with
from tests.reference.wires import currents

MANY = 20000


def seed(number: int = 0) -> np.random.SeedSequence:
    return np.random.SeedSequence(number)


def programmed(device: Device, level: int = 1, largest: int = 1, number: int = 0, count: int = MANY) -> np.ndarray:
    return device.program(np.full(count, level), largest, seed(number))


def test_lognormal_variation() -> None:
    g = programmed(Device(variation=LognormalVariation(sigma=0.3)))
    assert stats.kstest(np.log(g), "norm", args=(0, 0.3)).pvalue > 0.01
    assert stats.kstest(np.log(g), "norm", args=(0, 0.32)).pvalue < 0.001  # the test would see another sigma
    assert abs(g.mean() - np.exp(0.3**2 / 2)) < 4 * g.std() / MANY**0.5
    off = programmed(Device(variation=LognormalVariation(sigma=0.3)), level=0)
    assert (off == 0).all()  # what does not conduct does not vary
    leaky = programmed(Device(variation=LognormalVariation(sigma=0.3), on_off_ratio=11), level=0)
    assert stats.kstest(np.log(leaky / 0.1), "norm", args=(0, 0.3)).pvalue > 0.01  # level 0 is 1 / (11 - 1) levels


@pytest.mark.parametrize(
    ("name", "share", "microsiemens"),
    [  # the polynomials of AIHWKit 1.1 (PCMLikeNoiseModel, ReRamWan2022NoiseModel), worked out by hand
        ("joshi-2020", 1.0, 0.26348 + 1.9650 - 1.1731),
        ("joshi-2020", 0.5, 0.26348 + 0.98250 - 0.293275),
        ("joshi-2020", 0.0, 0.26348),
        ("wan-2022-1s", 1.0, 1.103),
        ("wan-2022-1s", 0.5, 0.348 + 8.015 - 10.96325 + 5.674125 - 1.0509375),
        ("wan-2022-1day", 1.0, 2.651),
    ],
)
def test_published_variations(name: str, share: float, microsiemens: float) -> None:
    variation = PUBLISHED_VARIATIONS[name]
    on_microsiemens = {"joshi-2020": 25, "wan-2022-1s": 40, "wan-2022-1day": 40}[name]
    on = 7.5  # levels, of a device with a finite ratio
    got = variation.sigma(np.array([share * on]), on)[0] / on * on_microsiemens
    assert got == pytest.approx(microsiemens, rel=1e-9)
    target = np.full(MANY, max(share, 0.4) * on)  # far from 0, where nothing is cut off
    g = variation.programmed(target, on, np.random.default_rng(1))
    sigma = variation.sigma(target[:1], on)[0]
    assert stats.kstest((g - target) / sigma, "norm").pvalue > 0.01
    assert stats.kstest((g - target) / (sigma * 1.05), "norm").pvalue < 0.001


def test_a_conductance_is_never_negative() -> None:
    variation = PolynomialVariation(coefficients=(5.0,), reference=10)
    g = variation.programmed(np.full(MANY, 0.1), 1.0, np.random.default_rng(0))
    assert g.min() == 0
    assert np.mean(g == 0) == pytest.approx(stats.norm.cdf(-0.2), abs=0.02)
    assert (PolynomialVariation(coefficients=(-1.0,), reference=1).sigma(np.ones(3), 1.0) == 0).all()


def test_a_name_stands_for_a_published_variation() -> None:
    assert Device(variation="wan-2022-1s").variation == PUBLISHED_VARIATIONS["wan-2022-1s"]
    with pytest.raises(UserError, match=r"no variation 'wan-2022-2s' .*did you mean 'wan-2022-1s'"):
        Device(variation="wan-2022-2s")


def test_a_sigma_alone_is_that_of_a_lognormal_variation() -> None:
    assert Device.checked({"variation": {"sigma": 0.1}}, "device").variation == LognormalVariation(sigma=0.1)
    with pytest.raises(UserError, match="unknown key 'sigma'"):
        Device.checked({"variation": {"kind": "polynomial", "sigma": 0.1}}, "device")


def test_stuck_cells() -> None:
    device = Device(stuck_on=0.03, stuck_off=0.1, on_off_ratio=5)
    for level, largest in ((0, 3), (2, 3)):
        g = programmed(device, level, largest)
        off, on = 3 / 4, 3 + 3 / 4  # levels: ratio 5, 3 levels apart
        assert set(g) == {off, on, level + off}
        stuck_on, stuck_off = (g == on).sum(), (g == off).sum() if level else MANY * 0.1
        assert stats.binomtest(int(stuck_on), MANY, 0.03).pvalue > 0.01
        assert stats.binomtest(int(stuck_on), MANY, 0.04).pvalue < 0.001
        assert stats.binomtest(int(stuck_off), MANY, 0.1).pvalue > 0.01
    # a stuck cell does not vary and does not drift
    varied = device.model_copy(
        update={"variation": LognormalVariation(sigma=1), "drift": Drift(seconds=99, exponent=1)}
    )
    assert np.mean(np.isin(programmed(varied, 2, 3), (off, on))) == pytest.approx(0.13, abs=0.01)


def test_drift() -> None:
    device = Device(drift=Drift(seconds=2000, reference_seconds=20, exponent=0.06, exponent_sigma=0.01))
    exponent = -np.log(programmed(device)) / np.log(100)
    assert stats.kstest(exponent, "norm", args=(0.06, 0.01)).pvalue > 0.01
    assert stats.kstest(exponent, "norm", args=(0.06, 0.0105)).pvalue < 0.001
    fixed = Device(drift=Drift(seconds=2000, exponent=0.5))
    assert programmed(fixed) == pytest.approx(0.1)  # (2000 s / 20 s)**-0.5
    assert (programmed(Device(drift=Drift(seconds=1e6, exponent=0.01, exponent_sigma=0.1))) <= 1).all()


def test_write_verify() -> None:
    free = LognormalVariation(sigma=0.3)
    often = Device(variation=free, write_verify=WriteVerify(tolerance=0.1, attempts=1000))
    g = programmed(often)
    assert (np.abs(g - 1) <= 0.1).all()
    low, high = (stats.norm.cdf(np.log(edge) / 0.3) for edge in (0.9, 1.1))
    uniform = (stats.norm.cdf(np.log(g) / 0.3) - low) / (high - low)  # the same distribution, cut off at the tolerance
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    twice = programmed(Device(variation=free, write_verify=WriteVerify(tolerance=0.1, attempts=2)))
    assert np.mean(np.abs(twice - 1) > 0.1) == pytest.approx((1 - (high - low)) ** 2, abs=0.015)
    once = programmed(Device(variation=free, write_verify=WriteVerify(tolerance=0.1, attempts=1)))
    np.testing.assert_array_equal(once, programmed(Device(variation=free)))


def test_two_seeds_differ_one_repeats_and_effects_do_not_disturb_one_another() -> None:
    device = Device(variation=LognormalVariation(sigma=0.1))
    np.testing.assert_array_equal(programmed(device, number=3), programmed(device, number=3))
    assert (programmed(device, number=3) != programmed(device, number=4)).all()
    faulty = device.model_copy(update={"stuck_off": 0.2})
    same = programmed(faulty) == programmed(device)
    assert np.mean(same) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (4, 3), (8, 8)])
@pytest.mark.parametrize(("row_wire", "column_wire"), [(1e-3, 2e-3), (0.5, 0.1), (0.0, 0.3), (0.3, 0.0)])
def test_wires_against_the_list_of_resistors(shape: tuple[int, int], row_wire: float, column_wire: float) -> None:
    random = np.random.default_rng(1)
    conductance = random.uniform(0, 2, (3, *shape)) * (random.random((3, *shape)) < 0.7)
    got = effective_conductances(conductance, row_wire, column_wire)
    for ou, effective in zip(conductance, got, strict=True):
        volts = random.integers(0, 2, shape[0]).astype(float)
        slow = currents(ou, volts, row_wire or 1e-9, column_wire or 1e-9)
        np.testing.assert_allclose(volts @ effective, slow, rtol=1e-5, atol=1e-9)
    assert (effective_conductances(conductance, 0.0, 0.0) == conductance).all()


def test_wires_by_hand() -> None:
    # one cell of 1 ohm behind 0.5 ohm of wordline and before 0.25 ohm of bitline
    assert effective_conductances(np.ones((1, 1, 1)), 0.5, 0.25)[0, 0, 0] == pytest.approx(1 / 1.75)


def test_the_columns_of_a_row_group_fill_its_ous() -> None:
    random = np.random.default_rng(2)
    plan = one_filter_each(random.integers(-128, 128, (3, 4)))
    device = Device(on_off_ratio=17, row_wire_ohm=50, column_wire_ohm=30, on_resistance_ohm=1000)
    model = CrossbarModel(grain=Grain(ou_rows=4, ou_columns=5), adc_bits=4, device=device)
    got = LayerCrossbars(plan, model).signal()  # [3 donors, 8 columns, 4 rows]: 24 columns in OUs of 5, 5, 5, 5, 4
    bits = (plan.donors.astype(np.int64)[:, None, :] >> np.arange(8)[:, None]) & 1
    conductance = (bits + 1 / 16).reshape(24, 4)  # levels; the highest, 17/16, is 1000 ohm
    siemens_a_level = 1e-3 / (17 / 16)
    for first in range(0, 24, 5):
        cells = conductance[first : first + 5].T * siemens_a_level
        for row in range(4):
            slow = currents(cells, np.eye(4)[row], 50, 30) / siemens_a_level
            np.testing.assert_allclose(got.reshape(24, 4)[first : first + 5, row], slow, rtol=1e-9)


def test_a_reference_column_takes_off_what_level_0_conducts() -> None:
    plan = one_filter_each(np.array([[0] * 8, [1] * 8]))
    x = np.ones((40, 8), np.int8)  # one step drives all rows
    for reference, expected in ((False, [255 - 2 * 128, 9 - 1 + 255 - 2 * 128]), (True, [0, 8])):
        device = Device(on_off_ratio=9, reference_column=reference)  # 8 cells of level 0 conduct like one of level 1
        got = LayerCrossbars(plan, CrossbarModel(adc_bits=4, device=device)).matmul(x)
        # without: every column counts 1 too much, and 1 + 2 + ... + 64 - 128 = -1
        assert got.tolist() == [expected] * 40


def test_a_layer_that_is_programmed_in_parts_has_no_two_cells_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dense_plan("dense", np.ones((5, 60), np.float32))  # all weights 127, 8 row groups of 5 donors
    monkeypatch.setattr("prap_pim.crossbar.array._TABLE_ENTRIES", 256 * 12)  # 4 parts
    model = CrossbarModel(adc_bits=6, device=Device(variation=LognormalVariation(sigma=0.4)))
    crossbars = LayerCrossbars(plan, model, seed())
    signal = crossbars.signal()
    conducting = signal[signal > 0]
    assert len(np.unique(conducting)) == len(conducting) == 5 * 60 * 7
    x = np.random.default_rng(0).integers(-128, 128, (40, 60)).astype(np.int8)
    expected, _ = brute_force_with(plan, x.tolist(), Grain(), 6, cells=[[donor] for donor in signal.tolist()])
    assert crossbars.matmul(x).tolist() == expected


def use_two(plan: LayerPlan) -> LayerPlan:
    """Both filters use donor 0, the second with -2 times it."""
    return replace(
        plan,
        donors=plan.donors[:1],
        donor_start=np.array([0, 1]),
        use_donor=np.zeros(2, np.int32),
        use_sign=np.array([1, -1], np.int8),
        use_exponent=np.array([0, 1], np.int8),
    )


def test_a_donors_error_is_shared_by_all_that_reuse_it() -> None:
    random = np.random.default_rng(0)
    donor = random.integers(-128, 128, 8)
    plan = one_filter_each(np.stack([donor, donor]))
    x = random.integers(-128, 128, (50, 8)).astype(np.int8)
    model = CrossbarModel(adc_bits=6, device=Device(variation=LognormalVariation(sigma=0.5)))
    shared = LayerCrossbars(use_two(plan), model).matmul(x)
    np.testing.assert_array_equal(shared[:, 1], -2 * shared[:, 0])
    assert (shared[:, 0] != x.astype(np.int64) @ donor).mean() > 0.5
    apart = LayerCrossbars(plan, model).matmul(x)  # the same weights in cells of their own
    assert (apart[:, 1] != apart[:, 0]).mean() > 0.5


def test_copies_halve_the_variance() -> None:
    random = np.random.default_rng(0)
    plan = one_filter_each(random.integers(-128, 128, (300, 8)))
    x = random.integers(-128, 128, (64, 8)).astype(np.int8)
    exact = x.astype(np.int64) @ plan.donors.T.astype(np.int64)
    device = Device(variation=PolynomialVariation(coefficients=(0.3,), reference=1))
    errors = []
    for copies in (None, DonorCopies(share=1, copies=4), DonorCopies(share=0.5, copies=4)):
        model = CrossbarModel(adc_bits=8, device=device, copies=copies)
        crossbars = LayerCrossbars(plan, model)
        errors.append((crossbars.matmul(x) - exact - 0.0).var(axis=0))
        assert crossbars.copies.sum() == {0: 300, 1: 1200, 2: 750}[len(errors) - 1]
    one, four, half = errors
    assert four.mean() / one.mean() == pytest.approx(1 / 4, rel=0.15)
    assert half[:150].mean() / one.mean() == pytest.approx(1 / 4, rel=0.2)
    assert half[150:].mean() / one.mean() == pytest.approx(1, rel=0.2)


def test_the_most_used_donors_are_copied() -> None:
    plan = one_filter_each(np.arange(40).reshape(5, 8))
    use_donor = np.array([3, 3, 1, 0, 2], np.int32)
    plan = replace(plan, donors=plan.donors[:4], donor_start=np.array([0, 4]), use_donor=use_donor)
    copies = LayerCrossbars(plan, CrossbarModel(adc_bits=4, copies=DonorCopies(share=0.5, copies=2))).copies
    assert copies.tolist() == [2, 1, 1, 2]  # donor 3 has two uses; of the others the first


NOISE = Device(read_noise=0.2, variation=LognormalVariation(sigma=0.2))


def noisy(
    height: int, adc_bits: int = 3, device: Device = NOISE, number: int = 0, room: int | None = None
) -> LayerCrossbars:
    """One donor of 4 rows with some room above: h <= 8 is read from tables, h = 9 cell by cell."""
    plan = one_filter_each(np.array([[3, 1, 7, 5]]))
    rows = np.concatenate([plan.rows, np.full((1, height - 4), -1, np.int32)], axis=1)
    plan = replace(plan, rows=rows, donors=np.pad(plan.donors, ((0, 0), (0, height - 4))), weight_bits=4)
    grain = Grain(ou_rows=height, input_bits=4)
    return LayerCrossbars(plan, CrossbarModel(grain=grain, adc_bits=adc_bits, device=device), seed(number), room)


def outcomes(
    signal: np.ndarray, digits: list[int], sigma: np.ndarray, adc_bits: int, power: float = 1.0
) -> dict[int, float]:
    """Probability of each answer of a donor to a read, bitline by bitline, from the normal distribution."""
    total = {0: 1.0}
    for column, factor in enumerate([1, 2, 4, -8]):
        current, noise = signal[column] @ digits, np.sqrt((sigma[column] ** 2) @ np.power(digits, 2.0 * power))
        edges = [-np.inf, *(code + 0.5 for code in range(2**adc_bits - 1)), np.inf]
        codes = np.diff(stats.norm.cdf(edges, current, noise)) if noise else np.eye(2**adc_bits)[round(current)]
        total_next: dict[int, float] = {}
        for value, share in total.items():
            for code, chance in enumerate(codes):
                total_next[value + factor * code] = total_next.get(value + factor * code, 0) + share * chance
        total = total_next
    return total


@pytest.mark.parametrize("height", [8, 9])
def test_read_noise_has_the_distribution_of_its_formula(height: int) -> None:
    crossbars = noisy(height)
    signal = crossbars.signal()[0][:, :4]
    x = np.tile(np.array([1, 1, 0, 1], np.int8), (MANY, 1))  # one step with three rows driven, the others undriven
    got = crossbars.matmul(x)[:, 0]
    for scale, fits in ((1.0, True), (1.15, False)):
        expected = outcomes(signal, [1, 1, 0, 1], 0.2 * scale * signal, 3)
        common = [value for value, share in expected.items() if share * MANY > 5]
        seen = np.array([(got == value).sum() for value in common] + [(~np.isin(got, common)).sum()])
        shares = np.array([expected[value] for value in common])
        p = stats.chisquare(seen, MANY * np.append(shares, 1 - shares.sum())).pvalue
        assert p > 0.01 if fits else p < 0.001


@pytest.mark.parametrize(("read_noise", "changes"), [(0.02, False), (0.5, True)])
def test_read_noise_that_reaches_no_edge_changes_nothing(read_noise: float, changes: bool) -> None:
    random = np.random.default_rng(0)
    plan = one_filter_each(random.integers(-128, 128, (40, 8)))  # at most 8 cells: 0.5 counts are 8.8 sigmas of 0.02
    x = random.integers(-128, 128, (64, 8)).astype(np.int8)
    got = LayerCrossbars(plan, CrossbarModel(adc_bits=4, device=Device(read_noise=read_noise)), seed()).matmul(x)
    assert (got != x.astype(np.int64) @ plan.donors.T.astype(np.int64)).any() == changes


def test_read_noise_grows_with_the_digit_of_a_wide_dac() -> None:
    plan = replace(one_filter_each(np.array([[3, 1, 7, 5]])), weight_bits=4)
    grain = Grain(ou_rows=4, input_bits=2, dac_bits=2)
    crossbars = LayerCrossbars(plan, CrossbarModel(grain=grain, adc_bits=4, device=NOISE), seed())
    got = crossbars.matmul(np.tile(np.array([1, 0, -2, 1], np.int8), (MANY, 1)))[:, 0]
    # inputs are driven as x + 2, in one step; 2 times the sum of the weights is taken off
    for powers, fits in ((1.0, True), (0.5, False)):  # variance by the square of the digit, not by the digit
        sigma = 0.2 * crossbars.signal()[0]
        expected = outcomes(crossbars.signal()[0], [3, 2, 0, 3], sigma, 4, powers)
        common = [value for value, share in expected.items() if share * MANY > 5]
        seen = np.array([(got == value - 32).sum() for value in common])
        shares = np.array([expected[value] for value in common])
        rest, left = MANY - seen.sum(), 1 - shares.sum()
        p = stats.chisquare(np.append(seen, rest), MANY * np.append(shares, left)).pvalue
        assert p > 0.01 if fits else p < 0.001


def test_read_noise_of_different_reads_is_independent() -> None:
    crossbars = noisy(8, adc_bits=8, device=Device(read_noise=0.5))
    x = np.tile(np.array([1, 3, 0, 1], np.int8), (MANY, 1))
    first, second = (crossbars.matmul(x, number)[:, 0].astype(float) for number in (0, MANY))
    assert (first != second).any()
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / MANY**0.5
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4 / MANY**0.5


@pytest.mark.parametrize("height", [8, 9])
def test_noise_depends_on_the_seed_and_the_number_of_the_read_alone(height: int) -> None:
    x = np.random.default_rng(0).integers(-8, 8, (200, 4)).astype(np.int8)
    whole = noisy(height).matmul(x)
    parts = noisy(height, room=0)
    for first, end in ((100, 200), (0, 7), (7, 100), (0, 7)):  # in any order, and again
        np.testing.assert_array_equal(parts.matmul(x[first:end], first), whole[first:end])
    assert (noisy(height, number=1).matmul(x) != whole).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variation": {"kind": "lognormal", "sigma": -0.1}}, "sigma: must be at least 0, not -0.1"),
        ({"variation": {"kind": "lognormal", "sigma": float("nan")}}, "sigma.*finite"),
        ({"variation": {"kind": "normal", "sigma": 0.1}}, "unknown kind 'normal'"),
        ({"stuck_on": 0.6, "stuck_off": 0.5}, r"stuck_on \(0.6\) and stuck_off \(0.5\) together must not exceed 1"),
        ({"stuck_on": 1.2}, "stuck_on"),
        ({"read_noise": -1}, "read_noise"),
        ({"on_off_ratio": 1}, "on_off_ratio: must be above 1, not 1"),
        ({"drift": {"seconds": 5, "exponent": 0.1}}, r"seconds \(5\) must not be before reference_seconds \(20\)"),
        ({"column_wire_ohm": -1}, "column_wire_ohm"),
        ({"write_verify": {"tolerance": 0.1, "attempts": 3}}, "write_verify needs a variation"),
        ({"sigma": 0.1}, "unknown key 'sigma'"),
    ],
)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Device.checked(wrong, "device")
