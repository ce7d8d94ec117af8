"""PRAP-PIM: pattern pruning and reuse on ReRAM processing-in-memory, from a trained network to cost and proof."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prap_pim.api import compress, estimate
    from prap_pim.prune.pattern import pattern_mask
    from prap_pim.reuse.similar import similar_reuse
    from prap_pim.study import explore

__all__ = ["compress", "estimate", "explore", "pattern_mask", "similar_reuse"]


def __getattr__(name: str) -> Any:
    """Load the public functions when first asked for: numba takes half a second that ``--help`` need not wait."""
    if name in ("compress", "estimate"):
        from prap_pim import api

        return getattr(api, name)
    if name == "explore":
        from prap_pim.study import explore

        return explore
    if name == "pattern_mask":
        from prap_pim.prune.pattern import pattern_mask

        return pattern_mask
    if name == "similar_reuse":
        from prap_pim.reuse.similar import similar_reuse

        return similar_reuse
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
