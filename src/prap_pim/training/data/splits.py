"""Inputs and labels in three parts, and the verb that every data source registers its handler for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings

_BLOCK = 2**20  # values that are turned to float64 at a time


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with their classes, or sequences of tokens with the token that follows each.

    Attributes:
        inputs: images, float32 [N, C, H, W]; or tokens, int64 [N, T].
        labels: int64 [N]; or [N, T]. All 0 .. classes - 1.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.inputs.shape)
        expected = {(4, torch.float32): shape[:1], (2, torch.int64): shape}.get((len(shape), self.inputs.dtype))
        if expected is None or self.inputs.numel() == 0:
            raise UserError(
                f"inputs must be images, float32 [N, C, H, W], or tokens, int64 [N, T], and not empty, not {shape}"
            )
        if self.labels.shape != expected or self.labels.dtype != torch.int64:
            raise UserError(f"labels must be int64 {list(expected)}, not {tuple(self.labels.shape)}")

    @property
    def are_tokens(self) -> bool:
        """Whether the inputs are tokens."""
        return self.inputs.dtype == torch.int64

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of these numbers, int64 [n]."""
        return self.inputs[chosen], self.labels[chosen]

    @property
    def content(self) -> Iterator[bytes]:
        """All bytes, for a digest."""
        yield from (x.contiguous().numpy().tobytes() for x in (self.inputs, self.labels))


@dataclass(frozen=True, eq=False)
class Streamed:
    """Inputs with labels that are read one by one when they are asked for.

    Attributes:
        count: how many there are.
        read: input and label of a number.
        digest: of what they are read from.
        are_tokens: whether the inputs are tokens.
    """

    count: int
    read: Callable[[int], tuple[Tensor, Tensor]]
    digest: str
    are_tokens: bool = False

    def __len__(self) -> int:
        return self.count

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Examples.take``."""
        inputs, labels = zip(*map(self.read, chosen.tolist()), strict=True)
        return torch.stack(inputs), torch.stack(labels)

    @property
    def content(self) -> Iterator[bytes]:
        """What they are known by."""
        yield self.digest.encode()


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set cut into three disjoint parts; images normalised to mean 0 and deviation 1 of the training part.

    Data of the package have inputs with labels in each part. A user's own are what the user's loss, model and metric
    take.

    Attributes:
        description: what the data are, for the report.
        classes: number of classes, or of tokens that there are; None: nobody knows.
        train: to train on.
        calibration: to choose activation scales and batch-norm statistics with; its labels are not used.
        test: to report accuracy on, used for nothing else.
    """

    description: str
    classes: int | None
    train: Any
    calibration: Any
    test: Any


class SplitConfig(Settings):
    """Sizes of the parts, in images."""

    train: int | None = Field(default=None, ge=1, le=10**9)  # None: all that the other two leave
    calibration: int = Field(default=320, ge=1, le=10**9)
    test: int = Field(default=400, ge=1, le=10**9)


@singledispatch
def load(config: Any, seed: int) -> Splits:
    """Read a data set and split it; images so that each part has (nearly) the same share of every class.

    Args:
        config: a source's config.
        seed: the same seed gives the same split.

    Raises:
        UserError: the data are missing, unreadable, empty, or too few for the split.
    """
    raise TypeError(f"no data source for {type(config).__name__}")


def split(description: str, images: Tensor, labels: Tensor, config: SplitConfig, seed: int) -> Splits:
    """Cut one set of images in three.

    Args:
        description: what they are.
        images: float32 [N, C, H, W].
        labels: int64 [N].
        config: sizes of the parts.
        seed: the same seed gives the same split.

    Raises:
        UserError: the images are too few.
    """
    parts = ((images[part], labels[part]) for part in cut(description, labels, config, seed))
    return normalised(description, int(labels.max()) + 1, *parts)


def cut(description: str, labels: Tensor, config: SplitConfig, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which images are to train on, to calibrate with and to test on: int64 [n] each. Arguments as for ``split``."""
    rest = len(labels) - config.test - config.calibration
    train = rest if config.train is None else config.train
    if train > rest or train < 1:
        raise UserError(
            f"{description}: {len(labels)} images are too few for {config.test} to test, {config.calibration} "
            f"to calibrate and {max(train, 1)} to train"
        )
    order = torch.from_numpy(stratified_order(labels.numpy(), np.random.default_rng(seed)))
    test, calibration, training, _ = torch.split(order, [config.test, config.calibration, train, rest - train])
    return training, calibration, test


def normalised(
    description: str,
    classes: int,
    train: tuple[Tensor, Tensor],
    calibration: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> Splits:
    """Images of mean 0 and deviation 1 in every channel, as the training part has them.

    Args:
        description: what the data are.
        classes: number of classes.
        train, calibration, test: images float32 [N, C, H, W], which are changed in place, and labels int64 [N].
    """
    mean, deviation = (torch.from_numpy(x).reshape(1, -1, 1, 1) for x in _mean_and_deviation(train[0].numpy()))
    deviation = torch.where(deviation > 0, deviation, 1)
    parts = (Examples(images.sub_(mean).div_(deviation), labels) for images, labels in (train, calibration, test))
    return Splits(description, classes, *parts)


def _mean_and_deviation(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of every channel of [N, C, H, W]: float32 [C] each. Sums are float64 and have one order, whatever the threads."""
    count, channels, *side = images.shape
    step = max(1, _BLOCK // (channels * side[0] * side[1]))
    blocks = [images[i : i + step] for i in range(0, count, step)]
    pixels = count * side[0] * side[1]
    mean = sum(block.sum(axis=(0, 2, 3), dtype=np.float64) for block in blocks) / pixels  # [C]
    square = sum(np.square(block - mean[:, None, None]).sum(axis=(0, 2, 3)) for block in blocks) / pixels
    return mean.astype(np.float32), np.sqrt(square).astype(np.float32)


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
