"""Products with weights in every form that models have them: each is mapped, computes what the model does, and takes
the operation units that a hand count says."""

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import prap_pim
from prap_pim.frontend import Captured, capture
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import Call, DigitalOp
from prap_pim.mapping.steps import dense_steps
from tests.frontend.test_odd_models import Model, same

pytestmark = pytest.mark.filterwarnings("ignore")

GRAIN = load_chip("isaac-32nm").grain
Shape = tuple[int, int, int]  # rows, filters, positions of a layer


def shapes(captured: Captured) -> list[Shape]:
    """Of all layers; each takes ceil(rows / 8) row groups of as many OUs as it has filters (8 cells to a weight and 8
    columns to an OU), in 8 input steps for each position."""
    for layer in captured.network.layers:
        assert dense_steps(layer, GRAIN) == ceil(layer.rows / 8) * layer.filters * 8 * layer.positions
    return [(layer.rows, layer.filters, layer.positions) for layer in captured.network.layers]


def tokens(n: int) -> Tensor:
    return torch.randn(n, 5, 4)


def _einsum(equation: str, *sizes: int) -> Callable[..., Any]:
    def forward(self: Model, x: Tensor) -> Tensor:
        return torch.einsum(equation, x, self.w)

    forward.sizes = sizes  # type: ignore[attr-defined]
    return forward


