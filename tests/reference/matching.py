"""Steps 1 and 2 of PRAP, slow and obvious, line by line, one filter at a time. Written for reading."""

from collections import Counter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def group_starts(channels: int, group_channels: int) -> list[int]:
    return [*range(0, channels, group_channels), channels]


def slow_pattern_mask(
    weight: Array, group_channels: int, kept_positions: int | None, shapes: int = 8, rows: int = 8
) -> NDArray[np.uint8]:
    filters, channels = weight.shape[:2]
    kernels = np.abs(weight).reshape(filters, channels, -1)  # [filter, channel, position]
    positions = kernels.shape[2]
    mask = np.zeros(kernels.shape, np.uint8)
    for first, end in pairwise(group_starts(channels, group_channels)):
        if positions == 1:
            total = [np.float32(0)] * (end - first)
            for filter_ in range(filters):
                for i in range(first, end):
                    total[i - first] = np.float32(total[i - first] + kernels[filter_, i, 0])
            best = sorted(range(end - first), key=lambda i: (-total[i], i))[:rows]
            for i in best:
                mask[:, first + i, 0] = 1
            continue
        importances, own_shapes = [], []
        for filter_ in range(filters):
            importance = [np.float32(0)] * positions
            for channel in range(first, end):
                for i in range(positions):
                    importance[i] = np.float32(importance[i] + kernels[filter_, channel, i])
            importances.append(importance)
            best = sorted(range(positions), key=lambda i: (-importance[i], i))[:kept_positions]
            own_shapes.append(tuple(sorted(best)))

        def tie_break(shape: tuple[int, ...]) -> list[int]:
            dropped = [i for i in range(positions) if i not in shape]
            return dropped if kept_positions == 8 and len(dropped) == 1 else sorted(shape, reverse=True)

        counts = Counter(own_shapes)
        candidates = sorted(counts, key=lambda shape: (-counts[shape], tie_break(shape)))[:shapes]
        for filter_ in range(filters):
            kept = []
            for shape in candidates:
                total = np.float32(0)
                for i in shape:
                    total = np.float32(total + importances[filter_][i])
                kept.append(total)
            for i in candidates[kept.index(max(kept))]:
                mask[filter_, first:end, i] = 1
    return mask.reshape(weight.shape)


def power_of_two_near(ratio: np.float32) -> float:
    """2**round(log2(ratio)) in float32, rounded up to a multiple of 2**-8."""
    scale = 2.0 ** float(np.rint(np.float32(np.log2(np.float64(ratio)))))
    return float(np.ceil(scale * 256) / 256)


def slow_similar_reuse(
    weight: Array, mask: NDArray[np.uint8], group_channels: int, keep: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    filters, channels = weight.shape[:2]
    step = np.float32(np.abs(weight).max() / np.float32(127 * 256))
    quantised = np.rint(weight / step) if step > 0 else np.zeros_like(weight)
    starts = group_starts(channels, group_channels)
    source = np.full((filters, len(starts) - 1), -1, np.int32)
    scale = np.zeros(source.shape, np.float32)
    for group, (first, end) in enumerate(pairwise(starts)):
        q = quantised[:, first:end].reshape(filters, -1).astype(np.float64)  # integers: nothing rounds in float64
        m = np.asarray(mask)[:, first:end].reshape(filters, -1).astype(np.float64)
        own = np.abs(q * m).sum(axis=1)
        order = sorted(range(filters), key=lambda f: -own[f])  # Python's sort is stable
        donors: dict[int, Array] = {}
        for f in order[: int(np.floor(filters * keep))]:
            donor = 256 * np.rint(q[f] * m[f] / 256)
            if not donor.any():
                break
            donors[f] = donor
            source[f, group], scale[f, group] = f, 1
        for f in order[len(donors) :]:
            candidates = []  # (distance, donor, scale)
            for d, y in donors.items():
                x = q[f] * m[d]
                ratio = np.float32(np.float32(np.abs(x).sum()) / np.float32(np.abs(y).sum()))
                gain = power_of_two_near(ratio) if ratio > 0 else 0.0
                candidates.append((float(np.abs(gain * y - x).sum()), d, gain))
            candidates.append((float(own[f]), -1, 0.0))
            _, d, gain = min(candidates, key=lambda candidate: candidate[0])  # the first of equals
            if gain > 0:
                source[f, group], scale[f, group] = d, gain
    return source, scale
