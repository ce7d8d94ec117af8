"""PRAP-PIM: pattern pruning and reuse on ReRAM processing-in-memory, from a trained network to cost and proof."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prap_pim.api.model import compress, estimate
    from prap_pim.methods.prune.pattern import pattern_mask
    from prap_pim.methods.reuse.similar import similar_reuse
    from prap_pim.runs.study import explore

_HOMES = {
    "compress": "api.model",
    "estimate": "api.model",
    "explore": "runs.study",
    "pattern_mask": "methods.prune.pattern",
    "similar_reuse": "methods.reuse.similar",
}
__all__ = ["compress", "estimate", "explore", "pattern_mask", "similar_reuse"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: torch and numba take seconds that ``--help`` need not wait."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
