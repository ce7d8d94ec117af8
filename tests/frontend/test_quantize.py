"""Grids of activations by hand and against slow loops, and the rounding rule."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.frontend import Captured, Output, capture
from prap_pim.frontend.quantize import (
    LARGEST,
    InputGrid,
    QuantizeConfig,
    SeenInputs,
    channel_energy,
    grid_in,
    grid_of,
    input_grids,
    settled,
)
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.prune import dense_weights
from tests.layers import layer_of
from tests.methods.calibrate.networks import GRAIN
from tests.strategies import examples

SYMMETRIC = QuantizeConfig(input_percentile=100, zero_point=False)


def test_rounding_and_clipping_by_hand() -> None:
    x = torch.tensor([0.0, 0.24, 0.25, 0.26, 0.75, 1.25, -0.25, -0.75, 63.4, 63.5, 64.0, -64.0, -64.3, 1e30])
    expected = [0, 0, 0, 1, 2, 2, 0, -2, 127, 127, 127, -128, -128, 127]
    got = InputGrid(0.5).integers(x)
    assert got.dtype == torch.int8
    assert got.tolist() == expected
    assert InputGrid(0.5).rounded(x).tolist() == [0.5 * each for each in expected]
    before = x.clone()
    InputGrid(0.5, 3).rounded(x)
    assert torch.equal(x, before)


def test_a_zero_moves_the_integers_and_the_ends() -> None:
    x = torch.tensor([0.0, 0.5, 1.0, -0.5, 10.0, 119.0, 127.4, 128.0, -9.0])
    grid = InputGrid(0.5, -128)
    assert grid.integers(x).tolist() == [-128, -127, -126, -128, -108, 110, 127, 127, -128]
    assert grid.rounded(x).tolist() == [0, 0.5, 1, 0, 10, 119, 127.5, 127.5, 0]
    assert torch.equal(grid.rounded(x.double()), grid.rounded(x).double())


@given(st.floats(1e-3, 1e3), st.integers(-128, 127), st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=9))
def test_what_integers_stand_for_is_what_is_rounded_to(step: float, zero: int, values: list[float]) -> None:
    x, grid = torch.tensor(values, dtype=torch.float64), InputGrid(step, zero)
    stands_for = [step * (integer - zero) for integer in grid.integers(x).tolist()]
    np.testing.assert_allclose(grid.rounded(x).numpy(), stands_for, rtol=1e-9, atol=1e-12)


def _two_layers() -> Captured:
    """The second layer's input is the first one's output: x times 2 and x times -3, after ReLU."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [-3.0]]))
    return capture(model, torch.zeros(1, 1), "m")


def steps_of(grids: dict[str, InputGrid]) -> dict[str, float]:
    return {name: grid.step for name, grid in grids.items()}


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_largest_magnitude_becomes_127(batch_size: int) -> None:
    images = torch.tensor([[1.0], [5.0], [-2.54], [0.5]])
    found = input_grids(_two_layers(), images, batch_size, SYMMETRIC)
    assert steps_of(found) == pytest.approx({"0": 5 / 127, "2": 10 / 127})
    assert {grid.zero for grid in found.values()} == {0}
    negative = input_grids(_two_layers(), -2 * images, batch_size, SYMMETRIC)
    assert steps_of(negative) == pytest.approx({"0": 10 / 127, "2": 30 / 127})


@pytest.mark.parametrize("config", [LARGEST, None])
def test_a_zero_point_halves_the_step_of_what_a_relu_gives(config: QuantizeConfig | None) -> None:
    """0 is the integer -128, and the 256 integers span what there is; the other input is symmetric and has none."""
    x = torch.linspace(-5, 5, 2001)[:, None]
    found = input_grids(_two_layers(), x, 300, config)
    assert found["0"] == InputGrid(pytest.approx(5 / 127), 0)
    assert found["2"] == InputGrid(pytest.approx(15 / 255), -128)
    without = QuantizeConfig(input_percentile=config.input_percentile if config else None, zero_point=False)
    plain = input_grids(_two_layers(), x, 300, without)["2"]
    assert plain.zero == 0
    if config is LARGEST:
        assert plain.step / found["2"].step == pytest.approx(255 / 127)


def test_an_input_that_is_always_zero_gets_a_harmless_step() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.fill_(-1)
        model[0].bias.zero_()
    captured = capture(model, torch.zeros(1, 1), "m")
    assert steps_of(input_grids(captured, torch.ones(3, 1), 2, SYMMETRIC)) == pytest.approx({"0": 1 / 127, "2": 1.0})
    for config in (None, LARGEST):
        assert input_grids(captured, torch.ones(3, 1), 2, config)["2"] == InputGrid(1.0, 0)


