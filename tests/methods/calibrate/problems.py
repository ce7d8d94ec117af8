"""Small layers with inputs to judge them by: what the tests know of how a layer is put to the solver."""

import numpy as np
from hypothesis import strategies as st

from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan
from prap_pim.methods.calibrate.hessian import Metric
from prap_pim.methods.calibrate.layer import Problem, Setting, approximate
from tests.layers import layer_of
from tests.reference.calibrate import slow_cost

GRAIN = Grain()


def problem_of(
    layer: Layer, seed: int, *, damping: float = 0.01, price: float = 0.0, inputs: str = "correlated"
) -> Problem:
    """The layer's own weights, on random inputs that depend on each other, few ones, or ones of which some are dead."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3 if inputs == "few" else 4 * layer.rows, layer.rows))
    if inputs != "independent":
        x = x @ rng.standard_normal((layer.rows, layer.rows)) + 3 * rng.standard_normal((len(x), 1))
    if inputs == "dead":
        x[:, ::3] = 0
    if inputs == "zero":
        x[:] = 0
    covariance = np.cov(x.T, bias=True).reshape(layer.rows, layer.rows)
    if inputs == "independent":
        covariance = np.diag(np.diag(covariance))
    weight = rng.uniform(0.2, 1, layer.filters)
    return Problem(layer.matrix.astype(np.float64), Metric.of(covariance, damping), weight, price)


def normal_layer(filters: int, channels: int, kernel: tuple[int, ...], seed: int = 0) -> Layer:
    weight = np.random.default_rng(seed).standard_normal((filters, channels, *kernel))
    return layer_of(weight.astype(np.float32))


def solve(layer: Layer, problem: Problem, donors: int, positions: int | None = None, passes: int = 3) -> LayerPlan:
    return approximate(layer, problem, Setting(donors, positions), GRAIN, passes)


def cost(problem: Problem, weights: np.ndarray) -> float:
    """Of weights, by the slow rule, with the reference's own sum."""
    return slow_cost(weights - problem.target, problem.metric.hessian, problem.weight)


def relative(problem: Problem, plan: LayerPlan) -> float:
    """A plan's output error, of that of no weights at all."""
    return cost(problem, plan.real_weights()) / cost(problem, np.zeros_like(problem.target))


def ous(plan: LayerPlan) -> int:
    return sum(GRAIN.ous(int(count)) for count in plan.donors_per_group)


@st.composite
def odd_layers(draw: st.DrawFn) -> Layer:
    """One filter or some; rows that fill no whole number of OUs; convolutions and products."""
    kernel = draw(st.sampled_from([(), (1, 1), (3, 3), (2, 2), (1, 3)]))
    filters = draw(st.sampled_from([1, 2, 5, 9]))
    channels = draw(st.integers(1, 4) if kernel == (3, 3) else st.integers(1, 11))
    return normal_layer(filters, channels, kernel, draw(st.integers(0, 2**32)))
