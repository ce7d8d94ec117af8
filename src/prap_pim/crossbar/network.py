"""A whole network on bit-true crossbars, and the same network in float with its compressed weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.crossbar.array import loses_nothing
from prap_pim.crossbar.layer import CrossbarLayer, ExactLayer
from prap_pim.crossbar.model import CrossbarModel
from prap_pim.frontend import Captured, of_arrays
from prap_pim.frontend.evaluate import Quality, Tally
from prap_pim.frontend.quantize import grid_in
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan, NetworkPlan

Progress = Callable[[int, int], object]

_TABLE_BYTES = 1 << 30  # of programmed cells and their answers that a network keeps; others are made anew in each batch

_WIDEST_ADC = 62  # bits: no bitline counts further


@dataclass(frozen=True)
class LayerCheck:
    """Accumulators of a layer that were compared with the exact product, and how many differed."""

    checked: int
    mismatches: int


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation found.

    Attributes:
        images: how many inputs went in.
        quality: how well their labels are told.
        layers: the comparison with the exact product, by layer name.
        checked_images: how many went through every cell and were compared.
        paths: what computed the other images, by layer name: "cells", or where these can lose nothing "float32",
            "float32 in 2 parts", "float64" (``ExactProduct``); empty if there were no others.
        overflows: dot products and sums that did not fit their registers, by layer name.
    """

    images: int
    quality: Quality
    layers: Mapping[str, LayerCheck]
    checked_images: int
    paths: Mapping[str, str]
    overflows: Mapping[str, int]

    @property
    def accuracy(self) -> float:
        """Share of the labels that have the greatest output."""
        return self.quality.accuracy

    @property
    def mismatches(self) -> int:
        """Over all layers."""
        return sum(check.mismatches for check in self.layers.values())


def measure(
    captured: Captured,
    plan: NetworkPlan,
    model: CrossbarModel,
    images: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any],
    *,
    seed: int | np.random.SeedSequence = 0,
    batch_size: int = 50,
    progress: Progress | None = None,
    check: bool | int = False,
) -> SimulationReport:
    """Classify images with every layer on crossbars and everything else in float.

    The first ``check`` images go through every cell, and every accumulator is compared with the exact product. The
    others take, layer by layer, the exact product itself where the crossbars can lose nothing, else the cells.

    Args:
        captured: the network, as ``capture`` gives it.
        plan: a plan for each of its layers, and the steps of their inputs.
        model: cells, ADC, registers.
        images: or tokens, as in ``data.Examples``, one at least.
        labels: theirs; whole numbers.
        seed: of the device and its read noise.
        batch_size: images at a time; neither device nor noise depend on it.
        progress: called with the images done and the images in all, after each batch.
        check: how many images to check; True: all, False: none.

    Raises:
        UserError: there are no images or not one label each, or the plan does not fit the network or the model.
    """
    check_parts(captured, plan, model)
    images, labels = as_tensor("images", images), as_tensor("labels", labels)
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    if len(images) == 0 or len(images) != len(labels):
        raise UserError(f"a simulation needs images with one label each, not {len(images)} with {len(labels)} labels")
    if check < 0:
        raise UserError(f"the number of images to check must not be negative, not {check}")
    checked = len(images) if check is True else min(int(check), len(images))
    by_cell, quick = _layers(captured, plan, model, seed, checked > 0, checked < len(images))
    tally, done = Tally(), 0
    halves: tuple[tuple[Mapping[str, ExactLayer], slice, bool], ...]
    halves = (by_cell, slice(0, checked), True), (quick, slice(checked, None), False)
    for layers, part, compare in halves:
        if not layers:
            continue
        cells = [layer for layer in layers.values() if isinstance(layer, CrossbarLayer)]
        network = captured.rebuild(layers)
        for batch, expected in zip(
            torch.split(images[part], batch_size), torch.split(labels[part], batch_size), strict=True
        ):
            for layer in cells:
                layer.begin(done, compare)
            with torch.no_grad():
                tally.add(network(batch), expected)
            done += len(batch)
            if progress is not None:
                progress(done, len(images))
    read = {name: layer for name, layer in {**quick, **by_cell}.items() if isinstance(layer, CrossbarLayer)}
    checks = {name: LayerCheck(0, 0) for name in plan.layers}
    checks |= {name: LayerCheck(layer.checked, layer.mismatches) for name, layer in read.items()}
    overflows = {name: 0 for name in plan.layers}
    overflows |= {name: layer.crossbars.dot_overflows + layer.crossbars.sum_overflows for name, layer in read.items()}
    paths = {name: layer.path for name, layer in quick.items()}
    return SimulationReport(len(images), tally.quality(), checks, checked, paths, overflows)


