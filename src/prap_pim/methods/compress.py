"""A captured network compressed one-shot by any method: what the pipeline, the library and ONNX files share."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.common.cluster import Tasks, here
from prap_pim.common.errors import UserError
from prap_pim.common.memory import available_memory, kept_memory
from prap_pim.common.progress import Progress, Steps, counted, phase, quiet, unheard
from prap_pim.crossbar import CrossbarModel, ExactLayer
from prap_pim.frontend import Captured, Comparison, Spread, judged_outputs, on_copies
from prap_pim.frontend.equalize import Equalised, equalised
from prap_pim.frontend.quantize import InputGrid, QuantizeConfig, grid_in, grid_of, settled
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.outline import Outline
from prap_pim.ir.patterns import PatternSet, ReuseMap, layer_steps, plan_weights
from prap_pim.ir.plan import INT8, LayerPlan, LayerWeights, NetworkPlan
from prap_pim.methods.calibrate.config import Budgeted
from prap_pim.methods.calibrate.network import Calibration, calibrate
from prap_pim.methods.config import AnyReuse, MethodConfig
from prap_pim.methods.prune import NoPruning, PruneConfig, prune
from prap_pim.methods.rebuild import (
    Decision,
    Reading,
    Rebuilt,
    channel_means,
    later_calls,
    left_whole,
    output_means,
    rebuilt,
)
from prap_pim.methods.request import CalibrationInputs, Request
from prap_pim.methods.reuse import NoReuse, reuse
from prap_pim.methods.tune import Tuned, check_tune, tune
from prap_pim.results.run import CheckResult, OutputCheck, spent_budget

_COVARIANCES = 5  # matrices as large as a layer's covariance, at one time
_LIVE = 3  # activations as large as the largest: before and after a node, in two networks
_LEAST_SQUARES = 2  # the norm that ranges have unless another one is better
_SAME_DB = 60.0  # that a network gives the same again
_MOST_LOST = 1e9  # times what a layer gives: more is reported as that
_MOST_KEPT = 1 << 28  # weights that are kept as integers; of a larger network each call makes a layer's anew
_NAMED = 3  # layers that a message names


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network.

    Attributes:
        captured: the network with the compressed weights, and the statistics of batch norm that these bring.
        plan: of all layers, those that were left dense as their dense plans.
        changed: names of the layers that were compressed.
        calibration: how calibrated reuse shared its budget out; None for another method.
        check: how far the outputs are from the original network's.
        equalised: where channels were equalised before.
        request: what was asked for.
        quantize: how the grids of the activations were found: as asked, the choice of ranges made if it was left open.
        inputs: that it was compressed with.
        tuned: what label-free tuning has brought; None without.
    """

    captured: Captured
    plan: NetworkPlan
    changed: tuple[str, ...]
    calibration: Calibration | None
    check: CheckResult
    equalised: tuple[Equalised, ...]
    request: "Request"
    quantize: QuantizeConfig
    inputs: int
    tuned: Tuned | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Of the module, beside weights and biases of layers and statistics of batch norms, that were changed."""
        of_sites = (path for site in self.equalised for path in site.parameters)
        return tuple(dict.fromkeys((*of_sites, *(self.tuned.parameters if self.tuned is not None else ()))))

    @property
    def budget(self) -> Budgeted | None:
        """What was to be shared out among layers; None for a method that shares nothing out."""
        return self.request.method.reuse if isinstance(self.request.method.reuse, Budgeted) else None

    @property
    def asked(self) -> float | None:
        """The compute ratio that it was to meet, if one was asked for."""
        share = self.budget.share if self.budget else None
        return share[1] if share and share[0] == "compute" else None

    @property
    def spent(self) -> str:
        """What is taken of a budget of energy or time, in words; nothing without one."""
        share = self.budget.share if self.budget else None
        taken = self.calibration.share if self.calibration else None
        return spent_budget(share[0], share[1], taken) if share and taken is not None else ""

    @property
    def prepared(self) -> str:
        """What was done for int8 inputs beyond the least error of each layer, in words."""
        told = []
        if self.equalised:
            most = max(self.equalised, key=lambda site: site.gain)
            told.append(
                f"channels equalised at {len(self.equalised)} places, where int8 then loses less: "
                f"up to {most.gain:.3g} times less, in front of {', '.join(most.readers[:_NAMED])}"
            )
        if self.quantize != self.request.quantize and self.quantize.norm != _LEAST_SQUARES:
            clipped = "rarely" if self.quantize.input_percentile is None else "never"
            told.append(f"inputs of layers are {clipped} clipped, which the outputs as a whole do better with")
        return ". ".join(told)

    @property
    def met(self) -> str:
        """How the limit was met, in words; nothing without one."""
        limit = self.budget.max_drop if self.budget else None
        if limit is None or self.calibration is None or self.calibration.drop is None:
            return ""
        drop = self.calibration.drop
        before = "before tuning, " if self.tuned is not None else ""
        told = f"{before}{drop:.2%} of the calibration inputs are classified otherwise, at most {limit:.2%} allowed"
        if drop > limit:
            return f"{told}: it could not be met, every layer keeps all its patterns"
        if all(layer.setting is None for layer in self.calibration.layers):
            return f"{told}: no compute ratio below 1 that was tried meets it"
        unseen = max((output.changed or 0.0 for output in self.check.outputs), default=0.0)
        if self.check.held_back and unseen > limit:
            told += f"; but {unseen:.2%} of the {self.check.inputs:,} held-back ones: give more inputs, or allow less"
        return told

    @property
    def decided(self) -> str:
        """Which limit decided, in words, where it is not the budget alone."""
        if self.calibration is None or not self.calibration.held_back:
            return ""
        held = self.calibration.held_back
        more = "" if len(held) <= _NAMED else f" and {len(held) - _NAMED} more"
        return f"balance, the interval of a pipeline, kept from more: {', '.join(held[:_NAMED])}{more}"


class Tuning(Protocol):
    """Training that follows the choice of patterns, by whoever has data with labels."""

    def start(self) -> Captured:
        """The network in which patterns are chosen."""

    def towards(self, assignments: Mapping[str, tuple[PatternSet, ReuseMap]]) -> Captured:
        """That network, trained while its weights are drawn to what pruning and reuse decided."""

    def donors(self, plans: Mapping[str, LayerWeights]) -> tuple[Captured, Mapping[str, LayerWeights]]:
        """That network with the donors of these plans trained; and the plans that have them."""


Remember = Callable[[Captured, Callable[[], Calibration]], Calibration]  # gives what is kept, or computes and keeps it


@kept_memory()
def compress_network(
    original: Captured,
    given: "CalibrationInputs",
    request: Request,
    *,
    tuning: Tuning | None = None,
    remember: Remember = lambda captured, compute: compute(),
    checkpoints: Path | None = None,
    progress: Progress = quiet,
    tasks: Tasks = here,
) -> Compressed:
    """Apply a method to a network.

    Args:
        original: the network; it is not changed.
        given: inputs for calibrated reuse, for the int8 grids of the activations, and for what compression changes at
            batch norms, whatever the method.
        request: what to do.
        tuning: training that follows; None: one-shot.
        remember: keeps a finished calibration.
        checkpoints: where an interrupted label-free tuning is kept, as for ``tune``.
        progress: called after every layer.
        tasks: where the work on layers is done that do not depend on one another.

    Raises:
        UserError: the method cannot handle a layer, or the inputs are of no use.
    """
    method, chip = request.method, request.chip
    changed = changed_layers(method, original.network)
    request.quantize.check_names([layer.name for layer in original.network.layers])
    check_tune(method, changed, original)
    reusing = method.reuse if isinstance(method.reuse, Budgeted) else None
    check_memory(original.network, given, changed if reusing is not None else ())
    if tuning is None:
        captured, equal = equalised(original, given.batches, request.quantize)
        prepared = captured
    else:  # training goes on with the channels that it began with
        captured, equal, prepared = tuning.start(), (), original
    quantize = settled(captured, given.batches, given.judges, request.quantize)
    ranges = phase(progress, f"{method.name}: ranges of inputs")
    calibration, told = None, phase(progress, f"{method.name}: layers")
    if reusing is not None:
        whole = [layer.name for layer in captured.network.layers if layer.name not in changed]
        settled_request = replace(request, quantize=quantize)
        calibration = remember(captured, lambda: calibrate(captured, given, settled_request, whole, progress, tasks))
        network = calibration.rebuilt or with_plans(captured, given, calibration.plans, quantize)
        if tuning is not None:
            captured, trained = tuning.donors(network.plans)
            network = replace(with_plans(captured, given, {}, quantize, ranges), plans=trained)
    elif tuning is not None:
        named = counted(assignments_of(changed, captured.network, chip), told)
        patterns = {each.layer.name: each.patterns() for each in named}
        captured = tuning.towards(patterns)
        layers, bits = {layer.name: layer for layer in captured.network.layers}, chip.grain.stored_bits
        plans = {name: _plan_of(layers[name], *each, bits) for name, each in patterns.items()}
        network = with_plans(captured, given, plans, quantize, ranges)
    else:
        plans = planned(assignments_of(changed, captured.network, chip), told, tasks)
        network = with_plans(captured, given, plans, quantize, ranges)
    tuned = None
    if method.tune is not None:
        tuned = tune(original, captured, network, given, request, progress, checkpoints)
        network = tuned.network
    after = captured.with_module(network.module)
    plan = whole_plan(method.name, after, network, chip)
    errors = {layer.name: layer.error for layer in calibration.layers} if calibration is not None else None
    if tuning is not None:  # training changes every layer, and its loss is what counts
        errors = {}
    elif tuned is not None:
        errors = None
    check = checked(original, prepared, after, plan, given, chip, errors)
    if tuned is not None:
        check = check.model_copy(update={"tuning": tuned.result})
    changed_names = tuple(network.plans)
    return Compressed(after, plan, changed_names, calibration, check, equal, request, quantize, given.count, tuned)


def check_memory(network: Network, given: CalibrationInputs, calibrated: Collection[str]) -> None:
    """
    Args:
        network: to compress.
        given: with these inputs.
        calibrated: names of the layers of whose inputs a covariance is made.

    Raises:
        UserError: that would take more memory than there is; names what takes it, and what to do.
    """
    free = available_memory()
    widest = max((x for x in network.layers if x.name in calibrated), key=lambda x: x.fan_in, default=None)
    covariances = 8 * _COVARIANCES * widest.fan_in**2 if widest is not None else 0
    if widest is not None and covariances > free:
        raise UserError(
            f"layer {widest.name}: the covariance of its {widest.fan_in:,} inputs takes {covariances / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free: leave it dense with skip={widest.name!r}"
        )
    activations = 4 * _LIVE * given.count * max(node.output_elements for node in network)
    if covariances + activations > free:
        raise UserError(
            f"model {network.name}: the activations of {given.count:,} calibration inputs take about "
            f"{activations / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: give fewer inputs"
        )


@dataclass(frozen=True, eq=False)
class Assignment:
    """A layer and what is done to it, by itself: a task."""

    layer: Layer
    pruning: PruneConfig
    reusing: AnyReuse
    grain: Grain

    def patterns(self) -> tuple[PatternSet, ReuseMap]:
        """What pruning and reuse decide."""
        patterns = prune(self.pruning, self.layer, self.grain)
        return patterns, reuse(self.reusing, self.layer, patterns, self.grain)

    def plan(self) -> LayerWeights:
        """Of int8 weights or as few bits as the chip's have."""
        return _plan_of(self.layer, *self.patterns(), self.grain.stored_bits)


