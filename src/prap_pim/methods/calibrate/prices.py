"""What layers take of a budget: OU steps, or energy or time by the chip's own cost model.

A setting is costed as a plan of the most that it may take goes through mapping and cost: all its donors in every row
group, all uses, each with an exponent, dealt evenly to the donors. Between numbers of donors that are costed so, cost
is taken as linear.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.cost import LayerActivity, activities, activity, layer_time
from prap_pim.cost.price import energy, total
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import load_table
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.ir.plan import LayerWeights, NetworkPlan
from prap_pim.mapping import map_layer, map_network
from prap_pim.mapping.steps import dense_steps, ou_steps, ous
from prap_pim.methods.calibrate.config import Budgeted, Quantity
from prap_pim.methods.calibrate.depthwise import kept_plan
from prap_pim.methods.calibrate.layer import Setting, blocks, donors_together, every_pattern, most_shapes
from prap_pim.methods.calibrate.lowbit import keeps_all
from prap_pim.methods.calibrate.problem import shares_nothing
from prap_pim.methods.calibrate.survey import most_steps
from prap_pim.methods.prune import NoPruning, dense_weights, prune

Int64 = NDArray[np.int64]

_IN_FIT = 0.1  # of a use's cost, that it must be worth in a layer's fit: at all of it uses go that others built on
_APART = 4  # numbers of donors that are costed are at most this factor from one another


class Prices(ABC):
    """What layers take of one quantity, for one inference, in one unit.

    Attributes:
        dense: of every layer with all its patterns, by name.
        together: whether layers share the budget; else each of them may take all of it.
    """

    dense: Mapping[str, float]
    together = True

    @abstractmethod
    def of(self, layer: Layer, setting: Setting) -> float:
        """At most, with a setting."""

    @abstractmethod
    def of_use(self, layer: Layer, setting: Setting) -> float:
        """What one use of a row group counts in a layer's fit."""

    @abstractmethod
    def by_layer(self, plans: Mapping[str, LayerWeights]) -> dict[str, float]:
        """What plans take; layers that have none keep all their patterns."""

    def total(self, layers: Iterable[float]) -> float:
        """Of all layers."""
        return sum(layers) if self.together else max(layers)

    def taken(self, plans: Mapping[str, LayerWeights]) -> float:
        """The whole network, as a share of the dense one."""
        return self.total(self.by_layer(plans).values()) / self.total(self.dense.values())


class Steps(Prices):
    """OU steps; a use counts as many of them as the settings say."""

    def __init__(self, network: Network, chip: Chip, config: Budgeted) -> None:
        self.grain, self.update_weight = chip.grain, config.update_weight
        self.layers = {layer.name: layer for layer in network.layers}
        self.dense = {name: dense_steps(layer, self.grain) for name, layer in self.layers.items()}

    def of(self, layer: Layer, setting: Setting) -> float:
        return most_steps(layer, setting, self.grain)

    def of_use(self, layer: Layer, setting: Setting) -> float:
        return self.update_weight * layer.positions

    def by_layer(self, plans: Mapping[str, LayerWeights]) -> dict[str, float]:
        own = {name: ou_steps(self.layers[name], ous(plan, self.grain), self.grain) for name, plan in plans.items()}
        return {**self.dense, **own}


