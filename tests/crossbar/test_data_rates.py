"""What data make of rows, cells and conversions: by hand, of uniform data, one position, step and cell at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.crossbar import CrossbarModel, data_rates, zero_input_rates
from prap_pim.frontend import capture
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.ir.rates import DataRates
from tests.crossbar.plans import dense_plan, network_plan
from tests.reference.crossbar import signed_digits
from tests.reference.zero_inputs import slow_zero_input_rates
from tests.strategies import examples, layer_plans


def rates_of(plan: LayerPlan, integers: np.ndarray, model: CrossbarModel) -> DataRates:
    """Of a linear layer whose inputs are ``integers`` [positions, inputs]."""
    captured = capture(nn.Sequential(nn.Linear(plan.inputs, plan.filters)), torch.zeros(1, plan.inputs), "m")
    network = NetworkPlan("any", {"0": plan}, {"0": 0.25})
    return data_rates(captured, network, torch.from_numpy(integers).float() * 0.25, model)["0"]


def model_of(height: int, **changes: object) -> CrossbarModel:
    encoding = changes.pop("encoding", None)
    return CrossbarModel(grain=Grain(ou_rows=height, **changes), adc_bits=12, encoding=encoding)


def test_by_hand() -> None:
    plan = dense_plan("0", np.array([[127, 0, 127]], np.float32), height=2)  # row groups 0 1 and 2
    rates = rates_of(plan, np.array([[1, 3, 0], [0, 1, -1]]), model_of(2))
    # 2 positions of 8 steps. Group 0: bits 1 + 2 and 0 + 1 of 2 x 16, of which uniform data set half; 3 steps of 16
    # have a row raised, of uniform data 3 in 4. Its cells: row 0 has 7 of 8 bits, its only bit over them; row 1 none
    np.testing.assert_allclose(rates.rows, [4 / 16, 8 / 8])
    np.testing.assert_allclose(rates.conversions, [(3 / 16) / (3 / 4), (8 / 16) / (1 / 2)])
    np.testing.assert_allclose(rates.cells, [1 * 7 / (2 * 16 * 8 / 4), 8 * 7 / (16 * 8 / 4)])


@pytest.mark.parametrize("encoding", ["two's complement", "offset", "differential"])
@pytest.mark.parametrize(("cells", "dac"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_of_uniform_data_all_are_1(encoding: str, cells: int, dac: int) -> None:
    """Every pair of inputs of two rows, and in each row every weight."""
    if encoding == "two's complement" and cells > 1:
        return
    values = np.arange(-127 if encoding == "differential" else -128, 128)
    weights = np.stack([values, np.roll(values, 77)], axis=1).astype(np.int8)
    plan = dense_plan("0", np.ones((len(values), 2), np.float32), height=2)
    plan = LayerPlan(**{**vars(plan), "donors": weights})
    pairs = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), axis=-1).reshape(-1, 2)
    rates = rates_of(plan, pairs, model_of(2, cell_bits=cells, dac_bits=dac, encoding=encoding))
    for found in vars(rates).values():
        np.testing.assert_allclose(found, [1.0], rtol=1e-12)


@examples(40)
@given(st.data())
def test_any_plan_as_one_cell_at_a_time(data: st.DataObject) -> None:
    plan = LayerPlan(**{**vars(data.draw(layer_plans(inputs=7, filters=2))), "name": "0"})
    dac, cell = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    integers = random.integers(-128, 128, (data.draw(st.integers(1, 6)), 7)) * (random.random(7) < 0.6)
    model = model_of(4, dac_bits=dac, cell_bits=min(cell, plan.weight_bits))
    rates, grain = rates_of(plan, integers, model), model.grain
    widths = [min(dac, 8 - dac * step) for step in range(grain.input_steps)]
    steps = len(integers) * len(widths)
    codes = range(-(2 ** (plan.weight_bits - 1)), 2 ** (plan.weight_bits - 1))
    cells_of = [signed_digits(code, plan.weight_bits, grain.cell_bits)[0] for code in codes]
    of_cell = np.mean([level for levels in cells_of for level in levels])
    zero = slow_zero_input_rates(plan.rows, integers.astype(np.int8), grain)
    for group in range(plan.groups):
        rows = [row for row in plan.rows[group] if row >= 0]
        digits = [signed_digits(int(x[row]), 8, dac)[0] for x in integers for row in rows]
        donors = range(plan.donor_start[group], plan.donor_start[group + 1])
        if not rows:
            assert rates.rows[group] == rates.cells[group] == rates.conversions[group] == 1
            continue
        raised = sum(digit != 0 for each in digits for digit in each)
        expected = steps * len(rows) * np.mean([1 - 2.0**-width for width in widths])
        assert rates.rows[group] == pytest.approx(raised / expected)
        expected = 1 - np.mean([2.0 ** (-width * len(rows)) for width in widths])
        assert rates.conversions[group] == pytest.approx((1 - zero[group]) / expected)
        current = columns = 0
        for donor in donors:
            for place, row in enumerate(plan.rows[group]):
                if row >= 0:
                    levels = signed_digits(int(plan.donors[donor, place]), plan.weight_bits, grain.cell_bits)[0]
                    columns += len(levels)
                    for x in integers:
                        current += sum(signed_digits(int(x[row]), 8, dac)[0]) * sum(levels)
        if columns:
            expected = columns * steps * np.mean([(2**width - 1) / 2 for width in widths]) * of_cell
            assert rates.cells[group] == pytest.approx(current / expected)


@pytest.mark.parametrize(
    ("zero", "values", "bits"),
    [(0, [1.0, 127.0], 1 + 7 + 1 + 7), (5, [1.0, 3.0], 2 * (2 + 2 + 1))],  # windows 5 6 8 and 6 8 5
)
def test_padding_counts_as_an_input_of_zero(zero: int, values: list[float], bits: int) -> None:
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
    captured = capture(nn.Sequential(conv), torch.zeros(1, 1, 1, 2), "m")
    grid = InputGrid(1.0, zero)
    plan = network_plan("any", {"0": dense_plan("0", np.ones((1, 3), np.float32), height=4)}, {"0": grid})
    images = torch.tensor([[[values]]])
    rates = data_rates(captured, plan, images, model_of(4))["0"]
    np.testing.assert_allclose(rates.rows, [bits / (2 * 3 * 8 / 2)])
    zeros = zero_input_rates(captured, plan, images, Grain(ou_rows=4))["0"]
    np.testing.assert_allclose(rates.conversions, (1 - zeros) / (1 - 1 / 8))


def test_without_inputs() -> None:
    plan = dense_plan("0", np.ones((1, 3), np.float32), height=2)
    with pytest.raises(UserError, match="no calibration images"):
        rates_of(plan, np.zeros((0, 3)), model_of(2))
