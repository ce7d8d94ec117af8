"""A network's values check themselves: layers with groups, further calls, and the order of the nodes."""

from dataclasses import replace

import numpy as np
import pytest

from prap_pim.common.errors import UserError
from prap_pim.ir.network import Call, DigitalOp, Layer, Network


def conv(**changed: object) -> Layer:
    """6 filters of 2 of 4 channels, kernel 3 x 1, on maps of 5 x 4."""
    layer = Layer(
        name="conv",
        kind="conv",
        weight=np.arange(36, dtype=np.float32).reshape(6, 2, 3, 1),
        filter_scale=np.arange(6, dtype=np.float32),
        filter_bias=np.ones(6, np.float32),
        input_shape=(4, 5, 4),
        output_shape=(6, 3, 4),
        sources=("x",),
        groups=2,
    )
    return replace(layer, **changed)  # type: ignore[arg-type]


IMAGE = DigitalOp("x", "input", 0, 80, ())


def test_sizes_by_hand() -> None:
    layer = conv()
    assert (layer.filters, layer.channels, layer.rows, layer.fan_in, layer.kernel_positions) == (6, 4, 12, 6, 3)
    assert (layer.map_positions, layer.positions) == (12, 12)
    assert conv(more_positions=7).positions == 19
    assert (layer.stride, layer.padding, layer.dilation) == ((1, 1), (0, 0), (1, 1))
    assert layer.matrix.shape == (6, 6)
    tokens = Layer("fc", "linear", np.ones((3, 4), np.float32), *np.ones((2, 3), np.float32), (7, 4), (7, 3), ("x",))
    assert (tokens.rows, tokens.fan_in, tokens.kernel_positions, tokens.positions) == (4, 4, 1, 7)
    assert (tokens.stride, tokens.padding, tokens.dilation) == ((), (), ())


def test_groups_are_layers_with_their_share() -> None:
    first, second = conv().by_group()
    assert (first.name, second.name) == ("conv[0]", "conv[1]")
    np.testing.assert_array_equal(second.weight, np.arange(18, 36).reshape(3, 2, 3, 1))
    np.testing.assert_array_equal(second.filter_scale, [3, 4, 5])
    assert (second.groups, second.input_shape, second.output_shape) == (1, (2, 5, 4), (3, 3, 4))
    assert (second.channels, second.rows, second.filters, second.positions) == (2, 6, 3, 12)
    whole = conv(groups=1)
    assert list(whole.by_group()) == [whole]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "dense"}, "kind must be conv or linear, not 'dense'"),
        ({"kind": "linear"}, "a linear weight of shape .* cannot be mapped"),
        ({"weight": np.ones((6, 2), np.float32)}, "a conv weight of shape .* cannot be mapped"),
        ({"weight": np.ones((6, 0, 3, 1), np.float32)}, "cannot be mapped"),
        ({"groups": 4}, "4 groups cannot share out 6 filters"),
        ({"groups": 0}, "0 groups cannot share out 6 filters"),
        ({"stride": (1,)}, r"a stride of \(1,\) does not fit its weight"),
        ({"padding": (1, 1, 1)}, "a padding of .* does not fit its weight"),
        ({"dilation": (2,)}, "a dilation of .* does not fit its weight"),
        ({"filter_bias": np.ones(5, np.float32)}, r"filter_bias has shape \(5,\), not \(6,\)"),
        ({"filter_scale": np.full(6, np.inf, np.float32)}, "its scale holds NaN or infinity"),
    ],
)
def test_an_invalid_layer_cannot_be_built(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"layer conv: .*{message}"):
        conv(**changed)


def test_further_calls() -> None:
    layer = conv(more_positions=4 + 12)
    calls = Call("conv:2", "conv", 4, 24, ("conv",)), Call("conv:3", "conv", 12, 72, ("x",))
    network = Network("again", (IMAGE, layer, *calls))
    assert network.layers == (layer,)
    assert network.first_positions(layer) == 12
    assert network.parameters == 36
    assert list(network) == [IMAGE, layer, *calls]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((IMAGE, conv(), IMAGE), "two nodes are called x"),
        ((conv(), IMAGE), "conv reads x, which does not come before it"),
        ((IMAGE, Call("again", "conv", 1, 6, ("x",)), conv()), "again calls conv, which does not come before it"),
        ((IMAGE, conv(), Call("conv", "conv", 1, 6, ("x",))), "two nodes are called conv"),
        ((IMAGE,), "no layer that can be mapped"),
    ],
)
def test_an_invalid_network_cannot_be_built(nodes: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"network odd.*{message}"):
        Network("odd", nodes)  # type: ignore[arg-type]
