"""A transposed convolution as the products of every input position with all kernel positions, overlapped."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class OverlapAdd(nn.Module):
    """What is left of a transposed convolution after its products: the sums of all kernel positions, put in place.

    [N, O * kernel positions, *map] to [N, O, *output map].

    Args:
        filters: O.
        kernel: its sizes.
        bias: [O], or None.
        stride, dilation: of the transposed convolution, one for each dimension.
        margins: how much is added to the whole map at each dimension's begin and end; taken away where negative.
    """

    def __init__(
        self,
        filters: int,
        kernel: Sequence[int],
        bias: Tensor | None,
        stride: Sequence[int],
        dilation: Sequence[int],
        margins: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__()
        positions = prod(kernel)
        one = torch.eye(positions).reshape(1, positions, 1, *kernel).expand(filters, positions, 1, *kernel)
        self.kernel: Tensor
        self.register_buffer("kernel", one.reshape(filters * positions, 1, *kernel).clone(), persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.filters, self.stride, self.dilation = filters, tuple(stride), tuple(dilation)
        self.margins = [each for pair in reversed(margins) for each in pair]  # torch begins with the last dimension

    def forward(self, x: Tensor) -> Tensor:
        convolve: Any = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        geometry = self.stride, 0, 0, self.filters, self.dilation
        out: Tensor = convolve[x.ndim - 3](x, self.kernel.to(x), None, *geometry)
        out = functional.pad(out, self.margins)
        return out if self.bias is None else out + self.bias.reshape(-1, *[1] * (x.ndim - 2))


def products_of(weight: Tensor, groups: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """The convolution of kernel size 1 that does a transposed convolution's products, and the views that lead from the
    weight [C, O / groups, *kernel] to its own."""
    channels, each, *kernel = weight.shape
    views = ((torch.Tensor.unflatten, (0, (groups, -1))), (torch.flatten, (3,)), (torch.permute, ((0, 2, 3, 1),)))
    matrix = weight.reshape(groups, channels // groups, each, prod(kernel)).permute(0, 2, 3, 1)
    filters, dimensions = groups * each * prod(kernel), len(kernel)
    conv = CONVS[dimensions](channels, filters, 1, groups=groups, bias=False, device="meta")
    own = matrix.reshape(filters, channels // groups, *[1] * dimensions).contiguous().detach()
    conv.weight = nn.Parameter(own, requires_grad=False)
    return conv, views
