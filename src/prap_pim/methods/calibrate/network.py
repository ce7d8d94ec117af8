"""A whole network: one budget shared out by what each layer's error does, and layer after layer compressed in order."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log2

import numpy as np
import torch

from prap_pim.common.cluster import Tasks, here
from prap_pim.common.errors import UserError
from prap_pim.common.progress import Progress, quiet
from prap_pim.common.settings import nearest
from prap_pim.frontend import Captured, classes_of, judged_outputs, on_copies, padding_mask
from prap_pim.frontend.quantize import rounding
from prap_pim.frontend.weights import put_own_weights, sharing_weights
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.plan import INT8, LayerWeights
from prap_pim.mapping.steps import dense_crossbars, dense_steps
from prap_pim.methods.calibrate.allocate import Offer, allocate, filled
from prap_pim.methods.calibrate.config import Budgeted, fitting
from prap_pim.methods.calibrate.depthwise import Depthwise
from prap_pim.methods.calibrate.layer import Setting, block_count
from prap_pim.methods.calibrate.lowbit import few_weights, keeps_all, low_bit
from prap_pim.methods.calibrate.prices import Charges, Prices, Steps
from prap_pim.methods.calibrate.problem import LayerInputs, Parts, mean_taken_back, shares_nothing
from prap_pim.methods.calibrate.survey import (
    Survey,
    Surveyor,
    between,
    further_uses,
    least_settings,
    least_steps,
    most_steps,
    reducible,
    weighed,
)
from prap_pim.methods.prune import dense_weights
from prap_pim.methods.rebuild import Decision, Reading, Rebuilt, later_calls, left_whole, rebuilt
from prap_pim.methods.request import CalibrationInputs, Request

_ROWS = 32768  # positions, at most, on which a layer's donors are chosen
_SLACK = 0.01  # of the budget: more must not be left over for want of an offer
_PRICINGS = 3  # allocations, each with the price of a use that the one before has found
_TRIES = 3  # compressions, each with a budget corrected by what the one before has taken
_CORRECTIONS = 30  # until they change what is chosen
_USED = 0.97  # of a budget: with more, no other try is made
_MOST_PRICE = 0.5  # of a use, in shares of what a pattern holds on the average
_FEWEST_POSITIONS = 4  # of a kernel, that a filter may keep
_FLOOR_LAYERS = 3  # that are named where the least is too much
_TINY = 1e-9


@dataclass(frozen=True)
class Allocated:
    """What the budget gave one layer.

    Attributes:
        name: the layer.
        sensitivity: divergence of the network's outputs (nats of classes, relative squared error of values) when this
            layer alone keeps an eighth of its patterns, or as few weights as it may; None for one that is left dense.
        setting: donors and shapes; None for a layer that keeps all.
        changed: whether its weights are others than they were: it has fewer donors, or it keeps all its patterns and
            makes good with them what earlier layers have changed.
        error: relative output error of the layer as compressed; 0 for one that is as it was.
    """

    name: str
    sensitivity: float | None
    setting: Setting | None
    changed: bool
    error: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """A compressed network.

    Attributes:
        plans: by layer name, in the order of the network, of those that are changed. Their scale is that of the weights
            alone, their bias what takes back the mean of the layer's error (0 where a batch norm follows, whose mean
            moves).
        layers: what the budget gave each, in the same order.
        drop: share of the calibration inputs that the finished network (batch norm moved, activations int8) classifies
            otherwise than the network itself, as it was; None where no output has classes.
        held_back: layers that ``balance`` alone kept from a better offer.
        rebuilt: the network with these plans; None of one that was read back.
        share: what it takes of what the budget limits, of the dense network's; None where every layer keeps all for the
            sake of ``max_drop``.
    """

    plans: Mapping[str, LayerWeights]
    layers: tuple[Allocated, ...]
    drop: float | None
    held_back: tuple[str, ...]
    rebuilt: Rebuilt | None
    share: float | None = None


@torch.no_grad()
def calibrate(
    captured: Captured,
    given: CalibrationInputs,
    request: Request,
    whole: Collection[str] = (),
    progress: Progress = quiet,
    tasks: Tasks = here,
) -> Calibration:
    """Compress a network to a budget by calibrated reuse.

    Args:
        captured: the network; it is not changed.
        given: calibration inputs; what a layer's error does to the outputs is measured on the first 64 or so.
        request: a method of calibrated reuse; the chip whose OU steps are counted; the seed of which positions are
            looked at where there are more than needed: the same seed gives the same plans.
        whole: names of layers that stay as they are; their OU steps count towards the budget.
        progress: called after every layer.
        tasks: where the work on layers is done that do not depend on one another.

    Raises:
        UserError: an input is not finite, or the budget is less than the least that layers can take; or ``max_drop`` is
            asked of a network whose outputs have no classes.
    """
    names = [layer.name for layer in captured.network.layers]
    for name in whole:
        if name not in names:
            raise UserError(f"there is no layer {name!r} to leave whole ({nearest(name, names)})")
    job = _Job(captured, given, request, frozenset(whole), progress, tasks)
    config = job.config
    check_budget(captured.network, config, request.chip, whole)
    job.look()
    if config.max_drop is not None and job.survey.classes is None:
        raise UserError(
            f"max_drop compares classes, and the outputs of {captured.network.name} have none: "
            "give a compute_ratio instead"
        )
    if config.max_drop is not None:
        return job.to_drop(config.max_drop)
    return job.to_share(1.0 if config.share is None else config.share[1])


def prices_of(network: Network, config: Budgeted, chip: Chip) -> Prices:
    """What layers take of what the settings limit."""
    quantity = "compute" if config.share is None else config.share[0]
    return Steps(network, chip, config) if quantity == "compute" else Charges(network, chip, quantity)


def least_ratio(network: Network, config: Budgeted, grain: Grain, whole: Collection[str]) -> float:
    """The least compute ratio: as few patterns as may be in every layer but those that are left ``whole``."""
    dense = {layer.name: dense_steps(layer, grain) for layer in network.layers}
    least = (dense[x.name] if x.name in whole else least_steps(x, config, grain) for x in network.layers)
    return sum(least) / sum(dense.values())


def _least(
    network: Network, config: Budgeted, grain: Grain, prices: Prices, whole: Collection[str]
) -> dict[str, float]:
    """What each layer takes at least."""
    dense = prices.dense
    return {
        x.name: dense[x.name]
        if x.name in whole or not reducible(x, config, grain)
        else min(dense[x.name], *(prices.of(x, setting) for setting in least_settings(x, config, grain)))
        for x in network.layers
    }


def check_budget(network: Network, config: Budgeted, chip: Chip, whole: Collection[str]) -> None:
    """
    Raises:
        UserError: the budget is less than the least that the layers can take; names those that take most of it. Or
            the chip's weights have too few bits.
    """
    config, stored = fitting(config, chip.grain), chip.grain.stored_bits
    if wide := [str(each) for each in config.bits if each > stored]:
        fits = ", ".join(str(each) for each in config.bits if each <= stored) or f"{stored}"
        raise UserError(
            f"{config.title}: chip {chip.name} has weights of {stored} bits, not {', '.join(wide)}: bits=[{fits}]"
        )
    if config.share is None:
        return
    quantity, share = config.share
    prices = prices_of(network, config, chip)
    dense = prices.total(prices.dense.values())

    def floor(of: Budgeted) -> tuple[dict[str, float], float]:
        each = _least(network, of, chip.grain, prices, whole)
        return each, float(np.ceil(prices.total(each.values()) / dense * 1e4) / 1e4)

    each, least = floor(config)
    if share >= prices.total(each.values()) / dense:
        return
    shares = sorted(each.items(), key=lambda each: -each[1])[:_FLOOR_LAYERS]
    most = ", ".join(f"{name} {taken / dense:.4f}" for name, taken in shares)
    further = ""
    if not config.own and _FEWEST_POSITIONS not in config.shapes:
        pruned = config.model_copy(update={"shapes": (*config.shapes, _FEWEST_POSITIONS)})
        if (lower := floor(pruned)[1]) < least:
            further = f"; with shapes={list(pruned.shapes)} it is {lower:.4f}"
    asked = "a compute ratio" if quantity == "compute" else f"a budget of {quantity}"
    raise UserError(
        f"{asked} of {share:g} is not possible here: with as few "
        f"{'bits' if config.own else 'patterns'} as may be"
        f"{' in the layers that are compressed' if whole else ''} it is {least:.4f}, "
        f"most of it in {most}{further}"
    )


def _nearer(limit: float, taken: float, best: float) -> bool:
    """Whether so much is a better use of a budget than the best so far: within it, and more of it."""
    return taken < best if best > limit else best < taken <= limit


class _Job:
    """One call of ``calibrate``."""

    def __init__(
        self,
        captured: Captured,
        given: CalibrationInputs,
        request: Request,
        untouched: frozenset[str],
        progress: Progress,
        tasks: Tasks,
    ) -> None:
        assert isinstance(request.method.reuse, Budgeted)
        self.captured, self.batches, self.judges = captured, given.batches, given.judges
        self.chip, self.grain = request.chip, request.chip.grain
        self.config = fitting(request.method.reuse, self.grain)
        self.seed, self.quantize = request.seed, request.quantize
        self.phase = self._name = request.method.name
        self.untouched, self.progress, self.tasks = untouched, progress, tasks
        self.layers = {layer.name: layer for layer in captured.network.layers}
        free = (layer.name for layer in captured.network.layers if reducible(layer, self.config, self.grain))
        self.free = frozenset(free) - untouched
        self.prices = prices_of(captured.network, self.config, self.chip)

    def look(self) -> None:
        """Survey the original network."""
        self.later = later_calls(self.captured, self.batches)
        self.masks = [padding_mask(batch) for batch in self.batches]
        surveyor = Surveyor(
            self.captured,
            self.batches,
            self.judges,
            self.config,
            self.quantize,
            self.grain,
            self.seed,
            self.free,
            self.later,
            self.masks,
            self.tasks,
        )
        self.survey: Survey = surveyor.survey(self.progress, self.phase)
        self.nats = self.survey.nats

    def to_share(self, share: float) -> Calibration:
        """The best that is found within this share of what the dense network takes.

        What the offers take of energy or time is known of the finished plans alone. Where these take more than they
        may, or much less, the budget is shared out anew, larger or smaller by as much.
        """
        target, best, limit = share, None, share * (1 + _TINY)
        allocated = self._allocated(target)
        for _ in range(_TRIES):
            found = self.compress(*allocated)
            found = replace(found, share=self.prices.taken(found.plans))
            taken = found.share or 0.0
            if best is None or _nearer(limit, taken, best.share or 0.0):
                best = found
            if isinstance(self.prices, Steps) or _USED * share <= taken <= limit:
                break
            before = allocated[0]
            for _ in range(_CORRECTIONS if taken > limit else 1):
                target *= share / max(taken, _TINY)
                allocated = self._allocated(target)
                if allocated[0] != before:
                    break
            else:
                break  # there is nothing between
        assert best is not None
        return best

    def _allocated(self, share: float) -> tuple[dict[str, Setting], float, tuple[str, ...]]:
        """Share the budget out: settings, what a unit of it is worth, in nats, and whom ``balance`` held back."""
        if not self.prices.together:
            return self._each_within(share * max(self.prices.dense.values()))

        def priced(offers: Mapping[str, list[Offer]]) -> dict[str, list[Offer]]:
            return weighed(offers, self.nats, partial(self._further_uses, rate))

        every, rate = self._costed(self.survey.offers), 0.0
        dense, in_steps = self.prices.dense, isinstance(self.prices, Steps)
        budget = share * sum(dense.values()) * (1 + _TINY)
        budget = (int(budget) if in_steps else budget) - sum(dense[n] for n in dense if n not in self.free)
        if not in_steps:  # a corrected one may be below the least
            budget = max(budget, sum(min(o.cost for o in offers) for offers in every.values()))
        for _ in range(1 if self.config.uses == 1 or not in_steps else _PRICINGS):
            chosen, rate = allocate(priced(self._quick_enough(every, share)), budget)  # prices follow from the rate
        left = budget - sum(offer.cost for offer in chosen.values())
        if left > _SLACK * budget:  # the ladder's rungs are too far apart
            every = self._costed(self._finer())
            chosen = filled(chosen, priced(self._quick_enough(every, share)), left)
        held_back: tuple[str, ...] = ()
        if self.config.balance:
            freely, _ = allocate(priced(every), budget)
            held_back = tuple(name for name, offer in chosen.items() if offer.cost < freely[name].cost)
        return {name: offer.setting for name, offer in chosen.items()}, rate, held_back

    def _each_within(self, limit: float) -> tuple[dict[str, Setting], float, tuple[str, ...]]:
        """Of every layer the best that takes at most ``limit``, or the least where nothing does."""
        chosen = {}
        for name, offers in self._costed(self._finer()).items():
            quick = [offer for offer in offers if offer.cost <= limit * (1 + _TINY)]
            least = min(offers, key=lambda offer: offer.cost)
            chosen[name] = min(quick, key=lambda offer: (offer.loss, offer.cost), default=least).setting
        return chosen, 0.0, ()

    def _costed(self, offers: Mapping[str, list[Offer]]) -> dict[str, list[Offer]]:
        """With what they take of the budget."""
        return {n: [replace(o, cost=self.prices.of(self.layers[n], o.setting)) for o in x] for n, x in offers.items()}

    def _finer(self) -> dict[str, list[Offer]]:
        """All offers, with every number of whole OUs between them."""
        return {n: [*x, *between(self.layers[n], x, self.grain)] for n, x in self.survey.offers.items()}

    def _further_uses(self, rate: float, name: str, setting: Setting) -> float:
        """What a setting's further uses cost, in nats, where an OU step is worth ``rate``: nothing where the budget
        pays for them.
        """
        if not isinstance(self.prices, Steps):
            return 0.0
        return self.config.update_weight * rate * further_uses(self.layers[name], setting, self.grain)

    def _quick_enough(self, every: Mapping[str, list[Offer]], ratio: float) -> Mapping[str, list[Offer]]:
        """The offers with which no layer takes longer than ``ratio`` times the slowest layer of the dense network, each
        layer on the crossbars that its dense plan takes; of a layer that has none, the quickest. All without balance.
        """
        if not self.config.balance:
            return every
        crossbars = {name: dense_crossbars(layer, self.chip) for name, layer in self.layers.items()}
        slowest = max(dense_steps(layer, self.grain) / crossbars[name] for name, layer in self.layers.items())
        found = {}
        for name, offers in every.items():
            taken = [most_steps(self.layers[name], offer.setting, self.grain) for offer in offers]
            quick = [o for o, steps in zip(offers, taken, strict=True) if steps / crossbars[name] <= ratio * slowest]
            found[name] = quick or [offers[int(np.argmin(taken))]]
        return found

    def to_drop(self, drop: float) -> Calibration:
        """The least compute ratio, by quarters of an octave, that changes at most this share of the classifications.

        Where even the largest ratio below 1 changes more, all layers keep all their patterns.
        """
        best = None
        low, high = 0, int(4 * log2(1 / least_ratio(self.captured.network, self.config, self.grain, self.untouched)))
        while low < high:  # ratio 2**(-low / 4) is good enough, as far as is known; one below 2**(-high / 4) is not
            middle = (low + high + 1) // 2
            self.phase = f"{self._name}: ratio {2 ** (-middle / 4):.3f}"
            found = self.to_share(2 ** (-middle / 4))
            if found.drop is not None and found.drop <= drop:
                low, best = middle, found
            else:
                high = middle - 1
        return best or self.compress({}, 0.0, ())

    def compress(self, settings: Mapping[str, Setting], rate: float, held_back: tuple[str, ...]) -> Calibration:
        """Layer after layer, each on what the compressed layers before it pass on.

        Args:
            settings: of the layers that do not keep all their patterns.
            rate: what a unit of the budget is worth, in nats.
            held_back: see ``Calibration``.
        """
        found: dict[str, Allocated] = {}

        def decide(readings: Sequence[Reading]) -> Iterator[Decision]:
            work = [self._work(reading, settings.get(reading.layer.name), rate) for reading in readings]
            done = self.tasks(compressed, work)
            for each, (plan, error) in zip(work, done, strict=True):
                name = each.given.layer.name
                sensitivity = self.survey.sensitivity.get(name)
                found[name] = Allocated(name, sensitivity, each.setting, plan is not None, error)
                note = f"{name}, error {error:.2%}"
                self.progress(f"{self.phase}: layers", len(found), len(self.layers), note)
                yield Decision(plan, each.given.grid)

        network = rebuilt(self.captured, self.batches, decide)
        layers = tuple(found[name] for name in self.layers)
        return Calibration(network.plans, layers, self._drop(network), held_back, network)

    def _work(self, reading: Reading, setting: Setting | None, rate: float) -> "Work":
        """What is to be done to a layer."""
        layer, then = reading.layer, reading.then
        if setting is not None and setting.bits == INT8 and keeps_all(layer, setting):
            setting = None
        changes = setting is not None or (then is not None and layer.name not in self.untouched)
        later, weight = self.later.get(layer.name, []), self.survey.weights.get(layer.name)
        given = LayerInputs.of(layer, reading.now, then, later, self.quantize, self.masks, weight)
        price = 0.0
        if setting is not None and not keeps_all(layer, setting) and not shares_nothing(layer):
            uses = layer.filters * block_count(next(layer.by_group()), setting.positions, self.grain)
            worth = rate * self.prices.of_use(layer, setting)  # of one use, in nats
            price = min(worth / self.nats[layer.name], _MOST_PRICE / uses)  # no layer goes dark
        takes_bias = layer.name not in self.captured.folded and self.captured.origins[layer.name].takes_bias
        seed = self.seed, list(self.layers).index(layer.name)
        return Work(given, changes, setting, price, takes_bias, seed, self.config, self.grain)

    def _drop(self, network: Rebuilt) -> float | None:
        """See ``Calibration``."""
        if self.survey.classes is None:
            return None
        module = sharing_weights(network.module)
        for name, layer in self.layers.items():
            if name not in network.plans:
                put_own_weights(module, name, left_whole(layer, self.grain, network.means[name]))
            module.get_submodule(name).register_forward_pre_hook(rounding(network.grids[name]))
        outcome = (on_copies(module, batch) for batch in self.batches)
        found = classes_of(self.judges, (judged_outputs(each, self.captured.network.name) for each in outcome))
        assert found is not None
        return float((found != self.survey.classes).double().mean())


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be done to one layer, by itself: a task.

    Attributes:
        given: what drives it.
        changes: whether its weights change at all.
        setting: None: all patterns are kept.
        price: what a use must save, in shares of the layer's energy.
        takes_bias: whether the mean of its error can be taken back.
        seed: of which im2col rows are looked at.
        config, grain: as for ``calibrate``.
    """

    given: LayerInputs
    changes: bool
    setting: Setting | None
    price: float
    takes_bias: bool
    seed: tuple[int, int]
    config: Budgeted
    grain: Grain


