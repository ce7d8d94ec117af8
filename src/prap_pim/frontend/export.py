"""Any model that torch.export can trace, in the normal form that the capture works on.

What torch.export gives is a graph of ATen functions, whatever modules the model was made of. Here every product with a
weight becomes a call of an ``nn.Linear`` or ``nn.Conv1d..3d`` again, batch norm a call of its module, and all that the
inputs have no part in a constant.
"""

import io
import logging
import operator
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_unflatten

from prap_pim.common.errors import UserError
from prap_pim.frontend.graph import LEFT_DIGITAL, Origin
from prap_pim.frontend.inputs import Inputs, call, outputs

_CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_PRODUCTS = ("linear", "addmm", "mm", "matmul")
_RECURRENT = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
_REASONS = {
    **{
        f"{name}{cell}": f"a recurrent layer ({kind}) cannot be mapped yet"
        for name, kind in _RECURRENT.items()
        for cell in ("", "_cell")
    },
    **dict.fromkeys(
        ("bmm", "baddbmm", "addbmm"), "a batched product with a weight cannot be mapped: use linear layers"
    ),
    "bilinear": "a bilinear product cannot be mapped",
    "einsum": "an einsum with a weight cannot be mapped: use a linear layer",
    "tensordot": "a tensordot with a weight cannot be mapped: use a linear layer",
    "inner": "an inner product with a weight cannot be mapped: use a linear layer",
    "chain_matmul": "a chain of products with a weight cannot be mapped: use linear layers",
    "linalg_multi_dot": "a chain of products with a weight cannot be mapped: use linear layers",
}
_ROOT = "model"


class OneSize(Exception):
    """A model can be traced for inputs of one size alone."""


