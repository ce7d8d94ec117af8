"""The rows that drive a crossbar, one set for each output position."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from prap_pim.ir.network import Layer


def im2col(layer: Layer, x: NDArray[np.int8], fill: int = 0) -> NDArray[np.int8]:
    """The im2col rows of a batch.

    Args:
        layer: its kernel, stride, padding and dilation count.
        x: int8 [N, C, *map] for a convolution, [..., C] for a linear layer.
        fill: what a convolution's padding holds.

    Returns:
        int8 [N * positions of a map, C * kernel positions] or [..., C] as [positions, C].
    """
    if layer.kind == "linear":
        return x.reshape(-1, layer.rows)
    space = range(2, x.ndim)
    return _windows(layer, x, fill).transpose(0, *space, 1, *range(x.ndim, 2 * x.ndim - 2)).reshape(-1, layer.rows)


@dataclass(frozen=True, eq=False)
class Windows:
    """The im2col rows of a batch where they lie: row r of position n is ``inputs[base[n] + offset[r]]``.

    Attributes:
        inputs: int8 [any].
        base: int64 [positions].
        offset: int64 [im2col rows].
    """

    inputs: NDArray[np.int8]
    base: NDArray[np.int64]
    offset: NDArray[np.int64]

    @staticmethod
    def of_matrix(rows: NDArray[np.int8]) -> "Windows":
        """Of im2col rows [positions, rows] that are laid out."""
        positions, count = rows.shape
        base = np.arange(positions, dtype=np.int64) * count
        return Windows(np.ascontiguousarray(rows).ravel(), base, np.arange(count, dtype=np.int64))

    @staticmethod
    def of_batch(layer: Layer, x: NDArray[np.int8], fill: int = 0) -> "Windows":
        """Of what ``im2col`` takes, without laying them out."""
        if layer.kind == "linear":
            return Windows.of_matrix(x.reshape(-1, layer.rows))
        padded = np.pad(x, _margins(layer), constant_values=fill)
        images, channels, *space = padded.shape
        pitch = [prod(space[i + 1 :]) for i in range(len(space))]  # from one place to the next, along each dimension
        count = layer.output_map(x.shape[2:])
        starts = [step * each for step, each in zip(layer.stride, pitch, strict=True)]
        within = [step * each for step, each in zip(layer.dilation, pitch, strict=True)]
        base = _steps((images, *count), (channels * prod(space), *starts))
        offset = _steps((channels, *layer.weight.shape[2:]), (prod(space), *within))
        return Windows(padded.ravel(), base, offset)


def _steps(shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the elements of an array of this shape and these strides lie, in its order."""
    where: NDArray[np.int64] = np.tensordot(np.array(strides, np.int64), np.indices(shape, np.int64), axes=1).ravel()
    return where


def im2col_by_row(layer: Layer, x: NDArray[np.uint8], fill: int) -> NDArray[np.uint8]:
    """The same, transposed: uint8 [im2col rows, positions]; ``fill`` is what a convolution's padding holds."""
    if layer.kind == "linear":
        return np.ascontiguousarray(x.reshape(-1, layer.rows).T)
    windows = _windows(layer, x, fill)
    order = (1, *range(x.ndim, windows.ndim), 0, *range(2, x.ndim))
    return windows.transpose(order).reshape(layer.rows, -1)


def _windows(layer: Layer, x: NDArray[Any], fill: int) -> NDArray[Any]:
    """What the kernel covers at each output position, a view [N, C, *output map, *kernel]."""
    padded = np.pad(x, _margins(layer), constant_values=fill)
    windows = sliding_window_view(padded, layer.reach, axis=tuple(range(2, x.ndim)))
    every = [slice(None, None, step) for step in (*layer.stride, *layer.dilation)]
    return windows[(slice(None), slice(None), *every)]


def _margins(layer: Layer) -> list[tuple[int, int]]:
    return [(0, 0), (0, 0), *((each, each) for each in layer.padding)]
