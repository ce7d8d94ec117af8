"""Packed sequences as what they are computed from: padded ones, of which each has a length.

torch packs sequences of several lengths into one tensor whose size depends on them, which cannot be traced. While a
model is traced, they stay padded: a recurrent layer runs all time steps, and keeps its state where a sequence has
ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

_CELLS = {
    "LSTM": torch.lstm_cell,
    "GRU": torch.gru_cell,
    "RNN_TANH": torch.rnn_tanh_cell,
    "RNN_RELU": torch.rnn_relu_cell,
}


@dataclass(frozen=True, eq=False)
class Padded:
    """In the place of a ``PackedSequence``.

    Attributes:
        x: [B, T, ...], whatever behind the end of a sequence.
        lengths: [B].
    """

    x: Tensor
    lengths: Tensor

    @staticmethod
    def of(x: Tensor, lengths: Any, batch_first: bool) -> "Padded":
        """As ``pack_padded_sequence`` is called; sorting changes nothing here."""
        return Padded(x if batch_first else x.transpose(0, 1), torch.as_tensor(lengths))

    def padded(self, batch_first: bool, value: float, total: int | None) -> tuple[Tensor, Tensor]:
        """As ``pad_packed_sequence`` gives it, as long as it was before it was packed."""
        steps = self.x.shape[1]
        if total not in (None, steps):
            raise NotImplementedError(f"a total_length of {total}, of sequences that were packed from {steps} steps")
        inside = (torch.arange(steps) < self.lengths[:, None]).unsqueeze(-1)
        x = torch.where(inside, self.x, value)
        return x if batch_first else x.transpose(0, 1), self.lengths


@contextmanager
def unpacked(model: nn.Module) -> Iterator[list[Padded]]:
    """Sequences are not packed meanwhile, by whatever name torch's functions are called; the recurrent layers of
    ``model`` take them padded. Gives those that they have taken, once they have."""
    taken: list[Padded] = []
    functions: tuple[tuple[Any, Any], ...] = (rnn.pack_padded_sequence, _pack), (rnn.pad_packed_sequence, _pad)
    before = [own.__code__ for own, _ in functions]
    layers = [part for part in model.modules() if isinstance(part, nn.RNNBase) and "forward" not in vars(part)]
    try:
        for own, ours in functions:
            own.__code__ = ours.__code__
        for layer in layers:
            layer.forward = partial(_run, layer, taken)
        yield taken
    finally:
        for (own, _), code in zip(functions, before, strict=True):
            own.__code__ = code
        for layer in layers:
            del layer.forward


def _pack(input, lengths, batch_first=False, enforce_sorted=True):  # type: ignore[no-untyped-def] # its names
    from prap_pim.frontend.packed import Padded

    return Padded.of(input, lengths, batch_first)


def _pad(sequence, batch_first=False, padding_value=0.0, total_length=None):  # type: ignore[no-untyped-def]
    return sequence.padded(batch_first, padding_value, total_length)


def _run(layer: nn.RNNBase, taken: list[Padded], x: Any, state: Any = None) -> Any:
    """``layer.forward``, also of a padded sequence."""
    if not isinstance(x, Padded):
        return type(layer).forward(layer, x, state)
    if layer.proj_size:
        raise NotImplementedError("a projection of packed sequences")
    taken.append(x)
    directions, cells = 1 + layer.bidirectional, 1 + (layer.mode == "LSTM")
    given = ([state] if cells == 1 else list(state)) if state is not None else []
    last: list[list[Tensor]] = []
    for at in range(layer.num_layers):
        found = []
        for i in range(directions):
            weights = [getattr(layer, name) for name in layer._all_weights[at * directions + i]]
            begin = [each[at * directions + i] for each in given]
            begin = begin or [x.x.new_zeros(x.x.shape[0], layer.hidden_size)] * cells
            outputs, end = _direction(layer, x, weights, begin, backward=bool(i))
            found.append(outputs)
            last.append(end)
        x = replace(x, x=torch.cat(found, -1))
    ends = [torch.stack([each[i] for each in last]) for i in range(cells)]
    return x, (ends[0] if cells == 1 else tuple(ends))


def _direction(
    layer: nn.RNNBase, x: Padded, weights: list[Tensor], state: list[Tensor], backward: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [B, T, H], 0 behind the end of a sequence, and the last state."""
    steps = x.x.shape[1]
    every: list[Any] = [None] * steps
    for t in reversed(range(steps)) if backward else range(steps):
        inside = (t < x.lengths)[:, None]
        held = tuple(state) if len(state) > 1 else state[0]
        found = _CELLS[layer.mode](x.x[:, t], held, *weights)  # type: ignore[operator]
        new = list(found) if len(state) > 1 else [found]
        state = [torch.where(inside, mine, before) for mine, before in zip(new, state, strict=True)]
        every[t] = torch.where(inside, new[0], 0.0)
    return torch.stack(every, 1), state
