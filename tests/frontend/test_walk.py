"""Walking a network node by node is running it; two side by side differ by what was changed, batch norm moved by it."""

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import prap_pim
from prap_pim.frontend import Captured, Pair, Probe, Walk, capture
from prap_pim.frontend.batchnorm import Statistics, move, moved
from prap_pim.frontend.quantize import InputGrid
from prap_pim.frontend.weights import sharing_weights
from prap_pim.ir.network import Layer
from prap_pim.methods.prune import dense_weights
from prap_pim.methods.rebuild import Decision, Reading, rebuilt
from tests.methods.calibrate.networks import GRAIN, Normed, Odd, captured_of, images


class Branches(nn.Module):
    """Tuples, numbers, a module called twice, a value used thrice, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm2d(4)
        self.plain = nn.BatchNorm2d(4, track_running_stats=False)  # always by the batch's own statistics
        self.register_buffer("shift", torch.arange(4.0).reshape(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv(x)) + self.shift
        first, second = torch.chunk(y, 2, dim=1)
        z = torch.cat([second, self.relu(first)], 1) * y - self.plain(y)
        return self.norm(z).flatten(1) * x.shape[1]


class InPlace(nn.Module):
    """Writes on its input and on what layers give."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(2)
        y = self.norm(self.conv(x).add_(1))
        return y.relu_().add_(self.last(y))


def traced(kind: type[nn.Module]) -> fx.GraphModule:
    if kind in (Branches, InPlace):
        torch.manual_seed(0)
        return fx.symbolic_trace(kind().eval())
    return captured_of(kind).module


def as_batches(x: Tensor, sizes: list[int]) -> list[tuple[Tensor, ...]]:
    return [(each,) for each in torch.split(x, sizes)]


@torch.no_grad()
def walked(walk: Walk | Pair) -> list[Tensor]:
    """What the network gives; of two, the changed one."""
    for node in walk.nodes():
        if node.op == "output":
            found = (walk.after if isinstance(walk, Pair) else walk).inputs(node)
        walk.run(node)
    return found


def same_state(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


KINDS = [Odd, Normed, Branches, InPlace]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [19, 1]])
def test_every_batch_by_itself(kind: type[nn.Module], sizes: list[int]):
    """What the module gives, which is left as it was, as the inputs are."""
    module, x = traced(kind), images(20)
    before = copy.deepcopy(module.state_dict())
    found = walked(Walk(module, as_batches(x, sizes)))
    assert same_state(module, before)
    assert torch.equal(x, images(20))
    for part, y in zip(torch.split(x, sizes), found, strict=True):
        assert torch.equal(y, module(part.clone()).detach())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [19, 1]])
def test_two_of_which_none_is_changed_are_one(kind: type[nn.Module], sizes: list[int]):
    module, x = traced(kind), images(20)
    before, other = copy.deepcopy(module.state_dict()), sharing_weights(module)
    found = walked(Pair(module, other, as_batches(x, sizes)))
    assert same_state(module, before)
    assert same_state(other, before)
    assert torch.equal(torch.cat(found), torch.cat([module(part.clone()) for part in torch.split(x, sizes)]))


def at(walk: Walk | Pair, target: str) -> fx.Node:
    """Run as far as a node, without it."""
    for node in walk.nodes():
        if node.target == target:
            return node
        walk.run(node)
    raise AssertionError(target)