def assignments_of(
    settings: Mapping[str, tuple[PruneConfig, AnyReuse]], network: Network, chip: Chip
) -> list[Assignment]:
    """What is to be done to the layers of ``settings``."""
    return [Assignment(x, *settings[x.name], chip.grain) for x in network.layers if x.name in settings]


def planned(assignments: Sequence[Assignment], told: Steps = unheard, tasks: Tasks = here) -> dict[str, LayerWeights]:
    """Their plans, by layer; ``told`` hears how many are done."""
    layers = counted([each.layer.name for each in assignments], told)
    return dict(zip(layers, tasks(Assignment.plan, assignments), strict=True))


def _plan_of(layer: Layer, patterns: PatternSet, reuse: ReuseMap, bits: int) -> LayerWeights:
    steps = layer_steps(layer, reuse, bits)
    return plan_weights(layer.name, layer.matrix, patterns, reuse, steps, bits)


def with_plans(
    captured: Captured,
    given: CalibrationInputs,
    plans: Mapping[str, LayerWeights],
    quantize: QuantizeConfig,
    told: Steps = unheard,
) -> Rebuilt:
    """The network with the weights of plans that are already made.

    Where no batch norm follows, whose mean would move, a layer's bias takes back the mean of its error.
    """
    done, count = 0, len(captured.network.layers)
    later = later_calls(captured, given.batches)

    def decide(layer: Layer, now: list[Tensor], then: list[Tensor] | None) -> Decision:
        plan, grid = plans.get(layer.name), grid_of(layer, [*now, *later.get(layer.name, [])], quantize)
        takes_bias = layer.name not in captured.folded and captured.origins[layer.name].takes_bias
        if plan is None or not takes_bias or plan.bias.any():
            return Decision(plan, grid)
        wanted = output_means(
            layer, layer.matrix.astype(np.float64), channel_means(layer, now if then is None else then)
        )
        given = output_means(layer, plan.real_weights(), channel_means(layer, now))
        return Decision(replace(plan, bias=(wanted - given).astype(np.float32)), grid)

    def each(readings: Sequence[Reading]) -> Iterator[Decision]:
        nonlocal done
        for reading in readings:
            done += 1
            told(done, count)
            yield decide(*reading)

    return rebuilt(captured, given.batches, each)