def compressed(work: Work) -> tuple[LayerWeights | None, float]:
    """A layer's plan, None of one that does not change, and its error."""
    if not work.changes:
        return None, 0.0
    layer, setting = work.given.layer, work.setting
    how = (_ROWS, work.seed, work.config.mimic, work.config.damping)
    problem: Depthwise | Parts = work.given.depthwise(*how) if shares_nothing(layer) else work.given.parts(*how)
    if setting is None:
        plan = _whole(layer, problem, work.grain)
    elif keeps_all(layer, setting):
        plan = low_bit(problem, setting.bits, work.grain)
    elif isinstance(problem, Depthwise):
        plan = few_weights(problem, setting.positions or 0, work.grain)
    else:
        priced = problem.priced(work.price * problem.energy)
        plan = priced.approximated(setting, work.grain, work.config.passes)
    if work.takes_bias:
        plan = mean_taken_back(plan, problem)
    return plan, problem.error(plan.real_weights())


def _whole(layer: Layer, problem: Depthwise | Parts, grain: Grain) -> LayerWeights:
    """All patterns: with weights that make good what earlier layers have changed, or its own if they do better."""
    wanted = problem.target.reshape(layer.weight.shape).astype(np.float32)
    plans = dense_weights(layer, grain), dense_weights(replace(layer, weight=wanted), grain)
    return min(plans, key=lambda plan: problem.error(plan.real_weights()))
