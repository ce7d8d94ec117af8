"""No pruning: the dense cut of a layer into OU rows."""

from typing import Literal

import numpy as np

from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.patterns import PatternSet
from prap_pim.prune.base import prune
from prap_pim.settings import Settings


class NoPruning(Settings):
    """Every weight is kept; a pattern is ou_rows consecutive im2col rows, the same for all filters."""

    kind: Literal["none"] = "none"


@prune.register
def _(config: NoPruning, layer: Layer, grain: Grain) -> PatternSet:
    blocks = grain.row_groups(layer.rows)
    rows = np.full(blocks * grain.ou_rows, -1, np.int32)
    rows[: layer.rows] = np.arange(layer.rows)
    block = np.arange(blocks, dtype=np.int32)
    return PatternSet(
        inputs=layer.rows,
        rows=rows.reshape(blocks, grain.ou_rows),
        block_start=np.arange(blocks + 1, dtype=np.int64),
        shape=np.tile(block, (layer.filters, 1)),
    )
