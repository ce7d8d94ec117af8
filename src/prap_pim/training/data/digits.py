"""Handwritten digits: real images that are always there."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional

from prap_pim.common.memory import check_room
from prap_pim.training.data.perturb import Perturb, perturb
from prap_pim.training.data.splits import SplitConfig, Splits, cut, load, normalised, split


class DigitsConfig(SplitConfig):
    """The 1797 handwritten digits that ship with scikit-learn, 8x8 pixels, resized.

    Easy as they are; ``perturb`` makes all three parts harder, the test part as well.
    """

    name: Literal["digits"] = "digits"
    size: int = Field(default=32, ge=4, le=512)  # pixels of a side
    perturb: Perturb | None = None

    def needed(self, count: int) -> int:
        """Images that perturbing ``count`` of them makes."""
        assert self.perturb is not None
        rest = self.test + self.calibration
        return count + rest + self.perturb.copies * (count if self.train is None else self.train)


@load.register
def _(config: DigitsConfig, seed: int) -> Splits:
    grey, digits = _read()
    kept = len(grey) if config.perturb is None else config.needed(len(grey))
    check_room(3 * 4 * kept * config.size**2, f"data: {kept:,} digits of {config.size}x{config.size} pixels")
    pixels = torch.from_numpy(grey).float()[:, None] / 16  # 4-bit grey values 0..16
    shrinks = config.size < pixels.shape[-1]
    images = functional.interpolate(pixels, (config.size, config.size), mode="bilinear", antialias=shrinks)
    labels = torch.from_numpy(digits).long()
    description = f"scikit-learn's handwritten digits, 8x8 resized to {config.size}x{config.size}"
    if config.perturb is None:
        return split(description, images, labels, config, seed)
    how, (train, calibration, test) = config.perturb, cut(description, labels, config, seed)
    varied = [perturb(how, images[train], train.numpy(), seed, copy) for copy in range(how.copies)]
    return normalised(
        f"{description}, perturbed",
        int(labels.max()) + 1,
        (torch.cat(varied), labels[train].repeat(how.copies)),
        *((perturb(how, images[part], part.numpy(), seed), labels[part]) for part in (calibration, test)),
    )


def _read() -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Images [N, 8, 8] and labels [N], as ``sklearn.datasets.load_digits`` has them, whose import takes a second."""
    spec = find_spec("sklearn")
    if spec and spec.origin and (file := Path(spec.origin).parent / "datasets/data/digits.csv.gz").exists():
        values = np.loadtxt(file, delimiter=",")  # [N, 65]: grey values 0..16 and the digit
        return values[:, :-1].reshape(-1, 8, 8), values[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # of a version that has it elsewhere

    bunch = load_digits()
    return bunch.images, bunch.target
