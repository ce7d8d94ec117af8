"""What each filter's error counts, against the explicit Jacobian, and what that does to the layers."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from prap_pim.frontend import Output, capture
from prap_pim.methods.calibrate.fisher import filter_weights, squared_gradients
from tests.methods.calibrate.networks import Normed, captured_of, compress, images


class Small(nn.Module):
    """A convolution, depthwise filters, groups, a transposed convolution and a layer called twice; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 4, 3)
        self.depthwise = nn.Conv2d(4, 4, 2, groups=4)
        self.grouped = nn.Conv2d(4, 6, 1, groups=2)
        self.up = nn.ConvTranspose2d(6, 3, 2)
        self.twice = nn.Linear(3, 3)
        self.classes = nn.Linear(3, 5)
        self.values = nn.Linear(3, 2)
        with torch.no_grad():
            self.classes.weight *= 4

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu_(self.first(x))
        x = torch.tanh(self.grouped(torch.tanh(self.depthwise(x))))
        x = torch.tanh(self.up(x)).flatten(2).mT  # [N, positions, 3]
        x = self.twice(torch.tanh(self.twice(x)))
        return self.classes(x.mean(1)), self.values(x)


JUDGES = (Output("0", 0, "classes", -1), Output("1", 1, "values", -1, 16, 0.5))


def by_jacobian(model: nn.Module, x: Tensor, judges: Sequence[Output], names: Sequence[str]) -> dict[str, np.ndarray]:
    """E[(d loss / d z)^2] for each number z that a layer gives, summed by filter; exact over labels and signs."""
    sizes, found = [], {}
    for output in judges:
        value = model(x)[output.place].detach().flatten(0, -2).double()
        sizes.append(2 * len(value) if output.kind == "classes" else float((value - value.mean(0)).square().sum()))
    for name, call, output, size in (
        (n, c, o, s) for n in names for c in (0, 1) for o, s in zip(judges, sizes, strict=True)
    ):
        for one in x.split(1):
            z = given_by(model, one, name)
            if call >= len(z):
                continue
            value = partial(changed, model, one, name, call, output)
            squares = jacobian(value, torch.zeros_like(z[call])).square()  # [answers, classes, *shape of z]
            if output.kind == "classes":
                squares *= (
                    value(torch.zeros_like(z[call])).detach().exp().reshape(*squares.shape[:2], *[1] * z[call].ndim)
                )
            by_filter = squares.sum((0, 1)).movedim(1 if z[call].ndim == 4 else -1, -1).flatten(0, -2).sum(0)
            found[name] = found.get(name, 0.0) + by_filter.double().numpy() * output.weight / size
    return found


def given_by(model: nn.Module, one: Tensor, name: str) -> list[Tensor]:
    """What a layer gives, call by call."""
    calls: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, z: calls.append(z.detach()))
    model(one)
    handle.remove()
    return calls


def changed(model: nn.Module, one: Tensor, name: str, call: int, output: Output, by: Tensor) -> Tensor:
    """An output, [answers, logarithms of probabilities or values], were one call of a layer to give so much more."""
    count = iter(range(2))
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, z: z + by if next(count) == call else None)
    value = model(one)[output.place].flatten(0, -2)
    handle.remove()
    return value.log_softmax(-1) if output.kind == "classes" else value


def test_the_squared_gradients_are_those_of_the_jacobian():
    """Of layers of every kind, whatever is called twice or works in place; 2000 random directions of each input."""
    model, x = Small().eval(), torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    captured = capture(model, x[:2], "small")
    batches = [(x[:1].repeat(2000, 1, 1, 1),), (x[1:].repeat(2000, 1, 1, 1),)]
    found = squared_gradients(captured, batches, JUDGES, 0)
    wanted = by_jacobian(model, x, JUDGES, ["first", "depthwise", "grouped", "twice", "classes", "values"])
    assert set(found) == {*wanted, "up"}
    for name, squares in wanted.items():
        np.testing.assert_allclose(found[name], squares, rtol=0.06, err_msg=name)


def test_batch_norm_says_what_its_filters_count():
    """conv2 has none, nor has the sum behind it: there the gradient counts."""
    captured, x = captured_of(Normed), images(20)
    judge = Output("0", 0, "classes", -1)
    weights, again, other = (filter_weights(captured, [(x,)], [judge], seed, 1.0) for seed in (0, 0, 1))
    assert set(weights) == {"conv2"}
    squares = squared_gradients(captured, [(x,)], [judge], 0)["conv2"]
    by_hand = squares + 0.1 * squares.mean()
    np.testing.assert_allclose(weights["conv2"], by_hand / by_hand.max())
    assert np.array_equal(weights["conv2"], again["conv2"])
    assert not np.array_equal(weights["conv2"], other["conv2"])
    assert filter_weights(captured, [(x,)], [judge], 0, 0.0) == {}
    assert all(parameter.grad is None for parameter in captured.module.parameters())


class HalfRead(nn.Module):
    """Of the first layer's 32 filters, 16 are read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 8)
        with torch.no_grad():
            self.second.weight[:, 16:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_what_no_output_shows_is_let_go():
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    captured = capture(HalfRead().eval(), x[:2], "half")
    found = []
    for fisher in (0, 0.5, 1):
        plans = compress(captured, x, compute_ratio=0.2, bits=[4], uses=1, fisher=fisher).plans
        off = ((plans["first"].real_weights() - captured.network.layers[0].matrix) ** 2).mean(1)
        found.append((off[:16].mean(), off[16:].mean()))
    (read, unread), *others = found
    for less, more in others:
        assert less < 0.6 * read
        assert more > 1.5 * unread


class Cut(nn.Module):
    """No gradient comes to its layers: a value is overwritten that it needs, or the graph ends."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.first, self.second = how, nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(x))
        if self.how == "overwritten":
            x.mul_(2)
        x = self.second(x)
        return x.detach() if self.how == "detached" else x


@pytest.mark.parametrize("how", ["overwritten", "detached"])
def test_what_cannot_be_differentiated_is_compressed_with_equal_weights(how: str):
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    captured = capture(Cut(how).eval(), x[:2], how)
    weights = filter_weights(captured, [(x,)], [Output("0", 0, "values", -1)], 0, 1.0)
    assert all((each == 1).all() for each in weights.values())
    assert set(compress(captured, x, compute_ratio=0.4, fisher=1).plans) == {"first", "second"}
