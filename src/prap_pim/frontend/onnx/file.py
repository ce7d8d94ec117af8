"""An ONNX file as it was read: its graph, and apart from it the weights, which may lie in files beside it.

The file may come from anyone. Nothing outside of its folder is opened, nothing is read beyond a file's end, and what is
no valid model ends in one line.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, inliner

from prap_pim.common.arrays import bytes_of
from prap_pim.common.errors import UserError, shown
from prap_pim.common.files import check_plain
from prap_pim.frontend.onnx.dequantise import dequantise
from prap_pim.frontend.onnx.graphs import inner_graphs

OLDEST_OPSET = 9
SMALL = 1024  # bytes; smaller weights stay in the graph: shapes, axes and the like, which onnxruntime looks into
_APART = "apart"  # where weights are said to lie that are given to onnxruntime as they are
_PLAIN = frozenset(np.dtype(kind) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"))
_TYPES: dict[int, np.dtype[Any]] = {
    kind: onnx.helper.tensor_dtype_to_np_dtype(kind)
    for kind in TensorProto.DataType.values()
    if kind != TensorProto.UNDEFINED
}

Array = NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where a node of the main graph is in the file.

    Attributes:
        branch: number, from 1, of the branch that it is in; 0: of the main graph itself.
        ends: number of the branch whose result it passes on: it stands for an If, and is not in the file.
    """

    branch: int = 0
    ends: int = 0


@dataclass(frozen=True, eq=False)
class Branch:
    """A branch of an If whose condition is known: its nodes are in the main graph, in the place of the If.

    Attributes:
        node: the If.
        taken: name of the branch.
        outputs: names of the branch's results in the main graph.
    """

    node: NodeProto
    taken: str
    outputs: tuple[str, ...]

    @property
    def rest(self) -> NodeProto:
        """The If without the branch."""
        node = NodeProto()
        node.CopyFrom(self.node)
        del node.attribute[:]
        node.attribute.extend(each for each in self.node.attribute if each.name != self.taken)
        return node


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A valid model.

    Attributes:
        path: the file.
        graph: the model, without local functions (they are written out where they are called) and without the values of
            its larger weights: these are marked as lying apart. Treat it as read-only.
        weights: the initialisers of the main graph that numpy can hold, by name; some are maps of a file. Read-only.
        external: files beside it that hold weights.
        axes: where an input has its batch, by name, if it is not in front.
        once: values of the inputs that are the same for every batch. They are among the weights.
        branches: that follow from these.
        places: of the main graph's nodes; empty if no branch is written out.
    """

    path: Path
    graph: ModelProto
    weights: Mapping[str, Array]
    external: tuple[Path, ...]
    axes: Mapping[str, int] = field(default_factory=dict)
    once: Mapping[str, Array] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    places: tuple[Place, ...] = ()

    @property
    def name(self) -> str:
        """Of the network."""
        return shown(self.path.stem)

    @property
    def inputs(self) -> list[ValueInfoProto]:
        """What must be given to the model for each batch: inputs that nothing has a value for."""
        given = {tensor.name for tensor in self.graph.graph.initializer} | set(self.once)
        return [each for each in self.graph.graph.input if each.name not in given]

    @property
    def outputs(self) -> list[str]:
        """Names."""
        return [each.name for each in self.graph.graph.output]

    @property
    def batch(self) -> int | None:
        """Inputs that the model takes at a time; None: any number.

        Raises:
            UserError: its inputs disagree.
        """
        given = {each.name: (sizes(each), self.axes.get(each.name, 0)) for each in self.inputs}
        found = {shape[axis] for shape, axis in given.values() if axis < len(shape)} - {None}
        if len(found) > 1:
            both = " and ".join(str(size) for size in sorted(found, key=str))
            raise UserError(
                f"{self.path}: its inputs have batches of {both}; that must be one batch (--batch-axis, batch_axes)"
            )
        return next(iter(found), None)

    @staticmethod
    def read(path: Path) -> "OnnxFile":
        """
        Raises:
            UserError: it is missing, truncated, no valid model, too old, or it refers to something outside its folder.
        """
        if str(path).encode("utf-8", "replace") != os.fsencode(path):  # onnx's checker and onnxruntime open no other
            raise UserError(f"cannot read {path}: the name of an ONNX file must be UTF-8 text, its folder's too")
        try:
            check_plain(path)
            model = onnx.load_model(path, load_external_data=False)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:  # of protobuf, whose errors are of many kinds
            raise UserError(f"cannot read {path}: it is not a whole ONNX file") from error
        if not _is_text(model):
            raise UserError(f"{path}: it is not a valid ONNX model: a name in it is no text")
        files: dict[Path, None] = {}
        for tensor in tensors(model):
            if tensor.data_location == TensorProto.EXTERNAL:
                files[_place(path, tensor)[0]] = None
        try:
            onnx.checker.check_model(str(path))
            if model.functions:
                model = inliner.inline_local_functions(model)
        except Exception as error:
            raise UserError(f"{path}: it is not a valid ONNX model: {first_line(error)}") from error
        opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), None)
        if opset is None or opset < OLDEST_OPSET:
            raise UserError(f"{path}: opset {opset or 'unknown'}, but it must be {OLDEST_OPSET} or newer")
        for each in model.graph.input:
            kind = each.type.tensor_type.elem_type
            if not each.type.HasField("tensor_type") or kind not in _TYPES or _TYPES[kind].kind not in "fiub":
                raise UserError(f"{path}: input {shown(each.name)} is no tensor of numbers that numpy has")
        _load_attributes(path, model)
        dequantise(model)
        return OnnxFile(path, model, _take_out(path, model), tuple(files))


def sizes(value: ValueInfoProto) -> list[int | None]:
    """Of a value's dimensions; None: any."""
    shape = value.type.tensor_type.shape
    return [each.dim_value if each.HasField("dim_value") and each.dim_value > 0 else None for each in shape.dim]