def check_parts(captured: Any, plan: Any, model: Any = None, grain: Any = None) -> None:
    """
    Raises:
        UserError: something else was given in the place of the network, its plan, or the crossbars or their grain.
    """
    wanted = [
        ("captured", captured, Captured, "what capture(model, example, name) gives"),
        ("plan", plan, NetworkPlan, "a NetworkPlan, such as the plan of what compress gives"),
        ("grain", grain, Grain, "a Grain, such as load_chip(...).grain")
        if model is None and grain is not None
        else ("model", model, CrossbarModel, "a CrossbarModel, such as CrossbarModel.of(load_chip(...))"),
    ]
    for name, given, kind, hint in wanted:
        if not isinstance(given, kind):
            raise UserError(f"{name} must be {hint}, not {type(given).__name__}")


def as_tensor(name: str, given: Any) -> Tensor:
    """Images or labels, of which NumPy arrays will do.

    Raises:
        UserError: they are something else.
    """
    found = of_arrays(given)
    if not isinstance(found, Tensor) or found.ndim == 0:
        raise UserError(f"{name} must be a tensor or an array with one item each, not {type(given).__name__}")
    return found


def _layers(
    captured: Captured,
    plan: NetworkPlan,
    model: CrossbarModel,
    seed: int | np.random.SeedSequence,
    some_checked: bool,
    some_not: bool,
) -> tuple[dict[str, CrossbarLayer], dict[str, ExactLayer]]:
    """The layers of the images that are checked, and of those that are not; crossbars in both are the same ones."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    free = _TABLE_BYTES
    by_cell: dict[str, CrossbarLayer] = {}
    quick: dict[str, ExactLayer] = {}
    for number, (layer, layer_plan) in enumerate(_matched(captured, plan)):
        grid = grid_in(plan, layer.name)
        of_layer = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, number))
        exact = loses_nothing(layer_plan, model)
        if some_checked or not exact:
            cells = CrossbarLayer(layer, layer_plan, grid, model, some_checked, of_layer, free)
            free -= cells.crossbars.kept_bytes
            if some_checked:
                by_cell[layer.name] = cells
        if some_not:
            quick[layer.name] = ExactLayer(layer, layer_plan, grid, model) if exact else cells
    return by_cell, quick


def exact_accuracy(
    captured: Captured,
    plan: NetworkPlan,
    grain: Grain,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 50,
    progress: Progress | None = None,
) -> float:
    """Accuracy on crossbars that lose nothing, by the exact product alone: no cell is visited.

    Args, Raises: as ``measure``.
    """
    model = CrossbarModel(grain=grain, adc_bits=_WIDEST_ADC)
    return measure(captured, plan, model, images, labels, batch_size=batch_size, progress=progress).accuracy


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
    module: nn.Module  # made without values: random ones would move torch's generator
    if layer.kind == "conv":
        kind: Any = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[layer.weight.ndim]
        geometry = layer.weight.shape[2:], layer.stride, layer.padding, layer.dilation, layer.groups
        module = kind(layer.channels, layer.filters, *geometry, device="meta")
    else:
        module = nn.Linear(layer.rows, layer.filters, device="meta")
    module.to_empty(device="cpu")
    with torch.no_grad():
        assert isinstance(module.weight, Tensor)
        assert isinstance(module.bias, Tensor)
        module.weight.copy_(torch.from_numpy(plan.real_weights().astype(np.float32).reshape(layer.weight.shape)))
        module.bias.copy_(torch.from_numpy(plan.bias.copy()))
    return module
