"""Capture: what a traced model becomes, by hand, and that it still computes what the model computes."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prap_pim.common.errors import UserError
from prap_pim.frontend import capture
from prap_pim.ir.network import DigitalOp, Layer


class Branched(nn.Module):
    """A stem, one residual block with a convolution for its shortcut, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.conv1 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding="same", dilation=2)
        self.norm2 = nn.BatchNorm2d(6, affine=False)
        self.drop = nn.Dropout(0.5)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.pool = nn.MaxPool2d(2)
        self.last_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        z = self.last_norm(self.pool(functional.relu(self.drop(y) + self.shortcut(x))))
        out: Tensor = self.head(z.view(z.size(0), -1))
        return out


def _branched(seed: int = 0) -> Branched:
    """With batch norm statistics and factors that are not the initial 0 and 1."""
    torch.manual_seed(seed)
    model = Branched()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def test_layers_and_shapes_by_hand() -> None:
    network = capture(_branched(), torch.zeros(3, 1, 8, 8), "small").network
    found = [
        (layer.name, layer.kind, layer.rows, layer.input_shape, layer.output_shape, layer.positions, layer.sources)
        for layer in network.layers
    ]
    assert found == [
        ("stem.0", "conv", 9, (1, 8, 8), (4, 8, 8), 64, ("x",)),
        ("conv1", "conv", 36, (4, 8, 8), (6, 4, 4), 16, ("stem.2",)),
        ("conv2", "conv", 54, (6, 4, 4), (6, 4, 4), 16, ("relu",)),
        ("shortcut", "conv", 4, (4, 8, 8), (6, 4, 4), 16, ("stem.2",)),
        ("head", "linear", 24, (24,), (5,), 1, ("view",)),
    ]
    by_name = {layer.name: layer for layer in network.layers}
    assert [by_name[name].stride for name in ("conv1", "conv2")] == [(2, 2), (1, 1)]
    assert (by_name["conv2"].padding, by_name["conv2"].dilation) == ((2, 2), (2, 2))


def test_digital_operations_by_hand() -> None:
    network = capture(_branched(), torch.zeros(3, 1, 8, 8), "small").network
    assert [node for node in network if isinstance(node, DigitalOp)] == [
        DigitalOp("x", "input", 0, 64, ()),
        DigitalOp("stem.2", "relu", 4 * 64, 4 * 64, ("stem.0",)),
        DigitalOp("relu", "relu", 6 * 16, 6 * 16, ("conv1",)),
        DigitalOp("add", "add", 2 * 6 * 16, 6 * 16, ("conv2", "shortcut")),
        DigitalOp("relu_1", "relu", 6 * 16, 6 * 16, ("add",)),
        DigitalOp("pool", "maxpool", 6 * 16, 6 * 4, ("relu_1",)),
        DigitalOp("last_norm", "batchnorm", 6 * 4, 6 * 4, ("pool",)),
        DigitalOp("view", "view", 24, 24, ("last_norm",)),
    ]


