"""A whole network: the budget is kept, errors and drop are what they are said to be, and trouble of every kind."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.frontend import Captured, capture
from prap_pim.frontend.quantize import InputGrid
from prap_pim.frontend.weights import put_weights
from prap_pim.hardware.chip import load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.methods.calibrate.config import CalibratedReuse
from prap_pim.methods.calibrate.network import Calibration, check_budget
from prap_pim.methods.prune import dense_weights
from tests.methods.calibrate.networks import (
    CHIP,
    GRAIN,
    Normed,
    Odd,
    captured_of,
    compress,
    digest,
    images,
    on_grid,
    plan_ous,
    plan_ratio,
    with_plans,
)
from tests.reference.calibrate import slow_cost, slow_covariance
from tests.reference.im2col import im2col


def inputs_of(module: nn.Module, names: list[str], x: Tensor, int8: bool) -> tuple[dict[str, Tensor], Tensor]:
    """What each layer reads, rounded to int8, and what the network gives; with ``int8``, what ``names`` read really is
    rounded, in order."""
    module, seen = copy.deepcopy(module), {}

    def note(name: str, x: Tensor) -> Tensor:
        seen[name] = on_grid(x)
        return seen[name] if int8 else x

    for name in names:
        module.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: (note(name, x[0]),))
    with torch.no_grad():
        return seen, module(x)


def rows_of(layer: Layer, x: Tensor) -> np.ndarray:
    """im2col rows of real numbers."""
    return im2col(layer, x.double().numpy())


def names_of(captured: Captured) -> list[str]:
    return [layer.name for layer in captured.network.layers]


def changed_in(found: Calibration) -> list[str]:
    return [layer.name for layer in found.layers if layer.changed]


def since_the_first_change(found: Calibration) -> list[str]:
    """Layers that read int8 while the others are compressed."""
    names = [layer.name for layer in found.layers]
    return names[names.index(changed_in(found)[0]) :]


def all_inputs(module: nn.Module, captured: Captured, found: Calibration, x: Tensor) -> dict[str, Tensor]:
    """What each layer of a compressed network reads while it is compressed, as int8 has it."""
    plain, _ = inputs_of(module, names_of(captured), x, int8=False)
    return plain | inputs_of(module, since_the_first_change(found), x, int8=True)[0]


def same_state(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_a_budget_below_the_least_of_whole_kernels_is_told_what_shapes_reach():
    """8 filters of 16 channels: 18 blocks of 8 rows of 3x3 kernels, or 8 of 2 channels with 4 positions each."""
    network = capture(nn.Sequential(nn.Conv2d(16, 8, 3, padding=1)), torch.rand(1, 16, 4, 4), "one").network
    for shapes, least, told in (((9,), "0.1250", "; with shapes=[9, 4] it is 0.0556"), ((9, 4), "0.0556", "")):
        with pytest.raises(UserError) as caught:
            check_budget(network, CalibratedReuse(compute_ratio=0.05, shapes=shapes), CHIP, ())
        assert str(caught.value).endswith(f"as may be it is {least}, most of it in 0 {least}{told}")


@pytest.mark.parametrize("kind", [Odd, Normed])
@pytest.mark.parametrize("shapes", [(9,), (8, 4)])
def test_no_plan_takes_more_than_it_may(kind: type[nn.Module], shapes: tuple[int, ...]):
    captured = captured_of(kind)
    before = copy.deepcopy(captured.module.state_dict())
    for ratio in (0.6, 0.25):
        found = compress(captured, images(10), compute_ratio=ratio, shapes=shapes)
        assert [layer.name for layer in found.layers] == names_of(captured)
        assert list(found.plans) == changed_in(found)
        assert plan_ratio(captured, found) <= ratio
        for layer, network_layer in zip(found.layers, captured.network.layers, strict=True):
            assert layer.sensitivity >= 0
            assert 0 <= layer.error < 1
            if not layer.changed:
                assert (layer.setting, layer.error) == (None, 0)
                continue
            plan = found.plans[layer.name]
            assert (plan.filters, plan.inputs) == network_layer.matrix.shape
            if layer.setting is None:
                assert plan_ous(plan) == GRAIN.row_groups(plan.inputs) * plan.filters
                assert layer.error > 0
            elif layer.setting.positions is None:
                assert plan.donors_per_group.max() <= layer.setting.donors <= network_layer.filters
                assert plan.weight_bits == layer.setting.bits in (3, 4, 5)
            else:
                assert layer.setting.positions in shapes
                assert network_layer.weight.shape[2:] == (3, 3)
    after = captured.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_more_steps_are_used(odd: Captured):
    """Not only kept: a budget is used, and what it buys is a smaller error."""
    found = {ratio: compress(odd, images(), compute_ratio=ratio) for ratio in (0.3, 0.7)}
    assert all(0.6 * ratio < plan_ratio(odd, of) for ratio, of in found.items())
    total = {ratio: sum(layer.error for layer in of.layers) for ratio, of in found.items()}
    assert total[0.7] < total[0.3]


def test_the_whole_budget_leaves_all_patterns(odd: Captured):
    found = compress(odd, images(), compute_ratio=1)
    assert not any(layer.changed or layer.setting for layer in found.layers)
    assert found.plans == {}
    assert same_state(found.rebuilt.module, odd.module)
    assert found.drop < 0.1  # int8 alone


@pytest.mark.parametrize("kind", [Odd, Normed])
def test_layers_left_whole_stay_so(kind: type[nn.Module]):
    captured = captured_of(kind)
    names = names_of(captured)
    for whole in ((names[0],), (names[1], names[-1]), tuple(names[1:])):
        found = compress(captured, images(), compute_ratio=0.9, whole=whole)
        assert plan_ratio(captured, found) <= 0.9
        for layer in found.layers:
            if layer.name in whole:
                assert (layer.setting, layer.error, layer.sensitivity) == (None, 0, None)
                assert layer.name not in found.plans
                own, other = (net.get_submodule(layer.name) for net in (found.rebuilt.module, captured.module))
                assert same_state(own, other)
        assert any(layer.setting is not None for layer in found.layers)
    assert compress(captured, images(), compute_ratio=1, whole=tuple(names)).plans == {}


def test_a_layer_with_all_its_patterns_makes_good_what_came_before():
    """More budget, less error on inputs that were not seen: also where it keeps one of two layers whole."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    captured, unseen = capture(model, torch.randn(2, 16), "two"), torch.randn(500, 16)
    x, errors = torch.randn(256, 16), []
    for ratio in (0.7, 0.8):
        found = compress(captured, x, compute_ratio=ratio)
        with torch.no_grad():
            errors.append(float((with_plans(captured, found)(unseen) - model(unseen)).square().mean()))
    assert [layer.setting is None for layer in found.layers] == [False, True]
    assert found.layers[1].changed
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("mimic", [0.0, 1.0])
def test_the_first_layers_error_is_recomputed(odd: Captured, mimic: float):
    """Nothing comes before it: its target is its own weight, in the covariance of the inputs as int8 sees them."""
    x = images(9)
    found = compress(odd, x, compute_ratio=0.3, mimic=mimic, damping=0.05)
    layer, said = odd.network.layers[0], found.layers[0]
    assert said.setting is not None
    rows = im2col(layer, InputGrid(float(x.abs().max()) / 127).integers(x).numpy())
    hessian = slow_covariance(rows, rows)
    hessian += 0.05 * np.diag(hessian).mean() * np.eye(len(hessian))
    ones = np.ones(layer.filters)
    error = found.plans[layer.name].real_weights() - layer.matrix
    relative = slow_cost(error, hessian, ones) / slow_cost(layer.matrix.astype(np.float64), hessian, ones)
    assert said.error == pytest.approx(relative, rel=1e-5)


