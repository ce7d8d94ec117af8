"""Calibrated reuse, slow and obvious: every donor, every gain, every shape, every assignment tried."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN, LayerPlan

Float64 = NDArray[np.float64]

GAINS = [sign * 2.0**exponent for exponent in range(EXPONENT_MIN, EXPONENT_MAX + 1) for sign in (1, -1)]


def slow_best_saving(pattern: Float64, donors: Float64) -> float:
    """The most that any donor with any gain lowers a pattern's squared error by; 0 if all make it larger."""
    best = 0.0
    for donor in donors:
        for gain in GAINS:
            best = max(best, float((pattern**2).sum() - ((pattern - gain * donor) ** 2).sum()))
    return best


def slow_shared_donor(patterns: Float64, weight: Float64, gains: Sequence[float]) -> float:
    """The least weighted error of patterns that share one donor, the first with gain 1, the others with any given."""
    if len(patterns) == 0:
        return 0.0
    gain = np.array([(1.0, *others) for others in product(gains, repeat=len(patterns) - 1)])  # [way, pattern]
    along = (gain * weight) @ patterns  # of the least-squares donor, times the sum of weighted squared gains
    saved = (along**2).sum(1) / (gain**2 @ weight)
    return float(weight @ (patterns**2).sum(1)) - float(saved.max())


def slow_two_donors(patterns: Float64, weight: Float64, gains: Sequence[float]) -> float:
    """The least weighted error with two donors, over every way to share the patterns out between them."""
    count, best = len(patterns), np.inf
    for bits in range(2 ** (count - 1)):  # the last pattern is the second donor's
        first = np.array([bool(bits >> i & 1) for i in range(count)])
        parts = (slow_shared_donor(patterns[mine], weight[mine], gains) for mine in (first, ~first))
        best = min(best, sum(parts))
    return best


def slow_covariance(y: NDArray[np.int8], x: NDArray[np.int8]) -> Float64:
    """Mean of (y - its mean) (x - its mean)^T over the rows of two int8 matrices."""
    count = len(x)
    sums = np.zeros((y.shape[1], x.shape[1]), np.int64)
    for i in range(y.shape[1]):
        for j in range(x.shape[1]):
            sums[i, j] = sum(int(a) * int(b) for a, b in zip(y[:, i], x[:, j], strict=True))
    mean_y, mean_x = ([sum(map(int, column)) / count for column in matrix.T] for matrix in (y, x))
    return np.array([[sums[i, j] / count - a * b for j, b in enumerate(mean_x)] for i, a in enumerate(mean_y)])


def slow_cost(error: Float64, hessian: Float64, weight: Float64) -> float:
    """Sum over filters of weight * error @ hessian @ error."""
    return sum(float(w * (e @ hessian @ e)) for w, e in zip(weight, error, strict=True))


def slow_kept(wanted: Float64, hessian: Float64, kept: Sequence[int]) -> tuple[Float64, float]:
    """The best weights of one filter that are 0 outside ``kept``, and their cost."""
    weights = np.zeros(len(wanted))
    free = np.array(kept)
    weights[free] = np.linalg.solve(hessian[np.ix_(free, free)], (hessian @ wanted)[free])
    return weights, float((weights - wanted) @ hessian @ (weights - wanted))


def slow_shapes(
    wanted: Float64, hessian: Float64, weight: Float64, positions: int, kernel: int, most: int
) -> tuple[Float64, list[tuple[int, ...]]]:
    """Every filter's cost for every set of kept positions [shape, O], and the sets that greed offers."""
    channels = len(hessian) // kernel
    sets = list(combinations(range(kernel), positions))
    costs = np.array(
        [
            [
                w * slow_kept(row, hessian, [c * kernel + i for c in range(channels) for i in chosen])[1]
                for row, w in zip(wanted, weight, strict=True)
            ]
            for chosen in sets
        ]
    )
    offered: list[int] = []
    for _ in range(min(most, len(sets))):
        totals = [sum(min(costs[[*offered, i], o]) for o in range(len(wanted))) for i in range(len(sets))]
        offered.append(int(np.argmin(totals)))
    return costs, [sets[i] for i in offered]


def slow_weight(plan: LayerPlan, donors: Iterable[Sequence[float]]) -> list[list[float]]:
    """The weight matrix of a plan with other donors, any numbers, in steps: one product after another."""
    stored = list(donors)
    matrix: list[list[float]] = [[0.0] * plan.inputs for _ in range(plan.filters)]
    for group in range(plan.groups):
        for use in range(plan.use_start[group], plan.use_start[group + 1]):
            gain = float(plan.use_sign[use]) * 2.0 ** float(plan.use_exponent[use])
            for place, row in enumerate(plan.rows[group]):
                if row >= 0:
                    matrix[plan.use_filter[use]][row] += gain * stored[plan.use_donor[use]][place]
    return matrix


def slow_best_donors(plan: LayerPlan, target: Float64, hessian: Float64, weight: Float64) -> Float64:
    """The donors of least cost, real numbers of steps, where who takes which with which gain is the plan's, [D, h]."""
    total, height = len(plan.donors), plan.rows.shape[1]
    units = np.eye(total * height).reshape(-1, total, height)
    step = plan.step.astype(np.float64)[:, None]
    effect = np.array([slow_weight(plan, unit.tolist()) * step for unit in units])  # weights are linear in the donors
    root = np.linalg.cholesky(hessian)
    scale = np.sqrt(weight)[:, None]
    seen = (effect @ root * scale).reshape(total * height, -1)
    solved = np.linalg.lstsq(seen.T, (target @ root * scale).reshape(-1), rcond=None)[0]
    return solved.reshape(total, height)


def slow_allocation(offers: Sequence[Sequence[tuple[int, float]]], budget: int) -> float | None:
    """The least total loss of one (steps, loss) a layer within a budget; None if there is no way."""
    losses = [
        sum(loss for _, loss in choice) for choice in product(*offers) if sum(steps for steps, _ in choice) <= budget
    ]
    return min(losses, default=None)


def slow_gptq(wanted: Float64, hessian: Float64, step: float, largest: int) -> Float64:
    """Integers of one filter: weight after weight rounded, and each time all that are left moved by the paper's rule
    (Frantar et al., ICLR 2023, equation 2), with the inverse of the Hessian of those that were left."""
    weights, whole = np.array(wanted, np.float64), np.zeros(len(wanted))
    for i in range(len(weights)):
        inverse = np.linalg.inv(hessian[i:, i:])
        whole[i] = min(largest, max(-largest, round(weights[i] / step)))
        error = (weights[i] - step * whole[i]) / inverse[0, 0]
        weights[i:] -= error * inverse[:, 0]
    return whole
