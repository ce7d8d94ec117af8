"""Static int8 steps of the activations that enter crossbar layers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from prap_pim.capture import Captured, Inputs, cut
from prap_pim.errors import UserError
from prap_pim.progress import Steps, counted, unheard
from prap_pim.settings import Settings

_BIN_SHIFT = 15  # a float32's exponent and 8 bits of its fraction: bins 0.4 % wide or less
_BINS = 1 << (31 - _BIN_SHIFT)


class QuantizeConfig(Settings):
    """How the int8 step of a layer's input is found on calibration images.

    Attributes:
        input_percentile: percentage of the input's magnitudes that int8 must reach; 100 is the largest one seen.
    """

    input_percentile: float = Field(default=100.0, gt=50, le=100)


def quantize_input(x: Tensor, step: float) -> Tensor:
    """int8 activations: x / step, rounded half to even, clipped to -128..127. The one home of this rule."""
    return (x / step).round_().clamp_(-128, 127).to(torch.int8)


def input_steps(
    captured: Captured,
    inputs: Tensor | Sequence[Inputs],
    batch_size: int,
    config: QuantizeConfig | None = None,
    told: Steps = unheard,
) -> dict[str, float]:
    """The real activation that integer 1 stands for at the input of every layer, in one pass over the inputs.

    Args:
        captured: the network; run as it is, in float.
        inputs: calibration inputs [N, ...], or batches of them.
        batch_size: inputs at a time, of one tensor.
        config: symmetric range that 127 stands for; default: the largest magnitude seen.
        told: how many batches are done.

    Returns:
        steps by layer name; 1.0 for an input that is always 0.

    Raises:
        UserError: there are no inputs, or an activation is NaN or infinite.
    """
    batches = cut(inputs, batch_size, captured.network.name)
    config, model = config or QuantizeConfig(), captured.module
    ranges = {layer.name: _Magnitudes(layer.name) for layer in captured.network.layers}
    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(_observe, s)) for name, s in ranges.items()]
    try:
        with torch.no_grad():
            for batch in counted(batches, told):
                model(*(each.clone() for each in batch))  # a network may work in place
    finally:
        for hook in hooks:
            hook.remove()
    reach: Mapping[str, float] = {name: seen.percentile(config.input_percentile) for name, seen in ranges.items()}
    return {name: value / 127 if value > 0 else 1.0 for name, value in reach.items()}


def _observe(seen: "_Magnitudes", _module: nn.Module, inputs: tuple[Any, ...]) -> None:
    seen.add(inputs[0])


class _Magnitudes:
    """A histogram of magnitudes over any number of batches. The bits of a positive float32 rise with its value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = torch.zeros(_BINS, dtype=torch.int64)
        self.largest = 0.0

    def add(self, x: Tensor) -> None:
        magnitudes = x.detach().float().abs().flatten()
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise UserError(f"layer {self.name}: its input is NaN or infinite on a calibration input")
        self.largest = max(self.largest, largest)
        self.counts += torch.bincount(magnitudes.view(torch.int32) >> _BIN_SHIFT, minlength=_BINS).cpu()

    def percentile(self, percentage: float) -> float:
        """The least bin edge that reaches this share of the magnitudes, at most the largest magnitude."""
        total = self.counts.cumsum(0)
        place = int(torch.searchsorted(total, int(np.ceil(int(total[-1]) * percentage / 100))))
        edge = np.array((place + 1) << _BIN_SHIFT, np.int32).view(np.float32)
        return min(self.largest, float(edge))
