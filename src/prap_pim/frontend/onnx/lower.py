"""An ONNX graph in the normal form that the capture works on.

Every Conv, Gemm and MatMul with a constant weight becomes a call of an ``nn.Conv1d..3d`` or ``nn.Linear``, batch norm a
call of its module. Every other node becomes a ``Piece`` that onnxruntime computes, together with the constants and
sizes that it needs. The graph is built while it runs on an example, node after node.
"""

import hashlib
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper
from torch import Tensor, fx, nn
from torch.nn import functional

from prap_pim.common.errors import UserError, printable, shown
from prap_pim.frontend import LEFT_DIGITAL, Captured, Origin
from prap_pim.frontend.contract import View
from prap_pim.frontend.graph import has_rows
from prap_pim.frontend.onnx.file import Array, OnnxFile, dtype_of, first_line
from prap_pim.frontend.onnx.graphs import inner_graphs, kept_back, reads
from prap_pim.frontend.onnx.parts import Parts
from prap_pim.frontend.onnx.products import Product, Slot, as_float32, attributes, fill, linear
from prap_pim.frontend.onnx.program import Piece, Program, is_tensor, session, to_array, to_tensor
from prap_pim.frontend.overlap import CONVS
from prap_pim.ir.network import Integers

_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})  # whose weight is one matrix
PRODUCTS = _LAYERS | {"ConvTranspose", "Einsum", "LSTM", "GRU", "RNN"}
_TURNED: tuple[View, ...] = ((torch.t, ()),)
_RANDOM = frozenset({"RandomNormal", "RandomUniform"})
_FLOAT_KINDS = (np.dtype("f2"), np.dtype("f4"), np.dtype("f8"))
_AS_FAR_AS_FLOATS_GO = 0.02  # of the outputs: half precision in dozens of layers, and no more


@dataclass(frozen=True, eq=False)
class OnnxCapture:
    """A model as a network.

    Attributes:
        file: what was read.
        captured: its ``unsupported`` lists the nodes with weights that stay digital, and why.
        calls: where each layer is in the graph, by layer name.
        norms: place of each batch norm's node and the type of its statistics, by module path.
    """

    file: OnnxFile
    captured: Captured
    calls: Mapping[str, tuple[Product, ...]]
    norms: Mapping[str, tuple[int, np.dtype[Any]]]


def capture_onnx(file: OnnxFile, example: Sequence[Tensor]) -> OnnxCapture:
    """Bring a model into the form that all else works on.

    Args:
        file: the model.
        example: a batch of each of its inputs, in their order, the batch in front (``read_inputs``).

    Raises:
        UserError: it does not run on the example, a layer cannot be mapped, there is none, or the network that was
            found computes something else than the model.
    """
    if len(file.inputs) != len(example):
        raise UserError(f"{file.path}: it has {len(file.inputs)} inputs, not {len(example)}")
    with torch.no_grad():
        lowering = _Lowering(file, example)
        module = lowering.module()
        try:
            module(*example)
        except RuntimeError as error:
            axes = f" with batch axes {dict(file.axes)}" if file.axes else ""
            raise UserError(f"{file.path}: it does not run on the first inputs{axes}: {first_line(error)}") from error
        captured = Captured.of_graph(module, example, file.name, lowering.origins, lowering.unsupported)
        found = captured.module(*example)
    wanted = [to_tensor(each) for each in run_file(file, [example])[0]]
    outputs = (found,) if isinstance(found, Tensor) else found
    for name, own, other in zip(file.outputs, wanted, outputs, strict=True):
        if not bool(own.isfinite().all()):
            raise UserError(f"{file.path}: its output {shown(name)} is NaN or infinite on the first inputs")
        if not alike(own, other):
            raise UserError(
                f"{file.path}: its output {shown(name)} is not what its nodes give one after another: is it random?"
            )
    calls = {name: tuple(products) for name, products in lowering.calls.items()}
    captured = replace(captured, outputs=tuple(file.outputs))
    return OnnxCapture(file, captured, calls, lowering.norms)


