"""Structured (channel) pruning: whole input channels of a layer are dropped.

After the usual magnitude criterion (Li et al., "Pruning filters for efficient ConvNets", ICLR 2017), applied to the
input channels of each layer by itself.
"""

from math import floor, prod
from typing import Literal

import numpy as np
from pydantic import Field

from prap_pim.common.settings import Settings
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet
from prap_pim.methods.prune.base import packed, prune_method


class StructuredPruning(Settings):
    """Attributes:
    ratio: floor(channels * ratio) input channels are kept, at least one: those with the largest sum of |w| over
        filters and kernel positions (float64; of equals the lower channel). Their im2col rows are packed ou_rows to
        a row group.
    """

    kind: Literal["structured"] = "structured"
    ratio: float = Field(gt=0, le=1)


@prune_method.register
def _(config: StructuredPruning, layer: Layer, grain: Grain) -> PatternSet:
    channels, positions = layer.weight.shape[1], prod(layer.weight.shape[2:])
    column_sums = np.abs(layer.matrix).sum(axis=0, dtype=np.float64)  # [im2col row]
    importance = column_sums.reshape(channels, positions).sum(axis=1)  # [channel]
    count = max(1, floor(channels * config.ratio))
    kept = np.sort(np.argsort(-importance, kind="stable")[:count])
    rows = kept[:, None] * positions + np.arange(positions)  # [kept channel, position]
    return packed(rows.astype(np.int32).ravel(), layer, grain)