PRODUCTS: dict[str, tuple[Callable[..., Any], tuple[int, ...], list[Shape]]] = {
    "weight on the left": (lambda self, x: self.w @ x.transpose(1, 2), (6, 4), [(4, 6, 5)]),
    "weight on the left, batched": (lambda self, x: self.w @ x.transpose(1, 2)[:, None], (2, 6, 4), [(4, 6, 5)] * 2),
    "a stack, broadcast": (lambda self, x: x[:, None] @ self.w, (3, 4, 6), [(4, 6, 5)] * 3),
    "a stack of one": (lambda self, x: x @ self.w, (1, 4, 6), [(4, 6, 5)]),
    "a stack for each position": (lambda self, x: (x[:, :, None] @ self.w)[:, :, 0], (5, 4, 6), [(4, 6, 1)] * 5),
    "bmm": (lambda self, x: torch.bmm(x.transpose(0, 1), self.w), (5, 4, 6), [(4, 6, 1)] * 5),
    "bmm, weight on the left": (lambda self, x: torch.bmm(self.w, x.permute(1, 2, 0)), (5, 6, 4), [(4, 6, 1)] * 5),
    "baddbmm": (lambda self, x: torch.baddbmm(self.w[0, 0], x.transpose(0, 1), self.w), (5, 4, 6), [(4, 6, 1)] * 5),
    "addbmm": (lambda self, x: torch.addbmm(x[:, 0, :1], x.transpose(0, 1), self.w), (5, 4, 6), [(20, 6, 1)]),
    "einsum of heads": (_einsum("btd,dhk->bhtk"), (4, 2, 3), [(4, 6, 5)]),
    "einsum of heads, merged": (_einsum("btd,tdk->bk"), (5, 4, 3), [(20, 3, 1)]),
    "einsum of experts": (_einsum("btd,edh->bteh"), (3, 4, 6), [(4, 6, 5)] * 3),
    "einsum, weight last to first": (_einsum("btd,hd->hbt"), (6, 4), [(4, 6, 5)]),
    "einsum with dots": (_einsum("...d,dh"), (4, 6), [(4, 6, 5)]),
    "einsum that sums positions": (_einsum("btd,dh->bh"), (4, 6), [(4, 6, 1)]),
    "einsum without filters": (_einsum("btd,td->b"), (5, 4), [(20, 1, 1)]),
    "einsum of one group": (_einsum("btd,gdh->bth"), (1, 4, 6), [(4, 6, 5)]),
    "tensordot": (lambda self, x: torch.tensordot(x, self.w, ([2, 1], [0, 2])), (4, 6, 5), [(20, 6, 1)]),
    "inner": (lambda self, x: torch.inner(x, self.w), (6, 4), [(4, 6, 5)]),
    "three": (lambda self, x: torch.einsum("btd,dr,rh->bth", x, self.w, self.w.T), (4, 2), [(4, 2, 5), (2, 4, 5)]),
    "low-rank, merged": (lambda self, x: functional.linear(x, self.w @ self.w.T), (4, 2), [(4, 4, 5)]),
    "low-rank, added": (lambda self, x: functional.linear(x, self.table + self.w @ self.w.T), (4, 2), [(4, 4, 5)]),
    "times a number": (lambda self, x: x @ (self.w * 0.5), (4, 6), [(4, 6, 5)]),
    "standardised": (
        lambda self, x: functional.conv1d(x, (self.w - self.w.mean((1, 2), True)) / self.w.std((1, 2), keepdim=True)),
        (6, 5, 2),
        [(10, 6, 3)],
    ),
    "transposed convolution, computed": (
        lambda self, x: functional.conv_transpose1d(x, self.w / self.w.norm()), (5, 6, 2), [(5, 12, 4)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_product_with_a_weight_is_mapped_and_computes_what_the_model_does(kind: str) -> None:
    forward, sizes, wanted = PRODUCTS[kind]
    model = Model(lambda self, x: forward(self, self.fc(x)))
    model.w = nn.Parameter(torch.randn(sizes))
    captured = same(model, tokens)
    assert shapes(captured) == [(4, 4, 5), *wanted]
    assert not captured.unsupported
    assert not any(op.macs or op.weights for op in captured.network.digital)


@pytest.mark.parametrize("kind", ["a stack, broadcast", "einsum of heads", "weight on the left", "standardised"])
def test_what_is_compressed_is_put_back(kind: str) -> None:
    """Dense rounds to int8 and no more; the model that is given back computes with these weights."""
    torch.manual_seed(0)
    forward, sizes, _ = PRODUCTS[kind]
    model = Model(lambda self, x: forward(self, self.fc(x)))
    model.w = nn.Parameter(torch.randn(sizes))
    x = tokens(64)
    found = prap_pim.compress(model, x, "dense")
    assert found.sqnr_db() > 27
    similar = prap_pim.compress(model, x, "similar", compute_ratio=0.6)
    with torch.no_grad():
        wanted = similar._compressed.captured.module(x)
        torch.testing.assert_close(similar.model(x), wanted)
        assert not torch.allclose(model(x), wanted)


def _with_mask(module: nn.Module) -> nn.Module:
    return prune.random_unstructured(module, "weight", 0.5)


@pytest.mark.parametrize(
    "norm", [parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm, spectral_norm, _with_mask]
)
def test_weights_that_are_constant_in_evaluation_are_computed_once(norm: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(norm(nn.Conv1d(5, 8, 3)), nn.ReLU(), nn.Flatten(), norm(nn.Linear(16, 4))).eval()
    x = tokens(16)
    wanted = model(x).detach()
    captured = same(model, tokens)
    assert [layer.name for layer in captured.network.layers] == ["0", "3"]
    assert shapes(captured) == [(15, 8, 2), (16, 4, 1)]
    found = prap_pim.compress(model, x, "similar", compute_ratio=0.5)
    assert {name for name, _ in found.model.named_parameters()} == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert torch.equal(model(x), wanted)  # the user's own is as it was


def test_bilinear_is_a_layer_of_the_first_and_a_product_with_the_second() -> None:
    model = Model(lambda self, x: self.pair(self.fc(x), x), pair=nn.Bilinear(4, 4, 3))
    captured = same(model, tokens)
    assert shapes(captured) == [(4, 4, 5), (4, 3 * 4, 5)]
    assert [op.macs for op in captured.network.digital if op.macs] == [3 * 4 * 5]


RECURRENT: dict[str, tuple[nn.Module, list[Shape]]] = {
    "lstm": (nn.LSTM(4, 6, batch_first=True), [(4, 24, 5), (6, 24, 5)]),
    "gru": (nn.GRU(4, 6, batch_first=True), [(4, 18, 5), (6, 18, 5)]),
    "rnn": (nn.RNN(4, 6, batch_first=True), [(4, 6, 5), (6, 6, 5)]),
    "relu": (nn.RNN(4, 6, nonlinearity="relu", bias=False, batch_first=True), [(4, 6, 5), (6, 6, 5)]),
    "deep": (
        nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True),
        [(4, 24, 5), (6, 24, 5)] * 2 + [(12, 24, 5), (6, 24, 5)] * 2,
    ),
    "projected": (nn.LSTM(4, 6, proj_size=3, batch_first=True), [(4, 24, 5), (3, 24, 5), (6, 3, 5)]),
    "deep gru": (nn.GRU(4, 6, num_layers=2, batch_first=True), [(4, 18, 5), (6, 18, 5), (6, 18, 5), (6, 18, 5)]),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_the_gates_of_a_recurrent_layer_run_once_a_time_step(kind: str) -> None:
    module, wanted = RECURRENT[kind]
    captured = same(Model(lambda self, x: self.rnn(self.fc(x)), rnn=module), tokens)
    found = shapes(captured)
    assert (found[0], sorted(found[1:])) == ((4, 4, 5), sorted(wanted))
    again = {node.layer for node in captured.network if isinstance(node, Call)}
    held = {layer.name for layer in captured.network.layers if "_hh_" in layer.name or "_hr_" in layer.name}
    assert again == held  # the products of the inputs are computed for all steps together


def test_time_first_and_a_given_state() -> None:
    def forward(self: Model, x: Tensor) -> Any:
        y = self.fc(x)
        begin = y.mean(1)[None]
        return self.rnn(y.transpose(0, 1), (begin, begin))

    captured = same(Model(forward, rnn=nn.LSTM(4, 4)), tokens)
    assert shapes(captured) == [(4, 4, 5), (4, 16, 5), (4, 16, 5)]


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_in_a_loop(kind: type[nn.Module]) -> None:
    def forward(self: Model, x: Tensor) -> Tensor:
        y = self.fc(x)
        state = y[:, 0]
        state = (state, state) if kind is nn.LSTMCell else state
        for i in range(x.shape[1]):
            state = self.cell(y[:, i], state)
        return state[0] if isinstance(state, tuple) else state

    gates = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}[kind]
    captured = same(Model(forward, cell=kind(4, 4)), tokens)
    assert shapes(captured) == [(4, 4, 5), (4, 4 * gates, 5), (4, 4 * gates, 5)]


def test_a_compressed_lstm_computes_with_its_new_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), _First(nn.LSTM(8, 8, batch_first=True)), nn.Linear(8, 4))
    x = tokens(64)
    assert prap_pim.compress(model, x, "dense").sqnr_db() > 30
    found = prap_pim.compress(model, x, "similar", compute_ratio=0.6)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), found._compressed.captured.module(x))


