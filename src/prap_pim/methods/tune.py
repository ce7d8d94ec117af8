"""Label-free tuning: what a compressed network is made of is trained to give the original network's outputs.

Who takes which donor with which gain stays as it is. Donors (rounded in every forward pass, their gradient passes
through: Bengio et al., 2013), the filters' steps, biases and norms are trained by Adam on the calibration inputs
(knowledge distillation: Hinton et al., 2015); layers read int8 inputs meanwhile, as they will.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of
from prap_pim.common.progress import Progress
from prap_pim.frontend import (
    Captured,
    DigitalModule,
    Output,
    Spread,
    check_trained,
    judged_outputs,
    losses,
    on_copies,
    padding_mask,
)
from prap_pim.frontend.equalize import norm_parameters
from prap_pim.frontend.inputs import has_batch
from prap_pim.frontend.quantize import InputGrid
from prap_pim.frontend.weights import layer_weight, parameter_at, put_own_weights, sharing_weights
from prap_pim.methods.calibrate.train_donors import Donors
from prap_pim.methods.config import MethodConfig, Tune
from prap_pim.methods.rebuild import Rebuilt, left_whole
from prap_pim.methods.request import CalibrationInputs, Request
from prap_pim.results.run import TuningResult
from prap_pim.training.checkpoint import Checkpoint, CheckpointFolder

Float32 = NDArray[np.float32]

_ACTIVATIONS = 1 << 28  # that a backward pass may hold at a time: more inputs than make so many are taken in parts
_KEPT = 1 << 28  # values of the original network's outputs that are kept; others are computed whenever they are needed
_EVERY = 20  # steps from one checkpoint to the next
_LOOKS = 10  # at how good the network is on the inputs that are held back
_MUCH_MORE = 1.2  # times the least loss: too large steps
_SMALLER = 4  # rates are divided by
_WARM = 10  # one in so many steps: the rate rises
_LEAST_UNIT = 1e-3  # of the largest: what is smaller counts as that
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # that Adam keeps
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Tuned:
    """
    Attributes:
        network: as it is used from here on: tuned, or as it was where tuning has made nothing better.
        parameters: of its module, beside weights and biases of layers, that were changed.
        result: what it has brought.
    """

    network: Rebuilt
    parameters: tuple[str, ...]
    result: TuningResult


def tune(
    original: Captured,
    captured: Captured,
    network: Rebuilt,
    given: CalibrationInputs,
    request: Request,
    progress: Progress,
    checkpoints: Path | None = None,
) -> Tuned:
    """Train a compressed network to the outputs of the original one.

    Args:
        original: whose outputs are wanted.
        captured: the network that was compressed; its graph is the original one's.
        network: compressed; it is not changed.
        given: inputs to train on, and those that tell whether it has become better.
        request: the method, its ``tune``, and the seed of the order of inputs.
        progress: called after every step.
        checkpoints: a folder in which an interrupted tuning is kept and gone on with; None: it is not.

    Raises:
        UserError: the outputs do not depend on the weights in a way that torch can differentiate, or tuning diverges.
    """
    config = request.method.tune
    assert config is not None
    work = _Network(captured, network, request)
    training = _Examples.of(original, given.batches, given, config)
    held = _Examples.of(original, given.held, given, config)
    before = training.divergence(work), held.divergence(work)
    taken = _descend(work, training, held, config, request, progress, checkpoints) if work.trained else 0
    after = training.divergence(work), held.divergence(work)
    if not held.parts and after[0] >= before[0]:  # those held back have the last word, where there are any
        taken, after = 0, before
    result = TuningResult(
        steps=config.steps,
        taken=taken,
        before=before[0],
        after=after[0],
        held_before=before[1] if held.parts else None,
        held_after=after[1] if held.parts else None,
    )
    return Tuned(work.rebuilt(), tuple(work.norms), result) if taken else Tuned(network, (), result)


def check_tune(method: MethodConfig, changed: Collection[str], captured: Captured) -> None:
    """
    Raises:
        UserError: the method is to be tuned and changes no layer, or the network cannot be trained.
    """
    if method.tune is None:
        return
    check_trained(captured.module, captured.network.name)
    if not changed:
        raise UserError(f"tune: method {method.name} changes no layer, so there are no donors to tune: leave it out")


def _descend(
    work: "_Network",
    examples: "_Examples",
    held: "_Examples",
    config: Tune,
    request: Request,
    progress: Progress,
    checkpoints: Path | None,
) -> int:
    """All steps, from the newest checkpoint on; the steps after which the network is left.

    These are the ones after which it was best on the inputs that are held back: looked at ten times. All without these.
    """
    run = _Descent(work, config, work.units(examples.parts[0]))
    folder = CheckpointFolder(checkpoints, config.steps) if checkpoints is not None else None
    identity = digest_of(repr(config), str(request.seed), *(plan.digest() for plan in work.network.plans.values()))
    with suppress(UserError):  # of something else: begun anew
        kept = folder.newest(identity, config.steps) if folder is not None else None
        if kept is not None:
            run.restore(kept)
    if not run.done:
        run.look(held.divergence(work) if held.parts else 0.0)
    often = -(-config.steps // _LOOKS)
    for step in range(run.done, config.steps):
        parts = examples.drawn(config, np.random.default_rng([request.seed, step]))
        loss = work.differentiate(examples, parts)
        if not math.isfinite(loss):
            raise UserError(f"tune: the loss is not finite after {step} steps: try a smaller rate than {config.rate:g}")
        run.step(_share(step, config.steps))
        progress(f"{request.method.name}: tuning", run.done, config.steps, f"loss {loss:.4g}")
        last = run.done == config.steps
        if last or run.done % often == 0:
            run.look(held.divergence(work) if held.parts else -float(run.done))
        if folder is not None and (last or run.done % _EVERY == 0):
            folder.write(run.checkpoint(identity))
    return run.take_best()


def _share(step: int, steps: int) -> float:
    """Of the largest rate: rising for the first tenth, as Adam's first steps go by signs alone; then along a cosine."""
    return min(1.0, _WARM * (step + 1) / steps) * (1 + math.cos(math.pi * step / steps)) / 2


