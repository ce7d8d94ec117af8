"""One layer: row group after row group as few donors as allowed, each later one making good the errors of those before.

The output error of filter o is e H e^T, e the error of its weights and H the covariance of its inputs (Hassibi and
Stork, NeurIPS 1993). Row groups are taken in order and the later ones are first taken to be free (as GPTQ does for
rounding: Frantar et al., ICLR 2023), then in further passes each is chosen anew for what all others really are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.parallel import over_ranges
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN, INT8, LayerWeights
from prap_pim.methods.calibrate.donors import Choice, choose, fit, rounded, seeds
from prap_pim.methods.calibrate.hessian import Metric

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_LARGEST = 127
_KERNEL = 9  # positions of the 3x3 kernels that shapes are of
_ROUNDS = 2  # of k-means
_ROUNDS_ALONE = 1  # where a block is looked at by itself
_FURTHER_ROUNDS = 1  # in further passes, from the donors of the one before
_STRETCH = 256  # rows
_FILTERS_FOR_THREADS = 256  # with fewer, threads only wait for one another's Python
_TINY = 1e-9
_TINY_BITS = 1e-4  # so that a float32 result just above 127 steps still counts as 127
_MOST_TOGETHER = 4096  # filters, about, that choose among the same donors: heads of language models have more
_FILTERS_AT_A_TIME = 4096
_SHAPES = 8  # of a block, at most, as in PRAP's step 1; never more than donors


@dataclass(frozen=True)
class Setting:
    """How a layer is compressed.

    Attributes:
        donors: of a block of rows. Where filters have different shapes, each shape has its share of them.
        positions: kernel positions that each filter keeps; None: all weights.
        bits: of a donor.
        uses: donors, at most, whose sum a filter takes of a block.
    """

    donors: int
    positions: int | None = None
    bits: int = 8
    uses: int = 1


def every_pattern(layer: Layer, grain: Grain) -> Setting:
    """All patterns of a layer, or of each of its groups, in the bits in which the chip stores weights."""
    return Setting(layer.filters // layer.groups, bits=grain.stored_bits)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be approximated, and in which metric. O filters, R im2col rows.

    Attributes:
        target: float64 [O, R], the weights that are wanted.
        metric: of errors along the rows.
        weight: float64 [O], what each filter's error counts.
        price: what one use must save, in the same unit as the weighted errors.
    """

    target: Float64
    metric: Metric
    weight: Float64
    price: float = 0.0

    def error(self, weights: Float64) -> float:
        """Weighted output error of ``weights``, relative to that of none at all."""
        return self._cost(weights - self.target) / max(self.energy, np.finfo(np.float64).tiny)

    @cached_property
    def energy(self) -> float:
        """Weighted output error of no weights at all."""
        return self._cost(self.target)

    @cached_property
    def normalised(self) -> tuple["Problem", Float64]:
        """The same with every filter in units of its own int8 step, and these steps, float64 [O].

        Patterns are then compared by shape alone; what is reused for a filter is multiplied by its step.
        """
        largest = np.abs(self.target).max(1, initial=0.0)
        steps = np.where(largest > 0, largest / _LARGEST, 1.0)
        return replace(self, target=self.target / steps[:, None], weight=self.weight * steps**2), steps

    def best_factors(self, weights: Float64) -> Float64:
        """What to multiply each filter of ``weights`` with, so that its error is least, float64 [O]; 1 for zeros."""
        square, along = np.empty(len(weights)), np.empty(len(weights))
        for some in self._slices():
            wanted, given = self.target[some] @ self.metric.factor, weights[some] @ self.metric.factor
            square[some], along[some] = (given**2).sum(1), (wanted * given).sum(1)
        return np.where((square > 0) & (along > 0), along / np.where(square > 0, square, 1.0), 1.0)

    def _cost(self, error: Float64) -> float:
        parts = (((error[some] @ self.metric.factor) ** 2).sum(1) @ self.weight[some] for some in self._slices())
        return float(sum(parts))

    def _slices(self) -> Iterator[slice]:
        """Of filters that are multiplied out at a time: heads of language models have tens of thousands."""
        yield from (
            slice(first, first + _FILTERS_AT_A_TIME) for first in range(0, len(self.target), _FILTERS_AT_A_TIME)
        )


