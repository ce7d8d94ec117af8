"""Weights of few bits: every filter stores its own patterns, rounded so that the layer's output is kept.

A filter's weights are whole numbers times a step of its own. They are rounded one after another, each making good what
the ones before have done to the output, as GPTQ does (Frantar et al., ICLR 2023; as in its code, inputs that vary most
come first). That is done for several steps, and each filter keeps the one that leaves it the least error.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.ir.plan import INT8, LayerWeights, largest_integer
from prap_pim.mapping.steps import ou_steps
from prap_pim.methods.calibrate.depthwise import Depthwise, kept_plan
from prap_pim.methods.calibrate.hessian import upper_factor
from prap_pim.methods.calibrate.layer import Setting
from prap_pim.methods.calibrate.problem import Parts
from prap_pim.methods.prune import NoPruning, prune

Float64 = NDArray[np.float64]

PROBE_BITS = 3  # of a layer whose sensitivity is measured
_CLIPPINGS = 0.87 ** np.arange(9)  # of the step with which the largest weight becomes the largest integer
_TOGETHER = 128  # rows: what goes on within them is multiplied out one by one, the rest all at once
_FILTERS_AT_A_TIME = 4096  # heads of language models have more
_SAMPLE = 96  # filters, about, that are looked at to tell what so many bits would leave


def keeps_all(layer: Layer, setting: Setting) -> bool:
    """Whether every filter stores its own patterns, in however many bits, and takes nothing else."""
    return setting.positions is None and setting.uses == 1 and setting.donors >= layer.filters // layer.groups


def own_settings(layer: Layer, bits: Sequence[int]) -> list[Setting]:
    """All patterns, in each of these numbers of bits."""
    return [Setting(layer.filters // layer.groups, bits=each) for each in dict.fromkeys(bits)]


def own_steps(layer: Layer, bits: int, grain: Grain) -> int:
    """OU steps of one inference of a layer that stores every pattern in so many bits."""
    ous = grain.of_bits(bits).dense_ous(layer.rows, layer.filters, layer.groups)
    return ou_steps(layer, ous, grain)


def low_bit(problem: Depthwise | Parts, bits: int, grain: Grain) -> LayerWeights:
    """A layer of so many bits, as near to the target as found. The plan's steps are those of the weights alone, its
    bias 0.

    Args:
        problem: what is wanted.
        bits: of a weight.
        grain: of the chip.
    """
    layer = problem.layer
    found = [Rounding(target, hessian).in_bits(bits) for target, hessian, _ in _parts(problem)]
    whole, steps, _ = (np.concatenate(each) for each in zip(*found, strict=True))
    patterns = prune(NoPruning(), layer, grain.of_bits(bits))
    with np.errstate(over="ignore"):  # the plan tells what is not finite
        matrix = (whole * steps[:, None]).astype(np.float32)
    return plan_weights(layer.name, matrix, patterns, ReuseMap.none(patterns), steps, bits)


def few_weights(problem: Depthwise, count: int, grain: Grain) -> LayerWeights:
    """A layer with ``count`` weights of each filter, each filter's step its own, in the bits that the chip stores.

    int8 weights are rounded one by one, those of fewer bits so that they make good one another's errors.
    """
    weights, kept = problem.kept(count)
    if (bits := grain.stored_bits) == INT8:
        largest = np.abs(weights).max(1)
        return kept_plan(
            problem.layer, weights, kept, np.where(largest > 0, largest / largest_integer(bits), 1.0), grain
        )
    size = len(weights), count
    hessian = problem.hessian[kept[:, :, None] & kept[:, None]].reshape(*size, count)
    whole, steps, _ = Rounding(weights[kept].reshape(size), hessian).in_bits(bits)
    weights[kept] = (whole * steps[:, None]).ravel()
    return kept_plan(problem.layer, weights, kept, steps, grain)


def expected(problem: Depthwise | Parts, bits: Sequence[int]) -> list[float]:
    """The relative errors that so many bits would leave, from some of the filters."""
    every = slice(None, None, max(1, problem.layer.filters // _SAMPLE))
    cost, energy = np.zeros(len(bits)), 0.0
    for target, hessian, weight in _parts(problem):
        some = Rounding(target[every], hessian if hessian.ndim == 2 else hessian[every])
        cost += [weight[every] @ some.in_bits(each)[2] for each in bits]
        energy += float(weight[every] @ some.energy)
    return list(map(float, cost / max(energy, float(np.finfo(np.float64).tiny))))


def _parts(problem: Depthwise | Parts) -> Iterator[tuple[Float64, Float64, Float64]]:
    """Targets [O, R], their hessian [R, R] or one for each [O, R, R], and what each filter's error counts [O]."""
    if isinstance(problem, Depthwise):
        yield problem.target, problem.hessian, problem.weight
    else:
        yield from ((part.problem.target, part.problem.metric.hessian, part.problem.weight) for part in problem.groups)


