"""Budgets of energy and time: what settings cost against the cost model and counts by hand, and what budgets buy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.cost import cost
from prap_pim.frontend import Captured
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import GATHER, REQUIRED
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.calibrate.config import LowBits
from prap_pim.methods.calibrate.layer import Setting
from prap_pim.methods.calibrate.network import Calibration, check_budget, prices_of
from prap_pim.methods.calibrate.prices import Charges
from prap_pim.methods.calibrate.survey import most_steps
from prap_pim.methods.prune import dense_weights
from tests.methods.calibrate.networks import CHIP, GRAIN, Normed, Odd, captured_of, compress, digest, images
from tests.strategies import examples

QUANTITIES = ("energy", "latency", "interval")
GATHERING = CHIP.model_copy(update={"accumulate": "gather"})


@pytest.fixture
def charging(tmp_path: Path) -> Callable[..., Chip]:
    """isaac-32nm with a table in which all is free but for some figures."""

    def chip(**figures: float) -> Chip:
        given = {"adc.rate": 1e9, "adc.resolution": 8.0, **figures}
        lines = []
        for component, units in {**REQUIRED, **GATHER}.items():
            lines.append(f"[{component}]")
            for name, unit in units.items():
                value = given.get(f"{component}.{name}", 0.0)
                lines.append(f'{name} = {{ value = {value}, unit = "{unit}", source = "test" }}')
        path = tmp_path / f"table{len(list(tmp_path.iterdir()))}.toml"
        path.write_text("\n".join(lines))
        return CHIP.model_copy(update={"components": str(path)})

    return chip


def figure(captured: Captured, found: Calibration | None, chip: Chip, quantity: str) -> float:
    """By the cost model."""
    plans = {layer.name: dense_weights(layer, chip.grain) for layer in captured.network.layers}
    plans |= found.plans if found else {}
    layers = {name: plan.alone() for name, plan in plans.items()}
    report = cost(captured.network, NetworkPlan("mine", layers, dict.fromkeys(layers, 1.0)), chip)
    return {
        "energy": report.energy_j,
        "latency": report.serial.latency_s,
        "interval": 1 / report.pipelined.throughput_per_s,
    }[quantity]


def share_of(captured: Captured, found: Calibration, chip: Chip, quantity: str) -> float:
    return figure(captured, found, chip, quantity) / figure(captured, None, chip, quantity)


def settings_of(found: Calibration) -> list[Setting]:
    return [layer.setting for layer in found.layers if layer.setting is not None]


def uses_of(found: Calibration) -> int:
    return sum(plan.uses for plan in found.plans.values())


def layer_of(captured: Captured, name: str) -> Layer:
    return next(layer for layer in captured.network.layers if layer.name == name)


def test_a_compute_budget_is_the_compute_ratio(odd: Captured):
    one, other = (compress(odd, images(), **how) for how in ({"compute_ratio": 0.4}, {"budget": {"compute": 0.4}}))
    assert digest(one) == digest(other)
    assert one.layers == other.layers
    assert one.share == other.share <= 0.4


def test_where_only_conversions_cost_a_setting_costs_its_ou_steps(odd: Captured, charging: Callable[..., Chip]):
    """A power for every conversion; 8 columns of an OU, all of which these donors fill."""
    chip = charging(**{"adc.power": 1e-3})
    prices, layer = Charges(odd.network, chip, "energy"), layer_of(odd, "left")
    assert prices.dense["left"] == pytest.approx(12 * 6 * layer.positions * 8)  # row groups, filters, input steps
    for setting in (Setting(1), Setting(4), Setting(2, bits=4), Setting(4, bits=4, uses=2), Setting(6, bits=4)):
        assert prices.of(layer, setting) == pytest.approx(most_steps(layer, setting, GRAIN))
    assert prices.of_use(layer, Setting(3, uses=2)) == 0


@pytest.mark.parametrize("gather", [False, True])
def test_where_only_updates_cost_a_setting_costs_its_uses(odd: Captured, charging: Callable[..., Chip], gather: bool):
    """Of 6 filters and 12 row groups, 90 inputs; to gather, an accumulator is updated once, whatever its uses."""
    chip = charging(**{"partial_sum_buffer.energy_per_write": 1e-12})
    chip = chip.model_copy(update={"accumulate": "gather" if gather else "scatter"})
    layer = layer_of(odd, "left")
    prices = Charges(odd.network, chip, "energy")
    dense = prices.dense["left"]
    assert (layer.filters, layer.rows) == (6, 90)
    assert prices.of(layer, Setting(3)) == pytest.approx(dense)
    once = 1 if gather else (6 * 3 - 1) / 6  # one filter in every row group has a use fewer, so that it needs an index
    assert prices.of(layer, Setting(3, uses=3)) == pytest.approx(dense * once)
    if not gather:
        assert prices.of_use(layer, Setting(3, uses=3)) == pytest.approx(0.1 * dense / (6 * 12))


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("chip", [CHIP, GATHERING])
def test_a_layer_that_keeps_all_costs_what_the_dense_plan_does(normed: Captured, quantity: Any, chip: Chip):
    prices = Charges(normed.network, chip, quantity)
    assert prices.taken({}) == 1
    for layer in normed.network.layers:
        assert prices.of(layer, Setting(layer.filters)) == prices.dense[layer.name]
    assert prices.total(prices.dense.values()) * prices.unit == pytest.approx(figure(normed, None, chip, quantity))


@pytest.mark.parametrize("quantity", ["energy", "latency"])
@pytest.mark.parametrize("chip", [CHIP, GATHERING])
def test_what_settings_are_taken_to_cost_is_near_what_their_plans_cost(odd: Captured, quantity: Any, chip: Chip):
    """No use is too dear for it, so that filters take as many as they may."""
    layers = {layer.name: layer for layer in odd.network.layers}
    prices, near = Charges(odd.network, chip, quantity), {"energy": 0.06, "latency": 0.12}[quantity]
    for bits, uses in ((8, 1), (4, 2), (3, 3)):
        found = compress(odd, images(), compute_ratio=0.34, bits=(bits,), uses=uses, update_weight=0, shapes=(9,))
        real = prices.by_layer(found.plans)
        taken = {x.name: prices.of(layers[x.name], x.setting) for x in found.layers if x.setting is not None}
        assert len(taken) > 2
        assert sum(taken.values()) == pytest.approx(sum(real[name] for name in taken), rel=near), (bits, uses)


@given(st.sampled_from(QUANTITIES), st.floats(0.5, 1), st.booleans(), st.booleans())
@examples(10)
def test_no_budget_is_exceeded(quantity: str, share: float, gather: bool, norms: bool):
    captured, chip = captured_of(Normed if norms else Odd), GATHERING if gather else CHIP
    found = compress(captured, images(10), chip=chip, budget={quantity: share})
    assert found.share == pytest.approx(share_of(captured, found, chip, quantity))
    assert found.share <= share * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["calibrated", "lowbit"])
@pytest.mark.parametrize("quantity", ["energy", "latency"])
def test_a_larger_budget_is_used_and_buys_a_smaller_error(odd: Captured, quantity: str, kind: str):
    low, high = (compress(odd, images(), kind=kind, budget={quantity: share}) for share in (0.5, 0.75))
    assert 0.4 < low.share <= 0.5 < high.share <= 0.75
    assert sum(x.error for x in high.layers) < sum(x.error for x in low.layers)


def test_second_uses_are_taken_where_they_are_free_and_not_where_they_are_dear(
    odd: Captured, charging: Callable[..., Chip]
):
    free, dear = {"adc.power": 1e-3}, {"adc.power": 1e-3, "partial_sum_buffer.energy_per_write": 1e-10}
    how = {"bits": (4,), "shapes": (9,)}
    taken = compress(odd, images(), chip=charging(**free), budget={"energy": 0.3}, **how)
    assert max(setting.uses for setting in settings_of(taken)) == 3
    spared = compress(odd, images(), chip=charging(**dear), budget={"energy": 0.85}, **how)
    assert spared.share <= 0.85
    assert all(setting.uses == 1 for setting in settings_of(spared))  # a second one costs as much as an update of dense
    dense = sum(-(-x.rows // 8) * x.filters for x in odd.network.layers)
    assert uses_of(taken) > 1.2 * dense > uses_of(spared)


def test_every_layer_may_take_all_of_the_interval(odd: Captured):
    """The best of every layer that is quick enough; those that are quick by themselves keep all."""
    prices = Charges(odd.network, CHIP, "interval")
    slowest = max(prices.dense, key=lambda name: prices.dense[name])
    found = compress(odd, images(), budget={"interval": 0.6})
    limit = 0.6 * prices.dense[slowest]
    assert max(prices.by_layer(found.plans).values()) <= limit
    for layer in found.layers:
        assert (layer.setting is None) == (prices.dense[layer.name] <= limit)
    with pytest.raises(UserError) as caught:
        compress(odd, images(), budget={"interval": 0.6}, whole=(slowest,))
    message = "a budget of interval of 0.6 is not possible here: with as few patterns as may be in the layers that are "
    assert f"{message}compressed it is 1.0000, most of it in {slowest} 1.0000, " in str(caught.value)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_least_is_named_and_can_be_met(normed: Captured, quantity: str):
    with pytest.raises(UserError) as caught:
        check_budget(normed.network, LowBits(budget={quantity: 0.01}), CHIP, ())
    message = f"a budget of {quantity} of 0.01 is not possible here: with as few bits as may be it is "
    assert str(caught.value).startswith(message)
    least = float(re.search(r"it is ([\d.]+), most of it in", str(caught.value))[1])
    found = compress(normed, images(), kind="lowbit", budget={quantity: least})
    assert least - 1e-3 < share_of(normed, found, CHIP, quantity) <= least


def test_a_budget_of_nothing_is_refused(odd: Captured, charging: Callable[..., Chip]):
    config = LowBits(budget={"energy": 0.5})
    with pytest.raises(UserError, match="takes no energy"):
        prices_of(odd.network, config, charging())


def test_what_was_taken_is_told():
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16)).eval()
    x = images(80)[:, :, :, :4].flatten(1)
    found = prap_pim.compress(model, x, budget={"energy": 0.5})
    share = prap_pim.estimate(found).energy_j / prap_pim.estimate(model, x[:1]).energy_j
    assert share == pytest.approx(found.calibration.share)
    assert f"energy: {share:.4f} of the dense network's, 0.5 allowed\n" in found.summary()
