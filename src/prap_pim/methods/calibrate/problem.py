"""What a layer is to compute on its calibration inputs: the problem that donors are chosen for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prap_pim.frontend.im2col import positions_of, rows_of_pairs
from prap_pim.frontend.quantize import LARGEST, InputGrid, QuantizeConfig, grid_of
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerWeights
from prap_pim.methods.calibrate.depthwise import Depthwise
from prap_pim.methods.calibrate.hessian import Metric, Moments
from prap_pim.methods.calibrate.layer import Problem, Setting, approximate, expected

Float64 = NDArray[np.float64]

_ROWS_AT_ONCE = 1 << 24  # numbers laid out at a time
_SAMPLE = 8  # blocks of a layer that are looked at to tell what an offer would give
_DEPTHWISE_ROWS = 2048  # positions, at most, where a filter has a kernel's weights alone
_FEW_ROWS = 0.1  # damping, at least, of a layer that has as many inputs as the calibration gives positions
_LEAST_WEIGHT = 1e-6  # of a filter's error, relative to the greatest


def shares_nothing(layer: Layer) -> bool:
    """Whether no two filters read the same inputs, as in a depthwise convolution."""
    return layer.groups > 1 and layer.filters == layer.groups


@dataclass(frozen=True, eq=False)
class Part:
    """A convolution group of a layer, or all of it: what is to be approximated, and mean inputs now and originally."""

    layer: Layer
    problem: Problem
    mean: Float64
    original_mean: Float64


@dataclass(frozen=True, eq=False)
class Parts:
    """What is to be approximated of a layer: its convolution groups, or all of it as one.

    Attributes:
        layer: the layer.
        groups: in order.
    """

    layer: Layer
    groups: tuple[Part, ...]

    @property
    def target(self) -> Float64:
        """The weights that are wanted, float64 [O, fan_in]."""
        return np.concatenate([part.problem.target for part in self.groups])

    @property
    def mean(self) -> Float64:
        """Of the inputs that each filter reads, real, float64 [O, fan_in]."""
        return np.concatenate([np.broadcast_to(p.mean, p.problem.target.shape) for p in self.groups])

    @property
    def original_mean(self) -> Float64:
        """``mean`` in the original network."""
        return np.concatenate([np.broadcast_to(p.original_mean, p.problem.target.shape) for p in self.groups])

    @property
    def energy(self) -> float:
        """Output error of no weights at all."""
        return sum(part.problem.energy for part in self.groups)

    def error(self, weights: Float64) -> float:
        """Output error of weights [O, fan_in], relative to that of none at all."""
        own = np.split(weights, len(self.groups))
        left = sum(p.problem.error(mine) * p.problem.energy for p, mine in zip(self.groups, own, strict=True))
        return left / max(self.energy, float(np.finfo(np.float64).tiny))

    def priced(self, price: float) -> "Parts":
        """With what a use must save."""
        return replace(self, groups=tuple(replace(p, problem=replace(p.problem, price=price)) for p in self.groups))

    def approximated(self, setting: Setting, grain: Grain, passes: int) -> LayerWeights:
        """As near to the target as few donors come."""
        plans = [approximate(part.layer, part.problem, setting, grain, passes) for part in self.groups]
        return plans[0] if len(plans) == 1 else LayerWeights.of_groups(self.layer.name, plans)

    def expected(self, setting: Setting, bits: Sequence[int], grain: Grain) -> Float64:
        """The relative error that a setting would leave with 1, 2, ... uses up to its own and donors of so many
        ``bits``, from some of the blocks, float64 [U, B]."""
        sample = max(2, _SAMPLE // len(self.groups))
        error, energy = np.zeros((setting.uses, len(bits))), 0.0
        for part in self.groups[:: max(1, len(self.groups) // _SAMPLE)]:
            of_part = part.problem.energy
            error += of_part * expected(part.layer, part.problem, setting, bits, grain, sample)
            energy += of_part
        return np.asarray(error / max(energy, float(np.finfo(np.float64).tiny)))


def mean_taken_back(plan: LayerWeights, problem: Depthwise | Parts) -> LayerWeights:
    """The plan with a bias that takes back the mean of the layer's error."""
    with np.errstate(over="ignore"):  # the plan tells what is not finite
        wanted = (problem.layer.matrix * problem.original_mean).sum(1)
        return replace(plan, bias=(wanted - (plan.real_weights() * problem.mean).sum(1)).astype(np.float32))


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """What drives a layer now, and what drove it in the original network, on the same calibration inputs.

    Attributes:
        layer: the layer.
        grid: int8, of the inputs now.
        now: int8, batch by batch, every call's.
        original_grid, original: likewise; ``original`` is ``now`` where nothing has been changed.
        masks: of each batch of the first call and of further ones in turn, which positions are no padding
            (``capture.padding_mask``).
        weight: float64 [O], what each filter's error counts (``filter_weights``); None: what batch norm says.
    """

    layer: Layer
    grid: InputGrid
    now: Sequence[Tensor]
    original_grid: InputGrid
    original: Sequence[Tensor]
    masks: Sequence[Tensor | None] = (None,)
    weight: Float64 | None = None

    @staticmethod
    def of(
        layer: Layer,
        now: Sequence[Tensor],
        original: Sequence[Tensor] | None,
        later: Sequence[Tensor],
        config: QuantizeConfig,
        masks: Sequence[Tensor | None] = (None,),
        weight: Float64 | None = None,
    ) -> "LayerInputs":
        """
        Args:
            now: the layer's inputs, batch by batch.
            original: those of the original network; None if they are the same.
            later: what further calls of the layer read, originally.
            config: how the grid is found.
            masks: of every batch.
            weight: of the filters.

        Raises:
            UserError: an input is NaN or infinite.
        """
        grid = grid_of(layer, [*now, *later], config)
        integers = [grid.integers(x) for x in (*now, *later)]
        if original is None:
            return LayerInputs(layer, grid, integers, grid, integers, masks, weight)
        wide = grid_of(layer, [*original, *later], LARGEST)  # nothing is clipped: what was meant is wanted
        then = [wide.integers(x) for x in (*original, *later)]
        return LayerInputs(layer, grid, integers, wide, then, masks, weight)

    def depthwise(self, most: int, seed: Sequence[int], mimic: float, damping: float) -> Depthwise:
        """The problem of a layer whose filters share nothing. Arguments as for ``parts``."""
        taps = self.layer.fan_in
        places = self._places(self.layer, min(most, _DEPTHWISE_ROWS), seed)
        moments = Depthwise.moments(self.layer, places, self.grid, self.original_grid)
        damping = max(damping, _FEW_ROWS * taps / max(1, moments.count))
        mimic = 0.0 if self.original is self.now else mimic
        problem = Depthwise.of(self.layer, moments, self.grid, self.original_grid, mimic, damping)
        return problem if self.weight is None else replace(problem, weight=self.weight)

    def parts(self, most: int, seed: Sequence[int], mimic: float, damping: float) -> Parts:
        """What is to be approximated, group by group.

        Args:
            most: positions that are looked at.
            seed: of which these are.
            mimic, damping: as in ``CalibratedReuse``.
        """
        layer = self.layer
        counts = _of_norm(layer) if self.weight is None else self.weight
        groups = enumerate(zip(layer.by_group(), np.split(counts, layer.groups), strict=True))
        parts = (self._part(part, i, weight, most, seed, mimic, damping) for i, (part, weight) in groups)
        return Parts(layer, tuple(parts))

    def _part(
        self, part: Layer, i: int, weight: Float64, most: int, seed: Sequence[int], mimic: float, damping: float
    ) -> Part:
        channels = slice(i * part.channels, (i + 1) * part.channels)
        moments = Moments(part.rows)
        places = self._places(part, most, seed)
        if self.layer.groups > 1:
            places = [_of_channels(channels, *each) for each in places]
        for x, y in rows_of_pairs(part, places, (self.grid.zero, self.original_grid.zero), _ROWS_AT_ONCE):
            rows = x.float()
            moments.add(rows, rows if y is x else y.float())
        covariance, cross = moments.covariances()
        own = np.diag(covariance).copy()
        positions = sum(positions_of(part, x) for x in self.now)
        metric = Metric.of(covariance, max(damping, _FEW_ROWS * part.rows / max(1, positions)))
        target = part.matrix.astype(np.float64)
        if cross is not covariance and mimic > 0:
            cross *= self.original_grid.step / self.grid.step
            cross[np.diag_indices_from(cross)] += np.diag(metric.hessian) - own
            mixed = mimic * (target @ cross) + (1 - mimic) * (target @ metric.hessian)
            target = np.ascontiguousarray(metric.solve(mixed.T).T)
        mean, original_mean = moments.means()
        return Part(
            part,
            Problem(target, metric, weight),
            (mean - self.grid.zero) * self.grid.step,
            (original_mean - self.original_grid.zero) * self.original_grid.step,
        )

    def _places(self, part: Layer, most: int, seed: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Batches now and originally, and the output positions that are looked at in each."""
        generator = np.random.default_rng(list(seed))
        every = [self._used(part, i) for i in range(len(self.now))]
        total = sum(map(len, every))
        found = []
        for x, y, places in zip(self.now, self.original, every, strict=True):
            share = -(-len(places) * most // max(1, total))
            if share < len(places):
                places = places[np.sort(generator.choice(len(places), share, replace=False))]
            found.append((x, y, torch.from_numpy(places)))
        return found

    def _used(self, part: Layer, batch: int) -> NDArray[np.int64]:
        """Output positions of a batch that are no padding: what these compute nobody reads."""
        mask, x = self.masks[batch % len(self.masks)], self.now[batch]
        count = positions_of(part, x)
        same = mask is not None and x.shape[:-1] in (mask.shape, (mask.numel(),))
        if mask is None or part.kind != "linear" or not same:
            return np.arange(count)
        return np.flatnonzero(mask.flatten().cpu().numpy())


def _of_channels(channels: slice, x: Tensor, y: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mine = x[:, channels]
    return mine, mine if y is x else y[:, channels], places


def _of_norm(layer: Layer) -> Float64:
    """What each filter's error counts by the batch norm behind it, float64 [O]."""
    scale = layer.filter_scale.astype(np.float64) ** 2
    greatest = scale.max()
    return np.maximum(scale / greatest, _LEAST_WEIGHT) if greatest > 0 else np.ones(layer.filters)