class Charges(Prices):
    """Joules of all layers, seconds of all layers one after another, or seconds of the slowest layer of a pipeline: of
    the network with each layer built once, on the crossbars of its dense plan.

    The unit is what the dense network takes for an OU step.

    Raises:
        UserError: the chip is too small, or charges nothing.
    """

    def __init__(self, network: Network, chip: Chip, quantity: Quantity) -> None:
        self.chip, self.quantity, self.together = chip, quantity, quantity != "interval"
        self.table, self.network = load_table(chip.components), network
        self._plans = {layer.name: dense_weights(layer, chip.grain) for layer in network.layers}
        found = self._placed({})
        charged = sum(map(self._charge, found.values()))
        if charged <= 0:
            raise UserError(f"chip {chip.name}: {network.name} takes no {quantity}, so there is no budget of it")
        self.unit = charged / sum(dense_steps(layer, chip.grain) for layer in network.layers)
        self.dense = {name: self._charge(counts) / self.unit for name, counts in found.items()}
        phases = (layer_time(counts, chip, self.table).serial_phases_s["digital"] for counts in found.values())
        self._digital = {name: seconds / self.unit for name, seconds in zip(found, phases, strict=True)}
        self._cores: dict[Any, tuple[float, int]] = {}

    def of(self, layer: Layer, setting: Setting) -> float:
        dense = every_pattern(layer, self.chip.grain)
        if setting == dense:
            return self.dense[layer.name]
        return self._in_place(layer, self._of_core(layer, setting), self._core(layer, dense)[0])

    def of_use(self, layer: Layer, setting: Setting) -> float:
        half = replace(setting, donors=min(setting.donors, max(1, layer.filters // layer.groups // 2)))
        (every, uses), (some, left) = self._core(layer, half), self._core(layer, half, fewer=True)
        return _IN_FIT * max(0.0, every - some) / max(1, uses - left)

    def by_layer(self, plans: Mapping[str, LayerWeights]) -> dict[str, float]:
        return {name: self._charge(counts) / self.unit for name, counts in self._placed(plans).items()}

    def _placed(self, plans: Mapping[str, LayerWeights]) -> dict[str, LayerActivity]:
        """The counts of every layer in its place."""
        every = {name: plan.alone() for name, plan in (self._plans | dict(plans)).items()}
        mapping = map_network(self.network, NetworkPlan("", every, dict.fromkeys(every, 1.0)), self.chip)
        return activities(self.network, mapping, self.chip)

    def _charge(self, counts: LayerActivity) -> float:
        """Joules or seconds."""
        if self.quantity == "energy":
            return total(energy(counts, self.chip, self.table))
        time = layer_time(counts, self.chip, self.table)
        return time.serial_s if self.quantity == "latency" else time.busy_s

    def _in_place(self, layer: Layer, core: float, dense: float) -> float:
        """With the activations that move and the digital operations, which do not depend on the setting."""
        if self.together:
            return self.dense[layer.name] + core - dense
        return max(core, self._digital[layer.name])

    def _of_core(self, layer: Layer, setting: Setting) -> float:
        """A layer by itself."""
        if keeps_all(layer, setting) or shares_nothing(layer):
            return self._core(layer, setting)[0]
        most = layer.filters // layer.groups
        apart = {max(1, most // _APART**i) for i in range(1 + most.bit_length() // 2)}
        rungs = sorted(apart.union(range(1, min(setting.uses, most) + 1)))  # as many uses as donors, if those are few
        i = bisect_left(rungs, setting.donors)
        around = rungs[max(0, i - 1) : i + 1]
        found = [self._core(layer, replace(setting, donors=donors))[0] for donors in around]
        return float(np.interp(setting.donors, around, found))

    def _core(self, layer: Layer, setting: Setting, fewer: bool = False) -> tuple[float, int]:
        """Of an example, and its uses."""
        shape = layer.rows, layer.filters, layer.groups, layer.positions, layer.weight.shape[1:]
        key = shape, setting, fewer
        if key not in self._cores:
            plan = example(layer, setting, self.chip.grain, fewer).alone()
            counts = activity(map_layer(plan, self.chip), layer, self.chip)
            self._cores[key] = self._charge(counts) / self.unit, plan.uses
        return self._cores[key]


def example(layer: Layer, setting: Setting, grain: Grain, fewer: bool = False) -> LayerWeights:
    """A plan that takes as much as one of this setting may.

    Args:
        layer: for its sizes.
        setting: what is stored.
        grain: of the chip.
        fewer: every other filter without its last use, of layers whose filters share donors.
    """
    if keeps_all(layer, setting):
        patterns = prune(NoPruning(), layer, grain.of_bits(setting.bits))
        ones = np.ones((layer.filters, layer.fan_in), np.float32)
        return plan_weights(layer.name, ones, patterns, ReuseMap.none(patterns), np.ones(layer.filters), setting.bits)
    if shares_nothing(layer):
        size = layer.filters, layer.fan_in
        kept = np.broadcast_to(np.arange(layer.fan_in) < (setting.positions or layer.fan_in), size)
        return kept_plan(layer, np.ones(size), kept, np.ones(layer.filters), grain)
    part = next(layer.by_group())
    shapes = 1 if setting.positions is None else min(part.filters, most_shapes(setting, grain))
    rows = []  # of a row group each
    for block in blocks(part, setting.positions, grain):
        for shape in range(shapes):
            rows.append(np.full(grain.ou_rows, -1))
            inputs = np.arange(block.start, block.stop)
            if setting.positions is not None:
                place = (inputs + shape) % part.kernel_positions
                inputs = inputs[place < setting.positions]
            rows[-1][: len(inputs)] = inputs
    together = donors_together(grain.of_bits(setting.bits))
    dealt = [_dealt(part.filters, shapes, shape, setting, together, fewer) for shape in range(shapes)]
    each = dealt * (len(rows) // shapes)
    count = np.array([1 + int(taken.max()) for _, taken in each])
    start = np.cumsum([0, *count])
    takes = [taken + first for (_, taken), first in zip(each, start, strict=False)]
    uses = sum(map(len, takes))
    stored = np.repeat(np.array(rows), count, axis=0)
    plan = LayerWeights(
        name=layer.name,
        inputs=part.rows,
        rows=np.array(rows, np.int32),
        donors=(stored >= 0).astype(np.int8),
        donor_start=start.astype(np.int64),
        use_start=np.cumsum([0, *map(len, takes)]).astype(np.int64),
        use_filter=np.concatenate([filters for filters, _ in each]).astype(np.int32),
        use_donor=np.concatenate(takes).astype(np.int32),
        use_sign=np.ones(uses, np.int8),
        use_exponent=np.full(uses, -1, np.int8),
        step=np.ones(part.filters, np.float32),
        bias=np.zeros(part.filters, np.float32),
        weight_bits=setting.bits,
    )
    return LayerWeights.of_groups(layer.name, [plan] * layer.groups)


def _dealt(filters: int, shapes: int, shape: int, setting: Setting, together: int, fewer: bool) -> tuple[Int64, Int64]:
    """Which filter takes which donor of a row group, in their order: int64 [U] and [U].

    Filters come in a random order; the donors that one takes are neighbours. One filter at least takes a use fewer
    than the others where they take several: so the index cannot count them.
    """
    own = np.arange(shape, filters, shapes)
    donors = min(len(own), together * -(-setting.donors // (shapes * together)) if shapes > 1 else setting.donors)
    uses = min(setting.uses, donors)
    order = np.random.default_rng(0).permutation(len(own))
    taken = (order[:, None] * donors // len(own) + np.arange(uses)) % donors  # [filter, use]
    short = order % 2 == 1 if fewer else (order == 0) & (uses > 1)
    kept = np.ones(taken.shape, np.bool_)
    kept[short, -1] = False
    filter_, use = np.nonzero(kept)
    donor = np.unique(taken[filter_, use], return_inverse=True)[1]  # none is idle
    in_order = np.lexsort((donor, filter_))
    return own[filter_[in_order]], donor[in_order]
