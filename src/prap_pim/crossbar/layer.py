"""Torch modules that compute a layer as its crossbars do: cell by cell, or by the integer product that equals it."""

import math
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.parallel import over_ranges
from prap_pim.crossbar.array import LayerCrossbars, check_fit, check_inputs, kept_fraction_bits
from prap_pim.crossbar.exact import ExactProduct
from prap_pim.crossbar.kernels.bits import Float64, Int64
from prap_pim.crossbar.model import CrossbarModel
from prap_pim.crossbar.windows import Windows
from prap_pim.frontend.quantize import InputGrid
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan

_CALL = 1 << 40  # positions, more than a batch has, from one call of a layer to its next
_BYTES_AT_A_TIME = 1 << 25  # of inputs and accumulators; larger batches are computed in parts


class ExactLayer(nn.Module):
    """``y = step * grid.step * 2**-fraction_bits * (integer weights * (int8 input - grid.zero)) + bias``.

    The integer product of weights and int8 inputs is exact; what the inputs' zero adds to it is a constant for each
    filter, which is part of the bias that is added. A convolution's padding holds the zero.

    It gives, bit for bit, what ``CrossbarLayer`` gives if nothing is lost.

    Attributes:
        path: what computes the integers (``ExactProduct.path``).
    """

    def __init__(self, layer: Layer, plan: LayerPlan, grid: InputGrid, model: CrossbarModel, kept: bool = True) -> None:
        """
        Args:
            layer: geometry; its weights are not read.
            plan: what is stored and computed.
            grid: what the int8 inputs stand for.
            model: what the plan must fit; of its losses this layer knows nothing.
            kept: whether the integer weights are kept from call to call, or made anew each time.

        Raises:
            UserError: the plan is of a layer of another size, or does not fit the model.
        """
        super().__init__()
        if (plan.filters, plan.inputs) != (layer.filters, layer.rows):
            raise UserError(
                f"layer {layer.name} has {layer.filters} filters of {layer.rows} inputs, "
                f"its plan {plan.filters} of {plan.inputs}"
            )
        check_fit(plan, model)
        self.layer, self.plan, self.grid, self.model, self._kept = layer, plan, grid, model, kept
        self.scale = torch.from_numpy(plan.step.astype(np.float64) * (grid.step * 2.0**-plan.fraction_bits))
        of_zero = plan.weights().sum(1, dtype=np.int64) * grid.zero
        self.bias = torch.from_numpy(plan.bias - self.scale.numpy() * of_zero)

    @cached_property
    def product(self) -> ExactProduct:
        """The integer product; crossbars that are not checked need none."""
        return ExactProduct(self.layer, self.plan, self.grid.zero)

    @property
    def path(self) -> str:
        """What computes the integers."""
        return self.product.path

    def forward(self, x: Tensor) -> Tensor:
        """float [N, C, *map] or [..., C] to [N, O, *map] or [..., O], of the input's type."""
        leading = x.shape[:-1]
        apart = x if self.layer.kind == "conv" else x.reshape(math.prod(leading), x.shape[-1])
        size = self._at_a_time
        parts = [self._compute(part, i * size) for i, part in enumerate(torch.split(apart, size))]
        if not self._kept:
            self.__dict__.pop("product", None)
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y if self.layer.kind == "conv" else y.reshape(*leading, y.shape[-1])

    @property
    def _at_a_time(self) -> int:
        """Images, or rows of inputs, of which inputs and accumulators fit ``_BYTES_AT_A_TIME``."""
        conv, layer = self.layer.kind == "conv", self.layer
        values = math.prod(layer.input_shape), math.prod(layer.output_shape)
        inputs, outputs = values if conv else (layer.rows, layer.filters)
        return max(1, _BYTES_AT_A_TIME // (4 * inputs + 16 * outputs))

    def _quantized(self, x: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            raise UserError(f"layer {self.layer.name}: its input is NaN or infinite")
        inputs = self.grid.integers(x).cpu()
        check_inputs(self.plan, inputs.numpy(), self.model)
        return inputs

    def _compute(self, x: Tensor, before: int) -> Tensor:
        """Of images, or rows of inputs, of which so many are computed already."""
        y = self.product(self._quantized(x)).mul_(self.scale).add_(self.bias)
        if self.layer.kind == "conv":
            y = y.movedim(-1, 1)
        return y.to(x.device, x.dtype, memory_format=torch.contiguous_format)


class CrossbarLayer(ExactLayer):
    """The same, the integers computed cell by cell, with all that is lost there.

    Attributes:
        crossbars: the programmed crossbars; they count overflows.
        checked: accumulators that were compared with the exact product, over all calls.
        mismatches: of these, the ones that were not equal.
    """

    def __init__(
        self,
        layer: Layer,
        plan: LayerPlan,
        grid: InputGrid,
        model: CrossbarModel,
        check: bool = True,
        seed: np.random.SeedSequence | None = None,
        room: int | None = None,
    ) -> None:
        """
        Args:
            model: cells, ADC, registers.
            check: compare every accumulator with the exact product.
            seed, room: as for ``LayerCrossbars``.
        """
        super().__init__(layer, plan, grid, model)
        self.crossbars = LayerCrossbars(plan, model, seed, room)
        self._check, self._first, self._first_entry, self._calls = check, 0, 0, 0
        self._unit = 2.0 ** (plan.fraction_bits - kept_fraction_bits(plan, model))  # of accumulators, in those of plan
        self.checked = self.mismatches = 0

    def begin(self, first: int, check: bool) -> None:
        """The next calls are of a batch whose first input is number ``first`` of all: read noise depends on that, on
        which call of the batch it is, and on no other call."""
        self._check, self._first, self._calls = check, first, 0

    @property
    def path(self) -> str:
        """What computes the integers."""
        return "cells"

    def forward(self, x: Tensor) -> Tensor:
        """See ``ExactLayer``."""
        self._first_entry = self._first * (1 if self.layer.kind == "conv" else math.prod(x.shape[1:-1]))
        y = super().forward(x)
        self._calls += 1
        return y

    def _compute(self, x: Tensor, before: int) -> Tensor:
        quantized = self._quantized(x)
        windows = Windows.of_batch(self.layer, quantized.numpy(), self.grid.zero)
        first = (self._first_entry + before) * (len(windows.base) // len(x)) + self._calls * _CALL
        integers = self.crossbars.accumulate(windows, first)  # [O, positions]
        if self._check:
            exact = self.product(quantized).reshape(-1, self.layer.filters).numpy().T
            self.checked += integers.size
            self.mismatches += int(np.count_nonzero(integers * self._unit != exact))
        images, shape = integers.shape[1], (*x.shape[:-1], len(integers))
        if self.layer.kind == "conv":
            images, shape = len(x), (len(x), len(integers), *self.layer.output_map(x.shape[2:]))
        kind = np.float64 if x.dtype == torch.float64 else np.float32
        y = np.empty((images, len(integers), integers.shape[1] // images), kind)
        scale = self.scale.numpy() * self._unit
        over_ranges(images, partial(to_real, integers, scale, self.bias.numpy(), y))
        return torch.from_numpy(y).reshape(shape).to(x.device, x.dtype)


@njit(cache=True, nogil=True)
def to_real(accumulator: Int64, scale: Float64, bias: Float64, out: NDArray[Any], begin: int, end: int) -> None:
    """``out[n, f, p] = scale[f] * accumulator[f, n * P + p] + bias[f]``, rounded to the type of ``out`` at the end.

    Args:
        accumulator: int64 [filters, images * P].
        scale, bias: float64 [filters].
        out: [images, filters, P].
        begin, end: the images to do.
    """
    places = out.shape[2]
    for n in range(begin, end):
        for f in range(out.shape[1]):
            integers = accumulator[f, n * places : (n + 1) * places]
            real = out[n, f]
            for p in range(len(real)):
                real[p] = integers[p] * scale[f] + bias[f]