class _FromLayer(nn.Module):
    """What ``Layer`` says it computes, from its NumPy values."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        self.weight = torch.from_numpy(layer.weight).double()
        self.scale = torch.from_numpy(layer.filter_scale).double()
        self.bias = torch.from_numpy(layer.filter_bias).double()

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if layer.kind == "linear":
            return functional.linear(x, self.weight) * self.scale + self.bias
        y = functional.conv2d(x, self.weight, None, layer.stride, layer.padding, layer.dilation)
        return y * self.scale[:, None, None] + self.bias[:, None, None]


def test_layers_with_folded_batch_norm_compute_what_the_model_computes() -> None:
    model = _branched().double().eval()
    captured = capture(model, torch.zeros(1, 1, 8, 8).double(), "small")
    assert captured.folded == {"stem.0": "stem.1", "conv1": "norm1", "conv2": "norm2"}
    x = torch.randn(5, 1, 8, 8).double()
    rebuilt = captured.rebuild({layer.name: _FromLayer(layer) for layer in captured.network.layers})
    torch.testing.assert_close(rebuilt(x), model(x), rtol=1e-5, atol=1e-5)  # weights and scales are float32


def test_rebuild_without_replacement_is_the_model_itself() -> None:
    model = _branched().eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(capture(model, x, "small").rebuild({})(x), model(x))


def test_rebuild_replaces_some_layers_and_leaves_the_rest_with_their_batch_norm() -> None:
    model = _branched().eval()
    captured = capture(model, torch.zeros(1, 1, 8, 8), "small")
    rebuilt = captured.rebuild({"conv1": nn.Sequential(copy.deepcopy(model.conv1), copy.deepcopy(model.norm1))})
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(rebuilt(x), model(x))
    assert not any(module is captured.module.conv2 for module in rebuilt.modules())  # a deep copy
    with pytest.raises(UserError, match="network small has no layer conv9"):
        captured.rebuild({"conv9": nn.Identity()})


def test_the_users_model_is_not_touched() -> None:
    model = _branched().train()
    before = copy.deepcopy(model.state_dict())
    captured = capture(model, torch.randn(4, 1, 8, 8), "small")
    with torch.no_grad():
        for parameter in captured.module.parameters():
            parameter.zero_()
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_are_a_copy() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    layer = capture(model, torch.zeros(1, 3), "small").network.layers[0]
    with torch.no_grad():
        model[0].weight.zero_()
    assert layer.weight.any()


def _forward(forward: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module) -> nn.Module:
    """A model with these modules and this forward."""
    model = type("Model", (nn.Module,), {"forward": forward})()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


def test_a_batch_norm_that_is_not_alone_is_not_folded() -> None:
    def both(self: nn.Module, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y

    captured = capture(_forward(both, conv=nn.Conv2d(2, 2, 1), norm=nn.BatchNorm2d(2)), torch.zeros(1, 2, 3, 3), "m")
    assert captured.folded == {}
    assert [node.name for node in captured.network] == ["x", "conv", "norm", "add"]


def test_a_batch_norm_that_is_called_twice_is_not_folded() -> None:
    def twice(self: nn.Module, x: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(x)))

    captured = capture(_forward(twice, conv=nn.Conv2d(2, 2, 1), norm=nn.BatchNorm2d(2)), torch.zeros(1, 2, 3, 3), "m")
    assert [node.name for node in captured.network] == ["x", "conv", "norm", "norm:2"]


def test_batch_norm_after_a_linear_layer_is_folded_over_features_only() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    assert capture(model(), torch.zeros(2, 4), "m").folded == {"0": "1"}
    assert capture(model(), torch.zeros(2, 3, 4), "m").folded == {}  # there it runs over dimension 1


def test_positions_of_a_linear_layer_with_and_without_a_merged_batch() -> None:
    def merged(self: nn.Module, x: Tensor) -> Tensor:
        return self.fc(x.reshape(-1, 4))

    plain = capture(nn.Sequential(nn.Linear(4, 3)), torch.zeros(2, 5, 4), "m").network.layers[0]
    flat = capture(_forward(merged, fc=nn.Linear(4, 3)), torch.zeros(2, 5, 4), "m").network.layers[0]
    for layer in (plain, flat):
        assert (layer.input_shape, layer.output_shape, layer.positions) == ((5, 4), (5, 3), 5)


def _control(self: nn.Module, x: Tensor) -> Tensor:
    return self.fc(x) if x.sum() > 0 else x


def _einsum(self: nn.Module, x: Tensor) -> Tensor:
    return torch.einsum("ni,ii->ni", self.fc(x), self.fc.weight)


def _nan() -> nn.Module:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight[1, 2] = float("nan")
    return layer


IMAGE, ROW, LINE = (1, 4, 8, 8), (1, 4), (1, 4, 8)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Sequential(nn.LSTM(4, 4)), (1, 8, 4), r"batch of 2 alone \(0: a recurrent layer \(LSTM\) cannot"),
        (nn.Sequential(nn.ReLU(), _nan()), ROW, "layer 1: its weight holds NaN"),
        (_forward(_control, fc=nn.Linear(4, 4)), ROW, "model m cannot be traced: Could not guard on data-dependent"),
        (_forward(_einsum, fc=nn.Linear(4, 4)), ROW, "einsum with a weight .* cannot be mapped: it reads a diagonal"),
        (nn.Sequential(nn.ReLU()), ROW, "network m has no layer that can be mapped"),
        (nn.Sequential(nn.Linear(4, 4)), (1, 5), r"model m does not run on an input \(1, 5\): "),
        (nn.Sequential(nn.Linear(4, 4)), (0, 4), "needs at least one input"),
        (nn.Sequential(nn.Conv2d(4, 4, 3)), (4, 8, 8), "works for a batch of 4 alone; make it take"),
    ],
)
def test_what_cannot_be_mapped_is_said_in_one_line(model: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        capture(model, torch.randn(shape), "m")
    assert "\n" not in str(caught.value)


def test_padding_given_in_words() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, (3, 5), padding="same"), nn.Conv2d(4, 4, 3, padding="valid"))
    layers = capture(model, torch.zeros(IMAGE), "m").network.layers
    assert [layer.padding for layer in layers] == [(1, 2), (0, 0)]
    assert layers[1].output_shape == (4, 6, 6)


def test_float64_weights_become_float32() -> None:
    layer = capture(nn.Sequential(nn.Linear(4, 4)).double(), torch.zeros(1, 4).double(), "m").network.layers[0]
    assert layer.weight.dtype == layer.filter_scale.dtype == layer.filter_bias.dtype == np.float32


def test_other_weights_in_the_same_graph_are_as_captured_anew() -> None:
    x = torch.randn(3, 1, 8, 8)
    other = _branched(seed=1)
    other.head.bias = None
    graph = capture(other, x, "small")
    model = _branched()  # its head has a bias, as training donors may give a layer one
    found, anew = graph.with_state(model.state_dict()), capture(model, x, "small")
    assert found.folded == anew.folded
    for layer, expected in zip(found.network.layers, anew.network.layers, strict=True):
        assert layer.name == expected.name
        for array in ("weight", "filter_scale", "filter_bias"):
            np.testing.assert_array_equal(getattr(layer, array), getattr(expected, array))
    torch.testing.assert_close(found.module(x), model.eval()(x), rtol=0, atol=0)
    assert not torch.equal(graph.module(x), found.module(x))
