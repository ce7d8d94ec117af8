"""A small plain network: 3x3 convolutions one after another, no shortcut around any of them."""

from collections import OrderedDict
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from prap_pim.common.settings import Settings
from prap_pim.training.models.registry import MOST_CHANNELS, builder
from prap_pim.training.models.resnet import conv_norm, initialise_convolutions

_CONVOLUTIONS = ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1))  # (channels / width, stride)


class CNNConfig(Settings):
    """Six convolutions with ``width``, ``width``, 2, 2, 4 and 4 times ``width`` channels; a linear layer."""

    name: Literal["cnn"] = "cnn"
    width: int = Field(default=16, ge=1, le=MOST_CHANNELS)


class CNN(nn.Module):
    """Six 3x3 convolutions, each with batch norm and ReLU, the mean over the image, a linear classifier.

    The third and the fifth halve the image. Modules are called ``conv1``, ``norm1``, ``relu1`` to ``conv6``, ``norm6``,
    ``relu6``, and ``classifier``.
    """

    def __init__(self, config: CNNConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        body = OrderedDict[str, nn.Module]()
        channels = in_channels
        for i, (factor, stride) in enumerate(_CONVOLUTIONS, start=1):
            body[f"conv{i}"], body[f"norm{i}"] = conv_norm(channels, factor * config.width, 3, stride).values()
            body[f"relu{i}"] = nn.ReLU()
            channels = factor * config.width
        for name, module in body.items():
            self.add_module(name, module)
        self._names = tuple(body)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        for name in self._names:
            x = self.get_submodule(name)(x)
        out: Tensor = self.classifier(self.flatten(self.pool(x)))
        return out


@builder.register
def _(config: CNNConfig, in_channels: int, classes: int) -> CNN:
    return CNN(config, in_channels, classes)
