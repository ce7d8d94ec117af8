"""A PyTorch model becomes a ``Network``: traced, its shapes found by running an example.

Two tracers end in one normal form, a graph in which every product with a weight matrix is a call of an ``nn.Linear`` or
``nn.Conv1d..3d``: torch.fx for plain models of such modules, torch.export (``capture/export.py``) for all others.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_flatten, tree_map

from prap_pim.capture.export import OneSize, Origin, exported, without_a_word
from prap_pim.capture.inputs import (
    Inputs,
    call,
    doubled,
    has_batch,
    not_of_one_size,
    one_of_each_size,
    output_names,
    outputs,
    tensors,
)
from prap_pim.common.errors import UserError
from prap_pim.ir.network import Call, DigitalOp, Float32, Layer, Network

_ENOUGH = 2  # inputs to trace a model with
_CONVS = nn.Conv1d | nn.Conv2d | nn.Conv3d
_NORMS = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm  # their weights stay digital
_IDLE_MODULES = nn.Identity | nn.modules.dropout._DropoutNd  # compute nothing in eval mode
_IDLE_FUNCTIONS = frozenset({"dropout", "contiguous", "detach", "alias", "to", "_assert_tensor_metadata"})
_WEIGHTED_FUNCTIONS: frozenset[Any] = frozenset(
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
        functional.multi_head_attention_forward,
    }
)
_CONTRACTIONS = frozenset({"mv", "dot", "vdot", "inner", "tensordot"})
_CHAINS = frozenset({"chain_matmul", "linalg_multi_dot"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "einsum", *_CONTRACTIONS, *_CHAINS})
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


_ACTIVATIONS = 1 << 28  # that memory may hold at a time, where inputs can be chosen
_ALIKE = 1e-3  # of the largest output
_MINDING_LAYOUT = frozenset({"view", "view_as", "_unsafe_view", "as_strided", "stride", "is_contiguous"})


class DigitalModule(nn.Module):
    """A module of a graph in normal form that says by itself what it computes; it has no weights of crossbars.

    Attributes:
        op: as ``DigitalOp.op``.
    """

    op: str

    def macs(self, inputs: Sequence[torch.Size], output: torch.Size) -> int:
        """Multiplications with an addition each, of a product of activations; by the shapes, batch and all."""
        return 0


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


def capture(
    model: nn.Module, example: Inputs, name: str, skip: Collection[str] = (), others: Sequence[Inputs] = ()
) -> Captured:
    """Trace a model in eval mode.

    Every product with a weight matrix becomes a ``Layer`` (a convolution of one to three dimensions, strided, padded,
    dilated, grouped; a transposed one as the product that it is, its sums overlapped digitally; linear layers; the
    projections of attention); a matrix that is used more than once is stored once. A batch norm that alone and directly
    follows goes into ``filter_scale`` and ``filter_bias``. Everything else that computes becomes a ``DigitalOp``.

    Args:
        model: the user's model; it is copied and never touched.
        example: an input batch, batch first, on the model's device: a tensor, a tuple of positional arguments or a
            dictionary of named ones. Only shapes and types matter.
        name: what to call the network.
        skip: names of modules that may be computed digitally where they cannot be mapped.
        others: further batches. Sizes in which they differ from the example are left open; those of the network are the
            example's.

    Raises:
        UserError: the model does not run on the example, cannot be traced, not for all sizes, or has layers that cannot
            be mapped; names the module paths and the reasons.
    """
    batches = [_alone(batch) for batch in (example, *others)]
    sized = one_of_each_size(batches, name)
    example = batches[0]
    example = _cloned(example)  # it may be changed
    tensors(example, name)  # says what it needs
    model = _copied(model, name)
    with torch.no_grad():
        example = _few(model, example, name)
        flat = tensors(example, name)
        batch = len(flat[0])
        try:
            given = call(model, example)
        except Exception as error:
            shapes = ", ".join(str(tuple(each.shape)) for each in flat)
            hint = " (a batch of two is two arguments: give it without labels)" if _like_labels(flat) else ""
            raise UserError(f"model {name} does not run on an input {shapes}: {_line(error)}{hint}") from error
        _without_observers(model, example)
        module = _plainly_traced(model, example, list(sized.values()))
        origins: Mapping[str, Origin] = {}
        unsupported: Mapping[str, str] = {}
        if module is None:
            if batch == 1:  # a batch of one would be traced as a constant
                flat, example = doubled(flat), doubled(example)
                batch = 2
            varying = _varying(flat, [tensors(batch, name) for batch in sized.values()])
            try:
                module, origins, unsupported = exported(model, example, name, varying)
            except OneSize:
                exported(model, example, name)  # says why if it cannot be traced at all
                raise not_of_one_size(batches, next(iter(sized)), name) from None
            for at, batch in sized.items() if _gives_the_same(module, model, example, name) else ():
                if not _gives_the_same(module, model, batch, name):
                    raise not_of_one_size(batches, at, name)
        refused = {path: reason for path, reason in unsupported.items() if not _named(path, skip)}
        if refused:
            every = "; ".join(f"{path}: {reason}" for path, reason in refused.items())
            raise UserError(f"model {name} cannot be mapped as a whole: {every} (or name what to skip)")
        captured = Captured.of_graph(module, flat, name, origins, unsupported)
        return replace(captured, outputs=output_names(given), read_twice=_read_twice(model, captured))


def _read_twice(model: nn.Module, captured: Captured) -> tuple[str, ...]:
    """See ``Captured``."""
    by_path: dict[str, list[str]] = {}
    for layer in captured.network.layers:
        by_path.setdefault(captured.origins[layer.name].parameter, []).append(layer.name)
    found: list[str] = []
    for path, names in by_path.items():
        if len(names) > 1:
            parameter = model.get_parameter(path)
            places = torch.arange(parameter.numel(), dtype=torch.int32).reshape(parameter.shape)
            read = [captured.origins[name].of(places).flatten() for name in names]
            times = torch.bincount(torch.cat(read), minlength=parameter.numel())
            found += [name for name, mine in zip(names, read, strict=True) if bool((times[mine] > 1).any())]
    return tuple(found)


def _copied(model: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError as error:
        owners = (path for path, part in model.named_modules() if any(map(_computed, vars(part).values())))
        raise UserError(
            f"model {name} cannot be copied: {next(owners, 'a module') or 'it'} keeps a tensor computed from others; "
            "call remove_weight_norm, remove_spectral_norm or prune.remove first, and keep no activations"
        ) from error


def _without_observers(model: nn.Module, example: Inputs) -> None:
    """Take away hooks that only look on: what is traced has no values that they could keep."""
    places = [
        (hooks, key, hook)
        for part in model.modules()
        for hooks in (part._forward_pre_hooks, part._forward_hooks)
        for key, hook in hooks.items()
        if not type(hook).__module__.startswith("torch.")  # as weight norm's
    ]
    if not places:
        return
    acting = set()

    def watched(at: int, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = hook(*args, **kwargs)
        if found is not None:
            acting.add(at)
        return found

    with without_a_word():
        for at, (hooks, key, hook) in enumerate(places):
            hooks[key] = partial(watched, at, hook)
        before = tree_flatten(call(model, _cloned(example)))[0]
        for at, (hooks, key, hook) in enumerate(places):
            hooks[key] = hook if at in acting else _nothing
        after = tree_flatten(call(model, _cloned(example)))[0]
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, Tensor))
    for at, (hooks, key, hook) in enumerate(places):
        hooks[key] = hook
        if same and at not in acting:  # otherwise one of them works in place
            del hooks[key]


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    pass


def _cloned(batch: Inputs) -> Inputs:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)


def _computed(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


def _alone(batch: Inputs) -> Inputs:
    """A tensor that is the only argument, as itself."""
    return batch[0] if isinstance(batch, tuple | list) and len(batch) == 1 and isinstance(batch[0], Tensor) else batch


def _few(model: nn.Module, example: Inputs, name: str) -> Inputs:
    """The first inputs, if the model takes so few: only shapes and types matter."""
    first = tensors(example, name)[0]
    if len(first) <= _ENOUGH:
        return example

    def few(leaf: Any) -> Any:
        return leaf[:_ENOUGH].clone() if isinstance(leaf, Tensor) and has_batch(leaf, first) else leaf

    try:
        call(model, tree_map(few, example))
    except Exception:  # it is told of the whole
        return example
    return tree_map(few, example)


def _takes_any_layout(module: fx.GraphModule) -> bool:
    """Whether no operation asks for one layout in memory, as ``view`` does, or is computed by others in another one."""
    own = not any(isinstance(part, DigitalModule) or _reads_padding_alone(part) for part in module.modules())
    return own and not any(
        _raw_name(node) in _MINDING_LAYOUT for node in module.graph.nodes if node.op.startswith("call_")
    )


def _reads_padding_alone(part: nn.Module) -> bool:
    """Whether a convolution has windows beside its inputs: oneDNN (torch 2.13) may crash on them, channels last."""
    if not isinstance(part, nn.Conv2d) or isinstance(part.padding, str):
        return False
    sizes = zip(part.kernel_size, part.dilation, part.padding, strict=True)
    return any(padding > dilation * (kernel - 1) for kernel, dilation, padding in sizes)


def _varying(example: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> list[set[int]]:
    """Of each tensor, the axes beside the batch in which others have other sizes."""
    return [
        {
            axis
            for other in others
            for axis in range(has_batch(each, example[0]), each.ndim)
            if other[i].shape[axis] != each.shape[axis]
        }
        for i, each in enumerate(example)
    ]


def _gives_the_same(module: fx.GraphModule, model: nn.Module, batch: Inputs, name: str) -> bool:
    """Whether a traced model gives what the model gives for a batch, as far as floats of another order of sums go."""
    batch = _cloned(batch)
    try:
        with without_a_word():
            found = outputs(module(*(each.clone() for each in tensors(batch, name))), name)
            for own, other in zip(outputs(call(model, batch), name), found, strict=True):
                largest = float(own.double().nan_to_num().abs().max()) if own.numel() else 0.0
                torch.testing.assert_close(other, own, atol=_ALIKE * largest, rtol=0, equal_nan=True)
    except Exception:  # whatever goes wrong on other sizes than those that were traced
        return False
    return True


def _named(path: str, names: Collection[str]) -> bool:
    return any(path == name or path.startswith(name + ".") for name in names)


def _line(error: Exception) -> str:
    """The first line of what went wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _like_labels(batch: Sequence[Tensor]) -> bool:
    """Whether the second of two tensors could be the labels of the first."""
    return len(batch) == 2 and batch[1].ndim == 1 and batch[1].shape[0] == batch[0].shape[0]


