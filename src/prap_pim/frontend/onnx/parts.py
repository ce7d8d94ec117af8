"""Nodes of an ONNX graph whose weight holds matrices in an order of its own, or several: batched products, weights on
the left, einsums, transposed convolutions, recurrent layers. Each matrix becomes a layer; writing knows by its views
where it is in the file."""

import operator
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor, fx, nn

from prap_pim.frontend import Origin
from prap_pim.frontend.contract import Contraction, Labels, View, of_einsum, of_matmul
from prap_pim.frontend.onnx.file import Array
from prap_pim.frontend.onnx.products import Product, Slot, attributes, linear
from prap_pim.frontend.overlap import OverlapAdd, products_of
from prap_pim.frontend.recurrent import Gates, Renew, Reset, Step, stepped, unrolled

_ACTIVATIONS = {"LSTM": (b"Sigmoid", b"Tanh", b"Tanh"), "GRU": (b"Sigmoid", b"Tanh"), "RNN": (b"Tanh",)}
_UNUSUAL = ("clip", "input_forget", "layout", "activation_alpha", "activation_beta")  # attributes
_ORDERS = {"LSTM": "iofg", "GRU": "zrn", "RNN": ""}


class Parts:
    """Puts such nodes into the graph that a lowering builds.

    Args:
        lowering: of one model; layers, their places in the file and values are kept there.
    """

    def __init__(self, lowering: Any) -> None:
        self.to = lowering
        self.at: dict[fx.Node, Any] = {}  # values of the example

    def refusal(self, i: int, node: NodeProto) -> str | None:
        """Put a node into the graph; why it cannot be, or None if it is another kind of node."""
        kinds = {"MatMul": self._matmul, "Einsum": self._einsum, "ConvTranspose": self._transposed}
        put = kinds.get(node.op_type, self._recurrent if node.op_type in _ACTIVATIONS else None)
        if put is None or node.domain not in ("", "ai.onnx") or not any(map(self.to.is_matrix, node.input)):
            return None
        return put(i, node)

    def apply(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        place: fx.Node = self.to.graph.call_function(function, arguments)
        self.at[place] = function(*fx.node.map_arg(arguments, self.at.__getitem__))
        return place

    def module(self, path: str, *inputs: fx.Node) -> fx.Node:
        place: fx.Node = self.to.graph.create_node("call_module", path, inputs)
        self.at[place] = self.to.root[path](*(self.at[x] for x in inputs))
        return place

    def digital(self, name: str, module: nn.Module) -> str:
        path = f"digital.{name}"
        self.to.root[path] = module
        return path

    def _input(self, name: str) -> fx.Node:
        place: fx.Node = self.to.place(name)
        self.at[place] = self.to.values[name]
        return place

    def _give(self, node: NodeProto, places: Sequence[fx.Node]) -> str:
        """The outputs of a node; that nothing keeps it from being mapped."""
        for name, place in zip(node.output, places, strict=False):
            if name:
                self.to.put(name, place, self.at[place], self.to.dtypes[self._data(node)])
        return ""

    def _data(self, node: NodeProto) -> str:
        """The first input that is no constant."""
        return str(next(name for name in node.input if name and name not in self.to.constants))

    def layer(
        self,
        node: tuple[int, NodeProto],
        which: int,
        views: tuple[View, ...],
        name: str,
        x: fx.Node,
        bias: tuple[View, ...] | None = None,
        module: nn.Module | None = None,
        shape: tuple[int, int] | None = None,
    ) -> fx.Node:
        """A call of the layer of one matrix.

        Args:
            node: its number, and itself.
            which: input of the node that is the weight.
            views: to the matrix.
            name: to ask for.
            x: what the layer reads.
            bias: to its bias, in the node's input 3; None: it has none.
            module: the layer, if it is not linear.
            shape: of the matrix (filters, inputs), if its view has another one.
        """
        i, proto = node
        weight = self.to.constant(proto.input[which])
        slot = Slot(i, which, weight.shape, views)
        added = self.to.constant(proto.input[3]) if bias is not None else None
        beside = self.to.origin(proto.input[3]) if bias is not None else ""
        key = ("part", self.to.origin(proto.input[which]), str(views), beside)
        if key not in self.to.layers:
            path = self.to.layers[key] = self.to.free(name)
            matrix = _viewed(weight, views)
            shift = None if added is None else _viewed(added, bias or ()).numpy()
            self.to.root[path] = module or linear(matrix.reshape(shape or matrix.shape).numpy(), shift)
            self.to.origins[path] = Origin(f"{path}.weight", bias=None if bias is None else Origin(f"{path}.bias"))
        path = self.to.layers[key]
        place = None if added is None else Slot(i, 3, added.shape, bias or ())
        product = Product(i, slot, weight.dtype, place)
        if product not in self.to.calls.setdefault(path, []):
            self.to.calls[path].append(product)
        return self.module(path, x)

    def _matmul(self, i: int, node: NodeProto) -> str | None:
        one, other = (self._shape(name) for name in node.input)
        first, second, wanted = of_matmul(one, other)
        return self._contracted(i, node, [first, second], wanted)

    def _einsum(self, i: int, node: NodeProto) -> str | None:
        if len(node.input) != 2:
            return "an einsum of more than two operands is not mapped"
        ranks = [len(self._shape(name)) for name in node.input]
        return self._contracted(i, node, *of_einsum(str(attributes(node)["equation"], "utf8"), ranks))

    def _shape(self, name: str) -> tuple[int, ...]:
        value = self.to.known_value(name)
        return tuple(value.shape) if value is not None else tuple(self.at[self._input(name)].shape)

    def _contracted(self, i: int, node: NodeProto, labels: Sequence[Labels], wanted: Labels) -> str | None:
        at = 1 if self.to.is_matrix(node.input[1]) else 0
        if node.input[1 - at] in self.to.constants:
            return None
        x, shape = self._input(node.input[1 - at]), self._shape(node.input[at])
        contraction = Contraction(labels[1 - at], labels[at], wanted, shape)
        if contraction.problem:
            return f"a weight {list(shape)} cannot be mapped: {contraction.problem}"
        if self.at[x].numel() // contraction.matrix[1] % self.to.batch:
            return "its input has no batch"
        name = self.to.asked(node, at)

        def layer(expert: int, x: fx.Node) -> fx.Node:
            own = f"{name}_{expert}" if contraction.experts else name
            return self.layer((i, node), at, contraction.views(expert), own, x, shape=contraction.matrix)

        return self._give(node, [contraction.computed(self.apply, x, layer)])

    def _transposed(self, i: int, node: NodeProto) -> str | None:
        given, weight = attributes(node), self.to.constant(node.input[1])
        bias = self.to.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        dimensions = 0 if weight is None else weight.ndim - 2
        if dimensions not in (1, 2, 3) or (len(node.input) > 2 and node.input[2] and bias is None):
            return "its weight or bias is no constant"
        x = self._input(node.input[0])
        space, batch = self.at[x].shape[2:], len(self.at[x])
        if batch % self.to.batch:
            return "its input has no batch in front"
        kernel, groups = weight.shape[2:], given.get("group", 1)
        stride, dilation = (given.get(key, [1] * dimensions) for key in ("strides", "dilations"))
        more, kind = given.get("output_padding", [0] * dimensions), given.get("auto_pad", b"NOTSET")
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        begin, end = np.split(np.array(given.get("pads", [0] * 2 * dimensions)), 2)
        if "output_shape" in given or kind.startswith(b"SAME"):
            sizes = given.get("output_shape", [size * s for size, s in zip(space, stride, strict=True)])[-dimensions:]
            full = [s * (n - 1) + m + r for s, n, m, r in zip(stride, space, more, reach, strict=True)]
            total = np.array(full) - np.array(sizes)
            begin = total - total // 2 if kind == b"SAME_LOWER" else total // 2
            end = total - begin
        margins = [(-int(b), m - int(e)) for b, m, e in zip(begin, more, end, strict=True)]
        conv, views = products_of(torch.from_numpy(np.array(weight, np.float32)), groups)
        called = self.layer((i, node), 1, views, self.to.asked(node, 1), x, module=conv)
        shift = None if bias is None else torch.from_numpy(np.array(bias, np.float32))
        after = OverlapAdd(groups * weight.shape[1], kernel, shift, stride, dilation, margins)
        return self._give(node, [self.module(self.digital(f"overlap_{i}", after), called)])

    def _recurrent(self, i: int, node: NodeProto) -> str | None:
        given, op = attributes(node), node.op_type
        names = [*node.input, *[""] * (8 - len(node.input))]
        weight, held = (self.to.constant(name) for name in names[1:3])
        biased = bool(names[3])
        if weight is None or held is None or (biased and self.to.constant(names[3]) is None):
            return "its weights are no constants"
        directions, size = len(weight), held.shape[2]
        named = tuple(given.get("activations", _ACTIVATIONS[op] * directions))
        kind = {"LSTM": "lstm", "GRU": "gru"}.get(op, "rnn_relu" if set(named) == {b"Relu"} else "rnn_tanh")
        odd = [
            key for key in ("clip", "input_forget", "layout", "activation_alpha", "activation_beta") if given.get(key)
        ]
        odd += ["activations"] if kind != "rnn_relu" and named != _ACTIVATIONS[op] * directions else []
        odd += [what for what, name in (("sequence_lens", names[4]), ("peepholes", names[7])) if name]
        x = self._input(names[0])  # [T, B, I]
        if odd or self.at[x].shape[1] % self.to.batch:
            return f"a recurrent layer ({op}) is not mapped with {', '.join(odd) or 'its batch in another place'}"
        base = re.sub(rf"[/._]{op}$", "", node.name) or node.output[0]
        states = [name for name in names[5:7][: 2 if op == "LSTM" else 1]]
        early = kind == "gru" and not given.get("linear_before_reset", 0)
        sequences, ends = [], []
        for d in range(directions):
            begin = [
                self.apply(torch.select, self._input(name), 0, d) if name else self.apply(zero_state, x, size)
                for name in states
            ]
            direction = _Direction(self, (i, node), d, base, weight.shape[1], biased)
            step = direction.early_step(size) if early else direction.step(kind)
            backward = d == 1 or given.get("direction") == b"reverse"
            found, last = unrolled(self.apply, step, direction.inputs(x), begin, 0, len(self.at[x]), backward)
            sequences.append(found)
            ends.append(last)
        whole = self.apply(torch.stack, sequences, 1)
        return self._give(node, [whole, *(self.apply(torch.stack, list(x), 0) for x in zip(*ends, strict=True))])


class _Direction:
    """The matrices of a recurrent node in one direction, as layers.

    Args:
        parts: puts them into the graph.
        node: its number, and itself.
        number: of the direction.
        base: of the layers' names.
        rows: of all gates together.
        biased: whether there are biases.
    """

    def __init__(
        self, parts: Parts, node: tuple[int, NodeProto], number: int, base: str, rows: int, biased: bool
    ) -> None:
        self.parts, self.node, self.number, self.base, self.rows, self.biased = parts, node, number, base, rows, biased

    def inputs(self, x: fx.Node) -> fx.Node:
        """The products of the inputs of all time steps."""
        return self._layer("ih", 0, self.rows, x)

    def step(self, kind: str) -> Step:
        """All gates read the hidden state."""
        gates = self._module(Gates(kind, _ORDERS[self.node[1].op_type]))
        held = partial(self._layer, "hh", 0, self.rows)
        return lambda given, state: stepped(self.parts.apply, gates, kind, given, held, state)

    def early_step(self, size: int) -> Step:
        """A GRU whose new state reads the hidden state after it was reset."""
        reset, renew = self._module(Reset()), self._module(Renew())

        def step(given: fx.Node, state: list[Any]) -> list[Any]:
            both = reset(given, self._layer("hh", 0, 2 * size, state[0]), state[0])
            update, kept = (self.parts.apply(operator.getitem, both, k) for k in range(2))
            return [renew(given, self._layer("hh", 2 * size, size, kept), update, state[0])]

        return step

    def _module(self, module: nn.Module) -> Callable[..., fx.Node]:
        name = f"{type(module).__name__}_{self.node[0]}_{self.number}"
        return partial(self.parts.module, self.parts.digital(name, module))

    def _layer(self, what: str, first: int, count: int, x: fx.Node) -> fx.Node:
        """The rows of some gates of the matrix that reads the inputs ("ih") or the hidden state ("hh")."""
        chosen: View = (torch.select, (0, self.number))
        part = f"_{first}" if count < self.rows else ""
        name = f"{self.base}_{what}{'_reverse' if self.number else ''}{part}"
        shift = first + (self.rows if what == "hh" else 0)
        bias: tuple[View, ...] | None = (chosen, (torch.narrow, (0, shift, count))) if self.biased else None
        views: tuple[View, ...] = (chosen, (torch.narrow, (0, first, count)))
        return self.parts.layer(self.node, 1 if what == "ih" else 2, views, name, x, bias)


def zero_state(x: Tensor, size: int) -> Tensor:
    """The state before the first time step, [B, size], of a sequence [T, B, I]."""
    return x.new_zeros(x.shape[1], size)


def _viewed(array: Array, views: tuple[View, ...]) -> Tensor:
    """A part of what a file holds, as float32."""
    value = torch.from_numpy(np.array(array, np.float32))
    for function, arguments in views:
        value = function(value, *arguments)
    return value
