"""A captured network that is called as the model that it was captured from."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from prap_pim.common.errors import UserError, one_line
from prap_pim.frontend.inputs import Inputs, call, constants, few, filled, outputs, tensors
from prap_pim.frontend.plain import plain_copy


class Called(nn.Module):
    """A network that takes a batch as the model does, and gives its outputs as the model does.

    It stays in evaluation mode. Other arguments than tensors must be those of the batch that it was captured with.
    """

    def __init__(self, network: nn.Module, signature: inspect.Signature, batch: Inputs, like: Any, name: str) -> None:
        """
        Args:
            network: takes the tensors of a batch, gives one or a tuple of them.
            signature: of the model's ``forward``.
            batch: that it was captured with.
            like: what the model gives.
            name: of the model, for messages.
        """
        super().__init__()
        self.network, self._signature, self._name = network, signature, name
        self._captured = batch if isinstance(batch, Mapping | tuple | list) else (batch,)
        self._constants = constants(self._captured)
        self._like = like
        self._place = nn.Parameter(torch.empty(0), requires_grad=False)  # for those who ask a parameter where it is
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where its inputs have to be."""
        return self._place.device

    @staticmethod
    def as_model(network: nn.Module, model: nn.Module, batch: Inputs, name: str) -> "Called":
        """A network that is called as ``model``, which it was captured from with ``batch``."""
        with torch.no_grad():
            plain = plain_copy(model, name)
            like = call(plain, tree_map(copied, few(plain, batch, name)))
        signature = model._signature if isinstance(model, Called) else inspect.signature(model.forward)
        return Called(network, signature, batch, like, name)

    def around(self, network: nn.Module) -> "Called":
        """The same with another network."""
        other = copy.copy(self)
        other._modules = {**self._modules, "network": network}
        return other

    def train(self, mode: bool = True) -> "Called":
        """It stays in evaluation mode: what was captured has no other."""
        return super().train(False)

    def forward(self, *given: Any, **named: Any) -> Any:
        """
        Raises:
            UserError: the arguments are others than those of the batch that it was captured with, or of other sizes.
        """
        batch = self._as_captured(given, named)
        for place, own in self._constants.items():
            other = constants(batch).get(place, own)
            if other is not own and other != own:
                raise UserError(f"model {self._name} was captured with {own!r} at {place}, not {other!r}")
        inputs = tensors(batch, self._name)
        try:
            computed = self.network(*inputs)
        except RuntimeError as error:
            raise UserError(f"model {self._name} does not run on this batch: {one_line(error)}") from error
        return filled(self._like, iter(outputs(computed, self._name)))

    def _as_captured(self, given: tuple[Any, ...], named: dict[str, Any]) -> Inputs:
        """Arguments in the form of the batch that the network was captured with."""
        kinds = self._signature.parameters
        if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in kinds.values()):
            return named or given
        try:
            bound = self._signature.bind(*given, **named)
        except TypeError as error:
            names = ", ".join(map(str, self._captured)) if isinstance(self._captured, Mapping) else "in order"
            why = one_line(error)
            raise UserError(f"model {self._name} was captured with the inputs {names}: {why}") from error
        bound.apply_defaults()
        values: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            values |= value if kinds[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        known = list(self._captured) if isinstance(self._captured, Mapping) else list(values)[: len(self._captured)]
        for name, value in values.items():
            if name not in known and (name not in kinds or value is not kinds[name].default):
                raise UserError(f"model {self._name} was captured with the inputs {', '.join(known)}, not with {name}")
        if lacking := [name for name in known if name not in values]:
            raise UserError(f"model {self._name} was captured with the inputs {', '.join(known)}: give {lacking[0]}")
        return {k: values[k] for k in known} if isinstance(self._captured, Mapping) else tuple(values[k] for k in known)


def copied(leaf: Any) -> Any:
    """A leaf of a batch that the model may change."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
