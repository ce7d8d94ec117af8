"""What is measured on a trained network without changing its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from prap_pim.common.errors import UserError
from prap_pim.common.progress import Steps, counted, unheard
from prap_pim.frontend.inputs import outputs


def batches(inputs: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cut into batches of at most ``batch_size`` whose sizes differ by at most one, so that none is tiny."""
    return torch.tensor_split(inputs, -(-len(inputs) // batch_size))


@dataclass(frozen=True)
class Quality:
    """How well labels are predicted.

    Attributes:
        accuracy: share of the labels that have the greatest output, 0..1.
        nats: mean cross-entropy of the outputs, taken as logits.
    """

    accuracy: float
    nats: float

    @property
    def bits(self) -> float:
        """The cross-entropy in bits: what a label costs when it is coded by the network's probabilities."""
        return self.nats / log(2)


class Tally:
    """Outputs beside their labels, batch by batch."""

    def __init__(self) -> None:
        self._right = self._labels = 0
        self._nats = 0.0

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            outputs: logits [N, classes], or [N, T, classes] of tokens.
            labels: int64 [N] or [N, T].
        """
        self._right += int((outputs.argmax(dim=-1) == labels).sum())
        nats = functional.cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction="none")
        self._nats += float(nats.double().sum())
        self._labels += labels.numel()

    def quality(self) -> Quality:
        """Of all batches together, one at least."""
        return Quality(self._right / self._labels, self._nats / self._labels)


class Pairs(Protocol):
    """Inputs and their labels, in memory or read when they are asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of these numbers, int64 [n]."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """``Pairs`` of tensors [N, ...]."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[chosen], self.labels[chosen]


@dataclass(frozen=True, eq=False)
class Labelled:
    """How well a network predicts labels: "accuracy" and "nats", as ``Quality``.

    Attributes:
        pairs: inputs and labels, one at least.
        batch_size: inputs at a time.
        first: so many are in batches of their own, before the others.
    """

    pairs: Pairs
    batch_size: int = 50
    first: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {self.batch_size}")
        if len(self.pairs) == 0:
            raise UserError("there are no inputs with labels to evaluate with")

    def __call__(self, network: nn.Module) -> dict[str, float]:
        every, tally = torch.arange(len(self.pairs)), Tally()
        for part in (every[: self.first], every[self.first :]):
            for chosen in torch.split(part, self.batch_size) if len(part) else ():
                inputs, labels = self.pairs.take(chosen)
                with torch.no_grad():
                    tally.add(logits(network(inputs)), labels)
        return vars(tally.quality())


def logits(given: Any) -> Tensor:
    """The first tensor of what a network gives."""
    return outputs(given, "that tells labels")[0]


@torch.inference_mode()
def evaluate_pairs(model: nn.Module, pairs: Pairs, batch_size: int = 256, told: Steps = unheard) -> Quality:
    """How well a model predicts labels.

    Args:
        model: left in the mode (training or evaluation) in which it was.
        pairs: inputs and labels.
        batch_size: inputs at a time; the result depends on it at most by rounding.
        told: called with the batches done and all of them.
    """
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    tally = Tally()
    try:
        model.eval()
        for chosen in counted(batches(torch.arange(len(pairs)), batch_size), told):
            inputs, labels = pairs.take(chosen)
            tally.add(logits(model(_laid_out(inputs, device))).cpu(), labels)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return tally.quality()


def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 256, told: Steps = unheard) -> Quality:
    """``evaluate_pairs`` of tensors, as in ``data.Examples``."""
    return evaluate_pairs(model, InMemory(inputs, labels), batch_size, told)


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Share of the labels that have the greatest output. Arguments as for ``evaluate``."""
    return evaluate(model, inputs, labels, batch_size).accuracy


@contextmanager
def settling_norms(model: nn.Module) -> Iterator[bool]:
    """The end of training: batch norm's statistics become those of all that goes through the model in the block.

    While weights still move, the running averages lag behind them (Wu and Johnson, "Rethinking 'Batch' in BatchNorm",
    2021). No weight changes. The statistics are the plain average over the batches.

    Args:
        model: changed in place, in its batch-norm buffers only, and left in evaluation mode.

    Yields:
        whether it has such batch norms at all.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()  # so that dropout, if any, is off
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch: a cumulative average
            norm.train()
        with torch.inference_mode():
            yield bool(norms)
    finally:
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def settle_norms(model: nn.Module, pairs: Pairs, batch_size: int = 256) -> None:
    """``settling_norms`` on the inputs of a training, so many at a time, at most."""
    device = next(model.parameters()).device
    with settling_norms(model) as needed:
        for chosen in batches(torch.arange(len(pairs)), batch_size) if needed else ():
            model(_laid_out(pairs.take(chosen)[0], device))


def _laid_out(inputs: Tensor, device: torch.device) -> Tensor:
    if inputs.ndim != 4:
        return inputs.to(device)
    return inputs.to(device, memory_format=torch.channels_last)  # 1.4 times as fast on a CPU as channels first
