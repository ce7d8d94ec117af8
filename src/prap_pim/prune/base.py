"""The verb that every pruning method registers its handler for."""

from functools import singledispatch

from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.patterns import PatternSet


@singledispatch
def prune(config: object, layer: Layer, grain: Grain) -> PatternSet:
    """Decide which inputs each filter of a layer keeps, by the method that the type of ``config`` names.

    Raises:
        UserError: the method cannot handle this layer.
    """
    raise TypeError(f"{type(config).__name__} is not the config of a pruning method")
