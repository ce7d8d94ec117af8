"""Networks that come with the package: a config and a builder each, chosen by ``name`` in the configuration.

To add one: a module with its config and a builder registered with ``builder``; here, its import and its place in
``ModelConfig``.
"""

from typing import Annotated

from pydantic import Field

from prap_pim.common.imports import named_by_key
from prap_pim.training.models.cnn import CNN, CNNConfig
from prap_pim.training.models.gpt import GPT, GPTConfig
from prap_pim.training.models.own import (
    OWN,
    GivenModel,
    ImportedModel,
    OnnxModel,
    TimmModel,
    TorchvisionModel,
    TransformersModel,
)
from prap_pim.training.models.registry import build, check_memory, weight_shapes
from prap_pim.training.models.resnet import ResNet, ResNet18Config, ResNet50Config, ResNetConfig
from prap_pim.training.models.vgg import VGG16, VGG16Config
from prap_pim.training.models.wide_resnet import WideResNet, WideResNetConfig

ModelConfig = Annotated[
    ResNetConfig
    | ResNet18Config
    | ResNet50Config
    | VGG16Config
    | WideResNetConfig
    | CNNConfig
    | GPTConfig
    | ImportedModel
    | GivenModel
    | OnnxModel
    | TransformersModel
    | TimmModel
    | TorchvisionModel,
    Field(discriminator="name"),
    named_by_key,
]

__all__ = [
    "CNN",
    "GPT",
    "OWN",
    "VGG16",
    "CNNConfig",
    "GPTConfig",
    "GivenModel",
    "ImportedModel",
    "ModelConfig",
    "OnnxModel",
    "ResNet",
    "ResNet18Config",
    "ResNet50Config",
    "ResNetConfig",
    "TimmModel",
    "TorchvisionModel",
    "TransformersModel",
    "VGG16Config",
    "WideResNet",
    "WideResNetConfig",
    "build",
    "check_memory",
    "weight_shapes",
]
