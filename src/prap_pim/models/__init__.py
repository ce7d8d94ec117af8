"""Networks that come with the package: a config and a builder each, chosen by ``name`` in the configuration.

To add one: a module with its config and a builder registered with ``build``; here, its import and its place in
``ModelConfig``.
"""

from prap_pim.models.registry import build
from prap_pim.models.resnet import ResNet, ResNetConfig

ModelConfig = ResNetConfig  # of several: Annotated[A | B, Field(discriminator="name")]

__all__ = ["ModelConfig", "ResNet", "ResNetConfig", "build"]
