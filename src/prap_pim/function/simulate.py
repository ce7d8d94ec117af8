"""A whole network on bit-true crossbars, and the same network in float with its compressed weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.capture import Captured
from prap_pim.errors import UserError
from prap_pim.function.layer import CrossbarLayer
from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.plan import LayerPlan, NetworkPlan


@dataclass(frozen=True)
class LayerCheck:
    """Accumulators of a layer that were compared with the integer matmul, and how many differed."""

    checked: int
    mismatches: int


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation found.

    Attributes:
        images: how many were classified.
        accuracy: share of them whose largest output is their label.
        layers: the comparison with the integer matmul, by layer name.
    """

    images: int
    accuracy: float
    layers: Mapping[str, LayerCheck]

    @property
    def mismatches(self) -> int:
        """Over all layers."""
        return sum(check.mismatches for check in self.layers.values())


def simulate(
    captured: Captured,
    plan: NetworkPlan,
    grain: Grain,
    adc_bits: int,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 50,
    progress: Callable[[int, int], object] | None = None,
    check: bool = True,
) -> SimulationReport:
    """Classify images with every layer on bit-true crossbars and everything else in float.

    Args:
        captured: the network.
        plan: a plan for each of its layers, and the steps of their inputs.
        grain, adc_bits: of the chip.
        images: [N, ...], N > 0.
        labels: [N], class numbers.
        batch_size: images at a time.
        progress: called with the images done and the images in all, after each batch.
        check: compare every accumulator with the integer matmul.

    Raises:
        UserError: there are no images or not one label each, or the plan does not fit the network or the grain.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise UserError(f"a simulation needs images with one label each, not {len(images)} with {len(labels)} labels")
    layers = {
        layer.name: CrossbarLayer(layer, layer_plan, plan.input_step[layer.name], grain, adc_bits, check)
        for layer, layer_plan in _matched(captured, plan)
    }
    model = captured.rebuild(layers)
    correct = done = 0
    with torch.no_grad():
        for batch, expected in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            correct += int((model(batch).argmax(dim=1) == expected).sum())
            done += len(batch)
            if progress is not None:
                progress(done, len(images))
    checks = {name: LayerCheck(layer.checked, layer.mismatches) for name, layer in layers.items()}
    return SimulationReport(len(images), correct / len(images), checks)


def compressed_model(captured: Captured, plan: NetworkPlan) -> nn.Module:
    """The network in float arithmetic with the plan's real weights and bias; its activations are not quantised.

    Raises:
        UserError: the plan does not fit the network.
    """
    return captured.rebuild({layer.name: _plain(layer, layer_plan) for layer, layer_plan in _matched(captured, plan)})


def _matched(captured: Captured, plan: NetworkPlan) -> list[tuple[Layer, LayerPlan]]:
    names = [layer.name for layer in captured.network.layers]
    if set(names) != set(plan.layers):
        odd = sorted(set(names) ^ set(plan.layers))[0]
        where = "plan" if odd in names else "network"
        raise UserError(f"the plan does not fit network {captured.network.name}: layer {odd} is not in the {where}")
    return [(layer, plan.layers[layer.name]) for layer in captured.network.layers]


def _plain(layer: Layer, plan: LayerPlan) -> nn.Module:
    """The layer as torch computes it, float32."""
    module: nn.Conv2d | nn.Linear  # made without values: random ones would move torch's generator
    if layer.kind == "conv":
        channels, height, width = layer.weight.shape[1:]
        geometry = (height, width), layer.stride, layer.padding, layer.dilation
        module = nn.Conv2d(channels, layer.filters, *geometry, device="meta")
    else:
        module = nn.Linear(layer.rows, layer.filters, device="meta")
    module.to_empty(device="cpu")
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(plan.real_weights().astype(np.float32).reshape(layer.weight.shape)))
        assert module.bias is not None
        module.bias.copy_(torch.from_numpy(plan.bias.copy()))
    return module
