"""Rows of activations that are each multiplied by the weight of an expert of their own."""

import torch
from torch import Tensor


def take_rows(x: Tensor, experts: Tensor, expert: int) -> Tensor:
    """The rows of one expert, and one of zeros behind them: no layer is ever without inputs."""
    return torch.cat([x[experts == expert], x.new_zeros(1, *x.shape[1:])])


def merge_rows(experts: Tensor, *parts: Tensor) -> Tensor:
    """What experts made of their rows, back in order; a row of no expert is 0."""
    out = parts[0].new_zeros(len(experts), *parts[0].shape[1:])
    for expert, part in enumerate(parts):
        here = experts == expert
        out[here] = part[: int(here.sum())]
    return out


def by_offsets(x: Tensor, ends: Tensor) -> Tensor:
    """The expert of every row of x, where rows lie in the order of experts and those of each end before a place."""
    return torch.searchsorted(ends.long(), torch.arange(len(x), device=x.device), right=True)
