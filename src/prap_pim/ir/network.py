"""A network as the hardware sees it: matrices on crossbars, digital work between them, and the data flow. No torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Integers:
    """What the integers of a model that is already quantised stand for.

    Attributes:
        weight_step: the real weight that integer 1 stands for in each filter, float32 [O]; None if not known.
        input_step: likewise of the layer's inputs; None if not known.
        input_zero: the int8 integer that stands for an input of 0; None: it differs from batch to batch.
    """

    weight_step: Float32 | None = None
    input_step: float | None = None
    input_zero: int | None = None


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight that is kept in half precision, or in a file: float32 only while it is worked on.

    It is read as an array is (shape, parts, ``reshape``, any function of NumPy), and anew each time.

    Attributes:
        shape: as of an array.
        read: gives it, float32.
    """

    shape: tuple[int, ...]
    read: Callable[[], Float32]
    dtype = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.read(), dtype)

    def __getitem__(self, part: Any) -> Any:
        return self.read()[part]

    def reshape(self, *shape: Any) -> Float32:
        """The array in another shape."""
        return self.read().reshape(*shape)

    def tobytes(self) -> bytes:
        """The array's bytes."""
        return self.read().tobytes()


@dataclass(frozen=True, eq=False)
class Layer:
    """A matrix that lives on crossbars: ``y = filter_scale * (weight * x) + filter_bias``, * a convolution or product.

    Batch norm that follows is held in ``filter_scale`` and ``filter_bias``, not multiplied into ``weight``: the
    similarity of two filters' patterns does not change by folding, and the scale is applied where the integer result
    is turned back into a real number anyway.

    Attributes:
        name: module path, unique in the network.
        kind: "conv" (of any number of spatial dimensions) or "linear".
        weight: float32 [O, C / groups, *kernel] or [O, C]; may be a ``StoredWeight``.
        filter_scale: float32 [O].
        filter_bias: float32 [O].
        stride: of the convolution, one for each spatial dimension (1 where left out); empty for a linear layer.
        padding: likewise (0 where left out).
        dilation: likewise (1 where left out).
        groups: of a convolution; filters of group i read the i-th share of the channels.
        input_shape: without the batch, of the first call: (C, *map), or (..., C).
        output_shape: likewise: (O, *map), or (..., O).
        sources: names of the nodes whose output it reads.
        more_positions: output positions that one inference asks for beyond those of one ``output_shape``: a layer that
            is called again (``Call``), or on several maps at once.
        integers: of a model that is already quantised.
    """

    name: str
    kind: str
    weight: Float32
    filter_scale: Float32
    filter_bias: Float32
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    sources: tuple[str, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    more_positions: int = 0
    integers: Integers | None = None

    def __repr__(self) -> str:
        sizes = "x".join(map(str, self.weight.shape))
        return f"Layer({self.name}: {self.kind}, weight {sizes}, {self.positions:,} positions)"

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "linear"):
            raise UserError(f"layer {self.name}: kind must be conv or linear, not {self.kind!r}")
        fits = self.weight.ndim >= 3 if self.kind == "conv" else self.weight.ndim == 2
        if not fits or self.weight.size == 0:
            raise UserError(f"layer {self.name}: a {self.kind} weight of shape {self.weight.shape} cannot be mapped")
        if self.groups < 1 or self.filters % self.groups:
            raise UserError(f"layer {self.name}: {self.groups} groups cannot share out {self.filters} filters")
        for what, plain in (("stride", 1), ("padding", 0), ("dilation", 1)):
            each = getattr(self, what) or (plain,) * (self.weight.ndim - 2)
            object.__setattr__(self, what, each)
            if len(each) != self.weight.ndim - 2:
                raise UserError(f"layer {self.name}: a {what} of {each} does not fit its weight {self.weight.shape}")
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
    def channels(self) -> int:
        """C, input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def rows(self) -> int:
        """im2col rows: inputs of one output position, in the order (channel, kernel row, kernel column)."""
        return self.fan_in * self.groups

    @property
    def fan_in(self) -> int:
        """im2col rows that one filter reads: all, or those of its group."""
        return prod(self.weight.shape[1:])

    @property
    def kernel_positions(self) -> int:
        """Inputs of one channel: kernel height times width; 1 for a linear layer."""
        return prod(self.weight.shape[2:])

    @property
    def reach(self) -> tuple[int, ...]:
        """Inputs along each spatial dimension from the kernel's first to its last."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))

    def output_map(self, space: Sequence[int]) -> tuple[int, ...]:
        """The output map of an input map; calls of one layer may differ in it."""
        sizes = zip(space, self.padding, self.reach, self.stride, strict=True)
        return tuple((size + 2 * padding - reach) // step + 1 for size, padding, reach, step in sizes)

    @property
    def map_positions(self) -> int:
        """Output positions of one ``output_shape``."""
        return prod(self.output_shape[1:]) if self.kind == "conv" else prod(self.output_shape[:-1])

    @property
    def positions(self) -> int:
        """Output positions of one inference: times that the whole matrix is applied."""
        return self.map_positions + self.more_positions

    @property
    def output_elements(self) -> int:
        """Numbers in one ``output_shape``."""
        return prod(self.output_shape)

    @property
    def matrix(self) -> Float32:
        """The weight as float32 [O, fan_in]."""
        return self.weight.reshape(self.filters, self.fan_in)

    def by_group(self) -> Iterator["Layer"]:
        """Each group as a layer by itself, with its share of the filters and channels."""
        if self.groups == 1:
            yield self
            return
        each = self.filters // self.groups
        for i in range(self.groups):
            mine = slice(i * each, (i + 1) * each)
            own = self.integers
            if own is not None and own.weight_step is not None:
                own = replace(own, weight_step=own.weight_step[mine])
            yield replace(
                self,
                name=f"{self.name}[{i}]",
                weight=self.weight[mine],
                filter_scale=self.filter_scale[mine],
                filter_bias=self.filter_bias[mine],
                input_shape=(self.channels // self.groups, *self.input_shape[1:]),
                output_shape=(each, *self.output_shape[1:]),
                groups=1,
                integers=own,
            )


@dataclass(frozen=True)
class Call:
    """A layer that one inference has already run is run again, on other inputs: stored once, computed twice.

    Attributes:
        name: unique in the network.
        layer: name of the layer.
        positions: output positions of this call; they are among the layer's.
        output_elements: activations that this call makes, per inference.
        sources: names of the nodes whose output it reads.
    """

    name: str
    layer: str
    positions: int
    output_elements: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class DigitalOp:
    """Work that is not done on crossbars.

    Attributes:
        name: node name, unique in the network.
        op: "input", "relu", "add", "maxpool", "avgpool", "flatten", "batchnorm", ...
        input_elements: activations that it reads (all inputs together), per inference.
        output_elements: activations that it writes, per inference.
        sources: names of the nodes whose output it reads.
        macs: multiplications with an addition each, per inference, of a product that is not on crossbars.
        weights: numbers in matrices and tables of the model that are stored for it; one that several operations read is
            the first one's.
        weight_reads: times that one of them is read, per inference: once for each multiplication, or each number that
            a lookup finds.
        cached: keys and values that are kept for it from token to token.
        cache_reads, cache_writes: how many of these are read and written, per inference.
    """

    name: str
    op: str
    input_elements: int
    output_elements: int
    sources: tuple[str, ...]
    macs: int = 0
    weights: int = 0
    weight_reads: int = 0
    cached: int = 0
    cache_reads: int = 0
    cache_writes: int = 0


@dataclass(frozen=True)
class Share:
    """A part of a network: of its weights, and of the multiplications of one inference, 0..1."""

    weights: float
    macs: float

    def __str__(self) -> str:
        weights, macs = f"{self.weights:.1%}", f"{self.macs:.1%}"
        return f"{weights} of weights and MACs" if weights == macs else f"{weights} of weights, {macs} of MACs"


@dataclass(frozen=True)
class Network:
    """Nodes in an order in which they can be computed.

    Attributes:
        name: what to call it in tables.
        nodes: crossbar layers, further calls of them and digital operations, each after all of its sources.
    """

    name: str
    nodes: tuple["Node", ...]

    def __repr__(self) -> str:
        return f"Network({self.name}: {len(self.layers)} layers, {self.parameters:,} weights)"

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise UserError(f"network {self.name}: two nodes are called {node.name}")
            missing = [source for source in node.sources if source not in seen]
            if missing:
                raise UserError(f"network {self.name}: {node.name} reads {missing[0]}, which does not come before it")
            if isinstance(node, Call) and node.layer not in seen:
                raise UserError(f"network {self.name}: {node.name} calls {node.layer}, which does not come before it")
            seen.add(node.name)
        if not self.layers:
            raise UserError(f"network {self.name} has no layer that can be mapped on crossbars")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The crossbar layers in order."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    def first_positions(self, layer: Layer) -> int:
        """Output positions of a layer's first call."""
        return layer.positions - sum(n.positions for n in self.nodes if isinstance(n, Call) and n.layer == layer.name)

    @property
    def digital(self) -> tuple[DigitalOp, ...]:
        """What is not done on crossbars, in order."""
        return tuple(node for node in self.nodes if isinstance(node, DigitalOp))

    @property
    def parameters(self) -> int:
        """Weights on crossbars."""
        return sum(layer.weight.size for layer in self.layers)

    @property
    def weights(self) -> int:
        """Numbers in all weight matrices and tables, on crossbars and off them."""
        return self.parameters + sum(op.weights for op in self.digital)

    @property
    def crossbar_macs(self) -> int:
        """Multiplications of one inference by weights on crossbars, each of which is done."""
        return sum(layer.weight.size * layer.positions for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiplications of one inference, on crossbars and off them."""
        return self.crossbar_macs + sum(op.macs for op in self.digital)

    @property
    def on_crossbars(self) -> Share:
        """What the layers have of the whole."""
        return Share(self.parameters / self.weights, self.crossbar_macs / self.macs)

    def share_of(self, name: str) -> Share:
        """What the digital operations of a name, or of what has that path, have of the whole."""
        return self._share(
            [op for op in self.digital if op.name == name or op.name.startswith((f"{name}.", f"{name}:"))]
        )

    def digital_shares(self) -> dict[str, Share]:
        """Of digital operations with weights or multiplications, by what they are (``DigitalOp.op``)."""
        kinds: dict[str, list[DigitalOp]] = {}
        for op in self.digital:
            if op.weights or op.macs:
                kinds.setdefault(op.op, []).append(op)
        return {kind: self._share(ops) for kind, ops in kinds.items()}

    def _share(self, ops: Sequence[DigitalOp]) -> Share:
        return Share(sum(op.weights for op in ops) / self.weights, sum(op.macs for op in ops) / self.macs)

    def __iter__(self) -> Iterator["Node"]:
        return iter(self.nodes)


def shared_out(shares: Sequence[float]) -> list[int]:
    """Whole numbers for shares, with their sum rounded: those with the largest remainders are rounded up."""
    whole = np.floor(shares).astype(np.int64)
    up = np.argsort(whole - np.asarray(shares), kind="stable")[: round(sum(shares)) - int(whole.sum())]
    whole[up] += 1
    return [int(each) for each in whole]


Node = Layer | Call | DigitalOp
