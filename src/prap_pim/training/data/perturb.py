"""Images made harder to tell apart: each is moved, partly erased and disturbed, once and for all.

Unlike the augmentation of training images, this is a property of the data: test images have it too.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from prap_pim.common.settings import Settings
from prap_pim.training.data.augment import warp


class Perturb(Settings):
    """How far each image is perturbed at random; an amount of 0 leaves that out.

    Affine first (shear, then rotation and scale about the centre, then shift), then occlusion, then noise.
    """

    rotation: float = Field(default=15.0, ge=0, le=180)  # degrees, either way
    shear: float = Field(default=10.0, ge=0, le=89)  # degrees that upright lines lean, either way
    scale: float = Field(default=0.15, ge=0, lt=1)  # relative, larger or smaller
    shift: float = Field(default=0.08, ge=0, le=0.5)  # of the image's side, either way and axis
    occlusion: float = Field(default=0.3, ge=0, le=1)  # most that a side of the erased rectangle has of the image's
    noise: float = Field(default=0.15, ge=0, le=1000)  # standard deviation; black to white is 1
    copies: int = Field(default=1, ge=1, le=1000)  # of each training image, each perturbed in its own way


@dataclass(frozen=True)
class _Amounts:
    """What one image is perturbed by: drawn from a generator of its own, so no other image has a say in it."""

    transform: NDArray[np.float32]  # [2, 3], from a place in the result to its place in the image, in half sides
    erased: tuple[float, float, float, float]  # top, left, bottom, right; shares of the image
    noise: NDArray[np.float32]  # [C, H, W]


def perturb(config: Perturb, images: Tensor, numbers: NDArray[np.int64], seed: int, copy: int = 0) -> Tensor:
    """Perturb each image by its own random amounts.

    Args:
        config: the largest amounts.
        images: float32 [N, C, H, W], square, black 0 and white 1.
        numbers: int64 [N], of the images in their data set.
        seed: with the image's number and ``copy`` it decides what happens to an image, whichever others there are.
        copy: another one gives another version.

    Returns:
        float32 [N, C, H, W]; what comes in from outside an image is as dark as its darkest place, what is erased is
        black, and noise may go beyond black and white.
    """
    shape = tuple(images.shape[1:])
    drawn = [_draw(config, np.random.default_rng([seed, copy, int(number)]), shape) for number in numbers]
    moved = warp(images, torch.from_numpy(np.stack([amounts.transform for amounts in drawn])))
    for image, amounts in zip(moved, drawn, strict=True):
        side = image.shape[-1]
        top, left, bottom, right = (round(share * side) for share in amounts.erased)
        image[:, top:bottom, left:right] = 0
        image += torch.from_numpy(amounts.noise)
    return moved


def _draw(config: Perturb, generator: np.random.Generator, shape: tuple[int, ...]) -> _Amounts:
    turn, lean, zoom, right, down = generator.uniform(-1, 1, 5)
    angle, slope = np.deg2rad(turn * config.rotation), np.tan(np.deg2rad(lean * config.shear))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = (1 + zoom * config.scale) * rotation @ np.array([[1, slope], [0, 1]])
    inverse = np.linalg.inv(forward)
    shift = 2 * config.shift * np.array([right, down])  # an image is two half sides wide
    height, width = generator.uniform(config.occlusion / 2, config.occlusion, 2)
    top, left = generator.uniform(0, [1 - height, 1 - width])
    return _Amounts(
        transform=np.column_stack([inverse, -inverse @ shift]).astype(np.float32),
        erased=(top, left, top + height, left + width),
        noise=np.float32(config.noise) * generator.standard_normal(shape, np.float32),
    )
