"""Large activation channels divided by a factor where they are made, and the weights that read them multiplied by it.

The network computes the same, bit for bit: factors are powers of two. One int8 step then suits all channels better.
Where the channels are made by a norm: Xiao et al., "SmoothQuant", ICML 2023; by a layer with batch norm or none and an
activation without a scale of its own, such as ReLU: Nagel et al., "Data-Free Quantization", ICCV 2019.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from prap_pim.frontend import Captured
from prap_pim.frontend.quantize import QuantizeConfig, SeenInputs, channel_energy, seen_inputs
from prap_pim.frontend.weights import sharing_weights
from prap_pim.ir.network import Call, Layer

Float64 = NDArray[np.float64]

_SHARES = (0.25, 0.5, 0.75)  # of a channel's size that goes into the weights: those that are tried
_WORTH_IT = 0.9  # of the error as it is: less is not worth a change
_MOST = 2.0**12  # between the least factor and 1, and 1 and the greatest
_IDLE = frozenset({"dropout", "contiguous", "alias", "detach", "to", "clone", "identity"})
_SCALE_FREE = frozenset(
    {"relu", "leaky_relu", "leakyrelu", "prelu", "max_pool2d", "maxpool2d", "avg_pool2d", "avgpool2d"}
)
_INT8 = 127


@dataclass(frozen=True)
class Equalised:
    """Channels that were equalised.

    Attributes:
        source: what makes them: a layer's name, or a node's.
        readers: the layers that read them.
        parameters: of the captured module, beside weights and biases of layers and batch norms, that were changed.
        gain: the expected int8 error of the readers' outputs before, over that after.
    """

    source: str
    readers: tuple[str, ...]
    parameters: tuple[str, ...]
    gain: float


@dataclass(frozen=True)
class _Site:
    """A place where channels could be equalised: who makes them and who alone reads them."""

    source: str
    weight: str  # path of the parameter that scales the channels; of a layer: its weight, along dimension 0
    bias: str  # empty: none
    readers: tuple[str, ...]


@torch.no_grad()
def equalised(
    captured: Captured, batches: Sequence[tuple[Tensor, ...]], config: QuantizeConfig
) -> tuple[Captured, tuple[Equalised, ...]]:
    """The network with equalised channels, where int8 is expected to lose less that way; else as it is.

    Args:
        captured: the network; it is not changed.
        batches: calibration inputs.
        config: whether to do it at all, and how int8 grids are found.
    """
    sites = list(_sites(captured)) if config.equalize else []
    if not sites:
        return captured, ()
    layers = {layer.name: layer for layer in captured.network.layers}
    seen = seen_inputs(captured, batches, {site.readers[0] for site in sites})
    module, found = sharing_weights(captured.module), []
    for site in sites:
        readers = [layers[name] for name in site.readers]
        factors, gain = _factors(seen[site.readers[0]], readers, config)
        if gain * _WORTH_IT > 1:
            _divide(module, site, factors)
            for layer in readers:
                _multiply(module, layer, factors)
            of_layer = site.source in layers
            parameters = () if of_layer else tuple(filter(None, (site.weight, site.bias)))
            found.append(Equalised(site.source, site.readers, parameters, gain))
    return (captured.with_module(module), tuple(found)) if found else (captured, ())


def _sites(captured: Captured) -> Iterator[_Site]:
    module = captured.module
    shared = {node.layer for node in captured.network if isinstance(node, Call)} | {*captured.read_twice}
    layers = {layer.name: layer for layer in captured.network.layers if layer.name not in shared}
    uses = [id(p) for _, m in module.named_modules() for p in m.parameters(recurse=False)]
    called = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]

    def alone(path: str) -> bool:
        """Whether a parameter is read in one place."""
        parameter = _attribute(module, path)
        return uses.count(id(parameter)) == 1 and called.count(path.rpartition(".")[0]) <= 1

    for node in module.graph.nodes:
        name = str(node.target) if node.op == "call_module" else node.name
        layer, out, passing = layers.get(name), node, _IDLE
        weight, bias = norm_parameters(module, node)
        if layer is not None:
            passing = _IDLE | _SCALE_FREE
            weight, bias = f"{name}.weight", f"{name}.bias" if _attribute(module, f"{name}.bias") is not None else ""
            if name in captured.folded:
                norm = captured.folded[name]
                (out,) = node.users
                affine = module.get_submodule(norm)
                weight, bias = (f"{norm}.weight", f"{norm}.bias") if getattr(affine, "affine", False) else ("", "")
        if not weight:
            continue
        readers = _readers(module, out, layers, passing)
        conv = layer is not None and layer.kind == "conv"
        fits = readers and all(
            (layers[r].kind == "conv") == conv and layers[r].channels == _size(module, weight) for r in readers
        )
        paths = [weight, *filter(None, [bias]), *(f"{r}.weight" for r in readers)]
        if fits and name not in readers and all(alone(path) for path in paths):
            yield _Site(name, weight, bias, tuple(readers))


def norm_parameters(module: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """Paths of weight and bias of a norm over the last dimension; empty if it is none, or has none."""
    if node.op == "call_module":
        called, path = module.get_submodule(str(node.target)), str(node.target)
        if not isinstance(called, nn.LayerNorm | nn.RMSNorm) or called.weight is None or called.weight.ndim != 1:
            return "", ""
        return f"{path}.weight", f"{path}.bias" if getattr(called, "bias", None) is not None else ""
    if node.op != "call_function" or getattr(node.target, "_opname", "") not in ("layer_norm", "rms_norm"):
        return "", ""
    given = [each for each in node.args[2:4] if isinstance(each, fx.Node)]
    plain = all(each.op == "get_attr" and len(each.users) == 1 for each in given)
    shape = node.args[1]
    if not given or not plain or not isinstance(shape, list | tuple) or len(shape) != 1:
        return "", ""
    return str(given[0].target), str(given[1].target) if len(given) > 1 else ""


def _readers(module: fx.GraphModule, node: fx.Node, layers: Mapping[str, Layer], passing: frozenset[str]) -> list[str]:
    """The layers that alone read a value, directly or through functions of each channel; empty if others read it."""
    found: list[str] = []
    for user in node.users:
        if user.op == "call_module" and str(user.target) in layers:
            found.append(str(user.target))
        elif user.op != "output" and user.all_input_nodes[0] is node and _passes(module, user, passing):
            further = _readers(module, user, layers, passing)
            if not further:
                return []
            found += further
        else:
            return []
    return list(dict.fromkeys(found))


def _passes(module: fx.GraphModule, node: fx.Node, passing: frozenset[str]) -> bool:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__.lower() in passing
    target = node.target
    name = target._opname if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))
    if name == "transpose":  # batch and positions may change places
        meta = node.meta.get("tensor_meta")
        dimensions = len(meta.shape) if meta is not None and hasattr(meta, "shape") else 0
        return (
            all(isinstance(d, int) and d % dimensions < dimensions - 1 for d in node.args[1:3]) if dimensions else False
        )
    return name.rstrip("_") in passing


def _factors(seen: SeenInputs, readers: Sequence[Layer], config: QuantizeConfig) -> tuple[Float64, float]:
    """Powers of two by channel, and what they gain."""
    rows = seen.rows
    size = np.abs(rows).max(0)
    weights = np.maximum.reduce([np.sqrt(_largest(layer)) for layer in readers])
    best, least = np.ones(len(size)), _error(rows, readers, np.ones(len(size)), seen, config)
    before = least
    for share in _SHARES:
        usable = (size > 0) & (weights > 0)
        wanted = np.where(usable, size, 1.0) ** share / np.where(usable, weights, 1.0) ** (1 - share)
        middle = float(np.exp(np.log(wanted[usable]).mean())) if usable.any() else 1.0
        factors = np.where(usable, np.exp2(np.rint(np.log2(np.clip(wanted / middle, 1 / _MOST, _MOST)))), 1.0)
        error = _error(rows, readers, factors, seen, config)
        if error < least:
            best, least = factors, error
    return best, before / least if least > 0 else 1.0


def _error(
    rows: NDArray[np.float32], readers: Sequence[Layer], factors: Float64, seen: SeenInputs, config: QuantizeConfig
) -> float:
    """Expected squared error of the readers' outputs by int8 inputs and int8 weights together."""
    energy = sum((channel_energy(layer) for layer in readers), np.zeros(len(factors))) * factors**2
    inputs = seen.scaled(factors, energy)
    total = inputs.error(inputs.grid(config))
    square = (rows.astype(np.float64) ** 2).mean(0) / factors**2
    for layer in readers:
        channels = layer.channels // layer.groups
        by_group = factors.reshape(layer.groups, channels)
        filters = np.abs(layer.matrix).reshape(layer.groups, -1, channels, layer.kernel_positions)
        steps = (filters * by_group[:, None, :, None]).max((2, 3)).ravel() / _INT8 * np.abs(layer.filter_scale)  # [O]
        share = square.reshape(layer.groups, channels).sum(1) * layer.kernel_positions  # [group]
        total += float((steps**2).reshape(layer.groups, -1).sum(1) @ share) / 12
    return total


