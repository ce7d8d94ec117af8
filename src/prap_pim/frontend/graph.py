"""A captured network: its layers and digital operations, and the graph that computes it."""

import copy
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt, prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn.modules.batchnorm import _BatchNorm

from prap_pim.common.errors import UserError
from prap_pim.common.names import untaken
from prap_pim.frontend.rows import merge_rows
from prap_pim.ir.network import Call, DigitalOp, Float32, Integers, Layer, Network, StoredWeight, shared_out


@dataclass(frozen=True)
class Origin:
    """Where a layer's weight is in the user's model: a parameter, and the views that lead from it to the weight.

    Attributes:
        parameter: its path.
        views: functions with their further arguments, applied one after another; each gives a view.
        bias: where what is added is; None if there is nothing.
        module: path of a linear layer or convolution that takes a bias, if it has none.
        computed: the weight is computed from the parameter (and others), which cannot hold another one.
        integers: of a weight and its inputs that are already quantised.
    """

    parameter: str
    views: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = ()
    bias: "Origin | None" = None
    module: str | None = None
    computed: bool = False
    integers: Integers | None = None

    @property
    def takes_bias(self) -> bool:
        """Whether something can be added to what the layer gives."""
        return self.bias is not None or self.module is not None or self.computed

    def of(self, parameter: Tensor) -> Tensor:
        """The weight in the parameter, [O, ...] in the layer's order; written to, the parameter changes."""
        value: Any = parameter
        for function, arguments in self.views:
            value = function(value, *arguments)
        assert isinstance(value, Tensor)
        return value


_BY_VALUES = (
    "which rows it reads depends on values, as in x[mask]; let it read all of them, or give experts one stack of "
    "weights (docs/any-model.md)"
)


LEFT_DIGITAL = "unmapped"  # in the meta of a graph's node: the path under which ``Captured.unsupported`` has it


CONVS = nn.Conv1d | nn.Conv2d | nn.Conv3d


_IDLE_MODULES = nn.Identity | nn.modules.dropout._DropoutNd  # compute nothing in eval mode


_IDLE_FUNCTIONS = frozenset({"dropout", "contiguous", "detach", "alias", "to", "_assert_tensor_metadata"})


_WRITES = frozenset(  # into their first argument, whose size they keep
    ("index_put", "index_add", "index_copy", "index_reduce", "scatter", "scatter_add", "scatter_reduce", "setitem")
)


_CONTRACTIONS = frozenset({"mv", "dot", "vdot", "inner", "tensordot"})


CHAINS = frozenset({"chain_matmul", "linalg_multi_dot"})


