"""A network as the hardware sees it: matrices on crossbars, digital work between them, and the data flow. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from prap_pim.errors import UserError

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layer:
    """A matrix that lives on crossbars: ``y = filter_scale * (weight * x) + filter_bias``, * a convolution or product.

    Batch norm that follows is held in ``filter_scale`` and ``filter_bias``, not multiplied into ``weight``: the
    similarity of two filters' patterns does not change by folding, and the scale is applied where the integer result
    is turned back into a real number anyway.

    Attributes:
        name: module path, unique in the network.
        kind: "conv" or "linear".
        weight: float32 [O, C, kh, kw] or [O, C].
        filter_scale, filter_bias: float32 [O].
        stride, padding, dilation: of the convolution (height, width); (1, 1), (0, 0), (1, 1) for a linear layer.
        input_shape, output_shape: without the batch: (C, H, W) and (O, H', W'), or (..., C) and (..., O).
        sources: names of the nodes whose output it reads.
    """

    name: str
    kind: str
    weight: Float32
    filter_scale: Float32
    filter_bias: Float32
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    sources: tuple[str, ...]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        expected = {"conv": 4, "linear": 2}.get(self.kind)
        if expected is None:
            raise UserError(f"layer {self.name}: kind must be conv or linear, not {self.kind!r}")
        if self.weight.ndim != expected or self.weight.size == 0:
            raise UserError(f"layer {self.name}: a {self.kind} weight of shape {self.weight.shape} cannot be mapped")
        for what, value in (("weight", self.weight), ("scale", self.filter_scale), ("bias", self.filter_bias)):
            if not np.isfinite(value).all():
                raise UserError(f"layer {self.name}: its {what} holds NaN or infinity")
        for what, value in (("filter_scale", self.filter_scale), ("filter_bias", self.filter_bias)):
            if value.shape != (self.filters,):
                raise UserError(f"layer {self.name}: {what} has shape {value.shape}, not ({self.filters},)")

    @property
    def filters(self) -> int:
        """O, output channels."""
        return int(self.weight.shape[0])

    @property
    def rows(self) -> int:
        """im2col rows: inputs of one output position, in the order (channel, kernel row, kernel column)."""
        return prod(self.weight.shape[1:])

    @property
    def kernel_positions(self) -> int:
        """Inputs of one channel: kernel height times width; 1 for a linear layer."""
        return prod(self.weight.shape[2:])

    @property
    def positions(self) -> int:
        """Output positions of one inference: times that the whole matrix is applied."""
        return prod(self.output_shape[1:]) if self.kind == "conv" else prod(self.output_shape[:-1])

    @property
    def matrix(self) -> Float32:
        """The weight as float32 [O, rows]."""
        return self.weight.reshape(self.filters, self.rows)


@dataclass(frozen=True)
class DigitalOp:
    """Work that is not done on crossbars.

    Attributes:
        name: node name, unique in the network.
        op: "input", "relu", "add", "maxpool", "avgpool", "flatten", "batchnorm", ...
        input_elements: activations that it reads (all inputs together), per inference.
        output_elements: activations that it writes, per inference.
        sources: names of the nodes whose output it reads.
    """

    name: str
    op: str
    input_elements: int
    output_elements: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """Nodes in an order in which they can be computed.

    Attributes:
        name: what to call it in tables.
        nodes: crossbar layers and digital operations, each after all of its sources.
    """

    name: str
    nodes: tuple[Layer | DigitalOp, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise UserError(f"network {self.name}: two nodes are called {node.name}")
            missing = [source for source in node.sources if source not in seen]
            if missing:
                raise UserError(f"network {self.name}: {node.name} reads {missing[0]}, which does not come before it")
            seen.add(node.name)
        if not self.layers:
            raise UserError(f"network {self.name} has no layer that can be mapped on crossbars")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The crossbar layers in order."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    @property
    def parameters(self) -> int:
        """Weights on crossbars."""
        return sum(layer.weight.size for layer in self.layers)

    def __iter__(self) -> Iterator[Layer | DigitalOp]:
        return iter(self.nodes)
