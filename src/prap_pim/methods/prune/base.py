"""The verb that every pruning method registers its handler for."""

from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet


def prune(config: object, layer: Layer, grain: Grain) -> PatternSet:
    """Decide which inputs each filter of a layer keeps, by the method that the type of ``config`` names.

    Groups of a convolution have no input in common: each is pruned as a layer by itself.

    Raises:
        UserError: the method cannot handle this layer.
    """
    return prune_method(config, layer, grain) if layer.groups == 1 else prune_groups(config, layer, grain)


@singledispatch
def prune_groups(config: object, layer: Layer, grain: Grain) -> PatternSet:
    """``prune`` of a layer of several groups; a method that can do better than group by group registers its own."""
    return PatternSet.of_groups([prune_method(config, part, grain) for part in layer.by_group()])


@singledispatch
def prune_method(config: object, layer: Layer, grain: Grain) -> PatternSet:
    """``prune`` of a layer of one group: what a method registers its handler for."""
    raise TypeError(f"{type(config).__name__} is not the config of a pruning method")


def packed(kept: NDArray[np.int32], layer: Layer, grain: Grain) -> PatternSet:
    """Every filter keeps the same rows, ou_rows of them to a block with one shape.

    Args:
        kept: int32, im2col rows, ascending, at least one.
    """
    blocks = grain.row_groups(len(kept))
    rows = np.full(blocks * grain.ou_rows, -1, np.int32)
    rows[: len(kept)] = kept
    return PatternSet(
        inputs=layer.rows,
        rows=rows.reshape(blocks, grain.ou_rows),
        block_start=np.arange(blocks + 1, dtype=np.int64),
        shape=np.tile(np.arange(blocks, dtype=np.int32), (layer.filters, 1)),
    )