def _plainly_traced(model: nn.Module, example: Inputs, others: Sequence[Inputs]) -> fx.GraphModule | None:
    """The model as torch.fx traces it; None if it cannot, or where that is not the normal form."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    if hooked or not isinstance(example, Tensor):
        return None
    try:
        module = fx.symbolic_trace(model)
    except Exception:  # whatever goes wrong in a user's model: torch.export is tried next, and says why
        return None
    modules = dict(module.named_modules(remove_duplicate=False))
    called = {modules[str(node.target)] for node in module.graph.nodes if node.op == "call_module"}
    weights = [id(each.weight) for each in called if isinstance(each, nn.Linear | _CONVS)]
    alone = len(set(weights)) == len(weights)  # modules that share a weight are one layer
    one = sum(node.op == "placeholder" for node in module.graph.nodes) == 1
    following: set[fx.Node] = set()  # the inputs
    for node in module.graph.nodes:
        if node.op == "placeholder" or not following.isdisjoint(node.all_input_nodes):
            following.add(node)
        elif node.op == "call_module" and isinstance(modules[str(node.target)], nn.Linear | _CONVS):
            return None  # a product of constants
    normal = one and alone and all(_is_normal(node, modules) for node in module.graph.nodes)
    return module if normal and all(_agree(module, model, each) for each in (example, *others)) else None


def _agree(module: fx.GraphModule, model: nn.Module, example: Tensor) -> bool:
    """Whether a traced model gives what the model gives for another number of inputs, a tensor or a tuple of tensors.

    torch.fx runs a model without values: what a model does to its sizes, or with numbers, may be lost unnoticed.
    """
    some = example[[0, 0]] if len(example) != 2 else example[[0, 0, 0]]
    try:
        with without_a_word():
            found = module(some.clone())
        found = found if isinstance(found, tuple) else (found,)
        torch.testing.assert_close(found, outputs(model(some.clone()), ""), equal_nan=True)
    except Exception:  # as above, and what differs
        return False
    return True


def _is_normal(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node has no weight matrix, or is a module whose weight is one."""
    if node.op == "call_module":
        called = modules[str(node.target)]
        if isinstance(called, _CONVS):
            even = called.padding != "same" or all(
                d * (k - 1) % 2 == 0 for d, k in zip(called.dilation, called.kernel_size, strict=True)
            )
            return called.padding_mode == "zeros" and even and not parametrize.is_parametrized(called)
        if isinstance(called, nn.Linear | nn.Embedding | _NORMS):
            return not parametrize.is_parametrized(called)
        return not any(parameter.ndim > 1 for parameter in called.parameters())
    constants = any(source.op == "get_attr" for source in node.all_input_nodes)
    return node.target not in _WEIGHTED_FUNCTIONS and not (constants and _raw_name(node) in _PRODUCTS)


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
        self.origins, self.unsupported = dict(origins), unsupported
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.calls = [node for node in module.graph.nodes if node.op == "call_module"]
        self.nodes: list[Layer | Call | DigitalOp] = []
        self.folded: dict[str, str] = {}
        self.sources: dict[fx.Node, tuple[str, ...]] = {}  # names whose output a graph node stands for
        self.taken = {node.target for node in self.calls if self._is_matrix(node)}

    def build(self) -> Captured:
        for node in self.module.graph.nodes:
            self.sources[node] = self._visit(node)
        network = Network(self.name, tuple(self.nodes))
        return Captured(network, self.module, self.folded, self.origins, self.unsupported, self.batch)

    def _visit(self, node: fx.Node) -> tuple[str, ...]:
        """Add what a graph node stands for; return the names whose output it is."""
        if node.op in ("output", "get_attr") or not _tensors(node):
            return ()  # a constant, or a number such as a size
        if self._is_matrix(node):
            return (self._add_layer(node),)
        inputs = self._inputs(node)
        if node.op != "placeholder" and not inputs:
            return ()  # of constants and sizes alone: made once
        called = self.modules.get(str(node.target)) if node.op == "call_module" else None
        folded = node.op == "call_module" and node.target in self.folded.values()
        if folded or isinstance(called, _IDLE_MODULES) or _raw_name(node).rstrip("_") in _IDLE_FUNCTIONS:
            return inputs
        op = DigitalOp(
            name=self._unique(str(node.target) if called is not None else node.name),
            op="input" if node.op == "placeholder" else _op_name(node, called),
            input_elements=sum(self._elements(source) for source in node.all_input_nodes if self.sources[source]),
            output_elements=self._elements(node),
            sources=inputs,
            macs=_macs(node, called) // self.batch,
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
        return node.op == "call_module" and isinstance(self.modules[str(node.target)], nn.Linear | _CONVS)

    def _add_layer(self, node: fx.Node) -> str:
        """A layer, or a further call of one."""
        name = str(node.target)
        module = self.modules[name]
        assert isinstance(module, nn.Linear | _CONVS)
        calls = [other for other in self.calls if self.modules[str(other.target)] is module]
        if calls[0] is not node:
            again = Call(
                name=self._unique(name),
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
            weight=_float32(module.weight),
            filter_scale=scale,
            filter_bias=bias,
            input_shape=self._shape(name, node.all_input_nodes[0], conv),
            output_shape=output_shape,
            sources=self._inputs(node),
            more_positions=sum(self._positions(each, module) for each in calls) - here,
            **geometry,
        )
        self.nodes.append(layer)
        if name not in self.origins:
            self.origins[name] = Origin(f"{name}.weight", module=name)
        return name

    def _positions(self, node: fx.Node, module: nn.Module) -> int:
        """Output positions of one call, per inference."""
        return self._elements(node) // len(_weight(module))

    def _shape(self, name: str, node: fx.Node, conv: bool) -> tuple[int, ...]:
        """Without the batch. A linear layer may see batch and positions in any order, a convolution several maps."""
        (tensor,) = _tensors(node)
        first, *rest = tensor.shape
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
        assert isinstance(module, nn.Linear | _CONVS)
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
    name, shapes = _raw_name(node), [_tensors(each)[0].shape for each in operands]
    if isinstance(called, DigitalModule):
        return called.macs(shapes, _tensors(node)[0].shape)
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
    if name in _PRODUCTS - {"einsum"} and len(shapes) >= 2:
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


def _raw_name(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._opname
    return getattr(node.target, "__name__", str(node.target))


def _op_name(node: fx.Node, called: nn.Module | None) -> str:
    """One name for the module, the function and the method that do the same: "relu", "add", "maxpool", "avgpool"..."""
    if isinstance(called, DigitalModule):
        return called.op
    raw = type(called).__name__ if called is not None else _raw_name(node)
    plain = raw.lower().replace("_", "")
    if plain[-2:] in ("1d", "2d", "3d"):
        plain = plain[:-2]
    return _OP_NAMES.get(plain, plain)


def _float64(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.detach().cpu().double().numpy()


def _float32(tensor: Tensor) -> Float32:
    """Where it lies, if it is float32 there: a large model is not stored twice."""
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())
