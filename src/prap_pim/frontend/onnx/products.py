"""Where layers are in an ONNX file, and what makes them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, helper
from torch import Tensor, nn

from prap_pim.frontend.contract import View
from prap_pim.frontend.onnx.file import Array


@dataclass(frozen=True)
class Slot:
    """Where numbers of a layer are in a file: in an input of a node, or in a part of it.

    Attributes:
        node: its place among the main graph's nodes.
        which: of its inputs.
        shape: of the whole input.
        views: torch functions with their further arguments that lead from it to the layer's own order.
    """

    node: int
    which: int
    shape: tuple[int, ...]
    views: tuple[View, ...] = ()

    def write(self, whole: Array, value: Array) -> None:
        """Put a layer's numbers into what the input holds."""
        view = torch.from_numpy(whole)
        for function, arguments in self.views:
            view = function(view, *arguments)
        view.copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(view.shape))


@dataclass(frozen=True)
class Product:
    """A node that computes with a layer.

    Attributes:
        node: its place among the main graph's nodes.
        weight: where the layer's weight is.
        dtype: of the weight in the file.
        bias: where the layer's bias is, in this node or in an addition after it. None: nothing is added, or something
            that is no constant.
    """

    node: int
    weight: Slot
    dtype: np.dtype[Any]
    bias: Slot | None


def attributes(node: NodeProto) -> dict[str, Any]:
    """Of a node, by name; text is ``bytes``."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def as_float32(array: Array) -> Tensor:
    """A copy."""
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def fill(module: Any, weight: Array, bias: Array | None) -> None:
    """Give a layer its numbers."""
    module.weight = nn.Parameter(as_float32(weight), requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(as_float32(bias), requires_grad=False)


def linear(matrix: Array, bias: Array | None) -> nn.Linear:
    """A layer of a matrix [O, C]."""
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias is not None, device="meta")
    fill(layer, matrix, bias)
    return layer
