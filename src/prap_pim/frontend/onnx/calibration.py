"""Calibration inputs of an ONNX model, from an npz file: nothing is unpickled, and they must fit the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ValueInfoProto
from torch import Tensor

from prap_pim.common.arrays import read_arrays, read_headers
from prap_pim.common.errors import UserError, shown
from prap_pim.common.settings import nearest
from prap_pim.frontend.onnx.branches import as_called, for_sizes
from prap_pim.frontend.onnx.file import Array, OnnxFile, dtype_of, names, sizes
from prap_pim.frontend.onnx.program import to_tensor

_BATCH = 64  # inputs at a time where the model takes any number


def read_batches(file: OnnxFile, path: Path) -> list[tuple[Tensor, ...]]:
    """The batches of ``read_inputs``."""
    return read_inputs(file, path)[1]


def read_inputs(
    file: OnnxFile, path: Path, batch_axes: Mapping[str, int | None] | None = None
) -> tuple[OnnxFile, list[tuple[Tensor, ...]]]:
    """A model as its calibration inputs call it, and the inputs in batches.

    Args:
        file: the model.
        path: an npz file with an array for each input, of its name; the name does not matter if there is one. An array
            has its batch in front, or where the model has it; an input without a batch is given once.
        batch_axes: where inputs have their batch, by name; None: nowhere, it is given once. What is not named is
            inferred: from the names of the model's dimensions, and from where the arrays hold as many inputs as the
            others.

    Returns:
        the model with its batch axes, inputs that are given once as constants, and the branches that follow from them
        written out; and of its other inputs, in their order, batches with the batch in front: 64 at a time, or as many
        as the model takes; float as float32.

    Raises:
        UserError: the file cannot be read, or does not hold what the model takes: another name, type or shape, NaN.
    """
    protos, asked = file.inputs, dict(batch_axes or {})
    if not protos:
        raise UserError(f"{file.path}: the model has no inputs")
    headers = read_headers(path)
    known = [each.name for each in protos]
    alone = len(headers) == len(known) == 1
    for name in (*known, *(known if alone else headers)):
        if name not in headers and not alone:
            raise UserError(f"{path}: it has no array for the model's input {shown(name)!r}")
        if name not in known:
            raise UserError(f"{path}: the model has no input {shown(name)!r} ({nearest(name, [*map(shown, known)])})")
    for name in asked:
        if name not in known:
            raise UserError(f"batch axis: the model has no input {name!r} ({nearest(name, [*map(shown, known)])})")
    found = read_arrays(path)
    if alone:
        found = {known[0]: next(iter(found.values()))}
    given = [_Given.of(path, each, found[each.name], asked) for each in protos]
    total, given = _with_axes(path, given)
    once = {each.proto.name: each.array for each in given if each.axis is None}
    batched = {each.proto.name: each for each in given if each.axis is not None}
    counts = [each.array.shape[each.axis] for each in batched.values() if each.axis is not None]
    if any(count != total for count in counts):
        hint = (
            "one that is given once or has its batch on another axis: --batch-axis NAME=none or NAME=AXIS (batch_axes)"
        )
        raise UserError(f"{path}: its arrays hold {', '.join(map(str, counts))} inputs, not as many ({hint})")
    called = as_called(file, {name: each.axis for name, each in batched.items() if each.axis}, once)
    fixed = called.batch
    size = fixed or _BATCH
    if total == 0 or total % (fixed or 1):
        raise UserError(f"{path}: it holds {total} inputs, but the model takes {fixed or 'one or more'} at a time")
    tensors = [to_tensor(np.moveaxis(each.array, each.axis or 0, 0)) for each in batched.values()]
    batches = [tuple(tensor[at : at + size] for tensor in tensors) for at in range(0, total, size)]
    one = [tuple(tensor[:1] for tensor in tensors)]
    return for_sizes(called, [*batches[:1], *batches[-1:], *([] if fixed else one)]), batches


@dataclass(frozen=True, eq=False)
class _Given:
    """An input and its array.

    Attributes:
        proto: of the model.
        array: in the model's type.
        wanted: sizes that the model takes; None: any.
        axis: of the batch; None: it has none.
        settled: whether the axis is known.
    """

    proto: ValueInfoProto
    array: Array
    wanted: tuple[int | None, ...]
    axis: int | None
    settled: bool

    @staticmethod
    def of(path: Path, proto: ValueInfoProto, array: Array, asked: Mapping[str, int | None]) -> "_Given":
        """
        Raises:
            UserError: it is of another type, not finite, or has no such axis.
        """
        declared = proto.type.tensor_type.HasField("shape")
        wanted = tuple(sizes(proto)) if declared else (None,) * array.ndim
        if array.size == 1 and len(wanted) != array.ndim and all(size in (None, 1) for size in wanted):
            array = array.reshape((1,) * len(wanted))  # one number is one number
        array = _as_typed(path, proto, array)
        axis = asked.get(proto.name)
        if axis is not None and not -len(wanted) <= axis < len(wanted):
            raise UserError(f"batch axis: input {shown(proto.name)} has {len(wanted)} dimensions, so no axis {axis}")
        if axis is not None:
            axis %= len(wanted)
        return _Given(proto, array, wanted, axis, proto.name in asked or not wanted)

    def fits(self, axis: int | None) -> bool:
        """Whether the array is what the model takes if its batch is on an axis, of whatever size."""
        pairs = enumerate(zip(self.wanted, self.array.shape, strict=False))
        same = all(own and size in (None, own) for i, (size, own) in pairs if i != axis)
        return len(self.wanted) == self.array.ndim and same

    def checked(self, path: Path) -> "_Given":
        """
        Raises:
            UserError: the array is not what the model takes.
        """
        if self.fits(self.axis):
            return self
        form = ["N" if i == self.axis else "any" if size is None else str(size) for i, size in enumerate(self.wanted)]
        takes = f"[{', '.join(form)}]" if form else "one number, the same for every batch: give it once"
        raise UserError(f"{path}: array {shown(self.proto.name)} is {list(self.array.shape)}, the model takes {takes}")


def _with_axes(path: Path, given: Sequence[_Given]) -> tuple[int, list[_Given]]:
    """How many inputs there are, and each input with its axis.

    Raises:
        UserError: an array is not what the model takes, or it is not clear where its batch is.
    """
    first, axis = _first(path, given)
    first = replace(first, axis=axis, settled=True).checked(path)
    total, batch, name = first.array.shape[axis], first.wanted[axis], _name(first, axis)
    settled = []
    for each in given:
        if each.proto.name == first.proto.name:
            settled.append(first)
        elif each.settled:
            settled.append(each.checked(path))
        else:
            settled.append(replace(each, axis=_axis(path, each, total, batch, name), settled=True).checked(path))
    return total, settled


def _first(path: Path, given: Sequence[_Given]) -> tuple[_Given, int]:
    """The input that says how many there are, and where it does: one whose axis was given or has a name with "batch" in
    it; else one that is free in front; else one whose array is longer in front than the model says; else the first."""
    for each in given:
        if each.settled and each.axis is not None:
            return each, each.axis
    free = [each for each in given if not each.settled]
    for each in free:
        for i in range(len(each.wanted)):
            if "batch" in _name(each, i).lower():
                return each, i
    rules = (
        lambda each: each.wanted[0] is None,
        lambda each: each.array.ndim and each.array.shape[0] != each.wanted[0] and each.fits(0),
        lambda each: True,
    )
    for rule in rules:
        for each in free:
            if rule(each):
                return each, 0
    raise UserError(f"{path}: no input of the model has a batch dimension")


def _name(given: _Given, axis: int) -> str:
    of_axes = names(given.proto)
    return of_axes[axis] if axis < len(of_axes) else ""


def _axis(path: Path, each: _Given, total: int, batch: int | None, name: str) -> int | None:
    """Where an input has its batch; None: it is given once.

    Args:
        total: inputs that another one has.
        batch: how many of them the model takes at a time; None: any number.
        name: of the model's batch dimension, or nothing.
    """
    if name and name in names(each.proto):
        return names(each.proto).index(name)
    could = [i for i, size in enumerate(each.wanted) if size is None or size == batch]
    holds = [i for i in could if each.fits(i) and each.array.shape[i] == total]
    if 0 in holds or len(holds) == 1:
        return 0 if 0 in holds else holds[0]
    if each.wanted[0] is None or (each.fits(0) and each.array.shape[0] == total):
        return 0
    if not holds and None not in each.wanted:
        return 0 if each.fits(0) and not each.fits(None) else None
    input_name, shape = shown(each.proto.name), list(each.array.shape)
    where = f"axes {' and '.join(map(str, holds))} hold" if holds else "none of its axes holds"
    raise UserError(
        f"{path}: array {input_name} is {shape}, and {where} the {total} inputs: name the batch's, --batch-axis "
        f"(batch_axes) {input_name}=AXIS, or say that it is given once, {input_name}=none"
    )


def _as_typed(path: Path, proto: ValueInfoProto, array: Array) -> Array:
    """An array in the type of the input that it is for."""
    name, dtype = shown(proto.name), dtype_of(proto)
    same = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype.kind not in same:
        raise UserError(f"{path}: array {name} holds {array.dtype}, the model takes {dtype}")
    with np.errstate(over="ignore"):
        found = np.array(array, dtype, order="C")
    if not np.isfinite(found).all():
        raise UserError(f"{path}: array {name} holds NaN or infinity")
    if dtype.kind in "iu" and not np.array_equal(found, array):
        raise UserError(f"{path}: array {name} holds numbers that are no {dtype}")
    return found
