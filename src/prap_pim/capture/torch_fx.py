"""A PyTorch model becomes a ``Network``: traced with torch.fx, its shapes found by running an example."""

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn import functional

from prap_pim.errors import UserError
from prap_pim.network import DigitalOp, Float32, Layer, Network

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # their weights stay digital
_IDLE_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd)  # compute nothing in eval mode
_IDLE_FUNCTIONS: frozenset[Any] = frozenset({functional.dropout, "contiguous", "detach"})
_MATRIX_FUNCTIONS: frozenset[Any] = frozenset(
    {
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
        functional.linear,
        functional.bilinear,
        functional.embedding,
    }
)
_PRODUCTS: frozenset[Any] = frozenset(
    {operator.matmul, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum, "matmul", "mm", "bmm"}
)
_OP_NAMES = {"iadd": "add", "imul": "mul", "isub": "sub", "adaptiveavgpool": "avgpool", "adaptivemaxpool": "maxpool"}


@dataclass(frozen=True)
class Captured:
    """A model as a ``Network``, and the means to run it with other modules in its layers' places.

    Attributes:
        network: layers and digital operations; no torch in it.
        module: the traced copy in eval mode. Treat it as read-only.
        folded: module path of the batch norm that a layer's scale and bias hold, by layer name.
    """

    network: Network
    module: fx.GraphModule
    folded: Mapping[str, str]

    def rebuild(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        """A deep copy in eval mode where each named layer, with its folded batch norm, is replaced by a given module.

        Layers that are not named stay as they are. The given modules are put in, not copied.

        Raises:
            UserError: there is no such layer.
        """
        known = {layer.name for layer in self.network.layers}
        for name in layers:
            if name not in known:
                raise UserError(f"network {self.network.name} has no layer {name}")
        module = copy.deepcopy(self.module)
        norms = {self.folded[name] for name in layers if name in self.folded}
        for node in list(module.graph.nodes):
            if node.op == "call_module" and node.target in norms:
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
        module.delete_all_unused_submodules()
        for name, replacement in layers.items():
            module.set_submodule(name, replacement)
        module.recompile()
        return module.eval()


def capture(model: nn.Module, example: Tensor, name: str) -> Captured:
    """Trace a model in eval mode.

    Every ``nn.Conv2d`` and ``nn.Linear`` becomes a ``Layer``; a batch norm that alone and directly follows goes into
    its ``filter_scale`` and ``filter_bias``. Everything else that computes becomes a ``DigitalOp``.

    Args:
        model: the user's model; it is copied and never touched.
        example: an input batch, batch first, on the model's device; only its shape and type matter.
        name: what to call the network.

    Raises:
        UserError: the model does not run on the example, cannot be traced, or has a layer that cannot be mapped; names
            the module path and the reason.
    """
    if example.ndim == 0 or len(example) == 0:
        raise UserError(f"model {name} needs an example of at least one image, not {tuple(example.shape)}")
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        try:
            model(example)
        except Exception as error:
            raise UserError(f"model {name} does not run on an input {tuple(example.shape)}: {_line(error)}") from error
        module = _trace(model, name)
        ShapeProp(module).propagate(example)
    return _Builder(module, len(example), name).build()


def _line(error: Exception) -> str:
    """The first line of what went wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Tracer(fx.Tracer):
    """Remembers the innermost module that could not be traced."""

    failed_in = ""

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise


def _trace(model: nn.Module, name: str) -> fx.GraphModule:
    tracer = _Tracer()
    try:
        return fx.GraphModule(model, tracer.trace(model), name)
    except Exception as error:
        where = f"module {tracer.failed_in}" if tracer.failed_in else f"model {name}"
        raise UserError(f"{where} cannot be traced: {_line(error)}") from error


class _Builder:
    """Walks the traced graph once and collects the network's nodes."""

    def __init__(self, module: fx.GraphModule, batch: int, name: str) -> None:
        self.module, self.batch, self.name = module, batch, name
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.calls = [node for node in module.graph.nodes if node.op == "call_module"]
        self.nodes: list[Layer | DigitalOp] = []
        self.folded: dict[str, str] = {}
        self.sources: dict[fx.Node, tuple[str, ...]] = {}  # names whose output a graph node stands for
        self.taken = {node.target for node in self.calls if self._is_matrix(node)}

    def build(self) -> Captured:
        for node in self.module.graph.nodes:
            self.sources[node] = self._visit(node)
        return Captured(Network(self.name, tuple(self.nodes)), self.module, self.folded)

    def _visit(self, node: fx.Node) -> tuple[str, ...]:
        """Add what a graph node stands for; return the names whose output it is."""
        if node.op in ("output", "get_attr") or not _tensors(node):
            return ()  # a constant, or a number such as a size
        called = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, nn.Conv2d | nn.Linear):
            self.nodes.append(self._layer(node, called))
            return (str(node.target),)
        inputs = self._inputs(node)
        folded = node.op == "call_module" and node.target in self.folded.values()
        if folded or isinstance(called, _IDLE_MODULES) or node.target in _IDLE_FUNCTIONS:
            return inputs
        if called is not None:
            _refuse_weights(str(node.target), called)
        self._refuse_functions(node)
        op = DigitalOp(
            name=self._unique(str(node.target) if called is not None else node.name),
            op="input" if node.op == "placeholder" else _op_name(node, called),
            input_elements=sum(self._elements(source) for source in node.all_input_nodes if self.sources[source]),
            output_elements=self._elements(node),
            sources=inputs,
        )
        self.nodes.append(op)
        return (op.name,)

    def _inputs(self, node: fx.Node) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for source in node.all_input_nodes for name in self.sources[source]))

    def _elements(self, node: fx.Node) -> int:
        """Activations of one inference."""
        return sum(prod(tensor.shape) for tensor in _tensors(node)) // self.batch

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.taken:
            count += 1
            candidate = f"{name}:{count}"
        self.taken.add(candidate)
        return candidate

    def _is_matrix(self, node: fx.Node) -> bool:
        return isinstance(self.modules[str(node.target)], nn.Conv2d | nn.Linear)

    def _layer(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> Layer:
        name = str(node.target)
        twin = next(other for other in self.calls if self.modules[str(other.target)] is module)
        if twin is not node:
            raise UserError(f"layer {name}: it is used more than once, which cannot be mapped yet")
        scale, bias = self._scale_and_bias(node, module)
        conv = isinstance(module, nn.Conv2d)
        geometry = _geometry(name, module) if isinstance(module, nn.Conv2d) else {}
        return Layer(
            name=name,
            kind="conv" if conv else "linear",
            weight=_float32(module.weight),
            filter_scale=scale,
            filter_bias=bias,
            input_shape=self._shape(name, node.all_input_nodes[0], conv),
            output_shape=self._shape(name, node, conv),
            sources=self._inputs(node),
            **geometry,
        )

    def _shape(self, name: str, node: fx.Node, conv: bool) -> tuple[int, ...]:
        """Without the batch. A linear layer may see batch and positions as one dimension."""
        (tensor,) = _tensors(node)
        first, *rest = tensor.shape
        if (conv and (len(rest) != 3 or first != self.batch)) or not rest or first % self.batch:
            raise UserError(f"layer {name}: a tensor {tuple(tensor.shape)} has no batch of {self.batch} in front")
        return tuple(rest) if first == self.batch else (first // self.batch, *rest)

    def _scale_and_bias(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> tuple[Float32, Float32]:
        """What the layer's product is multiplied by and what is added: its bias and the batch norm that follows."""
        filters = len(module.weight)
        scale = np.ones(filters)
        bias = np.zeros(filters) if module.bias is None else _float64(module.bias)
        norm = self._norm_after(node)
        if norm is not None:
            path, batch_norm = norm
            assert batch_norm.running_mean is not None
            assert batch_norm.running_var is not None
            scale = 1 / np.sqrt(_float64(batch_norm.running_var) + batch_norm.eps)
            if batch_norm.affine:
                scale *= _float64(batch_norm.weight)
            bias = (bias - _float64(batch_norm.running_mean)) * scale
            if batch_norm.affine:
                bias += _float64(batch_norm.bias)
            self.folded[str(node.target)] = path
        return scale.astype(np.float32), bias.astype(np.float32)

    def _norm_after(self, node: fx.Node) -> tuple[str, nn.BatchNorm1d | nn.BatchNorm2d] | None:
        """The batch norm over the layer's filters, if it is all that reads the layer and nothing else calls it."""
        if len(node.users) != 1:
            return None
        (user,) = node.users
        module = self.modules.get(str(user.target)) if user.op == "call_module" else None
        rank = len(_tensors(node)[0].shape)
        if not (isinstance(module, nn.BatchNorm2d) or (isinstance(module, nn.BatchNorm1d) and rank == 2)):
            return None
        once = sum(self.modules[str(call.target)] is module for call in self.calls) == 1
        return (str(user.target), module) if once and module.running_var is not None else None

    def _refuse_functions(self, node: fx.Node) -> None:
        """A weight matrix that is applied by a function instead of a layer cannot be replaced."""
        constants = [source for source in node.all_input_nodes if source.op == "get_attr"]
        if node.target in _MATRIX_FUNCTIONS or (node.target in _PRODUCTS and constants):
            weight = f" with {constants[0].target}" if constants else ""
            raise UserError(f"{node.name}: the function {_raw_name(node)}{weight} cannot be mapped; use a module")


def _refuse_weights(name: str, module: nn.Module) -> None:
    """A module with a weight matrix of its own that is neither Conv2d nor Linear cannot be mapped."""
    if not isinstance(module, _NORMS) and any(parameter.ndim > 1 for parameter in module.parameters()):
        raise UserError(f"layer {name}: {type(module).__name__} cannot be mapped on crossbars yet")


def _geometry(name: str, conv: nn.Conv2d) -> dict[str, tuple[int, int]]:
    """Stride, padding and dilation, or why the convolution cannot be mapped."""
    if conv.groups != 1:
        raise UserError(f"layer {name}: a convolution of {conv.groups} groups cannot be mapped yet")
    if conv.padding_mode != "zeros":
        raise UserError(f"layer {name}: padding_mode {conv.padding_mode!r} cannot be mapped, only 'zeros'")
    padding = conv.padding
    if isinstance(padding, str):
        total = [0, 0]
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if total[0] % 2 or total[1] % 2:
            raise UserError(f"layer {name}: padding 'same' of an even kernel is uneven and cannot be mapped")
        padding = (total[0] // 2, total[1] // 2)
    return {"stride": _pair(conv.stride), "padding": _pair(padding), "dilation": _pair(conv.dilation)}


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    height, width = values
    return height, width


def _tensors(node: fx.Node) -> list[TensorMetadata]:
    """Shapes of the tensors that a node yields; none for a number."""
    meta = node.meta.get("tensor_meta")
    if isinstance(meta, TensorMetadata):
        return [meta]
    return [item for item in meta if isinstance(item, TensorMetadata)] if isinstance(meta, tuple | list) else []


def _raw_name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _op_name(node: fx.Node, called: nn.Module | None) -> str:
    """One name for the module, the function and the method that do the same: "relu", "add", "maxpool", "avgpool"..."""
    raw = type(called).__name__ if called is not None else _raw_name(node)
    plain = raw.lower().replace("_", "")
    if plain[-2:] in ("1d", "2d", "3d"):
        plain = plain[:-2]
    return _OP_NAMES.get(plain, plain)


def _float64(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.detach().cpu().double().numpy()


def _float32(tensor: Tensor) -> Float32:
    return tensor.detach().cpu().float().numpy().copy()
