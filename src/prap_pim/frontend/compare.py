"""How far a network's outputs are from another's: each output by the measure that fits it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log, log10
from typing import Literal

import torch
from torch import Tensor, fx
from torch.nn import functional

from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest

Kind = Literal["classes", "values"]

_FEW = 4  # channels of boxes and pictures: classes only where nothing else is given, or a softmax says so
_FLAT, _SATURATED = 0.9, 1e-3  # of the entropy of equal probabilities: logits of classes lie between
_ONE_CLASS = 0.95  # of the answers: what nearly always has the same largest entry are no classes
# fmt: off
_PASSING = (
    "flatten", "reshape", "view", "squeeze", "unsqueeze", "transpose", "permute", "contiguous", "clone", "to",
    "identity", "dropout", "alias", "detach", "_to_copy", "cast", "unflatten",
)
# fmt: on
_NORMS = ("layernorm", "layer_norm", "rmsnorm", "rms_norm", "normalize")
_SOFTMAX = ("softmax", "log_softmax", "logsoftmax", "_softmax", "_log_softmax", "softmax2d")
_AT_A_TIME = 1 << 22  # values that are computed with in float64
_TINY = 1e-30
_CONSTANT = 1e-12  # of the mean square: values that vary by less do not vary
_LEAST_DB = -300.0
_INFINITE = 1e18  # what an infinite difference counts as


@dataclass(frozen=True)
class Output:
    """One floating-point output of a network, and how it is judged.

    Attributes:
        name: as the model has it: a key, or a number in order.
        place: among all outputs.
        kind: "classes" by the divergence of their probabilities (Kullback-Leibler, in nats), "values" by their squared
            error relative to their own variance.
        axis: of the classes or channels.
        answers: classes or vectors of values that one input gets, such as one for each token.
        weight: what it counts beside the others.
    """

    name: str
    place: int
    kind: Kind
    axis: int
    answers: int = 1
    weight: float = 1.0


def as_values(outcome: Sequence[Tensor]) -> tuple[Output, ...]:
    """All floating-point outputs, in order, as values: channels in front of maps, else last."""
    places = (place for place, value in enumerate(outcome) if value.is_floating_point())
    return tuple(Output(str(place), place, "values", 1 if outcome[place].ndim > 3 else -1) for place in places)


@dataclass(frozen=True)
class Difference:
    """Of one output over some inputs.

    Attributes:
        output: which.
        sqnr_db: signal to noise; infinite if there is no difference. The signal is what varies: each channel's distance
            from its mean over inputs and positions, or from 0 where nothing varies.
        changed: share of the classes that are others; None where the output has none.
    """

    output: Output
    sqnr_db: float
    changed: float | None


def judged(
    module: fx.GraphModule,
    outcome: Sequence[Tensor],
    names: Sequence[str],
    maps: bool,
    weights: Mapping[str, float] | None = None,
    *,
    known: bool = False,
    fewer: Sequence[Tensor] | None = None,
) -> tuple[Output, ...]:
    """How each floating-point output of a network is to be judged.

    An output has classes if a softmax makes it, or if the softmax of it would be neither flat nor saturated nor always
    largest at one place; what a norm gives are values. Four entries or fewer, such as boxes and colours, are values
    where there are other outputs or the output is a map.

    Args:
        module: the traced network.
        outcome: what it gives for some inputs, in order.
        names: of the outputs.
        maps: whether the last layer is a convolution: the channels of what has more than two dimensions are in front.
        weights: what an output counts, by name; 0 leaves it out, and what is not named counts 1.
        known: that the outputs have classes, however they look.
        fewer: what it gives for fewer inputs: where classes or channels are then fewer, the batch is not in front, and
            nothing is known of that output.

    Raises:
        UserError: there is no output with values or classes for every input, or ``weights`` names none, or is wrong.
    """
    returned = next(node for node in module.graph.nodes if node.op == "output").all_input_nodes
    found = []
    for place, value in enumerate(outcome):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            continue
        axis = 1 if value.ndim > 3 or (maps and value.ndim > 2) else -1
        if fewer is not None and (fewer[place].shape[axis] != value.shape[axis] or len(fewer[place]) == len(value)):
            continue
        made_by = _made_by(returned[place]) if place < len(returned) and len(returned) == len(outcome) else ""
        alone = sum(each.is_floating_point() and each.ndim >= 2 for each in outcome) == 1
        plain = alone and value.ndim <= 3 and not (maps and value.ndim > 2)
        classes = value.shape[axis] > 1 and (
            known
            or made_by in _SOFTMAX
            or (made_by not in _NORMS and (value.shape[axis] > _FEW or plain) and _like_logits(value.float(), axis))
        )
        answers = max(1, value[:1].numel() // value.shape[axis])
        found.append(Output(names[place], place, "classes" if classes else "values", axis, answers))
    if not found:
        raise UserError(
            "the network gives no tensor of real numbers with classes or values for every input, the inputs in front"
        )
    if weights is None:
        return tuple(found)
    names = [output.name for output in found]
    by_number = {str(output.place): output.name for output in found}
    weights = {str(name) if str(name) in names else by_number.get(str(name), name): x for name, x in weights.items()}
    for name, weight in weights.items():
        if name not in names:
            raise UserError(f"outputs: there is no output {name!r} ({nearest(str(name), names)})")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < inf:
            raise UserError(f"outputs: the weight of {name!r} must be a number from 0 up, not {weight!r}")
    every = (replace(output, weight=float(weights.get(output.name, 1))) for output in found)
    chosen = tuple(output for output in every if output.weight > 0)
    if not chosen:
        raise UserError(f"outputs: no output of the network counts; give a weight above 0 to one of {', '.join(names)}")
    return chosen


def _made_by(node: fx.Node) -> str:
    """The operation that makes a value, but for those that only pass it on; empty for an input."""
    while node.op in ("call_function", "call_method", "call_module") and node.all_input_nodes:
        name = _name(node)
        if name not in _PASSING:
            return name
        node = node.all_input_nodes[0]
    return ""


def _name(node: fx.Node) -> str:
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target)) if node.graph.owning_module else None
        return str(getattr(module, "op", type(module).__name__)).lower()
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._opname.rstrip("_")
    return getattr(node.target, "__name__", str(node.target))


def _like_logits(value: Tensor, axis: int) -> bool:
    logits = value.movedim(axis, -1).flatten(0, -2)
    p = functional.log_softmax(logits, -1)
    entropy = float(-(p.exp() * p).sum(-1).mean()) / log(logits.shape[-1])
    most = int(torch.bincount(logits.argmax(-1)).max())
    return _SATURATED < entropy < _FLAT and most <= _ONE_CLASS * len(logits)


def divergence(judges: Sequence[Output], pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> float:
    """Of all outputs and batches together, by the outputs' weights: nats of classes, relative squared error of values.

    Args:
        judges: the outputs.
        pairs: batch by batch, what is wanted and what was found.
    """
    lost, size, spreads = [0.0 for _ in judges], [0 for _ in judges], [Spread() for _ in judges]
    for wanted, found in pairs:
        for i, output in enumerate(judges):
            own = wanted[output.place].float()
            each = losses(output, own, found[output.place].float())
            lost[i] += float(each.sum(dtype=torch.float64))
            if output.kind == "classes":
                size[i] += each.numel()
            else:
                spreads[i].add(own, output.axis)
    sizes = [n if o.kind == "classes" else s.total for o, n, s in zip(judges, size, spreads, strict=True)]
    shares = (o.weight * max(0.0, noise) / max(n, _TINY) for o, noise, n in zip(judges, lost, sizes, strict=True))
    return sum(shares) / sum(output.weight for output in judges)


def losses(output: Output, wanted: Tensor, found: Tensor) -> Tensor:
    """What each answer with classes diverges by, in nats, or the squared error of each value; differentiable."""
    if output.kind == "values":
        return torch.where(wanted == found, 0.0, found - wanted).square()
    p, q = functional.log_softmax(wanted, output.axis), functional.log_softmax(found, output.axis)
    return (p.exp() * torch.where(p == q, 0.0, p - q)).sum(output.axis)  # masked classes are -inf


class Spread:
    """Squared distance of values from the means of their channels, over any number of batches; infinite ones count as 0
    (masks)."""

    def __init__(self) -> None:
        self._count = 0
        self._first: Tensor | None = None  # taken off all: sums of squares then keep their digits
        self._sums: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, value: Tensor, axis: int) -> None:
        """Count a batch, whose channels are along ``axis``."""
        by_channel = value.movedim(axis, -1).flatten(0, -2) if value.ndim > 1 else value.reshape(-1, 1)
        for rows in torch.split(by_channel, max(1, _AT_A_TIME // max(1, by_channel.shape[1]))):
            precise = rows.double().nan_to_num(0, 0, 0)
            if self._first is None and len(precise):
                self._first = precise[0].clone()
            precise = precise - (self._first if self._first is not None else 0.0)
            self._sums = self._sums + precise.sum(0)
            self._squares = self._squares + precise.square().sum(0)
        self._count += len(by_channel)

    @property
    def total(self) -> float:
        """From 0 in place of the means where values do not vary; 0 if all are 0."""
        if not isinstance(self._sums, Tensor) or self._first is None:
            return 0.0
        mean = self._sums / self._count
        around = (self._squares - self._count * mean.square()).clamp(min=0)
        power = around + self._count * (mean + self._first).square()
        varying = around > _CONSTANT * power
        return float((around[varying] if varying.any() else power).sum())


def classes_of(judges: Sequence[Output], outcome: Iterable[Sequence[Tensor]]) -> Tensor | None:
    """What the outputs with classes take the inputs of all batches for; None if there is no such output."""
    with_classes = [output for output in judges if output.kind == "classes"]
    found = [every[o.place].argmax(o.axis).flatten() for every in outcome for o in with_classes]
    return torch.cat(found) if found else None


class Comparison:
    """Outputs of one network beside another's, batch by batch."""

    def __init__(self, judges: Sequence[Output]) -> None:
        self.judges = judges
        self._signal = [Spread() for _ in judges]
        self._noise = [0.0 for _ in judges]
        self._changed = [0 for _ in judges]
        self._answers = [0 for _ in judges]

    def add(self, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Count a batch."""
        for i, output in enumerate(self.judges):
            own, other = wanted[output.place], found[output.place]
            for some, others in zip(*(torch.split(x.flatten(), _AT_A_TIME) for x in (own, other)), strict=True):
                same = (some == others) | some.isnan()  # equal infinities, and what was no number before
                off = torch.where(same, 0.0, some.double() - others.double())
                self._noise[i] += float(off.nan_to_num(_INFINITE, _INFINITE, _INFINITE).square().sum())
            self._signal[i].add(own, output.axis)
            if output.kind == "classes":
                differ = own.argmax(output.axis) != other.argmax(output.axis)
                self._changed[i] += int(differ.sum())
                self._answers[i] += differ.numel()

    @property
    def sqnr_db(self) -> float:
        """Of all outputs together."""
        return decibel(sum(signal.total for signal in self._signal), sum(self._noise))

    def differences(self) -> tuple[Difference, ...]:
        """Of every output."""
        return tuple(
            Difference(
                output,
                decibel(self._signal[i].total, self._noise[i]),
                self._changed[i] / n if (n := self._answers[i]) else None,
            )
            for i, output in enumerate(self.judges)
        )


def decibel(signal: float, noise: float) -> float:
    """Signal to noise in dB, at least -300; infinite without noise."""
    if noise == 0:
        return inf
    return max(_LEAST_DB, 10 * log10(signal / noise)) if signal > 0 else _LEAST_DB
