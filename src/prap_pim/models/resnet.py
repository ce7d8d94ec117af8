"""Residual networks for small images (He et al., CVPR 2016, section 4.2), with convolutions for shortcuts."""

from collections import OrderedDict
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from prap_pim.models.registry import builder
from prap_pim.settings import Settings


class ResNetConfig(Settings):
    """ResNet of depth 6n + 2: three stages of n blocks with ``width``, 2 ``width`` and 4 ``width`` channels."""

    name: Literal["resnet"] = "resnet"
    depth: int = Field(default=20, ge=8)
    width: int = Field(default=16, ge=1)

    @field_validator("depth")
    @classmethod
    def _three_stages(cls, depth: int) -> int:
        if depth % 6 != 2:
            raise ValueError("must be 6n + 2: 8, 14, 20, 26, 32, ...")
        return depth


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        norm=nn.BatchNorm2d(outputs),
    )


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the input itself, or a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv_norm(inputs, outputs, 3, stride).values()
        self.relu1 = nn.ReLU()
        self.conv2, self.norm2 = _conv_norm(outputs, outputs, 3, 1).values()
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(_conv_norm(inputs, outputs, 1, stride))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        out: Tensor = self.relu2(y)
        return out


class ResNet(nn.Module):
    """A 3x3 stem, three stages that halve the image from the second on, the mean over the image, a linear classifier.

    Modules are called ``stem.conv``, ``stage1.block1.conv1``, ``stage2.block1.shortcut.conv``, ``classifier``, ...
    """

    def __init__(self, depth: int, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(in_channels, width, 3, 1) | {"relu": nn.ReLU()})
        self.stage1 = _stage(width, width, 1, (depth - 2) // 6)
        self.stage2 = _stage(width, 2 * width, 2, (depth - 2) // 6)
        self.stage3 = _stage(2 * width, 4 * width, 2, (depth - 2) // 6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al., ICCV 2015, for ReLU
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        out: Tensor = self.classifier(self.flatten(self.pool(x)))
        return out


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (f"block{i}", Block(inputs if i == 1 else outputs, outputs, stride if i == 1 else 1))
            for i in range(1, blocks + 1)
        )
    )


@builder.register
def _(config: ResNetConfig, in_channels: int, classes: int) -> ResNet:
    return ResNet(config.depth, config.width, in_channels, classes)
