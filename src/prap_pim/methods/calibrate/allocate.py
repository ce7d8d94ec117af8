"""One budget for a whole network: where an OU step saves most, given what each layer's error does to the outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2

from prap_pim.common.errors import UserError
from prap_pim.methods.calibrate.layer import Setting

_DIGITS = 6  # of the logarithm of gains per OU step: those that differ by less are equal, and the largest goes first


@dataclass(frozen=True)
class Offer:
    """A way to compress one layer.

    Attributes:
        setting: the way.
        cost: what it takes of the budget, in one inference: OU steps, or as many as the dense network takes for the
            same energy or time.
        loss: what it is expected to cost the network: the divergence of its outputs, in nats.
    """

    setting: Setting
    cost: float
    loss: float


def allocate(offers: Mapping[str, Sequence[Offer]], budget: float) -> tuple[dict[str, Offer], float]:
    """The offers, one a layer, of least total loss (by the sum of the layers' own) within a budget.

    Every layer starts from its cheapest offer; then the step to a better one that gains most per OU step is taken, as
    long as it fits. On each layer's convex hull that is optimal but for the last step (Shoham and Gersho, IEEE Trans.
    ASSP 1988).

    Returns:
        the offers by layer, and the exchange rate: what the first step that did not fit would have gained, in loss per
        OU step; where all fitted, what the last one gained; 0 if there was none.

    Raises:
        UserError: even the cheapest offers exceed the budget.
    """
    hulls = {name: convex_hull(layer) for name, layer in offers.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    spent = sum(offer.cost for offer in chosen.values())
    if spent > budget:
        raise UserError(
            f"the least that the layers can take is {spent:.12g} OU steps, more than the {budget:.12g} allowed"
        )
    steps = [
        ((before.loss - after.loss) / (after.cost - before.cost), name, i)
        for name, hull in hulls.items()
        for i, (before, after) in enumerate(pairwise(hull))
    ]
    blocked: set[str] = set()
    rate = 0.0
    for gained, name, i in sorted(steps, key=lambda step: -step[0]):  # a hull is convex: a layer's come in order
        before, after = hulls[name][i], hulls[name][i + 1]
        if name in blocked or spent + after.cost - before.cost > budget:
            rate = rate if blocked else gained
            blocked.add(name)
            continue
        spent += after.cost - before.cost
        chosen[name] = after
        rate = rate if blocked else gained
    return filled(chosen, offers, budget - spent), rate


def filled(chosen: Mapping[str, Offer], offers: Mapping[str, Sequence[Offer]], left: float) -> dict[str, Offer]:
    """With what is left of the budget spent on whatever still fits, on a hull or not, most gain per OU step first."""
    chosen = dict(chosen)
    while True:
        better = [
            ((chosen[name].loss - offer.loss) / max(1, offer.cost - chosen[name].cost), name, offer)
            for name, layer in offers.items()
            for offer in layer
            if offer.loss < chosen[name].loss and offer.cost - chosen[name].cost <= left
        ]
        if not better:
            return chosen
        _, name, offer = max(better, key=lambda each: (round(log2(each[0]), _DIGITS), each[2].cost))
        left -= offer.cost - chosen[name].cost
        chosen[name] = offer


def convex_hull(offers: Sequence[Offer]) -> list[Offer]:
    """Those that are best for some exchange rate of loss for OU steps, cheapest first."""
    hull: list[Offer] = []
    for offer in sorted(offers, key=lambda offer: (offer.cost, offer.loss)):
        if hull and offer.loss >= hull[-1].loss:
            continue  # dearer and no better
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], offer):
            hull.pop()
        hull.append(offer)
    return hull


def _slope(before: Offer, after: Offer) -> float:
    return (before.loss - after.loss) / (after.cost - before.cost)
