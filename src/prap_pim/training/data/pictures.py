"""Pictures as a network reads them: resized, cut, normalised."""

import logging
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import check_plain
from prap_pim.common.settings import Settings

_logger = logging.getLogger(__name__)

_FEW = 64  # pictures to calibrate with: fewer are warned of
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's networks want it


class Pictures(Settings):
    """How pictures become inputs, float32 [C, size, size].

    Attributes:
        size: of the square that is cut from the middle, pixels.
        resize: to which the shorter side is scaled before; None: 8/7 of ``size``, as 256 of 224.
        grey: one channel, not three.
        mean: of each channel, black 0 and white 1; taken off.
        deviation: of each channel, divided by. Grey has the means of both.
    """

    size: int = Field(default=224, ge=1, le=4096)
    resize: int | None = Field(default=None, ge=1, le=8192)
    grey: bool = False
    mean: tuple[float, float, float] = _MEAN
    deviation: tuple[float, float, float] = _DEVIATION

    def picture(self, file: Path | IO[bytes], name: str) -> Tensor:
        """One picture.

        Raises:
            UserError: it cannot be read; it is named.
        """
        if isinstance(file, Path):
            check_plain(file)
        try:
            with Image.open(file) as found:
                image = found.convert("L" if self.grey else "RGB")
        except OSError as error:
            raise UserError(f"cannot read {name}: {one_line(error)}") from error
        side = self.resize or round(self.size * 8 / 7)
        scale = max(side, self.size) / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        values = torch.from_numpy(np.array(image, np.float32) / 255)
        values = values[None] if self.grey else values.permute(2, 0, 1)
        mean, deviation = (torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 1) for x in (self.mean, self.deviation))
        if self.grey:
            mean, deviation = mean.mean(), deviation.mean()
        return ((values - mean) / deviation).contiguous()


def to_calibrate(asked: int, most: int, train: int | None, there: int, where: Path) -> int:
    """How many of the pictures that are not tested with to calibrate with.

    Args:
        asked: by the configuration.
        most: which it has where nobody said it: then, of few pictures, half, or what training leaves.
        train: pictures to train with; None: the rest.
        there: pictures.
        where: they are from, for the warning that they are few.
    """
    if asked != most or there >= asked + (train or 1):
        return asked
    count = max(0, there - (train or -(-there // 2)))
    warn_of_few(count, where)
    return count


def warn_of_few(count: int, where: Path) -> None:
    """That a folder has few pictures to calibrate with, if it has."""
    if count < _FEW:
        _logger.warning("data: %s leaves %d pictures to calibrate with; %d or more are better", where, count, _FEW)
