"""The same ONNX graph with other weights: initialisers are replaced, additions put in where a layer has got a bias."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from torch import nn

from prap_pim.common.errors import UserError, shown
from prap_pim.common.files import write_whole
from prap_pim.common.names import untaken
from prap_pim.frontend.onnx.file import Array, Branch, Place, first_line, is_apart, mark_apart, put, put_inside
from prap_pim.frontend.onnx.graphs import inner_graphs, reads
from prap_pim.frontend.onnx.lower import OnnxCapture
from prap_pim.frontend.onnx.products import Product, Slot
from prap_pim.frontend.quantize import InputGrid

_MOST = (1 << 31) - (1 << 20)  # bytes that one file of this format holds
_ROUNDS = 11  # the opset that brought Round
_ALIGN = 64  # bytes; where a weight begins in a file of its own


def write_onnx(
    found: OnnxCapture,
    module: nn.Module,
    path: Path,
    most: int = _MOST,
    grids: Mapping[str, InputGrid] | None = None,
) -> tuple[Path, ...]:
    """Write a model with the weights of another module of the same graph.

    Args:
        found: the model as it was read.
        module: its layers' weights and biases are written, and the statistics of its batch norms.
        path: the file. If the model had weights in files beside it, or would take more than ``most`` bytes, they go
            into ``NAME.data`` beside it.
        most: see ``path``.
        grids: int8, by layer name, to which each layer's input is to be rounded, as on the crossbars; None: it is not.

    Returns:
        the files that were written.

    Raises:
        UserError: it cannot be written, or what was written would be no valid model; nothing is left behind.
    """
    model, weights = ModelProto(), dict(found.file.weights)
    model.CopyFrom(found.file.graph)
    rewriting = _Rewriting(found, model, weights)
    for name, grid in (grids or {}).items():
        rewriting.round_input(name, grid)
    rewriting.rewrite(module)
    total = sum(array.nbytes for array in weights.values()) + model.ByteSize()
    if not found.file.external and total <= most:
        for tensor in model.graph.initializer:
            if is_apart(tensor):
                put_inside(tensor, weights[tensor.name])
        return _written(model, {path: None})
    beside = path.with_name(path.name + ".data")
    if any(beside.resolve() == each.resolve() for each in found.file.external):
        raise UserError(f"cannot write {beside}: weights of {found.file.path} are in it; choose another name")
    data, place = [], 0
    for tensor in model.graph.initializer:
        if is_apart(tensor):
            array = weights[tensor.name]
            _mark_beside(tensor, array, beside.name, place)
            data += [np.ascontiguousarray(array).tobytes(), b"\0" * (-array.nbytes % _ALIGN)]
            place += array.nbytes + -array.nbytes % _ALIGN
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)  # an older model's weights are about to be replaced
    return _written(model, {beside: b"".join(data), path: None})


def _written(model: ModelProto, files: Mapping[Path, bytes | None]) -> tuple[Path, ...]:
    """Write files, the model (None) last; none is left if the model is not valid or one cannot be written."""
    try:
        for path, content in files.items():
            write_whole(path, model.SerializeToString() if content is None else content)
        try:
            onnx.checker.check_model(str(path))
        except Exception as error:
            raise UserError(f"cannot write {path}: it would be no valid model: {first_line(error)}") from error
    except UserError:
        remove(files)
        raise
    return tuple(files)


def remove(files: Any) -> None:
    """Files that are of no use."""
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _mark_beside(tensor: TensorProto, array: Array, file: str, offset: int) -> None:
    """Say that a tensor lies in a file."""
    mark_apart(tensor, array)
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))


class _Rewriting:
    """One model on its way to other weights."""

    def __init__(self, found: OnnxCapture, model: ModelProto, weights: dict[str, Array]) -> None:
        self.found, self.model, self.weights = found, model, weights
        self.nodes: list[NodeProto] = list(model.graph.node)
        places = found.file.places or [Place()] * len(self.nodes)
        self.entries = list(zip(self.nodes, places, strict=True))
        self.rests = [branch.rest for branch in found.file.branches]  # they are in the file, too
        self.initial = {tensor.name: tensor for tensor in model.graph.initializer}
        self.names = {*self.initial, *(name for node in self.nodes for name in (*node.input, *node.output))}
        self.names |= {each.name for each in (*model.graph.input, *model.graph.output)}
        every = [*self.nodes, *self.rests]
        self.names |= {name for node in every for inner in inner_graphs(node) for name in _made(inner)}
        self.readers = Counter(name for node in every for name in reads(node))
        self.readers.update(each.name for each in model.graph.output)
        self.unused_before = self._unused()
        self.following: dict[int, list[NodeProto]] = {}  # nodes to put in after one
        self.preceding: dict[int, list[NodeProto]] = {}  # and before
        self.wholes: dict[tuple[tuple[int, int], ...], tuple[Array, str, np.dtype[Any]]] = {}  # inputs to be written

    def rewrite(self, module: nn.Module) -> None:
        """Change the model and the weights."""
        for name, calls in self.found.calls.items():
            self._layer(name, calls, module.get_submodule(name))
        for places, given in self.wholes.items():
            self._give(places, *given)
        for name, (at, dtype) in self.found.norms.items():
            norm: Any = module.get_submodule(name)
            own: Any = self.found.captured.module.get_submodule(name)
            if norm.affine and not torch.equal(norm.weight, own.weight):  # its channels were equalised
                self._give([(at, 1)], _numpy(norm.weight), f"{name}.weight", dtype)
                self._give([(at, 2)], _numpy(norm.bias), f"{name}.bias", dtype)
            self._give([(at, 3)], _numpy(norm.running_mean), f"{name}.running_mean", dtype)
            self._give([(at, 4)], _numpy(norm.running_var), f"{name}.running_var", dtype)
        self.entries = [
            (each, place)
            for i, (node, place) in enumerate(self.entries)
            for each in (*self.preceding.get(i, []), node, *self.following.get(i, []))
        ]
        self._tidy()
        whole = self._put_back()
        del self.model.graph.node[:]
        self.model.graph.node.extend(whole)

    def round_input(self, name: str, grid: InputGrid) -> None:
        """Let a layer read int8. Not by QuantizeLinear: onnxruntime would take that as leave to round the weights, too.

        Raises:
            UserError: the model's version or type has no operator for it.
        """
        calls = self.found.calls[name]
        opset = max(each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx"))
        layers = Counter(each.node for other in self.found.calls.values() for each in other)
        if any(layers[each.node] > 1 for each in calls):
            several = self.nodes[calls[0].node].op_type
            raise UserError(
                f"{self.found.file.path}: a bit-true file cannot be written: {shown(name)} is one of several layers "
                f"inside of a node ({several})"
            )
        if opset < _ROUNDS or any(each.dtype != np.float32 for each in calls):
            raise UserError(
                f"{self.found.file.path}: a bit-true file needs opset {_ROUNDS} or later and float32 weights; layer "
                f"{shown(name)} has opset {opset} and {calls[0].dtype}"
            )
        values = {"step": grid.step, "least": grid.least - grid.zero, "most": grid.most - grid.zero}
        step, least, most = (self._new(np.array(v), f"{name}.input_{k}", calls[0].dtype) for k, v in values.items())
        for each in calls:
            node, made = self.nodes[each.node], []
            read = 1 if each.weight.which == 0 else 0
            rounded = node.input[read]
            for op, more in (("Div", [step]), ("Round", []), ("Clip", [least, most]), ("Mul", [step])):
                before, rounded = rounded, self._free(f"{node.input[read]}.{op}")
                made.append(helper.make_node(op, [before, *more], [rounded], self._free(f"{name}.{op}")))
            self.preceding[each.node] = made
            node.input[read] = rounded

    def _layer(self, name: str, calls: tuple[Product, ...], layer: Any) -> None:
        """The calls of a layer are alike: the same operator, and all with a bias or none."""
        weight, bias = _numpy(layer.weight), None if layer.bias is None else _numpy(layer.bias)
        first, nodes = calls[0], [self.nodes[each.node] for each in calls]
        self._part([each.weight for each in calls], weight, f"{name}.weight", first.dtype)
        adding = [each.bias for each in calls if each.bias is not None]
        if bias is not None and not adding and nodes[0].op_type in ("Conv", "Gemm") and not any(nodes[0].input[2:]):
            adding = [Slot(each.node, 2, bias.shape) for each in calls]
            for node in nodes:
                node.input.extend([""] * (3 - len(node.input)))
        for node in nodes:
            _set_to_one(node, ("alpha", "beta") if adding else ("alpha",))
        if adding and bias is not None:
            self._part(adding, bias, f"{name}.bias", first.dtype)
        elif bias is not None:
            for each in calls:
                self._add(each.node, bias, name, first.dtype)

    def _part(self, slots: Sequence[Slot], value: Array, asked: str, dtype: np.dtype[Any]) -> None:
        """Put a layer's numbers into the inputs that hold them, alike in all; several layers may have parts of one."""
        places = tuple((each.node, each.which) for each in slots)
        new = np.empty(slots[0].shape, np.float32), asked, dtype
        slots[0].write(self.wholes.setdefault(places, new)[0], value)

    def _add(self, at: int, bias: Array, name: str, dtype: np.dtype[Any]) -> None:
        """An addition after a product that takes none itself."""
        node = self.nodes[at]
        output = node.output[0]
        node.output[0] = self._free(f"{output}.product")
        value = self._new(bias, f"{name}.bias", dtype)
        self.following[at] = [helper.make_node("Add", [node.output[0], value], [output], self._free(f"{name}.add"))]

    def _give(self, places: Sequence[tuple[int, int]], value: Array, asked: str, dtype: np.dtype[Any]) -> None:
        """Let inputs of nodes read a value: in place of the initialiser that these alone read, or as a new one.

        Args:
            places: nodes, and which input of each.
            value: finite.
            asked: name of a new one.
            dtype: of the value in the file.
        """
        names = {self.nodes[at].input[which] for at, which in places}
        old = self.initial.get(next(iter(names))) if len(names) == 1 else None
        alone = old is not None and self.readers[old.name] == len(places) and prod(old.dims) == value.size
        if old is not None and alone:
            self._put(old, value.reshape(tuple(old.dims)), dtype)
            return
        name = self._new(value, asked, dtype)
        for at, which in places:
            self.nodes[at].input[which] = name

    def _new(self, value: Array, asked: str, dtype: np.dtype[Any]) -> str:
        name = self._free(asked)
        self._put(self.model.graph.initializer.add(name=name), value, dtype)
        return name

    def _put(self, tensor: TensorProto, value: Array, dtype: np.dtype[Any]) -> None:
        with np.errstate(over="ignore"):
            array = value.astype(dtype, order="C")
        if not np.isfinite(array).all():
            raise UserError(
                f"{self.found.file.path}: the compressed {shown(tensor.name)} is out of the range of {dtype}"
            )
        self.weights[tensor.name] = array
        put(tensor, array)

    def _free(self, asked: str) -> str:
        return untaken(asked, self.names, "_")

    def _unused(self) -> set[str]:
        """Values that nothing reads."""
        used = {name for node in (*(node for node, _ in self.entries), *self.rests) for name in reads(node)}
        used |= {each.name for each in self.model.graph.output} | set(self.found.file.once)
        made = {name for node, _ in self.entries for name in node.output if name}
        return (made | {tensor.name for tensor in self.model.graph.initializer}) - used

    def _tidy(self) -> None:
        """Take out what only the replaced weights were made of."""
        graph, size = self.model.graph, -1
        while size != len(self.entries):
            size, left = len(self.entries), self._unused() - self.unused_before
            self.entries = [(node, place) for node, place in self.entries if place.ends or not set(node.output) <= left]
            _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in left])
            _keep(graph.input, [each for each in graph.input if each.name not in left])
            for name in left:
                self.weights.pop(name, None)

    def _put_back(self) -> list[NodeProto]:
        """The main graph's nodes as in the file: each branch in its If, inputs given once without their value."""
        once = self.found.file.once
        _keep(self.model.graph.initializer, [each for each in self.model.graph.initializer if each.name not in once])
        for name in once:
            self.weights.pop(name, None)
        inside: defaultdict[int, list[NodeProto]] = defaultdict(list)
        done: set[int] = set()
        for node, place in self.entries:
            if not place.ends:
                inside[place.branch].append(node)
            elif place.ends not in done:
                done.add(place.ends)
                branch = self.found.file.branches[place.ends - 1]
                inside[place.branch].append(self._with_branch(branch, inside[place.ends]))
        return inside[0]

    def _with_branch(self, branch: Branch, nodes: list[NodeProto]) -> NodeProto:
        """An If with other nodes in its branch."""
        whole = NodeProto()
        whole.CopyFrom(branch.node)
        graph = next(each.g for each in whole.attribute if each.name == branch.taken)
        made = {name for node in nodes for name in node.output}
        for result, name in zip(graph.output, branch.outputs, strict=True):
            result.name = name
            if name not in made:  # of a value from outside
                result.name = self._free(f"{name}.out")
                nodes = [*nodes, helper.make_node("Identity", [name], [result.name])]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        return whole


def _made(graph: GraphProto) -> list[str]:
    tensors = [tensor.name for tensor in graph.initializer]
    return [*tensors, *(each.name for each in graph.input), *(name for node in graph.node for name in node.output)]


def _keep(field: Any, values: Sequence[Any]) -> None:
    if len(values) < len(field):
        del field[:]
        field.extend(values)


def _numpy(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().float().numpy())


def _set_to_one(node: NodeProto, names: Sequence[str]) -> None:
    """Factors of a Gemm, which the values have in them."""
    for attribute in node.attribute:
        if attribute.name in names:
            attribute.f = 1.0
