"""Calibration inputs of an ONNX model, from an npz file: nothing is unpickled, and they must fit the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from torch import Tensor

from prap_pim.errors import UserError
from prap_pim.onnx_model.file import Array, OnnxFile, shown
from prap_pim.onnx_model.lower import input_protos
from prap_pim.onnx_model.program import to_tensor
from prap_pim.settings import nearest

_BATCH = 64  # inputs at a time where the model takes any number


def read_batches(file: OnnxFile, path: Path) -> list[tuple[Tensor, ...]]:
    """Batches of a model's inputs, in their order: 64 at a time, or as many as the model takes; float as float32.

    Args:
        file: the model.
        path: an npz file with an array [N, ...] for each input, of its name; the name does not matter if there is one.

    Raises:
        UserError: the file cannot be read, or does not hold what the model takes: another name, type or shape, NaN.
    """
    protos = input_protos(file)
    if not protos:
        raise UserError(f"{file.path}: the model has no inputs")
    found = _arrays(path)
    names = [each.name for each in protos]
    if len(found) == len(names) == 1:
        found = {names[0]: next(iter(found.values()))}
    for name in (*names, *found):
        if name not in found:
            raise UserError(f"{path}: it has no array for the model's input {shown(name)!r}")
        if name not in names:
            raise UserError(f"{path}: the model has no input {shown(name)!r} ({nearest(name, [*map(shown, names)])})")
    arrays = [_fitting(path, each, found[each.name]) for each in protos]
    total = len(arrays[0])
    if any(len(array) != total for array in arrays):
        raise UserError(f"{path}: its arrays hold {', '.join(str(len(array)) for array in arrays)} inputs, not as many")
    fixed = fixed_batch(file)
    size = fixed or _BATCH
    if total == 0 or total % (fixed or 1):
        raise UserError(f"{path}: it holds {total} inputs, but the model takes {fixed or 'one or more'} at a time")
    tensors = [to_tensor(array) for array in arrays]
    return [tuple(tensor[at : at + size] for tensor in tensors) for at in range(0, total, size)]


def fixed_batch(file: OnnxFile) -> int | None:
    """Inputs that a model takes at a time; None: any number.

    Raises:
        UserError: its inputs disagree.
    """
    sizes = {size for each in input_protos(file) for size in _sizes(each)[:1] if size is not None}
    if len(sizes) > 1:
        both = " and ".join(map(str, sorted(sizes)))
        raise UserError(f"{file.path}: its inputs have first dimensions of {both}; that must be one batch")
    return next(iter(sizes), None)


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as opened:
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise UserError(f"cannot read {path}: it is no npz file; write one with numpy.savez")
            found: Mapping[str, Any] = {name: opened[name] for name in opened.files}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive makes zipfile, zlib and numpy say many things
        raise UserError(f"cannot read {path}: it is no whole npz file of plain arrays (none is unpickled)") from error
    if not all(isinstance(array, np.ndarray) for array in found.values()):
        raise UserError(f"cannot read {path}: it holds other things than arrays")
    return dict(found)


def _sizes(proto: Any) -> list[int | None]:
    """Of an input's dimensions; None: any. The first is the batch."""
    shape = proto.type.tensor_type.shape
    return [each.dim_value if each.HasField("dim_value") and each.dim_value > 0 else None for each in shape.dim]


def _fitting(path: Path, proto: Any, array: Array) -> Array:
    """An array as the input that it is for."""
    name = shown(proto.name)
    if not proto.type.HasField("tensor_type"):
        raise UserError(f"the model's input {name} is no tensor")
    kind, sizes = proto.type.tensor_type, _sizes(proto)
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype.kind not in "fiub":
        raise UserError(f"the model's input {name} is of a type that cannot be given in an npz file")
    if not kind.HasField("shape"):
        sizes = [None] * array.ndim
    if not sizes or array.ndim == 0:
        raise UserError(f"the model's input {name} has no batch dimension")
    same = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype.kind not in same:
        raise UserError(f"{path}: array {name} holds {array.dtype}, the model takes {dtype}")
    fits = len(sizes) == array.ndim and all(w in (None, g) for w, g in zip(sizes[1:], array.shape[1:], strict=True))
    if not fits or 0 in array.shape[1:]:
        wanted = ["N", *("any" if size is None else str(size) for size in sizes[1:])]
        raise UserError(f"{path}: array {name} is {list(array.shape)}, the model takes [{', '.join(wanted)}]")
    with np.errstate(over="ignore"):
        found = np.array(array, dtype, order="C")
    if not np.isfinite(found).all():
        raise UserError(f"{path}: array {name} holds NaN or infinity")
    if dtype.kind in "iu" and not np.array_equal(found, array):
        raise UserError(f"{path}: array {name} holds numbers that are no {dtype}")
    return found
