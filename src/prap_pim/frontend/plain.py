"""A model as it computes in evaluation: weights that modules compute from others are parameters."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prap_pim.common.errors import UserError


@torch.no_grad()
def plain_copy(model: nn.Module, name: str) -> nn.Module:
    """A copy in evaluation mode. Parametrisations, the older weight and spectral norms and pruning masks, whose weights
    are constants then, are computed once and taken away.

    Raises:
        UserError: it cannot be copied.
    """
    parts = list(model.named_modules())
    values = [value for _, part in parts for value in vars(part).values() if _computed(value)]
    try:
        copied = copy.deepcopy(model, {id(value): value.detach().clone() for value in values}).eval()
    except RuntimeError as error:
        owners = (path for path, part in parts if any(map(_holds_computed, vars(part).values())))
        raise UserError(
            f"model {name} cannot be copied: {next(owners, 'a module') or 'it'} keeps a tensor computed from others; "
            "keep no activations"
        ) from error
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
            part.register_parameter(name, nn.Parameter(value))
        else:
            part.register_buffer(name, value)


def _computed(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


def _holds_computed(value: Any) -> bool:
    every = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_computed, every))