def alike(own: Tensor, other: Tensor) -> bool:
    """Whether two outputs are the same as far as floats go, relative to the largest value."""
    if own.shape != other.shape:
        return False
    own, other = own.double(), other.double()
    return not own.numel() or bool((own - other).abs().max() <= _AS_FAR_AS_FLOATS_GO * own.abs().max())


def run_file(file: OnnxFile, batches: Iterable[Sequence[Tensor]]) -> list[list[Array]]:
    """What the model of a file gives for each batch, the batch in front, by onnxruntime on the file itself.

    Raises:
        UserError: onnxruntime does not take the model, or fails on a batch.
    """
    dtypes = [dtype_of(each) for each in file.inputs]
    try:
        opened = session(str(file.path), {}, torch.get_num_threads())
    except Exception as error:
        raise UserError(f"{file.path}: onnxruntime does not take it: {first_line(error)}") from error
    found = []
    for batch in batches:
        values = dict(file.once)
        for each, x, dtype in zip(file.inputs, batch, dtypes, strict=True):
            values[each.name] = to_array(x.movedim(0, file.axes.get(each.name, 0)), dtype)
        try:
            found.append(opened.run(None, values))
        except Exception as error:
            shapes = ", ".join(str(list(x.shape)) for x in batch)
            raise UserError(f"{file.path}: it does not run on inputs {shapes}: {first_line(error)}") from error
    if not all(is_tensor(each) for outputs in found for each in outputs):
        raise UserError(f"{file.path}: it gives something else than tensors of numbers")
    return found


@dataclass
class _Layer:
    """A weight as a layer needs it."""

    module: Any
    key: tuple[Any, ...]
    name: str  # asked for
    output: str
    views: tuple[View, ...] = ()
    bias: tuple[int, int] | None = None
    before: Any = None  # a module or a function with arguments that the input goes through first
    after: list[NodeProto] = field(default_factory=list)  # what the node does after the product


