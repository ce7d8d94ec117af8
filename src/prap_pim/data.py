"""Images and labels: where they come from, how they are split, and how training images are varied.

A source is a config and a handler of ``load``; one is chosen by its ``name`` in the configuration.
"""

import zipfile
import zlib
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from prap_pim.errors import UserError
from prap_pim.settings import Settings


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with their classes.

    Attributes:
        images: float32 [N, C, H, W].
        labels: int64 [N], 0 .. classes - 1.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.float32 or self.images.numel() == 0:
            raise UserError(f"images must be float32 [N, C, H, W] and not empty, not {tuple(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise UserError(f"labels must be int64 [{len(self.images)}], not {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set cut into three disjoint parts, normalised to mean 0 and deviation 1 of the training part.

    Attributes:
        description: what the data are, for the report.
        classes: number of classes.
        train: to train on.
        calibration: to choose activation scales and batch-norm statistics with; its labels are not used.
        test: to report accuracy on, used for nothing else.
    """

    description: str
    classes: int
    train: Examples
    calibration: Examples
    test: Examples


class _SplitConfig(Settings):
    """Sizes of the parts, in images."""

    train: int | None = Field(default=None, ge=1)  # None: all that the other two leave
    calibration: int = Field(default=320, ge=1)
    test: int = Field(default=400, ge=1)


class DigitsConfig(_SplitConfig):
    """The 1797 handwritten digits that ship with scikit-learn, 8x8 pixels, resized."""

    name: Literal["digits"] = "digits"
    size: int = Field(default=32, ge=4, le=512)  # pixels of a side


class ArraysConfig(_SplitConfig):
    """The user's own images: one .npz file with ``images`` [N, C, H, W] or [N, H, W] and ``labels`` [N].

    Images of integers are read as 0..255, others are taken as they are; both are normalised afterwards.
    """

    name: Literal["npz"] = "npz"
    path: Path  # relative to the configuration file


DataConfig = Annotated[DigitsConfig | ArraysConfig, Field(discriminator="name")]


@singledispatch
def load(config: Any, seed: int, base: Path = Path()) -> Splits:
    """Read a data set and split it, each part with the same share of every class.

    Args:
        config: a source's config.
        seed: the same seed gives the same split.
        base: what a relative path in the config is relative to.

    Raises:
        UserError: the data are missing, unreadable, empty, or too few for the split.
    """
    raise TypeError(f"no data source for {type(config).__name__}")


@load.register
def _(config: DigitsConfig, seed: int, base: Path = Path()) -> Splits:
    from sklearn.datasets import load_digits  # takes a second, and only this source needs it

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float()[:, None] / 16  # 4-bit grey values 0..16
    shrinks = config.size < pixels.shape[-1]
    images = functional.interpolate(pixels, (config.size, config.size), mode="bilinear", antialias=shrinks)
    description = f"scikit-learn's handwritten digits, 8x8 resized to {config.size}x{config.size}"
    return _split(description, images, torch.from_numpy(bunch.target).long(), config, seed)


@load.register
def _(config: ArraysConfig, seed: int, base: Path = Path()) -> Splits:
    images, labels = _read_arrays(base / config.path)
    return _split(f"{config.path.name} (the user's own images)", images, labels, config, seed)


def _read_arrays(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with path.open("rb") as handle:  # opened here: numpy forgets to close a broken file
            file = np.load(handle, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UserError(f"cannot read {path}: it is a single array, not an .npz file")
            missing = {"images", "labels"} - set(file.files)
            if missing:
                raise UserError(f"cannot read {path}: it has no array called {min(missing)!r}")
            images, labels = file["images"], file["labels"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"cannot read {path}: its arrays do not fit into memory") from error
    except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {path}: it is not an .npz file of plain arrays") from error

    if images.ndim not in (3, 4) or images.size == 0:
        raise UserError(f"{path}: images must be [N, C, H, W] or [N, H, W] and not empty, not {list(images.shape)}")
    if images.dtype.kind not in "uif":
        raise UserError(f"{path}: images must be numbers, not {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
        raise UserError(f"{path}: labels must be integers [{len(images)}], not {labels.dtype} {list(labels.shape)}")
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


def _split(description: str, images: Tensor, labels: Tensor, config: _SplitConfig, seed: int) -> Splits:
    rest = len(images) - config.test - config.calibration
    train = rest if config.train is None else config.train
    if train > rest or train < 1:
        raise UserError(
            f"{description}: {len(images)} images are too few for {config.test} to test, {config.calibration} "
            f"to calibrate and {max(train, 1)} to train"
        )
    order = torch.from_numpy(stratified_order(labels.numpy(), np.random.default_rng(seed)))
    test, calibration, training, _ = torch.split(order, [config.test, config.calibration, train, rest - train])
    mean = images[training].mean(dim=(0, 2, 3), keepdim=True)  # [1, C, 1, 1]
    deviation = images[training].std(dim=(0, 2, 3), keepdim=True, correction=0)
    normal = (images - mean) / torch.where(deviation > 0, deviation, 1)
    return Splits(
        description,
        int(labels.max()) + 1,
        *(Examples(normal[part], labels[part]) for part in (training, calibration, test)),
    )


def stratified_order(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """A random order of which every stretch has each class in (nearly) its share of the whole.

    The i-th of the n images of a class is placed at (i + 1/2) / n of the way; so any stretch holds the class's share of
    images to within one at either end.

    Args:
        labels: int64 [N].
        generator: which image of a class comes when is drawn from it.

    Returns:
        int64 [N], a permutation.
    """
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, start, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(start, count)
    place = (rank + 0.5) / np.repeat(count, count)
    return by_class[np.lexsort((generator.random(len(labels)), place))].astype(np.int64)


class AugmentConfig(Settings):
    """How far a training image is varied at random; all zero: not at all."""

    rotation: float = Field(default=10.0, ge=0, le=180)  # degrees, either way
    shift: float = Field(default=0.08, ge=0, le=0.5)  # of the image's side, either way and axis
    scale: float = Field(default=0.1, ge=0, lt=1)  # relative, larger or smaller
    noise: float = Field(default=0.05, ge=0)  # standard deviation, in deviations of the data


def augment(config: AugmentConfig, images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shift, scale and disturb each image by its own random amounts.

    Args:
        config: the largest amounts.
        images: float32 [N, C, H, W]; what comes in from outside an image has the image's least value ("black").
        generator: on the CPU; every random number is drawn from it.

    Returns:
        float32 [N, C, H, W], on the images' device.
    """
    count, _, height, width = images.shape
    turn, zoom, right, down = (2 * torch.rand(4, count, generator=generator) - 1).unbind()  # each -1..1
    angle = torch.deg2rad(turn * config.rotation)
    factor = 1 + zoom * config.scale
    # The map from a place in the result to its place in the image, in units of half a side; the sides' ratio keeps a
    # turned oblong image's angles right.
    cosine, sine = torch.cos(angle) / factor, torch.sin(angle) / factor
    ratio = height / width
    upper = torch.stack([cosine, -sine * ratio, 2 * config.shift * right], dim=1)
    lower = torch.stack([sine / ratio, cosine, 2 * config.shift * down], dim=1)
    transform = torch.stack([upper, lower], dim=1).to(images.device)  # [N, 2, 3]
    grid = functional.affine_grid(transform, list(images.shape), align_corners=False)
    black = images.amin(dim=(2, 3), keepdim=True)
    moved = functional.grid_sample(images - black, grid, padding_mode="zeros", align_corners=False) + black
    if config.noise == 0:
        return moved
    return moved + config.noise * torch.randn(images.shape, generator=generator).to(images.device)
