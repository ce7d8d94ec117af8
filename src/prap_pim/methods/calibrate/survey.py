"""What each layer's error does to the network's outputs, and what each way to compress it would leave of an error."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import isfinite, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prap_pim.common.cluster import Tasks, here
from prap_pim.common.errors import UserError
from prap_pim.common.progress import Progress
from prap_pim.frontend import Captured, Output, Probe, Walk, classes_of, divergence, judged_outputs
from prap_pim.frontend.quantize import QuantizeConfig
from prap_pim.frontend.weights import weight_module
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import INT8, LayerWeights
from prap_pim.mapping.steps import dense_steps, ou_steps
from prap_pim.methods.calibrate import lowbit
from prap_pim.methods.calibrate.allocate import Offer
from prap_pim.methods.calibrate.config import Budgeted
from prap_pim.methods.calibrate.depthwise import Depthwise
from prap_pim.methods.calibrate.fisher import filter_weights
from prap_pim.methods.calibrate.layer import Setting, block_count, donors_together, every_pattern, most_ous, shapes_fit
from prap_pim.methods.calibrate.problem import LayerInputs, Parts, mean_taken_back, shares_nothing

_INPUTS = 64  # on which what a layer's error does to the outputs is measured, about
_LEAST_ANSWERS = 16  # where a network is so large that more would take most of the time
_ROWS = 2048  # positions, at most, of which a layer's first covariance is made
_BETWEEN = 4  # offers from one number of donors that is looked at to half of it
_LANES = 8  # donors: so many fill OUs, whatever their bits
_GROWS = 1.75  # 1.6 to 2.0 in four layers of MiniLM, by uses and bits
_PROBE = 8  # one in so many patterns is kept where a layer's sensitivity is measured
_KERNEL = 9
_LEAST_SHARE = 0.01  # of the median layer's sensitivity
_TINY = 1e-9


def kept_positions(layer: Layer, config: Budgeted, grain: Grain) -> list[int | None]:
    """What the settings offer filters that share donors; None: the whole kernel. Always something."""
    offered = [None if kept == _KERNEL else kept for kept in config.shapes]
    return [kept for kept in offered if kept is None or shapes_fit(layer, kept, grain)] or [None]


def depthwise_settings(layer: Layer, config: Budgeted, grain: Grain) -> list[Setting]:
    """Of a layer whose filters share nothing: whole OU rows of weights fewer, unless all store all their patterns."""
    if config.own or not shares_nothing(layer):
        return []
    counts = range(grain.ou_rows, layer.fan_in, grain.ou_rows)
    found = [Setting(1, count) for count in counts]
    dense = dense_steps(layer, grain)
    return [setting for setting in found if most_steps(layer, setting, grain) < dense]


def most_steps(layer: Layer, setting: Setting, grain: Grain) -> int:
    """OU steps of one inference, at most, that a setting takes."""
    if lowbit.keeps_all(layer, setting):
        return lowbit.own_steps(layer, setting.bits, grain)
    if shares_nothing(layer):
        assert setting.positions is not None
        ous = layer.filters * grain.row_groups(setting.positions) * grain.ous(1)
    else:
        part = next(layer.by_group())
        ous = layer.groups * block_count(part, setting.positions, grain) * most_ous(setting, grain)
    return ou_steps(layer, ous, grain)


def further_uses(layer: Layer, setting: Setting, grain: Grain) -> int:
    """Partial sums of one inference, at most, that a setting takes beyond one for each filter and block of rows."""
    if setting.uses == 1:
        return 0
    part = next(layer.by_group())
    return (setting.uses - 1) * layer.filters * block_count(part, setting.positions, grain) * layer.positions


def least_settings(layer: Layer, config: Budgeted, grain: Grain) -> list[Setting]:
    """As few patterns as the settings allow, or as few bits of all of them: one of these takes the least."""
    if config.own or shares_nothing(layer):  # filters store patterns of their own, if in fewer bits
        return lowbit.own_settings(layer, config.bits) + depthwise_settings(layer, config, grain)
    kept = kept_positions(next(layer.by_group()), config, grain)
    every = lowbit.own_settings(layer, config.bits) if None in kept else []
    return [Setting(1, *each) for each in product(kept, config.bits)] + every


def least_steps(layer: Layer, config: Budgeted, grain: Grain) -> int:
    """OU steps of one inference with as few patterns as the settings allow."""
    return min(most_steps(layer, setting, grain) for setting in least_settings(layer, config, grain))


def reducible(layer: Layer, config: Budgeted, grain: Grain) -> bool:
    """Whether a layer can do with fewer OU steps."""
    return not shares_nothing(layer) or least_steps(layer, config, grain) < dense_steps(layer, grain)


@dataclass(frozen=True, eq=False)
class Survey:
    """
    Attributes:
        sensitivity: divergence of the outputs when a layer alone keeps an eighth of its patterns, by layer name.
        at_probe: the layer's expected relative error then.
        offers: ways to compress each layer, with its relative error as their loss.
        classes: what the original network takes the calibration inputs for; None where no output has classes.
        weights: what the error of each filter of a layer counts, where batch norm does not say it (``filter_weights``).
    """

    sensitivity: Mapping[str, float]
    at_probe: Mapping[str, float]
    offers: Mapping[str, list[Offer]]
    classes: Tensor | None
    weights: Mapping[str, NDArray[np.float64]]

    @property
    def nats(self) -> dict[str, float]:
        """What the outputs diverge by for each unit of a layer's relative error.

        No layer counts less than a hundredth of the median one: a few inputs may fail to show what it does.
        """
        nats = {name: value / self.at_probe[name] for name, value in self.sensitivity.items()}
        least = max(_TINY, _LEAST_SHARE * float(np.median(list(nats.values())))) if nats else 0.0
        return {name: max(value, least) for name, value in nats.items()}


@dataclass(frozen=True, eq=False)
class Surveyor:
    """Makes a survey.

    Attributes:
        captured: the network.
        batches: calibration inputs; what a layer's error does to the outputs is measured on the first 64 or so,
            or fewer of a network that makes many activations of each.
        judges: the outputs.
        config, quantize, grain, seed: as for ``calibrate``.
        free: names of the layers that may be compressed.
        later: what layers that are called again read then, by name.
        masks: of every batch (``capture.padding_mask``).
        tasks: where layers are looked at.
    """

    captured: Captured
    batches: Sequence[tuple[Tensor, ...]]
    judges: tuple[Output, ...]
    config: Budgeted
    quantize: QuantizeConfig
    grain: Grain
    seed: int
    free: frozenset[str]
    later: Mapping[str, Sequence[Tensor]]
    masks: Sequence[Tensor | None]
    tasks: Tasks = here

    def survey(self, progress: Progress, phase: str) -> Survey:
        """Layer after layer, each in the original network but for itself.

        Raises:
            UserError: what a layer computes overflows, squared; it is named.
        """
        layers = {layer.name: layer for layer in self.captured.network.layers if layer.name in self.free}
        walk = Walk(self.captured.module, self.batches)
        least = -(-_LEAST_ANSWERS // min(output.answers for output in self.judges))
        first = self.captured.first_inputs(self.batches, _INPUTS, least)
        probe = Probe(self.captured.module, first)
        weights = filter_weights(self.captured, first, self.judges, self.seed, self.config.fisher)
        sensitivity: dict[str, float] = {}
        at_probe: dict[str, float] = {}
        offers: dict[str, list[Offer]] = {}
        found = self.tasks(looked_at, self._looks(walk, layers, weights))
        for node in probe.nodes():
            layer = layers.get(str(node.target)) if node.op == "call_module" else None
            if layer is not None and layer.name not in offers:
                plan, error, offers[layer.name] = next(found)
                changed = weight_module(self.captured.module.get_submodule(layer.name), plan)
                sensitivity[layer.name] = self._diverged(probe.wanted, probe.from_here(node, changed))
                at_probe[layer.name] = max(error, _TINY)
                if not isfinite(sensitivity[layer.name] * at_probe[layer.name]):
                    raise UserError(
                        f"layer {layer.name}: what it computes of the calibration inputs, or the square of that, "
                        "overflows: give inputs of a smaller size"
                    )
                progress(f"{phase}: sensitivity", len(offers), len(layers), layer.name)
            if len(offers) == len(layers):
                break
            probe.run(node)
        deque(found, 0)  # the walk goes on to its end
        name = self.captured.network.name
        classes = classes_of(self.judges, (judged_outputs(outcome, name) for outcome in walk.outcome))
        return Survey(sensitivity, at_probe, offers, classes, weights)

    def _diverged(self, wanted: Sequence[Any], found: Sequence[Any]) -> float:
        """Of the outputs of all batches together."""
        name = self.captured.network.name
        pairs = zip(wanted, found, strict=True)
        return divergence(
            self.judges, ((judged_outputs(own, name), judged_outputs(other, name)) for own, other in pairs)
        )

    def _looks(
        self, walk: Walk, layers: Mapping[str, Layer], weights: Mapping[str, NDArray[np.float64]]
    ) -> Iterator["Look"]:
        """All layers, as the walk comes to them."""
        names = [layer.name for layer in self.captured.network.layers]
        seen: set[str] = set()
        for node in walk.nodes():
            name = str(node.target)
            if node.op == "call_module" and name in layers and name not in seen:
                seen.add(name)
                later, how = self.later.get(name, []), (self.quantize, self.masks, weights.get(name))
                given = LayerInputs.of(layers[name], walk.inputs(node), None, later, *how)
                yield Look(given, (self.seed, names.index(name)), self.config, self.grain)
            walk.run(node)


@dataclass(frozen=True, eq=False)
class Look:
    """A layer that is looked at by itself: a task.

    Attributes:
        given: what drives it.
        seed: of which im2col rows are looked at.
        config, grain: as for ``calibrate``.
    """

    given: LayerInputs
    seed: tuple[int, int]
    config: Budgeted
    grain: Grain


def looked_at(look: Look) -> tuple[LayerWeights, float, list[Offer]]:
    """A layer as it is probed, its error then, and its offers."""
    layer, config, grain = look.given.layer, look.config, look.grain
    how = (_ROWS, look.seed, 0.0, config.damping)
    problem: Depthwise | Parts = look.given.depthwise(*how) if shares_nothing(layer) else look.given.parts(*how)
    if isinstance(problem, Depthwise) or config.own:
        plan = lowbit.low_bit(problem, min(lowbit.PROBE_BITS, grain.stored_bits), grain)
        error, errors = problem.error(plan.real_weights()), _errors_of_own(problem, config, grain)
    else:
        probe = Setting(_full_ous(layer.filters / layer.groups / _PROBE, grain), bits=grain.stored_bits)
        plan, errors = problem.approximated(probe, grain, 0), dict(_errors(problem, config, grain))
        error = float(problem.expected(probe, (grain.stored_bits,), grain).item())
    if not config.own:
        errors[every_pattern(layer, grain)] = _of_rounding(problem, grain)
    offers = [Offer(setting, most_steps(layer, setting, grain), each) for setting, each in errors.items()]
    return mean_taken_back(plan, problem), error, offers


def _errors_of_own(problem: Depthwise | Parts, config: Budgeted, grain: Grain) -> dict[Setting, float]:
    """What is offered to filters that store patterns of their own, and its error."""
    settings = lowbit.own_settings(problem.layer, config.bits)
    errors = dict(zip(settings, lowbit.expected(problem, [each.bits for each in settings]), strict=True))
    if isinstance(problem, Depthwise):
        fewer = depthwise_settings(problem.layer, config, grain)
        lost, rounding = problem.errors([each.positions or 0 for each in fewer]), _of_rounding(problem, grain)
        errors |= zip(fewer, (each + rounding for each in lost), strict=True)
    return errors


def _of_rounding(problem: Depthwise | Parts, grain: Grain) -> float:
    """The error of all patterns in the bits that the chip stores; that of int8 is not counted."""
    stored = grain.stored_bits
    return lowbit.expected(problem, [stored])[0] if stored < INT8 else 0.0


def _errors(parts: Parts, config: Budgeted, grain: Grain) -> Iterator[tuple[Setting, float]]:
    """What is offered beside all patterns, and its error: fewer and fewer donors for each shape, bits and uses."""
    part, bits = next(parts.layer.by_group()), config.bits
    rungs = [max(1, round(part.filters / 2**i)) for i in range(part.filters.bit_length())]
    rungs = list(dict.fromkeys(min(-(-r // _LANES) * _LANES, rungs[0]) if r >= _LANES else r for r in rungs))
    for kept in kept_positions(part, config, grain):
        most = Setting(0, kept, grain.stored_bits, config.uses)
        found = [parts.expected(replace(most, donors=rung), bits, grain) for rung in rungs]
        for i, every in enumerate(np.moveaxis(np.array(found), 0, -1)):
            for each, errors in zip(bits, every, strict=True):
                kind = Setting(0, kept, each, i + 1)
                for donors, error in _interpolated(rungs, errors, donors_together(grain.of_bits(each))):
                    if kept or each < grain.stored_bits or donors < part.filters:
                        yield replace(kind, donors=donors), error


def _full_ous(donors: float, grain: Grain) -> int:
    """Donors, at least one, that fill whole OUs."""
    together = donors_together(grain)
    return max(1, round(donors / together)) * together


def _interpolated(rungs: Sequence[int], errors: NDArray[np.float64], together: int) -> Iterator[tuple[int, float]]:
    """Numbers of donors and their errors: the rungs, and some numbers that fill OUs between them.

    There logarithms of errors are taken as linear in those of numbers; below all patterns the error grows with a power
    of the patterns that have no donor of their own.
    """
    for (high, above), (low, below) in pairwise(zip(rungs, np.maximum(errors, _TINY), strict=True)):
        yield high, float(above)
        wanted = (high * (low / high) ** (i / _BETWEEN) for i in range(1, _BETWEEN))
        for donors in dict.fromkeys(round(each / together) * together for each in wanted):
            if not low < donors < high:
                continue
            if high == rungs[0]:
                yield donors, float(above + (below - above) * ((high - donors) / (high - low)) ** _GROWS)
            else:
                share = log2(high / donors) / log2(high / low)
                yield donors, float(above ** (1 - share) * below**share)
    yield rungs[-1], float(errors[-1])


def between(layer: Layer, offers: Sequence[Offer], grain: Grain) -> Iterator[Offer]:
    """Every number of whole OUs between those that were looked at; the loss is taken as linear there, which is more."""
    if shares_nothing(layer):
        return
    kinds = dict.fromkeys(replace(offer.setting, donors=0) for offer in offers)
    for kind in kinds:
        together = donors_together(grain.of_bits(kind.bits))
        rungs = sorted((o for o in offers if replace(o.setting, donors=0) == kind), key=lambda o: o.setting.donors)
        for low, high in pairwise(rungs):
            for donors in range(low.setting.donors + together, high.setting.donors, together):
                share = (donors - low.setting.donors) / (high.setting.donors - low.setting.donors)
                setting = replace(kind, donors=donors)
                steps = most_steps(layer, setting, grain)
                if steps < high.cost:
                    yield Offer(setting, steps, low.loss + share * (high.loss - low.loss))


def weighed(
    offers: Mapping[str, Sequence[Offer]], nats: Mapping[str, float], further: Callable[[str, Setting], float]
) -> dict[str, list[Offer]]:
    """Offers whose loss is what it costs the network, and what further uses cost (``further``, in nats)."""
    return {
        name: [replace(o, loss=o.loss * nats[name] + further(name, o.setting)) for o in every]
        for name, every in offers.items()
    }