class Rounding:
    """Filters that are to be rounded.

    Args:
        target: float64 [O, R], the weights that are wanted.
        hessian: what an error costs, float64 [R, R] (``Metric``), or [O, R, R], that of each filter.
    """

    def __init__(self, target: Float64, hessian: Float64) -> None:
        self.target = target
        self._order = np.argsort(-np.einsum("...rr->...r", hessian), axis=-1, kind="stable")
        by_row = np.take_along_axis(hessian, self._order[..., None], -2)
        self._factor = upper_factor(np.take_along_axis(by_row, self._order[..., None, :], -1))

    @property
    def energy(self) -> Float64:
        """What no weights at all would cost, float64 [O]."""
        return np.asarray((_outputs(self._factor, self._ordered(slice(None))) ** 2).sum(0))

    def in_bits(self, bits: int) -> tuple[Float64, Float64, Float64]:
        """Whole numbers and steps whose products come near to the target.

        Args:
            bits: of a weight. Of the two's complement codes the lowest has no negative: it is not used.

        Returns:
            float64 [O, R] in -largest..largest; the filters' steps, float64 [O]; what their errors cost, float64 [O].
        """
        count = len(self.target)
        slices = [slice(i, min(count, i + _FILTERS_AT_A_TIME)) for i in range(0, count, _FILTERS_AT_A_TIME)]
        whole, steps, cost = zip(*(self._some(some, largest_integer(bits)) for some in slices), strict=True)
        return np.concatenate(whole), np.concatenate(steps), np.concatenate(cost)

    def _some(self, some: slice, largest: int) -> tuple[Float64, Float64, Float64]:
        """``in_bits`` of some of the filters."""
        wanted = self._ordered(some)
        factor = self._factor if self._factor.ndim == 2 else self._factor[some]
        output = _outputs(factor, wanted)
        peak = np.abs(wanted).max(0, initial=0.0)
        widest = np.where(peak > 0, peak / largest, 1.0)
        best, steps, least = np.zeros_like(wanted), widest.copy(), np.full(len(peak), np.inf)
        for clipping in _CLIPPINGS:
            whole = compensated(wanted, factor, widest * clipping, largest)
            given = _outputs(factor, whole)
            square, along = (given**2).sum(0), (given * output).sum(0)
            step = np.where((square > 0) & (along > 0), along / np.where(square > 0, square, 1.0), widest * clipping)
            cost = ((given * step - output) ** 2).sum(0)
            better = cost < least
            if not better.any():
                break
            best[:, better], steps[better], least[better] = whole[:, better], step[better], cost[better]
        found = np.empty_like(best.T)
        np.put_along_axis(found, self._orders(some), best.T, 1)
        return found, steps, least

    def _ordered(self, some: slice) -> Float64:
        """Targets of some of the filters, [R, O], rows in the order in which they are rounded."""
        return np.take_along_axis(self.target[some], self._orders(some), 1).T.copy()

    def _orders(self, some: slice) -> NDArray[np.int64]:
        """Of each of some of the filters, [O, R]."""
        return self._order[some] if self._order.ndim == 2 else np.broadcast_to(self._order, self.target[some].shape)


def compensated(wanted: Float64, factor: Float64, steps: Float64, largest: int) -> Float64:
    """Each weight rounded to where it makes good what those before it have done to the output.

    Args:
        wanted: float64 [R, O], weights in the order in which they are rounded.
        factor: float64 [R, R] or [O, R, R] (``upper_factor``).
        steps: float64 [O].
        largest: integer.

    Returns:
        integers, float64 [R, O].
    """
    whole, error = np.empty_like(wanted), np.empty_like(wanted)
    scale = np.einsum("...rr->r...", factor).reshape(len(wanted), -1)  # [R, 1] or [R, O]
    for first in range(0, len(wanted), _TOGETHER):
        end = min(first + _TOGETHER, len(wanted))
        spill = _outputs(factor[..., :first, first:end], error[:first])  # of the errors before these rows
        for row in range(first, end):
            here = spill[row - first] + _outputs(factor[..., first:row, row : row + 1], error[first:row])[0]
            whole[row] = np.clip(np.rint((wanted[row] - here / scale[row]) / steps), -largest, largest)
            error[row] = whole[row] * steps - wanted[row]
    return whole


def _outputs(factor: Float64, weights: Float64) -> Float64:
    """What weights [R, O] give along a factor's columns, [columns, O]; the sum of squares is what they cost."""
    if factor.ndim == 2:
        return np.asarray(factor.T @ weights)
    return np.asarray(np.einsum("orc,ro->co", factor, weights))