@torch.no_grad()
def test_what_a_layer_reads_and_what_another_function_would_lead_to():
    module, batches = traced(Odd), torch.split(images(10), 4)
    seen: dict[str, list[Tensor]] = {"right": [], "one": []}
    for name, calls in seen.items():
        module.get_submodule(name).register_forward_pre_hook(lambda _, x, calls=calls: calls.append(x[0].clone()))
    for x in batches:
        module(x)
    seen = {name: list(calls) for name, calls in seen.items()}
    for name in ("right", "one"):
        probe = Probe(module, [(each,) for each in batches])
        assert all(torch.equal(y, module(x)) for y, x in zip(probe.wanted, batches, strict=True))
        node = at(probe, name)
        assert all(torch.equal(a, b) for a, b in zip(probe.inputs(node), seen[name], strict=True))
        layer, other = copy.deepcopy(module.get_submodule(name)), copy.deepcopy(module)
        layer.weight *= -0.5
        other.get_submodule(name).weight.copy_(layer.weight)
        for _ in range(2):  # and asking leaves the walk as it was
            outcome = probe.from_here(node, layer)
            assert all(torch.equal(y, other(x)) for y, x in zip(outcome, batches, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("kind", [Normed, Branches, InPlace])
def test_a_probe_moves_batch_norms_as_compression_does(kind: type[nn.Module]):
    """What ``from_here`` tells is what two networks side by side come to."""
    module, batches = traced(kind), as_batches(images(20), [8, 12])
    name = next(str(node.target) for node in module.graph.nodes if "conv" in str(node.target))
    layer = copy.deepcopy(module.get_submodule(name))
    layer.weight += torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(2)) * 0.1
    state = copy.deepcopy(module.state_dict())
    probe = Probe(module, batches)
    told = probe.from_here(at(probe, name), layer)
    pair = Pair(module, sharing_weights(module), batches)
    for node in pair.nodes():
        if node.op == "output":
            found = pair.after.inputs(node)
        if node.target == name:
            pair.change(node, layer)
        else:
            pair.run(node)
    for a, b in zip(told, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert same_state(module, state)
    plain = copy.deepcopy(module)
    plain.get_submodule(name).load_state_dict(layer.state_dict())
    assert not torch.allclose(told[0], plain(batches[0][0].clone()), atol=1e-3)  # batch norm makes a difference


@torch.no_grad()
@pytest.mark.parametrize("kind", [Walk, Pair])
def test_values_are_dropped_after_their_last_use(kind: type):
    module = traced(Branches)
    batches = as_batches(images(6), [3, 3])
    walk = Walk(module, batches) if kind is Walk else Pair(module, sharing_weights(module), batches)
    known, most = weakref.WeakSet[Tensor](), 0

    def noted(layer: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = layer(x)
        known.add(y)
        return y

    for node in walk.nodes():
        if node.target != "conv":
            walk.run(node)
        elif kind is Walk:
            walk.apply(node, partial(noted, module.conv))
        else:
            walk.change(node, partial(noted, module.conv))
        most = max(most, len(known))
    assert most == 2
    assert len(known) == 0


# batch norm


def norm_of(mean: list[float], variance: list[float]) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(mean)).eval()
    norm.running_mean.copy_(torch.tensor(mean))
    norm.running_var.copy_(torch.tensor(variance))
    return norm


def statistics(mean: list[float], variance: list[float], count: int = 100) -> Statistics:
    return Statistics(torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64), count)


def test_means_move_by_the_difference_and_variances_by_the_ratio():
    """The floor of a thousandth of 4 changes little; where nothing varied before, it is all that there is."""
    norm = norm_of([1, 1, 1, 1], [4, 4, 4, 4])
    before, after = statistics([5, 5, 5, 5], [8, 8, 8, 0]), statistics([7, 5, 4, 5], [2, 8, 0, 1])
    mean, variance = moved(norm, before, after)
    assert mean.tolist() == [3, 1, 0, 1]
    floor = 4e-3 + 1e-5
    expected = [4 * (2 + floor) / (8 + floor), 4, 4 * floor / (8 + floor), 4 * (1 + floor) / floor]
    assert variance.tolist() == pytest.approx(expected, rel=1e-6)
    assert expected[0] == pytest.approx(1, rel=2e-3)
    assert norm.running_mean.tolist() == [1] * 4
    move(norm, before, after)
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)


def test_one_value_of_each_channel_moves_nothing():
    norm = norm_of([1], [4])
    move(norm, statistics([5], [0], 1), statistics([7], [0], 1))
    assert (norm.running_mean.item(), norm.running_var.item()) == (1, 4)


ODD_INPUTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x,
    lambda x: torch.full_like(x, 0.7),
    torch.zeros_like,
    lambda x: 100 * x,
    lambda x: x[:1],
    lambda x: x + 1e4,
]


@pytest.mark.parametrize("odd", ODD_INPUTS)
def test_what_has_not_changed_moves_nothing_bit_for_bit(odd: Callable[[Tensor], Tensor]):
    x = odd(torch.randn(40, 3, 5, 4, generator=torch.Generator().manual_seed(0)))
    norm = norm_of([0.3, -1e3, 1e-9], [2.7, 1e-12, 1e9])
    both = Statistics.of([x]), Statistics.of([x.clone()])
    mean, variance = moved(norm, *both)
    assert torch.equal(mean, norm.running_mean)
    assert torch.equal(variance, norm.running_var)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("cuts", [[40], [7, 33], [1] * 40])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_statistics_are_those_of_all_batches_together(layout: torch.memory_format, cuts: list[int], offset: float):
    """Also with a mean far from 0, where the variance by the mean of squares would be lost in float32."""
    x = torch.randn(40, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 0.1])[:, None, None]
    x = (x + offset).contiguous(memory_format=layout)
    found = Statistics.of(torch.split(x, cuts))
    values = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean, values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance, values.var(1, correction=0), rtol=1e-3 if offset else 1e-5, atol=0)
    assert found.count == 800


