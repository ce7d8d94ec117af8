"""How training images are varied: a config and a handler of ``augment`` for each way."""

from functools import singledispatch
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor
from torch.nn import functional

from prap_pim.common.settings import Settings


class AffineAugment(Settings):
    """How far a training image is turned, shifted, scaled and disturbed at random; all zero: not at all."""

    kind: Literal["affine"] = "affine"

    rotation: float = Field(default=10.0, ge=0, le=180)  # degrees, either way
    shift: float = Field(default=0.08, ge=0, le=0.5)  # of the image's side, either way and axis
    scale: float = Field(default=0.1, ge=0, lt=1)  # relative, larger or smaller
    noise: float = Field(default=0.05, ge=0, le=1000)  # standard deviation, in deviations of the data


class CropFlipAugment(Settings):
    """A cut of the image's own size at a random place of the padded image, mirrored or not: the usual for CIFAR."""

    kind: Literal["crop-flip"] = "crop-flip"
    padding: int = Field(default=4, ge=0, le=64)  # pixels on every side
    flip: bool = True  # left and right, half of the images


def _affine_unless_told(value: Any) -> Any:
    return {"kind": "affine"} | value if isinstance(value, dict) else value


AugmentConfig = Annotated[
    AffineAugment | CropFlipAugment, Field(discriminator="kind"), BeforeValidator(_affine_unless_told)
]


@singledispatch
def augment(config: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary each image by its own random amounts.

    Args:
        config: a way and its largest amounts.
        images: float32 [N, C, H, W]; what comes in from outside an image has the image's least value ("black").
        generator: on the CPU; every random number is drawn from it.

    Returns:
        float32 [N, C, H, W], on the images' device.
    """
    raise TypeError(f"no augmentation for {type(config).__name__}")


def warp(images: Tensor, transform: Tensor) -> Tensor:
    """Move images by an affine map, bilinear.

    Args:
        images: float32 [N, C, H, W]; what comes in from outside an image has the image's least value.
        transform: float32 [N, 2, 3], the map from a place (x, y) in the result to its place in the image, in units of
            half a side, the origin in the centre.
    """
    grid = functional.affine_grid(transform, list(images.shape), align_corners=False)
    black = images.amin(dim=(2, 3), keepdim=True)
    return functional.grid_sample(images - black, grid, padding_mode="zeros", align_corners=False) + black


@augment.register
def _(config: AffineAugment, images: Tensor, generator: torch.Generator) -> Tensor:
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
    moved = warp(images, transform)
    if config.noise == 0:
        return moved
    return moved + config.noise * torch.randn(images.shape, generator=generator).to(images.device)


@augment.register
def _(config: CropFlipAugment, images: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    pad = config.padding
    black = images.amin(dim=(2, 3), keepdim=True)
    padded = black.repeat(1, 1, height + 2 * pad, width + 2 * pad)
    padded[:, :, pad : pad + height, pad : pad + width] = images
    down, right = torch.randint(2 * pad + 1, (2, count, 1), generator=generator).unbind()  # [N, 1]
    row = down + torch.arange(height)  # [N, H]
    column = right + torch.arange(width)  # [N, W]
    if config.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        column = torch.where(mirrored, column.flip(1), column)
    image = torch.arange(count)[:, None, None]
    chosen = (index.to(images.device) for index in (image, row[:, :, None], column[:, None, :]))
    return padded.permute(0, 2, 3, 1)[tuple(chosen)].permute(0, 3, 1, 2)
