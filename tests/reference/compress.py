"""The compressed weights of a layer, built one weight at a time from what pruning and reuse decided."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from prap_pim.patterns import PatternSet, ReuseMap


def slow_compressed_weights(matrix: NDArray[np.float32], patterns: PatternSet, reuse: ReuseMap) -> list[list[Fraction]]:
    """[filter][input], exact, in units of the int8 step max|W| / 127."""
    largest = max(abs(float(value)) for value in matrix.flat)
    step = largest / 127 if largest else 1.0
    compressed = [[Fraction(0)] * patterns.inputs for _ in range(len(matrix))]
    for f in range(len(matrix)):
        for block in range(patterns.blocks):
            donor = int(reuse.source[f, block])
            if donor < 0:
                continue
            gain = int(reuse.sign[f, block]) * Fraction(2) ** int(reuse.exponent[f, block])
            for row in patterns.rows[patterns.shape[donor, block]]:
                if row >= 0:
                    stored = round(float(matrix[donor, row]) / step)  # Python rounds halves to even
                    compressed[f][row] += gain * stored
    return compressed