@pytest.mark.parametrize("mimic", [0.0, 0.3, 1.0])
def test_every_layers_error_is_recomputed(odd: Captured, mimic: float):
    """Its target: the weights of ridge regression from what it reads now to what it gave in the original network."""
    x = images(12)
    found = compress(odd, x, compute_ratio=0.3, mimic=mimic, damping=0.01)
    before, _ = inputs_of(odd.module, names_of(odd), x, int8=False)
    after = all_inputs(with_plans(odd, found), odd, found, x)
    for layer, said in zip(odd.network.layers, found.layers, strict=True):
        assert said.changed == (layer.name in since_the_first_change(found))
        if said.changed:
            now, then = (rows_of(layer, seen[layer.name]) for seen in (after, before))
            now, then = now - now.mean(0), then - then.mean(0)
            covariance = now.T @ now / len(now)
            damping = max(0.01, 0.1 * now.shape[1] / len(now))  # more where rows are few
            ridge = damping * np.diag(covariance).mean() * np.eye(len(covariance))
            hessian, weights = covariance + ridge, layer.matrix.astype(np.float64)
            mimicking = weights @ (then.T @ now / len(now) + ridge) @ np.linalg.inv(hessian)
            target = mimic * mimicking + (1 - mimic) * weights
            weight = layer.filter_scale.astype(np.float64) ** 2
            error = found.plans[layer.name].real_weights() - target
            relative = slow_cost(error, hessian, weight) / slow_cost(target, hessian, weight)
            assert said.error == pytest.approx(relative, rel=1e-3)
            if said.setting is None:  # the target, rounded, or what it was if that is no worse
                step = np.abs(target).max(1, keepdims=True) / 127  # each filter's
                rounded = np.rint(target / step) * step - target
                own = dense_weights(layer, GRAIN).real_weights() - target
                least = min(slow_cost(each, hessian, weight) for each in (rounded, own))
                assert slow_cost(error, hessian, weight) == pytest.approx(least, rel=1e-3)
    assert any(said.setting is None and said.changed for said in found.layers)
    assert sum(layer.setting is not None for layer in found.layers) > 2


