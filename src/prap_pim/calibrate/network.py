"""A whole network: what each layer's error does, one budget shared out, and layer after layer compressed in order."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import ceil, log2

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from prap_pim.calibrate.allocate import Offer, allocate, filled
from prap_pim.calibrate.config import CalibratedReuse
from prap_pim.calibrate.hessian import Metric, Moments, positions_of, rows_at
from prap_pim.calibrate.layer import (
    Problem,
    Setting,
    approximate,
    blocks,
    donors_together,
    expected,
    most_ous,
    shapes_fit,
)
from prap_pim.calibrate.walk import Value, Walk
from prap_pim.capture import Captured, Inputs, cut
from prap_pim.chip import Chip
from prap_pim.errors import UserError
from prap_pim.grain import Grain
from prap_pim.network import Call, Layer, Network
from prap_pim.plan import LayerPlan
from prap_pim.prune import dense_plan
from prap_pim.quantize import input_steps, quantize_input
from prap_pim.settings import nearest
from prap_pim.training import Progress, quiet
from prap_pim.weights import put_own_weights, put_weights, sharing_weights

Float64 = NDArray[np.float64]

_BATCH = 64  # inputs at a time; the first so many tell what a layer's error does to the outputs
_SURVEY_ROWS = 2048  # im2col rows, at most, of which a layer's first covariance is made
_ROWS = 32768  # im2col rows, at most, on which a layer's donors are chosen
_ROWS_AT_ONCE = 1 << 26  # numbers laid out as im2col rows
_LADDER = 2**0.5  # from one number of donors that is offered to the next
_SAMPLE = 12  # blocks of a layer that are looked at to tell what an offer would give
_SLACK = 0.01  # of the budget: more must not be left over for want of an offer
_PROBE = 8  # one in so many patterns is kept where a layer's sensitivity is measured
_KERNEL = 9
_LEAST_SHARE = 0.01  # of the median layer's sensitivity
_LEAST_DIVERGENCE = 1e-6  # nats
_FEW_ROWS = 0.1  # damping, at least, of a layer that has as many inputs as the calibration gives im2col rows
_MOST_PRICE = 0.05  # of a use, in shares of what a pattern holds on the average
_TINY = 1e-9
_LEAST_WEIGHT = 1e-6  # of a filter's error, relative to the greatest


@dataclass(frozen=True)
class Allocated:
    """What the budget gave one layer.

    Attributes:
        name: the layer.
        sensitivity: divergence of the network's outputs in nats when this layer alone keeps an eighth of its patterns;
            None for one that is left whole.
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
        plans: by layer name, in the order of the network. Their scale is that of the weights alone, their bias what
            takes back the mean of the layer's error (0 where a batch norm follows, whose mean is measured anew).
        layers: what the budget gave each, in the same order.
        drop: share of the calibration inputs that the finished network (batch norm measured anew, activations int8)
            classifies otherwise than the network itself, as it was; None where it gives one value for each input, so
            that there are no classes to tell apart.
    """

    plans: Mapping[str, LayerPlan]
    layers: tuple[Allocated, ...]
    drop: float | None


@torch.no_grad()
def calibrate(
    captured: Captured,
    inputs: Tensor | Sequence[Inputs],
    config: CalibratedReuse,
    chip: Chip,
    seed: int,
    *,
    whole: Collection[str] = (),
    norms_anew: bool = False,
    phase: str = "calibration",
    progress: Progress = quiet,
) -> Calibration:
    """Compress a network to a budget by calibrated reuse.

    Args:
        captured: the network; it is not changed.
        inputs: calibration inputs [N, ...], or batches of them as the model takes them; no labels are needed. What a
            layer's error does to the outputs is measured on the first batch.
        config: budget and settings.
        chip: whose OU steps are counted.
        seed: of which im2col rows are looked at where there are more than needed. The same seed gives the same plans.
        whole: names of layers that stay as they are; their OU steps count towards the budget. Layers whose filters
            share no inputs, such as depthwise convolutions, keep all their patterns, too.
        norms_anew: whether the caller measures batch norm anew even if no layer is changed: ``drop`` counts that.
        phase: what progress is told that this is.
        progress: told after every layer.

    Raises:
        UserError: there are no inputs, one is not finite, or the budget is less than the least that layers can take; or
            ``max_drop`` is asked of a network that gives one value for each input.
    """
    batches = cut(inputs, _BATCH, captured.network.name)
    names = [layer.name for layer in captured.network.layers]
    for name in whole:
        if name not in names:
            raise UserError(f"there is no layer {name!r} to leave whole ({nearest(name, names)})")
    check_budget(captured.network, config, chip.grain, whole)
    job = _Job(captured, batches, config, chip, seed, whole, norms_anew, phase, progress)
    if config.max_drop is not None and job.own_classes is None:
        raise UserError(
            f"max_drop compares classes, and network {captured.network.name} gives one value for each input: "
            "give a compute_ratio instead"
        )
    job.survey()
    return job.to_ratio(config.compute_ratio) if config.compute_ratio is not None else job.to_drop(config.max_drop or 0)


def least_ratio(network: Network, config: CalibratedReuse, grain: Grain, whole: Collection[str]) -> float:
    """The least compute ratio: one OU for each block of rows of every layer but those that are left ``whole``."""
    dense = {layer.name: _dense_steps(layer, grain) for layer in network.layers}
    least = 0
    for layer in network.layers:
        if layer.name in whole or _shares_nothing(layer):
            least += dense[layer.name]
            continue
        each = grain.ous(1) * grain.input_steps * layer.positions * layer.groups
        part = next(layer.by_group())
        least += min(len(blocks(part, kept, grain)) * each for kept in _kept_positions(part, config, grain))
    return least / sum(dense.values())


def _shares_nothing(layer: Layer) -> bool:
    """Whether no two filters read the same inputs."""
    return layer.groups > 1 and layer.filters == layer.groups


def _kept_positions(layer: Layer, config: CalibratedReuse, grain: Grain) -> list[int | None]:
    """What the settings offer the filters of a layer; None: the whole kernel. Always something."""
    offered = [None if kept == _KERNEL else kept for kept in config.shapes]
    return [kept for kept in offered if kept is None or shapes_fit(layer, kept, grain)] or [None]


def check_budget(network: Network, config: CalibratedReuse, grain: Grain, whole: Collection[str]) -> None:
    """
    Raises:
        UserError: the budget is less than the least that the layers can take.
    """
    least = least_ratio(network, config, grain, whole)
    if config.compute_ratio is not None and config.compute_ratio < least:
        raise UserError(
            f"a compute ratio of {config.compute_ratio:g} is not possible here: with one OU for every row group"
            f"{' of the layers that are not left whole' if whole else ''} it is {ceil(least * 1e4) / 1e4:.4f}"
        )


def _dense_steps(layer: Layer, grain: Grain) -> int:
    """OU steps of one inference with every pattern."""
    return grain.dense_ous(layer.rows, layer.filters, layer.groups) * grain.input_steps * layer.positions


@dataclass(frozen=True, eq=False)
class _Part:
    """A convolution group of a layer, or all of it: what is to be approximated, and mean inputs now and originally."""

    layer: Layer
    problem: Problem
    mean: Float64
    original_mean: Float64


class _Job:
    """One call of ``calibrate``."""

    def __init__(
        self,
        captured: Captured,
        batches: Sequence[tuple[Tensor, ...]],
        config: CalibratedReuse,
        chip: Chip,
        seed: int,
        whole: Collection[str],
        norms_anew: bool,
        phase: str,
        progress: Progress,
    ) -> None:
        self.captured, self.batches, self.config, self.norms_anew = captured, batches, config, norms_anew
        self.grain, self.ous_per_crossbar = chip.grain, chip.ous_per_crossbar
        self.seed, self.phase, self.progress = seed, phase, progress
        self._name = phase
        self.layers = {layer.name: layer for layer in captured.network.layers}
        self.untouched = frozenset(whole)
        self.whole = self.untouched | {layer.name for layer in captured.network.layers if _shares_nothing(layer)}
        self.later: dict[str, list[Tensor]] = {}  # of layers that are called again: what they read then, originally
        self.sensitivity: dict[str, float] = {}
        self.offers: dict[str, list[Offer]] = {}
        self.other: dict[str, float] = {}  # as ``sensitivity``, in relative squared error of the outputs
        self.at_probe: dict[str, float] = {}  # a layer's expected relative error where its sensitivity was measured

    def survey(self) -> None:
        """Measure what each layer's error does to the outputs, and what each offer's error would be."""
        self._see_later_calls()
        walk = Walk(self.captured.module, self.batches, remember=False)
        reference: Value = None
        for node in walk.nodes():
            layer = self.layers.get(str(node.target)) if node.op == "call_module" else None
            if layer is not None and layer.name not in self.whole and layer.name not in self.offers:
                if reference is None:  # the first layer: nothing has been changed yet
                    module = self.captured.module.get_submodule(layer.name)
                    reference = walk.first_batch_from(node, module(walk.inputs(node)[0]))
                self._survey(layer, walk, node, reference)
                self.progress(f"{self.phase}: sensitivity", len(self.offers), self._free, layer.name)
            walk.run(node)

    def _see_later_calls(self) -> None:
        """What layers that are called again read in their further calls."""
        again = {node.layer for node in self.captured.network if isinstance(node, Call)}
        seen: set[str] = set()
        walk = Walk(self.captured.module, self.batches, remember=False) if again else None
        for node in walk.nodes() if walk else ():
            if walk is not None and node.op == "call_module" and node.target in again:
                if node.target in seen:
                    self.later.setdefault(str(node.target), []).extend(walk.inputs(node))
                seen.add(str(node.target))
            if walk is not None:
                walk.run(node)

    @property
    def _free(self) -> int:
        return len(self.layers) - len(self.whole)

    def _survey(self, layer: Layer, walk: Walk, node: torch.fx.Node, reference: Value) -> None:
        parts = self._parts(layer, walk.inputs(node), None, _SURVEY_ROWS)[0]
        probe = Setting(self._full_ous(parts[0].layer.filters / _PROBE))
        plan = self._approximated(layer, parts, probe, 0)
        changed = copy.deepcopy(self.captured.module.get_submodule(layer.name))
        put_weights(changed, "", plan)
        outcome = walk.first_batch_from(node, changed(walk.inputs(node)[0]))
        self.sensitivity[layer.name], self.other[layer.name] = _divergence(reference, outcome, self.captured.network)
        self.at_probe[layer.name] = max(self._expected(parts, probe), _TINY)
        offers = [Offer(Setting(parts[0].layer.filters), _dense_steps(layer, self.grain), 0.0)]
        for setting in self._settings(parts[0].layer):
            offers.append(Offer(setting, self._steps(layer, setting), self._expected(parts, setting)))
        self.offers[layer.name] = offers

    def _steps(self, layer: Layer, setting: Setting) -> int:
        """OU steps of one inference, at most, that a setting takes."""
        ous = len(blocks(next(layer.by_group()), setting.positions, self.grain)) * most_ous(setting, self.grain)
        return ous * self.grain.input_steps * layer.positions * layer.groups

    def _approximated(self, layer: Layer, parts: Sequence[_Part], setting: Setting, passes: int) -> LayerPlan:
        plans = [approximate(part.layer, part.problem, setting, self.grain, passes) for part in parts]
        return plans[0] if layer.groups == 1 else LayerPlan.of_groups(layer.name, plans)

    def _expected(self, parts: Sequence[_Part], setting: Setting) -> float:
        """The relative error that a setting would leave, from some of the blocks."""
        sample = max(2, _SAMPLE // len(parts))
        error = energy = 0.0
        for part in parts[:: max(1, len(parts) // _SAMPLE)]:
            of_part = part.problem.energy
            error += of_part * expected(part.layer, part.problem, setting, self.grain, sample)
            energy += of_part
        return error / max(energy, float(np.finfo(np.float64).tiny))

    def _nats(self) -> dict[str, float]:
        """What the outputs diverge by for each unit of a layer's relative error.

        No layer counts less than a hundredth of the median one: a few inputs may fail to show what it does. Where the
        outputs are no classes, or all but equal ones, it is their squared error that counts.
        """
        shows = bool(self.sensitivity) and float(np.median(list(self.sensitivity.values()))) > _LEAST_DIVERGENCE
        measured = self.sensitivity if shows else self.other
        nats = {name: value / self.at_probe[name] for name, value in measured.items()}
        least = max(_TINY, _LEAST_SHARE * float(np.median(list(nats.values())))) if nats else 0.0
        return {name: max(value, least) for name, value in nats.items()}

    def _settings(self, layer: Layer) -> Iterator[Setting]:
        """What is offered beside all patterns: fewer and fewer donors, whole OUs of them, for each shape."""
        for kept in _kept_positions(layer, self.config, self.grain):
            counts, wanted = [layer.filters] if kept else [], layer.filters / _LADDER
            while wanted >= 1 / _LADDER:
                counts.append(self._full_ous(wanted))
                wanted /= _LADDER
            for count in dict.fromkeys(counts):
                if kept or count < layer.filters:
                    yield Setting(count, kept)

    def _full_ous(self, donors: float) -> int:
        """Donors, at least one, that fill whole OUs."""
        together = donors_together(self.grain)
        return max(1, round(donors / together)) * together

    def to_ratio(self, ratio: float) -> Calibration:
        """Share out so many of the dense OU steps, and compress."""
        dense = {name: _dense_steps(layer, self.grain) for name, layer in self.layers.items()}
        budget = int(ratio * sum(dense.values()) * (1 + _TINY)) - sum(dense[name] for name in self.whole)
        nats = self._nats()
        chosen, rate = allocate(_weighed(self._quick_enough(self.offers, ratio), nats), budget)
        left = budget - sum(offer.ou_steps for offer in chosen.values())
        if left > _SLACK * budget:  # the ladder's rungs are too far apart
            finer = {name: [*found, *self._between(name, found)] for name, found in self.offers.items()}
            chosen = filled(chosen, _weighed(self._quick_enough(finer, ratio), nats), left)
        return self.compress({name: offer.setting for name, offer in chosen.items()}, rate)

    def _between(self, name: str, offers: Sequence[Offer]) -> Iterator[Offer]:
        """Every number of whole OUs between those that were looked at; the loss taken as linear there, which is more
        than it is."""
        layer, together = self.layers[name], donors_together(self.grain)
        for kept in dict.fromkeys(offer.setting.positions for offer in offers):
            rungs = sorted((o for o in offers if o.setting.positions == kept), key=lambda offer: offer.setting.donors)
            for low, high in pairwise(rungs):
                for donors in range(low.setting.donors + together, high.setting.donors, together):
                    share = (donors - low.setting.donors) / (high.setting.donors - low.setting.donors)
                    setting = Setting(donors, kept)
                    steps = self._steps(layer, setting)
                    if steps < high.ou_steps:
                        yield Offer(setting, steps, low.loss + share * (high.loss - low.loss))

    def _quick_enough(self, every: dict[str, list[Offer]], ratio: float) -> dict[str, list[Offer]]:
        """The offers with which no layer takes longer than ``ratio`` times the slowest layer of the dense network, each
        layer on the crossbars that its dense plan takes; of a layer that has none, the quickest. All without balance.
        """
        if not self.config.balance:
            return every
        crossbars = {name: self._dense_crossbars(layer) for name, layer in self.layers.items()}
        slowest = max(_dense_steps(layer, self.grain) / crossbars[name] for name, layer in self.layers.items())
        found = {}
        for name, offers in every.items():
            quick = [offer for offer in offers if offer.ou_steps / crossbars[name] <= ratio * slowest]
            found[name] = quick or [min(offers, key=lambda offer: offer.ou_steps)]
        return found

    def _dense_crossbars(self, layer: Layer) -> int:
        return -(-self.grain.dense_ous(layer.rows, layer.filters, layer.groups) // self.ous_per_crossbar)

    def to_drop(self, drop: float) -> Calibration:
        """The least compute ratio, by quarters of an octave, that changes at most this share of the classifications.

        Where even the largest ratio below 1 changes more, all layers keep all their patterns.
        """
        best = None
        low, high = 0, int(4 * log2(1 / least_ratio(self.captured.network, self.config, self.grain, self.whole)))
        while low < high:  # ratio 2**(-low / 4) is good enough, as far as is known; one below 2**(-high / 4) is not
            middle = (low + high + 1) // 2
            self.phase = f"{self._name}: ratio {2 ** (-middle / 4):.3f}"
            found = self.to_ratio(2 ** (-middle / 4))
            if found.drop is not None and found.drop <= drop:
                low, best = middle, found
            else:
                high = middle - 1
        return best or self.compress({}, 0.0)

    def compress(self, settings: Mapping[str, Setting], rate: float) -> Calibration:
        """Layer after layer, each on what the compressed layers before it pass on.

        Args:
            settings: of the layers that do not keep all their patterns.
            rate: what an OU step is worth, in nats.
        """
        module = sharing_weights(self.captured.module)
        before = Walk(sharing_weights(self.captured.module), self.batches, remember=True)
        after = Walk(module, self.batches, remember=True)
        plans: dict[str, LayerPlan] = {}
        found: dict[str, Allocated] = {}
        steps: dict[str, float] = {}
        for original, node in zip(before.nodes(), after.nodes(), strict=True):
            layer = self.layers.get(str(node.target)) if node.op == "call_module" else None
            if layer is None:
                after.run(node)
            else:
                its_module = module.get_submodule(layer.name)
                if layer.name not in plans:
                    setting = settings.get(layer.name)
                    if setting is not None and setting == Setting(layer.filters // layer.groups):
                        setting = None
                    now, then = after.inputs(node), before.inputs(original)
                    earlier = any(each.changed for each in found.values())
                    changes = setting is not None or (earlier and layer.name not in self.untouched)
                    if changes:
                        plan, error, step = self._compressed(layer, now, then, setting, rate)
                    else:
                        plan, error, step = dense_plan(layer, self.grain), 0.0, self._step(layer, now)
                    plans[layer.name], steps[layer.name] = plan, step
                    sensitivity = self.sensitivity.get(layer.name)
                    found[layer.name] = Allocated(layer.name, sensitivity, setting, changes, error)
                    put_own_weights(module, layer.name, plan)
                    note = f"{layer.name}, error {error:.2%}"
                    self.progress(f"{self.phase}: layers", len(plans), len(self.layers), note)
                step = steps[layer.name]
                after.put(node, [its_module(quantize_input(x, step).to(x) * step) for x in after.inputs(node)])
            before.run(original)
        return Calibration(
            {name: plans[name] for name in self.layers},
            tuple(found[name] for name in self.layers),
            self._drop(module, {name: plans[name] for name, each in found.items() if not each.changed}),
        )

    @cached_property
    def own_classes(self) -> list[Tensor] | None:
        """What the network itself takes the inputs of every batch for."""
        return self._classes(self.captured.module)

    def _classes(self, module: torch.fx.GraphModule) -> list[Tensor] | None:
        classes = []
        for batch in self.batches:
            main = _main(module(*(each.clone() for each in batch)))  # a network may work in place
            axis = _axis(main, self.captured.network)
            if main.shape[axis] == 1:
                return None
            classes.append(main.argmax(axis))
        return classes

    def _drop(self, module: torch.fx.GraphModule, whole: Mapping[str, LayerPlan]) -> float | None:
        """See ``Calibration``. Statistics and ranges are those of the network in float.

        Args:
            module: with the weights of all plans; what its batch norms say is not read.
            whole: plans of the layers that are not changed.
        """
        own = self.own_classes
        if own is None:
            return None
        for buffer, original in zip(module.buffers(), self.captured.module.buffers(), strict=True):
            buffer.copy_(original)
        for name in whole:
            module.get_submodule(name).weight = self.captured.module.get_submodule(name).weight
        if len(whole) < len(self.layers) or self.norms_anew:
            walk = Walk(module, self.batches, remember=True)
            for node in walk.nodes():
                walk.run(node)
        steps = input_steps(self.captured.with_module(module), self.batches, _BATCH)
        for name, plan in whole.items():
            put_own_weights(module, name, plan)
        hooks = [module.get_submodule(name).register_forward_pre_hook(_rounding(step)) for name, step in steps.items()]
        try:
            found = self._classes(module)
        finally:
            for hook in hooks:
                hook.remove()
        assert found is not None
        return float(torch.cat([(a != b).flatten() for a, b in zip(found, own, strict=True)]).double().mean())

    def _compressed(
        self, layer: Layer, inputs: list[Tensor], original: list[Tensor], setting: Setting | None, rate: float
    ) -> tuple[LayerPlan, float, float]:
        """A layer's plan, its error, and the int8 step of its inputs."""
        parts, step = self._parts(layer, inputs, original, _ROWS)
        if setting is None:
            plan = self._mended(layer, parts)
        else:
            uses = layer.filters * len(blocks(parts[0].layer, setting.positions, self.grain))
            worth = self.config.update_weight * rate * layer.positions  # of one use, in nats
            total = sum(part.problem.energy for part in parts)
            price = min(worth / self._nats()[layer.name], _MOST_PRICE / uses) * total  # bounded: no layer goes dark
            parts = [replace(part, problem=replace(part.problem, price=price)) for part in parts]
            plan = self._approximated(layer, parts, setting, self.config.passes)
        if layer.name not in self.captured.folded and self.captured.origins[layer.name].takes_bias:
            shift = [
                part.layer.matrix.astype(np.float64) @ part.original_mean - own @ part.mean
                for part, own in zip(parts, np.split(plan.real_weights(), layer.groups), strict=True)
            ]
            with np.errstate(over="ignore"):  # the plan tells what is not finite
                plan = replace(plan, bias=np.concatenate(shift).astype(np.float32))
        return plan, _error(parts, plan), step

    def _mended(self, layer: Layer, parts: Sequence[_Part]) -> LayerPlan:
        """All patterns, with weights that make good what earlier layers have changed, unless its own do better."""
        wanted = np.concatenate([part.problem.target for part in parts]).reshape(layer.weight.shape)
        of_its_own = dense_plan(layer, self.grain)
        mended = dense_plan(replace(layer, weight=wanted.astype(np.float32)), self.grain)
        return min(of_its_own, mended, key=lambda plan: _error(parts, plan))

    def _parts(
        self, layer: Layer, inputs: list[Tensor], original: list[Tensor] | None, most: int
    ) -> tuple[list[_Part], float]:
        """What is to be approximated, group by group; and the int8 step of the inputs."""
        later = self.later.get(layer.name, [])
        step = self._step(layer, inputs)
        original_step = step if original is None else self._step(layer, original)
        filter_scale = layer.filter_scale.astype(np.float64) ** 2
        greatest = filter_scale.max()
        counts = np.maximum(filter_scale / greatest, _LEAST_WEIGHT) if greatest > 0 else np.ones(layer.filters)
        weights = np.split(counts, layer.groups)
        now = [quantize_input(x, step) for x in (*inputs, *later)]
        then = now if original is None else [quantize_input(x, original_step) for x in (*original, *later)]
        parts = []
        for i, part in enumerate(layer.by_group()):
            channels = slice(i * part.channels, (i + 1) * part.channels)
            mine, before = ([x[:, channels] if layer.groups > 1 else x for x in every] for every in (now, then))
            moments = self._moments(layer.name, part, mine, before if original is not None else mine, most)
            covariance = moments.covariance()
            metric = Metric.of(covariance, self._damping(part, mine))
            target = part.matrix.astype(np.float64)
            if original is not None and self.config.mimic > 0:
                target = self._mimicking(target, metric, covariance, moments, original_step / step)
            mean, original_mean = moments.means()
            problem = Problem(target, metric, weights[i])
            parts.append(_Part(part, problem, mean * step, original_mean * original_step))
        return parts, step

    def _step(self, layer: Layer, inputs: list[Tensor]) -> float:
        """The int8 step of a layer's inputs, those of its later calls included: the largest magnitude is 127."""
        every = [*inputs, *self.later.get(layer.name, [])]
        largest = float(torch.stack([x.abs().max() for x in every]).max())  # NaN, if one is
        if not np.isfinite(largest):
            raise UserError(f"layer {layer.name}: its input is NaN or infinite on a calibration input")
        return largest / 127 if largest > 0 else 1.0

    def _moments(self, name: str, part: Layer, now: list[Tensor], then: list[Tensor], most: int) -> Moments:
        moments = Moments(part.rows)
        generator = np.random.default_rng([self.seed, list(self.layers).index(name)])
        total = sum(positions_of(part, x) for x in now)
        for x, y in zip(now, then, strict=True):
            count = positions_of(part, x)
            share = -(-count * most // total)  # of each batch
            chosen = np.sort(generator.choice(count, share, replace=False)) if share < count else np.arange(count)
            for places in torch.split(torch.from_numpy(chosen), max(1, _ROWS_AT_ONCE // part.rows)):
                rows = rows_at(part, x, places).float()
                moments.add(rows, rows if y is x else rows_at(part, y, places).float())
        return moments

    def _damping(self, part: Layer, inputs: list[Tensor]) -> float:
        """More where the inputs give few im2col rows for as many weights as a filter has: they are fitted too well."""
        positions = sum(positions_of(part, x) for x in inputs)
        return max(self.config.damping, _FEW_ROWS * part.rows / max(1, positions))

    def _mimicking(
        self, weights: Float64, metric: Metric, covariance: Float64, moments: Moments, ratio: float
    ) -> Float64:
        """The weights that make on the present inputs what the layer's own made on the original ones.

        Args:
            ratio: the original inputs' int8 step over that of the present ones.
        """
        wanted = moments.cross_covariance() * ratio
        wanted[np.diag_indices_from(wanted)] += np.diag(metric.hessian) - np.diag(covariance)
        mixed = self.config.mimic * wanted + (1 - self.config.mimic) * metric.hessian
        return np.ascontiguousarray(metric.solve((weights @ mixed).T).T)


def _error(parts: Sequence[_Part], plan: LayerPlan) -> float:
    """Output error of a layer's plan, relative to that of no weights at all."""
    weights = np.split(plan.real_weights(), len(parts))
    energies = [part.problem.energy for part in parts]
    left = sum(part.problem.error(own) * energy for part, own, energy in zip(parts, weights, energies, strict=True))
    return left / max(sum(energies), float(np.finfo(np.float64).tiny))


def _main(outputs: Value) -> Tensor:
    """Of what a network gives, the first tensor of real numbers for every input.

    Raises:
        UserError: there is none.
    """
    for each in outputs if isinstance(outputs, tuple | list) else (outputs,):
        if isinstance(each, Tensor) and each.is_floating_point() and each.ndim >= 2:
            return each
    raise UserError("calibrated reuse needs a network that gives a tensor with classes or values for every input")


def _axis(outputs: Tensor, network: Network) -> int:
    """Of the classes: where a convolution has its filters if the network's last layer is one, else where a linear layer
    has them."""
    return 1 if network.layers[-1].kind == "conv" and outputs.ndim > 2 else -1


def _rounding(step: float) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that makes a layer read int8 inputs."""
    return lambda _, args: (quantize_input(args[0], step).to(args[0]) * step, *args[1:])


def _weighed(offers: Mapping[str, Sequence[Offer]], nats: Mapping[str, float]) -> dict[str, list[Offer]]:
    """Offers whose loss is what it costs the network."""
    return {name: [replace(o, loss=o.loss * nats[name]) for o in every] for name, every in offers.items()}


def _divergence(reference: Value, outputs: Value, network: Network) -> tuple[float, float]:
    """Kullback-Leibler divergence of the class probabilities from the reference's, mean in nats; and squared error of
    the outputs, relative to the reference's square."""
    wanted, found = _main(reference).float(), _main(outputs).float()
    axis = _axis(wanted, network)
    p, q = functional.log_softmax(wanted, axis), functional.log_softmax(found, axis)
    nats = max(0.0, float((p.exp() * (p - q)).sum(axis).mean()))
    return nats, float((found - wanted).square().sum() / wanted.square().sum().clamp_min(_TINY))
