"""No reuse: every pattern is stored and computed."""

from typing import Literal

from prap_pim.common.settings import Settings
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet, ReuseMap
from prap_pim.methods.reuse.base import reuse_method


class NoReuse(Settings):
    """Every filter computes its own patterns."""

    kind: Literal["none"] = "none"


@reuse_method.register
def _(config: NoReuse, layer: Layer, patterns: PatternSet, grain: Grain) -> ReuseMap:
    return ReuseMap.none(patterns)
