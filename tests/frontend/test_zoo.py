"""Networks of well-known kinds: same outputs, each weight in one layer, each operation in one place, OUs by hand."""

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prap_pim.cost import cost
from prap_pim.frontend import Captured, Inputs, call, capture, outputs, tensors
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import Call, DigitalOp, Layer
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.ir.plan import NetworkPlan
from prap_pim.mapping import map_network
from prap_pim.methods.prune import NoPruning, prune
from tests.zoo import network

CHIP = load_chip("isaac-32nm")
Shape = tuple[int, int, int, int]  # rows of a filter, filters of a group, groups, positions: OUs are all theirs
FREE = {"input", "getitem", "view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "select", "slice", "cat"}
FREE |= {"flatten", "unflatten", "unbind", "split", "expand", "index"}


def checked(
    model: nn.Module, batch: Callable[[int], Inputs], shapes: list[Shape], macs: int, lookups: tuple[str, ...] = ()
) -> Captured:
    """Capture a model and compare everything.

    Args:
        model: what is captured.
        batch: makes inputs, of any batch size.
        shapes: of its layers, in order, by hand.
        macs: of products of activations, by hand.
        lookups: parameters with more than one dimension that are no factor of a product: tables, positions, tokens.
    """
    captured = capture(model, batch(2), "net")
    _same_outputs(captured, model, batch(3))
    _every_weight_once(captured, model, lookups)
    layers, nodes = captured.network.layers, captured.network.nodes
    found = [(layer.fan_in, layer.filters // layer.groups, layer.groups, layer.positions) for layer in layers]
    assert found == shapes
    digital = [node for node in nodes if isinstance(node, DigitalOp)]
    assert sum(op.macs for op in digital) == macs
    _every_node_once(captured)

    plans = {}
    for layer in layers:
        patterns = prune(NoPruning(), layer, CHIP.grain)
        every = ReuseMap.none(patterns)
        plans[layer.name] = plan_weights(layer.name, layer.matrix, patterns, every).scaled(
            layer.filter_scale, layer.filter_bias
        )
    plan = NetworkPlan("dense", plans, dict.fromkeys(plans, 0.1))
    mapping = map_network(captured.network, plan, CHIP)
    placed = Counter(op.name for done in mapping.digital_ops.values() for op in done)
    assert placed == Counter(op.name for op in digital)
    assert set(placed.values()) == {1}
    report = cost(captured.network, plan, CHIP)
    ous = [groups * ceil(rows / 8) * filters for rows, filters, groups, _ in shapes]
    assert [mapping.layers[layer.name].ous for layer in layers] == ous
    assert [each.activity.ou_steps for each in report.layers] == [
        count * 8 * positions for count, (*_, positions) in zip(ous, shapes, strict=True)
    ]
    spent = sum(each.activity.digital_ops for each in report.layers)
    assert spent == sum(_element_ops(op) for op in digital)
    assert 0 < report.energy_j < 1
    assert 0 < report.pipelined.latency_s <= report.serial.latency_s
    return captured


def _element_ops(op: DigitalOp) -> int:
    """As docs/cost.md says."""
    if op.op in FREE:
        return 0
    if op.macs:
        return 2 * op.macs
    return op.output_elements if op.op in ("add", "embedding") else op.input_elements


def _same_outputs(captured: Captured, model: nn.Module, batch: Inputs) -> None:
    with torch.no_grad():
        found = outputs(captured.module(*tensors(batch, "net")), "net")
        expected = outputs(call(model, batch), "net")
        rebuilt = outputs(captured.rebuild({})(*tensors(batch, "net")), "net")
    assert len(found) == len(expected)
    for own, again, theirs in zip(found, rebuilt, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)
        assert torch.equal(own, again)


def _every_weight_once(captured: Captured, model: nn.Module, lookups: tuple[str, ...]) -> None:
    """Add 1 to a copy's weights through every layer's origin: then all are 1, but those that are only looked up."""
    theirs = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
    counted = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    first = {id(value): name for name, value in reversed(list(model.named_parameters(remove_duplicate=False)))}
    for layer in captured.network.layers:
        origin = captured.origins[layer.name]
        weight = origin.of(theirs[origin.parameter])
        np.testing.assert_array_equal(weight.reshape(layer.weight.shape), layer.weight)
        origin.of(counted[first[id(model.get_parameter(origin.parameter))]]).add_(1)
    for name, count in counted.items():
        if count.ndim > 1:
            assert torch.all(count == (name not in lookups)), name
    assert set(lookups) <= set(counted)


def _every_node_once(captured: Captured) -> None:
    """Each product with a weight is a layer or a further call of one; each other node one operation or nothing."""
    modules = dict(captured.module.named_modules(remove_duplicate=False))
    products, others = 0, 0
    for node in captured.module.graph.nodes:
        called = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            products += 1
        elif node.op not in ("get_attr", "output") and "tensor_meta" in node.meta:
            idle = isinstance(called, nn.Dropout | nn.Identity | nn.modules.batchnorm._BatchNorm)
            others += not idle and (node.op == "placeholder" or _follows_inputs(node))
    nodes = captured.network.nodes
    assert products == sum(isinstance(node, Layer | Call) for node in nodes)
    assert others == sum(isinstance(node, DigitalOp) for node in nodes)


def _follows_inputs(node: Any) -> bool:
    """Whether it computes on activations: constants and sizes are made once; dropout and detach compute nothing."""
    if any(word in str(node.target) for word in ("dropout", "detach", "contiguous", "alias", "_assert", ".to.")):
        return False
    seen, left = set(), list(node.all_input_nodes)
    while left:
        each = left.pop()
        if each in seen or "tensor_meta" not in each.meta:
            continue
        seen.add(each)
        if each.op == "placeholder":
            return True
        left += each.all_input_nodes
    return False


def image(n: int) -> Tensor:
    return torch.randn(n, 3, 16, 16)


SHAPES: dict[str, list[Shape]] = {
    "resnet": [
        (27, 8, 1, 256),
        *[(8, 4, 1, 64), (36, 4, 1, 16), (4, 16, 1, 16), (8, 16, 1, 16)],
        *[(16, 4, 1, 16), (36, 4, 1, 16), (4, 16, 1, 16), (16, 16, 1, 16)],
        (16, 5, 1, 1),
    ],
    "mobilenet": [
        (27, 8, 1, 64),
        *[(8, 16, 1, 64), (9, 1, 16, 64), (16, 8, 1, 64)],
        *[(8, 24, 1, 64), (9, 1, 24, 16), (24, 12, 1, 16)],
        (12, 5, 1, 1),
    ],
    "efficientnet": [
        (27, 8, 1, 64),
        *[(9, 1, 8, 64), (8, 2, 1, 1), (2, 8, 1, 1), (8, 8, 1, 64)],
        *[(25, 1, 8, 64), (8, 2, 1, 1), (2, 8, 1, 1), (8, 8, 1, 64)],
        (8, 5, 1, 1),
    ],
    "convnext": [(48, 8, 1, 16), *[(49, 1, 8, 16), (8, 32, 1, 16), (32, 8, 1, 16)] * 2, (8, 5, 1, 1)],
    "vit": [
        (48, 16, 1, 16),
        *[(16, 48, 1, 17), (16, 16, 1, 17), (16, 32, 1, 17), (32, 16, 1, 17)] * 2,
        (16, 5, 1, 1),
    ],
    # the transposed convolution: 4 filters at 4 kernel positions for each of 16 inputs
    "unet": [(9, 4, 1, 64), (36, 8, 1, 16), (8, 16, 1, 16), (72, 4, 1, 64), (4, 2, 1, 64)],
    # the head works on maps of 4x4 and of 8x8
    "pyramid": [(27, 4, 1, 64), (36, 8, 1, 16), (8, 6, 1, 16), (4, 6, 1, 64), (54, 6, 1, 80), (6, 2, 1, 80)],
    "encoder": [(16, 48, 1, 5), (16, 16, 1, 5), (16, 24, 1, 5), (24, 16, 1, 5)] * 2,
    "cross attention": [(16, 16, 1, 5), (16, 32, 1, 7), (16, 16, 1, 5)],  # queries; keys and values; what comes out
    "attention to other widths": [(16, 16, 1, 5), (10, 16, 1, 7), (10, 16, 1, 7), (16, 16, 1, 5)],
    "two towers": [(24, 12, 1, 9), (12, 6, 1, 2), (27, 12, 1, 49)],
}
BATCHES: dict[str, Callable[[int], Inputs]] = {
    "unet": lambda n: torch.randn(n, 1, 8, 8),
    "encoder": lambda n: torch.randn(n, 5, 16),
    "cross attention": lambda n: (torch.randn(n, 5, 16), torch.randn(n, 7, 16)),
    "attention to other widths": lambda n: (torch.randn(n, 5, 16), torch.randn(n, 7, 10)),
    "two towers": lambda n: (torch.randint(0, 11, (n, 9)), image(n)),
}
MACS = {
    "vit": 2 * 2 * 17 * 17 * 2 * 8,  # blocks, heads, tokens by tokens, two products of 8 each
    "encoder": 2 * 2 * 5 * 5 * 2 * 8,
    "cross attention": 2 * 5 * 7 * 2 * 8,
    "attention to other widths": 2 * 5 * 7 * 2 * 8,
    "two towers": 6,
}
LOOKUPS = {"vit": ("token", "position"), "two towers": ("words.weight",)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHAPES)
def test_small_definitions(name: str) -> None:
    checked(network(name), BATCHES.get(name, image), SHAPES[name], MACS.get(name, 0), LOOKUPS.get(name, ()))


def test_one_sequence_that_attends_to_itself() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out: tuple[Tensor, Tensor] = self.attention(x, x, x)
            return out

    shapes = [(16, 48, 1, 5), (16, 16, 1, 5)]
    checked(Own().eval(), lambda n: torch.randn(n, 5, 16), shapes, 2 * 5 * 5 * 2 * 8)
