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
        in_channels: channels of its input images; tokens of its input sequences.
        classes: its outputs; of a sequence, for every token.
        seed: the same seed gives the same weights. Torch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return builder(config, in_channels, classes)


def weight_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """What a network's convolutions and linear layers are called (module paths) and hold, at no cost in memory.

    Args:
        config: a network's config; the network is taken to read 3 channels and to know 10 classes.

    Returns:
        [O, C, kh, kw] or [O, C] by name, in the order in which the layers are built and called.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes without values
        model = builder(config, 3, 10)
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return {name: tuple(module.weight.shape) for name, module in layers}
