"""Second moments of what drives a layer, streamed over calibration inputs: the metric in which its error is judged.

The inputs are the int8 values that the crossbars see, so every product is a whole number and float32 products of up to
1024 rows are exact: the sums do not depend on how the inputs are cut into batches, nor on the number of threads.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Float64 = NDArray[np.float64]

_EXACT_ROWS = 1024  # 1024 * 128 * 128 = 2**24: float32 holds every sum of so many products of int8 values


class Moments:
    """Sums over positions x of the compressed network and y of the original one, at the same places.

    Attributes:
        count: rows so far.
    """

    def __init__(self, rows: int) -> None:
        self.count = 0
        self._xx = torch.zeros(rows, rows, dtype=torch.float64)
        self._yx: Tensor | None = None  # as long as y is x, it is _xx
        self._x = torch.zeros(rows, dtype=torch.float64)
        self._y = torch.zeros(rows, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Whole numbers in -128..127 as float32 [n, rows], each; ``y`` may be ``x`` itself."""
        for a, b in zip(torch.split(x, _EXACT_ROWS), torch.split(y, _EXACT_ROWS), strict=True):
            if y is not x and self._yx is None:
                self._yx = self._xx.clone()
            product = a.T @ a
            self._xx += product
            if self._yx is not None:
                self._yx += product if y is x else b.T @ a
        self._x += x.sum(0, dtype=torch.float64)
        self._y += y.sum(0, dtype=torch.float64)
        self.count += len(x)

    def covariances(self) -> tuple[Float64, Float64]:
        """Of x, and the mean of (y - its mean) (x - its mean)^T, [rows, rows] each; 0 without any rows.

        The mean of an error is a bias, which is corrected elsewhere. The sums become these in place: nothing can be
        added afterwards. Both are one array where y was x.
        """
        x, y = self._x / max(1, self.count), self._y / max(1, self.count)
        covariance = self._xx.div_(max(1, self.count)).sub_(torch.outer(x, x)).numpy()
        if self._yx is None:
            return covariance, covariance
        return covariance, self._yx.div_(max(1, self.count)).sub_(torch.outer(y, x)).numpy()

    def means(self) -> tuple[Float64, Float64]:
        """Of x and of y, float64 [rows]."""
        return (self._x / max(1, self.count)).numpy(), (self._y / max(1, self.count)).numpy()


def upper_factor(hessian: Float64) -> Float64:
    """Upper triangular, hessian = factor @ factor.T, float64 [..., R, R] each."""
    backwards = torch.from_numpy(hessian[..., ::-1, ::-1].copy())
    torch.linalg.cholesky(backwards, out=backwards)
    return np.ascontiguousarray(backwards.numpy()[..., ::-1, ::-1])


@dataclass(frozen=True, eq=False)
class Metric:
    """What an error costs: ``e @ hessian @ e`` for an error e of one filter's weights.

    Attributes:
        hessian: float64 [R, R], symmetric and positive definite.
        factor: float64 [R, R], upper triangular, hessian = factor @ factor.T. The cost of an error is the sum over
            its rows, in order, of what cannot be made good by the rows after it; one factorisation serves them all.
    """

    hessian: Float64
    factor: Float64

    @staticmethod
    def of(covariance: Float64, damping: float) -> "Metric":
        """The covariance with ``damping`` times its mean diagonal added to the diagonal.

        Inputs that never change, or fewer rows than inputs, leave the covariance singular; damping makes the cost of an
        error positive everywhere. Where nothing changes at all, every error costs the same. The covariance becomes the
        hessian in place.
        """
        mean = float(np.mean(np.diag(covariance)))
        covariance[np.diag_indices_from(covariance)] += damping * mean if mean > 0 else 1.0
        return Metric(covariance, upper_factor(covariance))

    def solve(self, right: Float64) -> Float64:
        """inv(hessian) @ right."""
        upper = torch.from_numpy(self.factor)
        half = torch.linalg.solve_triangular(upper, torch.from_numpy(np.ascontiguousarray(right)), upper=True)
        return np.asarray(torch.linalg.solve_triangular(upper.T, half, upper=False).numpy())
