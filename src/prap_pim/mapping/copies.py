"""How often, and how wide, to build each layer under a budget of crossbars. Times come from outside."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Builds:
    """Ways of building one layer, each taking more crossbars than the one before it and serving better.

    Attributes:
        copies: int64 [R], copies of the layer.
        copy_crossbars: int64 [R], crossbars of one copy.
        tiles: int64 [R], tiles of all copies.
        interval_s: float64 [R], seconds that the layer takes of each inference in a stream; does not rise.
        latency_s: float64 [R], seconds of one inference with nothing overlapping; does not rise.
    """

    copies: Int64
    copy_crossbars: Int64
    tiles: Int64
    interval_s: Float64
    latency_s: Float64

    @property
    def crossbars(self) -> Int64:
        """Of all copies, int64 [R]."""
        return self.copies * self.copy_crossbars

    @classmethod
    def sifted(
        cls, copies: Int64, copy_crossbars: Int64, tiles: Int64, interval_s: Float64, latency_s: Float64
    ) -> "Builds":
        """Without the ways that are slower than a smaller one, in interval or latency, or no faster in either."""
        kept: list[int] = []
        shortest = (inf, inf)
        for way, times in enumerate(zip(interval_s.tolist(), latency_s.tolist(), strict=True)):
            if times != shortest and times[0] <= shortest[0] and times[1] <= shortest[1]:
                kept.append(way)
                shortest = times
        return cls(copies[kept], copy_crossbars[kept], tiles[kept], interval_s[kept], latency_s[kept])

    def narrow(self) -> "Builds":
        """The ways up to the first that is wider than the smallest."""
        end = int(np.argmax(np.append(self.copy_crossbars, 0) != self.copy_crossbars[0]))
        return Builds(
            self.copies[:end], self.copy_crossbars[:end], self.tiles[:end], self.interval_s[:end], self.latency_s[:end]
        )


def share_out(layers: Mapping[str, Builds], crossbars: int, tiles: int | None = None) -> dict[str, int]:
    """A way for each layer that makes the pipeline's interval, the slowest layer's, as short as the budget allows.

    For an interval T every layer needs the smallest way with which it keeps up; fewer crossbars can never do for a
    shorter T, so the least T that the budget allows is found by bisection among the intervals that occur. What is
    left goes, a step at a time, where it shortens the serial latency most per crossbar. Such steps are greedy, and a
    wide one can stand in the way of several narrow ones: all is done without wider copies as well, and the better kept.

    Args:
        layers: the ways there are, by name.
        crossbars: budget for all copies of all layers.
        tiles: likewise; None for no limit.

    Returns:
        The index of the way, 0..R - 1, by name.

    Raises:
        UserError: the smallest way of each layer is more than the budget.
    """
    fits = _Budget(layers, crossbars, tiles)
    fits.check()
    offers = [layers]
    narrow = {name: layer.narrow() for name, layer in layers.items()}
    if any(len(narrow[name].copies) < len(layers[name].copies) for name in layers):
        offers.append(narrow)
    found = [_spend(layers, fits, _spend(offer, fits, _shortest_interval(offer, fits))) for offer in offers]
    return min(found, key=lambda ways: _times(layers, ways))


@dataclass(frozen=True)
class _Budget:
    """Whether ways, by layer, are within a budget."""

    layers: Mapping[str, Builds]
    crossbars: int
    tiles: int | None

    def __call__(self, ways: Mapping[str, int]) -> bool:
        need, need_tiles = self._taken(ways)
        return need <= self.crossbars and (self.tiles is None or need_tiles <= self.tiles)

    def check(self) -> None:
        """Complain if not even the smallest ways fit."""
        smallest = dict.fromkeys(self.layers, 0)
        if not self(smallest):
            need, need_tiles = self._taken(smallest)
            raise UserError(
                f"one copy of each layer needs {need} crossbars in {need_tiles} tiles; the budget is {self.crossbars} "
                "crossbars" + ("" if self.tiles is None else f" in {self.tiles} tiles")
            )

    def _taken(self, ways: Mapping[str, int]) -> tuple[int, int]:
        chosen = [(layer, ways[name]) for name, layer in self.layers.items()]
        crossbars = sum(int(layer.copies[way] * layer.copy_crossbars[way]) for layer, way in chosen)
        return crossbars, sum(int(layer.tiles[way]) for layer, way in chosen)


def _shortest_interval(layers: Mapping[str, Builds], fits: _Budget) -> dict[str, int]:
    """The smallest ways with the shortest interval that fits."""
    intervals = np.unique(np.concatenate([layer.interval_s for layer in layers.values()]))
    low = int(np.searchsorted(intervals, max(layer.interval_s[-1] for layer in layers.values())))  # none is faster
    high = len(intervals) - 1  # the smallest ways will do
    while low < high:
        middle = (low + high) // 2
        if fits(_keeping_up(layers, float(intervals[middle]))):
            high = middle
        else:
            low = middle + 1
    return _keeping_up(layers, float(intervals[high]))


def _spend(layers: Mapping[str, Builds], fits: _Budget, ways: dict[str, int]) -> dict[str, int]:
    """What is left of the budget, a step at a time, where it shortens the serial latency most per crossbar."""
    steps = [step for name in layers if (step := _next_step(name, layers[name], ways[name]))]
    heapq.heapify(steps)
    while steps:
        _, name, wanted = heapq.heappop(steps)
        trial = {**ways, name: wanted}
        if fits(trial):  # what does not fit now never will: the budget only shrinks
            ways = trial
            if step := _next_step(name, layers[name], wanted):
                heapq.heappush(steps, step)
    return ways


def _times(layers: Mapping[str, Builds], ways: Mapping[str, int]) -> tuple[float, float]:
    """Interval and serial latency."""
    chosen = [(layer, ways[name]) for name, layer in layers.items()]
    return max(float(each.interval_s[way]) for each, way in chosen), sum(float(e.latency_s[way]) for e, way in chosen)


def _keeping_up(layers: Mapping[str, Builds], interval_s: float) -> dict[str, int]:
    """The smallest way of each layer with which it takes at most ``interval_s``."""
    return {name: int(np.searchsorted(-layer.interval_s, -interval_s)) for name, layer in layers.items()}


def _next_step(name: str, layer: Builds, way: int) -> tuple[float, str, int] | None:
    """(minus seconds saved per crossbar, name, way) of the smallest larger way that saves anything."""
    now = layer.latency_s[way]
    wanted = int(np.searchsorted(-layer.latency_s, -now, side="right"))
    if wanted >= len(layer.latency_s):
        return None
    return -float((now - layer.latency_s[wanted]) / (layer.crossbars[wanted] - layer.crossbars[way])), name, wanted
