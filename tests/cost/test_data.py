"""Energy that depends on data: what is scaled by what, and that uniform data cost what the tables say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.cost import CostReport, cost, priced_by_data
from prap_pim.hardware.chip import load_chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.network import Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.ir.rates import DataRates
from tests.crossbar.plans import dense_plan
from tests.layers import layer_of


def report_of(rows: int = 12) -> CostReport:
    """A layer of two row groups, of 8 and ``rows - 8`` rows, and three filters."""
    layer = layer_of(np.ones((3, rows), np.float32), "a")
    plan = NetworkPlan("dense", {"a": dense_plan("a", layer.matrix)}, {"a": 1.0})
    return cost(Network("net", (layer,)), plan, load_chip("isaac-32nm"))


def rates(rows: tuple[float, float], cells: tuple[float, float], conversions: tuple[float, float]) -> DataRates:
    return DataRates(*(np.array(each) for each in (rows, cells, conversions)))


def test_each_energy_is_scaled_by_its_own_rate() -> None:
    report, table = report_of(), load_table("isaac-32nm")
    found = priced_by_data(report, {"a": rates((0.5, 0.2), (0.25, 1.0), (0.5, 1.5))})
    before, after = report.energy_breakdown_j, found.energy_breakdown_j
    raised = (8 * 0.5 + 4 * 0.2) / 12  # rows of the first group and of the second, both read as often
    assert after["dac"] == pytest.approx(before["dac"] * raised)
    assert after["crossbar"] == pytest.approx(before["crossbar"] * (8 * 0.25 + 4 * 1.0) / 12)
    for component in ("adc", "sample_and_hold", "shift_add"):
        assert after[component] == pytest.approx(before[component])  # 0.5 and 1.5 of equally many columns
    drives = report.layers[0].activity.row_drives * table("input_register", "energy_per_drive")
    assert before["input_register"] - after["input_register"] == pytest.approx(drives * (1 - raised))
    same = set(before) - {"dac", "crossbar", "adc", "sample_and_hold", "shift_add", "input_register"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert found.energy_j == pytest.approx(found.layers[0].energy_j)
    assert (found.pipelined, found.serial, found.ou_steps) == (report.pipelined, report.serial, report.ou_steps)
    assert len(found.conventions) == len(report.conventions) + 1


def test_uniform_rates_change_nothing() -> None:
    report = report_of()
    found = priced_by_data(report, {"a": rates((1, 1), (1, 1), (1, 1))})
    assert found.energy_breakdown_j == pytest.approx(report.energy_breakdown_j, rel=1e-12)


def test_rates_of_another_plan_are_refused() -> None:
    with pytest.raises(UserError, match="layer a: the rates of its data are missing"):
        priced_by_data(report_of(), {})
    with pytest.raises(UserError, match="layer a: the rates of its data are missing, or of another plan"):
        priced_by_data(report_of(20), {"a": rates((1, 1), (1, 1), (1, 1))})


def test_estimate_with_data() -> None:
    """Random weights and inputs of all int8 values cost what the tables say, but for chance; small positive inputs, as
    they come behind a ReLU, raise fewer rows and cost less; none at all cost least, and still buffers and sums."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.randint(-127, 128, (32, 64)) / 127)
    uniform = torch.randint(-128, 128, (200, 64)) / 127
    dense = prap_pim.compress(model, uniform, "dense", quantize={"input_percentile": 100.0, "zero_point": False})
    table = prap_pim.estimate(dense)
    assert prap_pim.estimate(dense, data=uniform).energy_breakdown_j == pytest.approx(
        table.energy_breakdown_j, rel=0.02
    )
    small = prap_pim.estimate(dense, data=uniform.clamp(0, 0.1))
    none = prap_pim.estimate(dense, data=torch.zeros(2, 64))
    assert 0 < none.energy_j < small.energy_j < 0.8 * table.energy_j
    assert [none.energy_breakdown_j[key] for key in ("adc", "dac", "crossbar")] == [0, 0, 0]
    batches = [(uniform[:100],), (uniform[100:],)]
    assert prap_pim.estimate(dense, data=batches).energy_j == prap_pim.estimate(dense, data=uniform).energy_j
    assert prap_pim.estimate(dense, data=uniform.numpy(), timing="events").energy_j < table.energy_j * 1.02
    with pytest.raises(UserError, match="data are of a compression"):
        prap_pim.estimate(model, uniform, data=uniform)
    with pytest.raises(UserError, match="leave phase out"):
        prap_pim.estimate(dense, data=uniform, phase="decode")
    with pytest.raises(UserError, match=r"does not run on inputs \[2, 63\]: "):
        prap_pim.estimate(dense, data=uniform[:2, :63])


def test_another_chip_with_the_same_ous() -> None:
    """The data are measured anew for it: two-bit DACs are another grain, and refused; other components are not."""
    model, x = nn.Sequential(nn.Linear(16, 8)).eval(), torch.rand(8, 16)
    found = prap_pim.compress(model, x, "dense")
    for name in ("isaac-32nm", "prap-2023", "survey-32nm"):
        chip = load_chip(name)
        assert prap_pim.estimate(found, chip=chip, data=x).energy_j < prap_pim.estimate(found, chip=chip).energy_j
    other = chip.model_copy(update={"grain": replace(chip.grain, dac_bits=2)})
    with pytest.raises(UserError, match="other OUs"):
        prap_pim.estimate(found, chip=other, data=x)
