"""Settings with which a method does a given share of the dense network's OU steps: baselines at equal compute.

Each method has one number a layer that sets how much it computes. The number moves in levels: a layer of O filters can
have 1 .. O donors in a block, and ORC can leave a filter 1 .. ceil(rows / ou_rows) OUs. All layers get the same share
of their levels, at least one, as the methods' authors would with one number for the whole network; what the steps of
the small layers leave over then lifts single layers by one level.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TypeVar

import numpy as np

from prap_pim.common.errors import UserError
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.patterns import effective_shape
from prap_pim.mapping.steps import dense_steps, ou_steps
from prap_pim.methods.prune import (
    NoPruning,
    OrcPruning,
    PatternPruning,
    PruneConfig,
    StructuredPruning,
    prune,
)
from prap_pim.methods.prune.pattern import fitting_groups
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, ReuseConfig, SimilarReuse, reuse

_TOLERANCE = 0.03  # relative; how far below the ratio the most that a method can compute may stay

Setting = tuple[PruneConfig, ReuseConfig]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Family:
    """A method whose compute is set by one number a layer.

    Attributes:
        levels: how many levels a layer has; the last computes most.
        setting: of a layer at a level, 1 .. levels.
        proportional: a layer computes in proportion to its level, whatever its weights are.
    """

    levels: Callable[[Layer, Grain], int]
    setting: Callable[[Layer, Grain, int], Setting]
    proportional: bool


def _filters(layer: Layer, grain: Grain) -> int:
    """Filters that can share a pattern: all, or those of a convolution group."""
    return layer.filters // layer.groups


def _share(level: int, levels: int) -> float:
    """A share of which floor(levels * share) is the level, however floats round."""
    return min(1.0, (level + 0.5) / levels)


def similar(pruning: PruneConfig) -> Family:
    """Similarity reuse after a kind of pruning: PRAP, or with ``NoPruning()`` its step 2 alone. Level: donors."""
    return Family(
        levels=_filters,
        setting=lambda layer, grain, level: (pruning, SimilarReuse(keep=_share(level, _filters(layer, grain)))),
        proportional=True,
    )


# Level: the rank of the filter whose norm is the threshold.
IDENTICAL = Family(
    levels=_filters,
    setting=lambda layer, grain, level: (NoPruning(), IdenticalReuse(threshold=_share(level, _filters(layer, grain)))),
    proportional=False,
)

# Level: OUs of a filter, each full.
ORC = Family(
    levels=lambda layer, grain: grain.row_groups(layer.fan_in),
    setting=lambda layer, grain, level: (OrcPruning(ratio=_share(level * grain.ou_rows, layer.fan_in)), NoReuse()),
    proportional=True,
)


# Level: input channels.
STRUCTURED = Family(
    levels=lambda layer, grain: layer.weight.shape[1],
    setting=lambda layer, grain, level: (StructuredPruning(ratio=_share(level, layer.weight.shape[1])), NoReuse()),
    proportional=False,
)


def patterns(shapes: int) -> Family:
    """Pattern pruning alone. Level: a pattern, those that compute more last; then all of the layer."""
    return Family(
        levels=lambda layer, grain: len(_patterns(layer, grain, shapes)),
        setting=lambda layer, grain, level: (_patterns(layer, grain, shapes)[level - 1], NoReuse()),
        proportional=False,
    )


def _patterns(layer: Layer, grain: Grain, shapes: int) -> list[PruneConfig]:
    """Prunings that fit a layer, by how much they compute."""
    channels, positions = layer.weight.shape[1], prod(layer.weight.shape[2:])
    whole: list[PruneConfig] = [NoPruning()]
    if positions > 1:
        fitting = reversed(fitting_groups(positions, grain))
        return [*(PatternPruning(group_channels=n, shapes=shapes) for n in fitting), *whole]
    widths = [n * grain.ou_rows for n in range(grain.row_groups(channels), 1, -1)]
    by_groups = {-(-channels // width): width for width in widths}  # the least width of each
    return [*(PatternPruning(pointwise_group=by_groups[n], shapes=shapes) for n in sorted(by_groups)), *whole]


class OutOfReach(UserError):
    """A method cannot compute as much, or as little, as was asked for."""


def all_within_reach(methods: Iterable[T], settle: Callable[[T], R]) -> list[R]:
    """What ``settle`` makes of each method.

    Raises:
        UserError: a compute ratio is out of reach of some; says of each what it can reach.
    """
    found, beyond = list[R](), list[str]()
    for method in methods:
        try:
            found.append(settle(method))
        except OutOfReach as error:
            beyond.append(str(error))
    if beyond:
        raise UserError(f"{'; '.join(beyond)} of the OU steps: choose another ratio, or leave it out")
    return found


def at_compute_ratio(
    family: Family,
    network: Network,
    chip: Chip,
    ratio: float,
    whole: Collection[str] = (),
    name: str = "this method",
) -> dict[str, Setting]:
    """Settings of every layer with which the network does at most ``ratio`` of its dense OU steps, as near as can be.

    Args:
        family: the method.
        network: its weights decide where the method's compute depends on them.
        chip: decides what an OU holds.
        ratio: OU steps / OU steps of the dense plan, as a run's ``compute_ratio``; without zero-input skipping.
        whole: layers that are left alone; they count.
        name: of the method, for messages.

    Raises:
        OutOfReach: the method cannot compute so little with a level of at least 1 in each layer, or not so much.
    """
    layers = {layer.name: layer for layer in network.layers if layer.name not in whole}
    levels = {name: family.levels(layer, chip.grain) for name, layer in layers.items()}
    dense = sum(dense_steps(layer, chip.grain) for layer in network.layers)
    proportional = family.proportional and chip.grain.ous(2) == 2 * chip.grain.ous(1)  # no OU holds two patterns
    left_alone = dense - sum(dense_steps(layer, chip.grain) for layer in layers.values())

    @cache
    def steps(name: str, level: int) -> int:
        if proportional and level > 1:
            return level * steps(name, 1)
        layer = layers[name]
        return ou_steps(layer, _ous(layer, family.setting(layer, chip.grain, level), chip.grain), chip.grain)

    def total(chosen: Mapping[str, int]) -> int:
        return left_alone + sum(steps(name, level) for name, level in chosen.items())

    def after(count: int) -> dict[str, int]:
        return dict.fromkeys(layers, 1) | dict(ladder[:count])

    # every level above the first, in the order in which a common share reaches it
    ladder = [(name, level) for name, most in levels.items() for level in range(2, most + 1)]
    ladder.sort(key=lambda rung: rung[1] / levels[rung[0]])
    allowed = ratio * dense
    least, most = total(after(0)) / dense, total(levels) / dense
    if least > ratio or most < ratio * (1 - _TOLERANCE):
        raise OutOfReach(f"a compute ratio of {ratio:.4g} is out of reach: {name} has {least:.4g} to {most:.4g}")
    low, high = 0, len(ladder) + 1  # the first fits, the second does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(after(middle)) <= allowed else (low, middle)
    chosen = after(low)
    spent = total(chosen)
    for name, level in chosen.items():
        more = steps(name, level + 1) - steps(name, level) if level < levels[name] else 0
        if spent + more <= allowed and more > 0:
            chosen[name], spent = level + 1, spent + more
    return {name: family.setting(layer, chip.grain, chosen[name]) for name, layer in layers.items()}


def _ous(layer: Layer, setting: Setting, grain: Grain) -> int:
    """OUs that a layer's plan has: ``grain.ous`` of each row group's donors."""
    patterns = prune(setting[0], layer, grain)
    reused = reuse(setting[1], layer, patterns, grain)
    group = effective_shape(patterns, reused)[reused.is_donor]
    return sum(grain.ous(int(donors)) for donors in np.bincount(group))
