"""A whole network on bit-true crossbars, and the same network in float with its compressed weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.capture import Captured
from prap_pim.errors import UserError
from prap_pim.function.crossbar import loses_nothing
from prap_pim.function.layer import CrossbarLayer, ExactLayer
from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.plan import LayerPlan, NetworkPlan


@dataclass(frozen=True)
class LayerCheck:
    """Accumulators of a layer that were compared with the exact product, and how many differed."""

    checked: int
    mismatches: int


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation found.

    Attributes:
        images: how many were classified.
        accuracy: share of them whose largest output is their label.
        layers: the comparison with the exact product, by layer name.
        checked_images: how many went through every cell and were compared.
        paths: what computed the other images, by layer name: "cells", or where these can lose nothing "float32",
            "float32 in 2 parts", "float64" (``ExactProduct``); empty if there were no others.
    """

    images: int
    accuracy: float
    layers: Mapping[str, LayerCheck]
    checked_images: int
    paths: Mapping[str, str]

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
    check: bool | int = True,
) -> SimulationReport:
    """Classify images with every layer on bit-true crossbars and everything else in float.

    The first ``check`` images go through every cell, and every accumulator is compared with the exact product. The
    others take, layer by layer, the exact product itself where the crossbars can lose nothing, else the cells.

    Args:
        captured: the network.
        plan: a plan for each of its layers, and the steps of their inputs.
        grain, adc_bits: of the chip.
        images: [N, ...], N > 0.
        labels: [N], class numbers.
        batch_size: images at a time.
        progress: called with the images done and the images in all, after each batch.
        check: how many images to check; True: all, False: none.

    Raises:
        UserError: there are no images or not one label each, or the plan does not fit the network or the grain.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise UserError(f"a simulation needs images with one label each, not {len(images)} with {len(labels)} labels")
    if check < 0:
        raise UserError(f"the number of images to check must not be negative, not {check}")
    checked = len(images) if check is True else min(int(check), len(images))
    by_cell: dict[str, CrossbarLayer] = {}
    quick: dict[str, ExactLayer] = {}
    for layer, layer_plan in _matched(captured, plan):
        step = plan.input_step[layer.name]
        if checked:
            by_cell[layer.name] = CrossbarLayer(layer, layer_plan, step, grain, adc_bits)
        if checked < len(images) and loses_nothing(layer_plan, grain, adc_bits):
            quick[layer.name] = ExactLayer(layer, layer_plan, step, grain)
        elif checked < len(images):
            quick[layer.name] = CrossbarLayer(layer, layer_plan, step, grain, adc_bits, check=False)

    correct = done = 0
    halves: tuple[tuple[Mapping[str, nn.Module], slice], ...]
    halves = (by_cell, slice(0, checked)), (quick, slice(checked, None))
    for layers, part in halves:
        if not layers:
            continue
        model = captured.rebuild(layers)
        for batch, expected in zip(
            torch.split(images[part], batch_size), torch.split(labels[part], batch_size), strict=True
        ):
            with torch.no_grad():
                correct += int((model(batch).argmax(dim=1) == expected).sum())
            done += len(batch)
            if progress is not None:
                progress(done, len(images))
    checks = {name: LayerCheck(0, 0) for name in plan.layers}
    checks |= {name: LayerCheck(layer.checked, layer.mismatches) for name, layer in by_cell.items()}
    paths = {name: layer.path for name, layer in quick.items()}
    return SimulationReport(len(images), correct / len(images), checks, checked, paths)


def exact_accuracy(
    captured: Captured,
    plan: NetworkPlan,
    grain: Grain,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 50,
    progress: Callable[[int, int], object] | None = None,
) -> float:
    """Accuracy on crossbars that lose nothing, by the exact product alone: no cell is visited.

    Args, Raises: as ``simulate``.
    """
    enough = 62  # no bitline counts further
    return simulate(captured, plan, grain, enough, images, labels, batch_size, progress, check=False).accuracy


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