@pytest.mark.parametrize("mimic", [0.0, 0.5, 1.0])
def test_without_batch_norm_the_mean_error_of_every_filter_is_taken_back(odd: Captured, mimic: float):
    x = images(12)
    found = compress(odd, x, compute_ratio=0.3, mimic=mimic)
    before, _ = inputs_of(odd.module, names_of(odd), x, int8=False)  # rounded one by one, none from one to the next
    after = all_inputs(with_plans(odd, found), odd, found, x)
    for layer, said in zip(odd.network.layers, found.layers, strict=True):
        if not said.changed:
            continue
        assert found.plans[layer.name].bias.any()
        changed = with_plans(odd, found).get_submodule(layer.name)
        with torch.no_grad():
            wanted = odd.module.get_submodule(layer.name)(before[layer.name])
            got = changed(after[layer.name])
            uncorrected = got - changed.bias.reshape((-1, 1, 1) if layer.kind == "conv" else (-1,))
        axes = [0, 2, 3] if layer.kind == "conv" else list(range(wanted.ndim - 1))
        size = float(wanted.std())
        assert float((got - wanted).mean(axes).abs().max()) < 1e-3 * size
        if said.setting is not None:
            assert float((uncorrected - wanted).mean(axes).abs().max()) > 1e-2 * size


def test_with_batch_norm_there_is_no_bias_where_it_follows(normed: Captured):
    found = compress(normed, images(), compute_ratio=0.3)
    corrected = {name for name, plan in found.plans.items() if plan.bias.any()}
    assert corrected <= {"conv2"}  # an addition comes between
    assert set(normed.folded) == {"conv1", "conv3", "head"}


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_drop_is_the_share_classified_otherwise(odd: Captured, ratio: float):
    x = images(130, seed=4)  # three batches
    found = compress(odd, x, compute_ratio=ratio)
    finished = with_plans(odd, found)
    for layer in odd.network.layers:  # int8 weights too
        if layer.name not in found.plans:
            put_weights(finished, layer.name, dense_weights(layer, GRAIN))
        finished.get_submodule(layer.name).register_forward_pre_hook(lambda _, x: (on_grid(x[0]),))
    with torch.no_grad():
        wanted, got = odd.module(x), finished(x)
    assert found.drop == pytest.approx(float((wanted.argmax(1) != got.argmax(1)).double().mean()), abs=1.01 / 130)
    assert found.drop > 0.02


