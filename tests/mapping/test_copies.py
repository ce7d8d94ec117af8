"""Sharing out a budget of crossbars, against trying every combination."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prap_pim.errors import UserError
from prap_pim.mapping import Copying, share_out


def work(crossbars: int, positions: int, seconds: float, floor: float = 0.0, most: int = 12) -> Copying:
    """A layer that r copies speed up r times, but for whole positions, down to ``floor``; one tile a copy."""
    copies = np.arange(1, min(most, positions) + 1)
    rounds = -(-positions // copies)
    return Copying(crossbars, copies, np.maximum(rounds * seconds, floor), rounds * seconds * 2 + floor)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Copying]:
    return {
        name: work(
            draw(st.integers(1, 4)),
            draw(st.integers(1, 7)),
            draw(st.sampled_from([0.25, 1.0, 1.5, 4.0])),
            draw(st.sampled_from([0.0, 0.0, 3.0])),
            most=draw(st.integers(1, 7)),
        )
        for name in "abc"[: draw(st.integers(1, 3))]
    }


@settings(deadline=None, max_examples=150)
@given(layers=layers(), spare=st.integers(0, 20), tiles=st.none() | st.integers(3, 9))
def test_no_combination_has_a_shorter_interval(layers: dict[str, Copying], spare: int, tiles: int | None) -> None:
    budget = sum(layer.crossbars for layer in layers.values()) + spare
    copies = share_out(layers, budget, tiles)

    def taken(counts: dict[str, int]) -> tuple[int, int]:
        return sum(layers[name].crossbars * count for name, count in counts.items()), sum(counts.values())

    def interval(counts: dict[str, int]) -> float:
        return max(float(layers[name].interval_s[count - 1]) for name, count in counts.items())

    def allowed(counts: dict[str, int]) -> bool:
        return taken(counts)[0] <= budget and (tiles is None or taken(counts)[1] <= tiles)

    assert allowed(copies)
    every = [
        counts
        for choice in product(*(range(1, len(layer.interval_s) + 1) for layer in layers.values()))
        if allowed(counts := dict(zip(layers, choice, strict=True)))
    ]
    assert interval(copies) == min(map(interval, every))
    # nothing is left with which one layer alone could be made faster
    for name, layer in layers.items():
        for more in range(copies[name] + 1, len(layer.interval_s) + 1):
            if allowed({**copies, name: more}):
                assert layer.latency_s[more - 1] == layer.latency_s[copies[name] - 1]


def test_the_slowest_layer_first_then_latency_by_hand() -> None:
    """a: 8 positions of 1 s on 2 crossbars; b: 3 of 1 s on 1.

    With 10 crossbars a has 4 copies and b 2, 2 s each. With 9, 3 s is the best interval (a 3 copies, b 1), and 2
    crossbars are left: b's second copy saves 2 s of serial latency on one crossbar, its third 2 s, a's fourth 1 s each.
    """
    layers = {"a": work(2, 8, 1.0), "b": work(1, 3, 1.0)}
    assert share_out(layers, 10) == {"a": 4, "b": 2}
    assert share_out(layers, 9) == {"a": 3, "b": 3}
    assert share_out(layers, 3) == {"a": 1, "b": 1}
    assert share_out(layers, 1000) == {"a": 8, "b": 3}  # not more than positions
    assert share_out(layers, 1000, tiles=4) == {"a": 3, "b": 1}
    with pytest.raises(UserError, match="needs 3 crossbars in 2 tiles; the budget is 2 crossbars"):
        share_out(layers, 2)
