"""VGG for small images (Simonyan and Zisserman, ICLR 2015, configuration D), with batch norm."""

from collections import OrderedDict
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from prap_pim.common.settings import Settings
from prap_pim.training.models.registry import MOST_CHANNELS, builder
from prap_pim.training.models.resnet import conv_norm, initialise_convolutions

_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # (channels / width, convolutions)


class VGG16Config(Settings):
    """13 convolutions with ``width``, 2, 4, 8 and 8 times ``width`` channels; linear layers of ``hidden`` outputs."""

    name: Literal["vgg16"] = "vgg16"
    width: int = Field(default=64, ge=1, le=MOST_CHANNELS)
    hidden: int = Field(default=4096, ge=1, le=MOST_CHANNELS)
    dropout: float = Field(default=0.5, ge=0, lt=1)  # share of the linear layers' inputs dropped in training


class VGG16(nn.Module):
    """Five stages of 3x3 convolutions, each ended by a max pooling; the mean over the image; three linear layers.

    The image's side must be 32 or more; a 32x32 one is a single position at the end, so its mean is itself. Modules are
    called ``stage1.conv1``, ``stage1.norm1``, ..., ``stage5.conv3``, ``classifier.fc1`` to ``classifier.fc3``.
    """

    def __init__(self, config: VGG16Config, in_channels: int, classes: int) -> None:
        super().__init__()
        stages = OrderedDict[str, nn.Module]()
        channels = in_channels
        for i, (factor, convolutions) in enumerate(_STAGES):
            stage = OrderedDict[str, nn.Module]()
            for j in range(1, convolutions + 1):
                stage[f"conv{j}"], stage[f"norm{j}"] = conv_norm(channels, factor * config.width, 3, 1).values()
                stage[f"relu{j}"] = nn.ReLU()
                channels = factor * config.width
            stage["pool"] = nn.MaxPool2d(2)
            stages[f"stage{i + 1}"] = nn.Sequential(stage)
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = stages.values()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(channels, config.hidden),
                relu1=nn.ReLU(),
                dropout1=nn.Dropout(config.dropout),
                fc2=nn.Linear(config.hidden, config.hidden),
                relu2=nn.ReLU(),
                dropout2=nn.Dropout(config.dropout),
                fc3=nn.Linear(config.hidden, classes),
            )
        )
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage5(self.stage4(self.stage3(self.stage2(self.stage1(x)))))
        out: Tensor = self.classifier(self.flatten(self.pool(x)))
        return out


@builder.register
def _(config: VGG16Config, in_channels: int, classes: int) -> VGG16:
    return VGG16(config, in_channels, classes)
