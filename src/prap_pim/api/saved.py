"""A compression in a folder: plan, weights, an example batch, and a manifest with digests. Nothing is unpickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of, file_digest, key_of, read_json, write_json, write_whole
from prap_pim.frontend import Inputs
from prap_pim.results.entries import damaged

_FORMAT = "prap-pim compression 1"
_MANIFEST = "manifest.json"

State = Mapping[str, Tensor]


def write_folder(path: Path, content: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write files, then the manifest with their digests; each whole or not at all.

    Raises:
        UserError: a file cannot be written.
    """
    for name, data in files.items():
        write_whole(path / name, data)
    manifest = {"format": _FORMAT, **content, "files": {name: digest_of(data) for name, data in files.items()}}
    write_json(path / _MANIFEST, {**manifest, "sha256": key_of(manifest)})


def read_folder(path: Path) -> dict[str, Any]:
    """The manifest; its files are as they were written.

    Raises:
        UserError: it is no such folder, or a file is missing or damaged.
    """
    manifest = read_json(path / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise UserError(f"{path} is not a compression that was saved by this version ({_FORMAT})")
    if manifest.pop("sha256", None) != key_of(manifest):
        raise damaged(path / _MANIFEST)
    for name, digest in manifest["files"].items():
        if file_digest(path / name) != digest:
            raise damaged(path / name)
    return manifest


def packed(state: State) -> bytes:
    """Tensors as a safetensors file; each gets memory of its own."""
    return save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})


def read_state(path: Path) -> dict[str, Tensor]:
    """What ``packed`` made.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {path}: it is not a whole safetensors file") from error


@torch.no_grad()
def put_state(model: nn.Module, state: State) -> None:
    """Give a module parameters and buffers that it may not have had: biases, or a head that is no longer tied.

    Raises:
        UserError: it has no place for one of them.
    """
    for name, value in state.items():
        owner, _, key = name.rpartition(".")
        try:
            module = model.get_submodule(owner)
        except AttributeError as error:
            raise UserError(f"the model has no module {owner}: it is not the one that was compressed") from error
        if key in module._buffers:
            module._buffers[key] = value
        else:
            setattr(module, key, nn.Parameter(value, requires_grad=value.is_floating_point()))


def pack_batch(batch: Inputs) -> tuple[Any, dict[str, Tensor]]:
    """A batch as plain values and tensors.

    Raises:
        UserError: it holds something else.
    """
    found: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            found[str(len(found))] = value
            return {"tensor": str(len(found) - 1)}
        if isinstance(value, tuple | list):
            return {"tuple" if isinstance(value, tuple) else "list": [plain(each) for each in value]}
        if isinstance(value, Mapping):
            return {"dict": [[str(key), plain(each)] for key, each in value.items()]}
        if isinstance(value, str | int | float | bool | None):
            return {"value": value}
        raise UserError(f"a {type(value).__name__} in the calibration batches cannot be saved: give tensors")

    return plain(batch), found


def unpack_batch(plain: Any, tensors: State) -> Inputs:
    """What ``pack_batch`` was given."""
    ((kind, value),) = plain.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unpack_batch(each, tensors) for key, each in value}
    if kind == "value":
        return value
    items = [unpack_batch(each, tensors) for each in value]
    return tuple(items) if kind == "tuple" else items
