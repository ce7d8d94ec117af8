"""Models that make trouble: they work in place, share parameters, have other types, or cannot be mapped as a whole."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.cost import cost
from prap_pim.crossbar import CrossbarModel, ExactLayer
from prap_pim.frontend import Captured, call, capture, outputs
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import Call, DigitalOp, Share
from tests.crossbar.plans import dense_network_plan

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(nn.Module):
    """``forward`` is a function of the model, which has a layer ``fc``, and the input."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.given = forward
        self.fc = nn.Linear(4, 4)
        self.register_buffer("table", torch.randn(4, 4))
        self.free = nn.Parameter(torch.randn(1, 3, 4))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.given(self, x)


class Exported(Model):
    """The same, for an input in a dictionary: torch.fx does not trace it, torch.export does."""

    def forward(self, *, image: Tensor) -> Any:
        return self.given(self, image)


def same(model: nn.Module, batch: Callable[[int], Tensor], skip: tuple[str, ...] = ()) -> Captured:
    """Capture and compare with the model, on a batch of another size."""

    def given(x: Tensor) -> Any:
        return {"image": x} if isinstance(model, Exported) else x

    captured = capture(model.eval(), given(batch(2)), "net", skip)
    with torch.no_grad():
        x = batch(3)  # the model may write on it
        found = outputs(captured.module(x.clone()), "net")
        rebuilt = outputs(captured.rebuild({})(x.clone()), "net")
        for own, again, theirs in zip(found, rebuilt, outputs(call(model, given(x.clone())), "net"), strict=True):
            torch.testing.assert_close(own, theirs)
            torch.testing.assert_close(again, theirs)
    return captured


def row(n: int) -> Tensor:
    return torch.randn(n, 4)


def ops(captured: Captured) -> list[str]:
    return [node.op for node in captured.network if isinstance(node, DigitalOp)]


def _add(self: Model, x: Tensor) -> Tensor:
    y: Tensor = self.fc(x)
    y.add_(1)
    return y


def _item(self: Model, x: Tensor) -> Tensor:
    y: Tensor = self.fc(x)
    y[:, 0] = 0
    return y


def _masked(self: Model, x: Tensor) -> Tensor:
    y = self.fc(x)
    y[y > 0] = 1
    return self.fc(y)


def _function(self: Model, x: Tensor) -> Tensor:
    y = self.fc(x)
    torch.relu_(y)
    y -= self.table[0]
    return self.fc(y)


def _input(self: Model, x: Tensor) -> Tensor:
    x += 1
    return self.fc(x)


def _empty(self: Model, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:] = self.fc(x)[:, 1:]
    return y


@pytest.mark.parametrize("kind", [Model, Exported])
@pytest.mark.parametrize("forward", [_add, _item, _masked, _function, _input, _empty])
def test_work_in_place(forward: Callable[..., Any], kind: type[Model]) -> None:
    same(kind(forward), row)


def test_the_example_is_not_written_on() -> None:
    x = row(2)
    before = x.clone()
    capture(Model(_input), x, "net")
    assert torch.equal(x, before)


def test_a_size_taken_by_len() -> None:
    captured = same(Model(lambda self, x: self.fc(x).view(len(x), 2, 2)), row)
    assert [layer.positions for layer in captured.network.layers] == [1]


def test_a_product_with_a_buffer_is_digital_and_counted() -> None:
    captured = same(Model(lambda self, x: self.fc(x) @ self.table), row)
    assert [(op.op, op.macs) for op in captured.network.nodes if isinstance(op, DigitalOp)][-1] == ("matmul", 16)


def test_what_follows_from_parameters_alone_is_no_layer() -> None:
    captured = same(Model(lambda self, x: self.fc(x) + self.fc(self.free).sum(1)), row)
    assert [(layer.name, layer.positions) for layer in captured.network.layers] == [("fc", 1)]
    assert ops(captured) == ["input", "add"]
    with pytest.raises(UserError, match="no layer that can be mapped"):
        capture(Model(lambda self, x: x + self.fc(self.free).sum(1)), row(2), "net")


def _mask(self: Model, x: Tensor) -> Tensor:
    out, mask = torch.zeros_like(x), x[:, 0] > 0
    out[mask] = self.fc(x[mask].relu())
    return out


def _rows(self: Model, x: Tensor) -> Tensor:
    rows = torch.where(x[:, 0] > 0)[0]
    return torch.zeros_like(x).index_add(0, rows, self.fc(x[rows]))