class _Descent:
    """Adam's state, and the best that it has come by.

    Attributes:
        done: steps.
    """

    def __init__(self, work: "_Network", config: Tune, units: Mapping[str, Tensor]) -> None:
        self.work, self.done, self._units = work, 0, units
        self._rates = [config.donor_rate if name.endswith(".donors") else config.rate for name in work.trained]
        self._adam = torch.optim.Adam([{"params": [value], "lr": 0.0} for value in work.trained.values()])
        self._best, self._best_step, self._least, self._scale = _copies(work.trained), 0, math.inf, 1.0

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One step of descent, at a share of the largest rates; of what has a unit, in that."""
        before = {name: self.work.trained[name].clone() for name in self._units}
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * share * self._scale
        self._adam.step()
        for name, unit in self._units.items():
            self.work.trained[name].copy_(torch.lerp(before[name], self.work.trained[name], unit))
        self.work.within_range()
        self.done += 1

    def look(self, loss: float) -> None:
        """Remember the present state, if its loss is the least; if it is much more, go back, and on at smaller rates.

        How large a step a network bears depends on its depth: all layers' changes multiply.
        """
        if loss < self._least:
            self._best, self._best_step, self._least = _copies(self.work.trained), self.done, loss
        elif loss > _MUCH_MORE * self._least:
            self._put(self._best)
            self._adam.state.clear()
            self._scale /= _SMALLER

    def take_best(self) -> int:
        """Go back to the best state; the steps that led to it."""
        self._put(self._best)
        return self._best_step

    def checkpoint(self, identity: str) -> Checkpoint:
        """All that is needed to go on."""
        state = {f"now:{name}": value for name, value in self.work.trained.items()}
        state |= {f"best:{name}": value for name, value in self._best.items()}
        state["least"] = torch.tensor([self._least, self._best_step, self._scale], dtype=torch.float64)
        moments = {
            f"{name}:{what}": self._adam.state[value][what]
            for name, value in self.work.trained.items()
            for what in _MOMENTS
            if value in self._adam.state
        }
        return Checkpoint(self.done, identity, _copies(state), _copies(moments))

    def restore(self, kept: Checkpoint) -> None:
        """Go on where a checkpoint was taken."""
        trained = self.work.trained
        self._put({name: kept.model[f"now:{name}"] for name in trained})
        self._best = {name: kept.model[f"best:{name}"] for name in trained}
        self._least, best_step, self._scale = kept.model["least"].tolist()
        self._best_step = int(best_step)
        for name, value in trained.items():
            if f"{name}:{_MOMENTS[0]}" in kept.momentum:
                self._adam.state[value] = {what: kept.momentum[f"{name}:{what}"] for what in _MOMENTS}
        self.done = kept.epoch

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.work.trained.items():
            value.copy_(values[name])


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


@dataclass(frozen=True, eq=False)
class _Examples:
    """Inputs, and what the original network gives for them.

    Attributes:
        judges: how outputs are judged.
        network: the original one.
        parts: all inputs, as many at a time as may be computed.
        wanted: what the original network gives for each part; None: to be computed anew.
        sizes: of each output that is judged, over all parts: classes, or squares of values about their means.
        most: inputs at a time; None: parts are not to be cut.
    """

    judges: tuple[Output, ...]
    network: Captured
    parts: Sequence[tuple[Tensor, ...]]
    wanted: Sequence[tuple[Tensor, ...] | None]
    sizes: Sequence[float]
    most: int | None

    @staticmethod
    def of(
        original: Captured, batches: Sequence[tuple[Tensor, ...]], given: CalibrationInputs, config: Tune
    ) -> "_Examples":
        most = None
        if given.divisible:
            at_a_time = _ACTIVATIONS // sum(node.output_elements for node in original.network)
            most = max(1, min(at_a_time, config.inputs))
        parts = list(_parts(batches, most))
        wanted: list[tuple[Tensor, ...] | None] = []
        spreads, answers, room = [Spread() for _ in given.judges], [0 for _ in given.judges], _KEPT
        for part in parts:
            found, mask = _outputs_of(original, part), padding_mask(part)
            for i, output in enumerate(given.judges):
                own = _answered(output, found[output.place], mask)
                spreads[i].add(own, output.axis)
                answers[i] += own.numel() // own.shape[output.axis]
            room -= sum(each.numel() for each in found)
            wanted.append(found if room >= 0 else None)
        every = zip(given.judges, answers, spreads, strict=True)
        sizes = [float(n) if output.kind == "classes" else spread.total for output, n, spread in every]
        return _Examples(given.judges, original, parts, wanted, sizes, most)

    @property
    def count(self) -> int:
        """Inputs."""
        return sum(len(part[0]) for part in self.parts)

    @cached_property
    def _pools(self) -> list[tuple[Tensor, ...]]:
        """Inputs among which those of a step are drawn: all that are of one size, if they may be cut."""
        if self.most is None:
            return list(self.parts)
        alike: dict[Any, list[tuple[Tensor, ...]]] = {}
        for part in self.parts:
            apart = [x if not has_batch(x, part[0]) else x[:0] for x in part]
            key = tuple((x.shape[1:], x.dtype, x.numpy().tobytes()) for x in apart)
            alike.setdefault(key, []).append(part)
        return [
            tuple(torch.cat(same) if has_batch(same[0], every[0][0]) else same[0] for same in zip(*every, strict=True))
            for every in alike.values()
        ]

    def drawn(self, config: Tune, rng: np.random.Generator) -> list[tuple[Tensor, ...]]:
        """The inputs of a step, in parts: some at random, and some of them mixed (``_mixed``)."""
        sizes = np.array([len(pool[0]) for pool in self._pools])
        if self.most is None:
            count = min(len(sizes), max(1, round(config.inputs / float(sizes.mean()))))
            found = [self._pools[i] for i in rng.choice(len(sizes), count, replace=False)]
        else:
            pool = self._pools[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
            at = torch.from_numpy(rng.choice(len(pool[0]), min(len(pool[0]), config.inputs), replace=False))
            found = [tuple(x[at] if has_batch(x, pool[0]) else x for x in pool)]
        return list(_parts([_mixed(each, config.mixed, rng) for each in found], self.most))

    def loss(self, part: tuple[Tensor, ...], wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
        """How far outputs for a part are from what is wanted: its share of the divergence of all."""
        total, mask = torch.zeros(()), padding_mask(part)
        for output, size in zip(self.judges, self.sizes, strict=True):
            own, other = (_answered(output, every[output.place].float(), mask) for every in (wanted, found))
            total = total + output.weight / max(size, _TINY) * losses(output, own, other).sum()
        return total / sum(output.weight for output in self.judges)

    @torch.no_grad()
    def divergence(self, work: "_Network") -> float:
        """Of all parts together: ``frontend.divergence``, padding left out."""
        weights, total = work.values(), 0.0
        for part, wanted in zip(self.parts, self.wanted, strict=True):
            kept = wanted if wanted is not None else _outputs_of(self.network, part)
            total += float(self.loss(part, kept, work.outputs(weights, part)))
        return total


@torch.no_grad()
def _outputs_of(network: Captured, part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return judged_outputs(on_copies(network.module, part), network.network.name)


def _parts(batches: Sequence[tuple[Tensor, ...]], most: int | None) -> Iterator[tuple[Tensor, ...]]:
    """At most so many inputs at a time."""
    for batch in batches:
        count = len(batch[0])
        for places in torch.arange(count).tensor_split(-(-count // (most or count))):
            yield tuple(x[places] if has_batch(x, batch[0]) else x for x in batch)


def _mixed(batch: tuple[Tensor, ...], share: float, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Some inputs with others in them: few inputs then show more of what the original network does.

    Real numbers are averaged with random weights (Zhang et al., "mixup", ICLR 2018; for teachers: Beyer et al., CVPR
    2022), whole numbers, such as tokens, taken from the one or the other place by place, where neither is padding.
    What holds nothing but 0 and 1, such as masks, stays as it is.
    """
    count = len(batch[0])
    other = torch.from_numpy(rng.permutation(count))
    chosen = rng.random(count) < share
    own = torch.from_numpy(np.where(chosen, rng.random(count), 1.0))  # how much of itself an input keeps
    mask = padding_mask(batch)

    def mix(x: Tensor) -> Tensor:
        by_input = own.reshape(-1, *[1] * (x.ndim - 1))
        if x.is_floating_point():
            return (by_input * x + (1 - by_input) * x[other]).to(x.dtype)
        if x.is_complex() or bool(((x == 0) | (x == 1)).all()):
            return x
        theirs = torch.from_numpy(rng.random(tuple(x.shape))) > by_input
        if mask is not None and x.shape == mask.shape:
            theirs &= mask & mask[other]
        return torch.where(theirs, x[other], x)

    return tuple(mix(x) if has_batch(x, batch[0]) and x.ndim else x for x in batch)


