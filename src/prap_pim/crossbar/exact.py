"""The integer product that crossbars compute when nothing is lost, in floating point that provably does not round.

Every product of an integer weight and an int8 input, and every sum of some of a filter's products, in whatever order,
is an integer of at most ``128 * sum(|weights|)``. A float32 holds all of these up to 2**24, a float64 up to 2**53.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from prap_pim.common.errors import UserError
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan

_LARGEST_INPUT = 128
_FLOAT32 = 1 << 24
_FLOAT64 = 1 << 53
_MOST_PARTS = 3  # a float64 convolution takes 5 to 20 times as long as a float32 one


class ExactProduct:
    """A layer's accumulators for int8 inputs.

    Weights whose bound exceeds float32 are cut into parts, ``w = part0 + part1 * 2**shift1 + ...``, each within it; if
    three parts do not do, the product is computed in float64. A filter's common power of two is taken out first.

    Attributes:
        path: what computes it: "float32", "float32 in 2 parts" or "float64".
    """

    def __init__(self, layer: Layer, plan: LayerPlan, fill: int = 0) -> None:
        """
        Args:
            layer, plan: what is computed.
            fill: what a convolution's padding holds.

        Raises:
            UserError: the layer is so large that not even float64 is exact.
        """
        weights = plan.weights()
        if _bound(weights) > _FLOAT64:
            raise UserError(f"layer {layer.name}: {plan.inputs} inputs are too many to be multiplied exactly")
        twos = _common_twos(weights)
        parts = _parts(weights >> twos[:, None])
        ieee = torch.get_float32_matmul_precision() == "highest"  # else torch may round the inputs of a product
        if parts is not None and len(parts) <= _MOST_PARTS and ieee:
            kind = torch.float32
            self.path = "float32" if len(parts) == 1 else f"float32 in {len(parts)} parts"
        else:
            parts, kind, self.path = [(weights >> twos[:, None], 0)], torch.float64, "float64"
        self.layer, self._fill = layer, fill
        self._margins = [each for margin in reversed(layer.padding) for each in (margin, margin)]
        # part beside part within each convolution group, so that one convolution computes all of them
        by_group = [values.reshape(layer.groups, -1, *layer.weight.shape[1:]) for values, _ in parts]
        stacked = torch.from_numpy(np.concatenate(by_group, axis=1)).to(kind).flatten(0, 1)
        self._last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(stacked.ndim, torch.contiguous_format)
        self._weights = stacked.contiguous(memory_format=self._last)
        self._convolve = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}.get(stacked.ndim)
        self._factors = [torch.from_numpy(np.ldexp(1.0, twos + shift)) for _, shift in parts]  # float64 [O] each

    def __call__(self, x: Tensor) -> Tensor:
        """int8 [N, C, *map] or [..., C] on the CPU to integers, float64 [N, *map, O] or [..., O]."""
        x, layer = x.to(self._weights.dtype), self.layer
        if self._convolve is None:
            product = functional.linear(x, self._weights)
        else:
            padding = layer.padding
            if self._fill and any(padding):
                x, padding = functional.pad(x, self._margins, value=self._fill), (0,) * len(padding)
            x = x.contiguous(memory_format=self._last)
            with torch.backends.nnpack.flags(enabled=False):  # it may transform (Winograd), which rounds
                geometry = layer.stride, padding, layer.dilation, layer.groups
                product = self._convolve(x, self._weights, None, *geometry).movedim(1, -1)
        together = layer.filters // layer.groups
        by_group = product.reshape(*product.shape[:-1], layer.groups, len(self._factors), together)
        first, *others = (part.flatten(-2) for part in by_group.unbind(-2))
        total: Tensor = first.double().mul_(self._factors[0])
        for part, factor in zip(others, self._factors[1:], strict=True):
            total.add_(part * factor)
        return total


def _bound(weights: NDArray[np.int32]) -> int:
    """The largest magnitude that a partial sum of any filter can have."""
    return _LARGEST_INPUT * int(np.abs(weights).sum(axis=1).max(initial=0))


def _common_twos(weights: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The largest power of two that divides all weights of a filter, uint8 [O]; 0 for a filter of zeros."""
    together = np.bitwise_or.reduce(weights, axis=1)
    lowest = together & -together
    twos: NDArray[np.uint8] = np.bitwise_count(np.maximum(lowest, 1) - 1)
    return twos


def _parts(weights: NDArray[np.int32]) -> list[tuple[NDArray[np.int32], int]] | None:
    """Few integers and shifts with ``weights = sum(values << shift)``, the bound of all values within float32.

    None if even the lowest bits of a filter, all together, exceed it: more than 2**17 odd weights.
    """
    parts, shift = [], 0
    while _bound(weights) > _FLOAT32:
        fitting = (cut for cut in range(24, 0, -1) if _bound(_low(weights, cut)) <= _FLOAT32)
        cut = next(fitting, None)
        if cut is None:
            return None
        parts.append((_low(weights, cut), shift))
        weights, shift = (weights - parts[-1][0]) >> cut, shift + cut
    return [*parts, (weights, shift)]


def _low(weights: NDArray[np.int32], bits: int) -> NDArray[np.int32]:
    """The remainder of least magnitude after division by 2**bits."""
    half = 1 << (bits - 1)
    return ((weights + half) & ((1 << bits) - 1)) - half