class _Lowering:
    """One model on its way to the normal form."""

    def __init__(self, file: OnnxFile, example: Sequence[Tensor]) -> None:
        self.file, self.proto, self.batch = file, file.graph.graph, len(example[0])
        self.nodes, self.fixed = list(self.proto.node), file.batch is not None
        self.initial = {tensor.name: tensor for tensor in self.proto.initializer}
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.outputs = file.outputs
        self.reads = [reads(node) for node in self.nodes]
        self.live = self._live()
        self.users: dict[str, list[int]] = {}
        for i in self.live:
            for name in self.reads[i]:
                self.users.setdefault(name, []).append(i)
        self.stored = {*self.initial, *(tensor.values.name for tensor in self.proto.sparse_initializer)}
        self.constants = set(self.stored)
        self.given = set(file.once)  # constants for these inputs alone: computed with, but no weights
        self.lazy: set[str] = set()  # follows from sizes alone, or is no tensor: computed where it is needed
        self.known: dict[str, Array] = {}  # values of constants that nodes compute
        self.graph = fx.Graph()
        self.root: dict[str, nn.Module] = {}
        self.places: dict[str, fx.Node] = {}
        self.values: dict[str, Tensor] = {}  # for the example
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.wishes = {_path(_module_name(node)) for node in self.nodes if node.op_type in PRODUCTS}
        self.taken = {"digital"}
        self.layers: dict[tuple[Any, ...], str] = {}
        self.calls: dict[str, list[Product]] = {}
        self.norms: dict[str, tuple[int, np.dtype[Any]]] = {}
        self.unsupported: dict[str, str] = {}
        self.refused: dict[int, str] = {}  # why nodes cannot be mapped
        self.origins: dict[str, Origin] = {}
        self.parts = Parts(self)
        self.done: set[int] = set()
        for i, (each, value) in enumerate(zip(file.inputs, example, strict=True)):
            place, axis = self.graph.placeholder(f"input_{i}"), file.axes.get(each.name, 0)
            if axis:
                place, value = self.graph.call_function(torch.movedim, (place, 0, axis)), value.movedim(0, axis)
            self.put(each.name, place, value, dtype_of(each))

    def module(self) -> fx.GraphModule:
        """
        Raises:
            UserError: a node cannot be computed.
        """
        weights = [name for i in self.live if self.nodes[i].op_type == "MatMul" for name in self.nodes[i].input[1:2]]
        self._classify()
        self.times = Counter(self.origin(name) for name in weights if name in self.constants)
        for i in self.live:
            node = self.nodes[i]
            if i in self.done or all(name in self.constants | self.lazy for name in node.output if name):
                if not self.given.isdisjoint(node.output):
                    self._note(i, node)
                continue
            layer = self._layer(i, node)
            if layer is not None:
                self._call(i, node, layer)
            elif not self._norm(i, node):
                reason = self.parts.refusal(i, node)
                if reason == "":
                    continue
                self.refused |= {i: reason} if reason else {}
                self._note(i, node)
                self._piece(i, node)
        found = tuple(self.place(name) for name in self.outputs)
        self.graph.output(found[0] if len(found) == 1 else found)
        return fx.GraphModule(self.root, self.graph).eval()

    def _live(self) -> list[int]:
        """Nodes that an output depends on, in order."""
        wanted, live = list(self.outputs), set()
        while wanted:
            i = self.maker.get(wanted.pop())
            if i is not None and i not in live:
                live.add(i)
                wanted += self.reads[i]
        return sorted(live)

    def _classify(self) -> None:
        """Which values are constants, and which follow from sizes."""
        for i in self.live:
            node, inputs = self.nodes[i], set(self.reads[i])
            if inputs <= self.constants and node.op_type not in _RANDOM:
                self.constants.update(node.output)
                self.given.update(() if inputs.isdisjoint(self.given) else node.output)
            elif node.op_type in ("Shape", "Size") or (inputs and inputs <= self.constants | self.lazy):
                self.lazy.update(node.output)

    # values

    def put(self, name: str, place: fx.Node, value: Tensor, dtype: np.dtype[Any]) -> None:
        self.places[name], self.values[name], self.dtypes[name] = place, value, dtype

    def place(self, name: str) -> fx.Node:
        """The place of a value in the new graph."""
        if name not in self.places:
            i = self.maker.get(name)
            if i is None:  # an initialiser that is an output
                assert name in self.stored
                copied = helper.make_node("Identity", [name], [name + "_out"])
                self._run(f"constant_{len(self.root)}", [copied], "identity", {copied.output[0]: name})
            else:
                self._piece(i, self.nodes[i])
        if name not in self.places:
            raise UserError(f"{self.file.path}: value {shown(name)} is no tensor of numbers")
        return self.places[name]

    def constant(self, name: str) -> Array | None:
        """The value of a constant of the model; None if it is none, or none that numpy holds."""
        return None if name in self.given else self.known_value(name)

    def known_value(self, name: str) -> Array | None:
        """The value of a constant, also of one that follows from inputs that are given once."""
        if name not in self.constants:
            return None
        if name in self.file.weights:
            return self.file.weights[name]
        if name not in self.known and name in self.maker:
            model = self._model(self._closure([self.nodes[self.maker[name]]]), [name], [])
            try:
                value = Program(model, self.file.weights)()[0]
            except UserError:  # a type that onnxruntime has no values of; what uses it will say more
                return None
            if not is_tensor(value):
                return None
            self.known[name] = np.asarray(value)
        return self.known.get(name)

    def origin(self, name: str) -> str:
        """What tells whether two constants are the same value: the initialiser, and what was done to it."""
        i = self.maker.get(name)
        if i is None:
            return f"initialiser {name}"
        node = self.nodes[i]
        if node.op_type == "Identity":
            return self.origin(node.input[0])
        total = hashlib.blake2b(f"{node.domain}:{node.op_type}:{list(node.output).index(name)}".encode())
        for attribute in sorted(node.attribute, key=lambda each: str(each.name)):
            total.update(attribute.SerializeToString(deterministic=True))
        for each in node.input:
            total.update(self.origin(each).encode() if each else b"-")
        return total.hexdigest()

    # pieces

    def _closure(self, nodes: Sequence[NodeProto]) -> list[NodeProto]:
        """Nodes, and before them those that make the constants and sizes that they read."""
        found: set[int] = set()
        wanted = [name for node in nodes for name in reads(node)]
        own = {name for node in nodes for name in node.output}
        while wanted:
            name = wanted.pop()
            i = self.maker.get(name)
            if i is None or i in found or name in own or name in self.places:
                continue
            if name in self.constants or name in self.lazy:
                found.add(i)
                wanted += self.reads[i]
        return [*(self.nodes[i] for i in sorted(found)), *nodes]

    def _model(self, nodes: Sequence[NodeProto], outputs: Sequence[str], inputs: Sequence[str]) -> ModelProto:
        """Nodes as a model; its inputs have the types of the present values."""
        used = {name for node in nodes for name in reads(node)}
        infos = []
        for name in inputs:
            kind = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(self.dtypes[name]), None)
            infos.append(onnx.ValueInfoProto(name=name, type=kind))
        graph = helper.make_graph(
            nodes,
            "piece",
            infos,
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [tensor for tensor in self.proto.initializer if tensor.name in used and tensor.name not in inputs],
            sparse_initializer=[each for each in self.proto.sparse_initializer if each.values.name in used],
        )
        whole = self.file.graph
        imports = whole.opset_import
        return helper.make_model(graph, functions=whole.functions, opset_imports=imports, ir_version=whole.ir_version)

    def _piece(self, i: int, node: NodeProto) -> None:
        """A node that is computed digitally."""
        outputs = {name: name for name in node.output if name and (self.users.get(name) or name in self.outputs)}
        op = node.op_type
        if op == "Gather":
            op = "embedding" if self.is_matrix(node.input[0]) else "index"
        self._run(f"{node.op_type}_{i}", [node], op, outputs)

    def _run(self, label: str, own: Sequence[NodeProto], op: str, outputs: Mapping[str, str]) -> None:
        """Put a piece of some nodes into the graph.

        Args:
            outputs: what the nodes call their results, and the names of the values in the graph.
        """
        nodes = self._closure(own)
        made = {name for node in nodes for name in node.output}
        needed = dict.fromkeys(name for node in nodes for name in reads(node))
        inputs = [name for name in needed if name not in made and name not in self.stored]
        inputs = [name for name in inputs if name in self.places or self.place(name)]
        path = f"digital.{_word(label)}"
        try:
            program = Program(self._model(nodes, list(outputs), inputs), self.file.weights)
            piece = Piece(_word(op), program, [self.dtypes[name] for name in inputs])
            found = piece.arrays(*(self.values[name] for name in inputs))
        except UserError as error:
            raise UserError(f"{self.file.path}: node {self._label(own[-1])}: {error}") from error
        if not all(is_tensor(each) for each in found):
            self.lazy.update(outputs.values())  # a list, a map or text: goes into the pieces of those who read it
            return
        fixed = [len(self.values[name]) for name in inputs if self.values[name].ndim] if self.fixed else None
        piece.of_example(self._macs(own[-1], found), fixed, self._matrices(own[-1]))
        self.root[path] = piece
        place = self.graph.create_node("call_module", path, tuple(self.places[name] for name in inputs))
        if (left := self._label(own[-1], whole=True)) in self.unsupported:
            place.meta[LEFT_DIGITAL] = left
        for at, (name, value) in enumerate(zip(outputs.values(), found, strict=True)):
            part = place
            if len(found) > 1:
                part = self.graph.call_function(operator.getitem, (place, at))
            self.put(name, part, to_tensor(value), np.asarray(value).dtype)

    def _macs(self, node: NodeProto, found: Sequence[Array]) -> int:
        """Multiplications of the example batch."""

        def shape(at: int) -> tuple[int, ...]:
            name = node.input[at]
            value: Any = self.values[name] if name in self.values else self.known_value(name)
            return tuple(value.shape) if value is not None else (0,)

        if node.op_type == "MatMul":
            return found[0].size * shape(0)[-1]
        if node.op_type == "Gemm":
            return found[0].size * shape(0)[0 if attributes(node).get("transA", 0) else -1]
        if node.op_type == "Conv":
            return found[0].size * prod(shape(1)[1:])
        if node.op_type in ("LSTM", "GRU", "RNN"):  # each weight once for every step of every sequence
            return prod(shape(0)[:2]) * (prod(shape(1)) + prod(shape(2)))
        return prod(shape(0)) * prod(shape(1)[1:]) if node.op_type == "ConvTranspose" else 0

    def _matrices(self, node: NodeProto) -> dict[str, int]:
        """Numbers in the weights that a node reads, those inside of its graphs included, by what tells them apart."""
        found = {self.origin(name): self.constant(name) for name in reads(node) if self.is_matrix(name)}
        sizes = {origin: value.size for origin, value in found.items() if value is not None and has_rows(value.shape)}
        inside = [tensor for graph in inner_graphs(node) for tensor in graph.initializer if has_rows(tensor.dims)]
        return sizes | {f"{self._label(node, whole=True)}: {each.name}": prod(each.dims) for each in inside}

    def _label(self, node: NodeProto, whole: bool = False) -> str:
        """Of a node, for people; a long one cut, if it need not be whole."""
        label = printable(f"{node.name or node.output[0]} ({node.op_type})")
        return label if whole else shown(label)

    def _note(self, i: int, node: NodeProto) -> None:
        """Whether a node holds weights that ought to be on crossbars."""
        reason = ""
        known = node.domain in ("", "ai.onnx") and node.op_type in PRODUCTS
        weights = [name for name in node.input if known and self.is_matrix(name)]
        inside = {each.op_type for inner in inner_graphs(node) for each in inner.node}
        if weights and not self.given.isdisjoint(node.output):
            reason = "its input is given once: it is the same for every batch"
        elif weights:
            shape = list(np.asarray(self.constant(weights[0])).shape)
            reason = self.refused.get(i, f"a weight {shape} cannot be mapped")
            if not self._has_batch(node):
                reason = "its input has no batch in front"
        elif inside & _LAYERS:
            reason = f"products inside of {node.op_type} are not mapped"
        elif inside & PRODUCTS:
            reason = f"what is inside of {node.op_type} is not mapped: {', '.join(sorted(inside & PRODUCTS))}"
        if reason:
            self.unsupported[self._label(node, whole=True)] = reason

    def is_matrix(self, name: str) -> bool:
        value = self.constant(name)
        return value is not None and value.ndim >= 2 and value.dtype in _FLOAT_KINDS

    # layers

    def _layer(self, i: int, node: NodeProto) -> _Layer | None:
        """The layer that a node is; None if it cannot be one."""
        if node.op_type not in _LAYERS or node.domain not in ("", "ai.onnx") or node.input[1] not in self.constants:
            return None
        if node.input[0] in self.constants or not self.is_matrix(node.input[1]):
            return None
        if not self._has_batch(node):
            return None
        weight = self.constant(node.input[1])
        assert weight is not None
        make = {"Conv": self._conv, "Gemm": self._gemm, "MatMul": self._matmul}[node.op_type]
        return make(i, node, weight)

    def _has_batch(self, node: NodeProto) -> bool:
        """Whether what a Conv or MatMul reads has a part for each input, which a convolution needs in front."""
        self.place(node.input[0])
        shape = self.values[node.input[0]].shape
        parts = {"Conv": shape[:1], "MatMul": shape[:-1]}.get(node.op_type, ())
        return prod(parts) % self.batch == 0 if len(parts) else True

    def _matmul(self, i: int, node: NodeProto, weight: Array) -> _Layer | None:
        if weight.ndim != 2 or self._rank(node.input[0]) < 2:
            return None
        origin = self.origin(node.input[1])
        added = self._added(i, node, weight.shape[1]) if self.times[origin] == 1 else None
        bias = None if added is None else added[1]
        output, key = node.output[0], ("MatMul", origin)
        if added is not None:
            self.done.add(added[0][0])
            output = self.nodes[added[0][0]].output[0]
        bias_at = None if added is None else added[0]
        return _Layer(linear(weight.T, bias), key, self.asked(node), output, _TURNED, bias=bias_at)

    def _added(self, i: int, node: NodeProto, filters: int) -> tuple[tuple[int, int], Array] | None:
        """Place and value of a bias that an addition after a product brings, if nothing else reads the product."""
        (name,) = node.output
        users = self.users.get(name, [])
        if len(users) != 1 or name in self.outputs or self.nodes[users[0]].op_type != "Add":
            return None
        add = self.nodes[users[0]]
        at = 1 if add.input[0] == name else 0
        value = self.constant(add.input[at])
        if value is None or add.input[1 - at] != name or value.dtype not in _FLOAT_KINDS:
            return None
        fits = value.size == filters and value.ndim >= 1 and value.shape[-1] == filters
        return ((users[0], at), value.reshape(-1)) if fits and value.ndim <= self._rank(node.input[0]) else None

    def _gemm(self, i: int, node: NodeProto, weight: Array) -> _Layer | None:
        given = attributes(node)
        alpha, beta = given.get("alpha", 1.0), given.get("beta", 1.0)
        matrix = weight if given.get("transB", 0) else weight.T
        bias, after, place, output = None, [], None, node.output[0]
        added = node.input[2] if len(node.input) > 2 else ""
        if added:
            bias = self._bias(added, len(matrix))
            place = (i, 2)
        if added and bias is None:  # a matrix, or something that is computed: added digitally
            place, scaled = None, added
            if beta != 1:
                factor = helper.make_node("Constant", [], [f"{output}.beta"], value_float=beta)
                kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
                cast = helper.make_node("Cast", [f"{output}.beta"], [f"{output}.factor"], to=kind)
                times = helper.make_node("Mul", [added, f"{output}.factor"], [f"{output}.scaled"])
                after, scaled = [factor, cast, times], f"{output}.scaled"
            after.append(helper.make_node("Add", [f"{output}.product", scaled], [output]))
            output = f"{output}.product"
        values = matrix if alpha == 1 else matrix.astype(np.float32) * np.float32(alpha)
        shift = None if bias is None else bias.astype(np.float32) * np.float32(beta)
        origin = self.origin(added) if bias is not None else ""
        key = ("Gemm", self.origin(node.input[1]), given.get("transB", 0), alpha, beta, origin, bool(after))
        turn = (torch.t, ()) if given.get("transA", 0) else None
        how = () if given.get("transB", 0) else _TURNED, place, turn, after
        return _Layer(linear(values, shift), key, self.asked(node), output, *how)

    def _bias(self, name: str, filters: int) -> Array | None:
        """A constant that is added filter by filter."""
        value = self.constant(name)
        if value is None or value.dtype not in _FLOAT_KINDS or value.ndim > 2 or value.size not in (1, filters):
            return None
        if value.size > 1 and value.shape[-1] != filters:
            return None
        return np.broadcast_to(value.reshape(-1), (filters,))

    def _conv(self, i: int, node: NodeProto, weight: Array) -> _Layer | None:
        given, dimensions = attributes(node), weight.ndim - 2
        added = node.input[2] if len(node.input) > 2 else ""
        bias = self.constant(added) if added else None
        if dimensions not in CONVS or (added and bias is None):
            return None
        stride, dilation = (tuple(given.get(key, [1] * dimensions)) for key in ("strides", "dilations"))
        groups, kernel = given.get("group", 1), weight.shape[2:]
        automatic = given.get("auto_pad", b"NOTSET")
        pads = given.get("pads", [0] * 2 * dimensions) if automatic == b"NOTSET" else [0] * 2 * dimensions
        if groups < 1 or len(pads) != 2 * dimensions or min(pads) < 0:
            return None
        begin, end = pads[:dimensions], pads[dimensions:]
        padding = tuple(map(min, begin, end))
        before: Any = None
        if automatic.startswith(b"SAME"):
            before = SamePad(kernel, stride, dilation, automatic == b"SAME_UPPER")
        elif begin != end:
            rest = [(b - p, e - p) for b, e, p in zip(begin, end, padding, strict=True)]
            before = (functional.pad, ([each for pair in reversed(rest) for each in pair],))  # torch: last one first
        geometry = stride, padding, dilation, groups
        conv = CONVS[dimensions](
            weight.shape[1] * groups, len(weight), kernel, *geometry, bias is not None, device="meta"
        )
        fill(conv, weight, bias)
        origin = self.origin(added) if added else ""
        key = ("Conv", self.origin(node.input[1]), geometry, origin)
        place = (i, 2) if added else None
        return _Layer(conv, key, self.asked(node), bias=place, before=before, output=node.output[0])

    def _rank(self, name: str) -> int:
        self.place(name)
        return self.values[name].ndim

    def asked(self, node: NodeProto, which: int = 1) -> str:
        """The name of a layer, before it is made unique: the module's, if names of others do not begin with it."""
        name = _module_name(node, which)
        return node.name if any(other.startswith(f"{_path(name)}.") for other in self.wishes) else name

    def _call(self, i: int, node: NodeProto, layer: _Layer) -> None:
        x, value = self.place(node.input[0]), self.values[node.input[0]]
        if layer.key not in self.layers:
            path = self.free(layer.name)
            self.layers[layer.key], self.root[path] = path, layer.module
            self.origins[path] = Origin(f"{path}.weight", module=path, integers=self._integers(node, layer))
        path = self.layers[layer.key]
        try:
            if isinstance(layer.before, nn.Module):
                pad = f"digital.pad_{i}"
                self.root[pad] = layer.before
                x, value = self.graph.create_node("call_module", pad, (x,)), layer.before(value)
            elif layer.before is not None:
                function, arguments = layer.before
                x, value = self.graph.call_function(function, (x, *arguments)), function(value, *arguments)
            value = self.root[path](value)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.file.path}: node {self._label(node)}: {first_line(error)}") from error
        place = self.graph.create_node("call_module", path, (x,))
        self.put(layer.output, place, value, self.dtypes[node.input[0]])
        weight = self.constant(node.input[1])
        assert weight is not None
        bias = None if layer.bias is None else Slot(*layer.bias, tuple(layer.module.bias.shape))
        product = Product(i, Slot(i, 1, weight.shape, layer.views), weight.dtype, bias)
        self.calls.setdefault(path, []).append(product)
        if layer.after:
            self._run(f"Add_{i}", layer.after, "add", {node.output[0]: node.output[0]})

    def _integers(self, node: NodeProto, layer: _Layer) -> Integers | None:
        """Of a product whose operands were quantised before."""
        weight, filters = None, len(layer.module.weight)
        made = next(kept_back(node.input[1], self.maker, self.nodes), None)
        if made is not None and made.op_type == "DequantizeLinear":
            step, axis = self.constant(made.input[1]), attributes(made).get("axis", 1)
            own = 1 if layer.views else 0  # the axis of the filters
            if step is not None and (
                step.size == 1 or (step.size == filters and axis % layer.module.weight.ndim == own)
            ):
                weight = np.broadcast_to(step.astype(np.float32).reshape(-1), (filters,))
        elif bool((layer.module.weight == layer.module.weight.round()).all()):
            weight = np.ones(filters, np.float32)
        grid = self._input_grid(node.input[0])
        return None if weight is None and grid[0] is None else Integers(weight, *grid)

    def _input_grid(self, name: str) -> tuple[float | None, int | None]:
        """The step of a value that was quantised before, and the int8 integer that stands for 0."""
        *_, made = None, *kept_back(name, self.maker, self.nodes)
        if made is None or made.op_type not in ("DequantizeLinear", "Sub", "Cast"):
            return None, None
        whole = made.input[0]
        if made.op_type == "DequantizeLinear":
            step, zero = (self.constant(each) if each else np.zeros(1) for each in [*made.input[1:], ""][:2])
            if step is None or zero is None or step.size > 1:
                return None, None
            return float(step.item()), int(zero.item()) - (128 if self.dtypes.get(whole) == np.uint8 else 0)
        if made.op_type == "Sub" and whole in self.maker:
            whole = self.nodes[self.maker[whole]].input[0]
        return (1.0, None) if self.dtypes.get(whole) in (np.uint8, np.int8) else (None, None)

    def _norm(self, i: int, node: NodeProto) -> bool:
        """Whether a node is a batch norm, which then is put into the graph."""
        given = attributes(node)
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx") or given.get("training_mode", 0):
            return False
        values = [self.constant(name) for name in node.input[1:]]
        rank = self._rank(node.input[0])
        used = [name for name in node.output[1:] if name and (name in self.users or name in self.outputs)]
        if used or rank not in _NORMS or any(each is None or each.ndim != 1 for each in values):
            return False
        weight, bias, mean, variance = (as_float32(np.asarray(each)) for each in values)
        norm: Any = _NORMS[rank](len(mean), given.get("epsilon", 1e-5), device="meta")
        norm.running_mean, norm.running_var = mean, variance
        norm.weight, norm.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long)
        path = self.free(re.sub(r"[._]running_mean$", "", node.input[3]))
        self.root[path], self.norms[path] = norm.eval(), (i, np.asarray(values[2]).dtype)
        value = norm(self.values[node.input[0]])
        place = self.graph.create_node("call_module", path, (self.places[node.input[0]],))
        self.put(node.output[0], place, value, self.dtypes[node.input[0]])
        return True

    def free(self, name: str) -> str:
        """A path for a layer of this name that neither is taken nor leads through one that is."""
        path, count = _path(name), 1
        while True:
            for option in (path, path.replace(".", "_")):
                found = option if count == 1 else f"{option}_{count}"
                both = ((f"{found}.", f"{other}.") for other in self.taken)
                if not any(one.startswith(other) or other.startswith(one) for one, other in both):
                    self.taken.add(found)
                    return found
            count += 1


