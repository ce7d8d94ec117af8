"""No pruning: the dense cut of a layer into OU rows."""

from typing import Literal

import numpy as np

from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.patterns import PatternSet
from prap_pim.prune.base import packed, prune_method
from prap_pim.settings import Settings


class NoPruning(Settings):
    """Every weight is kept; a pattern is ou_rows consecutive im2col rows, the same for all filters."""

    kind: Literal["none"] = "none"


@prune_method.register
def _(config: NoPruning, layer: Layer, grain: Grain) -> PatternSet:
    return packed(np.arange(layer.rows, dtype=np.int32), layer, grain)
