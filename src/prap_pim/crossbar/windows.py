"""The rows that drive a crossbar, one set for each output position, where they lie."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from prap_pim.ir.network import Layer


@dataclass(frozen=True, eq=False)
class Windows:
    """A batch's im2col layout where its values lie: im2col row r of position n is ``inputs[base[n] + offset[r]]``.

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
        """Of a layout [positions, im2col rows]."""
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


def _margins(layer: Layer) -> list[tuple[int, int]]:
    return [(0, 0), (0, 0), *((each, each) for each in layer.padding)]