@dataclass(frozen=True, eq=False)
class _Group:
    """A row group: some rows, the filters that have a pattern there, and the donors that they take.

    Attributes:
        rows: int64 [r], r <= h.
        filters: int64 [n].
        count: donors that it may have.
        donors: float64 [K, r], whole numbers.
        choice: of the n filters.
    """

    rows: Int64
    filters: Int64
    count: int
    donors: Float64
    choice: Choice

    def values(self) -> Float64:
        """What the filters' weights are on the rows, [n, r], in steps."""
        return _values(self.donors, self.choice)


def _values(donors: Float64, choice: Choice) -> Float64:
    """The sums of donors that are chosen."""
    if len(donors) == 0:
        return np.zeros((choice.donor.shape[1], donors.shape[1]))
    return np.asarray((donors[choice.donor] * choice.gain[..., None].astype(np.float64)).sum(0))


@dataclass(frozen=True, eq=False)
class _White:
    """Patterns in the unit in which what an error costs is its squared norm. n filters, r rows.

    Attributes:
        patterns: float32 [n, r].
        weight: float32 [n], what a filter's error counts, relative to the greatest.
        worth: float32 [n], what a use must save.
        factor: float64 [r, r]; values times it, over ``scale``, are whitened.
        scale: see ``factor``.
        unit: what a weighted squared norm of 1 costs.
    """

    patterns: Float32
    weight: Float32
    worth: Float32
    factor: Float64
    scale: float
    unit: float

    @staticmethod
    def of(desired: Float64, metric: Float64, weight: Float64, price: float) -> "_White":
        factor = np.asarray(np.linalg.cholesky(metric), np.float64)
        patterns = desired @ factor
        scale = float(np.abs(patterns).max(initial=0.0)) or 1.0  # float32 from here on
        return _White(
            np.ascontiguousarray(patterns / scale, np.float32),
            (weight / weight.max()).astype(np.float32),
            (price / (weight * scale**2)).astype(np.float32),
            factor,
            scale,
            float(weight.max()) * scale**2,
        )

    def part(self, share: slice) -> "_White":
        """Some of the patterns."""
        return replace(self, patterns=self.patterns[share], weight=self.weight[share], worth=self.worth[share])

    def whitened(self, donors: Float64) -> Float32:
        """Values of donors, float64 [K, r], in that unit."""
        return np.ascontiguousarray(donors @ self.factor / self.scale, np.float32)

    def saved(self, choice: Choice) -> float:
        """What uses save of what no weights at all would cost."""
        return self.unit * float(self.weight @ choice.saving)

    def fitted(
        self, donors: Float32, count: int, rounds: int, uses: int, start: Choice | None
    ) -> tuple[Float32, Choice]:
        """``fit``; with a ``count`` of donors that gives each pattern its own there is nothing to improve."""
        settled = count >= len(self.patterns)
        return fit(self.patterns, self.weight, self.worth, donors, 0 if settled else rounds, uses, start)

    def stored(self, donors: Float32, choice: Choice, bits: int) -> tuple[Float64, Choice]:
        """Donors as whole numbers, float64 [K, r], and what the patterns then take."""
        largest = 2 ** (bits - 1) - 1
        whole, start = rounded(self.patterns, self.weight, donors, choice, self.factor, self.scale, largest)
        return whole, choose(self.patterns, self.whitened(whole), self.worth, len(choice.donor), start)


