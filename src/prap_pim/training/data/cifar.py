"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from a folder that the user has. Nothing is fetched, nothing unpickled.

The binary version is read with NumPy: records of one byte of label (CIFAR-100: two, coarse and fine) and 3072 bytes of
image, three planes of 32 rows. Hugging Face's parquet files hold PNG images.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from prap_pim.common.errors import UserError
from prap_pim.common.files import check_plain
from prap_pim.common.settings import Settings
from prap_pim.training.data.splits import Splits, load, normalised, stratified_order

UInt8 = NDArray[np.uint8]

_SIDE = 32  # pixels
_PIXELS = 3 * _SIDE * _SIDE


class CifarConfig(Settings):
    """CIFAR's own test part is the test; calibration and training images are cut from its training part."""

    name: Literal["cifar10", "cifar100"]
    folder: Path  # with the .bin or .parquet files; relative to where the command is run
    train: int | None = Field(default=None, ge=1)  # images; None: all that calibration leaves
    calibration: int = Field(default=1000, ge=1)
    test: int | None = Field(default=None, ge=1)  # None: all of the test part


@dataclass(frozen=True)
class _Version:
    """How one of the two data sets is kept.

    Attributes:
        title: its name.
        classes: number of (fine) classes.
        archive: the archive of its binary version.
        inside: the folder in that archive.
        train, test: binary files of each part.
        label_bytes: of a binary record; the last is the label.
        label_columns: what the label is called in parquet files, the first that is there.
        pickled: a file of the Python version.
    """

    title: str
    classes: int
    archive: str
    inside: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    label_columns: tuple[str, ...]
    pickled: str


_VERSIONS = {
    "cifar10": _Version(
        title="CIFAR-10",
        classes=10,
        archive="cifar-10-binary.tar.gz",
        inside="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        label_bytes=1,
        label_columns=("label", "labels"),
        pickled="data_batch_1",
    ),
    "cifar100": _Version(
        title="CIFAR-100",
        classes=100,
        archive="cifar-100-binary.tar.gz",
        inside="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        label_bytes=2,
        label_columns=("fine_label", "label"),
        pickled="train",
    ),
}


@load.register
def _(config: CifarConfig, seed: int) -> Splits:
    version = _VERSIONS[config.name]
    images, labels, test_images, test_labels = _read(version, config.folder)
    rest = len(images) - config.calibration
    train = rest if config.train is None else config.train
    test = len(test_images) if config.test is None else config.test
    if train > rest or train < 1 or test > len(test_images):
        raise UserError(
            f"{version.title} in {config.folder}: {len(images)} training and {len(test_images)} test images are "
            f"too few for {max(train, 1)} to train, {config.calibration} to calibrate and {test} to test"
        )
    generator = np.random.default_rng(seed)
    order = stratified_order(labels, generator)
    test_order = stratified_order(test_labels, generator)
    return normalised(
        f"{version.title}, 32x32",
        version.classes,
        _part(images, labels, order[config.calibration : config.calibration + train]),
        _part(images, labels, order[: config.calibration]),
        _part(test_images, test_labels, test_order[:test]),
    )


def _part(images: UInt8, labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images[chosen]).float().div_(255), torch.from_numpy(labels[chosen])


def _read(version: _Version, folder: Path) -> tuple[UInt8, NDArray[np.int64], UInt8, NDArray[np.int64]]:
    """Images [N, 3, 32, 32] and labels of the training part, then of the test part."""
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder} with {version.title}: unpack {version.archive} "
            "(https://www.cs.toronto.edu/~kriz/cifar.html) there"
        )
    for place in (folder, folder / version.inside):
        if any((place / name).exists() for name in version.train + version.test):
            return *_read_binary(version, place, version.train), *_read_binary(version, place, version.test)
    tables = {part: sorted(folder.glob(f"**/{part}-*.parquet")) for part in ("train", "test")}
    if all(tables.values()):
        return *_read_parquet(version, tables["train"]), *_read_parquet(version, tables["test"])
    if any(folder.glob(f"**/{version.pickled}")):
        raise UserError(
            f"{folder} holds the Python version of {version.title}, which is pickled: reading it could run any code, "
            f"so it is not read; get the binary version, {version.archive}"
        )
    if (folder / version.archive).exists():
        raise UserError(f"{folder / version.archive} is still packed: unpack it there")
    raise UserError(
        f"{folder} does not hold {version.title}: expected {', '.join(version.train + version.test)} "
        f"(from {version.archive}), or train-*.parquet and test-*.parquet"
    )


def _read_binary(version: _Version, folder: Path, names: Sequence[str]) -> tuple[UInt8, NDArray[np.int64]]:
    record = version.label_bytes + _PIXELS
    parts: list[UInt8] = []
    for name in names:
        path = folder / name
        try:
            check_plain(path)
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if not content or len(content) % record:
            raise UserError(f"{path}: {len(content)} bytes are not a whole number of {version.title}'s {record}")
        if parts and len(content) != parts[0].size:
            raise UserError(f"{path}: {len(content)} bytes, but {names[0]} has {parts[0].size}; one of them is cut off")
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, record))
        _check_labels(version, path, parts[-1][:, version.label_bytes - 1])
    records = np.concatenate(parts)
    images = records[:, version.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
    return images, records[:, version.label_bytes - 1].astype(np.int64)


def _read_parquet(version: _Version, paths: Sequence[Path]) -> tuple[UInt8, NDArray[np.int64]]:
    # imported here: the binary version, and other data, need neither
    from PIL import Image, UnidentifiedImageError
    from pyarrow import ArrowException, parquet

    images, labels = [], []
    for path in paths:
        try:
            names = parquet.read_schema(path).names
            image = next((name for name in ("img", "image") if name in names), None)
            label = next((name for name in version.label_columns if name in names), None)
            if image is None or label is None:
                raise UserError(f"{path}: {version.title} has columns img and {version.label_columns[0]}, not {names}")
            table = parquet.read_table(path, columns=[image, label])
            pictures = [Image.open(io.BytesIO(cell["bytes"])) for cell in table[image].to_pylist()]
            if not pictures or any(picture.size != (_SIDE, _SIDE) for picture in pictures):
                raise UserError(f"{path}: expected images of 32x32 pixels, at least one")
            arrays = [np.asarray(picture.convert("RGB"), np.uint8) for picture in pictures]
            classes = np.asarray(table[label].to_pylist(), np.int64)
        except (ArrowException, UnidentifiedImageError, SyntaxError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"cannot read {path}: it is not a parquet file of {version.title} images") from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        _check_labels(version, path, classes)
        images += arrays
        labels.append(classes)
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)), np.concatenate(labels)


def _check_labels(version: _Version, path: Path, labels: NDArray[np.uint8] | NDArray[np.int64]) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= version.classes:
        wrong = low if low < 0 else high
        raise UserError(f"{path}: a label is {wrong}, {version.title}'s are 0..{version.classes - 1}")