class OverlapAdd(nn.Module):
    """What is left of a transposed convolution after its products: the sums of all kernel positions, put in place.

    [N, O * kernel positions, *map] to [N, O, *output map].
    """

    def __init__(self, filters: int, kernel: tuple[int, ...], bias: Tensor | None, geometry: tuple[Any, ...]) -> None:
        super().__init__()
        positions = prod(kernel)
        one = torch.eye(positions).reshape(1, positions, 1, *kernel).expand(filters, positions, 1, *kernel)
        self.kernel: Tensor
        self.register_buffer("kernel", one.reshape(filters * positions, 1, *kernel).clone(), persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.filters = filters
        self.stride, self.padding, self.output_padding, self.dilation = geometry

    def forward(self, x: Tensor) -> Tensor:
        convolve: Any = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        out: Tensor = convolve[x.ndim - 3](
            x,
            self.kernel.to(x),
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.filters,
            self.dilation,
        )
        return out


class _Flat(nn.Module):
    """A model that takes and gives tensors alone."""

    def __init__(self, model: nn.Module, example: Inputs, name: str) -> None:
        super().__init__()
        self.model = model
        self._leaves, self._spec = tree_flatten(example)
        self._name = name

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        leaves = [next(left) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        return outputs(call(self.model, tree_unflatten(leaves, self._spec)), self._name)


def exported(
    model: nn.Module, example: Inputs, name: str, varying: Sequence[Collection[int]] = ()
) -> tuple[fx.GraphModule, dict[str, Origin], dict[str, str]]:
    """Trace a model by torch.export and bring it into the normal form.

    Args:
        model: in eval mode; its weights are shared with what is returned where their order is the same.
        example: a batch of at least two inputs.
        name: of the model, for errors.
        varying: of each tensor of the example, the axes beside the batch whose sizes vary.

    Returns:
        the graph, which takes the tensors of the example (``inputs.tensors``) and gives a tensor or a tuple of tensors;
        where the weights of its layers are in the model; and what has weights but cannot be mapped, with the reason.

    Raises:
        UserError: it cannot be traced, or not for any batch size.
        OneSize: it can be traced, but not for other sizes on the varying axes.
    """
    flat = _Flat(model, example, name)
    given = tuple(leaf for leaf in tree_flatten(example)[0] if isinstance(leaf, Tensor))
    batch = len(given[0])
    axes = [{0} if each.ndim and len(each) == batch else set() for each in given]
    axes = [own | set(more) for own, more in zip(axes, varying or [()] * len(given), strict=True)]
    free = tuple(dict.fromkeys(sorted(each), torch.export.Dim.AUTO) for each in axes)
    one_size = False
    for strict in (False, True):  # the quicker and more tolerant way takes len(x) for a constant
        try:
            with without_a_word():
                program = torch.export.export(flat, given, dynamic_shapes={"given": free}, strict=strict)
                module = program.module(check_guards=False)
        except UserError:
            raise
        except Exception as error:
            if strict:
                break
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if any(varying):
                raise OneSize from error
            raise UserError(f"model {name} cannot be traced: {reason}") from error
        assert isinstance(module, fx.GraphModule)
        traced = _Lowering(module, model).lowered()
        if _any_batch(module) and _are_open(module, varying):
            return traced
        one_size = one_size or _any_batch(module)
    if one_size:
        raise OneSize
    why = "".join(f" ({path}: {reason})" for path, reason in traced[2].items())
    raise UserError(f"model {name} works for a batch of {batch} alone{why}; make it take batches of any size")


@contextmanager
def without_a_word() -> Iterator[None]:
    """What torch warns, logs and prints of a model that it cannot trace or run traced is not shown."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.ERROR))
        try:
            yield
        finally:
            logging.disable(before)


def _any_batch(module: fx.GraphModule) -> bool:
    """Whether the first input's batch was left open."""
    first = next(node for node in module.graph.nodes if node.op == "placeholder")
    return _is_open(first.meta["val"].shape[0])


def _are_open(module: fx.GraphModule, varying: Sequence[Collection[int]]) -> bool:
    """Whether all axes whose sizes vary were left open."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    every = ((node.meta["val"].shape, axes) for node, axes in zip(inputs, varying, strict=False))
    return all(_is_open(shape[axis]) for shape, axes in every for axis in axes)


def _is_open(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


class _Lowering:
    """One exported graph on its way to the normal form."""

    def __init__(self, module: fx.GraphModule, model: nn.Module) -> None:
        self.module, self.graph, self.model = module, module.graph, model
        self.root: dict[str, Any] = {}  # what the new graph refers to, by path
        self.origins: dict[str, Origin] = {}
        self.unsupported: dict[str, str] = {}
        self.known: dict[Any, str] = {}  # path of the module that computes a product with a weight, by where that is

    def lowered(self) -> tuple[fx.GraphModule, dict[str, Origin], dict[str, str]]:
        for node in list(self.graph.nodes):
            if node.op == "call_module":  # checks of the inputs, which we make ourselves
                node.replace_all_uses_with(None)
                self.graph.erase_node(node)
        self.constant = self._constants()
        for node in list(self.graph.nodes):
            if node.op == "call_function" and node not in self.constant:
                self._lower(node)
        for node in reversed(list(self.graph.nodes)):
            computes = node.op in ("get_attr", "call_function", "call_module")
            if computes and not node.users and not _writes(node):
                self.graph.erase_node(node)
        for node in self.graph.nodes:
            if node.op == "get_attr":  # a name of its own: layers are replaced, and what they hold with them
                path = "constants." + str(node.target).replace(".", "_")
                self.root[path] = _attribute(self.module, str(node.target))
                node.target = path
        output = next(iter(reversed(self.graph.nodes)))
        if len(output.args[0]) == 1:
            output.args = (output.args[0][0],)
        self.graph.set_codegen(fx.graph.CodeGen())
        kept = {node.target for node in self.graph.nodes if node.op in ("get_attr", "call_module")}
        result = fx.GraphModule({path: value for path, value in self.root.items() if path in kept}, self.graph)
        origins = {path: origin for path, origin in self.origins.items() if path in kept}
        return result.eval(), origins, self.unsupported

    def _constants(self) -> set[fx.Node]:
        """Nodes that follow from the model's parameters and buffers alone."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            inputs = node.all_input_nodes
            follows = node.op == "call_function" and inputs and all(each in found for each in inputs)
            if node.op == "get_attr" or follows:
                found.add(node)
        return found

    def _value(self, node: fx.Node) -> Any:
        """Of a constant."""
        if node.op == "get_attr":
            return _attribute(self.module, str(node.target))
        arguments, named = fx.node.map_arg((node.args, node.kwargs), self._value)
        with torch.no_grad():
            function: Any = node.target
            return function(*arguments, **named)

    def _lower(self, node: fx.Node) -> None:
        name = _name(node)
        if name in _PRODUCTS:
            self._product(node, name)
        elif name in ("conv1d", "conv2d", "conv3d"):
            self._convolution(node, int(name[4]))
        elif name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
            self._transposed(node, int(name[14]))
        elif name == "batch_norm":
            self._batch_norm(node)
        elif (name in _REASONS or "mm" in name) and any(self._is_weight(each) for each in node.all_input_nodes):
            plain = f"a product with a weight by {name} cannot be mapped: use linear layers"
            self._leave(node, _REASONS.get(name, plain))

    def _leave(self, node: fx.Node, reason: str) -> None:
        """A product with a weight that stays digital."""
        node.meta[LEFT_DIGITAL] = self._path(node)
        self.unsupported[node.meta[LEFT_DIGITAL]] = reason

    def _is_weight(self, node: Any) -> bool:
        """Whether an argument is a matrix of parameters."""
        if not isinstance(node, fx.Node) or node not in self.constant:
            return False
        roots, parameters = [node], False
        while roots:
            each = roots.pop()
            parameters |= each.op == "get_attr" and isinstance(_attribute(self.module, str(each.target)), nn.Parameter)
            roots += each.all_input_nodes
        return parameters and isinstance(value := self._value(node), Tensor) and value.ndim >= 2

    def _product(self, node: fx.Node, name: str) -> None:
        """linear(x, W, b), addmm(b, x, W), mm(x, W), matmul(x, W)."""
        bias: Any = None
        arguments: Any = node.args
        if name == "addmm":
            bias, x, weight = arguments[:3]
            plain = set(node.kwargs) <= {"alpha", "beta"} and all(value == 1 for value in node.kwargs.values())
        else:
            x, weight, *rest = arguments
            bias, plain = (rest[0] if rest else node.kwargs.get("bias")), True
        turned = self._is_weight(x) and name in ("mm", "matmul") and len(weight.meta["val"].shape) > 1
        if turned:  # W x is the transpose of a linear layer on x transposed
            x, weight = weight, x
        elif self._is_weight(x) and name != "linear":
            self._leave(node, f"{name} with a weight on the left cannot be mapped")
            return
        elif not self._is_weight(weight):
            return
        value, fixed_bias = self._value(weight), bias is None or bias in self.constant
        if value.ndim != 2 or not plain or not fixed_bias:
            self._leave(node, f"{name} with a weight {list(value.shape)} cannot be mapped")
            return
        rows_first = name != "linear" and not turned  # [inputs, filters]
        path = self._layer(node, weight, bias, ((torch.t, ()),) if rows_first else ())
        if not path:
            return
        if path not in self.root:
            matrix = value.t().contiguous() if rows_first else value
            linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias is not None, device="meta")
            self._put(path, linear, matrix, bias)
        if not turned:
            self._call(node, path, x)
            return
        with self.graph.inserting_before(node):
            inputs = self.graph.call_function(torch.transpose, (x, -2, -1))
            products = self.graph.create_node("call_module", path, (inputs,))
            new = self.graph.call_function(torch.transpose, (products, -2, -1))
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    def _convolution(self, node: fx.Node, dimensions: int) -> None:
        x, weight, bias, stride, padding, dilation, groups = _arguments(
            node, ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), (None, 1, 0, 1, 1)
        )
        if not self._is_weight(weight) or not (bias is None or bias in self.constant):
            return
        value = self._value(weight)
        stride, dilation = _each(stride, dimensions), _each(dilation, dimensions)
        if padding in ("same", "valid"):
            total = [d * (k - 1) for d, k in zip(dilation, value.shape[2:], strict=True)]
            total = total if padding == "same" else [0] * dimensions
            uneven = [each for size in reversed(total) for each in (0, size % 2)]  # torch pads the end by one more
            if any(uneven):
                with self.graph.inserting_before(node):
                    x = self.graph.call_function(functional.pad, (x, uneven))
            padding = [size // 2 for size in total]
        geometry = stride, _each(padding, dimensions), dilation, groups
        path = self._layer(node, weight, bias, (), geometry)
        if path and path not in self.root:
            channels = value.shape[1] * groups
            conv = _CONVS[dimensions](channels, len(value), value.shape[2:], *geometry, bias is not None, device="meta")
            self._put(path, conv, value, bias)
        self._call(node, path, x)

    def _transposed(self, node: fx.Node, dimensions: int) -> None:
        """As the products of every input position with all kernel positions, and their sums overlapped."""
        x, weight, bias, stride, padding, output_padding, groups, dilation = _arguments(
            node,
            ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
            (None, 1, 0, 0, 1, 1),
        )
        if not self._is_weight(weight) or not (bias is None or bias in self.constant):
            return
        value = self._value(weight)  # [C, O / groups, *kernel]
        channels, each, *kernel = value.shape
        views = ((torch.Tensor.unflatten, (0, (groups, -1))), (torch.flatten, (3,)), (torch.permute, ((0, 2, 3, 1),)))
        path = self._layer(node, weight, None, views)
        if not path:
            return
        after = f"{path}_overlap"
        if path not in self.root:
            matrix = value.reshape(groups, channels // groups, each, prod(kernel)).permute(0, 2, 3, 1)
            filters = groups * each * prod(kernel)
            conv = _CONVS[dimensions](channels, filters, 1, groups=groups, bias=False, device="meta")
            self._put(path, conv, matrix.reshape(filters, channels // groups, *[1] * dimensions).contiguous(), None)
            geometry = [_each(what, dimensions) for what in (stride, padding, output_padding, dilation)]
            shift = None if bias is None else self._value(bias)
            self.root[after] = OverlapAdd(groups * each, tuple(kernel), shift, tuple(geometry))
        with self.graph.inserting_before(node):
            products = self.graph.create_node("call_module", path, (x,))
        self._call(node, after, products)

    def _batch_norm(self, node: fx.Node) -> None:
        given: Any = node.args[:8]
        x, weight, bias, mean, variance, training, _, eps = given
        rank = len(node.meta["val"].shape)
        if training or mean is None or variance is None or rank not in _NORMS:
            return
        if not all(each is None or each in self.constant for each in (weight, bias, mean, variance)):
            return
        path = str(mean.target).removeprefix(f"{_ROOT}.").rpartition(".")[0] if mean.op == "get_attr" else ""
        path = path or f"{node.name}"
        if path not in self.root:
            average = self._value(mean)
            norm = _NORMS[rank](len(average), eps, affine=weight is not None, device="meta")
            norm.running_mean, norm.running_var = average, self._value(variance)
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long)
            if weight is not None:
                norm.weight = nn.Parameter(self._value(weight).detach())
                shift = self._value(bias).detach() if bias is not None else torch.zeros_like(norm.weight)
                norm.bias = nn.Parameter(shift)
            self.root[path] = norm
        self._call(node, path, x)

    def _layer(
        self,
        node: fx.Node,
        weight: fx.Node,
        bias: Any,
        views: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...],
        geometry: Any = None,
    ) -> str:
        """The path of the layer that has this weight; empty, and noted, if the weight is no view of a parameter."""
        origin = self._origin(weight)
        if origin is None:
            self._leave(node, "its weight is computed from others (parametrised or normalised): make it a parameter")
            return ""
        key = (origin.parameter, origin.views, bias, str(geometry))
        if key not in self.known:
            origin = self._owned(origin, bias)
            base = origin.parameter.removesuffix(".weight").removesuffix("_weight") or "weight"
            path, count = base if not origin.views else f"{base}_0", 0
            while path in self.known.values() or path in self.root:
                count += 1
                path = f"{base}_{count}"
            self.known[key] = path
            shift = self._origin(bias) if isinstance(bias, fx.Node) else None
            owner = origin.parameter.rpartition(".")[0]
            takes = isinstance(self.model.get_submodule(owner), nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            plain = takes and bias is None and not origin.views
            views = (*origin.views, *views)
            self.origins[path] = replace(origin, views=views, bias=shift, module=owner if plain else None)
        return self.known[key]

    def _owned(self, origin: Origin, bias: Any) -> Origin:
        """The parameter as the module with this bias has it, where modules share a weight and not their biases."""
        beside = self._origin(bias) if isinstance(bias, fx.Node) else None
        if beside is None:
            return origin
        owner = beside.parameter.rpartition(".")[0]
        path = f"{owner}.{origin.parameter.rpartition('.')[2]}"
        shared = owner and getattr(self.model.get_submodule(owner), path.rpartition(".")[2], None)
        return replace(origin, parameter=path) if shared is _attribute(self.model, origin.parameter) else origin

    def _origin(self, node: fx.Node) -> Origin | None:
        """The parameter that a constant is a view of."""
        if node.op == "get_attr":
            path = str(node.target).removeprefix(f"{_ROOT}.")
            return Origin(path) if isinstance(_attribute(self.module, str(node.target)), nn.Parameter) else None
        if not node.args or not isinstance(node.args[0], fx.Node) or len(node.all_input_nodes) != 1 or node.kwargs:
            return None
        before = self._origin(node.args[0])
        value = self._value(node)
        if before is None or (isinstance(value, Tensor) and value._base is None):
            return None
        function: Any = node.target
        return replace(before, views=(*before.views, (function, tuple(node.args[1:]))))

    def _put(self, path: str, module: nn.Module, weight: Tensor, bias: Any) -> None:
        module.weight = nn.Parameter(weight.detach(), requires_grad=False)
        if bias is not None:
            module.bias = nn.Parameter(self._value(bias).detach().expand(len(weight)), requires_grad=False)
        self.root[path] = module

    def _call(self, node: fx.Node, path: str, x: Any) -> None:
        if not path:
            return
        with self.graph.inserting_before(node):
            new = self.graph.create_node("call_module", path, (x,))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    def _path(self, node: fx.Node) -> str:
        """The module in which a node was, or the node's name."""
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        return (stack[-1].removeprefix(_ROOT).removeprefix(".") if stack else "") or node.name


def _name(node: fx.Node) -> str:
    """Of an ATen function, without its overload."""
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def _writes(node: fx.Node) -> bool:
    """Whether an ATen function changes what it is given: its result may not be read, and yet it matters."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _attribute(module: nn.Module, path: str) -> Any:
    return operator.attrgetter(path)(module)


def _arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[Any]:
    """A call's arguments in the order of their names, defaults for the last ones that are left out."""
    values = dict(zip(reversed(names), reversed(defaults), strict=False))
    values |= dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return [values[name] for name in names]


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * dimensions if len(values) == 1 else values)
