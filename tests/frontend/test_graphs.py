"""Any graph: the capture computes what the model computes, and knows each layer once, however often it is called."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from prap_pim.crossbar.network import compressed_model
from prap_pim.frontend import capture, outputs
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Call, Layer, Network
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.prune import NoPruning, prune
from tests.graphs import Graph, graphs
from tests.strategies import examples


class Named(nn.Module):
    """The same model for an input in a dictionary: torch.fx does not trace it, torch.export does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        first, second = self.model(image)
        return {"first": first, "second": second}


def calls_of(model: Graph, x: Tensor) -> Counter[str]:
    """Output positions of each layer, and how often it was called, by running the model."""
    found: Counter[str] = Counter()
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def count(_: nn.Module, given: tuple[Tensor], out: Tensor, name: str = name) -> None:
                filters = out.shape[1] if out.ndim == 4 and name != "parts.across" else out.shape[-1]
                found[f"positions of {name}"] += out.numel() // filters // len(x)
                found[f"calls of {name}"] += 1

            hooks.append(module.register_forward_hook(count))
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def counted(network: Network, prefix: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for node in network:
        if isinstance(node, Layer):
            found[f"positions of {node.name.removeprefix(prefix)}"] = node.positions
        if isinstance(node, Layer | Call):
            name = node.name if isinstance(node, Layer) else node.layer
            found[f"calls of {name.removeprefix(prefix)}"] += 1
    return found


def check(model: Graph, exported: bool) -> None:
    x, more = torch.randn(2, 3, 6, 6), torch.randn(3, 3, 6, 6)
    whole = Named(model).eval() if exported else model
    captured = capture(whole, {"image": x} if exported else x, "net")
    with torch.no_grad():
        expected = model(more)
        for module in (captured.module, captured.rebuild({})):
            for own, theirs in zip(outputs(module(more), "net"), expected, strict=True):
                torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)
        assert counted(captured.network, "model." if exported else "") == calls_of(model, x)

        # the layers as ``Network`` has them, batch norm folded, with int8 weights: near, and the same in every place
        plans = {}
        for layer in captured.network.layers:
            patterns = prune(NoPruning(), layer, Grain())
            every = ReuseMap.none(patterns)
            one = plan_weights(layer.name, layer.matrix, patterns, every).scaled(layer.filter_scale, layer.filter_bias)
            plans[layer.name] = one
        plan = NetworkPlan("dense", plans, dict.fromkeys(plans, 1.0))
        quantized = compressed_model(captured, plan)
        for layer in captured.network.layers:  # put the float weights back: then it is the model again
            module = quantized.get_submodule(layer.name)
            scale = torch.from_numpy(layer.filter_scale).reshape(-1, *[1] * (layer.weight.ndim - 1))
            module.weight.copy_(torch.from_numpy(layer.weight) * scale)
        for own, theirs in zip(outputs(quantized(more), "net"), expected, strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-3)


@examples(25)
@given(graphs())
def test_any_graph(model: Graph) -> None:
    check(model, exported=False)


@pytest.mark.filterwarnings("ignore")
@examples(4)
@given(graphs())
def test_any_graph_by_torch_export(model: Graph) -> None:
    check(model, exported=True)
