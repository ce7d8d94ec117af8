"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016): batch norm and ReLU come before each convolution.

The published layer list (preset prap-2023) gives both 3x3 convolutions of every block stride 1 and the full map, while
the shortcut has stride 2 and the next block half the map. So here a block that halves the image averages 2x2 positions
of its second convolution's output, where Zagoruyko and Komodakis give its first convolution stride 2.
"""

from collections import OrderedDict
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from prap_pim.common.settings import Settings
from prap_pim.training.models.registry import MOST_DEPTH, builder
from prap_pim.training.models.resnet import initialise_convolutions


class WideResNetConfig(Settings):
    """Depth 6n + 4: a stem of 16 channels and three stages of n blocks with 1, 2 and 4 times 16 ``widen`` channels."""

    name: Literal["wide-resnet"] = "wide-resnet"
    depth: int = Field(default=16, ge=10, le=MOST_DEPTH)
    widen: int = Field(default=8, ge=1, le=1024)

    @field_validator("depth")
    @classmethod
    def _three_stages(cls, depth: int) -> int:
        if depth % 6 != 4:
            raise ValueError("must be 6n + 4: 10, 16, 22, 28, ...")
        return depth


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class WideBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the input, or a 1x1 convolution after norm and ReLU where the shape
    changes."""

    def __init__(self, inputs: int, outputs: int, halve: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = _conv(inputs, outputs, 3)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = _conv(outputs, outputs, 3)
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if halve else nn.Identity()  # as many positions as the shortcut
        self.same = inputs == outputs and not halve
        self.shortcut = nn.Identity() if self.same else _conv(inputs, outputs, 1, 2 if halve else 1)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.relu1(self.norm1(x))
        y = self.conv2(self.relu2(self.norm2(self.conv1(ready))))
        out: Tensor = self.pool(y) + self.shortcut(x if self.same else ready)
        return out


class WideResNet(nn.Module):
    """A 3x3 stem, three stages that halve the image from the second on, norm, the mean over the image, a classifier.

    Modules are called ``stem``, ``stage1.block1.conv1``, ``stage2.block1.shortcut``, ``classifier``, ...
    """

    def __init__(self, config: WideResNetConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        width, blocks = 16 * config.widen, (config.depth - 4) // 6
        self.stem = _conv(in_channels, 16, 3)
        self.stage1 = _stage(16, width, blocks, halve=False)
        self.stage2 = _stage(width, 2 * width, blocks, halve=True)
        self.stage3 = _stage(2 * width, 4 * width, blocks, halve=True)
        self.norm = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(4 * width, classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        out: Tensor = self.classifier(self.flatten(self.pool(self.relu(self.norm(x)))))
        return out


def _stage(inputs: int, outputs: int, blocks: int, halve: bool) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (f"block{i}", WideBlock(inputs if i == 1 else outputs, outputs, halve and i == 1))
            for i in range(1, blocks + 1)
        )
    )


@builder.register
def _(config: WideResNetConfig, in_channels: int, classes: int) -> WideResNet:
    return WideResNet(config, in_channels, classes)
