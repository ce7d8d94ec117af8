"""Chips whose weights and inputs have fewer than 8 bits: plans, crossbars and cost follow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.crossbar import CrossbarModel, LayerCrossbars, integer_matmul
from prap_pim.frontend.quantize import InputGrid, QuantizeConfig
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.plan import NetworkPlan
from prap_pim.runs.crossbars import Crossbars

BASE = load_chip("isaac-32nm")
INPUTS = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def narrow(weights: int, inputs: int, **changes: object) -> Chip:
    grain = replace(BASE.grain, weight_bits=weights, input_bits=inputs)
    return Chip.checked(BASE.model_dump() | {"name": f"{weights}x{inputs}", "grain": grain} | changes, "narrow")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 16)).eval()


@pytest.mark.parametrize("method", [prap_pim.Dense(), prap_pim.Prap(keep=0.5)])
@pytest.mark.parametrize(("weights", "inputs"), [(4, 4), (2, 8), (8, 2), (6, 5), (3, 7)])
def test_plans_crossbars_and_cost_have_the_chips_bits(weights: int, inputs: int, method: object) -> None:
    chip = narrow(weights, inputs)
    found = prap_pim.compress(network(), INPUTS, method, chip=chip)
    assert {plan.weight_bits for plan in found.plan.layers.values()} == {weights}
    assert {plan.input_bits for plan in found.plan.layers.values()} == {inputs}
    random = np.random.default_rng(0)
    for plan in found.plan.layers.values():
        assert np.abs(plan.donors).max() <= 2 ** (weights - 1) - 1
        x = random.integers(-(2 ** (inputs - 1)), 2 ** (inputs - 1), (7, plan.inputs)).astype(np.int8)
        crossbars = LayerCrossbars(plan, CrossbarModel.of(chip))
        np.testing.assert_array_equal(crossbars.matmul(x), integer_matmul(plan, x))
    costs, whole = prap_pim.estimate(found, chip=chip), prap_pim.estimate(network(), INPUTS, chip=BASE)
    if method == prap_pim.Dense():
        assert costs.ou_steps == pytest.approx(whole.ou_steps * weights * inputs / 64)
        conversions = [sum(layer.activity.conversions for layer in each.layers) for each in (costs, whole)]
        assert conversions[0] * 64 == conversions[1] * weights * inputs
        assert costs.stored_cells * 8 == whole.stored_cells * weights


def test_more_bits_are_nearer_to_the_network() -> None:
    noise = [
        prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=narrow(bits, bits)).check.outputs[0].sqnr_db
        for bits in (3, 4, 6, 8)
    ]
    assert noise == sorted(noise)
    assert noise[-1] - noise[0] > 15  # a bit is worth 6 dB at most


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_grid_uses_every_integer_of_its_bits_and_no_other(bits: int) -> None:
    grid = InputGrid(0.5, 0, bits)
    integers = grid.integers(torch.linspace(-200, 200, 4001)).tolist()
    assert sorted(set(integers)) == list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    values = grid.rounded(torch.linspace(-200, 200, 4001))
    assert torch.equal(values, torch.tensor(integers) * 0.5)


def test_bits_of_inputs_may_be_fewer_than_the_chips_layer_by_layer(tmp_path: Path) -> None:
    whole = prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=BASE)
    steps = {layer.name: layer.ou_steps for layer in prap_pim.estimate(whole, chip=BASE).layers}
    for given, bits in ((4, (4, 4)), ({"3": 2}, (8, 2)), ({"0": 6, "*": 3}, (6, 3))):
        found = prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=BASE, quantize={"input_bits": given})
        assert tuple(plan.input_bits for plan in found.plan.layers.values()) == bits
        costs = prap_pim.estimate(found, chip=BASE)
        assert [layer.ou_steps for layer in costs.layers] == [
            s * b // 8 for s, b in zip(steps.values(), bits, strict=True)
        ]
        found.plan.save(tmp_path / "plan.safetensors")
        again = NetworkPlan.load(tmp_path / "plan.safetensors")
        assert tuple(plan.input_bits for plan in again.layers.values()) == bits
        assert again.digest() == found.plan.digest() != whole.plan.digest()
    some = prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=narrow(8, 4), quantize={"input_bits": {"0": 3}})
    assert [plan.input_bits for plan in some.plan.layers.values()] == [3, 4]
    with pytest.raises(UserError, match=r"input_bits must be a whole number in 2\.\.8"):
        replace(next(iter(whole.plan.layers.values())), input_bits=9)
    with pytest.raises(UserError, match=r"quantize.input_bits: there is no layer 'fc'"):
        prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=BASE, quantize={"input_bits": {"fc": 4}})
    with pytest.raises(UserError, match=r"chip 8x4: its inputs have 4 bits \(input_bits\); 6 are needed"):
        prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=narrow(8, 4), quantize={"input_bits": 6})
    assert QuantizeConfig().on(BASE) == QuantizeConfig()


def test_what_a_narrow_chip_cannot() -> None:
    with pytest.raises(UserError, match="its inputs have 1 bits"):
        prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=narrow(8, 1))
    with pytest.raises(UserError, match=r"chip 1x8: its weights have 1 bit \(weight_bits\); 2 are needed"):
        prap_pim.compress(network(), INPUTS, prap_pim.Calibrated(compute_ratio=0.5), chip=narrow(1, 8))
    with pytest.raises(UserError, match=r"calibrated reuse: chip 4x8 has weights of 4 bits, not 5: bits=\[4, 2\]"):
        prap_pim.compress(network(), INPUTS, prap_pim.Calibrated(compute_ratio=0.5, bits=[5, 4, 2]), chip=narrow(4, 8))
    with pytest.raises(UserError, match=r"lowbit: chip 4x8 has weights of 4 bits, not 8: bits=\[2\]"):
        prap_pim.compress(network(), INPUTS, prap_pim.LowBit(compute_ratio=0.75, bits=[8, 2]), chip=narrow(4, 8))


def all_kinds() -> nn.Module:
    """A convolution, a depthwise one, a pointwise one, a linear layer."""
    torch.manual_seed(0)
    body = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()
    return nn.Sequential(*body, nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 10)).eval()


BUDGETS = [{"compute_ratio": 0.6}, {"budget": {"energy": 0.7}}]


@pytest.mark.parametrize("given", BUDGETS)
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_donors_have_at_most_the_chips_bits(bits: int, given: dict[str, object]) -> None:
    """And so has every layer that keeps its patterns. Budgets are of what the network takes dense on this chip."""
    chip = narrow(bits, 8)
    found = prap_pim.compress(all_kinds(), INPUTS, prap_pim.Calibrated(**given), chip=chip)
    costs = prap_pim.estimate(found, chip=chip)
    dense = prap_pim.estimate(prap_pim.compress(all_kinds(), INPUTS, prap_pim.Dense(), chip=chip), chip=chip)
    taken = costs.ou_steps / dense.ou_steps if "compute_ratio" in given else costs.energy_j / dense.energy_j
    assert 0.4 < taken <= next(iter(BUDGETS[0].values())) + 0.1 * ("budget" in given)
    random = np.random.default_rng(0)
    for plan in found.plan.layers.values():
        assert plan.weight_bits <= bits
        assert np.abs(plan.donors).max() <= 2 ** (plan.weight_bits - 1) - 1
        x = random.integers(-128, 128, (7, plan.inputs)).astype(np.int8)
        groups, fan_in = plan.inputs // plan.fan_in, plan.fan_in
        cut = x.astype(np.int64).reshape(7, groups, fan_in), plan.weights().reshape(groups, -1, fan_in)
        wanted = np.einsum("pgi,gfi->pgf", *cut).reshape(7, -1)
        np.testing.assert_array_equal(LayerCrossbars(plan, CrossbarModel.of(chip)).matmul(x), wanted)


@pytest.mark.parametrize(("bits", "offered"), [(2, {2}), (4, {3, 4}), (7, {3, 4, 5, 7})])
def test_bits_that_nobody_chose_fit_the_chip(bits: int, offered: set[int]) -> None:
    """7: a layer that keeps all has the chip's."""
    found = prap_pim.compress(all_kinds(), INPUTS, prap_pim.Calibrated(compute_ratio=0.9), chip=narrow(bits, 8))
    assert {plan.weight_bits for plan in found.plan.layers.values()} <= offered
    own = prap_pim.compress(all_kinds(), INPUTS, prap_pim.LowBit(compute_ratio=1.0), chip=narrow(bits, 8))
    assert {plan.weight_bits for plan in own.plan.layers.values()} == {bits}  # as near as the budget allows


