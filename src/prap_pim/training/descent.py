"""Gradients of one batch after another: of a batch as a whole, or as the sum of those of its shards."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.training.config import TrainingConfig
from prap_pim.training.objective import Objective
from prap_pim.training.processes import Processes


class Descent:
    """Where the loss goes down, batch by batch.

    Without ``config.shards`` a batch is computed as a whole, by one process. With it, every batch is cut into so many
    shards. What a shard gives depends on the weights, the seed, the epoch and the numbers of batch and shard alone:
    its examples, how they are varied, what dropout drops, and batch norm's statistics, which are the shard's own.
    Gradients, and running statistics by the shards' shares of the batch, are added up in the order of the shards. So
    the result is that of the setting, bit for bit, however many processes take turns in computing the shards.

    Args:
        model: its weights are read and its gradients left there; on the device of ``processes``.
        wrapped: the same, set up by Fabric.
        objective: what is trained on.
        shards: see above; None: batches as a whole.
        seed: of batch order, augmentation and dropout.
        processes: who computes; the first one's weights are what counts.
    """

    def __init__(
        self,
        model: nn.Module,
        wrapped: nn.Module,
        objective: Objective,
        shards: int | None,
        seed: int,
        processes: Processes,
    ) -> None:
        self._objective, self._shards, self._seed = objective, shards, seed
        self._model, self._wrapped, self._processes = model, wrapped, processes
        state, names = model.state_dict(), dict(model.named_parameters())
        self._state = list(state.values())  # not copies
        self._statistics = [value for name, value in state.items() if name not in names]
        self.batches = objective.batches()  # in an epoch

    def losses(self, epoch: int) -> Generator[float, None, None]:
        """The loss of each batch of an epoch, whose gradient is in the first process's parameters while it is yielded.

        Raises:
            Lost: a process cannot be reached.
        """
        self._model.train()
        device, generator = self._processes.fabric.device, _generator(self._seed, epoch)
        same = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with same, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._seed_dropout(generator)
            for i, batch in enumerate(self._objective.epoch(generator)):
                if self._shards is None:
                    yield self._slopes(batch, generator, 1.0)
                else:
                    yield self._sharded(epoch, i, self._objective.shards(batch, self._shards))

    def _seed_dropout(self, generator: torch.Generator) -> None:
        """Dropout takes no generator."""
        torch.default_generator.manual_seed(generator.initial_seed())
        if self._processes.fabric.device.type == "cuda":
            torch.cuda.manual_seed(generator.initial_seed())

    def _slopes(self, batch: Any, generator: torch.Generator, share: float) -> float:
        """Leaves the gradient of ``share`` times the mean loss of some examples; returns that loss."""
        loss = self._objective.loss(self._wrapped, batch, generator, self._processes.fabric.device)
        if share != 1:
            loss = loss * share
        self._model.zero_grad()
        self._processes.fabric.backward(loss)
        return float(loss.item())

    def _sharded(self, epoch: int, batch: int, shards: Sequence[Any]) -> float:
        processes = self._processes
        if processes.count > 1:
            _unpack(processes.share(_packed(self._state)), self._state)
        before = [value.clone() for value in self._statistics]
        total: list[Tensor] = []
        for turn in range(0, len(shards), processes.count):
            shard = turn + processes.index
            for value, start in zip(self._statistics, before, strict=True):
                value.copy_(start)
            generator = _generator(self._seed, epoch, 1 + batch, shard)
            self._seed_dropout(generator)
            share = self._objective.size(shards[shard]) / sum(map(self._objective.size, shards))
            loss = self._slopes(shards[shard], generator, share)
            slopes = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
            weighted = [share * value if value.is_floating_point() else value for value in self._statistics]
            own = [torch.tensor(loss, dtype=torch.float64, device=processes.fabric.device), *slopes, *weighted]
            for one in processes.gather(_packed(own)):
                given = _unpack(one, [torch.empty_like(value) for value in own])
                total = [_add(a, b) for a, b in zip(total, given, strict=True)] if total else given
        if not processes.first:
            return loss
        for value, sum_ in zip([*slopes, *self._statistics], total[1:], strict=True):
            value.copy_(sum_)
        return float(total[0])


def check_shards(config: TrainingConfig, examples: int | None, processes: int) -> None:
    """Whether every batch can be cut into shards, and these be shared out among processes.

    Args:
        config: the recipe.
        examples: how many there are; None: a loader makes the batches.
        processes: how many.

    Raises:
        UserError: it cannot.
    """
    shards = config.shards
    if processes > 1 and (shards is None or shards % processes):
        raise UserError(
            f"{processes} processes share the shards of a batch evenly: set training.shards to a multiple of "
            f"{processes}, not {'none' if shards is None else shards} (with --set training.shards={processes}, say)"
        )
    if examples is None:
        return
    size = min(examples, config.epoch_size or examples)
    smallest = size // -(-size // config.batch_size)
    if shards is not None and smallest < shards:
        raise UserError(f"training.shards ({shards}) cannot be more than the examples of a batch ({smallest})")


def _add(total: Tensor, value: Tensor) -> Tensor:
    return total.add_(value) if value.is_floating_point() else value  # batch norm's counters are equal in all shards


def _packed(values: Sequence[Tensor]) -> Tensor:
    """Bytes, uint8 [n], whatever the layout in memory."""
    return torch.cat([value.detach().reshape(-1).view(torch.uint8) for value in values])


def _unpack(content: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """Put ``_packed`` bytes into tensors of the same kinds; returns these."""
    sizes = [value.numel() * value.element_size() for value in values]
    for value, part in zip(values, torch.split(content, sizes), strict=True):
        value.copy_(part.clone().view(value.dtype).reshape(value.shape))  # a clone lies where its type may
    return list(values)


def _generator(*key: int) -> torch.Generator:
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))  # torch takes 63 bits