@pytest.mark.parametrize("per_mille", [600, 990, 999])
def test_percentile_agrees_with_sorting(per_mille: int) -> None:
    values = np.random.default_rng(0).normal(size=(20000, 1)).astype(np.float32) ** 3
    config = QuantizeConfig(input_percentile=per_mille / 10, zero_point=False)
    found = input_grids(_two_layers(), torch.from_numpy(values), 999, config)
    exact = np.sort(np.abs(values[:, 0]))  # the least of which so many are not greater
    assert found["0"].step * 127 == pytest.approx(exact[int(np.ceil(per_mille / 1000 * 19999))], rel=1e-6)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="there are no inputs to calibrate with"):
        input_grids(_two_layers(), torch.zeros(0, 1), 8)
    with pytest.raises(UserError, match="layer 0: its input is NaN or infinite"):
        input_grids(_two_layers(), torch.tensor([[1.0], [float("nan")]]), 8)
    for wrong in (0, 50, 101, float("nan"), "all"):
        with pytest.raises(UserError, match="input_percentile"):
            QuantizeConfig.checked({"input_percentile": wrong}, "config")
    with pytest.raises(UserError, match="did you mean 'input_percentile'"):
        QuantizeConfig.checked({"percentile": 99.9}, "config")


# the grid of least error


def linear(weight: np.ndarray) -> Layer:
    return layer_of(weight.astype(np.float32))


def slow_error(layer: Layer, rows: np.ndarray, grid: InputGrid, norm: int = 2) -> float:
    """Mean over positions of what rounding and clipping do to the outputs, each input's error by itself."""
    total = 0.0
    for row in rows:
        for c, x in enumerate(row):
            integer = min(127, max(-128, round(float(x) / grid.step) + grid.zero))
            error = grid.step * (integer - grid.zero) - float(x)
            square = sum(
                (float(w) * float(s) * error) ** 2 for w, s in zip(layer.matrix[:, c], layer.filter_scale, strict=True)
            )
            total += square ** (norm / 2)
    return float((total / len(rows)) ** (2 / norm))


@given(st.integers(0, 2**32), st.sampled_from([-128, -127, 0, 5, 127]), st.floats(0.001, 0.1), st.sampled_from([2, 4]))
@examples(20)
def test_the_error_of_a_grid_is_that_of_a_loop(seed: int, zero: int, step: float, norm: int) -> None:
    rng = np.random.default_rng(seed)
    layer, rows = linear(rng.normal(size=(3, 4))), rng.normal(size=(20, 4)).astype(np.float32)
    layer.filter_scale[:] = [1, -3, 0.1]
    seen = SeenInputs(layer)
    seen.add(torch.from_numpy(rows))
    grid = InputGrid(step, zero)
    assert seen.error(grid, norm) == pytest.approx(slow_error(layer, rows, grid, norm), rel=1e-3)


def test_the_weights_that_read_each_channel_by_hand() -> None:
    """Two convolution groups of one filter and two channels, a kernel of two positions."""
    weight = np.arange(1, 9, dtype=np.float32).reshape(2, 2, 1, 2)
    one = np.ones(2, np.float32)
    layer = Layer("layer", "conv", weight, 2 * one, one, (4, 1, 3), (2, 1, 2), (), groups=2)
    assert channel_energy(layer).tolist() == [4 * (1 + 4), 4 * (9 + 16), 4 * (25 + 36), 4 * (49 + 64)]


@given(st.integers(0, 2**32), st.sampled_from(["normal", "relu", "heavy", "shifted"]), st.booleans())
@examples(40)
def test_the_grid_of_least_error_is_no_worse_than_that_of_the_largest_value(
    seed: int, kind: str, zero_point: bool
) -> None:
    rng = np.random.default_rng(seed)
    layer, x = linear(rng.normal(size=(5, 8))), rng.normal(size=(400, 8)).astype(np.float32)
    x = {"relu": np.maximum(x, 0), "heavy": x**5, "shifted": x + 4}.get(kind, x)
    grid = grid_of(layer, [torch.from_numpy(x)], QuantizeConfig(zero_point=zero_point))
    largest = grid_of(layer, [torch.from_numpy(x)], SYMMETRIC)
    assert largest.step == pytest.approx(np.abs(x).max() / 127)
    least, plain = (slow_error(layer, x, each) for each in (grid, largest))
    assert least <= plain * (1 + 1e-3)
    if kind == "relu" and zero_point:
        assert grid.zero < -100
        assert least < 0.5 * plain
    if not zero_point:
        assert grid.zero == 0


