"""Activation steps by hand, and the rounding rule."""

import numpy as np
import pytest
import torch
from torch import nn

from prap_pim.capture import Captured, capture
from prap_pim.errors import UserError
from prap_pim.quantize import QuantizeConfig, input_steps, quantize_input


def test_rounding_and_clipping_by_hand() -> None:
    x = torch.tensor([0.0, 0.24, 0.25, 0.26, 0.75, 1.25, -0.25, -0.75, 63.4, 63.5, 64.0, -64.0, -64.3, 1e30])
    expected = [0, 0, 0, 1, 2, 2, 0, -2, 127, 127, 127, -128, -128, 127]
    got = quantize_input(x, 0.5)
    assert got.dtype == torch.int8
    assert got.tolist() == expected


def _two_layers() -> Captured:
    """The second layer's input is the first one's output: x times 2 and x times -3, after ReLU."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [-3.0]]))
    return capture(model, torch.zeros(1, 1), "m")


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_largest_magnitude_becomes_127(batch_size: int) -> None:
    images = torch.tensor([[1.0], [5.0], [-2.54], [0.5]])
    steps = input_steps(_two_layers(), images, batch_size)
    assert steps == pytest.approx({"0": 5 / 127, "2": 10 / 127})
    negative = input_steps(_two_layers(), -2 * images, batch_size)
    assert negative == pytest.approx({"0": 10 / 127, "2": 30 / 127})


def test_an_input_that_is_always_zero_gets_a_harmless_step() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.fill_(-1)
        model[0].bias.zero_()
    assert input_steps(capture(model, torch.zeros(1, 1), "m"), torch.ones(3, 1), 2) == {"0": 1 / 127, "2": 1.0}


@pytest.mark.parametrize("per_mille", [600, 990, 999])
def test_percentile_agrees_with_sorting_to_the_width_of_a_bin(per_mille: int) -> None:
    values = np.random.default_rng(0).normal(size=(20000, 1)).astype(np.float32) ** 3
    config = QuantizeConfig(input_percentile=per_mille / 10)
    steps = input_steps(_two_layers(), torch.from_numpy(values), 999, config)
    exact = np.sort(np.abs(values[:, 0]))[20 * per_mille - 1]
    assert exact <= steps["0"] * 127 * (1 + 1e-6)
    assert steps["0"] * 127 <= exact * (1 + 2**-8)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="there are no inputs to calibrate with"):
        input_steps(_two_layers(), torch.zeros(0, 1), 8)
    with pytest.raises(UserError, match="layer 0: its input is NaN or infinite"):
        input_steps(_two_layers(), torch.tensor([[1.0], [float("nan")]]), 8)
    for wrong in (0, 50, 101, float("nan"), "all"):
        with pytest.raises(UserError, match="input_percentile"):
            QuantizeConfig.checked({"input_percentile": wrong}, "config")
    with pytest.raises(UserError, match="did you mean 'input_percentile'"):
        QuantizeConfig.checked({"percentile": 99.9}, "config")