class SamePad(nn.Module):
    """Zeros around a map so that a convolution gives one output for each stride: SAME_UPPER or SAME_LOWER of ONNX.

    [N, C, *map] to [N, C, *larger map]; ``upper``: of an odd number of zeros one more goes to the end.
    """

    def __init__(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], upper: bool) -> None:
        super().__init__()
        self.reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        self.stride, self.upper = list(stride), upper

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, reach, stride in zip(x.shape[2:], self.reach, self.stride, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            less, more = total // 2, total - total // 2
            pads = [*((less, more) if self.upper else (more, less)), *pads]  # torch begins with the last dimension
        return functional.pad(x, pads)


_INSTANCE = fx.GraphModule({}, fx.Graph())
_SCOPES = "pkg.torch.onnx.name_scopes"  # in the metadata of a node: the modules around it, and what was called


def _module_name(node: NodeProto, which: int = 1) -> str:
    """Of the module that a product was exported from: its weight has it, or what torch's exporter says of the node, or
    the node, with the operator after it."""
    weight = node.input[which]
    of_weight = re.sub(r"[._]weight$", "", weight)
    if of_weight != weight:
        return of_weight
    said = next((each.value for each in node.metadata_props if each.key == _SCOPES), "")
    *_, scope, _ = ["", "", *re.findall(r"'([^']*)'", said)]  # "['', 'encoder', 'encoder.linear1', 'linear_2']"
    return scope or re.sub(rf"[/._]{node.op_type}$", "", node.name) or weight


def _word(text: str) -> str:
    """Letters, digits and underscores."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)[:100]


def _path(name: str) -> str:
    """A name out of a file as the path of a module: words with dots between them, none that a module already has."""
    words = [_word(each) for each in re.split(r"[./:]+", name) if each][-20:] or ["layer"]
    return ".".join(each + "_" if hasattr(_INSTANCE, each) else each for each in words)[:200].rstrip(".")
