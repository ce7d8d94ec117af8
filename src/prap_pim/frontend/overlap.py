"""What a transposed convolution does after its products."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class OverlapAdd(nn.Module):
    """What is left of a transposed convolution after its products: the sums of all kernel positions, put in place.

    [N, O * kernel positions, *map] to [N, O, *output map].
    """

    def __init__(self, filters: int, kernel: tuple[int, ...], bias: Tensor | None, geometry: tuple[Any, ...]) -> None:
        super().__init__()
        positions = prod(kernel)
        one = torch.eye(positions).reshape(1, positions, 1, *kernel).expand(filters, positions, 1, *kernel)
        self.kernel: Tensor
        self.register_buffer("kernel", one.reshape(filters * positions, 1, *kernel).clone(), persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.filters = filters
        self.stride, self.padding, self.output_padding, self.dilation = geometry

    def forward(self, x: Tensor) -> Tensor:
        convolve: Any = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        out: Tensor = convolve[x.ndim - 3](
            x,
            self.kernel.to(x),
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.filters,
            self.dilation,
        )
        return out
