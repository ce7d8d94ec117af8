"""Batch norm after compression: its statistics move by what compression changed on the same inputs, and by no more."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

_CANCELS = 1e-3  # of the mean square: a smaller variance has lost digits that float32 has no more
_ROWS = 1 << 16  # that are squared at a time
_SMALL = 1e-3  # of a running variance: a smaller variance on the calibration inputs says little of a ratio


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of some inputs of a batch norm, channel by channel.

    Attributes:
        mean: float64 [C].
        variance: float64 [C], with the number of values below the sum of squares.
        count: values of a channel.
    """

    mean: Tensor
    variance: Tensor
    count: int

    @staticmethod
    def of(batches: Sequence[Tensor]) -> "Statistics":
        """Of all batches [N, C, ...] together."""
        counts = [x.numel() // x.shape[1] for x in batches]
        each = [_of_one(x) for x in batches]
        share = torch.tensor(counts, dtype=torch.float64)[:, None] / sum(counts)
        means, within = (torch.stack(every) for every in zip(*each, strict=True))  # [batch, channel]
        mean = (share * means).sum(0)
        return Statistics(mean, (share * (within + (means - mean) ** 2)).sum(0), sum(counts))


def _of_one(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a batch, float64 [C].

    By sums of squares where these do not cancel: many times as fast as torch.var_mean.
    """
    count = x.numel() // x.shape[1]
    if x.ndim == 2 or x.stride(1) == 1:  # channels last
        flat = x.movedim(1, -1).reshape(count, -1)
        sums, squares = flat.sum(0), torch.stack([x.square().sum(0) for x in torch.split(flat, _ROWS)]).double().sum(0)
    else:
        flat = x.flatten(2)
        sums, squares = flat.sum(2).double().sum(0), torch.linalg.vector_norm(flat, dim=2).double().square().sum(0)
    mean, square = sums.double() / count, squares.double() / count
    variance = square - mean**2
    lost = (variance < _CANCELS * square).nonzero().flatten()
    if len(lost):
        around = x[:, lost].movedim(1, -1).reshape(count, -1).double() - mean[lost]
        variance[lost] = around.square_().sum(0) / count
    return mean, variance


def moved(norm: _BatchNorm, before: Statistics, after: Statistics) -> tuple[Tensor, Tensor]:
    """The running mean and variance that fit the compressed network.

    ``mean + (after - before)`` and ``variance * after / before``: where compression changed nothing they are the norm's
    own, bit for bit, whatever the calibration inputs are. A channel that hardly varies on these inputs says nothing of
    the ratio: both variances count at least a thousandth of the running one.

    Args:
        norm: a batch norm with running statistics.
        before: of its inputs in the original network.
        after: of its inputs in the compressed one, on the same calibration inputs.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = norm.running_mean + (after.mean - before.mean).to(norm.running_mean)
    floor = _SMALL * norm.running_var.double() + norm.eps
    ratio = (after.variance + floor) / (before.variance + floor)
    return mean, norm.running_var * ratio.to(norm.running_var)


def move(norm: _BatchNorm, before: Statistics, after: Statistics) -> None:
    """``moved``, into the norm; one value of each channel has no variance and moves nothing."""
    if before.count < 2:
        return
    mean, variance = moved(norm, before, after)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
