"""Every option of the crossbars against the model that visits every cell, and what they lose, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.crossbar import (
    CrossbarModel,
    Device,
    DonorCopies,
    Drift,
    LayerCrossbars,
    LognormalVariation,
    adc_codes,
    integer_matmul,
)
from prap_pim.crossbar.array import kept_fraction_bits, loses_nothing
from prap_pim.crossbar.kernels.bits import converted
from prap_pim.hardware.chip import load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan
from tests.reference.crossbar import brute_force_with
from tests.strategies import examples, layer_plans

SEEDS = st.integers(0, 2**32 - 1)
NOISY = Device(
    on_off_ratio=10,
    variation=LognormalVariation(sigma=0.4),
    stuck_on=0.1,
    stuck_off=0.1,
    drift=Drift(seconds=1000, exponent=0.05, exponent_sigma=0.02),
    row_wire_ohm=100,
    column_wire_ohm=200,
)


@st.composite
def models(draw: st.DrawFn, height: int, **fixed: Any) -> CrossbarModel:
    cell_bits = draw(st.integers(1, 4))
    grain = Grain(
        ou_rows=height,
        ou_columns=draw(st.integers(1, 9)),
        cell_bits=cell_bits,
        weight_bits=draw(st.sampled_from([4, 5, 8])),
        input_bits=draw(st.sampled_from([1, 3, 8])),
        dac_bits=1,
    )
    grain = replace(grain, dac_bits=draw(st.integers(1, grain.input_bits)))
    encodings = [None, "offset", "differential"] + (["two's complement"] if cell_bits == 1 else [])
    options = {
        "grain": grain,
        "adc_bits": draw(st.integers(1, 9)),
        "conversions": draw(st.sampled_from(["per column", "per weight"])),
        "adc_range": draw(st.sampled_from(["clip", "scale"])),
        "encoding": draw(st.sampled_from(encodings)),
        "dot_bits": draw(st.sampled_from([None, 4, 9, 12, 20])),
        "accumulator_bits": draw(st.sampled_from([None, 6, 12, 18, 32])),
        "fraction_bits": draw(st.sampled_from([None, 0, 2, 20])),
        "overflow": draw(st.sampled_from(["saturate", "wrap"])),
    }
    return CrossbarModel(**{**options, **fixed})


@st.composite
def plans_for(draw: st.DrawFn, model: CrossbarModel) -> LayerPlan:
    """A plan whose weights the model has codes for."""
    plan = draw(layer_plans(5, 3, model.grain.ou_rows, model.grain.weight_bits))
    if model.encoding != "differential":
        return plan
    return replace(plan, donors=np.maximum(plan.donors, -plan.largest_weight).astype(np.int8))


def inputs_for(seed: int, positions: int, inputs: int, bits: int) -> np.ndarray:
    limit = 1 << (bits - 1)
    random = np.random.default_rng(seed)
    return random.integers(-limit, limit, (positions, inputs)).astype(np.int8)


def slow(plan: LayerPlan, x: np.ndarray, model: CrossbarModel, crossbars: LayerCrossbars) -> tuple[list, int]:
    ends = np.cumsum(crossbars.copies)
    signal = crossbars.signal().tolist()
    return brute_force_with(
        plan,
        x.tolist(),
        model.grain,
        model.adc_bits,
        model.adc_range,
        model.encoding,
        model.dot_bits,
        model.accumulator_bits,
        model.fraction_bits,
        model.overflow,
        [signal[end - count : end] for end, count in zip(ends, crossbars.copies, strict=True)],
        model.conversions,
    )


@examples(80)
@given(st.data(), st.integers(1, 9), st.sampled_from([2, 33]), st.booleans(), SEEDS)
def test_every_option_agrees_with_the_model_that_visits_every_cell(
    data: st.DataObject, height: int, positions: int, noisy: bool, seed: int
) -> None:
    copies = data.draw(st.sampled_from([None, DonorCopies(share=0.3, copies=2), DonorCopies(share=1, copies=4)]))
    model = data.draw(models(height, device=NOISY if noisy else None, copies=copies))
    plan = data.draw(plans_for(model))
    x = inputs_for(seed, positions, 5, model.grain.input_bits)
    crossbars = LayerCrossbars(plan, model, np.random.SeedSequence(seed))
    got = crossbars.matmul(x)
    expected, misfits = slow(plan, x, model, crossbars)
    assert got.tolist() == expected
    assert crossbars.dot_overflows + crossbars.sum_overflows == misfits
    if loses_nothing(plan, model):
        np.testing.assert_array_equal(got, integer_matmul(plan, x))
        assert misfits == 0


@examples(40)
@given(st.data(), st.integers(1, 9), st.sampled_from([2, 33]), SEEDS)
def test_cells_without_errors_are_ideal_cells(data: st.DataObject, height: int, positions: int, seed: int) -> None:
    model = data.draw(models(height))
    plan = data.draw(plans_for(model))
    x = inputs_for(seed, positions, 5, model.grain.input_bits)
    ideal = LayerCrossbars(plan, model).matmul(x)
    no_variation = {"variation": {"kind": "lognormal", "sigma": 0}, "drift": {"seconds": 100, "exponent": 0}}
    for zero in (Device(), Device(**no_variation), Device(on_off_ratio=8, reference_column=True, **no_variation)):
        changed = model.model_copy(update={"device": zero, "copies": DonorCopies(share=0.5, copies=2)})
        np.testing.assert_array_equal(LayerCrossbars(plan, changed).matmul(x), ideal)


def test_every_encoding_loses_nothing_if_the_adc_is_fine_enough() -> None:
    random = np.random.default_rng(0)
    values = np.arange(-127, 128, dtype=np.int8)[:, None]
    plan = one_filter_each(values)
    x = random.integers(-128, 128, (40, 1)).astype(np.int8)
    for cell_bits in (1, 2, 3, 4):
        for dac_bits in (1, 2, 8):
            for encoding in ("offset", "differential", *(["two's complement"] if cell_bits == 1 else [])):
                grain = Grain(ou_rows=1, cell_bits=cell_bits, dac_bits=dac_bits)
                for conversions, adc_bits in (("per column", 12), ("per weight", 17)):
                    model = CrossbarModel(grain=grain, adc_bits=adc_bits, encoding=encoding, conversions=conversions)
                    assert loses_nothing(plan, model)
                    np.testing.assert_array_equal(LayerCrossbars(plan, model).matmul(x), x.astype(np.int64) @ values.T)


@pytest.mark.parametrize("encoding", ["offset", "differential", "two's complement"])
def test_lossless_bits_of_a_chip_are_enough_and_no_fewer(encoding: str) -> None:
    """Weights converted as a whole: with the bits that the chip names all weights at all rows are exact."""
    base = load_chip("isaac-32nm")
    grain = replace(base.grain, encoding=encoding)
    chip = base.model_copy(update={"grain": grain, "conversions": "per weight"})
    extreme = np.array([[127] * 8, [-127] * 8, [-128 if encoding != "differential" else -127] * 8], np.int8)
    plan, x = one_filter_each(extreme), np.full((1, 8), -1, np.int8)  # every bit of every input is 1
    bits = chip.lossless_adc_bits
    model = CrossbarModel.of(chip, adc_bits=bits)
    assert loses_nothing(plan, model)
    np.testing.assert_array_equal(LayerCrossbars(plan, model).matmul(x), integer_matmul(plan, x))
    fewer = CrossbarModel.of(chip, adc_bits=bits - 1)
    assert not loses_nothing(plan, fewer)
    assert (LayerCrossbars(plan, fewer).matmul(x) != integer_matmul(plan, x)).any()


@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize(("weight_bits", "cell_bits"), [(2, 2), (3, 2), (3, 3), (4, 3), (5, 5), (8, 8), (8, 7)])
def test_lossless_bits_of_a_column_are_those_of_the_largest_sum(
    encoding: str, weight_bits: int, cell_bits: int
) -> None:
    """Of wide differential cells, which hold magnitudes, a bit less: against all weights, cell by cell."""
    base = load_chip("isaac-32nm")
    grain = replace(base.grain, encoding=encoding, weight_bits=weight_bits, cell_bits=cell_bits)
    chip = base.model_copy(update={"grain": grain})
    limit = 2 ** (weight_bits - 1)
    weights = np.arange(-limit + (encoding == "differential"), limit, dtype=np.int8)
    plan = replace(one_filter_each(np.repeat(weights[:, None], 8, axis=1)), weight_bits=weight_bits)
    model = CrossbarModel.of(chip)
    sums = model.weight_slices(plan).levels(plan.donors).sum(axis=-1)  # [weight, column], every row driven
    assert chip.lossless_adc_bits == int(sums.max()).bit_length()
    assert model.count_range(plan) == (0, sums.max())
    x = np.full((1, 8), -1, np.int8)  # every bit of every input is 1
    exact = CrossbarModel.of(chip, adc_bits=chip.lossless_adc_bits)
    assert loses_nothing(plan, exact)
    np.testing.assert_array_equal(LayerCrossbars(plan, exact).matmul(x), integer_matmul(plan, x))
    fewer = CrossbarModel.of(chip, adc_bits=chip.lossless_adc_bits - 1)
    assert (LayerCrossbars(plan, fewer).matmul(x) != integer_matmul(plan, x)).any()


def one_filter_each(donors: np.ndarray) -> LayerPlan:
    """A row group, a filter for each donor, gain 1."""
    count, height = donors.shape
    return LayerPlan(
        name="small",
        inputs=height,
        rows=np.arange(height, dtype=np.int32)[None],
        donors=donors.astype(np.int8),
        donor_start=np.array([0, count], np.int64),
        use_start=np.array([0, count], np.int64),
        use_filter=np.arange(count, dtype=np.int32),
        use_donor=np.arange(count, dtype=np.int32),
        use_sign=np.ones(count, np.int8),
        use_exponent=np.zeros(count, np.int8),
        step=np.ones(count, np.float32),
        bias=np.zeros(count, np.float32),
    )


@pytest.mark.parametrize(
    ("bits", "adc_range", "expected"),
    [
        (4, "clip", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (3, "clip", [0, 1, 2, 3, 4, 5, 6, 7, 7]),
        (2, "clip", [0, 1, 2, 3, 3, 3, 3, 3, 3]),
        (1, "clip", [0, 1, 1, 1, 1, 1, 1, 1, 1]),
        (4, "scale", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (3, "scale", [0, 2, 2, 4, 4, 6, 6, 8, 8]),  # 7 codes of 1 do not reach 8: 2 counts a code
        (2, "scale", [0, 0, 4, 4, 4, 4, 8, 8, 8]),  # 3 codes: 4 counts each
        (1, "scale", [0, 0, 0, 0, 8, 8, 8, 8, 8]),  # 1 code: 8 counts
    ],
)
def test_adc_transfer_by_hand(bits: int, adc_range: str, expected: list[int]) -> None:
    step = CrossbarModel(adc_bits=bits, adc_range=adc_range).adc_step(8)
    assert adc_codes(8, bits, step).tolist() == expected
    assert [converted(float(count), step, 2**bits - 1) for count in range(9)] == expected
    # and between the counts: a code reaches from half a step below to half a step above
    edges = [(code - 0.5) * step for code in range(1, 2**bits)]
    for edge in edges:
        assert converted(edge, step, 2**bits - 1) - converted(edge - 1e-9, step, 2**bits - 1) == step
    assert converted(-3.0, step, 2**bits - 1) == 0
    assert converted(1e9, step, 2**bits - 1) == (2**bits - 1) * step


@pytest.mark.parametrize("positions", [1, 64])
def test_overflow_by_hand(positions: int) -> None:
    # filter 0 adds 100, 100, -100 (three row groups of one row); accumulators of 8 bits hold -128..127
    plan = LayerPlan(
        name="small",
        inputs=3,
        rows=np.array([[0], [1], [2]], np.int32),
        donors=np.array([[100], [100], [-100]], np.int8),
        donor_start=np.arange(4),
        use_start=np.arange(4),
        use_filter=np.zeros(3, np.int32),
        use_donor=np.arange(3, dtype=np.int32),
        use_sign=np.ones(3, np.int8),
        use_exponent=np.zeros(3, np.int8),
        step=np.ones(1, np.float32),
        bias=np.zeros(1, np.float32),
    )
    x = np.ones((positions, 3), np.int8)
    grain = Grain(ou_rows=1)
    for overflow, expected, misfits in (("saturate", 27, 1), ("wrap", 100, 2)):  # wrap: 200 -> -56, -156 -> 100
        model = CrossbarModel(grain=grain, adc_bits=4, accumulator_bits=8, overflow=overflow)
        crossbars = LayerCrossbars(plan, model)
        assert (crossbars.matmul(x) == expected).all()
        assert (crossbars.dot_overflows, crossbars.sum_overflows) == (0, misfits * positions)
    narrow = LayerCrossbars(plan, CrossbarModel(grain=grain, adc_bits=4, dot_bits=7))  # -64..63: 63 + 63 - 64
    assert (narrow.matmul(x) == 62).all()
    assert (narrow.dot_overflows, narrow.sum_overflows) == (3 * positions, 0)
    wide = LayerCrossbars(plan, CrossbarModel(grain=grain, adc_bits=4, accumulator_bits=9))
    assert (wide.matmul(x) == 100).all()
    assert wide.sum_overflows == 0


def test_places_that_are_dropped_by_hand() -> None:
    plan = one_filter_each(np.array([[7], [-7]]))
    plan = replace(plan, use_exponent=np.full(2, -2, np.int8), use_sign=np.array([1, -1], np.int8))
    x = np.array([[1]], np.int8)
    for places, expected in ((2, [7, 7]), (1, [3, 4]), (0, [1, 2])):  # 7/4 down: 1.5, 1; -7/4 down: -2, then the sign
        model = CrossbarModel(grain=Grain(ou_rows=1), adc_bits=4, fraction_bits=places)
        assert LayerCrossbars(plan, model).matmul(x).tolist() == [expected]
        assert kept_fraction_bits(plan, model) == places
        assert loses_nothing(plan, model) == (places == 2)


def test_the_chip_says_what_it_can() -> None:
    model = CrossbarModel.of(load_chip("isaac-32nm"), device={"variation": {"kind": "lognormal", "sigma": 0.1}})
    assert (model.adc_bits, model.accumulator_bits, model.grain) == (6, 32, Grain())
    assert model.device is not None
    again = {**model.model_dump(mode="json"), "adc_bits": 3}
    assert CrossbarModel.checked(again, "changed") == model.model_copy(update={"adc_bits": 3})
    with pytest.raises(UserError, match=r"crossbars of chip isaac-32nm: device.variation.*sigma.*-1"):
        CrossbarModel.of(load_chip("isaac-32nm"), device={"variation": {"kind": "lognormal", "sigma": -1}})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"adc_bits": 0}, "adc_bits"),
        ({"adc_bits": 4, "accumulator_bits": 1}, "accumulator_bits"),
        ({"adc_bits": 4, "encoding": "ones' complement"}, "encoding"),
        ({"adc_bits": 4, "encoding": "two's complement", "grain": Grain(cell_bits=2)}, "needs 1-bit cells, not 2"),
        ({"adc_bits": 4, "copies": {"share": 0.5, "copies": 3}}, "copies"),
        ({"adc_bits": 4, "adc_step": 2}, "adc_step"),
        ({"adc_bits": 4, "grain": {"rows": 8}}, "unknown key 'rows'"),
        ({"adc_bits": 4, "grain": {"ou_rows": 0}}, "ou_rows must be at least 1"),
    ],
)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CrossbarModel(**wrong)
    with pytest.raises(UserError, match=message):
        CrossbarModel.checked(wrong, "crossbars")


def test_a_weight_without_a_differential_code_is_said() -> None:
    plan = one_filter_each(np.array([[-128]]))
    model = CrossbarModel(grain=Grain(ou_rows=1), adc_bits=4, encoding="differential")
    with pytest.raises(UserError, match="layer small: weights hold -128, which has no differential code of 8 bits"):
        LayerCrossbars(plan, model)


@pytest.mark.parametrize("height", [8, 9])  # by table and cell by cell
@pytest.mark.parametrize("encoding", ["differential", "two's complement", "offset"])
def test_read_noise_of_whole_weights_has_no_mean(height: int, encoding: str) -> None:
    """Combined columns, an ADC of both signs: over many reads the noise averages out."""
    random = np.random.default_rng(0)
    plan = one_filter_each(random.integers(-127, 128, (3, height)).astype(np.int8))
    one = random.integers(-128, 128, (1, height)).astype(np.int8)
    grain, reads = Grain(ou_rows=height, encoding=encoding), 4000
    model = CrossbarModel(grain=grain, adc_bits=16, conversions="per weight", device=Device(read_noise=0.02))
    found = LayerCrossbars(plan, model).matmul(np.repeat(one, reads, axis=0)).astype(np.float64)
    error = found.std(axis=0) / np.sqrt(reads)
    assert (error > 0).all()
    assert (np.abs(found.mean(axis=0) - integer_matmul(plan, one)[0]) < 5 * error).all()
