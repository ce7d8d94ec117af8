"""Random convolutions of every kind, with inputs for them."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from prap_pim.frontend import capture
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet, ReuseMap
from prap_pim.ir.plan import LayerPlan
from prap_pim.methods.prune import NoPruning, OrcPruning, PatternPruning, StructuredPruning, prune
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, SimilarReuse, reuse
from tests.layers import STYLES, fill

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
METHODS = {
    "dense": (NoPruning(), NoReuse()),
    "structured": (StructuredPruning(ratio=0.6), NoReuse()),
    "orc": (OrcPruning(ratio=0.4), NoReuse()),
    "pattern": (PatternPruning(group_channels=4, shapes=3), NoReuse()),
    "identical": (NoPruning(), IdenticalReuse(threshold=0.7)),
    "similar": (NoPruning(), SimilarReuse(keep=0.4)),
    "structured+identical": (StructuredPruning(ratio=0.6), IdenticalReuse(threshold=0.7)),
    "prap": (PatternPruning(group_channels=4, shapes=3), SimilarReuse(keep=0.4)),
}


@dataclass(frozen=True)
class Convolution:
    """A torch module, what the capture makes of it, and integers [2, C, *map] for it."""

    module: nn.Module
    layer: Layer
    x: Tensor


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """One to three dimensions; any stride, padding, dilation; grouped, depthwise, with a channel multiplier."""
    dimensions = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2, 3, 6]))
    channels = groups * draw(st.sampled_from([1, 1, 2, 5]))
    filters = groups * draw(st.sampled_from([1, 2, 3]))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    kernel, stride, dilation, padding = each(1, 3), each(1, 3), each(1, 2), each(0, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [max(1, own - 2 * p) + more for own, p, more in zip(reach, padding, each(0, 3), strict=True)]
    conv = CONVS[dimensions](channels, filters, kernel, stride, padding, dilation, groups)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(fill(random, draw(st.sampled_from(STYLES)), tuple(conv.weight.shape))))
    x = torch.from_numpy(random.integers(-128, 128, (2, channels, *size)))
    layer = capture(nn.Sequential(conv), x.float(), "m").network.layers[0]
    return Convolution(conv, layer, x)


def integer_convolution(case: Convolution, plan: LayerPlan) -> Tensor:
    """By torch's own convolution of 64-bit integers, in units of 2**-fraction_bits: [2, O, *output map]."""
    conv = case.module
    weight = torch.from_numpy(plan.weights().astype(np.int64)).reshape(conv.weight.shape)
    function = {3: nn.functional.conv1d, 4: nn.functional.conv2d, 5: nn.functional.conv3d}[weight.ndim]
    result: Tensor = function(case.x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return result


def decided(method: str, layer: Layer, grain: Grain) -> tuple[PatternSet, ReuseMap]:
    """What a method of ``METHODS`` prunes and reuses."""
    pruning, reusing = METHODS[method]
    patterns = prune(pruning, layer, grain)
    return patterns, reuse(reusing, layer, patterns, grain)
