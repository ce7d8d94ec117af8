"""A whole network on bit-true crossbars, and the same network in float with its compressed weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
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
from prap_pim.frontend.evaluate import InMemory, Labelled, Quality
from prap_pim.frontend.quantize import grid_in
from prap_pim.frontend.weights import layer_weight
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


Metrics = Mapping[str, float]  # what a network is worth, by name
Evaluate = Callable[[nn.Module], Metrics]  # of a network that takes the tensors of a batch


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation found.

    Attributes:
        images: how many inputs went in.
        metrics: what the network is worth, by name: "accuracy" and "nats" where labels were given.
        layers: the comparison with the exact product, by layer name.
        checked_images: how many went through every cell and were compared.
        paths: what computed the other images, by layer name: "cells", or where these can lose nothing "float32",
            "float32 in 2 parts", "float64" (``ExactProduct``); empty if there were no others.
        overflows: dot products and sums that did not fit their registers, by layer name.
    """

    images: int
    metrics: Metrics
    layers: Mapping[str, LayerCheck]
    checked_images: int
    paths: Mapping[str, str]
    overflows: Mapping[str, int]

    @property
    def quality(self) -> Quality:
        """How well labels are predicted, where there are labels."""
        return Quality(self.metrics["accuracy"], self.metrics["nats"])

    @property
    def accuracy(self) -> float:
        """Share of the labels that have the greatest output."""
        return self.metrics["accuracy"]

    @property
    def mismatches(self) -> int:
        """Over all layers."""
        return sum(check.mismatches for check in self.layers.values())


class OnCrossbars(nn.Module):
    """The network with every layer on crossbars and everything else in float; it takes the tensors of a batch.

    Inputs are counted over all calls. The first ``check`` of them go through every cell, and every accumulator is
    compared with the exact product; a batch goes as a whole. The others take, layer by layer, the exact product itself
    where the crossbars can lose nothing, else the cells.

    Args:
        captured: the network.
        plan: a plan for each of its layers, and the steps of their inputs.
        model: cells, ADC, registers.
        seed: of the device and its read noise.
        check: how many inputs to check.
        inputs: how many there will be; None: nobody knows.
        progress: called with the inputs done and the inputs in all, after each batch.
    """

    def __init__(
        self,
        captured: Captured,
        plan: NetworkPlan,
        model: CrossbarModel,
        seed: int | np.random.SeedSequence,
        check: float,
        inputs: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self._inputs, self._progress = inputs or 0, progress
        self.done = 0
        self._check, self.checked, self._plan = check, 0, plan
        some_not = check < (inf if inputs is None else inputs)
        self._by_cell, self._quick = _layers(captured, plan, model, seed, check > 0, some_not)
        self.cells = captured.rebuild(self._by_cell) if self._by_cell else None
        self.rest = captured.rebuild(self._quick) if self._quick else None

    def forward(self, *batch: Tensor) -> Any:
        """What the network gives."""
        compare = self.done < self._check
        for layer in (self._by_cell if compare else self._quick).values():
            if isinstance(layer, CrossbarLayer):
                layer.begin(self.done, compare)
        network = self.cells if compare else self.rest
        assert network is not None
        with torch.no_grad():
            found = network(*batch)
        self.done += len(batch[0])
        self.checked += len(batch[0]) if compare else 0
        if self._progress is not None:
            self._progress(self.done, max(self.done, self._inputs))
        return found

    def report(self, metrics: Metrics) -> SimulationReport:
        """What was found in all calls, with what the network is worth."""
        names = self._plan.layers
        every = {**self._quick, **self._by_cell}
        read = {name: layer for name, layer in every.items() if isinstance(layer, CrossbarLayer)}
        checks = {name: LayerCheck(0, 0) for name in names}
        checks |= {name: LayerCheck(layer.checked, layer.mismatches) for name, layer in read.items()}
        overflows = {name: 0 for name in names}
        overflows |= {
            name: layer.crossbars.dot_overflows + layer.crossbars.sum_overflows for name, layer in read.items()
        }
        paths = {name: layer.path for name, layer in self._quick.items()}
        return SimulationReport(self.done, metrics, checks, self.checked, paths, overflows)


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
    images, labels = labelled(images, labels)
    if check < 0:
        raise UserError(f"the number of images to check must not be negative, not {check}")
    checked = len(images) if check is True else min(int(check), len(images))
    evaluate = Labelled(InMemory(images, labels), batch_size, checked)
    network = OnCrossbars(captured, plan, model, seed, checked, len(images), progress)
    return network.report(evaluate(network))


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


def labelled(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Images and their labels, of which NumPy arrays will do.

    Raises:
        UserError: they are something else, or there are none, or not one label each.
    """
    images, labels = as_tensor("images", images), as_tensor("labels", labels)
    if len(images) == 0 or len(images) != len(labels):
        raise UserError(f"a simulation needs images with one label each, not {len(images)} with {len(labels)} labels")
    return images, labels


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


def exact_metrics(captured: Captured, plan: NetworkPlan, grain: Grain, evaluate: Evaluate) -> Metrics:
    """What a network is worth on crossbars that lose nothing, by the exact product alone: no cell is visited.

    Raises:
        UserError: the plan does not fit the network or the grain, or as ``evaluate``.
    """
    return evaluate(OnCrossbars(captured, plan, CrossbarModel(grain=grain, adc_bits=_WIDEST_ADC), seed=0, check=0))


def compressed_model(captured: Captured, plan: NetworkPlan) -> nn.Module:
    """The network in float arithmetic with the plan's real weights and bias; its activations are not quantised.

    Raises:
        UserError: the plan does not fit the network.
    """
    layers = {layer.name: _plain(layer, layer_plan) for layer, layer_plan in _matched(captured, plan)}
    module = captured.module
    return captured.rebuild({name: layer.to(layer_weight(module, name).dtype) for name, layer in layers.items()})


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
