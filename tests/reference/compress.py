"""The compressed weights of a layer, built one weight at a time from what pruning and reuse decided."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from prap_pim.ir.patterns import PatternSet, ReuseMap


def slow_steps(matrix: NDArray[np.float32], reuse: ReuseMap) -> list[float]:
    """What integer 1 stands for in each filter: max|W| / 127, and 1 where all are 0.

    Of the layer if any filter takes another's pattern, as PRAP publishes it, else of the filter by itself.
    """
    sharing = any(donor not in (-1, f) for f, row in enumerate(reuse.source.tolist()) for donor in row)
    steps = []
    for own in matrix:
        largest = max(abs(float(value)) for value in (matrix.flat if sharing else own))
        steps.append(largest / 127 if largest else 1.0)
    return steps


def slow_compressed_weights(matrix: NDArray[np.float32], patterns: PatternSet, reuse: ReuseMap) -> list[list[Fraction]]:
    """[filter][weight], exact, in units of the filter's int8 step.

    Weight c of a filter of convolution group i stands on input i * (weights of a filter) + c.
    """
    steps = slow_steps(matrix, reuse)
    filters, weights = matrix.shape
    assert weights * patterns.groups == patterns.inputs
    compressed = [[Fraction(0)] * weights for _ in range(filters)]
    for f in range(filters):
        first = f // (filters // patterns.groups) * weights  # its group's first input
        for block in range(patterns.blocks):
            donor = int(reuse.source[f, block])
            if donor < 0:
                continue
            gain = int(reuse.sign[f, block]) * Fraction(2) ** int(reuse.exponent[f, block])
            for row in patterns.rows[patterns.shape[donor, block]]:
                if first <= row < first + weights:
                    stored = round(float(matrix[donor, row - first]) / steps[donor])  # Python rounds halves to even
                    compressed[f][row - first] += gain * stored
    return compressed
