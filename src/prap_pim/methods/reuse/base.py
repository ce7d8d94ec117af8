"""The verb that every reuse method registers its handler for."""

from functools import singledispatch

import numpy as np

from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet, ReuseMap


def reuse(config: object, layer: Layer, patterns: PatternSet, grain: Grain) -> ReuseMap:
    """Decide whose pattern each filter of a layer takes, by the method that the type of ``config`` names.

    Groups of a convolution have no input in common, so no pattern either: each is a layer by itself. Where each has one
    filter, as in a depthwise convolution, nobody can take another's pattern, and all are kept.

    Raises:
        UserError: the method cannot handle this layer.
    """
    if layer.groups == 1:
        return reuse_method(config, layer, patterns, grain)
    if layer.groups == layer.filters:
        return ReuseMap.none(patterns)
    source = np.full(patterns.shape.shape, -1, np.int32)
    sign, exponent = np.ones(source.shape, np.int8), np.zeros(source.shape, np.int8)
    for part, (own, filters, blocks) in zip(layer.by_group(), patterns.by_group(), strict=True):
        found = reuse_method(config, part, own, grain)
        source[filters, blocks] = np.where(found.source >= 0, found.source + filters.start, -1)
        sign[filters, blocks], exponent[filters, blocks] = found.sign, found.exponent
    return ReuseMap(source, sign, exponent)


@singledispatch
def reuse_method(config: object, layer: Layer, patterns: PatternSet, grain: Grain) -> ReuseMap:
    """``reuse`` of a layer of one group: what a method registers its handler for."""
    raise TypeError(f"{type(config).__name__} is not the config of a reuse method")
