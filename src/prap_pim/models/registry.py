"""Where a network's builder registers for its config."""

from functools import singledispatch
from typing import Any

import torch
from torch import nn


@singledispatch
def builder(config: Any, in_channels: int, classes: int) -> nn.Module:
    """Make a network; its weights come from torch's default generator. Networks register here; call ``build``."""
    raise TypeError(f"no network for {type(config).__name__}")


def build(config: Any, in_channels: int, classes: int, seed: int) -> nn.Module:
    """Make a network with random weights.

    Args:
        config: a network's config.
        in_channels: channels of its input images.
        classes: its outputs.
        seed: the same seed gives the same weights. Torch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return builder(config, in_channels, classes)


def layer_names(config: Any) -> tuple[str, ...]:
    """Module paths of a network's convolutions and linear layers, in the order in which they are built and called.

    Args:
        config: a network's config.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # names and shapes, no weights
        model = builder(config, 3, 10)
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))
