"""Sharing out a budget of crossbars, against trying every combination."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.mapping import Builds, share_out
from tests.strategies import examples


def work(crossbars: int, positions: int, seconds: float, floor: float = 0.0, most: int = 12, wider: int = 0) -> Builds:
    """A layer that r copies speed up r times, but for whole positions, down to ``floor``; one tile a copy.

    With a copy for each position each further crossbar of all copies speeds it up by itself, ``wider`` times.
    """
    copies = np.arange(1, min(most, positions) + 1)
    copies = np.append(copies, [positions] * (wider if most >= positions else 0))
    width = crossbars + np.maximum(np.arange(len(copies)) - positions + 1, 0)
    rounds = -(-positions // copies) * crossbars / width
    return Builds(copies, width, copies, np.maximum(rounds * seconds, floor), rounds * seconds * 2 + floor)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Builds]:
    return {
        name: work(
            draw(st.integers(1, 4)),
            draw(st.integers(1, 7)),
            draw(st.sampled_from([0.25, 1.0, 1.5, 4.0])),
            draw(st.sampled_from([0.0, 0.0, 3.0])),
            most=draw(st.integers(1, 7)),
            wider=draw(st.integers(0, 3)),
        )
        for name in "abc"[: draw(st.integers(1, 3))]
    }


@examples(150)
@given(layers=layers(), spare=st.integers(0, 20), tiles=st.none() | st.integers(3, 9))
def test_no_combination_has_a_shorter_interval(layers: dict[str, Builds], spare: int, tiles: int | None) -> None:
    budget = sum(int(layer.crossbars[0]) for layer in layers.values()) + spare
    ways = share_out(layers, budget, tiles)

    def taken(chosen: dict[str, int]) -> tuple[int, int]:
        return (
            sum(int(layers[name].copies[way] * layers[name].copy_crossbars[way]) for name, way in chosen.items()),
            sum(int(layers[name].tiles[way]) for name, way in chosen.items()),
        )

    def interval(chosen: dict[str, int]) -> float:
        return max(float(layers[name].interval_s[way]) for name, way in chosen.items())

    def allowed(chosen: dict[str, int]) -> bool:
        return taken(chosen)[0] <= budget and (tiles is None or taken(chosen)[1] <= tiles)

    assert allowed(ways)
    every = [
        chosen
        for choice in product(*(range(len(layer.interval_s)) for layer in layers.values()))
        if allowed(chosen := dict(zip(layers, choice, strict=True)))
    ]
    assert interval(ways) == min(map(interval, every))
    # nothing is left with which one layer alone could be made faster
    for name, layer in layers.items():
        for more in range(ways[name] + 1, len(layer.interval_s)):
            if allowed({**ways, name: more}):
                assert layer.latency_s[more] == layer.latency_s[ways[name]]


def test_the_slowest_layer_first_then_latency_by_hand() -> None:
    """a: 8 positions of 1 s on 2 crossbars; b: 3 of 1 s on 1.

    With 10 crossbars a has 4 copies and b 2, 2 s each. With 9, 3 s is the best interval (a 3 copies, b 1), and 2
    crossbars are left: b's second copy saves 2 s of serial latency on one crossbar, its third 2 s, a's fourth 1 s each.
    """
    layers = {"a": work(2, 8, 1.0), "b": work(1, 3, 1.0)}

    def copies(crossbars: int, tiles: int | None = None) -> dict[str, int]:
        return {name: int(layers[name].copies[way]) for name, way in share_out(layers, crossbars, tiles).items()}

    assert copies(10) == {"a": 4, "b": 2}
    assert copies(9) == {"a": 3, "b": 3}
    assert copies(3) == {"a": 1, "b": 1}
    assert copies(1000) == {"a": 8, "b": 3}  # not more than positions
    assert copies(1000, tiles=4) == {"a": 3, "b": 1}
    with pytest.raises(UserError, match="needs 3 crossbars in 2 tiles; the budget is 2 crossbars"):
        share_out(layers, 2)


def test_a_layer_with_all_its_copies_is_spread_where_that_shortens_the_interval() -> None:
    """a: one position of 6 s on 2 crossbars; b: 4 of 1 s on 1. With 7 crossbars a on 4 takes 3 s, b in 2 copies 2 s.

    That is 6; a on 5 would take 2.4 s, which shortens its serial latency by 1.2 s on one crossbar, but b's third copy
    saves nothing, and its fourth, which saves 2 s, needs two.
    """
    layers = {"a": work(2, 1, 6.0, wider=3), "b": work(1, 4, 1.0)}
    ways = share_out(layers, 7)
    assert [int(layers[name].copy_crossbars[ways[name]]) for name in "ab"] == [5, 1]
    assert [int(layers[name].copies[ways[name]]) for name in "ab"] == [1, 2]


def test_a_wide_copy_does_not_stand_in_the_way_of_narrow_ones() -> None:
    """3 crossbars to spare. Wider, a saves 4 s on 2 of them, the most per crossbar; b's second copy 5.4 s on all 3."""
    one, two = np.ones(2, int), np.array([1, 2])
    interval = np.array([10.0, 10.0])
    layers = {
        "a": Builds(one, np.array([2, 4]), one, interval, np.array([10.0, 6.0])),
        "b": Builds(two, np.array([3, 3]), one, interval, np.array([10.0, 4.6])),
    }
    assert share_out(layers, 8) == {"a": 0, "b": 1}
    assert share_out(layers, 7) == {"a": 1, "b": 0}
    assert share_out(layers, 10) == {"a": 1, "b": 1}


def test_ways_that_bring_nothing_are_left_out() -> None:
    """The second is no faster; the fourth has a longer interval, the sixth a longer latency."""
    columns = [np.arange(1, 7), np.ones(6, int), np.arange(1, 7)]
    found = Builds.sifted(*columns, np.array([4.0, 4, 3, 3.5, 3, 2]), np.array([9.0, 9, 9, 8, 8, 9]))
    assert found.copies.tolist() == [1, 3, 5]
    assert found.interval_s.tolist() == [4, 3, 3]
    assert found.latency_s.tolist() == [9, 9, 8]