class Heads(nn.Module):
    """Outputs of other shapes: a value, classes at every place of a line, classes at every token."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Conv1d(3, 8, 3, padding=1) if kind == "line" else nn.Linear(12, 16)
        self.head = nn.Conv1d(8, 5, 1) if kind == "line" else nn.Linear(16, 1 if kind == "value" else 5)
        with torch.no_grad():
            self.head.weight *= 10  # sure of its classes

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] if self.kind == "token" else x
        return self.head(torch.relu(self.body(x)))


@pytest.mark.parametrize(("kind", "axis"), [("line", 1), ("token", -1)])
def test_classes_lie_where_the_last_layer_has_its_filters(kind: str, axis: int):
    x = torch.randn(90, *((3, 7) if kind == "line" else (12,)), generator=torch.Generator().manual_seed(0))
    captured = capture(Heads(kind).eval(), x[:1], kind)
    found = compress(captured, x, compute_ratio=0.4, bits=(8,), uses=1)
    with torch.no_grad():
        wanted, got = captured.module(x), with_plans(captured, found)(x)
    assert found.drop == pytest.approx(float((wanted.argmax(axis) != got.argmax(axis)).double().mean()), abs=0.03)
    assert found.drop > 0.05  # the other axis, of 7 places or 1 token, would give something else
    other = {1: 2, -1: 1}[axis]
    assert abs(found.drop - float((wanted.argmax(other) != got.argmax(other)).double().mean())) > 0.04


def test_one_value_for_each_input_is_no_class():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    captured = capture(Heads("value").eval(), x[:1], "regression")
    assert compress(captured, x, compute_ratio=0.5).drop is None
    with pytest.raises(UserError, match=r"outputs of regression have none: give a compute_ratio instead"):
        compress(captured, x, max_drop=0.1)


@pytest.mark.parametrize("ratio", [0.35, 0.6, 0.9, 0.98])
def test_no_budget_is_left_over_between_the_rungs(ratio: float):
    """One layer of 48 filters: a donor more or less is a 48th."""
    layer = nn.Linear(64, 48)
    captured = capture(layer, torch.zeros(1, 64), "layer")
    x = torch.randn(80, 64, generator=torch.Generator().manual_seed(0))
    found = compress(captured, x, compute_ratio=ratio, bits=(8,), uses=1)
    assert ratio - 1 / 48 < plan_ratio(captured, found) <= ratio


@pytest.mark.parametrize("kind", [Odd, Normed])
def test_a_drop_is_asked_for_instead(kind: type[nn.Module]):
    captured, x = captured_of(kind), images(40)
    ratios = []
    for drop in (0.02, 0.3, 1.0):
        found = compress(captured, x, max_drop=drop, shapes=(9,))
        assert found.drop <= drop or all(layer.setting is None for layer in found.layers)
        ratios.append(plan_ratio(captured, found))
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > ratios[2]
    assert ratios[2] < 0.3  # anything goes


POOR = ["one", "constant", "zero", "dead"]


@pytest.mark.parametrize(("kind", "inputs"), [*((Odd, inputs) for inputs in POOR), (Normed, "one")])
def test_poor_calibration_inputs(kind: type[nn.Module], inputs: str):
    captured, x = captured_of(kind), images(1 if inputs == "one" else 10, inputs)
    for config in ({"compute_ratio": 0.5, "shapes": (9,)}, {"compute_ratio": 0.5, "shapes": (9, 4)}):
        found = compress(captured, x, **config)
        for plan in found.plans.values():
            assert np.isfinite(plan.real_weights()).all()
            assert np.isfinite(plan.bias).all()
        assert all(np.isfinite([layer.error, layer.sensitivity]).all() for layer in found.layers)
        assert sum(plan.uses for plan in found.plans.values()) > 0
    again = compress(captured, x, **config)
    assert digest(found) == digest(again)


def test_no_plan_takes_more_than_it_may_on_few_inputs(odd: Captured):
    for ratio in (0.3, 0.4, 0.5):
        found = compress(odd, images(2), compute_ratio=ratio, shapes=(9, 8, 4), update_weight=0)
        assert plan_ratio(odd, found) <= ratio


def test_a_network_of_zeros():
    model = nn.Sequential(nn.Conv2d(2, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 30, 12))
    for value in model.parameters():
        nn.init.zeros_(value)
    captured = capture(model.eval(), images(1), "zeros")
    found = compress(captured, images(), compute_ratio=0.4)
    assert plan_ratio(captured, found) <= 0.4
    assert found.drop is None  # equal numbers are no classes
    assert not any(plan.real_weights().any() for plan in found.plans.values())


def test_weights_that_float32_cannot_hold_are_told_without_a_warning():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    for value in model.parameters():
        nn.init.constant_(value, 1e30)
    captured = capture(model, torch.zeros(1, 16), "large")
    with pytest.raises(UserError, match="plan of 2: step and bias must be finite"):
        compress(captured, torch.randn(50, 16, generator=torch.Generator().manual_seed(0)), compute_ratio=0.5)


def test_nothing_and_what_is_not_finite_is_told(odd: Captured):
    with pytest.raises(UserError, match="there are no inputs to calibrate with"):
        compress(odd, images(0), compute_ratio=0.5)
    for bad in (float("nan"), float("inf")):
        x = images(10)
        x[3, 0, 0, 0] = bad
        with pytest.raises(UserError, match="layer first: its input is NaN or infinite on a calibration input"):
            compress(odd, x, compute_ratio=0.5)


def test_what_is_not_finite_in_a_later_batch_is_told(odd: Captured):
    x = images(70)
    x[66, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="layer first: its input is NaN"):
        compress(odd, x, compute_ratio=0.5)


def test_a_budget_below_the_least_is_told(odd: Captured):
    """One OU, of one filter, for each 8 rows."""
    layers = odd.network.layers
    groups = [-(-layer.rows // 8) * layer.positions for layer in layers]
    dense = sum(g * layer.filters for g, layer in zip(groups, layers, strict=True))
    least = sum(groups) / dense
    rounded = math.ceil(least * 1e4) / 1e4  # up: what is printed is possible
    message = f"a compute ratio of {0.9 * least:g} is not possible here: with as few patterns as may be "
    shares = {layer.name: g / dense for g, layer in zip(groups, layers, strict=True)}
    most = sorted(shares, key=lambda name: -shares[name])[:3]
    message += f"it is {rounded:.4f}, most of it in " + ", ".join(f"{name} {shares[name]:.4f}" for name in most)
    for call in (
        lambda: compress(odd, images(), compute_ratio=0.9 * least, shapes=(9,)),
        lambda: check_budget(odd.network, CalibratedReuse(compute_ratio=0.9 * least, shapes=(9,)), CHIP, ()),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value).split("; with shapes")[0] == message
    assert plan_ratio(odd, compress(odd, images(), compute_ratio=least, shapes=(9,))) <= least
    whole = [layer.name for layer in layers][:1]
    least = (groups[0] * layers[0].filters + sum(groups[1:])) / dense
    with pytest.raises(UserError, match=f"in the layers that are compressed it is {math.ceil(least * 1e4) / 1e4:.4f}"):
        compress(odd, images(), compute_ratio=0.99 * least, shapes=(9,), whole=tuple(whole))


@pytest.mark.parametrize("kind", [Odd, Normed])
def test_a_rerun_gives_the_same_bits(kind: type[nn.Module]):
    x = images(110)  # more im2col rows than are looked at for a layer's survey
    config = {"compute_ratio": 0.35, "shapes": (9, 4)}
    first, second = (compress(captured_of(kind), x.clone(), seed=5, **config) for _ in range(2))
    assert digest(first) == digest(second)
    assert first.layers == second.layers
    assert first.drop == second.drop
    assert compress(captured_of(kind), x, seed=6, **config).layers != first.layers


def test_every_layer_is_told(odd: Captured):
    told: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int, note: str) -> None:
        told.append((phase, done, total))

    compress(odd, images(3), whole=("head",), progress=progress, compute_ratio=0.4)
    assert told == [("mine: sensitivity", i, 5) for i in range(1, 6)] + [("mine: layers", i, 6) for i in range(1, 7)]


class Flat(nn.Module):
    """A linear layer that sees batch and positions as one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x.reshape(-1, 7))))
        return y.reshape(x.shape[0], -1, 4).mean(1)


