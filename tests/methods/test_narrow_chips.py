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
    with pytest.raises(UserError, match="calibrated reuse needs a chip whose weights have 8 bits; those of 4x8 have 4"):
        prap_pim.compress(network(), INPUTS, prap_pim.Calibrated(compute_ratio=0.5), chip=narrow(4, 8))
    with pytest.raises(UserError, match=r"chip 4x8 has weights of 4 bits, not 8, 6: bits=\[4, 3, 2\]"):
        prap_pim.compress(network(), INPUTS, prap_pim.LowBit(compute_ratio=0.75), chip=narrow(4, 8))
    fits = prap_pim.compress(network(), INPUTS, prap_pim.LowBit(bits=[4, 3, 2], compute_ratio=0.75), chip=narrow(4, 8))
    assert fits.compute_ratio <= 0.75
    assert {plan.weight_bits for plan in fits.plan.layers.values()} <= {2, 3, 4}


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
