"""Torch modules that compute a layer as its crossbars do: cell by cell, or by the integer product that equals it."""

import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.errors import UserError
from prap_pim.function.crossbar import check_fit, check_inputs, crossbar_matmul
from prap_pim.function.exact import ExactProduct
from prap_pim.function.im2col import im2col
from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.plan import LayerPlan
from prap_pim.quantize import quantize_input

_BYTES_AT_A_TIME = 1 << 25  # of im2col rows and accumulators; larger batches are computed in parts


class ExactLayer(nn.Module):
    """``y = step * input_step * 2**-fraction_bits * (integer weights * int8 input) + bias``, the integers exact.

    It gives, bit for bit, what ``CrossbarLayer`` gives if nothing is lost.

    Attributes:
        path: what computes the integers (``ExactProduct.path``).
    """

    def __init__(self, layer: Layer, plan: LayerPlan, input_step: float, grain: Grain) -> None:
        """
        Args:
            layer: geometry; its weights are not read.
            plan: what is stored and computed.
            input_step: the real activation that integer 1 stands for.
            grain: of the chip.

        Raises:
            UserError: the plan is of a layer of another size, does not fit the grain, or is too large.
        """
        super().__init__()
        if (plan.filters, plan.inputs) != (layer.filters, layer.rows):
            raise UserError(
                f"layer {layer.name} has {layer.filters} filters of {layer.rows} inputs, "
                f"its plan {plan.filters} of {plan.inputs}"
            )
        check_fit(plan, grain)
        self.layer, self.plan, self.input_step, self.grain = layer, plan, input_step, grain
        self.product = ExactProduct(layer, plan)
        self.scale = torch.from_numpy(plan.step.astype(np.float64) * (input_step * 2.0**-plan.fraction_bits))
        self.bias = torch.from_numpy(plan.bias.astype(np.float64))

    @property
    def path(self) -> str:
        """What computes the integers."""
        return self.product.path

    def forward(self, x: Tensor) -> Tensor:
        """float [N, C, H, W] or [..., C] to [N, O, H', W'] or [..., O], of the input's type."""
        parts = [self._real(self._integers(part), x) for part in torch.split(x, self._at_a_time(x))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _at_a_time(self, x: Tensor) -> int:
        """Images of which im2col rows and accumulators fit ``_BYTES_AT_A_TIME``."""
        bytes_each = self.layer.positions * (self.layer.rows + 8 * self.layer.filters)
        return max(1, _BYTES_AT_A_TIME // bytes_each) if self.layer.kind == "conv" else max(1, len(x))

    def _quantized(self, x: Tensor) -> Tensor:
        inputs = quantize_input(x, self.input_step).cpu()
        check_inputs(self.plan, inputs.numpy(), self.grain)
        return inputs

    def _integers(self, x: Tensor) -> Tensor:
        """Accumulators, float64 [N, H', W', O] or [..., O]."""
        return self.product(self._quantized(x))

    def _real(self, integers: Tensor, x: Tensor) -> Tensor:
        y = integers.mul_(self.scale).add_(self.bias)
        if self.layer.kind == "conv":
            y = y.permute(0, 3, 1, 2)
        return y.to(x.device, x.dtype, memory_format=torch.contiguous_format)


class CrossbarLayer(ExactLayer):
    """The same, the integers computed cell by cell.

    Attributes:
        checked: accumulators that were compared with the exact product, over all calls.
        mismatches: of these, the ones that were not equal.
    """

    def __init__(
        self, layer: Layer, plan: LayerPlan, input_step: float, grain: Grain, adc_bits: int, check: bool = True
    ) -> None:
        """
        Args:
            adc_bits: of the chip.
            check: compare every accumulator with the exact product.
        """
        super().__init__(layer, plan, input_step, grain)
        self.adc_bits, self.check = adc_bits, check
        self.checked = self.mismatches = 0

    @property
    def path(self) -> str:
        """What computes the integers."""
        return "cells"

    def _integers(self, x: Tensor) -> Tensor:
        quantized = self._quantized(x)
        inputs = im2col(self.layer, quantized.numpy())
        cells = torch.from_numpy(crossbar_matmul(self.plan, inputs, self.grain, self.adc_bits))  # [positions, O]
        if self.layer.kind == "conv":
            filters, height, width = self.layer.output_shape
            cells = cells.reshape(len(x), height, width, filters)
        else:
            cells = cells.reshape(*x.shape[:-1], self.layer.filters)
        if self.check:
            self.checked += cells.numel()
            self.mismatches += int(torch.count_nonzero(cells != self.product(quantized)))
        return cells.double()