def blocks(layer: Layer, positions: int | None, grain: Grain) -> list[slice]:
    """im2col rows that are decided together: those of an OU, or of the channels whose kept positions fill an OU."""
    length = _block_rows(layer, positions, grain)
    return [slice(first, min(layer.rows, first + length)) for first in range(0, layer.rows, length)]


def block_count(layer: Layer, positions: int | None, grain: Grain) -> int:
    """How many ``blocks`` there are."""
    return -(-layer.rows // _block_rows(layer, positions, grain))


def _block_rows(layer: Layer, positions: int | None, grain: Grain) -> int:
    return grain.ou_rows if positions is None else grain.ou_rows // positions * layer.kernel_positions


def donors_together(grain: Grain) -> int:
    """Donors that fill an OU together; 1 where an OU is narrower than a weight."""
    return max(1, grain.ou_columns // grain.columns_per_weight)


def most_ous(setting: Setting, grain: Grain) -> int:
    """OUs that a block of such a layer takes at most."""
    grain = grain.of_bits(setting.bits)
    if setting.positions is None:
        return grain.ous(setting.donors)
    each = donors_together(grain)  # every shape has OUs of its own
    return -(-setting.donors // each) * grain.ous(each)


def most_shapes(setting: Setting, grain: Grain) -> int:
    """Shapes that the filters of a block have at most."""
    return min(_SHAPES, -(-setting.donors // donors_together(grain.of_bits(setting.bits))))


def _stretches(every: list[slice]) -> Iterator[list[slice]]:
    """The blocks in stretches: what goes on within one is multiplied out block by block, the rest all at once."""
    per_stretch = max(1, _STRETCH // (every[0].stop - every[0].start))
    for i in range(0, len(every), per_stretch):
        yield every[i : i + per_stretch]


def shapes_fit(layer: Layer, positions: int, grain: Grain) -> bool:
    """Whether filters of this layer can keep so many positions of a kernel and fill OUs exactly."""
    channels = grain.ou_rows // positions
    fills = grain.ou_rows % positions == 0 and layer.weight.shape[1] % channels == 0
    return fills and layer.kernel_positions == _KERNEL


def approximate(layer: Layer, problem: Problem, setting: Setting, grain: Grain, passes: int) -> LayerWeights:
    """The layer with few donors, as near to the target as found. The plan's steps are those of the weights alone, its
    bias 0.

    Args:
        layer: for its name, kind and kernel; its weights are not read.
        problem: what is wanted.
        setting: how many donors, and which weights may be dropped.
        grain: of the chip.
        passes: over all row groups after the first one; none makes the output error larger, before each filter is
            multiplied by its best factor.
    """
    normalised, steps = problem.normalised
    solver = _Solver(layer, normalised, setting, grain)
    solver.first_pass()
    for _ in range(passes):
        solver.further_pass()
    return solver.plan(steps * normalised.best_factors(solver.error + normalised.target))


class _Solver:
    """Weights so far, and the groups that they consist of, by block. The problem's unit is that of stored integers."""

    def __init__(self, layer: Layer, problem: Problem, setting: Setting, grain: Grain) -> None:
        self.layer, self.problem, self.setting = layer, problem, setting
        self.grain = grain.of_bits(setting.bits)
        self.blocks = blocks(layer, setting.positions, grain)
        self.groups: list[list[_Group]] = []
        self.error: Float64  # of the weights so far, [O, R]
        self.everyone = np.arange(layer.filters)

    def first_pass(self) -> None:
        """Every later row is taken to make good what can be made good."""
        factor = self.problem.metric.factor
        self.error = np.zeros_like(self.problem.target)
        for stretch in _stretches(self.blocks):
            first, end = stretch[0].start, stretch[-1].stop
            spill = self.error[:, :first] @ factor[:first, first:end]  # of earlier rows' errors into these
            for rows in stretch:
                own = factor[rows, rows]
                here = spill[:, rows.start - first : rows.stop - first]
                wanted = self.problem.target[:, rows] - np.linalg.solve(own.T, here.T).T
                metric = own @ own.T
                groups = self._block(rows, wanted, metric)
                self.groups.append(groups)
                self._put(rows, groups)
                spill[:, rows.stop - first :] += self.error[:, rows] @ factor[rows, rows.stop : end]

    def further_pass(self) -> None:
        """Every row group anew, all others as they are. What is not better is not taken."""
        hessian, done = self.problem.metric.hessian, 0
        for stretch in _stretches(self.blocks):
            first, end = stretch[0].start, stretch[-1].stop
            slope = self.error @ hessian[:, first:end]
            for rows in stretch:
                metric, before = hessian[rows, rows], self.error[:, rows].copy()
                pull = slope[:, rows.start - first : rows.stop - first] - before @ metric  # of all others' errors
                wanted = self.problem.target[:, rows] - np.linalg.solve(metric, pull.T).T
                groups = self.groups[done]
                for i, group in enumerate(groups):
                    desired, its_metric = _restricted(wanted[group.filters], metric, group.rows - rows.start)
                    found, cost = self._group(group.rows, group.filters, desired, its_metric, group.count, group)
                    if cost < self._cost(group, desired, its_metric):
                        groups[i] = found
                self._put(rows, groups)
                slope[:, rows.stop - first :] += (self.error[:, rows] - before) @ hessian[rows, rows.stop : end]
                done += 1

    def alone(self, rows: slice, bits: Sequence[int]) -> Float64:
        """A block as the first pass would do it had nothing come before: its error for each number of uses up to the
        setting's, and for donors of each of these ``bits``, float64 [U, B].

        Donors are rounded to the fewest bits only: the error that rounding adds is taken to fall by 4 with each bit.
        """
        own = self.problem.metric.factor[rows, rows]
        metric, wanted = own @ own.T, self.problem.target[:, rows]
        real, whole = np.full((2, self.setting.uses, 1), self.of_none(rows))
        for kept, filters, count in self._shapes(wanted, metric):
            for white, here in self._shares(self._white(filters, *_restricted(wanted[filters], metric, kept)), count):
                donors, found = seeds(white.patterns, white.weight, here), None
                for i in range(self.setting.uses):
                    donors, found = white.fitted(donors, here, _ROUNDS_ALONE, i + 1, found)
                    real[i] -= white.saved(found)
                    whole[i] -= white.saved(white.stored(donors, found, min(bits))[1])
        whole = np.maximum(whole, 0)
        real = np.clip(real, 0, whole)
        return np.asarray(real + (whole - real) * 4.0 ** (min(bits) - np.array(bits)))

    def of_none(self, rows: slice) -> float:
        """What no weights at all would cost in a block, had nothing come before."""
        driven = self.problem.target[:, rows] @ self.problem.metric.factor[rows, rows]
        return float((driven**2).sum(1) @ self.problem.weight)

    def plan(self, steps: Float64) -> LayerWeights:
        """As integers times the filters' ``steps``, without donors that nobody takes and groups without donors."""
        height = self.grain.ou_rows
        parts = [part for groups in self.groups for group in groups for part in _trimmed(group, height)]
        rows, donors, filters, chosen, gains = zip(*parts, strict=True) if parts else ((), (), (), (), ())
        stored = np.array([len(part) for part in donors], np.int64)
        donor_start = np.concatenate([[0], np.cumsum(stored)]).astype(np.int64)
        use_start = np.concatenate([[0], np.cumsum([len(part) for part in filters])]).astype(np.int64)
        gain = np.concatenate([*gains, np.ones(0)])
        return LayerWeights(
            name=self.layer.name,
            inputs=self.layer.rows,
            rows=np.array(rows, np.int32).reshape(-1, height),
            donors=np.concatenate([*donors, np.zeros((0, height))]).astype(np.int8),
            donor_start=donor_start,
            use_start=use_start,
            use_filter=np.concatenate([*filters, np.zeros(0)]).astype(np.int32),
            use_donor=np.concatenate(
                [*(part + first for part, first in zip(chosen, donor_start[:-1], strict=True)), np.zeros(0)]
            ).astype(np.int32),
            use_sign=np.sign(gain).astype(np.int8),
            use_exponent=(np.frexp(np.abs(gain))[1] - 1).astype(np.int8),
            step=steps.astype(np.float32),
            bias=np.zeros(self.layer.filters, np.float32),
            weight_bits=self.setting.bits,
        )

    def _put(self, rows: slice, groups: list[_Group]) -> None:
        self.error[:, rows] = -self.problem.target[:, rows]
        for group in groups:
            self.error[np.ix_(group.filters, group.rows)] += group.values()

    def _group(
        self, rows: Int64, filters: Int64, desired: Float64, metric: Float64, count: int, before: _Group | None
    ) -> tuple[_Group, float]:
        """At most ``count`` donors for some filters on some rows, and what that costs."""
        if count >= len(filters) and self.setting.bits == INT8:  # no reuse: every filter stores its own pattern
            power = self._power(desired)
            mine = np.arange(len(filters), dtype=np.int32)
            own = Choice(mine[None], (1 / power).astype(np.float32).T, np.zeros(len(filters)))
            group = _Group(rows, filters, count, self._whole(desired), own)
        else:
            group = _Group(rows, filters, count, *self._stored(self._white(filters, desired, metric), count, before))
        return group, self._cost(group, desired, metric)

    def _white(self, filters: Int64, desired: Float64, metric: Float64) -> _White:
        return _White.of(desired, metric, self.problem.weight[filters], self.problem.price)

    def _shares(self, white: _White, count: int) -> Iterator[tuple[_White, int]]:
        """Of a very wide layer, patterns that choose among donors of their own: a search among all of them takes time
        with the square of the width. Almost equal shares, whole OUs of donors."""
        filters, together = len(white.patterns), donors_together(self.grain)
        parts = max(1, min(round(filters / _MOST_TOGETHER), count // together))
        for i in range(parts):
            ous = (i + 1) * (count // together) // parts - i * (count // together) // parts
            here = slice(i * filters // parts, (i + 1) * filters // parts)
            yield white.part(here), ous * together + (count % together if i == parts - 1 else 0)

    def _stored(self, white: _White, count: int, before: _Group | None) -> tuple[Float64, Choice]:
        """Donors as whole numbers and what the patterns take; those of ``before`` to start from."""
        stored: list[Float64] = []
        choices: list[Choice] = []
        first = filters = 0
        for some, here in self._shares(white, count):
            if before is None:
                donors, start, rounds = seeds(some.patterns, some.weight, here), None, _ROUNDS
            else:
                donors, rounds = white.whitened(before.donors[first : first + here]), _FURTHER_ROUNDS
                start = before.choice.of(slice(filters, filters + len(some.patterns))).renumbered(-first)
            fitted = some.fitted(donors, here, rounds, self.setting.uses, start)
            whole, choice = some.stored(*fitted, self.setting.bits)
            stored.append(np.pad(whole, ((0, here - len(whole)), (0, 0))))  # fewer may do
            choices.append(choice.renumbered(first))
            first, filters = first + here, filters + len(some.patterns)
        every = (np.concatenate([getattr(each, key) for each in choices], -1) for key in ("donor", "gain", "saving"))
        return np.concatenate(stored), Choice(*every)

    def _power(self, values: Float64) -> Float64:
        """The power of two, [n, 1], times which patterns fill the int8 range, as far as that leaves room for gains."""
        largest = np.maximum(np.abs(values).max(1, keepdims=True), _TINY)
        power = np.floor(np.log2(_LARGEST / largest) + _TINY_BITS)
        return np.asarray(np.exp2(np.clip(power, -EXPONENT_MAX, -EXPONENT_MIN // 2)))

    def _whole(self, values: Float64) -> Float64:
        """Patterns as int8: times a power of two, which their gains take back."""
        return np.clip(np.rint(values * self._power(values)), -_LARGEST, _LARGEST)

    def _cost(self, group: _Group, desired: Float64, metric: Float64) -> float:
        error = group.values() - desired
        each = ((error @ metric) * error).sum(1)  # [filter]
        return float(each @ self.problem.weight[group.filters]) + self.problem.price * int(
            np.count_nonzero(group.choice.gain)
        )

    def _shapes(self, wanted: Float64, metric: Float64) -> Iterator[tuple[Int64, Int64, int]]:
        """Of a block: rows within it that some filters keep, these filters, and the donors that they may have."""
        each = donors_together(self.grain)
        if self.setting.positions is None:
            yield np.arange(len(metric)), self.everyone, self.setting.donors
            return
        total = -(-self.setting.donors // each)
        kernel, most = self.layer.kernel_positions, most_shapes(self.setting, self.grain)
        shapes = list(choose_shapes(wanted, metric, self.problem.weight, self.setting.positions, kernel, most))
        sizes = np.array([len(filters) for _, filters in shapes])
        for (kept, filters), share in zip(shapes, apportioned(total, sizes, -(-sizes // each)), strict=True):
            yield kept, filters, each * int(share)

    def _block(self, rows: slice, wanted: Float64, metric: Float64) -> list[_Group]:
        """A block's groups, one for each shape, from scratch."""
        return [
            self._group(rows.start + kept, filters, *_restricted(wanted[filters], metric, kept), count, None)[0]
            for kept, filters, count in self._shapes(wanted, metric)
        ]


def apportioned(total: int, sizes: Int64, most: Int64) -> Int64:
    """``total`` shared out in proportion to ``sizes``: at least 1 for each, no more than it needs, the rest to others.

    Args:
        total: at least one for each.
        sizes: int64 [n], positive.
        most: int64 [n], what each needs.
    """
    exact = total * sizes / sizes.sum()
    shares = np.clip(np.floor(exact).astype(np.int64), 1, most)
    while shares.sum() > total:
        shares[np.where(shares > 1, shares - exact, -np.inf).argmax()] -= 1
    while shares.sum() < min(total, most.sum()):
        shares[np.where(shares < most, exact - shares, -np.inf).argmax()] += 1
    return np.asarray(shares)


def choose_shapes(
    wanted: Float64, metric: Float64, weight: Float64, positions: int, kernel: int, most: int
) -> Iterator[tuple[Int64, Int64]]:
    """A few shapes for a block, and each filter's: what is dropped costs least once what is kept is re-solved.

    Shapes are added one by one, each time the one that lowers the sum of all filters' costs most.

    Args:
        wanted: float64 [O, n * kernel], rows in the order (channel, position).
        metric: float64 [n * kernel, n * kernel].
        weight: float64 [O].
        positions: kept of the ``kernel`` ones.
        kernel: positions of a channel.
        most: shapes that there may be.

    Yields:
        rows within the block, ascending, and the filters that keep these; shapes that no filter has are left out.
    """
    kept, dropped = _all_shapes(positions, kernel, len(metric) // kernel)
    inverse = np.linalg.inv(metric)
    schur = np.linalg.inv(inverse[dropped[:, :, None], dropped[:, None, :]])
    lost = wanted.T[dropped]  # [shape, dropped rows, O]
    cost = (lost * (schur @ lost)).sum(1) * weight  # [shape, O]
    best = np.full(len(weight), np.inf)
    offered: list[int] = []
    for _ in range(min(most, len(kept))):
        offered.append(int(np.minimum(cost, best).sum(1).argmin()))
        best = np.minimum(best, cost[offered[-1]])
    mine = cost[offered].argmin(0)
    for i, shape in enumerate(offered):
        filters = np.flatnonzero(mine == i)
        if len(filters):
            yield kept[shape], filters


@cache
def _all_shapes(positions: int, kernel: int, channels: int) -> tuple[Int64, Int64]:
    """Rows of a block that each shape keeps, and those that it drops, [shape, rows], ascending."""
    chosen = list(combinations(range(kernel), positions))
    others = [[p for p in range(kernel) if p not in each] for each in chosen]
    first = kernel * np.arange(channels)[:, None]
    kept, dropped = ([(first + each).ravel() for each in every] for every in (chosen, others))
    return np.array(kept), np.array(dropped)


def _restricted(wanted: Float64, metric: Float64, kept: Int64) -> tuple[Float64, Float64]:
    """What the kept rows should be where the others are 0, and the metric of errors about that."""
    if len(kept) == len(metric):
        return wanted, metric
    dropped = np.setdiff1d(np.arange(len(metric)), kept)
    among = metric[np.ix_(kept, kept)]
    return wanted[:, kept] + np.linalg.solve(among, metric[np.ix_(kept, dropped)] @ wanted[:, dropped].T).T, among


def _trimmed(group: _Group, height: int) -> Iterator[tuple[Int64, Float64, Int64, Int64, Float64]]:
    """Rows, donors, and filters with donor and gain, of what is in use: nothing, if nothing is."""
    stored = np.count_nonzero(group.donors, axis=1) > 0
    used = (group.choice.gain != 0) & stored[group.choice.donor] if len(stored) else np.zeros((1, 0), np.bool_)
    if not used.any():
        return
    names = np.unique(group.choice.donor[used])
    rows = np.full(height, -1, np.int64)
    rows[: len(group.rows)] = group.rows
    donors = np.zeros((len(names), height))
    donors[:, : len(group.rows)] = group.donors[names]
    use, which = np.nonzero(used)
    index = np.searchsorted(names, group.choice.donor[use, which])
    order = np.lexsort((index, which))  # by filter, then donor
    gains = group.choice.gain[use, which].astype(np.float64)
    yield rows, donors, group.filters[which[order]], index[order], gains[order]


def expected(
    layer: Layer, problem: Problem, setting: Setting, bits: Sequence[int], grain: Grain, sample: int
) -> Float64:
    """What a setting would give, from some of the blocks, each by itself and whole groups of rows free to follow.

    Args:
        setting: with the most uses that are looked at; its bits do not count.
        bits: of the donors.
        sample: blocks to look at, spread evenly.

    Returns:
        the relative output error, as ``Problem.error`` counts it, for 1, 2, ... uses and each of ``bits``, float64
        [U, B].
    """
    if layer.filters >= 2 * _MOST_TOGETHER:  # some of the filters, with as many donors each
        part = np.arange(0, layer.filters, 2 * layer.filters // _MOST_TOGETHER)
        donors = max(1, round(setting.donors * len(part) / layer.filters))
        layer = replace(
            layer, weight=layer.weight[part], filter_scale=layer.filter_scale[part], filter_bias=layer.filter_bias[part]
        )
        problem = replace(problem, target=problem.target[part], weight=problem.weight[part])
        setting = replace(setting, donors=donors)
    solver = _Solver(layer, problem.normalised[0], setting, grain)
    count = len(solver.blocks)
    looked_at = [
        solver.blocks[i] for i in dict.fromkeys(np.linspace(0, count - 1, min(sample, count)).round().astype(int))
    ]
    found = np.zeros((len(looked_at), setting.uses, len(bits)))

    def look(first: int, end: int) -> None:
        for i in range(first, end):
            found[i] = solver.alone(looked_at[i], bits)

    if layer.filters < _FILTERS_FOR_THREADS:
        look(0, len(looked_at))
    else:
        over_ranges(len(looked_at), look)
    return np.asarray(found.sum(0) / max(sum(map(solver.of_none, looked_at)), np.finfo(np.float64).tiny))
