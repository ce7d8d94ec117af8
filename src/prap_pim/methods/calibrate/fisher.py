"""What the error of each filter of a layer counts by its effect on the network's outputs, where that is asked for.

An error of a filter's outputs that is small and independent from position to position makes the network's outputs
diverge by half its square times the Fisher information (Martens, JMLR 2020): the mean squared gradient of the loss,
with labels drawn from the network's own distribution. One backward pass measures it.
"""

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prap_pim.frontend import Captured, Output, Spread, judged_outputs, on_copies

Float64 = NDArray[np.float64]

_EVENLY = 0.1  # of the mean, added to every filter's weight: other inputs may need what these do not
_TINY = 1e-30


def filter_weights(
    captured: Captured, batches: Sequence[tuple[Tensor, ...]], judges: Sequence[Output], seed: int, exponent: float
) -> dict[str, Float64]:
    """What each filter's error counts beside the others of its layer, of layers whose scale holds no batch norm.

    The same for all filters where no gradient comes, as from a network that cannot be differentiated.

    Args:
        captured: the network.
        batches: calibration inputs; all activations of one batch are held at a time.
        judges: the outputs.
        seed: of the random directions.
        exponent: of the squared gradient; 0: all filters count the same, and no gradient is looked at.

    Returns:
        float64 [O] by layer name, the greatest 1.
    """
    if exponent == 0:
        return {}
    squares = squared_gradients(captured, batches, judges, seed)
    return {name: _weights(each, exponent) for name, each in squares.items() if name not in captured.folded}


def _weights(squares: Float64, exponent: float) -> Float64:
    if not (np.isfinite(squares).all() and squares.max() > 0):
        return np.ones(len(squares))
    weight = (squares / squares.max()) ** exponent
    weight += _EVENLY * weight.mean()
    return np.asarray(weight / weight.max())


@torch.no_grad()
def squared_gradients(
    captured: Captured, batches: Sequence[tuple[Tensor, ...]], judges: Sequence[Output], seed: int
) -> dict[str, Float64]:
    """Of the loss with respect to what each filter gives, in front of a batch norm, summed over inputs, positions and
    calls; float64 [O] by layer name. 0 where no gradient comes. Arguments as for ``filter_weights``.

    The outputs' losses are random: each output times a random direction whose covariance is its Fisher information,
    relative to the others as ``divergence`` counts them.
    """
    module = copy.deepcopy(captured.module, {id(p): p.detach() for p in captured.module.parameters()})
    layers, name = captured.network.layers, captured.network.name
    sums = {layer.name: torch.zeros(layer.filters, dtype=torch.float64) for layer in layers}
    generator = torch.Generator().manual_seed(seed)
    sizes = _sizes(captured, batches, judges) if len(judges) > 1 else [1.0]
    factors = [(output.weight / size) ** 0.5 for output, size in zip(judges, sizes, strict=True)]
    for layer in layers:
        watch = partial(_watch, sums[layer.name], 1 if layer.kind == "conv" else -1)
        module.get_submodule(layer.name).register_forward_hook(watch)
    try:
        for batch in batches:
            with torch.enable_grad():
                found = judged_outputs(on_copies(module, batch), name)
            values = [found[output.place] for output in judges]
            directions = [
                _direction(v.detach(), o, generator) * f for v, o, f in zip(values, judges, factors, strict=True)
            ]
            pairs = [(v, d) for v, d in zip(values, directions, strict=True) if v.requires_grad]
            if pairs:
                torch.autograd.backward([v for v, _ in pairs], [d for _, d in pairs])
    except RuntimeError:  # torch cannot differentiate it
        return {each: np.zeros(len(total)) for each, total in sums.items()}
    return {each: total.numpy() for each, total in sums.items()}


def _watch(total: Tensor, axis: int, _module: nn.Module, _inputs: tuple[Tensor, ...], found: Tensor) -> Tensor:
    """A forward hook: adds the squared gradient of what a layer gives, channels along ``axis``, to ``total`` [O]."""

    def add(gradient: Tensor) -> None:
        total.add_(gradient.movedim(axis, -1).flatten(0, -2).square().sum(0, dtype=torch.float64))

    found.requires_grad_().register_hook(add)  # type: ignore[no-untyped-call]
    return found.clone() if found.is_leaf else found  # a leaf may not be worked on in place


def _direction(value: Tensor, output: Output, generator: torch.Generator) -> Tensor:
    """Random, its mean 0; its covariance is diag(p) - p p^T for classes of probabilities p, the identity for values."""
    signs = torch.randint(0, 2, value.shape, generator=generator).mul_(2).sub_(1).to(value)
    if output.kind == "values":
        return signs
    p = value.softmax(output.axis)
    signs *= p.sqrt()
    return signs - p * signs.sum(output.axis, keepdim=True)


def _sizes(captured: Captured, batches: Sequence[tuple[Tensor, ...]], judges: Sequence[Output]) -> list[float]:
    """By what a squared gradient of each output's loss is to be divided: nats are half of it for each answer, and
    errors of values are relative to their spread."""
    answers, spreads = [0 for _ in judges], [Spread() for _ in judges]
    for batch in batches:
        found = judged_outputs(on_copies(captured.module, batch), captured.network.name)
        for i, output in enumerate(judges):
            value = found[output.place]
            answers[i] += value.numel() // value.shape[output.axis]
            spreads[i].add(value, output.axis)
    pairs = zip(judges, answers, spreads, strict=True)
    return [max(_TINY, s.total) if o.kind == "values" else 2.0 * n for o, n, s in pairs]
