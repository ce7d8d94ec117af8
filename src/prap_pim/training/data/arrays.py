"""The user's own images, as NumPy arrays."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from prap_pim.common.arrays import Header, read_arrays, read_headers
from prap_pim.common.errors import UserError
from prap_pim.training.data.splits import SplitConfig, Splits, load, split


class ArraysConfig(SplitConfig):
    """The user's own images: one .npz file with ``images`` [N, C, H, W] or [N, H, W] and ``labels`` [N].

    Images of integers are read as 0..255, others are taken as they are; both are normalised afterwards.
    """

    name: Literal["npz"] = "npz"
    path: Path  # relative to the current directory


@load.register
def _(config: ArraysConfig, seed: int) -> Splits:
    images, labels = _read_arrays(config.path)
    return split(f"{config.path.name} (the user's own images)", images, labels, config, seed)


def _read_arrays(path: Path) -> tuple[Tensor, Tensor]:
    headers = read_headers(path)
    missing = {"images", "labels"} - set(headers)
    if missing:
        raise UserError(f"cannot read {path}: it has no array called {min(missing)!r}")
    _check(path, headers["images"], headers["labels"])
    found = read_arrays(path, ("images", "labels"))
    images, labels = found["images"], found["labels"]
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))) or len(present) < 2:
        raise UserError(
            f"{path}: labels must be the numbers 0 .. classes - 1, each at least once, of two classes or more"
        )
    real = images.astype(np.float32) / np.float32(255 if images.dtype.kind in "ui" else 1)
    if not np.isfinite(real).all():
        raise UserError(f"{path}: images hold NaN or infinity")
    if real.ndim == 3:
        real = real[:, None]
    return torch.from_numpy(real), torch.from_numpy(labels.astype(np.int64))


def _check(path: Path, images: Header, labels: Header) -> None:
    """
    Raises:
        UserError: they are of another form than images and their labels.
    """
    if len(images.shape) not in (3, 4) or 0 in images.shape:
        raise UserError(f"{path}: images must be [N, C, H, W] or [N, H, W] and not empty, not {list(images.shape)}")
    if images.dtype.kind not in "uif":
        raise UserError(f"{path}: images must be numbers, not {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
        raise UserError(f"{path}: labels must be integers [{images.shape[0]}], not {labels.dtype} {list(labels.shape)}")
