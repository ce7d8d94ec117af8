"""Pieces of an ONNX graph by torch, so that what they give can be differentiated; onnxruntime has no derivatives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from prap_pim.common.errors import UserError, one_line, printable
from prap_pim.frontend.onnx.graphs import reads
from prap_pim.frontend.onnx.program import Piece, Program, to_tensor

_SIZES = frozenset({"Shape", "Size"})  # tell of their input nothing that has a derivative
_CLOSE = 1e-3  # of the largest value: torch and onnxruntime round otherwise

Given = Sequence[Any]  # inputs of a node, None where one is left out
Attributes = Mapping[str, Any]


class Differentiable(nn.Module):
    """A piece whose nodes torch computes where a derivative is wanted, else onnxruntime.

    What torch gives at first is compared with what onnxruntime gives.

    Raises:
        UserError: when a derivative is wanted: torch has no such operator here, or computes something else.
    """

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self._piece, self._compared = piece, False
        model = onnx.load_from_string(piece.program.model)
        graph = model.graph
        self._outputs = [each.name for each in graph.output]
        self._version = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        live = {each.name for each in graph.input}
        self._nodes: list[NodeProto] = []
        for node in graph.node:
            if node.op_type not in _SIZES and not live.isdisjoint(node.input):
                self._nodes.append(node)
                live.update(node.output)
        made = {name for node in graph.node for name in node.output} - live
        needed = dict.fromkeys(name for node in self._nodes for name in reads(node))
        self._sizes = [name for name in needed if name in made]  # of constants and sizes alone
        self._of_sizes: Program | None = None
        if self._sizes:
            del graph.output[:]
            graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._sizes)
            self._of_sizes = Program(model, piece.program.weights)
        stored = {each.name: each for each in graph.initializer if each.name in needed}
        weights = piece.program.weights
        self._stored = {
            name: to_tensor(weights[name] if name in weights else numpy_helper.to_array(each).copy())
            for name, each in stored.items()
        }

    def forward(self, *given: Tensor) -> Any:
        """As ``Piece.forward``."""
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in given)):
            return self._piece(*given)
        times = self._piece.times(given)
        parts = list(zip(*(x.tensor_split(times) for x in given), strict=True)) if times > 1 else [given]
        every = [self._computed(part) for part in parts]
        found = [torch.cat(each) if times > 1 else each[0] for each in zip(*every, strict=True)]
        if not self._compared:
            self._compare(found, self._piece(*(x.detach() for x in given)))
        return found[0] if len(found) == 1 else tuple(found)

    def _computed(self, given: Sequence[Tensor]) -> list[Tensor]:
        program = self._piece.program
        values: dict[str, Any] = {"": None, **self._stored, **dict(zip(program.inputs, given, strict=True))}
        if self._of_sizes is not None:
            arrays = [np.asarray(each) for each in self._of_sizes(*self._piece.as_arrays(given))]
            values |= {name: torch.from_numpy(each.copy()) for name, each in zip(self._sizes, arrays, strict=True)}
        for node in self._nodes:
            operator = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if operator is None:
                raise UserError(f"tune: torch has no derivative for operator {printable(node.op_type)} of this model")
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            try:
                found = operator([values[name] for name in node.input], {**attributes, "version": self._version})
            except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"tune: operator {node.op_type} as in this model: {one_line(error)}") from error
            several = found if isinstance(found, list | tuple) else [found]
            values |= dict(zip(node.output, several, strict=False))
        return [values[name] for name in self._outputs]

    def _compare(self, found: Sequence[Tensor], wanted: Any) -> None:
        for own, other in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            same = own.shape == other.shape
            far = (
                float((own.detach().double() - other.double()).abs().nan_to_num(0).max()) if same and own.numel() else 0
            )
            if not same or far > _CLOSE * max(1e-6, float(other.double().abs().nan_to_num(0, 0, 0).max())):
                ops = ", ".join(dict.fromkeys(node.op_type for node in self._nodes))
                raise UserError(f"tune: torch computes {printable(ops)} of this model otherwise than onnxruntime")
        self._compared = True


def _ints(given: Given, at: int, attributes: Attributes, name: str) -> list[int] | None:
    """Whole numbers that are an attribute or, in later versions, an input."""
    if name in attributes:
        value = attributes[name]
        return list(value) if isinstance(value, list | tuple) else [value]
    return given[at].flatten().tolist() if len(given) > at and given[at] is not None else None


def _clip(x: Given, a: Attributes) -> Tensor:
    low, high = (x[at] if len(x) > at else a.get(name) for at, name in ((1, "min"), (2, "max")))
    low = low if low is None or isinstance(low, Tensor) else torch.tensor(low)
    high = high if high is None or isinstance(high, Tensor) else torch.tensor(high)
    found: Tensor = x[0]
    found = found if low is None else torch.maximum(found, low)
    return found if high is None else torch.minimum(found, high)


def _softmax(function: Callable[..., Tensor]) -> Callable[[Given, Attributes], Tensor]:
    def compute(x: Given, a: Attributes) -> Tensor:
        if a["version"] >= 13:
            return function(x[0], a.get("axis", -1))
        axis = a.get("axis", 1) % x[0].ndim
        return function(x[0].flatten(axis), -1).reshape(x[0].shape)

    return compute


def _reduced(function: Callable[..., Tensor]) -> Callable[[Given, Attributes], Tensor]:
    def compute(x: Given, a: Attributes) -> Tensor:
        axes = _ints(x, 1, a, "axes")
        if axes is None and a.get("noop_with_empty_axes"):
            found: Tensor = x[0]
            return found
        return function(x[0], axes or list(range(x[0].ndim)), bool(a.get("keepdims", 1)))

    return compute


def _reshape(x: Given, a: Attributes) -> Tensor:
    shape = x[1].tolist() if len(x) > 1 else a["shape"]
    if not a.get("allowzero", 0):
        shape = [x[0].shape[i] if size == 0 else size for i, size in enumerate(shape)]
    found: Tensor = x[0].reshape(shape)
    return found


def _squeeze(x: Given, a: Attributes) -> Tensor:
    axes = _ints(x, 1, a, "axes")
    found: Tensor = x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))
    return found


def _unsqueeze(x: Given, a: Attributes) -> Tensor:
    found: Tensor = x[0]
    axes = _ints(x, 1, a, "axes") or []
    for axis in sorted(axis % (found.ndim + len(axes)) for axis in axes):
        found = found.unsqueeze(axis)
    return found


def _slice(x: Given, a: Attributes) -> Tensor:
    starts, ends = _ints(x, 1, a, "starts") or [], _ints(x, 2, a, "ends") or []
    axes = _ints(x, 3, a, "axes") or list(range(len(starts)))
    strides = _ints(x, 4, {}, "") or [1] * len(starts)
    found: Tensor = x[0]
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        places = range(found.shape[axis])[start:end:stride]
        found = found.index_select(axis, torch.tensor(list(places), dtype=torch.long))
    return found


def _split(x: Given, a: Attributes) -> list[Tensor]:
    sizes, axis = _ints(x, 1, a, "split"), a.get("axis", 0)
    if sizes is None:
        return list(x[0].split(-(-x[0].shape[axis] // a["num_outputs"]), axis))
    return list(x[0].split(sizes, axis))


def _gather(x: Given, a: Attributes) -> Tensor:
    axis, places = a.get("axis", 0) % x[0].ndim, x[1].long()
    places = torch.where(places < 0, places + x[0].shape[axis], places)
    found = x[0].index_select(axis, places.flatten())
    shaped: Tensor = found.reshape((*x[0].shape[:axis], *places.shape, *x[0].shape[axis + 1 :]))
    return shaped


def _pads(x: Tensor, a: Attributes) -> tuple[list[int], list[int]]:
    dimensions = x.ndim - 2
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError("auto_pad is not differentiated")
    pads = list(a.get("pads", [0] * 2 * dimensions))
    return pads[:dimensions], pads[dimensions:]


def _max_pool(x: Given, a: Attributes) -> Tensor:
    begin, end = _pads(x[0], a)
    pads = [each for pair in reversed(list(zip(begin, end, strict=True))) for each in pair]
    pool: Any = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[len(begin)]
    kernel, ceil = a["kernel_shape"], bool(a.get("ceil_mode", 0))
    stride, dilation = a.get("strides", [1] * len(begin)), a.get("dilations", [1] * len(begin))
    found: Tensor = pool(functional.pad(x[0], pads, value=-torch.inf), kernel, stride, 0, dilation, ceil)
    return found


def _average_pool(x: Given, a: Attributes) -> Tensor:
    begin, end = _pads(x[0], a)
    if begin != end:
        raise ValueError("uneven padding of a mean is not differentiated")
    pool: Any = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(begin)]
    how = a.get("strides", [1] * len(begin)), begin, bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    found: Tensor = pool(x[0], a["kernel_shape"], *how)
    return found


def _pad(x: Given, a: Attributes) -> Tensor:
    if a.get("mode", b"constant") != b"constant" or (len(x) > 3 and x[3] is not None):
        raise ValueError("only constant padding of all axes is differentiated")
    pads = _ints(x, 1, a, "pads") or []
    half = len(pads) // 2
    value = float(x[2]) if len(x) > 2 and x[2] is not None else a.get("value", 0.0)
    turned = [each for pair in reversed(list(zip(pads[:half], pads[half:], strict=True))) for each in pair]
    return functional.pad(x[0], turned, value=value)


def _layer_norm(x: Given, a: Attributes) -> Tensor:
    shape = x[0].shape[a.get("axis", -1) % x[0].ndim :]
    bias = x[2].reshape(shape) if len(x) > 2 and x[2] is not None else None
    return functional.layer_norm(x[0], shape, x[1].expand(shape), bias, a.get("epsilon", 1e-5))


def _gemm(x: Given, a: Attributes) -> Tensor:
    left, right = (x[at].T if a.get(name, 0) else x[at] for at, name in ((0, "transA"), (1, "transB")))
    found: Tensor = a.get("alpha", 1.0) * (left @ right)
    return found if len(x) < 3 or x[2] is None else found + a.get("beta", 1.0) * x[2]


def _cast(x: Given, a: Attributes) -> Tensor:
    kind = helper.tensor_dtype_to_np_dtype(a["to"])
    if kind.kind != "f":
        raise ValueError("a cast to whole numbers has no derivative")
    found: Tensor = x[0].float()
    return found


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Given, Attributes], Tensor]:
    def compute(x: Given, a: Attributes) -> Tensor:
        found: Tensor = x[0]
        for other in x[1:]:
            found = function(found, other)
        return found

    return compute


_OPERATORS: dict[str, Callable[[Given, Attributes], Any]] = {
    "Abs": lambda x, a: x[0].abs(),
    "Add": lambda x, a: x[0] + x[1],
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(list(x), a["axis"]),
    "Div": lambda x, a: x[0] / x[1],
    "Dropout": lambda x, a: x[0],
    "Elu": lambda x, a: functional.elu(x[0], a.get("alpha", 1.0)),
    "Erf": lambda x, a: x[0].erf(),
    "Exp": lambda x, a: x[0].exp(),
    "Expand": lambda x, a: x[0] * torch.ones(x[1].tolist()),
    "Flatten": lambda x, a: x[0].reshape(int(np.prod(x[0].shape[: a.get("axis", 1)])), -1),
    "Gather": _gather,
    "Gelu": lambda x, a: functional.gelu(x[0], approximate=a.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, a: x[0].mean(list(range(2, x[0].ndim)), keepdim=True),
    "GlobalMaxPool": lambda x, a: x[0].amax(list(range(2, x[0].ndim)), keepdim=True),
    "HardSigmoid": lambda x, a: (a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda x, a: functional.hardswish(x[0]),
    "Identity": lambda x, a: x[0],
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Log": lambda x, a: x[0].log(),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": lambda x, a: x[0] @ x[1],
    "Max": _all(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _all(torch.minimum),
    "Mul": lambda x, a: x[0] * x[1],
    "Neg": lambda x, a: -x[0],
    "PRelu": lambda x, a: torch.where(x[0] >= 0, x[0], x[0] * x[1]),
    "Pad": _pad,
    "Pow": lambda x, a: x[0] ** x[1],
    "Reciprocal": lambda x, a: 1 / x[0],
    "ReduceL2": _reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "Relu": lambda x, a: x[0].relu(),
    "Reshape": _reshape,
    "Sigmoid": lambda x, a: x[0].sigmoid(),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Softplus": lambda x, a: functional.softplus(x[0]),
    "Split": _split,
    "Sqrt": lambda x, a: x[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda x, a: x[0] - x[1],
    "Sum": _all(torch.add),
    "Tanh": lambda x, a: x[0].tanh(),
    "Transpose": lambda x, a: x[0].permute(a.get("perm", list(reversed(range(x[0].ndim))))),
    "Unsqueeze": _unsqueeze,
    "Where": lambda x, a: torch.where(x[0].bool(), x[1], x[2]),
}
