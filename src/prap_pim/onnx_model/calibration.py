"""Calibration inputs of an ONNX model, from an npz file: nothing is unpickled, and they must fit the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ValueInfoProto
from torch import Tensor

from prap_pim.errors import UserError
from prap_pim.onnx_model.file import Array, OnnxFile, dtype_of, shown, sizes
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
    protos = file.inputs
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
    fixed = file.batch
    size = fixed or _BATCH
    if total == 0 or total % (fixed or 1):
        raise UserError(f"{path}: it holds {total} inputs, but the model takes {fixed or 'one or more'} at a time")
    tensors = [to_tensor(array) for array in arrays]
    return [tuple(tensor[at : at + size] for tensor in tensors) for at in range(0, total, size)]


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as stream:
            opened = np.load(stream, allow_pickle=False)
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


def _fitting(path: Path, proto: ValueInfoProto, array: Array) -> Array:
    """An array as the input that it is for."""
    name, dtype = shown(proto.name), dtype_of(proto)
    wanted = sizes(proto) if proto.type.tensor_type.HasField("shape") else [None] * array.ndim
    if not wanted or array.ndim == 0:
        raise UserError(f"the model's input {name} has no batch dimension")
    same = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype.kind not in same:
        raise UserError(f"{path}: array {name} holds {array.dtype}, the model takes {dtype}")
    fits = len(wanted) == array.ndim and all(w in (None, g) for w, g in zip(wanted[1:], array.shape[1:], strict=True))
    if not fits or 0 in array.shape[1:]:
        form = ["N", *("any" if size is None else str(size) for size in wanted[1:])]
        raise UserError(f"{path}: array {name} is {list(array.shape)}, the model takes [{', '.join(form)}]")
    with np.errstate(over="ignore"):
        found = np.array(array, dtype, order="C")
    if not np.isfinite(found).all():
        raise UserError(f"{path}: array {name} holds NaN or infinity")
    if dtype.kind in "iu" and not np.array_equal(found, array):
        raise UserError(f"{path}: array {name} holds numbers that are no {dtype}")
    return found
