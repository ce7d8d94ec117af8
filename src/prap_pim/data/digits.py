"""Handwritten digits: real images that are always there."""

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from prap_pim.data.splits import SplitConfig, Splits, load, split


class DigitsConfig(SplitConfig):
    """The 1797 handwritten digits that ship with scikit-learn, 8x8 pixels, resized."""

    name: Literal["digits"] = "digits"
    size: int = Field(default=32, ge=4, le=512)  # pixels of a side


@load.register
def _(config: DigitsConfig, seed: int) -> Splits:
    from sklearn.datasets import load_digits  # takes a second, and only this source needs it

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float()[:, None] / 16  # 4-bit grey values 0..16
    shrinks = config.size < pixels.shape[-1]
    images = functional.interpolate(pixels, (config.size, config.size), mode="bilinear", antialias=shrinks)
    description = f"scikit-learn's handwritten digits, 8x8 resized to {config.size}x{config.size}"
    return split(description, images, torch.from_numpy(bunch.target).long(), config, seed)
