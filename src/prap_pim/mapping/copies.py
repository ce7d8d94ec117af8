"""Which layers to build more than once under a budget of crossbars. Times come from outside; none is known here."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prap_pim.errors import UserError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Copying:
    """What copies of one layer take and bring; item r - 1 is with r copies, for r = 1..R.

    Attributes:
        crossbars: of one copy.
        tiles: int64 [R], tiles that r copies take.
        interval_s: float64 [R], seconds that the layer takes of each inference in a stream; must not rise.
        latency_s: float64 [R], seconds of one inference with nothing overlapping; must not rise.
    """

    crossbars: int
    tiles: Int64
    interval_s: Float64
    latency_s: Float64


def share_out(layers: Mapping[str, Copying], crossbars: int, tiles: int | None = None) -> dict[str, int]:
    """Copies of each layer that make the pipeline's interval, that of the slowest layer, as short as the budget allows.

    For an interval T every layer needs the fewest copies with which it keeps up; fewer crossbars can never do for a
    shorter T, so the least T that the budget allows is found by bisection among the intervals that occur. What is
    left goes, a step at a time, where it shortens the serial latency most per crossbar.

    Args:
        layers: what copies bring, by name.
        crossbars: budget for all copies of all layers.
        tiles: likewise; None for no limit.

    Raises:
        UserError: one copy of each layer is more than the budget.
    """

    def taken(copies: Mapping[str, int]) -> tuple[int, int]:
        return (
            sum(layer.crossbars * copies[name] for name, layer in layers.items()),
            sum(int(layer.tiles[copies[name] - 1]) for name, layer in layers.items()),
        )

    def fits(copies: Mapping[str, int]) -> bool:
        need, need_tiles = taken(copies)
        return need <= crossbars and (tiles is None or need_tiles <= tiles)

    copies = dict.fromkeys(layers, 1)
    if not fits(copies):
        need, need_tiles = taken(copies)
        raise UserError(
            f"one copy of each layer needs {need} crossbars in {need_tiles} tiles; the budget is {crossbars} crossbars"
            + ("" if tiles is None else f" in {tiles} tiles")
        )
    intervals = np.unique(np.concatenate([layer.interval_s for layer in layers.values()]))
    low = int(np.searchsorted(intervals, max(layer.interval_s[-1] for layer in layers.values())))  # none is faster
    high = len(intervals) - 1  # one copy of each will do
    while low < high:
        middle = (low + high) // 2
        if fits(_keeping_up(layers, float(intervals[middle]))):
            high = middle
        else:
            low = middle + 1
    copies = _keeping_up(layers, float(intervals[high]))

    steps = [step for name in layers if (step := _next_step(name, layers[name], copies[name]))]
    heapq.heapify(steps)
    while steps:
        _, name, wanted = heapq.heappop(steps)
        trial = {**copies, name: wanted}
        if fits(trial):  # what does not fit now never will: the budget only shrinks
            copies = trial
            if step := _next_step(name, layers[name], wanted):
                heapq.heappush(steps, step)
    return copies


def _keeping_up(layers: Mapping[str, Copying], interval_s: float) -> dict[str, int]:
    """The fewest copies of each layer with which it takes at most ``interval_s``."""
    return {name: int(np.searchsorted(-layer.interval_s, -interval_s)) + 1 for name, layer in layers.items()}


def _next_step(name: str, layer: Copying, copies: int) -> tuple[float, str, int] | None:
    """(minus seconds saved per crossbar, name, copies) of the fewest further copies that save anything."""
    now = layer.latency_s[copies - 1]
    wanted = int(np.searchsorted(-layer.latency_s, -now, side="right")) + 1
    if wanted > len(layer.latency_s):
        return None
    return -float(now - layer.latency_s[wanted - 1]) / (layer.crossbars * (wanted - copies)), name, wanted