def test_positions_in_front():
    torch.manual_seed(0)
    captured = capture(Flat().eval(), images(1), "flat")
    found = compress(captured, images(), compute_ratio=0.5)
    assert plan_ratio(captured, found) <= 0.5


@pytest.mark.parametrize(
    ("ou_columns", "cell_bits", "ratio"),
    [(4, 1, 0.3), (4, 1, 0.6), (3, 1, 0.3), (2, 2, 0.3), (2, 2, 0.6), (16, 2, 0.7), (24, 3, 0.9)],
)
def test_the_budget_is_kept_on_ous_of_any_width(odd: Captured, ou_columns: int, cell_bits: int, ratio: float):
    """OUs narrower than a weight, wider ones, and ones that whole weights do not fill."""
    chip = load_chip("isaac-32nm")
    chip = chip.model_copy(update={"grain": Grain(ou_columns=ou_columns, cell_bits=cell_bits)})
    layers = odd.network.layers
    dense = sum(chip.grain.row_groups(x.rows) * chip.grain.ous(x.filters) * x.positions for x in layers)
    found = compress(odd, images(), chip=chip, compute_ratio=ratio, shapes=(9, 8, 4))
    plans = {layer.name: found.plans.get(layer.name, dense_weights(layer, chip.grain)) for layer in layers}
    taken = sum(
        sum(chip.grain.of_bits(plans[layer.name].weight_bits).ous(int(n)) for n in plans[layer.name].donors_per_group)
        * layer.positions
        for layer in layers
    )
    assert 0.5 * ratio < taken / dense <= ratio


