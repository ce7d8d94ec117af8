"""The bit-true crossbar against a cell-by-cell model and against the integer matmul."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.crossbar import adc_codes, crossbar_matmul, integer_matmul
from prap_pim.crossbar.array import exact_matmul
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan
from tests.crossbar.plans import dense_plan
from tests.reference.crossbar import brute_force
from tests.strategies import examples, layer_plans

SEEDS = st.integers(0, 2**32 - 1)


def _inputs(seed: int, positions: int, inputs: int, bits: int = 8) -> np.ndarray:
    """int8 [positions, inputs] that ``bits`` bits hold, many zeros and extremes among them."""
    random = np.random.default_rng(seed)
    limit = 1 << (bits - 1)
    values = random.integers(-limit, limit, (positions, inputs))
    special = random.choice([-limit, -1, 0, limit - 1], values.shape)
    return np.where(random.random(values.shape) < 0.4, special, values).astype(np.int8)


def _sufficient_adc_bits(height: int, grain: Grain) -> int:
    """Bits that count the largest current of a bitline."""
    return int(height * (2**grain.dac_bits - 1) * (2**grain.cell_bits - 1)).bit_length()


@examples(25)
@given(st.data(), st.integers(1, 9), st.integers(1, 6), st.sampled_from([2, 33]), SEEDS)
def test_agrees_with_the_model_that_visits_every_cell(
    data: st.DataObject, height: int, adc_bits: int, positions: int, seed: int
) -> None:
    # 33 positions take the table where h <= 8, 2 positions never do
    plan = data.draw(layer_plans(inputs=7, filters=3, height=height))
    inputs = _inputs(seed, positions, 7)
    grain = Grain(ou_rows=height)
    assert crossbar_matmul(plan, inputs, grain, adc_bits).tolist() == brute_force(
        plan, inputs.tolist(), grain, adc_bits
    )


@examples(40)
@given(
    st.data(),
    st.builds(
        Grain,
        ou_rows=st.integers(1, 9),
        cell_bits=st.integers(1, 3),
        weight_bits=st.sampled_from([3, 5, 8, 9]),
        input_bits=st.sampled_from([3, 4, 8, 10]),
        dac_bits=st.integers(1, 3),
    ),
    st.integers(1, 8),
    st.sampled_from([2, 33]),
    SEEDS,
)
def test_agrees_for_any_cell_and_dac(
    data: st.DataObject, grain: Grain, adc_bits: int, positions: int, seed: int
) -> None:
    plan = data.draw(layer_plans(inputs=6, filters=2, height=grain.ou_rows, most_bits=grain.weight_bits))
    inputs = _inputs(seed, positions, 6, min(grain.input_bits, 8))
    assert crossbar_matmul(plan, inputs, grain, adc_bits).tolist() == brute_force(
        plan, inputs.tolist(), grain, adc_bits
    )
    enough = crossbar_matmul(plan, inputs, grain, _sufficient_adc_bits(grain.ou_rows, grain))
    assert (enough == integer_matmul(plan, inputs)).all()


@examples(40)
@given(
    st.data(),
    st.integers(1, 80),
    st.integers(1, 60),
    st.sampled_from([1, 8, 16, 64, 70]),
    st.sampled_from([1, 40, 200]),
    SEEDS,
)
def test_an_adc_that_counts_all_rows_loses_nothing(
    data: st.DataObject, inputs: int, filters: int, height: int, positions: int, seed: int
) -> None:
    plan = data.draw(layer_plans(inputs, filters, height))
    x = _inputs(seed, positions, inputs)
    got = crossbar_matmul(plan, x, Grain(ou_rows=height), height.bit_length())
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, integer_matmul(plan, x))
    np.testing.assert_array_equal(got, x.astype(np.int64) @ plan.weights().T.astype(np.int64))


def _plan(donors: list[list[int]], rows: list[list[int]]) -> LayerPlan:
    """One filter a donor, a row group each, gain 1."""
    count = len(donors)
    every = np.arange(count + 1, dtype=np.int64)
    return LayerPlan(
        name="small",
        inputs=8,
        rows=np.array(rows, np.int32),
        donors=np.array(donors, np.int8),
        donor_start=every,
        use_start=every,
        use_filter=np.arange(count, dtype=np.int32),
        use_donor=np.arange(count, dtype=np.int32),
        use_sign=np.ones(count, np.int8),
        use_exponent=np.zeros(count, np.int8),
        step=np.ones(count, np.float32),
        bias=np.zeros(count, np.float32),
    )


@pytest.mark.parametrize("positions", [1, 64])
@pytest.mark.parametrize(("adc_bits", "expected"), [(4, 8 * 3), (3, 7 * 3), (2, 3 * 3), (1, 1 * 3)])
def test_a_small_adc_clips_each_bitline(positions: int, adc_bits: int, expected: int) -> None:
    # weights 3 = columns 0 and 1, inputs 1 = plane 0: both bitlines count 8 and are clipped each on its own
    plan = _plan([[3] * 8], [list(range(8))])
    inputs = np.ones((positions, 8), np.int8)
    assert (crossbar_matmul(plan, inputs, Grain(), adc_bits) == expected).all()


def test_adc_codes_by_hand() -> None:
    assert adc_codes(8, 4).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert adc_codes(8, 3).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert adc_codes(8, 2).tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert adc_codes(3, 100).tolist() == [0, 1, 2, 3]


def test_a_layer_larger_than_one_table_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    plan = dense_plan("dense", random.normal(size=(5, 60)).astype(np.float32))
    x = _inputs(6, 50, 60)
    monkeypatch.setattr("prap_pim.crossbar.array._TABLE_ENTRIES", 256 * 12)  # 8 row groups of 5 donors: 4 tables
    np.testing.assert_array_equal(crossbar_matmul(plan, x, Grain(), 4), integer_matmul(plan, x))


def test_float32_is_left_when_it_could_round() -> None:
    weights = np.full((1, 2000), 127, np.int32)
    x = np.full((1, 2000), 127, np.int8)
    x[0, 0] = 126
    assert exact_matmul(x, weights)[0, 0] == 127 * (127 * 2000 - 1)  # > 2**24 and odd


@pytest.mark.parametrize(
    ("grain", "adc_bits", "message"),
    [
        (Grain(), 0, "crossbars: adc_bits: must be at least 1, not 0"),
        (Grain(ou_rows=4), 4, "its row groups have 8 rows, an OU has 4"),
        (Grain(weight_bits=2), 4, "a plan of 8-bit weights does not fit a chip of 2-bit weights"),
        (Grain(input_bits=2), 4, "layer small: inputs exceed 2 bits"),
    ],
)
def test_what_does_not_fit_is_said(grain: Grain, adc_bits: int, message: str) -> None:
    plan = _plan([[3] * 8], [list(range(8))])
    with pytest.raises(UserError, match=message):
        crossbar_matmul(plan, np.full((1, 8), 5, np.int8), grain, adc_bits)


def test_inputs_of_another_shape_or_type_are_refused() -> None:
    plan = _plan([[3] * 8], [list(range(8))])
    for inputs in (np.ones((1, 7), np.int8), np.ones((1, 8), np.int32), np.ones(8, np.int8)):
        with pytest.raises(UserError, match=r"must be int8 \[positions, 8\]"):
            crossbar_matmul(plan, inputs, Grain(), 4)