def test_a_narrow_chip_does_better_with_calibration_than_by_rounding() -> None:
    """All of a 4-bit chip's OU steps spent on calibrated reuse: nearer to the network than nearest rounding."""
    chip = narrow(4, 8)
    methods = prap_pim.Dense(), prap_pim.Calibrated(compute_ratio=0.9), prap_pim.Calibrated(compute_ratio=0.4)
    dense, most, few = (prap_pim.compress(network(), INPUTS, each, chip=chip) for each in methods)
    assert most.check.outputs[0].sqnr_db > dense.check.outputs[0].sqnr_db + 1
    assert few.check.outputs[0].sqnr_db < most.check.outputs[0].sqnr_db - 3


def test_a_layer_left_whole_is_rounded_to_the_chips_bits() -> None:
    found = prap_pim.compress(network(), INPUTS, prap_pim.Calibrated(compute_ratio=0.6), chip=narrow(4, 8), skip=["0"])
    assert found.calibration is not None
    assert [layer.setting is None for layer in found.calibration.layers] == [True, False]
    assert next(iter(found.plan.layers.values())).weight_bits == 4


def test_cells_of_a_simulation_may_have_other_bits() -> None:
    """What a plan is does not depend on how its weights are cut into cells, nor inputs into steps."""
    chip = narrow(8, 8)
    model = Crossbars(
        {"grain": {"cell_bits": 2, "dac_bits": 4}, "adc_bits": 9}, {"grain.cell_bits": "--set"}, ""
    ).model(chip)
    assert (model.grain.cell_bits, model.grain.dac_bits, model.weight_encoding) == (2, 4, "offset")
    found = prap_pim.compress(network(), INPUTS, prap_pim.Dense(), chip=chip)
    x = np.random.default_rng(0).integers(-128, 128, (5, 9)).astype(np.int8)
    plan = next(iter(found.plan.layers.values()))
    np.testing.assert_array_equal(LayerCrossbars(plan, model).matmul(x), integer_matmul(plan, x))
