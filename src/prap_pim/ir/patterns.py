"""What pruning and reuse decide, before there are integers: which inputs each filter keeps, who reuses whose pattern.

A layer's im2col rows are cut into *blocks*; a block offers one or more *shapes* (sets of at most h rows), and each
filter has at most one shape, so at most one weight pattern, in each block. Dense: a block is h consecutive rows and has
one shape. Pattern pruning: a block is a channel group with up to 8 shapes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.common.parallel import over_ranges
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN, INT8, LayerWeights, largest_integer

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


class PatternArrays(NamedTuple):
    """``PatternSet.rows``, ``block_start`` and ``shape``, for compiled loops."""

    rows: Int32
    block_start: NDArray[np.int64]
    shape: Int32


@dataclass(frozen=True, eq=False)
class PatternSet:
    """Which inputs each filter keeps. B blocks, S shapes, O filters, h rows of an OU.

    Attributes:
        inputs: im2col rows of the layer.
        rows: int32 [S, h], the rows of every shape, ascending, -1 (at the end) where a shape has fewer than h.
        block_start: int64 [B + 1]; the shapes of block b are block_start[b] : block_start[b + 1].
        shape: int32 [O, B], row of ``rows`` that a filter uses in a block, -1 for none.
        groups: of a grouped convolution. Filters of group i keep inputs of the i-th share alone: of a shape that has
            rows of several groups those of their own.
    """

    inputs: int
    rows: Int32
    block_start: NDArray[np.int64]
    shape: Int32
    groups: int = 1

    def __post_init__(self) -> None:
        blocks = len(self.block_start) - 1
        if self.shape.ndim != 2 or self.shape.shape[1] != blocks or self.shape.shape[0] < 1:
            raise UserError(f"shape must be [filters, {blocks}], not {self.shape.shape}")
        low, high = self.block_start[:-1], self.block_start[1:]
        if not (((self.shape >= low) & (self.shape < high)) | (self.shape == -1)).all():
            raise UserError("a filter's shape must be one of its block's shapes, or -1")
        if (self.rows >= self.inputs).any() or (self.rows < -1).any():
            raise UserError(f"rows must lie in -1..{self.inputs - 1}")

    @property
    def arrays(self) -> PatternArrays:
        """For compiled loops."""
        return PatternArrays(self.rows, self.block_start, self.shape)

    @property
    def filters(self) -> int:
        """O, output channels."""
        return int(self.shape.shape[0])

    @property
    def blocks(self) -> int:
        """B, blocks of rows."""
        return int(self.shape.shape[1])

    @property
    def fan_in(self) -> int:
        """Inputs that one filter may read; input r of its group is column ``r % fan_in`` of its weights."""
        return self.inputs // self.groups

    def mask(self) -> NDArray[np.bool_]:
        """Weights that are kept, bool [O, fan_in]."""
        kept: NDArray[np.bool_] = np.zeros((self.filters, self.fan_in + 1), np.bool_)
        filters, blocks = np.nonzero(self.shape >= 0)
        columns = self.columns(filters, self.shape[filters, blocks])
        kept[filters[:, None], columns] = True  # -1, none, is the column past the end
        return np.ascontiguousarray(kept[:, :-1])

    def columns(self, filters: NDArray[np.int64], shapes: NDArray[np.integer[Any]]) -> Int32:
        """Which of a filter's weights a shape keeps, int32 [n, h] for filters and shapes [n]; -1 for none there."""
        rows: Int32 = self.rows[shapes]
        if self.groups == 1:
            return rows
        own = rows // self.fan_in == filters[:, None] // (self.filters // self.groups)  # -1 is of no group
        return np.where(own, rows % self.fan_in, -1).astype(np.int32)

    def by_group(self) -> Iterator[tuple["PatternSet", slice, NDArray[np.int64]]]:
        """The pattern sets of the groups, each with its filters and its blocks in this one.

        Of a shape with rows of several groups each has its own rows.
        """
        each = self.filters // self.groups
        for i in range(self.groups):
            filters = slice(i * each, (i + 1) * each)
            blocks = np.flatnonzero((self.shape[filters] >= 0).any(0))
            counts = np.diff(self.block_start)[blocks]
            first = np.cumsum(counts) - counts
            rows = np.repeat(self.block_start[:-1][blocks] - first, counts) + np.arange(counts.sum())
            shape = self.shape[filters][:, blocks]
            moved = np.where(shape >= 0, shape - (self.block_start[:-1][blocks] - first), -1)
            named = self.rows[rows]
            own = np.where(named // self.fan_in == i, named - i * self.fan_in, -1)
            order = np.argsort(own < 0, axis=1, kind="stable")  # unused rows at the end
            of_group = PatternSet(
                inputs=self.fan_in,
                rows=np.take_along_axis(own, order, axis=1).astype(np.int32),
                block_start=np.append(first, counts.sum()).astype(np.int64),
                shape=moved.astype(np.int32),
            )
            yield of_group, filters, blocks

    @staticmethod
    def of_groups(parts: Sequence["PatternSet"]) -> "PatternSet":
        """One pattern set of those of the groups, which have equally many filters and inputs each."""
        filters, fan_in = parts[0].filters, parts[0].inputs
        shape = np.full((filters * len(parts), sum(part.blocks for part in parts)), -1, np.int32)
        rows, starts, block, first = [], [np.zeros(1, np.int64)], 0, 0
        for i, part in enumerate(parts):
            there = shape[i * filters : (i + 1) * filters, block : block + part.blocks]
            there[:] = np.where(part.shape >= 0, part.shape + first, -1)
            rows.append(np.where(part.rows >= 0, part.rows + i * fan_in, -1).astype(np.int32))
            starts.append(part.block_start[1:] + first)
            block, first = block + part.blocks, first + len(part.rows)
        return PatternSet(fan_in * len(parts), np.concatenate(rows), np.concatenate(starts), shape, len(parts))


@dataclass(frozen=True, eq=False)
class ReuseMap:
    """Who computes a filter's pattern in a block, and the gain that turns the donor's partial sum into the filter's.

    Attributes:
        source: int32 [O, B], the donor filter; o itself where the filter is a donor, -1 where nothing is computed.
        sign: int8 [O, B], +1 or -1.
        exponent: int8 [O, B], power of two; 0 for donors.
    """

    source: Int32
    sign: NDArray[np.int8]
    exponent: NDArray[np.int8]

    def __post_init__(self) -> None:
        if not self.source.shape == self.sign.shape == self.exponent.shape or self.source.ndim != 2:
            raise UserError("source, sign and exponent must be [filters, blocks]")
        if (self.source < -1).any() or (self.source >= len(self.source)).any():
            raise UserError(f"source must lie in -1..{len(self.source) - 1}")
        used = self.source >= 0
        chosen = np.take_along_axis(self.source, np.maximum(self.source, 0), axis=0)
        if (used & (chosen != self.source)).any():
            raise UserError("a reuser's source must be a donor")
        own = self.is_donor
        if (own & ((self.sign != 1) | (self.exponent != 0))).any():
            raise UserError("a donor's own gain is 1")
        if not np.isin(self.sign, (-1, 1)).all():
            raise UserError("sign must be 1 or -1")
        if ((self.exponent < EXPONENT_MIN) | (self.exponent > EXPONENT_MAX)).any():
            raise UserError(f"a reuser's exponent must lie in {EXPONENT_MIN}..{EXPONENT_MAX}")

    @property
    def is_donor(self) -> NDArray[np.bool_]:
        """bool [O, B]."""
        own = np.arange(len(self.source), dtype=np.int32)[:, None]
        return np.equal(self.source, own, dtype=np.bool_)

    @property
    def shares(self) -> bool:
        """Whether any filter takes another one's pattern."""
        return bool(((self.source >= 0) & ~self.is_donor).any())

    @staticmethod
    def none(patterns: PatternSet) -> "ReuseMap":
        """Every pattern its own donor."""
        own = np.arange(patterns.filters, dtype=np.int32)[:, None]
        source = np.where(patterns.shape >= 0, own, -1).astype(np.int32)
        return ReuseMap(source, np.ones(source.shape, np.int8), np.zeros(source.shape, np.int8))


def effective_shape(patterns: PatternSet, reuse: ReuseMap) -> Int32:
    """The shape each filter ends with, int32 [O, B]: a reuser takes its donor's; -1 where nothing is computed."""
    donor_shape = np.take_along_axis(patterns.shape, np.maximum(reuse.source, 0), axis=0)
    return np.where(reuse.source >= 0, donor_shape, -1).astype(np.int32)


_WHOLE = 1e-3  # how far from a whole number what was divided by its step may be


def shared_step(matrix: Float32, bits: int = INT8) -> float:
    """The real weight that integer 1 stands for: max|W| / 127 of 8 bits (PRAP, step 2), 1 for an all-zero matrix."""
    largest = float(np.abs(matrix).max(initial=0.0))
    return largest / largest_integer(bits) if largest > 0 else 1.0


def weight_steps(matrix: Float32, reuse: ReuseMap, bits: int = INT8) -> NDArray[np.float64]:
    """The real weight that integer 1 stands for in each filter, float64 [O].

    Filters that all store their own patterns have a step each, max|w| over the largest integer, 127 of 8 bits (1 for a
    filter of zeros): one step for all of them destroys networks whose filters differ in size. Filters that reuse one
    another's patterns share one.
    """
    if reuse.shares:
        return np.full(len(matrix), shared_step(matrix, bits))
    largest = np.abs(matrix).max(1, initial=0.0).astype(np.float64)
    return np.where(largest > 0, largest / largest_integer(bits), 1.0)


def layer_steps(layer: Layer, reuse: ReuseMap, bits: int = INT8) -> NDArray[np.float64]:
    """``weight_steps`` of a layer; where its weights are integers of a step already, that step."""
    steps, most = weight_steps(layer.matrix, reuse, bits), largest_integer(bits)
    if layer.integers is None or layer.integers.weight_step is None:
        return steps
    own = layer.integers.weight_step.astype(np.float64)
    integers = layer.matrix / own[:, None]
    whole = (np.abs(integers - np.rint(integers)) < _WHOLE).all(1) & (np.abs(integers) < most + _WHOLE).all(1)
    if reuse.shares:  # one step for all
        return own if whole.all() and (own == own[0]).all() else steps
    return np.where(whole, own, steps)


def plan_weights(
    name: str,
    matrix: Float32,
    patterns: PatternSet,
    reuse: ReuseMap,
    steps: NDArray[np.float64] | None = None,
    bits: int = INT8,
) -> LayerWeights:
    """Round the donors of ``matrix`` and arrange them as a plan.

    One row group for every shape that has a donor, in the order of blocks and shapes; in it the donors in the order of
    filters, and the uses in the order of filters.

    Args:
        name: the layer's name.
        matrix: float32 [O, fan_in], current weights; only the donors' values are read (and the largest, for the steps).
        patterns: what pruning decided for this layer.
        reuse: what reuse decided for it.
        steps: the real weight that integer 1 stands for in each filter, float64 [O]; None: ``weight_steps``.
        bits: of a donor's values.

    Raises:
        UserError: the weights are not finite, or the shapes do not match.
    """
    if matrix.shape != (patterns.filters, patterns.fan_in) or reuse.source.shape != patterns.shape.shape:
        raise UserError(f"layer {name}: weights {matrix.shape} do not match the pruned {patterns.filters} filters")
    if not np.isfinite(matrix).all():
        raise UserError(f"layer {name}: its weight holds NaN or infinity")
    steps = weight_steps(matrix, reuse, bits) if steps is None else steps
    shape = effective_shape(patterns, reuse)
    if ((shape < 0) & (reuse.source >= 0)).any():
        raise UserError(f"layer {name}: a filter reuses a donor that has no pattern")

    # one record per (filter, block) that computes something, ordered by shape (= row group), then filter
    blocks, filters = np.nonzero(shape.T >= 0)
    order = np.argsort(shape[filters, blocks], kind="stable")  # quick: where a block has one shape nothing moves
    filters, blocks = filters[order], blocks[order]
    shapes, use_start = np.unique(shape[filters, blocks], return_index=True)
    own = reuse.is_donor[filters, blocks]  # every shape that occurs has a donor: a reuser's shape is its donor's
    donor_filter, donor_block = filters[own], blocks[own]
    donor_shape = shape[donor_filter, donor_block]

    rows = patterns.rows[shapes]  # [G, h]
    donors = np.empty((len(donor_shape), rows.shape[1]), np.int8)

    def store(first: int, end: int) -> None:
        of_filter = donor_filter[first:end]
        columns = patterns.columns(of_filter, donor_shape[first:end])
        values = np.where(columns >= 0, matrix[of_filter[:, None], columns], 0)
        donors[first:end] = np.rint(values / steps[of_filter, None])

    over_ranges(len(donors), store)
    donor_index = np.full(shape.shape, -1, np.int32)  # row of donors, by (filter, block)
    donor_index[donor_filter, donor_block] = np.arange(len(donor_filter), dtype=np.int32)
    return LayerWeights(
        name=name,
        inputs=patterns.inputs,
        rows=rows.astype(np.int32),
        donors=donors,
        donor_start=np.append(np.searchsorted(donor_shape, shapes), len(donor_shape)).astype(np.int64),
        use_start=np.append(use_start, len(filters)).astype(np.int64),
        use_filter=filters.astype(np.int32),
        use_donor=donor_index[reuse.source[filters, blocks], blocks],
        use_sign=reuse.sign[filters, blocks],
        use_exponent=reuse.exponent[filters, blocks],
        step=steps.astype(np.float32),
        bias=np.zeros(len(matrix), np.float32),
        convolution_groups=patterns.groups,
        weight_bits=bits,
    )
