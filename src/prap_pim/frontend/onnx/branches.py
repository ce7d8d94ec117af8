"""A model as it is called: inputs that are given once are constants, and an If that follows from them is its branch.

So is an If that follows from the sizes of the inputs, if there are products in it: exporters of TorchScript put whole
networks into one.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper
from torch import Tensor

from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx.file import Array, Branch, OnnxFile, Place, dtype_of, is_plain, put
from prap_pim.frontend.onnx.graphs import inner_graphs, own_graphs, reads
from prap_pim.frontend.onnx.lower import PRODUCTS
from prap_pim.frontend.onnx.program import Program, to_array

_BRANCHES = ("else_branch", "then_branch")


def as_called(file: OnnxFile, axes: Mapping[str, int], once: Mapping[str, Array]) -> OnnxFile:
    """A model for which it is known how its inputs are given.

    Args:
        file: as it was read.
        axes: where an input has its batch, if not in front.
        once: values of inputs that are the same for every batch, in the model's own types.
    """
    called = replace(file, axes={name: axis for name, axis in axes.items() if axis}, once=dict(once))
    return _Unfolding(called).unfolded() if once or _has_if(file) else called


def for_sizes(called: OnnxFile, batches: Sequence[Sequence[Tensor]]) -> OnnxFile:
    """The same with each If written out that holds products and takes one branch for all of some batches by their
    sizes."""
    return _Unfolding(called).unfolded(batches) if _has_if(called) else called


def _has_if(file: OnnxFile) -> bool:
    return any(node.op_type == "If" for node in file.graph.graph.node)


class _Unfolding:
    """One model whose branches are written out."""

    def __init__(self, file: OnnxFile) -> None:
        self.file, self.weights = file, dict(file.weights)
        self.model = ModelProto()
        self.model.CopyFrom(file.graph)
        graph = self.model.graph
        rests = [each for branch in file.branches for each in inner_graphs(branch.rest)]  # in the written file, too
        self.defined = Counter(name for each in (*_graphs(graph), *rests) for name in _defined(each))
        for name, value in file.once.items():
            if name not in self.weights:
                self._store(name, value)
        self.constants = {each.name for each in graph.initializer}
        self.constants |= {each.values.name for each in graph.sparse_initializer}
        self.maker: dict[str, NodeProto] = {}
        self.branches = list(file.branches)
        self.decided: dict[str, bool] = {}  # conditions that follow from sizes

    def unfolded(self, batches: Sequence[Sequence[Tensor]] = ()) -> OnnxFile:
        """The model with the nodes of a branch in the place of each If whose condition is known, or is the same for
        some batches by their sizes alone."""
        graph = self.model.graph
        places = self.file.places or [Place()] * len(graph.node)
        entries = self._pass(zip(graph.node, places, strict=True))
        while batches and (found := self._decisions([node for node, _ in entries], batches)):
            self.decided |= found
            entries = self._pass(entries)
        if not self.branches:
            return replace(self.file, graph=self.model, weights=self.weights)
        nodes = [node for node, _ in entries]
        places = tuple(place for _, place in entries)
        del graph.node[:]
        graph.node.extend(nodes)
        branches = tuple(self.branches)
        return replace(self.file, graph=self.model, weights=self.weights, branches=branches, places=places)

    def _pass(self, entries: Iterable[tuple[NodeProto, Place]]) -> list[tuple[NodeProto, Place]]:
        left = deque(entries)
        done: list[tuple[NodeProto, Place]] = []
        while left:
            node, place = left.popleft()
            branch = self._branch(node)
            if branch is not None:
                left.extendleft(reversed(self._written_out(node, place, *branch)))
                continue
            done.append((node, place))
            inputs = set(reads(node))
            if inputs <= self.constants and (inputs or node.op_type == "Constant"):
                self.constants.update(node.output)
            self.maker |= dict.fromkeys(node.output, node)
        return done

    def _decisions(self, nodes: Sequence[NodeProto], batches: Sequence[Sequence[Tensor]]) -> dict[str, bool]:
        """Conditions of If that hold products and follow from sizes, where they are the same for all batches."""
        lazy: set[str] = set()
        for node in nodes:
            inputs = set(reads(node))
            if node.op_type in ("Shape", "Size") or (inputs & lazy and inputs <= self.constants | lazy):
                lazy.update(node.output)
        wanted = [node.input[0] for node in nodes if node.op_type == "If" and _holds_products(node)]
        wanted = [name for name in dict.fromkeys(wanted) if name in lazy and name not in self.decided]
        if not wanted:
            return {}
        model = ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.node[:], graph.output[:], graph.value_info[:], graph.input[:]
        graph.node.extend(_needed(nodes, wanted))
        graph.input.extend(self.file.inputs)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        used = {name for node in graph.node for name in reads(node)}
        kept = [each for each in graph.initializer if each.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        found = []
        try:
            program = Program(model, self.weights)
            for batch in batches:
                given = zip(self.file.inputs, batch, strict=True)
                axes = self.file.axes
                arrays = [to_array(x.movedim(0, axes.get(each.name, 0)), dtype_of(each)) for each, x in given]
                found.append([bool(np.asarray(value).all()) for value in program(*arrays)])
        except UserError:
            return {}
        same = (set(each) for each in zip(*found, strict=True))
        return {name: each.pop() for name, each in zip(wanted, same, strict=True) if len(each) == 1}

    def _store(self, name: str, value: Array) -> None:
        self.weights[name] = value
        put(self.model.graph.initializer.add(name=name), value)

    def _branch(self, node: NodeProto) -> tuple[str, GraphProto] | None:
        """The branch of an If that is taken; None of another node, or if it is not known."""
        if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
            return None
        condition = self.decided.get(node.input[0]) if _holds_products(node) else None
        if condition is None and node.input[0] in self.constants:
            value = self._value(node.input[0])
            condition = None if value is None or value.size != 1 else bool(value.item())
        if condition is None:
            return None
        taken = _BRANCHES[condition]
        graph = next((each.g for each in node.attribute if each.name == taken), None)
        if graph is None or graph.sparse_initializer or not any(node.output) or len(graph.output) != len(node.output):
            return None
        return taken, graph

    def _value(self, name: str) -> Array | None:
        """Of a constant; None if onnxruntime cannot compute it."""
        nodes = _needed(list({id(node): node for node in self.maker.values()}.values()), [name])
        copied = helper.make_node("Identity", [name], [f"{name}.value"])  # also of what no node makes
        used = {each for node in (*nodes, copied) for each in reads(node)}
        graph = helper.make_graph(
            [*nodes, copied],
            "condition",
            [],
            [onnx.ValueInfoProto(name=copied.output[0])],
            [each for each in self.model.graph.initializer if each.name in used],
            sparse_initializer=[each for each in self.model.graph.sparse_initializer if each.values.name in used],
        )
        imports, version = self.model.opset_import, self.model.ir_version
        model = helper.make_model(graph, functions=self.model.functions, opset_imports=imports, ir_version=version)
        try:
            return np.asarray(Program(model, self.weights)()[0])
        except UserError:
            return None

    def _written_out(
        self, node: NodeProto, place: Place, taken: str, graph: GraphProto
    ) -> list[tuple[NodeProto, Place]]:
        """The nodes of a branch, and for each result of the If one that passes it on."""
        inner = GraphProto()
        inner.CopyFrom(graph)
        _rename(inner, {name: self._free(name) for name in _defined(inner) if self.defined[name] > 1})
        for tensor in inner.initializer:
            self.constants.add(tensor.name)
            if not is_plain(tensor):
                self.model.graph.initializer.add().CopyFrom(tensor)
                continue
            try:
                self._store(tensor.name, onnx.numpy_helper.to_array(tensor))
            except Exception as error:
                raise UserError(f"{self.file.path}: a weight inside of If does not fit its shape") from error
        self.branches.append(Branch(node, taken, tuple(each.name for each in inner.output)))
        number = len(self.branches)
        ends = [
            (helper.make_node("Identity", [each.name], [name]), replace(place, ends=number))
            for each, name in zip(inner.output, node.output, strict=True)
            if name
        ]
        return [*((each, Place(number)) for each in inner.node), *ends]

    def _free(self, name: str) -> str:
        count = 2
        while f"{name}_{count}" in self.defined:
            count += 1
        self.defined[f"{name}_{count}"] += 1
        return f"{name}_{count}"


def _holds_products(node: NodeProto) -> bool:
    """Whether something inside of a node may have a weight matrix."""
    return any(each.op_type in PRODUCTS for graph in inner_graphs(node) for each in graph.node)


def _needed(nodes: Sequence[NodeProto], names: Collection[str]) -> list[NodeProto]:
    """Nodes that some values depend on, in order."""
    wanted, needed = set(names), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads(node))
            needed.append(node)
    return needed[::-1]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all inside of it."""
    yield graph
    for node in graph.node:
        yield from inner_graphs(node)


def _defined(graph: GraphProto) -> set[str]:
    """Names that a graph itself gives."""
    made = {name for node in graph.node for name in node.output if name}
    return made | {each.name for each in (*graph.input, *graph.initializer)}


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names, also where graphs inside of this one read them."""
    if not names:
        return
    for field in (graph.initializer, graph.output, graph.value_info):
        for each in field:
            each.name = names.get(each.name, each.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        for inner in own_graphs(node):
            own = _defined(inner)
            _rename(inner, {old: new for old, new in names.items() if old not in own})
