"""A torch module that computes a layer on bit-true crossbars."""

import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.errors import UserError
from prap_pim.function.crossbar import crossbar_matmul, exact_matmul
from prap_pim.function.im2col import im2col
from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.plan import LayerPlan
from prap_pim.quantize import quantize_input

_BYTES_AT_A_TIME = 1 << 25  # of im2col rows and accumulators; larger batches are computed in parts


class CrossbarLayer(nn.Module):
    """``y = step * input_step * 2**-fraction_bits * (integer weights * int8 input) + bias``, the integers bit-true.

    Attributes:
        checked: accumulators that were compared with the integer matmul, over all calls.
        mismatches: of these, the ones that were not equal.
    """

    def __init__(
        self, layer: Layer, plan: LayerPlan, input_step: float, grain: Grain, adc_bits: int, check: bool = True
    ) -> None:
        """
        Args:
            layer: geometry; its weights are not read.
            plan: what is stored and computed.
            input_step: the real activation that integer 1 stands for.
            grain, adc_bits: of the chip.
            check: compare every accumulator with the integer matmul.

        Raises:
            UserError: the plan is of a layer of another size.
        """
        super().__init__()
        if (plan.filters, plan.inputs) != (layer.filters, layer.rows):
            raise UserError(
                f"layer {layer.name} has {layer.filters} filters of {layer.rows} inputs, "
                f"its plan {plan.filters} of {plan.inputs}"
            )
        self.layer, self.plan, self.input_step = layer, plan, input_step
        self.grain, self.adc_bits, self.check = grain, adc_bits, check
        self.weights = plan.weights()
        self.scale = torch.from_numpy(plan.step.astype(np.float64) * (input_step * 2.0**-plan.fraction_bits))
        self.bias = torch.from_numpy(plan.bias.astype(np.float64))
        self.checked = self.mismatches = 0

    def forward(self, x: Tensor) -> Tensor:
        """float [N, C, H, W] or [..., C] to [N, O, H', W'] or [..., O], of the input's type."""
        images = max(1, _BYTES_AT_A_TIME * len(x) // self._bytes(x)) if self.layer.kind == "conv" else max(1, len(x))
        parts = [self._compute(part) for part in torch.split(x, images)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _bytes(self, x: Tensor) -> int:
        return len(x) * self.layer.positions * (self.layer.rows + 8 * self.layer.filters)

    def _compute(self, x: Tensor) -> Tensor:
        inputs = im2col(self.layer, quantize_input(x, self.input_step).cpu().numpy())
        integers = crossbar_matmul(self.plan, inputs, self.grain, self.adc_bits)  # [positions, O]
        if self.check:
            self.checked += integers.size
            self.mismatches += int(np.count_nonzero(integers != exact_matmul(inputs, self.weights)))
        y = (torch.from_numpy(integers) * self.scale).add_(self.bias)  # float64 [positions, O]
        if self.layer.kind == "linear":
            return y.reshape(*x.shape[:-1], self.layer.filters).to(x)
        filters, height, width = self.layer.output_shape
        images_first = y.reshape(len(x), height, width, filters).permute(0, 3, 1, 2)
        return images_first.to(x.device, x.dtype, memory_format=torch.contiguous_format)
