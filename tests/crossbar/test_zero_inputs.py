"""Rates of zero inputs: by hand, and against one position, step and row at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from prap_pim.common.errors import UserError
from prap_pim.crossbar import compressed_model, zero_input_rates
from prap_pim.frontend import Captured, capture
from prap_pim.frontend.quantize import InputGrid, input_grids
from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.methods.prune import OrcPruning, prune
from tests.crossbar.plans import dense_network_plan, dense_plan, network_plan
from tests.reference.zero_inputs import slow_zero_input_rates
from tests.strategies import examples, layer_plans


def linear(inputs: int, filters: int = 2) -> Captured:
    return capture(nn.Sequential(nn.Linear(inputs, filters)), torch.zeros(1, inputs), "m")


def rates_of(plan: LayerPlan, integers: np.ndarray, grain: Grain, batch_size: int = 50) -> np.ndarray:
    """Of a linear layer whose inputs are ``integers`` [positions, inputs]."""
    network = NetworkPlan("any", {"0": plan}, {"0": 0.25})
    images = torch.from_numpy(integers).float() * 0.25
    return zero_input_rates(linear(plan.inputs, plan.filters), network, images, grain, batch_size)["0"]


def test_by_hand() -> None:
    plan = dense_plan("0", np.ones((2, 5), np.float32), height=2)  # row groups 0 1, 2 3, 4
    integers = np.array([[1, 2, 0, 0, 3], [0, 0, 0, 8, -1], [4, 4, 0, 0, -128]])
    # steps with a bit set. Group 0: {0, 1}, {}, {2}: 3 of 24. Group 1: {}, {3}, {}: 1. Group 2: {0, 1}, all 8, {7}: 11
    np.testing.assert_array_equal(rates_of(plan, integers, Grain(ou_rows=2)), [21 / 24, 23 / 24, 13 / 24])
    # two bits a step: the inputs plus 128, whose top digit is 2 for 0..63, so unused rows alone leave it at 0
    # group 0: {0, 3}, {3}, {1, 3}: 5 of 12. Group 1: {3}, {1, 3}, {3}: 4. Group 2: 131 {0, 3}, 127 {0, 1, 2, 3}, 0 {}
    coarse = rates_of(plan, integers, Grain(ou_rows=2, dac_bits=2))
    np.testing.assert_array_equal(coarse, [7 / 12, 8 / 12, 6 / 12])


def test_padding_is_an_input_of_zero() -> None:
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
    captured = capture(nn.Sequential(conv), torch.zeros(1, 1, 1, 2), "m")
    plan = dense_plan("0", np.ones((1, 3), np.float32), height=2)  # row groups: left and middle; right
    network = NetworkPlan("any", {"0": plan}, {"0": 1.0})
    images = torch.tensor([[[[1.0, 127.0]]]])
    # position 0 sees 0, 1 | 127 and position 1 sees 1, 127 | 0: 1 and 7 steps are driven; 7 and none
    rates = zero_input_rates(captured, network, images, Grain(ou_rows=2))["0"]
    np.testing.assert_array_equal(rates, [8 / 16, 9 / 16])
    # two bits a step: 0 is driven as 128 (step 3 alone), 1 as 129 (0 and 3), 127 as 255 (all)
    coarse = zero_input_rates(captured, network, images, Grain(ou_rows=2, dac_bits=2))["0"]
    np.testing.assert_array_equal(coarse, [2 / 8, 3 / 8])


@examples(40)
@given(st.data())
def test_any_plan_as_the_slow_version(data: st.DataObject) -> None:
    plan = data.draw(layer_plans(inputs=7, filters=2))
    plan = LayerPlan(**{**vars(plan), "name": "0"})
    bits = data.draw(st.sampled_from([1, 3, 4, 8, 10, 16, 20]))
    grain = Grain(ou_rows=4, input_bits=bits, dac_bits=data.draw(st.integers(1, min(bits, 5))))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    limit = 1 << min(bits, 8) - 1
    integers = random.integers(-limit if data.draw(st.booleans()) else 0, limit, (data.draw(st.integers(1, 20)), 7))
    integers = integers * (random.random(integers.shape) < 0.4)
    rates = rates_of(plan, integers, grain, data.draw(st.sampled_from([3, 50])))
    assert rates.dtype == np.float64
    np.testing.assert_array_equal(rates, slow_zero_input_rates(plan.rows, integers.astype(np.int8), grain))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(7, 3, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def captured(images: Tensor) -> Captured:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
    model.extend([nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 1)), nn.ReLU(), nn.Flatten()])
    return capture(model.append(nn.Linear(30, 4)).eval(), images[:1], "net")


def orc_plan(captured: Captured, grids: dict[str, InputGrid]) -> NetworkPlan:
    plans = {}
    for layer in captured.network.layers:
        patterns = prune(OrcPruning(ratio=0.4), layer, Grain())
        every = ReuseMap.none(patterns)
        plans[layer.name] = plan_weights(layer.name, layer.matrix, patterns, every).scaled(
            layer.filter_scale, layer.filter_bias
        )
    return network_plan("orc", plans, grids)


@pytest.mark.parametrize("make", [dense_network_plan, orc_plan])
@pytest.mark.parametrize("at_a_time", [1, 1 << 22])
def test_a_network_as_the_slow_version(
    captured: Captured,
    images: Tensor,
    make: Callable[[Captured, dict[str, InputGrid]], NetworkPlan],
    at_a_time: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prap_pim.crossbar.zero_inputs.BYTES_AT_A_TIME", at_a_time)
    plan = make(captured, input_grids(captured, images, 10))
    rates = zero_input_rates(captured, plan, images, Grain(), 3)
    model = compressed_model(captured, plan)
    seen: dict[str, list[Tensor]] = {name: [] for name in plan.layers}
    for name, inputs in seen.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0]))
    with torch.no_grad():
        for batch in torch.split(images, 3):  # floats may depend on the batch
            model(batch)
    assert list(rates) == ["0", "4", "7"]
    assert any(plan.input_zero.values())
    for name, rate in rates.items():
        zero = plan.input_zero[name]
        x = torch.clamp(torch.round(torch.cat(seen[name]) / plan.input_step[name]) + zero, -128, 127)
        module = captured.module.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            vertical, horizontal = module.padding
            x = functional.pad(x, (horizontal, horizontal, vertical, vertical), value=zero)
            x = functional.unfold(x, module.kernel_size, module.dilation, 0, module.stride)
            x = x.transpose(1, 2).flatten(0, 1)
        slow = slow_zero_input_rates(plan.layers[name].rows, x.numpy().astype(np.int8), Grain())
        np.testing.assert_array_equal(rate, slow)
        assert 0 < rate.mean() < 1


def test_mistakes(captured: Captured, images: Tensor) -> None:
    plan = dense_network_plan(captured, input_grids(captured, images, 10))
    with pytest.raises(UserError, match="no calibration images"):
        zero_input_rates(captured, plan, images[:0], Grain())
    with pytest.raises(UserError, match="layer 0: inputs exceed 4 bits"):
        zero_input_rates(captured, plan, images, Grain(input_bits=4))
    with pytest.raises(UserError, match="does not fit network"):
        zero_input_rates(linear(5), plan, images, Grain())
