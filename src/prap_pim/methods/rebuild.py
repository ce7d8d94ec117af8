"""A network taken through once, layer by layer, with new weights put in: the one way in which any method does it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from prap_pim.frontend import Captured, Pair, Walk
from prap_pim.frontend.graph import raw_name
from prap_pim.frontend.quantize import InputGrid
from prap_pim.frontend.rows import take_rows
from prap_pim.frontend.weights import put_own_weights, sharing_weights
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Call, Layer
from prap_pim.ir.plan import LayerWeights
from prap_pim.methods.prune import dense_weights

Float64 = NDArray[np.float64]

_IN_PLACE = frozenset(
    {"setitem", *(f"i{name}" for name in ("add", "sub", "mul", "truediv", "pow", "matmul", "concat"))}
)


@dataclass(frozen=True)
class Decision:
    """What becomes of a layer.

    Attributes:
        plan: with the scale of the weights alone; None: it keeps its weights.
        grid: int8, of its inputs.
    """

    plan: LayerWeights | None
    grid: InputGrid


class Reading(NamedTuple):
    """A layer and what it reads.

    Attributes:
        layer: to decide on.
        now: its inputs in the changed network, batch by batch.
        then: those in the original one; None while nothing is changed, or of an expert, to which other rows may come
            now.
    """

    layer: Layer
    now: list[Tensor]
    then: list[Tensor] | None


Decide = Callable[[Sequence[Reading]], Iterable[Decision]]


def channel_means(layer: Layer, inputs: Sequence[Tensor]) -> Float64:
    """Of a layer's inputs over all batches and positions, float64 [C]."""
    axis = 1 if layer.kind == "conv" else -1
    sums = [x.movedim(axis, -1).flatten(0, -2).sum(0).double() for x in inputs]
    return np.asarray((torch.stack(sums).sum(0) * layer.channels / sum(x.numel() for x in inputs)).cpu().numpy())


def output_means(layer: Layer, weights: Float64, means: Float64) -> Float64:
    """What weights [O, fan_in] give on the average for inputs with these means [C], padding left aside; float64 [O]."""
    channels = layer.channels // layer.groups
    by_channel = weights.reshape(layer.groups, -1, channels, layer.kernel_positions).sum(3)
    return np.asarray(np.einsum("gfc,gc->gf", by_channel, means.reshape(layer.groups, channels)).ravel())


def left_whole(layer: Layer, grain: Grain, means: Float64) -> LayerWeights:
    """Every pattern of a layer as int8; its bias takes back the mean of what rounding changes, before batch norm.

    Args:
        means: of the inputs (``Rebuilt``).
    """
    plan = dense_weights(layer, grain)
    return replace(plan, bias=output_means(layer, layer.matrix - plan.real_weights(), means).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """A network with new weights.

    Attributes:
        module: of the same graph; its batch norms have moved by what the new weights changed.
        plans: of the changed layers, in network order, as they were decided.
        grids: of the inputs of every layer.
        means: of the inputs of every layer, by channel, float64 [C].
    """

    module: fx.GraphModule
    plans: Mapping[str, LayerWeights]
    grids: Mapping[str, InputGrid]
    means: Mapping[str, Float64]


@torch.no_grad()
def later_calls(captured: Captured, batches: Sequence[tuple[Tensor, ...]]) -> dict[str, list[Tensor]]:
    """What layers that are called again read in their further calls, in the original network, by layer name."""
    again = {node.layer for node in captured.network if isinstance(node, Call)}
    later: dict[str, list[Tensor]] = {}
    if not again:
        return later
    seen: set[str] = set()
    walk = Walk(captured.module, batches)
    for node in walk.nodes():
        if node.op == "call_module" and node.target in again:
            if node.target in seen:
                later.setdefault(str(node.target), []).extend(x.clone() for x in walk.inputs(node))
            seen.add(str(node.target))
        walk.run(node)
    return later


def _reading_int8(layer: nn.Module, grid: InputGrid, x: Tensor) -> Any:
    return layer(grid.rounded(x))


@torch.no_grad()
def rebuilt(captured: Captured, batches: Sequence[tuple[Tensor, ...]], decide: Decide) -> Rebuilt:
    """Decide on every layer in the order in which they are computed, on what the ones before it now pass on.

    From the first changed layer on, layers read int8 inputs, as they will. Batch norms move by what was changed on the
    same inputs; those before the first change stay as they are.

    Args:
        captured: the network; it is not changed.
        batches: calibration inputs.
        decide: given layers that read the same inputs, and so do not depend on one another, says what becomes of each.
            A layer that is called again is decided on once.
    """
    module = sharing_weights(captured.module)
    pair = Pair(captured.module, module, batches)
    layers = {layer.name: layer for layer in captured.network.layers}
    plans: dict[str, LayerWeights] = {}
    grids: dict[str, InputGrid] = {}
    means: dict[str, Float64] = {}
    modules = dict(module.named_modules(remove_duplicate=False))
    *_, last = (x for x in pair.nodes() if x.target in layers or pair.after.norm(x) is not None)
    for node in pair.nodes():
        name = str(node.target)
        if node.op != "call_module" or name not in layers:
            pair.run(node)
            continue
        if name not in grids:
            comparable = pair.differ and node.all_input_nodes[0].target is not take_rows  # routing may have changed
            now, then = pair.after.inputs(node), pair.before.inputs(node) if comparable else None
            alike = _reading_alike(node, modules) if pair.differ else [name]
            together = [layers[each] for each in dict.fromkeys(alike) if each in layers and each not in grids]
            every = decide([Reading(layer, now, then) for layer in together])
            for layer, decision in zip(together, every, strict=True):
                grids[layer.name], means[layer.name] = decision.grid, channel_means(layer, now)
                if decision.plan is not None:
                    plans[layer.name] = decision.plan
                    put_own_weights(module, layer.name, decision.plan)
        if node is last:  # nobody reads what it gives
            break
        if pair.differ or name in plans:
            pair.change(node, partial(_reading_int8, module.get_submodule(name), grids[name]))
        else:
            pair.run(node)
    return Rebuilt(module, {name: plans[name] for name in layers if name in plans}, grids, means)


def _reading_alike(node: fx.Node, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """What calls of modules, that of a node and later ones, read the same, as far as nothing before them works in
    place."""
    source, after = node.all_input_nodes[0], node
    while after.op != "output" and not _in_place(after, modules):
        if after.op == "call_module" and after.all_input_nodes[:1] == [source]:
            yield str(after.target)
        after = after.next


def _in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable
    name = raw_name(node)
    return bool(node.kwargs.get("inplace")) or name in _IN_PLACE or (name.endswith("_") and not name.startswith("_"))