class InPlace(nn.Module):
    """Computes in place, or the same with values of its own."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.head = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(2) if self.in_place else x * 2
        x = self.a(x)
        x = x.add_(self.b(x)) if self.in_place else x + self.b(x)
        return self.head(x.mean((2, 3)))


def test_a_network_may_work_in_place():
    found = []
    for in_place in (True, False):
        x = images(12)
        captured = capture(InPlace(in_place).eval(), images(1), "net")
        found.append(compress(captured, x, compute_ratio=0.4))
        assert torch.equal(x, images(12))  # the caller's inputs are the caller's
    assert digest(found[0]) == digest(found[1])
    assert found[0].layers == found[1].layers


@pytest.mark.parametrize(("scale", "outputs"), [(1.0, 1), (1e-7, 5)])
def test_outputs_that_tell_no_classes(scale: float, outputs: int):
    """One output, and all but equal ones: their squared error counts, and the budget is spent."""
    model = InPlace(False)
    model.head = nn.Linear(8, outputs)
    with torch.no_grad():
        model.head.weight.mul_(scale)
        model.head.bias.mul_(scale)
    captured = capture(model.eval(), images(1), "net")
    low, high = (compress(captured, images(), compute_ratio=ratio) for ratio in (0.3, 0.7))
    assert 0.5 < plan_ratio(captured, high) <= 0.7
    assert sum(layer.error for layer in high.layers) < sum(layer.error for layer in low.layers)


def test_mistakes_of_the_caller_are_told(odd: Captured):
    with pytest.raises(UserError, match=r"there is no layer 'hed' to leave whole \(did you mean 'head'\?\)"):
        compress(odd, images(), compute_ratio=0.5, whole=("hed",))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(7, 9)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.fc(x).argmax(1), self.fc(x).sum()

    with pytest.raises(UserError, match="the network gives no tensor of real numbers with classes or values"):
        compress(capture(Two().eval(), torch.ones(1, 7), "two"), torch.randn(9, 7), compute_ratio=0.5)


def test_no_layer_goes_dark_for_the_sake_of_updates(odd: Captured):
    found = compress(odd, images(), compute_ratio=0.35, update_weight=1000)
    assert all(plan.uses for plan in found.plans.values())
    assert all(layer.error < 0.9 for layer in found.layers)


def test_few_rows_are_not_fitted_too_well(monkeypatch: pytest.MonkeyPatch):
    """As many weights a filter as im2col rows, and rows that say little: what counts is inputs that were not seen."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 64, bias=False)).eval()
    mixing = torch.randn(8, 64, generator=generator)

    def draw(count: int) -> Tensor:
        noise = torch.randn(count, 64, generator=generator)
        return torch.randn(count, 8, generator=generator) @ mixing + 0.5 * noise

    seen, unseen = draw(64), draw(2000)

    def error(few: float) -> float:
        monkeypatch.setattr("prap_pim.methods.calibrate.problem._FEW_ROWS", few)
        captured = capture(model, seen[:1], "few")
        found = compress(captured, seen, compute_ratio=0.25, mimic=1.0, damping=0.01)
        with torch.no_grad():
            return float((with_plans(captured, found)(unseen) - model(unseen)).square().mean())

    assert error(0.1) < 0.95 * error(0)


def test_a_budget_chooses_among_bits_and_uses() -> None:
    """At the same OU steps: nearer to the outputs than donors of 8 bits that filters take one of."""
    captured, x = captured_of(Normed), images(60)
    for ratio in (0.2, 0.4):
        first, second = (
            compress(captured, x, compute_ratio=ratio, shapes=(9,), **more)
            for more in ({"bits": (8,), "uses": 1}, {"bits": (4, 6), "uses": 2, "update_weight": 0})
        )
        assert plan_ratio(captured, second) <= ratio
        chosen = [layer.setting for layer in second.layers if layer.setting is not None]
        assert {setting.bits for setting in chosen} <= {4, 6}
        assert max(setting.uses for setting in chosen) == 2
        assert sum(layer.error for layer in second.layers) < 0.6 * sum(layer.error for layer in first.layers)


def test_further_uses_are_not_taken_where_they_cost_more_than_they_give() -> None:
    captured, x = captured_of(Normed), images(40)
    uses = []
    for weight in (0.0, 1.0, 200.0):
        found = compress(captured, x, compute_ratio=0.3, bits=(4,), uses=3, update_weight=weight)
        uses.append(sum(plan.uses for plan in found.plans.values()))
    assert uses[0] > uses[1] > uses[2]
