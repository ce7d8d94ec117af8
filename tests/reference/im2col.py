"""im2col rows with NumPy's sliding windows."""

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


def _windows(layer: Layer, x: NDArray[Any], fill: int) -> NDArray[Any]:
    """What the kernel covers at each output position, a view [N, C, *output map, *kernel]."""
    padded = np.pad(x, [(0, 0), (0, 0), *((each, each) for each in layer.padding)], constant_values=fill)
    windows = sliding_window_view(padded, layer.reach, axis=tuple(range(2, x.ndim)))
    every = [slice(None, None, step) for step in (*layer.stride, *layer.dilation)]
    return windows[(slice(None), slice(None), *every)]