@torch.no_grad()
def checked(
    original: Captured,
    prepared: Captured,
    compressed: Captured,
    plan: NetworkPlan,
    given: CalibrationInputs,
    chip: Chip,
    errors: Mapping[str, float] | None = None,
) -> CheckResult:
    """Compare the bit-true network with the original one.

    Args:
        original, compressed: the networks; ``plan`` is of the second.
        prepared: the network whose layers were compressed: the original one, or that with equalised channels.
        given: its inputs.
        chip: whose crossbars compute.
        errors: each layer's relative output error, on what it reads in the compressed network. None: measured on what
            it reads in the original one.
    """
    batches, judges = given.held or given.batches, given.judges
    found, losses = Comparison(judges), {layer.name: _Loss() for layer in original.network.layers if errors is None}
    bit_true, name = bit_true_network(compressed, plan, chip), original.network.name
    again = Comparison(judges)
    twice = (judged_outputs(on_copies(original.module, batches[0]), name) for _ in range(2))
    again.add(next(twice), next(twice))
    hooks = [
        prepared.module.get_submodule(layer).register_forward_hook(
            partial(loss.add, compressed.module.get_submodule(layer))
        )
        for layer, loss in losses.items()
    ]
    try:
        for batch in batches:
            wanted = judged_outputs(on_copies(original.module, batch), name)
            if hooks and prepared is not original:  # the hooks have not seen this batch
                on_copies(prepared.module, batch)
            found.add(wanted, judged_outputs(on_copies(bit_true, batch), name))
    finally:
        for hook in hooks:
            hook.remove()
    lost = errors if errors is not None else {layer: loss.share for layer, loss in losses.items()}
    worst = sorted(lost.items(), key=lambda each: -each[1])[:_NAMED]
    return CheckResult(
        inputs=sum(len(batch[0]) for batch in batches),
        held_back=bool(given.held),
        outputs=[
            OutputCheck(
                name=each.output.name, sqnr_db=None if each.sqnr_db == inf else each.sqnr_db, changed=each.changed
            )
            for each in found.differences()
        ],
        worst=dict(worst),
        varies=any(each.sqnr_db < _SAME_DB for each in again.differences()),
    )


