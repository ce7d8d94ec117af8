"""Layers whose filters share no inputs, such as depthwise convolutions: nothing can be reused, but weights dropped.

An OU holds ``ou_rows`` weights of one filter, so 9 weights take two: dropping one of them halves the OU steps. The
weights that are kept make good what is lost (Hassibi and Stork, NeurIPS 1993).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from prap_pim.common.parallel import over_ranges
from prap_pim.frontend.im2col import rows_of_pairs
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerWeights

Float64 = NDArray[np.float64]

_ROWS_AT_ONCE = 1 << 23  # numbers laid out


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of O filters with T weights each, of inputs now and originally, in their integers from zero on."""

    covariance: Float64  # [O, T, T]
    cross: Float64  # [O, T, T], original by present
    mean: Float64  # [O, T]
    original_mean: Float64
    count: int


@dataclass(frozen=True, eq=False)
class Depthwise:
    """What is to be approximated: O filters with T weights each.

    Attributes:
        layer: the layer.
        target: float64 [O, T], the weights that are wanted.
        hessian: float64 [O, T, T], of each filter's inputs.
        weight: float64 [O], what each filter's error counts.
        mean, original_mean: float64 [O, T], real, of the inputs.
    """

    layer: Layer
    target: Float64
    hessian: Float64
    weight: Float64
    mean: Float64
    original_mean: Float64

    @staticmethod
    def moments(
        layer: Layer, places: Sequence[tuple[Tensor, Tensor, Tensor]], grid: InputGrid, original_grid: InputGrid
    ) -> _Moments:
        """Of batches now and originally at some output positions."""
        filters, taps = layer.filters, layer.fan_in
        xx, yx = (torch.zeros(filters, taps, taps, dtype=torch.float64) for _ in range(2))
        x_sum, y_sum = (torch.zeros(filters, taps, dtype=torch.float64) for _ in range(2))
        count = 0
        for now, then in rows_of_pairs(layer, places, (grid.zero, original_grid.zero), _ROWS_AT_ONCE):
            x = _by_filter(layer, now, grid)
            y = x if then is now else _by_filter(layer, then, original_grid)
            product = x.mT @ x  # [filter, tap, tap]
            xx += product
            yx += product if y is x else y.mT @ x
            x_sum += x.sum(1)
            y_sum += y.sum(1)
            count += len(now)
        n = max(1, count)
        x_mean, y_mean = x_sum / n, y_sum / n
        covariance = xx / n - x_mean[:, :, None] * x_mean[:, None]
        cross = yx / n - y_mean[:, :, None] * x_mean[:, None]
        return _Moments(covariance.numpy(), cross.numpy(), x_mean.numpy(), y_mean.numpy(), count)

    @staticmethod
    def of(
        layer: Layer, moments: _Moments, grid: InputGrid, original: InputGrid, mimic: float, damping: float
    ) -> "Depthwise":
        """
        Args:
            mimic, damping: as in ``CalibratedReuse``.
        """
        taps = layer.fan_in
        diagonal = np.einsum("ott->ot", moments.covariance)
        mean = diagonal.mean(1)
        added: Float64 = np.where(mean > 0, damping * mean, 1.0)[:, None, None] * np.eye(taps)
        hessian = moments.covariance + added
        target = layer.matrix.astype(np.float64)
        if mimic > 0:
            wanted = moments.cross * (original.step / grid.step) + added
            mixed = mimic * wanted + (1 - mimic) * hessian
            target = np.asarray(np.linalg.solve(hessian, (target[:, None] @ mixed).mT)[:, :, 0], np.float64)
        scale = layer.filter_scale.astype(np.float64) ** 2
        return Depthwise(layer, target, hessian, scale, moments.mean * grid.step, moments.original_mean * original.step)

    def kept(self, count: int) -> tuple[Float64, NDArray[np.bool_]]:
        """The weights with ``count`` of each filter kept: dropped one by one, the cheapest first, the others re-solved.

        Returns:
            float64 [O, T], and which are kept, bool [O, T].
        """
        weights, kept, _ = self._dropped(count)
        return weights, kept

    def errors(self, counts: Collection[int]) -> list[float]:
        """The errors with each of these counts of weights kept."""
        _, _, lost = self._dropped(min(counts, default=self.layer.fan_in))
        after = np.concatenate([[0.0], np.cumsum(self.weight @ lost)]) / self._nothing
        return [float(after[self.layer.fan_in - count]) for count in counts]

    def _dropped(self, count: int) -> tuple[Float64, NDArray[np.bool_], Float64]:
        """As ``kept``, and what each drop adds to the error of each filter, float64 [O, T - count]."""
        weights, inverse = self.target.copy(), np.asarray(np.linalg.inv(self.hessian), np.float64)
        kept = np.ones(weights.shape, np.bool_)
        lost = np.zeros((len(weights), weights.shape[1] - count))
        over_ranges(len(weights), partial(_drop, weights, inverse, kept, lost))
        return weights, kept, lost

    def error(self, weights: Float64) -> float:
        """Weighted output error, relative to that of no weights at all."""
        return self._cost(weights - self.target) / self._nothing

    @property
    def _nothing(self) -> float:
        return max(self._cost(self.target), float(np.finfo(np.float64).tiny))

    def _cost(self, error: Float64) -> float:
        return float(np.einsum("ot,otu,ou->o", error, self.hessian, error) @ self.weight)


