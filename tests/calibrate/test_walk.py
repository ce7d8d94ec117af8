"""Walking a network node by node is running it; batch norm's statistics are those that re-estimation gives."""

import copy
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prap_pim.calibrate.walk import Walk
from prap_pim.training import reestimate_batchnorm
from tests.calibrate.networks import Normed, Odd, captured_of, images


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


def traced(kind: type[nn.Module]) -> fx.GraphModule:
    if kind is Branches:
        torch.manual_seed(0)
        return fx.symbolic_trace(Branches().eval())
    return captured_of(kind).module


def walked(walk: Walk) -> list[Tensor]:
    with torch.no_grad():
        for node in walk.nodes():
            if node.op == "output":
                found = walk.inputs(node)
            walk.run(node)
    return found


def same_state(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("kind", [Odd, Normed, Branches])
@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [19, 1]])
def test_every_batch_by_itself(kind: type[nn.Module], sizes: list[int]):
    """What the module gives in training mode, which is left as it was."""
    module, batches = traced(kind), torch.split(images(20), sizes)
    before = copy.deepcopy(module.state_dict())
    found = walked(Walk(module, [(each,) for each in batches], remember=False))
    assert same_state(module, before)
    for x, y in zip(batches, found, strict=True):
        alone = copy.deepcopy(module).train()
        if kind is Normed and len(x) == 1:
            alone.norm4.eval()  # one value a channel has no variance: by the running ones
        torch.testing.assert_close(y, alone(x).detach())
        if kind is Odd:
            assert torch.equal(y, module(x).detach())


@torch.no_grad()
@pytest.mark.parametrize("kind", [Odd, Normed])
@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [19, 1]])
def test_all_batches_together(kind: type[nn.Module], sizes: list[int]):
    module, x = traced(kind), images(20)
    other = copy.deepcopy(module)
    found = walked(Walk(module, [(part,) for part in torch.split(x, sizes)], remember=True))
    assert not module.training
    seen = {}
    norms = {name: norm for name, norm in module.named_modules() if isinstance(norm, _BatchNorm)}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].transpose(0, 1).flatten(1)}))
    torch.testing.assert_close(torch.cat(found), module(x))
    reestimate_batchnorm(other, x, batch_size=len(x))
    for name, norm in norms.items():  # what its inputs are once all before it are what they are
        torch.testing.assert_close(norm.running_mean, seen[name].mean(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var, seen[name].var(1), rtol=1e-5, atol=1e-6)
        # in training mode torch normalises by the variance with n in place of n - 1: here n >= 20 * 16
        again = other.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, again.running_mean, rtol=5e-3, atol=1e-3)
        torch.testing.assert_close(norm.running_var, again.running_var, rtol=5e-3, atol=1e-3)


def test_statistics_of_one_value_stay_as_they_were():
    module = fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)).eval())
    norm = module.get_submodule("1")
    norm.running_mean.fill_(3.0)
    walked(Walk(module, [(torch.ones(1, 4),)], remember=True))
    assert norm.running_mean.tolist() == [3] * 4
    assert norm.running_var.tolist() == [1] * 4


def test_statistics_do_not_overflow_or_cancel():
    """A mean far from 0: the variance by the mean of squares would be lost in float32."""
    module = fx.symbolic_trace(nn.Sequential(nn.BatchNorm2d(1)).eval())
    x = 1e4 + torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    walked(Walk(module, [(part,) for part in torch.split(x, 9)], remember=True))
    norm = module.get_submodule("0")
    torch.testing.assert_close(norm.running_var, x.double().var().float().reshape(1), rtol=1e-4, atol=0)
    torch.testing.assert_close(norm.running_mean, x.double().mean().float().reshape(1), rtol=1e-6, atol=0)


def at(walk: Walk, module: fx.GraphModule, target: str) -> fx.Node:
    """Run as far as a node, without it."""
    for node in walk.nodes():
        if node.target == target:
            return node
        walk.run(node)
    raise AssertionError(target)


@torch.no_grad()
def test_what_a_layer_reads_and_what_another_value_would_lead_to():
    module, batches = traced(Odd), torch.split(images(10), 4)
    seen: dict[str, list[Tensor]] = {"right": [], "one": []}
    for name, calls in seen.items():
        module.get_submodule(name).register_forward_pre_hook(lambda _, x, calls=calls: calls.append(x[0].clone()))
    for x in batches:
        module(x)
    seen = {name: list(calls) for name, calls in seen.items()}
    for name in ("right", "one"):
        walk = Walk(module, [(each,) for each in batches], remember=False)
        node = at(walk, module, name)
        assert all(torch.equal(a, b) for a, b in zip(walk.inputs(node), seen[name], strict=True))
        outcome = torch.full_like(module.get_submodule(name)(walk.inputs(node)[0]), 0.5)
        other = copy.deepcopy(module)
        other.get_submodule(name).register_forward_hook(lambda _m, _x, _y, outcome=outcome: outcome)
        for _ in range(2):  # and asking leaves the walk as it was
            assert torch.equal(walk.first_batch_from(node, outcome), other(batches[0]))
        changed = False
        for node in walk.nodes():
            changed = changed or node.target == name
            if node.target == name:
                walk.put(node, [torch.full_like(module.get_submodule(name)(x), 0.5) for x in walk.inputs(node)])
            elif changed:
                if node.op == "output":
                    assert torch.equal(walk.inputs(node)[0], other(batches[0]))
                walk.run(node)
        assert node.op == "output"


@torch.no_grad()
def test_values_are_dropped_after_their_last_use():
    module = traced(Branches)
    batches = torch.split(images(6), 3)
    walk, known = Walk(module, [(each,) for each in batches], remember=True), weakref.WeakSet[Tensor]()
    most = 0

    def outcomes(node: fx.Node, values: Sequence[Tensor]) -> Sequence[Tensor]:
        known.update(values)
        return values

    for node in walk.nodes():
        if node.target == "conv":
            walk.put(node, outcomes(node, [module.conv(x) for x in walk.inputs(node)]))
        else:
            walk.run(node)
        most = max(most, len(known))
    assert most == 2
    assert len(known) == 0
