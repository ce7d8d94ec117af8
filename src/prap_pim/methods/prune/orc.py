"""OU-row compression: the weight side of SRE (Yang et al., "Sparse ReRAM Engine", ISCA 2019).

Every filter keeps its own largest weights, wherever they are, and closes the gaps: ou_rows of its remaining weights
fill an OU. Filters no longer agree on the inputs of an OU, so each OU has input indices of its own and gathers its
inputs anew.
"""

from math import floor
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from prap_pim.common.parallel import over_ranges
from prap_pim.common.settings import Settings
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet
from prap_pim.methods.arguments import read_only
from prap_pim.methods.prune.base import packed, prune_method

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


class OrcPruning(Settings):
    """Attributes:
    ratio: floor(rows * ratio) weights of each filter are kept, at least one: the largest |w|, of equals the lower rows.
        1 leaves the layer dense, its inputs shared by all filters.
    """

    kind: Literal["orc"] = "orc"
    ratio: float = Field(gt=0, le=1)


@prune_method.register
def _(config: OrcPruning, layer: Layer, grain: Grain) -> PatternSet:
    count = max(1, floor(layer.rows * config.ratio))
    if count == layer.rows:
        return packed(np.arange(layer.rows, dtype=np.int32), layer, grain)
    # block b holds the b-th OU of every filter, so it has as many shapes as there are filters, one for each
    blocks = grain.row_groups(count)
    matrix = read_only(layer.matrix)
    kept = np.full((layer.filters, blocks * grain.ou_rows), -1, np.int32)
    over_ranges(layer.filters, lambda first, end: _keep_largest(matrix, count, first, end, kept))
    rows = kept.reshape(layer.filters, blocks, grain.ou_rows).swapaxes(0, 1)  # [block, filter, h]
    shape = np.arange(blocks * layer.filters, dtype=np.int32).reshape(blocks, layer.filters).T
    return PatternSet(
        inputs=layer.rows,
        rows=rows.reshape(-1, grain.ou_rows),
        block_start=np.arange(blocks + 1, dtype=np.int64) * layer.filters,
        shape=np.ascontiguousarray(shape),
    )


def _keep_largest(matrix: Float32, count: int, first: int, end: int, kept: Int32) -> None:
    """Write the rows of the ``count`` largest |w| of filters first .. end, ascending."""
    magnitudes = np.abs(matrix[first:end])
    place = magnitudes.shape[1] - count
    limits = np.partition(magnitudes, place, axis=1)[:, place]  # the least magnitude that is kept, [filter]
    _list_kept(magnitudes, limits.copy(), count, kept[first:end])


@njit(cache=True, nogil=True)
def _list_kept(magnitudes: Float32, limits: Float32, count: int, kept: Int32) -> None:
    """Rows above each filter's limit, and of those that equal it the lower ones, ``count`` in all."""
    for o in range(len(magnitudes)):
        equals = count
        for magnitude in magnitudes[o]:
            equals -= magnitude > limits[o]
        n = 0
        for row in range(magnitudes.shape[1]):
            magnitude = magnitudes[o, row]
            equal = magnitude == limits[o]
            if magnitude > limits[o] or (equal and equals > 0):
                kept[o, n] = row
                n += 1
                equals -= equal
