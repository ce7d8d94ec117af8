"""A network's shapes and data flow as plain values: with it a plan's file can be costed by itself."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings
from prap_pim.ir.network import Call, DigitalOp, Layer, Network, StoredWeight

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Size = Annotated[int, Field(ge=1, lt=2**31)]


class _LayerOutline(Settings):
    """A ``Layer`` without its weights, scales and biases."""

    node: Literal["layer"] = "layer"
    name: str
    kind: Literal["conv", "linear"]
    weight_shape: tuple[_Size, ...]
    input_shape: tuple[_Count, ...]
    output_shape: tuple[_Count, ...]
    sources: tuple[str, ...]
    stride: tuple[_Size, ...]
    padding: tuple[_Count, ...]
    dilation: tuple[_Size, ...]
    groups: _Size
    more_positions: _Count


class _CallOutline(Settings):
    """A ``Call``."""

    node: Literal["call"] = "call"
    name: str
    layer: str
    positions: _Count
    output_elements: _Count
    sources: tuple[str, ...]


class _DigitalOutline(Settings):
    """A ``DigitalOp``."""

    node: Literal["digital"] = "digital"
    name: str
    op: str
    input_elements: _Count
    output_elements: _Count
    sources: tuple[str, ...]
    macs: _Count
    weights: _Count = 0
    weight_reads: _Count = 0
    cached: _Count = 0
    cache_reads: _Count = 0
    cache_writes: _Count = 0


class Outline(Settings):
    """The nodes of a ``Network`` in their order, each with all of its attributes but weights, scales and biases."""

    name: str
    nodes: tuple[Annotated[_LayerOutline | _CallOutline | _DigitalOutline, Field(discriminator="node")], ...]

    @staticmethod
    def of(network: Network) -> "Outline":
        """The outline of a network."""
        return Outline(name=network.name, nodes=tuple(_node(each) for each in network))

    def network(self, weights: Mapping[str, StoredWeight], biases: Mapping[str, NDArray[np.float32]]) -> Network:
        """The network with other weights.

        Args:
            weights: real weights [O, fan_in] by layer.
            biases: float32 [O] by layer.

        Raises:
            UserError: they are not of this network, or the outline contradicts itself.
        """
        nodes: list[Layer | Call | DigitalOp] = []
        for each in self.nodes:
            values = {key: value for key, value in each if key not in ("node", "weight_shape")}
            if isinstance(each, _CallOutline):
                nodes.append(Call(**values))
            elif isinstance(each, _DigitalOutline):
                nodes.append(DigitalOp(**values))
            else:
                nodes.append(_layer(each, values, weights, biases))
        layers = {node.name for node in nodes if isinstance(node, Layer)}
        if set(weights) != layers:
            raise UserError(f"network {self.name}: it has no layer {sorted(set(weights) - layers)[0]}")
        return Network(self.name, tuple(nodes))


def _node(node: Layer | Call | DigitalOp) -> _LayerOutline | _CallOutline | _DigitalOutline:
    values: dict[str, Any] = {field.name: getattr(node, field.name) for field in fields(node)}
    if isinstance(node, Call):
        return _CallOutline(**values)
    if isinstance(node, DigitalOp):
        return _DigitalOutline(**values)
    weight = values.pop("weight")
    del values["filter_scale"], values["filter_bias"], values["integers"]
    return _LayerOutline(weight_shape=weight.shape, **values)


def _layer(
    outline: _LayerOutline,
    values: dict[str, Any],
    weights: Mapping[str, StoredWeight],
    biases: Mapping[str, NDArray[np.float32]],
) -> Layer:
    name, shape = outline.name, outline.weight_shape
    if name not in weights:
        raise UserError(f"layer {name} has no plan")
    if len(shape) < 2 or weights[name].shape != (shape[0], prod(shape[1:])):
        raise UserError(f"layer {name}: a plan of {weights[name].shape} weights does not fit its shape {shape}")
    weight: Any = StoredWeight(tuple(shape), partial(weights[name].reshape, shape))
    layer = Layer(weight=weight, filter_scale=np.ones(shape[0], np.float32), filter_bias=biases[name], **values)
    given, made = layer.input_shape, layer.output_shape
    if layer.kind == "conv":
        fits = len(given) == len(shape) - 1 and given[0] == layer.channels
        fits = fits and made == (layer.filters, *layer.output_map(given[1:]))
    else:
        fits = bool(given and made) and (given[-1], made[-1]) == (layer.channels, layer.filters)
    if not fits:
        raise UserError(f"layer {name}: its maps {given} and {made} do not fit its weights {shape}")
    return layer
