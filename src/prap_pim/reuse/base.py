"""The verb that every reuse method registers its handler for."""

from functools import singledispatch

from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.patterns import PatternSet, ReuseMap


@singledispatch
def reuse(config: object, layer: Layer, patterns: PatternSet, grain: Grain) -> ReuseMap:
    """Decide whose pattern each filter of a layer takes, by the method that the type of ``config`` names.

    Raises:
        UserError: the method cannot handle this layer.
    """
    raise TypeError(f"{type(config).__name__} is not the config of a reuse method")
