"""No reuse: every pattern is stored and computed."""

from typing import Literal

from prap_pim.grain import Grain
from prap_pim.network import Layer
from prap_pim.patterns import PatternSet, ReuseMap
from prap_pim.reuse.base import reuse_method
from prap_pim.settings import Settings


class NoReuse(Settings):
    """Every filter computes its own patterns."""

    kind: Literal["none"] = "none"


@reuse_method.register
def _(config: NoReuse, layer: Layer, patterns: PatternSet, grain: Grain) -> ReuseMap:
    return ReuseMap.none(patterns)
