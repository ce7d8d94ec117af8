"""No pruning: the dense cut of a layer into OU rows."""

from typing import Literal

import numpy as np

from prap_pim.common.settings import Settings
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet, ReuseMap, layer_steps, plan_weights
from prap_pim.ir.plan import LayerWeights
from prap_pim.methods.prune.base import packed, prune, prune_groups, prune_method


class NoPruning(Settings):
    """Every weight is kept; a pattern is ou_rows consecutive im2col rows, the same for all filters.

    Convolution groups whose filters fit an OU together share row groups (``Grain.dense_cut``).
    """

    kind: Literal["none"] = "none"


@prune_method.register
def _(config: NoPruning, layer: Layer, grain: Grain) -> PatternSet:
    return packed(np.arange(layer.rows, dtype=np.int32), layer, grain)


@prune_groups.register
def _(config: NoPruning, layer: Layer, grain: Grain) -> PatternSet:
    cut = np.array(grain.dense_cut(layer.rows, layer.filters, layer.groups))
    blocks = len(cut) - 1
    rows = cut[:-1, None] + np.arange(grain.ou_rows)
    group = np.arange(layer.filters)[:, None] // (layer.filters // layer.groups)  # of each filter
    first, last = cut[:-1] // layer.fan_in, (cut[1:] - 1) // layer.fan_in  # whose rows a block has
    shape = np.where((group >= first) & (group <= last), np.arange(blocks), -1)
    return PatternSet(
        inputs=layer.rows,
        rows=np.where(rows < cut[1:, None], rows, -1).astype(np.int32),
        block_start=np.arange(blocks + 1, dtype=np.int64),
        shape=shape.astype(np.int32),
        groups=layer.groups,
    )


def dense_weights(layer: Layer, grain: Grain) -> LayerWeights:
    """Of a layer that keeps every pattern."""
    patterns = prune(NoPruning(), layer, grain)
    reuse = ReuseMap.none(patterns)
    bits = grain.stored_bits
    return plan_weights(layer.name, layer.matrix, patterns, reuse, layer_steps(layer, reuse, bits), bits)