def names(value: ValueInfoProto) -> list[str]:
    """Of a value's dimensions; "": none."""
    return [each.dim_param for each in value.type.tensor_type.shape.dim]


def dtype_of(value: ValueInfoProto) -> np.dtype[Any]:
    """The type of an input."""
    return _TYPES[value.type.tensor_type.elem_type]


def _is_text(message: Any) -> bool:
    """Whether all that ought to be text is."""
    for kind, value in message.ListFields():
        several = [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        if kind.type == kind.TYPE_STRING and not all(isinstance(each, str) for each in several):
            return False
        if kind.type == kind.TYPE_MESSAGE and not all(map(_is_text, several)):
            return False
    return True


def first_line(error: Exception) -> str:
    """What an error of another package says first, short enough to be read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0] if lines else type(error).__name__, 240)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model, wherever it is."""
    nodes = [node for function in model.functions for node in function.node]
    inside = [graph for node in (*model.graph.node, *nodes) for graph in inner_graphs(node)]
    sparse = []
    for graph in (model.graph, *inside):
        yield from graph.initializer
        sparse += graph.sparse_initializer
        nodes += graph.node
    for attribute in (each for node in nodes for each in node.attribute):
        yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
        sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else attribute.sparse_tensors
    for each in sparse:
        yield from (each.values, each.indices)


def _place(path: Path, tensor: TensorProto) -> tuple[Path, int, int]:
    """File, offset and bytes of a weight that lies in a file of its own.

    Raises:
        UserError: outside the model's folder, or not in the file.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name, location = shown(tensor.name), entries.get("location", "")
    said = f"{path}: weight {name} lies in {shown(location)!r}"
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or "\0" in location:
        raise UserError(f"{said}, which is no path inside the model's folder")
    file = path.parent / location
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise UserError(f"{said}, which leads out of the model's folder")
    if not file.is_file():
        raise UserError(f"{said}, but there is no such file")
    number = {key: entries.get(key, "0") for key in ("offset", "length")}
    if not all(value.isascii() and value.isdigit() and len(value) < 20 for value in number.values()):
        raise UserError(f"{said}, at an offset or with a length that is no number from 0 on")
    size, offset, length = _bytes(path, tensor), int(number["offset"]), int(number["length"])
    if "length" in entries and length != size:
        raise UserError(f"{said} with {length:,} bytes, but its shape {list(tensor.dims)} takes {size:,}")
    if offset + size > file.stat().st_size:
        raise UserError(f"{said}, which ends before the weight does")
    return file, offset, size


def _bytes(path: Path, tensor: TensorProto) -> int:
    """That its values take.

    Raises:
        UserError: it has no such type.
    """
    dtype = _TYPES.get(tensor.data_type)
    if dtype is None:
        raise UserError(f"{path}: weight {shown(tensor.name)} is of an unknown type")
    if dtype.kind == "O" or any(size < 0 for size in tensor.dims):
        raise UserError(f"{path}: weight {shown(tensor.name)} holds text or has a negative size")
    halves: bool = getattr(dtype, "name", "").endswith(("int4", "float4_e2m1fn"))  # two values to a byte
    count = int(prod(tensor.dims))
    return -(-count // 2) if halves else count * int(dtype.itemsize)


def _load_attributes(path: Path, model: ModelProto) -> None:
    """Take in what lies in other files but is no initialiser of the main graph, or none that numpy holds."""
    main = {id(tensor) for tensor in model.graph.initializer}
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL and (id(tensor) not in main or not is_plain(tensor)):
            file, offset, size = _place(path, tensor)
            with file.open("rb") as opened:
                opened.seek(offset)
                tensor.raw_data = opened.read(size)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def is_plain(tensor: TensorProto) -> bool:
    """Whether numpy itself has its type."""
    return _TYPES.get(tensor.data_type) in _PLAIN


def _take_out(path: Path, model: ModelProto) -> dict[str, Array]:
    """The initialisers of the main graph; the larger ones are marked in the graph as lying apart."""
    found = {}
    for tensor in model.graph.initializer:
        if tensor.name in found:
            raise UserError(f"{path}: two weights are called {shown(tensor.name)}")
        if not is_plain(tensor):
            continue
        dtype = _TYPES[tensor.data_type]
        if tensor.data_location == TensorProto.EXTERNAL:
            file, offset, size = _place(path, tensor)
            try:
                values = bytes_of(file, offset, size) if size else np.empty(0, np.uint8)
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: weight {shown(tensor.name)} cannot be read from {file}: {error}") from error
            array: Array = np.asarray(values).view(dtype.newbyteorder("<")).reshape(tuple(tensor.dims))
        else:
            try:
                array = onnx.numpy_helper.to_array(tensor)
            except Exception as error:
                raise UserError(f"{path}: weight {shown(tensor.name)} does not fit its shape") from error
        found[tensor.name] = array
        put(tensor, array)
    return found


def mark_apart(tensor: TensorProto, array: Array) -> None:
    """Give a tensor its type and shape alone."""
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type = name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.dims.extend(array.shape)
    tensor.external_data.add(key="location", value=_APART)


def put(tensor: TensorProto, array: Array) -> None:
    """Give a tensor its type and shape, and its values too if they are few; else they lie apart."""
    if array.nbytes >= SMALL:
        mark_apart(tensor, array)
    else:
        put_inside(tensor, array)


def put_inside(tensor: TensorProto, array: Array) -> None:
    """Give a tensor its type, shape and values."""
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array, order="C"), tensor.name))


def is_apart(tensor: TensorProto) -> bool:
    """Whether its values are not in the graph."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)