PRODUCTS = frozenset({"matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "einsum", *_CONTRACTIONS, *CHAINS})


_PER_TOKEN = frozenset(  # each of their weights is used once for every element of all but the last dimension
    ("bilinear", *(kind + cell for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for cell in ("", "_cell")))
)


_OP_NAMES = {
    "iadd": "add",
    "imul": "mul",
    "isub": "sub",
    "adaptiveavgpool": "avgpool",
    "adaptivemaxpool": "maxpool",
    "scaleddotproductattention": "attention",
}


class DigitalModule(nn.Module):
    """A module of a graph in normal form that says by itself what it computes; it has no weights of crossbars.

    Attributes:
        op: as ``DigitalOp.op``.
    """

    op: str

    def macs(self, inputs: Sequence[torch.Size], output: torch.Size) -> int:
        """Multiplications with an addition each, of a product of activations; by the shapes, batch and all."""
        return 0

    def stored(self) -> dict[Any, int]:
        """Numbers in each weight matrix or table that it holds, by what tells that one from others."""
        return _matrices(self.parameters())

    def differentiable(self) -> nn.Module:
        """One that computes the same, with a derivative.

        Raises:
            UserError: when it is called: there is none.
        """
        return self


@dataclass(frozen=True)
class Captured:
    """A model as a ``Network``, and the means to run it with other modules in its layers' places.

    Attributes:
        network: layers and digital operations; no torch in it.
        module: the traced copy in eval mode, weights of its two-dimensional convolutions channels last where it takes
            any layout. It takes the tensors of ``inputs.tensors`` and gives a tensor or a tuple of tensors. Treat it as
            read-only.
        folded: module path of the batch norm that a layer's scale and bias hold, by layer name.
        origins: where a layer's weight is in the user's model, by layer name.
        unsupported: modules or functions with weights that are computed digitally because they were to be skipped, and
            why they cannot be mapped.
        batch: inputs of the example.
        outputs: names of what it gives, in order: keys, or numbers.
        read_twice: layers that read the same numbers of one parameter in different ways, as x @ w and x @ w.T do: no
            parameter holds patterns for both.
    """

    network: Network
    module: fx.GraphModule
    folded: Mapping[str, str]
    origins: Mapping[str, Origin]
    unsupported: Mapping[str, str]
    batch: int
    outputs: tuple[str, ...] = ()
    read_twice: tuple[str, ...] = ()

    def first_inputs(
        self, batches: Sequence[tuple[Tensor, ...]], count: int, least: int = 1
    ) -> list[tuple[Tensor, ...]]:
        """The batches with the first ``count`` inputs, or fewer of a network that makes many activations of each: as
        many as memory holds all activations of, at least ``least``."""
        size = sum(node.output_elements for node in self.network)
        wanted = min(count, max(least, _ACTIVATIONS // size))
        counts = np.cumsum([len(batch[0]) for batch in batches])
        return list(batches[: 1 + int(np.searchsorted(counts, wanted))])

    @staticmethod
    def of_graph(
        module: fx.GraphModule,
        example: Sequence[Tensor],
        name: str,
        origins: Mapping[str, Origin] | None = None,
        unsupported: Mapping[str, str] | None = None,
    ) -> "Captured":
        """Of a graph in normal form: every product with a weight matrix is a call of a linear layer or convolution.

        Args:
            module: in eval mode; it is kept, not copied.
            example: the tensors that it takes, batch first.
            name, origins, unsupported: see the attributes.

        Raises:
            UserError: a layer cannot be mapped.
        """
        if _takes_any_layout(module):
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            ShapeProp(module).propagate(*example)
        return _Builder(module, len(example[0]), name, origins or {}, unsupported or {}).build()

    @property
    def takes_any_layout(self) -> bool:
        """Whether its inputs, and what its layers give, may have channels last in memory."""
        return _takes_any_layout(self.module)

    def with_module(self, module: fx.GraphModule) -> "Captured":
        """The same with another module of the same graph: other weights, other statistics of batch norm."""
        built = _Builder(module, self.batch, self.network.name, self.origins, self.unsupported).build()
        return replace(built, outputs=self.outputs, read_twice=self.read_twice)

    def with_state(self, state: Mapping[str, Tensor]) -> "Captured":
        """The same graph with other parameters and buffers, named as in ``module``; a layer may have got a bias."""
        module = copy.deepcopy(self.module)
        for layer in self.network.layers:
            if f"{layer.name}.bias" in state and module.get_submodule(layer.name).bias is None:
                module.get_submodule(layer.name).bias = nn.Parameter(torch.zeros(layer.filters), requires_grad=False)
        module.load_state_dict(dict(state))
        return self.with_module(module)

    def rebuild(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        """A deep copy in eval mode where each named layer, with its folded batch norm, is replaced by a given module.

        Layers that are not named stay as they are. The given modules are put in, not copied; the weights of the layers
        that they replace are not copied either.

        Raises:
            UserError: there is no such layer.
        """
        known = {layer.name for layer in self.network.layers}
        for name in layers:
            if name not in known:
                raise UserError(f"network {self.network.name} has no layer {name}")
        replaced = (p for name in layers for p in self.module.get_submodule(name).parameters())
        module = copy.deepcopy(self.module, {id(parameter): parameter for parameter in replaced})
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


class _Builder:
    """Walks the traced graph once and collects the network's nodes."""

    def __init__(
        self,
        module: fx.GraphModule,
        batch: int,
        name: str,
        origins: Mapping[str, Origin],
        unsupported: Mapping[str, str],
    ) -> None:
        self.module, self.batch, self.name = module, batch, name
        self.origins, self.unsupported = dict(origins), dict(unsupported)
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.calls = [node for node in module.graph.nodes if node.op == "call_module"]
        self.nodes: list[Layer | Call | DigitalOp] = []
        self.folded: dict[str, str] = {}
        self.sources: dict[fx.Node, tuple[str, ...]] = {}  # names whose output a graph node stands for
        by_values = _by_values(module.graph)
        matrices = [node for node in self.calls if isinstance(self.modules[str(node.target)], nn.Linear | CONVS)]
        left = {self.modules[str(node.target)] for node in matrices if by_values & set(node.all_input_nodes)}
        self.layers = [node for node in matrices if self.modules[str(node.target)] not in left]
        self.taken = {node.target for node in self.layers}
        self.unsupported |= {str(node.target): _BY_VALUES for node in matrices if node not in self.layers}
        self.loads = _loads(module.graph, batch)
        self.held: set[Any] = set()  # matrices that stay digital, each counted once

    def build(self) -> Captured:
        for node in self.module.graph.nodes:
            self.sources[node] = self._visit(node)
        if self.unsupported and not any(isinstance(node, Layer) for node in self.nodes):
            why = "; ".join(f"{path}: {reason}" for path, reason in self.unsupported.items())
            raise UserError(f"network {self.name} has no layer that can be mapped on crossbars: {why}")
        network = Network(self.name, tuple(self.nodes))
        return Captured(network, self.module, self.folded, self.origins, self.unsupported, self.batch)

    def _visit(self, node: fx.Node) -> tuple[str, ...]:
        """Add what a graph node stands for; return the names whose output it is."""
        if node.op in ("output", "get_attr") or not _tensors(node):
            return ()  # a constant, or a number such as a size
        if node in self.layers:
            return (self._add_layer(node),)
        inputs = self._inputs(node)
        if node.op != "placeholder" and not inputs:
            return ()  # of constants and sizes alone: made once
        called = self.modules.get(str(node.target)) if node.op == "call_module" else None
        folded = node.op == "call_module" and node.target in self.folded.values()
        if folded or isinstance(called, _IDLE_MODULES) or raw_name(node).rstrip("_") in _IDLE_FUNCTIONS:
            return inputs
        name = str(node.target) if called is not None else node.name
        kind, macs = "input" if node.op == "placeholder" else _op_name(node, called), _macs(node, called) // self.batch
        weights, reads = self._digital_weights(node, called, kind, macs)
        op = DigitalOp(
            name=untaken(node.meta.get(LEFT_DIGITAL, name), self.taken, ":"),
            op=kind,
            input_elements=sum(self._elements(source) for source in node.all_input_nodes if self.sources[source]),
            output_elements=self._elements(node),
            sources=inputs,
            macs=macs,
            weights=weights,
            weight_reads=reads,
        )
        self.nodes.append(op)
        return (op.name,)

    def _digital_weights(self, node: fx.Node, called: nn.Module | None, kind: str, macs: int) -> tuple[int, int]:
        """Numbers in the matrices and tables that a node is the first to read, and how many of them it reads."""
        if called is not None:
            held = called.stored() if isinstance(called, DigitalModule) else _matrices(called.parameters())
            once = sum(held.values())
        else:
            constants = [each for each in node.all_input_nodes if not self.sources[each] and _is_matrix(each)]
            held = _matrices(self._roots(constants, buffers=bool(macs)))
            once = sum(self._numbers(each) for each in constants)
        new = sum(size for key, size in held.items() if key not in self.held)
        self.held.update(held)
        found = self._elements(node) if kind == "embedding" else once
        return new, (macs or found) if held else 0

    def _roots(self, nodes: Sequence[fx.Node], buffers: bool) -> Iterator[Tensor]:
        """The parameters that constants are made of, and the buffers if so asked."""
        left = list(nodes)
        while left:
            node = left.pop()
            if node.op == "get_attr":
                value = operator.attrgetter(str(node.target))(self.module)
                if isinstance(value, Tensor) and (buffers or isinstance(value, nn.Parameter)):
                    yield value
            left += node.all_input_nodes

    def _numbers(self, node: fx.Node) -> int:
        return sum(prod(tensor.shape) for tensor in _tensors(node))

    def _inputs(self, node: fx.Node) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for source in node.all_input_nodes for name in self.sources[source]))

    def _elements(self, node: fx.Node) -> int:
        """Activations of one inference."""
        if node in self.loads:
            return self.loads[node] * prod(_tensors(node)[0].shape[1:])
        return self._numbers(node) // self.batch

    def _add_layer(self, node: fx.Node) -> str:
        """A layer, or a further call of one."""
        name = str(node.target)
        module = self.modules[name]
        assert isinstance(module, nn.Linear | CONVS)
        calls = [other for other in self.calls if self.modules[str(other.target)] is module]
        if calls[0] is not node:
            again = Call(
                name=untaken(name, self.taken, ":"),
                layer=str(calls[0].target),
                positions=self._positions(node, module),
                output_elements=self._elements(node),
                sources=self._inputs(node),
            )
            self.nodes.append(again)
            return again.name
        scale, bias = self._scale_and_bias(node, module, len(calls) == 1)
        conv = not isinstance(module, nn.Linear)
        output_shape = self._shape(name, node, conv)
        here = prod(output_shape[1:]) if conv else prod(output_shape[:-1])
        geometry: dict[str, Any] = {}
        if not isinstance(module, nn.Linear):
            geometry = {"stride": module.stride, "padding": _padding(module), "dilation": module.dilation}
            geometry["groups"] = module.groups
        layer = Layer(
            name=name,
            kind="conv" if conv else "linear",
            weight=_weight_of(module.weight),
            filter_scale=scale,
            filter_bias=bias,
            input_shape=self._shape(name, node.all_input_nodes[0], conv),
            output_shape=output_shape,
            sources=self._inputs(node),
            more_positions=sum(self._positions(each, module) for each in calls) - here,
            integers=self.origins.setdefault(name, Origin(f"{name}.weight", module=name)).integers,
            **geometry,
        )
        self.nodes.append(layer)
        return name

    def _positions(self, node: fx.Node, module: nn.Module) -> int:
        """Output positions of one call, per inference."""
        return self._elements(node) // len(_weight(module))

    def _shape(self, name: str, node: fx.Node, conv: bool) -> tuple[int, ...]:
        """Without the batch. A linear layer may see batch and positions in any order, a convolution several maps."""
        (tensor,) = _tensors(node)
        first, *rest = tensor.shape
        if node in self.loads:
            return (self.loads[node], *rest)
        if conv and (len(rest) != _weight(self.modules[name]).ndim - 1 or first % self.batch):
            raise UserError(f"layer {name}: a tensor {tuple(tensor.shape)} has no batch of {self.batch} in front")
        if conv or first == self.batch:
            return tuple(rest)
        count, odd = divmod(prod(tensor.shape[:-1]), self.batch)
        if odd or not rest:
            raise UserError(f"layer {name}: a tensor {tuple(tensor.shape)} has no batch of {self.batch} in front")
        return (count, tensor.shape[-1])

    def _scale_and_bias(self, node: fx.Node, module: nn.Module, once: bool) -> tuple[Float32, Float32]:
        """What the layer's product is multiplied by and what is added: its bias and the batch norm that follows."""
        assert isinstance(module, nn.Linear | CONVS)
        filters = len(module.weight)
        scale = np.ones(filters)
        bias = np.zeros(filters) if module.bias is None else _float64(module.bias)
        norm = self._norm_after(node) if once else None
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

    def _norm_after(self, node: fx.Node) -> tuple[str, Any] | None:
        """The batch norm over the layer's filters, if it is all that reads the layer and nothing else calls it."""
        if len(node.users) != 1:
            return None
        (user,) = node.users
        module = self.modules.get(str(user.target)) if user.op == "call_module" else None
        conv = not isinstance(self.modules[str(node.target)], nn.Linear)
        if not isinstance(module, _BatchNorm) or not (conv or len(_tensors(node)[0].shape) == 2):
            return None  # of a linear layer over positions it runs over dimension 1, which is not that of the filters
        once = sum(self.modules[str(call.target)] is module for call in self.calls) == 1
        return (str(user.target), module) if once and module.running_var is not None else None


def _by_values(graph: fx.Graph) -> set[fx.Node]:
    """Nodes of which activations' values say how many rows they give, as x[mask]."""
    found: set[fx.Node] = set()
    following: set[fx.Node] = set()  # the inputs
    for node in graph.nodes:
        given = [each for each in node.all_input_nodes if each in following]
        if _tensors(node) and (node.op == "placeholder" or given):
            following.add(node)
        if _is_by_values(node, given, found):
            found.add(node)
    return found


def _is_by_values(node: fx.Node, given: Sequence[fx.Node], found: Collection[fx.Node]) -> bool:
    name = raw_name(node).rstrip("_")
    if name.startswith("nonzero") or name == "masked_select" or (name == "where" and len(node.args) == 1):
        return bool(given)
    if name in ("getitem", "index"):
        chosen = (tensor for each in given if each not in node.args[:1] for tensor in _tensors(each))
        if any(tensor.dtype == torch.bool for tensor in chosen):
            return True
    read = [each for each in given if name not in _WRITES or each in node.args[:1]]
    rows = {tensor.shape[:1] for tensor in _tensors(node)}
    return any(tensor.shape[:1] in rows for each in read if each in found for tensor in _tensors(each))


def _loads(graph: fx.Graph, batch: int) -> dict[fx.Node, int]:
    """Rows per inference that experts were given in the example, and that they gave."""
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.target is not merge_rows:
            continue
        parts = node.args[1:]
        rows = [_tensors(part)[0].shape[0] - 1 for part in parts]  # behind the last is one of zeros
        for part, load in zip(parts, shared_out([each / batch for each in rows]), strict=True):
            found |= dict.fromkeys((part, part.all_input_nodes[0]), load)
    return found


def _matrices(tensors: Iterable[Tensor]) -> dict[Any, int]:
    """Numbers in those that are no vectors, by identity."""
    return {id(each): each.numel() for each in tensors if has_rows(each.shape)}


def _is_matrix(node: fx.Node) -> bool:
    return any(has_rows(tensor.shape) for tensor in _tensors(node))


def has_rows(shape: Sequence[int]) -> bool:
    """Whether numbers of this shape are more than one row."""
    return sum(size > 1 for size in shape) > 1


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight


def _padding(conv: Any) -> tuple[int, ...]:
    """In numbers. Where "same" is uneven torch.export has made a step of its own of it."""
    if conv.padding == "same":
        return tuple(d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    return (0,) * len(conv.kernel_size) if conv.padding == "valid" else tuple(conv.padding)


def _macs(node: fx.Node, called: nn.Module | None) -> int:
    """Multiplications with an addition of a product of activations, or of weights that stay digital; batch and all."""
    operands: list[fx.Node] = []  # one that is given twice is here twice
    fx.node.map_arg((node.args, node.kwargs), operands.append)
    operands = [each for each in operands if _tensors(each)]
    name, shapes = raw_name(node), [_tensors(each)[0].shape for each in operands]
    if isinstance(called, DigitalModule):
        return called.macs(shapes, _tensors(node)[0].shape)
    if isinstance(called, nn.Linear | CONVS):  # one that stays digital
        return prod(_tensors(node)[0].shape) * prod(_weight(called).shape[1:])
    if called is not None:
        return 0
    outputs = prod(_tensors(node)[0].shape)
    if name == "scaled_dot_product_attention":
        given = dict(zip(("query", "key", "value"), node.args, strict=False)) | node.kwargs
        query, key, value = (_tensors(given[each])[0].shape for each in ("query", "key", "value"))  # type: ignore[arg-type]
        return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if name in ("conv1d", "conv2d", "conv3d"):  # by a kernel that is computed
        return outputs * prod(shapes[1][1:])
    if name == "linear":
        return outputs * shapes[1][-1]
    if name in _PER_TOKEN:
        weights = [shape for each, shape in zip(operands, shapes, strict=True) if each.op == "get_attr"]
        return prod(shapes[0][:-1]) * sum(prod(shape) for shape in weights if len(shape) > 1)
    if name.startswith("conv_transpose"):
        return prod(shapes[0]) * prod(shapes[1][1:])
    if name == "einsum" and isinstance(node.args[0], str):
        return outputs * _summed(node.args[0], shapes) * (len(shapes) - 1)
    if name in _CONTRACTIONS and len(shapes) == 2:
        return outputs * isqrt(prod(shapes[0]) * prod(shapes[1]) // max(1, outputs))
    if name in PRODUCTS - {"einsum"} and len(shapes) >= 2:
        return outputs * shapes[-2][-1] * (shapes[-2][0] if name == "addbmm" else 1)
    if "mm" in name and len(shapes) >= 2:  # by libraries of their own: inputs first
        return outputs * shapes[0][-1]
    return 0


def _summed(equation: str, shapes: Sequence[torch.Size]) -> int:
    """Products that an einsum adds up for one of its outputs."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for labels, shape in zip(given.split(","), shapes, strict=True):
        before, _, after = labels.partition("...")
        sizes |= dict(zip(before, shape, strict=False)) | dict(zip(reversed(after), reversed(shape), strict=False))
    kept = result if arrow else {label for label in sizes if given.count(label) == 1}
    return prod(size for label, size in sizes.items() if label not in kept)


def _tensors(node: fx.Node) -> list[TensorMetadata]:
    """Shapes of the tensors that a node yields; none for a number."""
    meta = node.meta.get("tensor_meta")
    if isinstance(meta, TensorMetadata):
        return [meta]
    return [item for item in meta if isinstance(item, TensorMetadata)] if isinstance(meta, tuple | list) else []


def raw_name(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._opname
    return getattr(node.target, "__name__", str(node.target))


def _op_name(node: fx.Node, called: nn.Module | None) -> str:
    """One name for the module, the function and the method that do the same: "relu", "add", "maxpool", "avgpool"..."""
    if isinstance(called, DigitalModule):
        return called.op
    raw = type(called).__name__ if called is not None else raw_name(node)
    plain = raw.lower().replace("_", "")
    if plain[-2:] in ("1d", "2d", "3d"):
        plain = plain[:-2]
    return _OP_NAMES.get(plain, plain)


def _float64(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.detach().cpu().double().numpy()


def _weight_of(tensor: Tensor) -> Float32:
    """Where it lies, if it is float32 there, or read anew each time: a large model is not stored twice."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    stored = StoredWeight(tuple(tensor.shape), partial(_float32, tensor.detach()))
    return cast(Float32, stored) if half else _float32(tensor)


def _float32(tensor: Tensor) -> Float32:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


_ACTIVATIONS = 1 << 28  # that memory may hold at a time, where inputs can be chosen


_MINDING_LAYOUT = frozenset({"view", "view_as", "_unsafe_view", "as_strided", "stride", "is_contiguous"})


def _takes_any_layout(module: fx.GraphModule) -> bool:
    """Whether no operation asks for one layout in memory, as ``view`` does, or is computed by others in another one."""
    own = not any(isinstance(part, DigitalModule) or _reads_padding_alone(part) for part in module.modules())
    return own and not any(
        raw_name(node) in _MINDING_LAYOUT for node in module.graph.nodes if node.op.startswith("call_")
    )


def _reads_padding_alone(part: nn.Module) -> bool:
    """Whether a convolution has windows beside its inputs: oneDNN (torch 2.13) may crash on them, channels last."""
    if not isinstance(part, nn.Conv2d) or isinstance(part.padding, str):
        return False
    sizes = zip(part.kernel_size, part.dilation, part.padding, strict=True)
    return any(padding > dilation * (kernel - 1) for kernel, dilation, padding in sizes)