def _largest(layer: Layer) -> Float64:
    """The largest squared weight that reads each input channel, float64 [C]."""
    groups = layer.matrix.reshape(layer.groups, -1, layer.channels // layer.groups, layer.kernel_positions)
    return np.asarray(np.square(groups, dtype=np.float64).max((1, 3)).ravel())


def _divide(module: fx.GraphModule, site: _Site, factors: Float64) -> None:
    for path in filter(None, (site.weight, site.bias)):
        value = _attribute(module, path)
        assert isinstance(value, Tensor)
        by_channel = torch.from_numpy(factors).to(value).reshape(-1, *[1] * (value.ndim - 1))
        _put(module, path, value / by_channel)


def _multiply(module: fx.GraphModule, layer: Layer, factors: Float64) -> None:
    path = f"{layer.name}.weight"
    value = _attribute(module, path)
    assert isinstance(value, Tensor)
    of_group = torch.from_numpy(factors).to(value).reshape(layer.groups, 1, -1)
    by_filter = of_group.expand(layer.groups, layer.filters // layer.groups, -1).flatten(0, 1)
    _put(module, path, value * by_filter.reshape(*by_filter.shape, *[1] * (value.ndim - 2)))


def _put(module: fx.GraphModule, path: str, value: Tensor) -> None:
    owner, _, key = path.rpartition(".")
    setattr(module.get_submodule(owner), key, nn.Parameter(value, requires_grad=False))


def _attribute(module: nn.Module, path: str) -> object:
    owner, _, key = path.rpartition(".")
    return getattr(module.get_submodule(owner), key, None)


def _size(module: fx.GraphModule, path: str) -> int:
    value = _attribute(module, path)
    return len(value) if isinstance(value, Tensor) else 0
