"""Residual networks (He et al., CVPR 2016), with convolutions for shortcuts where the shape changes.

Layers are built, called and listed in one order, that of the published layer lists: a block's own convolutions, then
its shortcut.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from prap_pim.common.settings import Settings
from prap_pim.training.models.registry import MOST_CHANNELS, MOST_DEPTH, builder

Stem = Literal["cifar", "imagenet"]


class ResNetConfig(Settings):
    """ResNet of depth 6n + 2: three stages of n blocks with ``width``, 2 ``width`` and 4 ``width`` channels."""

    name: Literal["resnet"] = "resnet"
    depth: int = Field(default=20, ge=8, le=MOST_DEPTH)
    width: int = Field(default=16, ge=1, le=MOST_CHANNELS)

    @field_validator("depth")
    @classmethod
    def _three_stages(cls, depth: int) -> int:
        if depth % 6 != 2:
            raise ValueError("must be 6n + 2: 8, 14, 20, 26, 32, ...")
        return depth


class ResNet18Config(Settings):
    """ResNet-18: four stages of two blocks with ``width``, 2, 4 and 8 times ``width`` channels.

    The stem is a 3x3 convolution ("cifar", for images of 32x32) or ImageNet's 7x7 one of stride 2 with max pooling.
    """

    name: Literal["resnet18"] = "resnet18"
    width: int = Field(default=64, ge=1, le=MOST_CHANNELS)
    stem: Stem = "cifar"


class ResNet50Config(Settings):
    """ResNet-50: four stages of 3, 4, 6 and 3 bottlenecks with ``width``, 2, 4 and 8 times ``width`` channels inside.

    A bottleneck's stride is in its 3x3 convolution, as in the published layer list. For the stem, see ResNet18Config.
    """

    name: Literal["resnet50"] = "resnet50"
    width: int = Field(default=64, ge=1, le=MOST_CHANNELS)
    stem: Stem = "cifar"


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int) -> OrderedDict[str, nn.Module]:
    """A convolution that keeps the image's size but for the stride, and its batch norm."""
    return OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        norm=nn.BatchNorm2d(outputs),
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The input itself, or a 1x1 convolution where the shape changes."""
    same = stride == 1 and inputs == outputs
    return nn.Identity() if same else nn.Sequential(conv_norm(inputs, outputs, 1, stride))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Args: channels in and inside, and the first convolution's stride."""

    expansion = 1  # channels out / channels inside

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv_norm(inputs, width, 3, stride).values()
        self.relu1 = nn.ReLU()
        self.conv2, self.norm2 = conv_norm(width, width, 3, 1).values()
        self.shortcut = _shortcut(inputs, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        out: Tensor = self.relu2(y)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut; the last widens fourfold. Args as for ``Block``."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv_norm(inputs, width, 1, 1).values()
        self.relu1 = nn.ReLU()
        self.conv2, self.norm2 = conv_norm(width, width, 3, stride).values()
        self.relu2 = nn.ReLU()
        self.conv3, self.norm3 = conv_norm(width, 4 * width, 1, 1).values()
        self.shortcut = _shortcut(inputs, 4 * width, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.relu2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y)) + self.shortcut(x)
        out: Tensor = self.relu3(y)
        return out


@dataclass(frozen=True)
class Stages:
    """What a residual network is made of.

    Attributes:
        block: the kind of block.
        width: channels of the stem and inside the first stage; each later stage has twice as many.
        blocks: blocks of each stage; every stage but the first halves the image.
    """

    block: type[Block] | type[Bottleneck]
    width: int
    blocks: Sequence[int]


class ResNet(nn.Module):
    """A stem, stages that halve the image from the second on, the mean over the image, a linear classifier.

    Modules are called ``stem.conv``, ``stage1.block1.conv1``, ``stage2.block1.shortcut.conv``, ``classifier``, ...
    """

    def __init__(self, stages: Stages, stem: Stem, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = stages.width
        self.stem = _stem(stem, in_channels, channels)
        body = []
        for i, count in enumerate(stages.blocks):
            width = stages.width * 2**i
            blocks = OrderedDict[str, nn.Module]()
            for j in range(count):
                blocks[f"block{j + 1}"] = stages.block(channels, width, 2 if i > 0 and j == 0 else 1)
                channels = width * stages.block.expansion
            body.append(nn.Sequential(blocks))
            self.add_module(f"stage{i + 1}", body[-1])
        self._names = tuple(f"stage{i + 1}" for i in range(len(body)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self._names:
            x = self.get_submodule(name)(x)
        out: Tensor = self.classifier(self.flatten(self.pool(x)))
        return out


def _stem(stem: Stem, inputs: int, outputs: int) -> nn.Sequential:
    """Makes the first maps of an image: of its own size, or a quarter of its width for large images."""
    if stem == "cifar":
        return nn.Sequential(conv_norm(inputs, outputs, 3, 1) | {"relu": nn.ReLU()})
    return nn.Sequential(
        conv_norm(inputs, outputs, 7, 2) | {"relu": nn.ReLU(), "pool": nn.MaxPool2d(3, stride=2, padding=1)}
    )


def initialise_convolutions(model: nn.Module) -> None:
    """Draw convolution weights so that ReLU keeps gradients' variance (He et al., ICCV 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@builder.register
def _(config: ResNetConfig, in_channels: int, classes: int) -> ResNet:
    return ResNet(Stages(Block, config.width, 3 * [(config.depth - 2) // 6]), "cifar", in_channels, classes)


@builder.register
def _(config: ResNet18Config, in_channels: int, classes: int) -> ResNet:
    return ResNet(Stages(Block, config.width, (2, 2, 2, 2)), config.stem, in_channels, classes)


@builder.register
def _(config: ResNet50Config, in_channels: int, classes: int) -> ResNet:
    return ResNet(Stages(Bottleneck, config.width, (3, 4, 6, 3)), config.stem, in_channels, classes)
