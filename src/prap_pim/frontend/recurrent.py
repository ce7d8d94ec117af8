"""Recurrent cells as what they are: products with the gates' matrices, run once a time step, and element-wise work."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prap_pim.frontend.contract import Apply
from prap_pim.frontend.graph import DigitalModule

Step = Callable[[Any, list[Any]], list[Any]]  # the next state from the products of a step's inputs and the state
KINDS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}


class Gates(DigitalModule):
    """What a cell does with its two products.

    Args:
        kind: of ``KINDS``.
        order: in which an LSTM's products come: i(nput), f(orget), g (what is put in), o(utput); of a GRU, r(eset),
            z (update), n(ew).
    """

    def __init__(self, kind: str, order: str = "") -> None:
        super().__init__()
        self.op, self.order = kind, order or {"lstm": "ifgo", "gru": "rzn"}.get(kind, "")

    def forward(self, given: Tensor, held: Tensor, *state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """From the products of inputs and of the hidden state, [B, gates * H], and the state (an LSTM's cell state, a
        GRU's hidden state) to the hidden state [B, H]; an LSTM gives its cell state, too."""
        if self.op == "rnn_tanh":
            return torch.tanh(given + held)
        if self.op == "rnn_relu":
            return torch.relu(given + held)
        ours = dict(zip(self.order, given.chunk(len(self.order), -1), strict=True))
        theirs = dict(zip(self.order, held.chunk(len(self.order), -1), strict=True))
        if self.op == "lstm":
            i, f, g, o = (ours[each] + theirs[each] for each in "ifgo")
            cell = torch.sigmoid(f) * state[0] + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(cell), cell
        reset, update = (torch.sigmoid(ours[each] + theirs[each]) for each in "rz")
        new = torch.tanh(ours["n"] + reset * theirs["n"])
        return (1 - update) * new + update * state[0]


class Reset(DigitalModule):
    """The first half of a GRU whose new state reads the hidden state after it was reset, as of ONNX: update and reset
    gates from the products in the order z, r, n."""

    op = "gru"

    def forward(self, given: Tensor, held: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        update, reset = torch.sigmoid(given[..., : held.shape[-1]] + held).chunk(2, -1)
        return update, reset * state


class Renew(DigitalModule):
    """Its second half: the new state."""

    op = "gru"

    def forward(self, given: Tensor, held: Tensor, update: Tensor, state: Tensor) -> Tensor:
        return (1 - update) * torch.tanh(given[..., -held.shape[-1] :] + held) + update * state


def stepped(
    apply: Apply, gates: Callable[..., Any], kind: str, given: Any, product: Callable[[Any], Any], state: list[Any]
) -> list[Any]:
    """The state after one step of a cell in a graph.

    Args:
        apply: puts a function into the graph.
        gates: puts ``Gates`` into it.
        kind: of ``KINDS``.
        given: the products of the step's inputs.
        product: of the hidden state.
        state: hidden state, and an LSTM's cell state.
    """
    found = gates(given, product(state[0]), *([] if kind.startswith("rnn") else state[-1:]))
    return [apply(operator.getitem, found, i) for i in range(2)] if kind == "lstm" else [found]


def unrolled(
    apply: Apply,
    step: Step,
    given: Any,
    state: list[Any],
    axis: int,
    steps: int,
    backward: bool,
) -> tuple[Any, list[Any]]:
    """A layer in one direction over all time steps: its hidden states [.., steps, ..., H], and the last state.

    Args:
        apply: puts a function into the graph.
        step: of the cell.
        given: products of the inputs of all steps.
        state: before the first one.
        axis: of time in ``given``.
        steps: how many.
        backward: whether the last step comes first.
    """
    every: list[Any] = [None] * steps
    for t in reversed(range(steps)) if backward else range(steps):
        state = step(apply(torch.select, given, axis, t), state)
        every[t] = state[0]
    return apply(torch.stack, every, axis), state
