"""A model as it computes in evaluation: weights that modules compute from others are parameters."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prap_pim.common.errors import UserError, one_line


@torch.no_grad()
def plain_copy(model: nn.Module, name: str) -> nn.Module:
    """A copy in evaluation mode. Parametrisations, the older weight and spectral norms and pruning masks, whose weights
    are constants then, are computed once and taken away.

    Raises:
        UserError: it cannot be copied.
    """
    parts = list(model.named_modules())
    values = [each for _, part in parts for value in vars(part).values() for each in _computed(value)]
    try:
        copied = copy.deepcopy(model, {id(value): value.detach().clone() for value in values}).eval()
    except RuntimeError as error:
        why = "a module keeps a tensor computed from others, such as activations"
        raise UserError(f"model {name} cannot be copied: {why} ({one_line(error)})") from error
    for part in list(copied.modules()):
        if parametrize.is_parametrized(part):
            _take_away(part)
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(part, hook._tensor_name)  # type: ignore[no-untyped-call]
    return copied


def _take_away(part: Any) -> None:
    """The parametrisations of a module. Not by torch's own function, which changes the class that the copy shares with
    the user's module."""
    learned = {name for name, made in part.parametrizations.items() if any(True for _ in made.parameters())}
    every = {name: getattr(part, name).detach().clone() for name in part.parametrizations}
    del part.parametrizations
    part.__class__ = type(part).__bases__[0]
    for name, value in every.items():
        if name in learned:
            setattr(part, name, nn.Parameter(value))  # a recurrent layer keeps lists of its weights
        else:
            part.register_buffer(name, value)


def _computed(value: Any) -> list[Tensor]:
    """Tensors that a module keeps and that are computed from others, which torch does not copy."""
    every = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return [each for each in every if isinstance(each, Tensor) and not each.is_leaf]
