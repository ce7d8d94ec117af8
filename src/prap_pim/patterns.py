"""What pruning and reuse decide, before there are integers: which inputs each filter keeps, who reuses whose pattern.

A layer's im2col rows are cut into *blocks*; a block offers one or more *shapes* (sets of at most h rows), and each
filter has at most one shape, so at most one weight pattern, in each block. Dense: a block is h consecutive rows and has
one shape. Pattern pruning: a block is a channel group with up to 8 shapes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prap_pim.errors import UserError
from prap_pim.parallel import over_ranges
from prap_pim.plan import EXPONENT_MAX, EXPONENT_MIN, LayerPlan

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class PatternSet:
    """Which inputs each filter keeps. B blocks, S shapes, O filters, h rows of an OU.

    Attributes:
        inputs: im2col rows of the layer.
        rows: int32 [S, h], the rows of every shape, ascending, -1 (at the end) where a shape has fewer than h.
        block_start: int64 [B + 1]; the shapes of block b are block_start[b] : block_start[b + 1].
        shape: int32 [O, B], row of ``rows`` that a filter uses in a block, -1 for none.
    """

    inputs: int
    rows: Int32
    block_start: NDArray[np.int64]
    shape: Int32

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
    def filters(self) -> int:
        """O, output channels."""
        return int(self.shape.shape[0])

    @property
    def blocks(self) -> int:
        """B."""
        return int(self.shape.shape[1])

    def mask(self) -> NDArray[np.bool_]:
        """Weights that are kept, bool [O, inputs]."""
        kept: NDArray[np.bool_] = np.zeros((self.filters, self.inputs + 1), np.bool_)
        filters, blocks = np.nonzero(self.shape >= 0)
        kept[filters[:, None], self.rows[self.shape[filters, blocks]]] = True  # -1, unused, is the column past the end
        return np.ascontiguousarray(kept[:, :-1])


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


def int8_step(matrix: Float32) -> float:
    """The real weight that integer 1 stands for: max|W| / 127 (method.md step 2), 1 for an all-zero matrix."""
    largest = float(np.abs(matrix).max(initial=0.0))
    return largest / 127 if largest > 0 else 1.0


def make_plan(
    name: str, matrix: Float32, patterns: PatternSet, reuse: ReuseMap, filter_scale: Float32, filter_bias: Float32
) -> LayerPlan:
    """Round the donors of ``matrix`` to int8 and arrange them as a plan.

    One row group for every shape that has a donor, in the order of blocks and shapes; in it the donors in the order of
    filters, and the uses in the order of filters.

    Args:
        name: the layer's name.
        matrix: float32 [O, inputs], current weights; only the donors' values are read (and the largest, for the step).
        patterns, reuse: what pruning and reuse decided for this layer.
        filter_scale, filter_bias: float32 [O], batch norm as ``Layer`` holds it.

    Raises:
        UserError: the weights are not finite, or the shapes do not match.
    """
    if matrix.shape != (patterns.filters, patterns.inputs) or reuse.source.shape != patterns.shape.shape:
        raise UserError(f"layer {name}: weights {matrix.shape} do not match the pruned {patterns.filters} filters")
    if not np.isfinite(matrix).all():
        raise UserError(f"layer {name}: its weight holds NaN or infinity")
    step = int8_step(matrix)
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
    donor_rows = patterns.rows[donor_shape]  # [D, h]
    donors = np.empty(donor_rows.shape, np.int8)

    def store(first: int, end: int) -> None:
        rows_of = donor_rows[first:end]
        values = np.where(rows_of >= 0, matrix[donor_filter[first:end, None], rows_of], 0)
        donors[first:end] = np.rint(values.astype(np.float64) / step)

    over_ranges(len(donors), store)
    donor_index = np.full(shape.shape, -1, np.int32)  # row of donors, by (filter, block)
    donor_index[donor_filter, donor_block] = np.arange(len(donor_filter), dtype=np.int32)
    return LayerPlan(
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
        step=(np.float64(step) * filter_scale).astype(np.float32),
        bias=np.asarray(filter_bias, np.float32),
    )
