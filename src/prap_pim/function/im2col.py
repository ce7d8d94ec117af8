"""The rows that drive a crossbar, one set for each output position."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from prap_pim.network import Layer


def im2col(layer: Layer, x: NDArray[np.int8]) -> NDArray[np.int8]:
    """The im2col rows of a batch.

    Args:
        layer: its kernel, stride, padding and dilation count.
        x: int8 [N, C, H, W] for a convolution, [..., C] for a linear layer.

    Returns:
        int8 [N * H' * W', C * kh * kw] or [..., C] as [positions, C].
    """
    if layer.kind == "linear":
        return x.reshape(-1, layer.rows)
    return _windows(layer, x, 0).transpose(0, 2, 3, 1, 4, 5).reshape(-1, layer.rows)


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
    def of_batch(layer: Layer, x: NDArray[np.int8]) -> "Windows":
        """Of what ``im2col`` takes, without laying them out."""
        if layer.kind == "linear":
            return Windows.of_matrix(x.reshape(-1, layer.rows))
        (top, left), (down, right) = layer.padding, layer.stride
        padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
        images, channels, height, width = padded.shape
        _, out_height, out_width = layer.output_shape
        starts = (channels * height * width, down * width, right)
        base = _steps((images, out_height, out_width), starts)
        kernel = layer.weight.shape[2:]
        offset = _steps((channels, *kernel), (height * width, layer.dilation[0] * width, layer.dilation[1]))
        return Windows(padded.ravel(), base, offset)


def _steps(shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the elements of an array of this shape and these strides lie, in its order."""
    where: NDArray[np.int64] = np.tensordot(np.array(strides, np.int64), np.indices(shape, np.int64), axes=1).ravel()
    return where


def im2col_by_row(layer: Layer, x: NDArray[np.uint8], fill: int) -> NDArray[np.uint8]:
    """The same, transposed: uint8 [im2col rows, positions]; ``fill`` is what a convolution's padding holds."""
    if layer.kind == "linear":
        return np.ascontiguousarray(x.reshape(-1, layer.rows).T)
    return _windows(layer, x, fill).transpose(1, 4, 5, 0, 2, 3).reshape(layer.rows, -1)


def _windows(layer: Layer, x: NDArray[Any], fill: int) -> NDArray[Any]:
    """What the kernel covers at each output position, a view [N, C, H', W', kh, kw]."""
    (top, left), (down, right) = layer.padding, layer.stride
    kernel = layer.weight.shape[2:]
    reach = tuple(d * (k - 1) + 1 for d, k in zip(layer.dilation, kernel, strict=True))
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=fill)
    windows = sliding_window_view(padded, reach, axis=(2, 3))[:, :, ::down, ::right]
    return windows[..., :: layer.dilation[0], :: layer.dilation[1]]
