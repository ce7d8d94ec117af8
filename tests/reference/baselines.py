"""The baseline methods, slow and obvious, line by line. Written for reading."""

from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

from prap_pim.ir.patterns import PatternSet

Array = NDArray[np.float32]


def slow_structured_rows(weight: Array, ratio: float) -> list[int]:
    """The im2col rows that are kept."""
    filters, channels = weight.shape[:2]
    kernels = weight.reshape(filters, channels, -1)
    positions = kernels.shape[2]
    importance = []
    for channel in range(channels):
        total = Fraction(0)
        for value in kernels[:, channel].ravel():
            total += Fraction(abs(float(value)))
        importance.append(total)
    count = max(1, floor(channels * ratio))
    best = sorted(range(channels), key=lambda channel: (-importance[channel], channel))[:count]
    return [channel * positions + position for channel in sorted(best) for position in range(positions)]


def slow_orc_rows(matrix: Array, ratio: float) -> list[list[int]]:
    """For each filter the im2col rows that it keeps."""
    inputs = matrix.shape[1]
    count = max(1, floor(inputs * ratio))
    kept = []
    for weights in matrix:
        best = sorted(range(inputs), key=lambda row: (-abs(float(weights[row])), row))[:count]
        kept.append(sorted(best))
    return kept


def slow_identical_sources(matrix: Array, patterns: PatternSet, theta: float) -> NDArray[np.int32]:
    """The donor of each filter in each block, [filter, block]; -1 for nothing."""
    filters = len(matrix)
    largest = max(abs(float(value)) for value in matrix.flat)
    step = largest / 127 if largest else 1.0
    integers = [[round(float(value) / step) for value in weights] for weights in matrix]
    source = np.full((filters, patterns.blocks), -1, np.int32)
    for block in range(patterns.blocks):
        rows: list[list[int] | None] = []  # of each filter
        for f in range(filters):
            shape = patterns.shape[f, block]
            rows.append(None if shape < 0 else [int(row) for row in patterns.rows[shape] if row >= 0])
        norm = [sum(abs(integers[f][row]) for row in rows[f] or []) for f in range(filters)]
        order = sorted(range(filters), key=lambda f: -norm[f])  # Python's sort is stable
        rank = floor(filters * theta)
        tau = norm[order[rank]] if rank < filters else 0
        donors: list[int] = []
        for f in order:
            if rows[f] is None:
                continue
            candidates = [(sum(abs(integers[f][row] - integers[d][row]) for row in rows[d] or []), d) for d in donors]
            candidates.append((norm[f], -1))
            distance, nearest = min(candidates, key=lambda candidate: candidate[0])  # the first of equals
            if distance > tau:
                donors.append(f)
                nearest = f
            source[f, block] = nearest
    return source
