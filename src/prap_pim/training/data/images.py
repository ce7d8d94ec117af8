"""The user's own pictures in folders by class, read one by one."""

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
from prap_pim.common.files import digest_of
from prap_pim.common.memory import check_room
from prap_pim.training.data.pictures import Pictures, to_calibrate, warn_of_few
from prap_pim.training.data.splits import Examples, Splits, Streamed, load, stratified_order

_KINDS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_HELD = ("val", "valid", "validation", "test")  # what the folder to test with may be called
_CALIBRATION = 320  # pictures to calibrate with, if there are as many
_SHARE = 5  # one in so many is tested with where nothing says which


class ImagesConfig(Pictures):
    """``folder/train/CLASS/...`` with ``folder/val/CLASS/...`` (or ``valid``, ``validation``, ``test``), or one
    ``folder/CLASS/...`` that is split. Classes are numbered in the order of their names.

    Attributes:
        folder: of these.
        train: pictures; None: all that calibration leaves.
        calibration: pictures, taken from those to train on; where nobody says how many and there are few, half of
            these, or what ``train`` leaves.
        test: pictures; None: all of its folder, or a fifth of one that is split.
    """

    name: Literal["images"] = "images"
    folder: Path
    train: int | None = Field(default=None, ge=1)
    calibration: int = Field(default=_CALIBRATION, ge=1)
    test: int | None = Field(default=None, ge=1)


@load.register
def _(config: ImagesConfig, seed: int) -> Splits:
    root, generator = config.folder, np.random.default_rng(seed)
    if not root.is_dir():
        raise UserError(f"data: there is no folder {root}")
    held = next((root / name for name in _HELD if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held is not None:
        classes, files, labels = _listed(root / "train")
        names, tests, test_labels = _listed(held)
        if names != classes:
            odd = sorted(set(names) ^ set(classes))[0]
            raise UserError(f"data: {root}: class {odd!r} is not in both {held.name} and train")
        order = stratified_order(test_labels, generator)[: config.test]
        test = [tests[i] for i in order], test_labels[order]
        rest = stratified_order(labels, generator)
    else:
        classes, files, labels = _listed(root / "train" if (root / "train").is_dir() else root)
        order = stratified_order(labels, generator)
        count = config.test or max(1, len(files) // _SHARE)
        test, rest = ([files[i] for i in order[:count]], labels[order[:count]]), order[count:]
    count = to_calibrate(config.calibration, _CALIBRATION, config.train, len(rest), root)
    calibration, training = rest[:count], rest[count:][: config.train]
    if not count or not len(training) or len(calibration) < count or len(training) < (config.train or 1):
        raise UserError(
            f"data: {root} has {len(rest):,} pictures to train and calibrate with, too few for {count or 1:,} "
            f"to calibrate and {config.train or 1:,} to train"
        )
    check_room(
        3 * 4 * len(calibration) * config.size**2, f"data: {len(calibration):,} pictures of {config.size} pixels a side"
    )
    parts = [_streamed(config, [files[i] for i in part], labels[part]) for part in (training, calibration)]
    return Splits(
        f"{root.name}: pictures of {len(classes)} classes (the user's own)",
        len(classes),
        parts[0],
        Examples(*parts[1].take(torch.arange(len(parts[1])))),
        _streamed(config, *test),
    )


def to_calibrate_with(folder: Path) -> Tensor:
    """Pictures of a folder, of its ``train`` if it has one, in folders by class or not, float32 [N, 3, 224, 224].

    Raises:
        UserError: there are none, or one cannot be read.
    """
    root = folder / "train" if (folder / "train").is_dir() else folder
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in _KINDS)
    if not files:
        raise UserError(f"data: there are no pictures in {root}")
    chosen = np.random.default_rng(0).permutation(len(files))[:_CALIBRATION]
    warn_of_few(len(chosen), folder)
    read = Pictures()
    return torch.stack([read.picture(files[i], str(files[i])) for i in sorted(chosen)])


def _listed(folder: Path) -> tuple[list[str], list[Path], NDArray[np.int64]]:
    """Classes, pictures, and their labels, int64 [N].

    Raises:
        UserError: there are no pictures, or only of one class.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files, labels = list[Path](), list[int]()
    for number, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in _KINDS)
        files += found
        labels += [number] * len(found)
    if len(set(labels)) < 2:
        raise UserError(f"data: {folder} must have a folder of pictures for each of two classes or more")
    return classes, files, np.array(labels, np.int64)


@dataclass(frozen=True, eq=False)
class _Read:
    """A picture and its label, by their number."""

    config: Pictures
    files: Sequence[Path]
    labels: Tensor

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        file = self.files[number]
        return self.config.picture(file, str(file)), self.labels[number]


def _streamed(config: Pictures, files: Sequence[Path], labels: NDArray[np.int64]) -> Streamed:
    sizes = (f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in files)
    digest = digest_of(*sizes, config.model_dump_json(include=set(Pictures.model_fields)))
    return Streamed(len(files), _Read(config, files, torch.from_numpy(labels)), digest)
