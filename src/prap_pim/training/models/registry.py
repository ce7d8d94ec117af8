"""Where a network's builder registers for its config."""

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from prap_pim.common.memory import check_room

MOST_CHANNELS = 2**16  # of a layer, before the factors of the network's stages
MOST_DEPTH = 2000  # layers; ResNet-1202 is the deepest that was published
_COPIES = 4  # of all weights: themselves, their gradients and momenta, the compressed ones
_FLOAT = 4  # bytes


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


def check_memory(config: Any, inputs: Tensor, classes: int, batch: int, training: bool) -> None:
    """See before anything is allocated whether a network of the package fits into memory.

    Args:
        config: a network's config.
        inputs: [N, C, H, W] or [N, T], of which only the shape is looked at.
        classes: its outputs.
        batch: inputs that go through it at once.
        training: whether it is trained; all activations are held then, and the largest otherwise.

    Raises:
        UserError: it does not; the message says what it needs.
    """
    found = [0]
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes without values
        model = builder(config, inputs.shape[1], classes).eval()
        for module in model.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _, __, output: found.append(output.numel()))
        weights = sum(parameter.numel() for parameter in model.parameters())
        check_room(_COPIES * _FLOAT * weights, f"model: a {config.name} of {weights:,} weights")
        try:
            model(torch.empty((1, *inputs.shape[1:]), dtype=inputs.dtype))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return  # it does not run on such inputs, which whoever traces it says
    activations = batch * (sum(found) if training else 2 * max(found))
    check_room(
        _FLOAT * (_COPIES * weights + activations),
        f"model: a {config.name} with {activations:,} activations of {batch} inputs",
    )


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