@pytest.mark.parametrize("shape", [(50, 4), (50, 4, 6), (9, 4, 3, 2, 5)])
def test_statistics_of_other_shapes(shape: tuple[int, ...]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    found = Statistics.of([x])
    values = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean, values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance, values.var(1, correction=0), rtol=1e-5, atol=0)


class Scaled:
    """Decisions that multiply the weights of one layer, or of none; others stay, and nothing is rounded to speak of."""

    def __init__(self, captured: Captured, name: str, factor: float) -> None:
        self.captured, self.name, self.factor = captured, name, factor

    def __call__(self, readings: Sequence[Reading]) -> Iterator[Decision]:
        yield from (self.of(reading.layer, reading.now) for reading in readings)

    def of(self, layer: Layer, now: list[Tensor]) -> Decision:
        largest = max(float(x.abs().max()) for x in now)
        grid = InputGrid(largest / 127 or 1.0)
        if layer.name != self.name:
            return Decision(None, grid)
        plan = dense_weights(layer, GRAIN)
        return Decision(replace(plan, step=plan.step * np.float32(self.factor)), grid)


@torch.no_grad()
def test_a_layer_times_two_gives_the_same_after_its_batch_norm():
    """Whose statistics are those of the calibration inputs: mean and variance follow."""
    module = captured_of(Normed).module
    for norm in (module.norm1, module.norm2, module.norm3, module.norm4):
        norm.momentum = None
        norm.reset_running_stats()
    module.train()(images(40))
    captured = capture(module.eval(), images(1), "normed")
    found = rebuilt(captured, as_batches(images(40), [20, 20]), Scaled(captured, "conv3", 2.0))
    old, new = captured.module.norm3, found.module.norm3
    x = images(40)
    seen: list[Tensor] = []
    captured.module.norm3.register_forward_pre_hook(lambda _, x: seen.append(x[0].clone()))
    wanted, got = captured.module(x), found.module(x)
    by_channel = seen[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(new.running_mean, old.running_mean + by_channel.mean(1), rtol=0.05, atol=0.02)
    torch.testing.assert_close(new.running_var, 4 * old.running_var, rtol=0.05, atol=0)
    assert float((wanted - got).square().mean()) < 1e-2 * float(wanted.var())  # int8 rounding, and no more
    for name in ("norm1", "norm2"):  # before the change
        assert same_state(found.module.get_submodule(name), captured.module.get_submodule(name).state_dict())


@pytest.mark.parametrize("odd", ODD_INPUTS)
@pytest.mark.parametrize("method", [{"method": "dense"}, {"method": "pattern", "skip": "*"}])
def test_a_method_that_changes_nothing_gives_the_network_back(odd: Callable[[Tensor], Tensor], method: dict[str, str]):
    """Its statistics bit for bit, whatever it is calibrated with; all of it, if channels are not equalised."""
    own = captured_of(Normed).module.state_dict()
    for equalize in (False, True):
        found = prap_pim.compress(
            captured_of(Normed).module, odd(images(40)), quantize={"equalize": equalize}, **method
        )
        for name, value in found.model.state_dict().items():
            if not equalize or "running" in name:
                assert torch.equal(value, own[name]), name


@pytest.mark.parametrize("odd", ODD_INPUTS[:4])
@pytest.mark.parametrize("first", ["conv1", "conv2", "conv3", "head"])
def test_norms_before_the_first_changed_layer_keep_their_statistics(odd: Callable[[Tensor], Tensor], first: str):
    captured = captured_of(Normed)
    names = [layer.name for layer in captured.network.layers]
    whole = names[: names.index(first)]
    found = prap_pim.compress(
        captured.module, odd(images(40)), method="similar", keep=0.5, skip=whole, quantize={"equalize": False}
    )
    norms = {"conv1": "norm1", "conv2": "norm2", "conv3": "norm3", "head": "norm4"}
    for layer, norm in norms.items():
        changed, own = (net.get_submodule(norm).state_dict() for net in (found.model, captured.module))
        same = all(torch.equal(value, own[name]) for name, value in changed.items())
        assert same or layer not in whole
        assert not same or layer in whole or odd is not ODD_INPUTS[0]