def _answered(output: Output, value: Tensor, mask: Tensor | None) -> Tensor:
    """An output without what it gives for padding."""
    padded = mask is not None and output.axis == -1 and value.ndim == 3 and value.shape[:2] == mask.shape
    return value[mask] if padded else value


class _Network:
    """The network while it is tuned.

    Attributes:
        network: as it was compressed.
        trained: what is trained, by name: "LAYER.donors" [D, h] in integers, "LAYER.size" [O] times its filters' steps,
            and the module's own biases and parameters of norms.
        norms: names of these last, and of what the norm multiplies by.
    """

    def __init__(self, captured: Captured, network: Rebuilt, request: Request) -> None:
        self.network, self._name = network, captured.network.name
        self._module = sharing_weights(network.module)
        for path, module in list(self._module.named_modules()):
            if isinstance(module, DigitalModule):
                self._module.set_submodule(path, module.differentiable())
        self._ties: dict[str, Donors] = {}
        self.trained: dict[str, Tensor] = {}
        for layer in captured.network.layers:
            module = self._module.get_submodule(layer.name)
            module.register_forward_pre_hook(_reading(network.grids[layer.name]))
            plan = network.plans.get(layer.name)
            if plan is None:
                put_own_weights(
                    self._module, layer.name, left_whole(layer, request.chip.grain, network.means[layer.name])
                )
                continue
            self._ties[layer.name] = Donors(plan, layer_weight(self._module, layer.name).shape)
            self.trained[f"{layer.name}.donors"] = torch.from_numpy(plan.donors.astype(np.float32))
            self.trained[f"{layer.name}.size"] = torch.ones(plan.filters)
            if captured.origins[layer.name].takes_bias and layer.name not in captured.folded:  # there the norm has one
                bias = torch.zeros(plan.filters) if module.bias is None else module.bias.detach().clone()  # type: ignore[operator]
                module.bias = nn.Parameter(bias, requires_grad=False)
                self.trained[f"{layer.name}.bias"] = bias.clone()
        whole = {norm for layer, norm in captured.folded.items() if layer not in network.plans}
        self.norms = dict(_norms(self._module, whole))
        self.trained |= {path: parameter_at(self._module, path).detach().clone() for path in self.norms}
        for value in self.trained.values():
            value.requires_grad_()

    @torch.no_grad()
    def units(self, part: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """How large biases and parameters of norms are, value by value; for some inputs.

        A channel's bias counts in what the channel gives, a norm's parameters in what it multiplies the channel by.
        """
        sizes: dict[str, Tensor] = {}

        def seen(name: str, conv: bool, _module: nn.Module, _inputs: Any, given: Tensor) -> None:
            by_channel = given.movedim(1, -1) if conv else given
            sizes[f"{name}.bias"] = by_channel.flatten(0, -2).square().mean(0).sqrt()

        convs = {name for name in self._ties if layer_weight(self._module, name).ndim > 2}
        handles = [
            self._module.get_submodule(name).register_forward_hook(partial(seen, name, name in convs))
            for name in self._ties
        ]
        self.outputs(self.values(), part)
        for handle in handles:
            handle.remove()
        sizes = {name: size for name, size in sizes.items() if name in self.trained}
        sizes |= {path: parameter_at(self._module, weight).abs() for path, weight in self.norms.items()}
        return {name: size.clamp(min=_LEAST_UNIT * (float(size.max()) or 1.0)) for name, size in sizes.items()}

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """The module's parameters as what is trained makes them, by path."""
        found = {
            name: value.detach() for name, value in self.trained.items() if not name.endswith((".donors", ".size"))
        }
        for name, ties in self._ties.items():
            whole = self.trained[f"{name}.donors"].round()
            weight = np.zeros(ties.gain.shape[1], np.float32)
            _add_up(weight, _flat(whole), ties.source.numpy(), ties.gain.numpy())
            by_filter = torch.from_numpy(weight).reshape(len(self.trained[f"{name}.size"]), -1).mul_(ties.step)
            by_filter *= self.trained[f"{name}.size"][:, None]
            found[f"{name}.weight"] = by_filter.reshape(layer_weight(self._module, name).shape)
        return found

    def outputs(self, values: Mapping[str, Tensor], part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the network gives with these parameters."""
        return judged_outputs(
            on_copies(lambda *given: functional_call(self._module, dict(values), given), part), self._name
        )

    def differentiate(self, examples: _Examples, parts: Sequence[tuple[Tensor, ...]]) -> float:
        """Give all that is trained its gradient of the loss on some inputs; the loss, as if all were like these."""
        leaves = {name: value.requires_grad_() for name, value in self.values().items()}
        share, total = examples.count / sum(len(part[0]) for part in parts), 0.0
        for part in parts:
            wanted = _outputs_of(examples.network, part)
            loss = share * examples.loss(part, wanted, self.outputs(leaves, part))
            if not loss.requires_grad:
                raise UserError(f"tune: torch cannot differentiate the outputs of {self._name} by its weights")
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        for name, leaf in leaves.items():
            if name in self.trained:
                self.trained[name].grad = leaf.grad
        for name, ties in self._ties.items():
            slope = leaves[f"{name}.weight"].grad
            if slope is None:  # it takes no part in the outputs
                continue
            size, donors = self.trained[f"{name}.size"], self.trained[f"{name}.donors"]
            by_filter = slope.reshape(len(size), -1)
            weight = leaves[f"{name}.weight"].detach().reshape(len(size), -1)
            size.grad = (by_filter * weight).sum(1) / size.detach()
            scaled = (by_filter * (size.detach()[:, None] * ties.step)).flatten()
            flat = np.zeros(donors.numel() + 1, np.float32)
            _take_apart(flat, scaled.numpy(), ties.source.numpy(), ties.gain.numpy())
            donors.grad = torch.from_numpy(flat[:-1]).reshape(donors.shape)
        return total

    @torch.no_grad()
    def within_range(self) -> None:
        """Keep donors where the plan can store them, and unused rows at 0."""
        for name in self._ties:
            most = self.network.plans[name].largest_weight
            self.trained[f"{name}.donors"].clamp_(-most - 1, most)

    @torch.no_grad()
    def rebuilt(self) -> Rebuilt:
        """The network as it is tuned."""
        module, plans = sharing_weights(self.network.module), {}
        for name, plan in self.network.plans.items():
            donors = self.trained[f"{name}.donors"].round().numpy().astype(np.int8)
            step = (plan.step * self.trained[f"{name}.size"].detach().numpy()).astype(np.float32)
            plans[name] = replace(plan, donors=donors, step=step)
            put_own_weights(module, name, replace(plans[name], bias=np.zeros_like(plan.bias)))
            if f"{name}.bias" in self.trained:
                own = module.get_submodule(name)
                bias = self.trained[f"{name}.bias"].detach()
                before = own.bias.detach() if isinstance(own.bias, Tensor) else torch.zeros_like(bias)
                plans[name] = replace(plans[name], bias=plan.bias + (bias - before).numpy())
                own.bias = nn.Parameter(bias.clone(), requires_grad=False)
        for path in self.norms:
            owner, _, key = path.rpartition(".")
            setattr(
                module.get_submodule(owner), key, nn.Parameter(self.trained[path].detach().clone(), requires_grad=False)
            )
        return replace(self.network, module=module, plans=plans)


def _norms(module: fx.GraphModule, whole: set[str]) -> Iterator[tuple[str, str]]:
    """Paths of what norms multiply by and add, each read in one place, and of what is multiplied by there; but for
    those of ``whole``, modules."""
    paths = [path for path, _ in module.named_parameters(remove_duplicate=False)]
    times = Counter(id(parameter_at(module, path)) for path in paths)
    once = {path for path in paths if times[id(parameter_at(module, path))] == 1}
    for node in module.graph.nodes:
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, _BatchNorm | nn.GroupNorm):
            given = ("", "") if str(node.target) in whole else (f"{node.target}.weight", f"{node.target}.bias")
        else:
            given = norm_parameters(module, node)
        if given[0] in once:
            yield from ((path, given[0]) for path in given if path in once)


def _flat(donors: Tensor) -> Float32:
    """With a 0 behind, which ``Donors.source`` names where there is nothing."""
    return np.append(donors.detach().numpy().ravel(), np.float32(0))


@njit(cache=True, nogil=True)
def _add_up(weight: Float32, donors: Float32, source: NDArray[np.int32], gain: Float32) -> None:
    """Each weight the sum of what its filter's uses give it."""
    for turn in range(len(source)):
        for i in range(len(weight)):
            weight[i] += gain[turn, i] * donors[source[turn, i]]


@njit(cache=True, nogil=True)
def _take_apart(slope: Float32, of_weight: Float32, source: NDArray[np.int32], gain: Float32) -> None:
    """The transpose: each donor's value gets the slopes of all weights that it gives something."""
    for turn in range(len(source)):
        for i in range(len(of_weight)):
            slope[source[turn, i]] += gain[turn, i] * of_weight[i]


def _reading(grid: InputGrid) -> Any:
    """A hook: a layer reads int8 inputs; the gradient passes through, but for what is clipped."""

    def rounded(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_Rounded.apply(args[0], grid), *args[1:])  # type: ignore[no-untyped-call]

    return rounded


class _Rounded(torch.autograd.Function):
    """``InputGrid.rounded`` with a gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, grid: InputGrid) -> Tensor:
        if x.requires_grad:
            low, high = (grid.least - grid.zero) * grid.step, (grid.most - grid.zero) * grid.step
            context.save_for_backward((x >= low) & (x <= high))
        return grid.rounded(x)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Tensor, None]:
        (inside,) = context.saved_tensors
        return slope * inside, None