def test_an_outlier_is_clipped_where_rounding_all_others_finer_is_worth_more() -> None:
    """N values between -1 and 1, one of r: clipped at c they lose (r - c)^2 + N * (c / 127)^2 / 12, least at
    c = r / (1 + N / 127^2 / 12), a third less than at r for the N of here. Ends are tried a fourth root of 2 apart."""
    count, r = 60000, 20.0
    x = torch.rand(count, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[777] = r
    layer = linear(np.ones((1, 1)))
    grid = grid_of(layer, [x], QuantizeConfig(zero_point=False))
    ratio = count / 127**2 / 12
    assert r / (1 + ratio) / 2**0.25 < 127 * grid.step < r / (1 + ratio) * 2**0.25
    least, plain = (slow_error(layer, x.numpy(), InputGrid(step)) for step in (grid.step, r / 127))
    assert least == pytest.approx(r**2 * ratio / (1 + ratio) / count, rel=0.1)
    assert least < 0.85 * plain


def test_a_channel_that_weighs_nothing_may_be_clipped() -> None:
    """One large channel: its range counts by the weights that read it."""
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 15.0])
    heavy, light = (grid_of(linear(np.array([[1.0, w]])), [x], QuantizeConfig()) for w in (1, 1e-4))
    assert heavy.step * 127 > 30
    assert light.step * 127 < 8


@pytest.mark.parametrize("cuts", [[], [1], [100, 5000], [40000]])
def test_a_grid_does_not_depend_on_how_inputs_are_put_into_batches(cuts: list[int]) -> None:
    """More positions than are looked at; as maps, and as rows of a product."""
    x = torch.randn(50000, 3, generator=torch.Generator().manual_seed(0)) ** 3
    layer = linear(np.array([[1.0, 2, 3]]))
    whole = grid_of(layer, [x], QuantizeConfig())
    assert grid_of(layer, list(torch.tensor_split(x, cuts)), QuantizeConfig()) == whole
    assert grid_of(layer, [x.reshape(500, 100, 3)], QuantizeConfig()) == whole
    conv = layer_of(np.array([1.0, 2, 3], np.float32).reshape(1, 3, 1, 1))
    assert grid_of(conv, [x.reshape(500, 10, 10, 3).permute(0, 3, 1, 2)], QuantizeConfig()) == whole


def test_the_largest_value_is_never_overlooked() -> None:
    x = torch.randn(100000, 1, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    for place, config in product((3, 77777), (SYMMETRIC, LARGEST)):
        y = x.clone()
        y[place] = 50
        assert grid_of(linear(np.ones((1, 1))), [y], config).step * 127 >= 25


def test_grids_of_a_plan() -> None:
    layer = linear(np.ones((2, 3)))
    plan = NetworkPlan("m", {layer.name: dense_weights(layer, GRAIN)}, {layer.name: 0.5}, input_zero={layer.name: -7})
    assert grid_in(plan, layer.name) == InputGrid(0.5, -7)


def test_filters_of_other_sizes_keep_their_digits() -> None:
    """Each filter's rounding error is below half a step of its own largest weight, though sizes differ by 1000."""
    weight = np.random.default_rng(0).normal(size=(6, 40)) * np.array([1, 1000, 0.01, 1, 30, 1e-3])[:, None]
    layer = linear(weight)
    found = dense_weights(layer, GRAIN).real_weights()
    largest = np.abs(weight).max(1)
    error = np.abs(found - weight).max(1) / largest
    assert (error <= 0.5 / 127 * 1.001).all()
    np.testing.assert_allclose(dense_weights(layer, GRAIN).step, largest / 127, rtol=1e-6)


@pytest.mark.parametrize("pool", [nn.AdaptiveMaxPool1d(1), nn.Identity()])
def test_ranges_are_chosen_by_what_they_do_to_the_outputs(pool: nn.Module) -> None:
    """One value of 60,000 is large: clipping it loses less of the layer, but all of what a max pool reads on."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 1, 60000, generator=generator) * 2 - 1
    x[:, 0, 777] = 10 * (1 + torch.rand(16, generator=generator))
    conv = nn.Conv1d(1, 1, 1)
    nn.init.ones_(conv.weight)
    captured = capture(nn.Sequential(conv, pool, nn.Flatten()), x[:2], "pooled")
    judges = (Output("0", 0, "values", 1),)
    found = settled(captured, [(x,)], judges, QuantizeConfig(zero_point=False))
    assert (found.norm == 2) == isinstance(pool, nn.Identity)
    asked = QuantizeConfig(norm=4)
    assert settled(captured, [(x,)], judges, asked) == asked