class _Loss:
    """The error that a layer with new weights makes by itself, on what the original network gives it to read."""

    def __init__(self) -> None:
        self._noise, self._signal = 0.0, Spread()

    def add(self, changed: nn.Module, layer: nn.Module, given: tuple[Tensor, ...], own: Tensor) -> None:
        """A hook on the original layer."""
        self._noise += float((own - changed(given[0])).square().sum(dtype=torch.float64))
        self._signal.add(own, 1 if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else -1)

    @property
    def share(self) -> float:
        """Squared error relative to the square of the output about its mean."""
        return min(self._noise / signal, _MOST_LOST) if (signal := self._signal.total) else 0.0


def bit_true_network(captured: Captured, plan: NetworkPlan, chip: Chip) -> nn.Module:
    """The network with every layer's integers computed exactly as the crossbars do, activations int8."""
    model, kept = CrossbarModel.of(chip), captured.network.parameters <= _MOST_KEPT
    return captured.rebuild(
        {
            layer.name: ExactLayer(layer, plan.layers[layer.name], grid_in(plan, layer.name), model, kept)
            for layer in captured.network.layers
        }
    )


def changed_layers(method: MethodConfig, network: Network) -> dict[str, tuple[PruneConfig, AnyReuse]]:
    """The layers that a method does not leave whole, with their settings."""
    settings = method.layer_settings(network)
    return {name: setting for name, setting in settings.items() if setting != (NoPruning(), NoReuse())}


def whole_plan(name: str, captured: Captured, network: Rebuilt, chip: Chip) -> NetworkPlan:
    """Every layer as a plan: those that are compressed with the batch norm of ``captured``, the others dense."""
    layers: dict[str, LayerPlan] = {}
    for layer in captured.network.layers:
        if layer.name in network.plans:
            layers[layer.name] = network.plans[layer.name].scaled(layer.filter_scale, layer.filter_bias)
        else:
            plan = left_whole(layer, chip.grain, network.means[layer.name])
            layers[layer.name] = plan.scaled(layer.filter_scale, layer.filter_bias + layer.filter_scale * plan.bias)
    layers = {name: replace(plan, input_bits=network.grids[name].bits) for name, plan in layers.items()}
    steps = {name: network.grids[name].step for name in layers}
    zeros = {name: network.grids[name].zero for name in layers}
    return NetworkPlan(name, layers, steps, Outline.of(captured.network), zeros)


def plan_for_costs(
    captured: Captured, chip: Chip, name: str = "dense", plans: Mapping[str, LayerWeights] | None = None
) -> NetworkPlan:
    """Some layers as planned and the others dense. Nothing is known of the inputs, whose steps are 1."""
    bits = max(2, min(INT8, chip.grain.input_bits))
    grids = {layer.name: InputGrid(1.0, bits=bits) for layer in captured.network.layers}
    means = {layer.name: np.zeros(layer.channels) for layer in captured.network.layers}
    return whole_plan(name, captured, Rebuilt(captured.module, plans or {}, grids, means), chip)
