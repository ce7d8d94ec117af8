"""PRAP step 3: training on, while the weights are drawn to the patterns and donors that were chosen.

The weights that are trained stay free; projection replaces them by what the compressed layer would compute:
``W := What * M`` with M the filter's shape (its donor's, for a reuser) and What the donor's int8 value times the gain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.frontend.weights import layer_weight, put_weights
from prap_pim.ir.patterns import PatternSet, ReuseMap, effective_shape, plan_weights
from prap_pim.ir.plan import INT8, LayerWeights, largest_integer
from prap_pim.training import Checkpoint, Hooks, Training, TrainingConfig, run_epochs

Float32 = NDArray[np.float32]
Assignments = Mapping[str, tuple[PatternSet, ReuseMap]]  # by layer name, which is the module's path


def matrix(model: nn.Module, name: str) -> Float32:
    """A copy of a layer's weight as float32 [O, inputs].

    Raises:
        UserError: the model has no such layer, or it has no weight matrix.
    """
    return _matrix(layer_weight(model, name)).cpu().numpy().copy()


def project(model: nn.Module, assignments: Assignments, bits: int = INT8) -> dict[str, LayerWeights]:
    """Replace the weights of the named layers by those that their plans compute: one-shot compression.

    Args:
        model: what is changed.
        assignments: what pruning and reuse decided, by layer name.
        bits: of the plans' weights.

    Returns:
        the plans by layer name, with the scale of the weights alone and no bias: see ``LayerWeights.scaled``.

    Raises:
        UserError: a layer is missing, or does not match its assignment.
    """
    plans = {}
    for name, (patterns, reuse) in assignments.items():
        plans[name] = plan_weights(name, matrix(model, name), patterns, reuse, bits=bits)
    for name, plan in plans.items():
        put_weights(model, name, plan)
    return plans


def finetune(
    model: nn.Module, training: Training, start: Checkpoint, assignments: Assignments, bits: int = INT8
) -> None:
    """Train from the checkpoint ``start`` to ``config.epochs`` under the two penalties.

    Layers without an assignment are trained as before; with none at all this is base training, continued. The loss is

        cross-entropy + weight_decay * |w|^2 + mask_penalty * |W - M*W|^2 + reuse_penalty * |(W - What) / gain|^2

    the last over the weights in M, with What constant under differentiation. The last projection is the caller's:
    weights and batch-norm statistics are those before it, so that these can move by what it changes.

    Args:
        model: of the kind that ``start`` was taken of; trained in place.
        start: base training's checkpoint; its momentum is continued.
        assignments: what pruning and reuse decided, by layer name.
        training: data, recipe, and where this method's checkpoints go.
        bits: of the weights that plans will have.

    Raises:
        UserError: as ``project`` and ``training.train``.
    """
    start.restore(model)
    hooks, last = Drawn(model, assignments, training.config, start, bits), training.config.epochs
    run_epochs(model, training, hooks, origin=start, stop=last, keep=last)


class Drawn(Hooks):
    """The penalties' gradients after every batch, and a projection every few epochs.

    A checkpoint holds the weights before the projection that is due, so a resumed run projects the same ones.
    """

    def __init__(
        self, model: nn.Module, assignments: Assignments, config: TrainingConfig, start: Checkpoint, bits: int = INT8
    ) -> None:
        self._model, self._assignments, self._config, self._start = model, assignments, config, start
        self._bits = bits
        self._targets = [
            (layer_weight(model, name), _Target.of(name, patterns, reuse, matrix(model, name).shape, config, bits))
            for name, (patterns, reuse) in assignments.items()
        ]

    def digest(self) -> str:
        """SHA-256 over the assignments, the bits and the start."""
        total = sha256(self._start.digest().encode())
        if self._bits < INT8:
            total.update(f"{self._bits} bits".encode())
        for name, (patterns, reuse) in self._assignments.items():
            total.update(name.encode())
            for part in (patterns.rows, patterns.block_start, patterns.shape, reuse.source, reuse.sign, reuse.exponent):
                total.update(np.ascontiguousarray(part).tobytes())
        return total.hexdigest()

    def before_epoch(self, epoch: int) -> None:
        """Project, if it is time to."""
        if epoch > self._start.epoch and (epoch - self._start.epoch) % self._config.project_every == 0:
            project(self._model, self._assignments, self._bits)

    @torch.no_grad()
    def add_gradients(self, rate: float) -> None:
        """Gradient of mask_penalty * |W - M*W|^2 + reuse_penalty * |(W - What) / gain|^2.

        Gains go down to 2**-8, so the last term's curvature goes up to 2**17 * reuse_penalty. Descent with momentum m
        is stable while rate * curvature < 2 * (1 + m); reuse_penalty / gain^2 is therefore capped at 1 / rate, which
        the paper's schedule never reaches.
        """
        steepest = 2 / rate if rate > 0 else float("inf")
        if self._targets and self._targets[0][0].device != self._targets[0][1].kept.device:  # trained on a GPU
            self._targets = [(weight, target.on(weight.device)) for weight, target in self._targets]
        for name, (weight, target) in zip(self._assignments, self._targets, strict=True):
            if weight.grad is None:
                raise UserError(f"layer {name} is frozen, or takes no part in the loss: leave it dense")
            current = _matrix(weight)
            slope = target.estimate(current).neg_().add_(current).mul_(target.curvature_up_to(steepest))
            weight.grad += slope.reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class _Target:
    """Where each weight of a layer is drawn to, and how strongly. O filters, I inputs.

    Attributes:
        kept: bool [O, I], M.
        source: int32 [O * I], flat index of the donor's weight; of the weight itself where nothing is kept.
        gain: float32 [O, I], sign * 2**exponent; 0 where nothing is kept.
        curvature: float32 [O, I], of the penalty: 2 * reuse_penalty / gain^2; 2 * mask_penalty where nothing is kept.
        largest: of these, where something is kept.
        shares: whether filters take one another's patterns, and so have one step.
        most: the largest integer of a weight.
    """

    kept: Tensor
    source: Tensor
    gain: Tensor
    curvature: Tensor
    largest: float
    shares: bool
    most: int

    @staticmethod
    def of(
        name: str, patterns: PatternSet, reuse: ReuseMap, shape: tuple[int, ...], config: TrainingConfig, bits: int
    ) -> "_Target":
        if shape != (patterns.filters, patterns.fan_in) or reuse.source.shape != patterns.shape.shape:
            raise UserError(f"layer {name}: weights {shape} do not match the pruned {patterns.filters} filters")
        effective = effective_shape(patterns, reuse)
        filters, blocks = np.nonzero(effective >= 0)
        columns = patterns.columns(filters, effective[filters, blocks])  # [pattern, h]
        gains = np.ldexp(reuse.sign.astype(np.float32), reuse.exponent)[filters, blocks]
        pattern, place = np.nonzero(columns >= 0)
        target = filters[pattern], columns[pattern, place]

        kept = np.zeros(shape, np.bool_)
        source = np.arange(kept.size, dtype=np.int32).reshape(shape)
        gain = np.zeros(shape, np.float32)
        curvature = np.full(shape, 2 * config.mask_penalty, np.float32)
        kept[target] = True
        source[target] = reuse.source[filters, blocks][pattern] * patterns.fan_in + target[1]
        gain[target] = gains[pattern]
        curvature[target] = 2 * np.float32(config.reuse_penalty) * gain[target] ** -2
        largest = float(curvature[target].max(initial=0))
        masks, sources = torch.from_numpy(kept), torch.from_numpy(source.ravel())
        weights = torch.from_numpy(gain), torch.from_numpy(curvature)
        return _Target(masks, sources, *weights, largest, reuse.shares, largest_integer(bits))

    def on(self, device: torch.device) -> "_Target":
        """The same where the weights are."""
        kept, source, gain, curvature = (x.to(device) for x in (self.kept, self.source, self.gain, self.curvature))
        return _Target(kept, source, gain, curvature, self.largest, self.shares, self.most)

    def curvature_up_to(self, most: float) -> Tensor:
        """That of the reuse penalty not above ``most``."""
        if self.largest <= most:
            return self.curvature
        return torch.where(self.kept, self.curvature.clamp(max=most), self.curvature)

    def estimate(self, current: Tensor) -> Tensor:
        """What: the donors' values on their grid (``patterns.weight_steps``) times gains, [O, I], a new tensor."""
        least, most = torch.aminmax(current) if self.shares else torch.aminmax(current, dim=1, keepdim=True)
        largest = torch.maximum(most, -least)
        step = torch.where(largest > 0, largest / self.most, 1)
        grid = (current / step).round_().mul_(step)
        return grid.reshape(-1).index_select(0, self.source).reshape(current.shape).mul_(self.gain)


def _matrix(weight: Tensor) -> Tensor:
    return weight.detach().reshape(len(weight), -1)