class _First(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return out


class Routed(nn.Module):
    """Each input's two best of three experts, as libraries compute them: rows sorted by expert and grouped_mm
    ("grouped"), or each row's own weight gathered ("gathered")."""

    def __init__(self, way: str, best: int = 2) -> None:
        super().__init__()
        self.way, self.best = way, best
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 16)), nn.Parameter(torch.randn(3, 16, 8))
        self.router = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 8)
        gain, chosen = self.router(flat).softmax(-1).topk(self.best)
        expert, rows = chosen.reshape(-1), flat.repeat_interleave(self.best, 0)
        if self.way == "gathered":
            y = torch.bmm(torch.bmm(rows[:, None], self.up[expert]).relu(), self.down[expert])[:, 0]
        else:
            order = expert.argsort()
            ends = torch.bincount(expert, minlength=3).cumsum(0).to(torch.int32)
            grouped = torch._grouped_mm
            y = grouped(rows[order].bfloat16(), self.up.bfloat16(), ends).relu()
            y = grouped(y, self.down.bfloat16(), ends).float()[order.argsort()]
        y = (y * gain.reshape(-1, 1)).unflatten(0, (-1, self.best)).sum(1)
        return x + y.reshape(x.shape)


@pytest.mark.parametrize("best", [1, 2])
def test_experts_have_the_positions_that_routing_gives_them(best: int) -> None:
    torch.manual_seed(0)
    model, x = Routed("gathered", best).eval(), torch.randn(16, 5, 8)
    captured = capture(model, x, "net")
    with torch.no_grad():
        torch.testing.assert_close(captured.module(x), model(x))
        loads = torch.bincount(model.router(x.reshape(-1, 8)).topk(best).indices.reshape(-1), minlength=3) / len(x)
    ups = [layer for layer in captured.network.layers if layer.name.startswith("up")]
    assert [(layer.rows, layer.filters) for layer in ups] == [(8, 16)] * 3
    assert sum(layer.positions for layer in ups) == 5 * best
    for layer, load in zip(ups, loads.tolist(), strict=True):
        assert abs(layer.positions - load) < 1
    report = prap_pim.estimate(model, x)
    assert report.macs == 5 * (8 * 3 + best * 2 * 8 * 16)


def test_an_expert_that_nothing_comes_to_is_stored_and_not_run() -> None:
    model = Routed("gathered", 1).eval()
    with torch.no_grad():
        model.router.weight.zero_()
        model.router.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    report = prap_pim.estimate(model, torch.randn(4, 5, 8))
    steps = {layer.name: (layer.ou_steps, layer.stored_cells) for layer in report.layers}
    assert steps["up_0"] == (0, 8 * 16 * 8)
    assert steps["up_1"] == (16 * 8 * 5, 8 * 16 * 8)


def test_what_reads_a_diagonal_or_has_no_batch_is_named() -> None:
    model = Model(lambda self, x: self.fc(x) + torch.einsum("btd,dd->btd", x, self.table * self.fc.weight))
    captured = capture(model, tokens(2), "net", skip=["einsum"])
    assert captured.unsupported == {"einsum": "einsum with a weight [4, 4] cannot be mapped: it reads a diagonal"}
    left = [op for op in captured.network if isinstance(op, DigitalOp) and op.name == "einsum"]
    assert [(op.macs, op.weights) for op in left] == [(20, 32)]
