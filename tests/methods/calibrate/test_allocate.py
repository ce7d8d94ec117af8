"""One budget shared out: against every combination of offers."""

import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.methods.calibrate.allocate import Offer, allocate, convex_hull
from prap_pim.methods.calibrate.layer import Setting
from tests.reference.calibrate import slow_allocation
from tests.strategies import examples

PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40)), min_size=1, max_size=5)  # (OU steps, loss)


def offers_of(pairs: list[tuple[int, float]]) -> list[Offer]:
    return [Offer(Setting(donors), steps, float(loss)) for donors, (steps, loss) in enumerate(pairs, start=1)]


@given(PAIRS)
def test_the_hull_holds_what_is_best_for_some_exchange_rate(pairs: list[tuple[int, float]]):
    offers = offers_of(pairs)
    hull = convex_hull(offers)
    steps, losses = [offer.cost for offer in hull], [offer.loss for offer in hull]
    assert steps == sorted(set(steps))
    assert losses == sorted(set(losses), reverse=True)
    assert steps[0] == min(pairs)[0]
    assert losses[-1] == min(loss for _, loss in pairs)
    assert all(offer in offers for offer in hull)
    for rate in (0, 0.1, 0.37, 1, 2.9, 11, 1000):  # loss for an OU step
        assert min(o.loss + rate * o.cost for o in hull) == min(o.loss + rate * o.cost for o in offers)
    for (a, b), (c, d), (e, f) in combinations(zip(steps, losses, strict=True), 3):
        assert (b - d) * (e - c) > (d - f) * (c - a)  # each further step gains less


@given(st.lists(PAIRS, min_size=1, max_size=4), st.integers(0, 50))
@examples(200)
def test_greed_is_within_one_step_of_the_best(layers: list[list[tuple[int, float]]], budget: int):
    offers = {f"layer{i}": offers_of(pairs) for i, pairs in enumerate(layers)}
    best = slow_allocation(layers, budget)
    if best is None:
        least = sum(min(steps for steps, _ in pairs) for pairs in layers)
        message = f"the layers can take is {least} OU steps, more than the {budget} allowed"
        with pytest.raises(UserError, match=re.escape(message)):
            allocate(offers, budget)
        return
    chosen, rate = allocate(offers, budget)
    assert rate >= 0
    assert list(chosen) == list(offers)
    assert all(offer in offers[name] for name, offer in chosen.items())
    assert sum(offer.cost for offer in chosen.values()) <= budget
    loss = sum(offer.loss for offer in chosen.values())
    hulls = [convex_hull(layer) for layer in offers.values()]
    dearest_step = max((a.loss - b.loss for hull in hulls for a, b in pairwise(hull)), default=0)
    assert best <= loss <= best + dearest_step + 1e-9
    if budget >= sum(max(steps for steps, _ in pairs) for pairs in layers):
        assert loss == best


def test_by_hand():
    """Steps that gain 8, 5, 2 and 1 a step; the one that gains 5 does not fit, what follows it in its layer is out."""
    first = offers_of([(1, 20), (2, 12), (4, 8)])  # 8 for one step, then 2 a step
    second = offers_of([(1, 30), (5, 10), (6, 9)])  # 5 a step, then 1
    third = offers_of([(3, 0), (4, 0)])  # the second is dearer and no better
    offers = {"a": first, "b": second, "c": third}
    found = [allocate(offers, budget) for budget in (5, 6, 9, 10, 12, 13, 99)]
    taken = [[offer.setting.donors for offer in chosen.values()] for chosen, _ in found]
    assert taken == [[1, 1, 1], [2, 1, 1], [3, 1, 1], [2, 2, 1], [3, 2, 1], [3, 3, 1], [3, 3, 1]]
    assert [rate for _, rate in found] == [
        8,
        5,
        5,
        2,
        1,
        1,
        1,
    ]  # of the first step that does not fit; of the last if all do
    assert allocate({}, 0) == ({}, 0)


def test_what_is_left_is_spent_off_the_hull_too():
    """From 1 step the hull goes to 10, which does not fit; 5 steps do."""
    offers = {"a": offers_of([(1, 10), (5, 8), (10, 0)]), "b": offers_of([(1, 1)])}
    chosen, _ = allocate(offers, 9)
    assert [offer.cost for offer in chosen.values()] == [5, 1]
