"""The rows that drive a crossbar, one set for each output position."""

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