@pytest.mark.parametrize("kind", [Model, Exported])
@pytest.mark.parametrize("forward", [_mask, _rows])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_rows_chosen_by_their_values_are_no_inputs_of_a_layer(
    signs: tuple[int, ...], forward: Callable[..., Any], kind: type[Model]
) -> None:
    """Whatever their number is in the example: other inputs have another one."""
    x = torch.tensor(signs)[:, None] * row(2).abs()
    with pytest.raises(UserError, match=r" fc: which rows it reads depends on values, as in x\[mask\]; let it"):
        capture(kind(forward), {"image": x} if kind is Exported else x, "net")


class Routed(nn.Module):
    """Two experts, each of which reads the rows that are given to it, and a layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, which = torch.zeros_like(x), (x[:, 0] > 0).long()
        for i, expert in enumerate(self.experts):
            mask = which == i
            out[mask] = expert(x[mask])
        return self.last(out)


def test_experts_over_chosen_rows_can_be_skipped_and_are_listed() -> None:
    """One row each of the two in the example: so many multiplications are digital."""
    x = torch.tensor([[1.0], [-1.0]]) * row(2).abs()
    names = [f"experts.{i}.{j}" for i in range(2) for j in (0, 2)]
    with pytest.raises(UserError, match=f"as a whole: {', '.join(names)}: which rows it reads depends"):
        capture(Routed(), x, "net")
    model = Routed().eval()
    captured = capture(model, x, "net", skip=["experts"])
    assert [layer.name for layer in captured.network.layers] == ["last"]
    assert list(captured.unsupported) == names
    experts = {op.name: (op.weights, op.macs) for op in captured.network.digital if op.name in names}
    assert experts == dict.fromkeys(names, (24, 12))  # half a row of each input
    whole = 4 * 24 + 12
    assert captured.network.on_crossbars == Share(12 / whole, 12 / (2 * 24 + 12))
    for more in (row(5), row(5).abs()):
        with torch.no_grad():
            torch.testing.assert_close(captured.module(more.clone()), model(more))
    found = prap_pim.compress(model, row(40), "calibrated", compute_ratio=1.0, skip="experts")
    assert found.changed == ()
    assert "not mapped: experts.0.0: which rows" in found.summary()


def _written(self: Model, x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0.5
    return self.fc(x)


def _constant_mask(self: Model, x: Tensor) -> Tensor:
    return self.fc(x[:, self.table[0] > -9])


@pytest.mark.parametrize("kind", [Model, Exported])
@pytest.mark.parametrize("forward", [_written, _constant_mask])
def test_masks_that_leave_all_rows(forward: Callable[..., Any], kind: type[Model]) -> None:
    captured = same(kind(forward), row)
    assert [layer.positions for layer in captured.network.layers] == [1]


def test_learned_queries_are_inputs_like_others() -> None:
    captured = same(Model(lambda self, x: self.fc(self.free.expand(x.shape[0], -1, -1)).sum(1) + x), row)
    assert [layer.positions for layer in captured.network.layers] == [3]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(kind: torch.dtype) -> None:
    model = Model(lambda self, x: self.fc(torch.relu(self.fc(x)))).to(kind)
    captured = same(model, lambda n: row(n).to(kind))
    layer = captured.network.layers[0]
    assert layer.weight.dtype == np.float32
    np.testing.assert_array_equal(layer.weight, model.fc.weight.detach().float().numpy())
    plan = dense_network_plan(captured, {"fc": InputGrid(0.05)})
    rebuilt = captured.rebuild({"fc": ExactLayer(layer, plan.layers["fc"], InputGrid(0.05), CrossbarModel(adc_bits=8))})
    x = row(3).to(kind)
    with torch.no_grad():
        assert rebuilt(x).dtype == kind
        torch.testing.assert_close(rebuilt(x), model(x), rtol=0, atol=0.3)


def test_tokens() -> None:
    captured = same(
        Model(lambda self, x: self.fc(self.words(x)), words=nn.Embedding(9, 4)), lambda n: torch.randint(0, 9, (n, 5))
    )
    assert ops(captured) == ["input", "embedding"]


def test_weights_that_do_not_lie_in_order() -> None:
    model = Model(lambda self, x: self.fc(x))
    model.fc.weight = nn.Parameter(model.fc.weight.detach().t().contiguous().t())
    assert not model.fc.weight.is_contiguous()
    captured = same(model, row)
    np.testing.assert_array_equal(captured.network.layers[0].weight, model.fc.weight.detach().numpy())


def test_frozen_and_in_train_mode() -> None:
    model = Model(lambda self, x: self.drop(self.fc(x)), drop=nn.Dropout(0.5)).requires_grad_(False).train()
    captured = capture(model, row(2), "net")
    assert all(module.training for module in model.modules())
    x = row(5)
    assert torch.equal(captured.module(x), model.eval()(x))


def test_a_module_in_a_module_called_twice() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    captured = same(Model(lambda self, x: self.inner(self.inner(self.fc(x))), inner=inner), row)
    assert [(layer.name, layer.positions) for layer in captured.network.layers] == [
        ("fc", 1), ("inner.0", 2), ("inner.2", 2)
    ]  # fmt: skip
    again = [(node.name, node.layer) for node in captured.network if isinstance(node, Call)]
    assert again == [("inner.0:2", "inner.0"), ("inner.2:2", "inner.2")]


def test_one_parameter_in_two_modules_is_stored_once() -> None:
    one, two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    two.weight = one.weight
    model = Model(lambda self, x: self.two(torch.relu(self.one(x))), one=one, two=two)
    captured = same(model, row)
    (layer,) = captured.network.layers
    assert layer.positions == 2
    assert model.get_parameter(captured.origins[layer.name].parameter) is one.weight
    assert sum(isinstance(node, Call) for node in captured.network) == 1


def test_parts_of_one_parameter_are_layers_of_their_own() -> None:
    def halves(self: Model, x: Tensor) -> Tensor:
        return functional.linear(x, self.fc.weight[:2]) * functional.linear(x, self.fc.weight[2:])

    model = Model(halves)
    captured = same(model, row)
    assert [layer.filters for layer in captured.network.layers] == [2, 2]
    with torch.no_grad():
        for layer in captured.network.layers:
            captured.origins[layer.name].of(model.fc.weight).zero_()
    assert not model.fc.weight.any()


def test_products_of_activations_by_hand() -> None:
    def products(self: Model, x: Tensor) -> tuple[Tensor, ...]:
        y = self.fc(x)  # [n, 5, 4]
        square = y @ y.transpose(1, 2)  # 5 * 5 * 4
        return (
            square @ square,  # 5 * 5 * 5, the same tensor twice
            torch.einsum("nij,nkj->nik", y, y),  # 5 * 5 * 4
            torch.einsum("...i,...i", y, y),  # 5 * 4
            functional.scaled_dot_product_attention(y, y, value=y),  # 5 * 5 * (4 + 4)
            torch.baddbmm(square, y, y.transpose(1, 2)),  # 5 * 5 * 4
        )

    captured = same(Model(products), lambda n: torch.randn(n, 5, 4))
    macs = [node.macs for node in captured.network if isinstance(node, DigitalOp) and node.macs]
    assert macs == [100, 125, 100, 20, 200, 100]


def test_a_weight_on_the_left_is_a_layer_on_what_is_transposed() -> None:
    model = Model(
        lambda self, x: self.fc(x).sum(1) + (self.left @ x.transpose(1, 2)).sum(2), left=nn.Linear(4, 4).weight
    )
    captured = same(model, lambda n: torch.randn(n, 5, 4))
    fc, left = captured.network.layers
    assert (left.name, left.positions, left.input_shape, left.output_shape) == ("left", 5, (5, 4), (5, 4))
    np.testing.assert_array_equal(left.weight, model.left.detach().numpy())
    assert fc.positions == 5


class Mixed(nn.Module):
    """Products with weights that cannot be mapped, and one layer that can."""

    def __init__(self) -> None:
        super().__init__()
        self.diagonal = Model(lambda self, x: torch.einsum("ntd,dd->ntd", x, self.free[0, :1] * self.fc.weight))
        self.scaled = Model(lambda self, x: torch.addmm(x[:, 0], x[:, 1], self.fc.weight, beta=0.5))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.scaled(self.diagonal(x)))
        return out


REASONS = {
    "diagonal": "einsum with a weight [4, 4] cannot be mapped: it reads a diagonal",
    "scaled": "a product with a weight by addmm cannot be mapped: use linear layers",
}


def sequence(n: int) -> Tensor:
    return torch.randn(n, 5, 4)


def test_all_that_is_not_supported_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        capture(Mixed(), sequence(2), "net")
    every = "; ".join(f"{path}: {reason}" for path, reason in REASONS.items())
    assert str(caught.value) == f"model net cannot be mapped as a whole: {every} (or name what to skip)"
    with pytest.raises(UserError) as caught:
        capture(Mixed(), sequence(2), "net", skip=["scaled"])
    assert str(caught.value).count(": ") == 3
    assert "diagonal: einsum" in str(caught.value)


def test_what_is_skipped_runs_digitally_and_is_counted() -> None:
    captured = same(Mixed(), sequence, tuple(REASONS))
    assert captured.unsupported == REASONS
    assert [layer.name for layer in captured.network.layers] == ["fc"]
    macs = {node.name: (node.macs, node.weights, node.weight_reads) for node in captured.network.digital if node.macs}
    assert macs == {
        "diagonal": (5 * 4, 4 * 4 + 3 * 4, 5 * 4),  # its weight is made of two parameters
        "scaled": (4 * 4, 4 * 4, 4 * 4),
    }
    plan = dense_network_plan(captured, {"fc": InputGrid(0.1)})
    report = cost(captured.network, plan, load_chip("isaac-32nm"))
    assert sum(layer.activity.digital_ops for layer in report.layers) >= 2 * (20 + 16)
    every = 8 + 16 + 12 + 16
    assert captured.network.share_of("scaled") == Share(16 / every, 16 / (8 + 20 + 16))


def _packed(self: Model, x: Tensor) -> Tensor:
    lengths = torch.full((x.shape[0],), 1)
    packed = nn.utils.rnn.pack_padded_sequence(x[:, None], lengths, batch_first=True)
    return self.fc(nn.GRU(4, 4, batch_first=True)(packed)[1][0])


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (_packed, "model net cannot be traced: it packs sequences of several lengths; give its"),
        (lambda self, x: self.fc(x) if x.sum() > 0 else x, "model net cannot be traced: Could not guard on data"),
        (lambda self, x: self.fc(x)[: int(x[0, 0] > 0) + 1], "model net cannot be traced: "),
        (lambda self, x: self.fc(x) + self.fc.weight @ x[0], "matmul with a weight on the left cannot be mapped"),
        (lambda self, x: str(self.fc(x).shape), "model net gives no tensor, but str"),
        (lambda self, x: self.fc(x) + torch.zeros(2, 4), "works for a batch of 2 alone; make it take batches of any"),
    ],
)
def test_what_is_refused_is_said_in_one_line(
    forward: Callable[..., Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        capture(Model(forward), row(2), "net")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # nor does torch print what it knows of it


def test_transposed_convolutions_of_every_kind() -> None:
    """Their products, then the overlapped sums: in one to three dimensions, grouped, strided, dilated, padded."""
    parts = {
        "line": nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1),
        "plane": nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, dilation=(2, 1), bias=False),
        "depthwise": nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, groups=4),
        "cube": nn.ConvTranspose3d(4, 2, 2, stride=2),
    }

    def forward(self: Model, x: Tensor) -> tuple[Tensor, ...]:
        plane = x.reshape(-1, 4, 5, 4)
        return self.line(x), self.plane(plane), self.depthwise(plane), self.cube(plane.unsqueeze(2))

    captured = same(Model(forward, **parts), lambda n: torch.randn(n, 4, 20))
    found = {
        layer.name: (layer.fan_in, layer.filters, layer.groups, layer.positions) for layer in captured.network.layers
    }
    assert found == {
        "line": (4, 6 * 3, 1, 20),  # filters at every kernel position
        "plane": (2, 6 * 6, 2, 20),
        "depthwise": (1, 4 * 16, 4, 20),
        "cube": (4, 2 * 8, 1, 20),
    }
    sums = [node.input_elements for node in captured.network if isinstance(node, DigitalOp) and node.op == "overlapadd"]
    assert sums == [18 * 20, 36 * 20, 64 * 20, 16 * 20]


def test_hooks_are_part_of_the_model() -> None:
    """Those of a layer, too, in whose place another module is put."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    model[0].register_forward_hook(lambda _, x, y: 2 * y)
    model[2].register_forward_pre_hook(lambda _, x: (x[0] + 1,))
    captured, x = capture(model, torch.randn(2, 4), "net"), torch.randn(5, 4)
    names = [layer.name for layer in captured.network.layers]
    rebuilt = captured.rebuild({n: copy.deepcopy(captured.module.get_submodule(n)) for n in names})
    with torch.no_grad():
        wanted = 2 * nn.functional.linear(x, model[0].weight, model[0].bias)
        wanted = nn.functional.linear(wanted.relu() + 1, model[2].weight, model[2].bias)
        torch.testing.assert_close(outputs(rebuilt(x), "net")[0], wanted)


def test_a_captured_model_is_sent_to_other_processes() -> None:
    """What torch.export traced, as what torch.fx did."""
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(3, 4, 8)
    module = capture(layer, x[:2], "net").module
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))