def kept_plan(layer: Layer, weights: Float64, kept: NDArray[np.bool_], steps: Float64, grain: Grain) -> LayerWeights:
    """Of some of each filter's weights, equally many of all.

    Args:
        weights: float64 [O, T]; those that are kept are rounded to multiples of ``steps``.
        kept: bool [O, T].
        steps: float64 [O], with which the weights fit the bits that the chip stores.
    """
    filters, taps = weights.shape
    count = int(kept[0].sum())
    groups = grain.row_groups(count)
    padded = groups * grain.ou_rows
    chosen = np.argsort(~kept, axis=1, kind="stable")[:, :count]  # ascending
    rows = np.full((filters, padded), -1, np.int32)
    rows[:, :count] = chosen + taps * np.arange(filters)[:, None]
    donors = np.zeros((filters, padded), np.int8)
    donors[:, :count] = np.rint(np.take_along_axis(weights, chosen, 1) / steps[:, None])
    total = filters * groups
    return LayerWeights(
        name=layer.name,
        inputs=layer.rows,
        rows=rows.reshape(total, grain.ou_rows),
        donors=donors.reshape(total, grain.ou_rows),
        donor_start=np.arange(total + 1, dtype=np.int64),
        use_start=np.arange(total + 1, dtype=np.int64),
        use_filter=np.repeat(np.arange(filters, dtype=np.int32), groups),
        use_donor=np.arange(total, dtype=np.int32),
        use_sign=np.ones(total, np.int8),
        use_exponent=np.zeros(total, np.int8),
        step=steps.astype(np.float32),
        bias=np.zeros(filters, np.float32),
        convolution_groups=layer.groups,
        weight_bits=grain.stored_bits,
    )


@njit(cache=True, nogil=True)
def _drop(weights: Float64, inverse: Float64, kept: NDArray[np.bool_], lost: Float64, first: int, end: int) -> None:
    """Of filters ``first`` to ``end`` drop as many weights as ``lost`` has columns, each where it costs least."""
    taps = weights.shape[1]
    for o in range(first, end):
        w, h, here = weights[o], inverse[o], kept[o]
        for step in range(lost.shape[1]):
            out, least = -1, np.inf
            for t in range(taps):
                if here[t]:
                    cost = w[t] * w[t] / h[t, t]
                    if out < 0 or cost < least:
                        out, least = t, cost
            here[out] = False
            lost[o, step] = least
            change = w[out] / h[out, out]
            w[out] = 0.0
            for t in range(taps):
                if here[t]:
                    w[t] -= change * h[t, out]
                    share = h[t, out] / h[out, out]
                    for u in range(taps):
                        h[t, u] -= share * h[out, u]


def _by_filter(layer: Layer, rows: Tensor, grid: InputGrid) -> Tensor:
    """Integers from zero on, float64 [O, n, T]."""
    return rows.double().sub_(grid.zero).reshape(len(rows), layer.filters, layer.fan_in).movedim(1, 0)
