"""The training loop, on Lightning Fabric: one epoch after another, a checkpoint after each."""

import json
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.progress import Progress, quiet
from prap_pim.training.checkpoint import Checkpoint, CheckpointFolder
from prap_pim.training.config import TrainingConfig, learning_rate
from prap_pim.training.descent import Descent, check_shards
from prap_pim.training.objective import Loss, OfExamples, OfLoader, Split, cross_entropy, objective_of, out_of_range
from prap_pim.training.processes import Processes

_MOMENTUM = "momentum_buffer"  # what torch's SGD calls it
_LARGEST_RATE = 1.0  # that is used: a greater one is what is wrong
_MUCH_LONGER = 20  # times, by momentum: more is rarely meant
_SQUARE_MOMENTUM = 0.95  # AdamW: momentum of the squared gradient


class Hooks:
    """What a kind of training does beyond descending the loss of its batches. This one: nothing."""

    def digest(self) -> str:
        """Differs if it does anything else or starts elsewhere; a checkpoint of other hooks is never resumed."""
        return ""

    def structure(self) -> bytes:
        """What makes the model another one than the configuration's, for the processes that train along."""
        return b""

    def before_epoch(self, epoch: int) -> None:
        """Called before each epoch, also the first after a resumption; must depend on the model and epoch alone."""

    def add_gradients(self, rate: float) -> None:
        """Add the gradients of further loss terms to the parameters' ``grad``; ``rate`` is the learning rate."""


@dataclass(frozen=True)
class Training:
    """What all epochs of a training have in common.

    Attributes:
        examples: the training split, or the user's loader.
        config: the recipe.
        seed: of batch order, augmentation and dropout. Same seed, thread count and library versions: same weights.
        folder: where the checkpoints go.
        resume: go on from the newest whole checkpoint in ``folder``, if there is one.
        phase: what to call it, in progress and errors.
        progress: called after every batch.
        processes: who computes; this one must be the first, the others call ``train_along``. None: one, on the CPU.
        loss: of a batch.
    """

    examples: Split
    config: TrainingConfig
    seed: int
    folder: Path
    resume: bool = False
    phase: str = "training"
    progress: Progress = quiet
    processes: Processes | None = None
    loss: Loss = cross_entropy


def train(model: nn.Module, training: Training, stop: int | None = None) -> Checkpoint:
    """Base training: epochs 0 .. ``stop`` of cross-entropy + ``weight_decay`` * |w|^2.

    Called again with a later ``stop`` and ``resume``, it goes on from where it was. The checkpoint of epoch
    ``config.compress_at``, from which every method branches, is kept.

    Args:
        model: trained in place. As built with its initial weights, unless a checkpoint is there to go on from, which
            overrides them: they are taken to follow from ``seed`` and are not compared with those of the earlier call.
        training: data, recipe, and where it is kept.
        stop: epochs to do, ``config.compress_at`` if None.

    Returns:
        the checkpoint of epoch ``stop``, whose state ``model`` has.

    Raises:
        UserError: training diverged; the folder cannot be written, or holds checkpoints (of another run, to resume).
    """
    kept = training.config.compress_at
    origin = Checkpoint.of(0, "", model, {})
    return run_epochs(model, training, Hooks(), origin=origin, stop=kept if stop is None else stop, keep=kept)


def run_epochs(
    model: nn.Module, training: Training, hooks: Hooks, *, origin: Checkpoint, stop: int, keep: int
) -> Checkpoint:
    """Train from ``origin.epoch`` to ``stop``; what ``train`` and fine-tuning have in common.

    The batches of an epoch depend on (seed, epoch) alone: base training and fine-tuning of every method see the same.
    After the recipe's last epoch batch norm gets the statistics of the training inputs (``settle_norms``).

    Args:
        hooks: what this kind of training does beyond.
        origin: the state to start from.
        keep: epoch whose checkpoint stays.
        Others as for ``train``.
    """
    config, checkpoints = training.config, CheckpointFolder(training.folder, keep=keep)
    identity = _identity(training, origin, hooks)
    if not training.resume and checkpoints.epochs():
        raise UserError(f"{checkpoints.path} already holds checkpoints: resume that run, or choose another folder")
    current = (checkpoints.newest(identity, until=stop) if training.resume else None) or origin
    current.restore(model)
    processes = training.processes or Processes()
    task = {"basis": _basis(training.examples, config, training.seed), "epochs": [current.epoch, stop]}
    processes.tell(task | {"threads": torch.get_num_threads()}, hooks.structure())
    descent, objective = _descent(model, training.examples, config, training.seed, processes, training.loss)
    optimizer = _optimizer(model, config, current)

    for epoch in range(current.epoch, stop):
        hooks.before_epoch(epoch)
        with closing(descent.losses(epoch)) as losses:
            for i, loss in enumerate(losses):
                if epoch == i == 0 and not isfinite(loss):
                    why = out_of_range(model, objective, processes.fabric.device)
                    raise UserError(f"{training.phase}: the loss is {loss:g} before any step: {why}")
                rate = learning_rate(config, epoch + i / descent.batches)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                hooks.add_gradients(rate)
                optimizer.step()
                _check(isfinite(loss), training, epoch, f"its loss is {loss:g}")
                done = (epoch - origin.epoch) * descent.batches + i + 1
                note = f"epoch {epoch + 1}/{config.epochs}, loss {loss:.3f}"
                training.progress(training.phase, done, (stop - origin.epoch) * descent.batches, note)
        if epoch + 1 == config.epochs:
            objective.settle(model)
        finite = all(bool(value.isfinite().all()) for value in model.state_dict().values())
        _check(finite, training, epoch, "its weights are not finite")
        current = Checkpoint.of(epoch + 1, identity, model, _momentum(model, optimizer))
        checkpoints.write(current)
    model.cpu()
    model.eval()
    return current


def train_along(
    model: nn.Module,
    examples: Split,
    config: TrainingConfig,
    seed: int,
    processes: Processes,
    task: dict[str, Any],
    loss: Loss = cross_entropy,
) -> None:
    """What the other processes do while the first one trains: compute the gradients of their shards.

    Args:
        model: built as the first process's; its weights come from there.
        task: what the first process sent when it began.
        Others as for ``train``.

    Raises:
        UserError: the recipe, seed or data are not the first process's; or it cannot be reached.
    """
    if task["basis"] != _basis(examples, config, seed):
        raise UserError(
            f"process {processes.index + 1} of {processes.count} has other settings, data or torch than the first"
        )
    torch.set_num_threads(task["threads"])
    descent, _ = _descent(model, examples, config, seed, processes, loss)
    for epoch in range(*task["epochs"]):
        for _ in descent.losses(epoch):
            pass


def _descent(
    model: nn.Module, examples: Split, config: TrainingConfig, seed: int, processes: Processes, loss: Loss
) -> tuple[Descent, OfExamples | OfLoader]:
    layout, objective = _layout(model), objective_of(examples, config, loss)
    if isinstance(objective, OfExamples):
        check_shards(config, len(examples), processes.count)
        objective = replace(objective, layout=layout)
    else:
        check_shards(config, None, processes.count)
    model.to(processes.fabric.device, memory_format=layout)  # type: ignore[call-overload]  # torch's annotation lacks it
    wrapped = processes.fabric.setup_module(model)
    return Descent(model, wrapped, objective, config.shards, seed, processes), objective


def _layout(model: nn.Module) -> torch.memory_format:
    """Channels last is faster on a CPU, but torch 2.13 then writes beyond its memory in the backward pass of
    narrow convolutions (2 threads; seen with 4, 8 and 12 filters, not with 16, 20 or 24)."""
    odd = any(isinstance(module, nn.Conv2d) and module.out_channels % 16 for module in model.modules())
    return torch.contiguous_format if odd else torch.channels_last


def _optimizer(model: nn.Module, config: TrainingConfig, start: Checkpoint) -> torch.optim.Optimizer:
    """The optimiser with the momentum of ``start``."""
    weights = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]  # biases and batch norm
    # torch's weight_decay d adds d * w to the gradient; the loss term c * |w|^2 has the gradient 2 * c * w: d = 2 * c
    groups = [{"params": weights, "weight_decay": 2 * config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, _SQUARE_MOMENTUM))
    else:
        optimizer = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    known = dict(model.named_parameters())
    for key, value in start.momentum.items():
        name, _, what = key.partition(":")
        if name in known:
            like = torch.empty_like(known[name] if value.ndim else value)  # laid out as the parameter
            optimizer.state[known[name]][what or _MOMENTUM] = like.copy_(value).detach()
    return optimizer


def _momentum(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """See ``Checkpoint.momentum``."""
    return {
        name if what == _MOMENTUM else f"{name}:{what}": value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def _identity(training: Training, origin: Checkpoint, hooks: Hooks) -> str:
    # a setting that came later and is not made use of changes nothing
    recipe = training.config.model_dump(exclude_none=True)
    shapes = {name: list(value.shape) for name, value in origin.model.items()}  # initial weights: see ``train``
    return _digest(training.examples, [recipe, training.seed, shapes, hooks.digest()])


def _basis(examples: Split, config: TrainingConfig, seed: int) -> str:
    """Digest of what all processes must have alike."""
    return _digest(examples, [config.model_dump(), seed, torch.__version__])


def _digest(examples: Split, settings: list[Any]) -> str:
    # sorted: a checkpoint's tensors come in another order from its file than from the model
    total = sha256(json.dumps(settings, sort_keys=True).encode())
    for part in examples.content:
        total.update(part)
    return total.hexdigest()


class Diverged(UserError):
    """Training left the range of floats: what was done of it is of no use, and other settings may begin anew."""


def _check(sound: bool, training: Training, epoch: int, what: str) -> None:
    if not sound:
        told = f"{training.phase} diverged in epoch {epoch + 1} of {training.config.epochs}, {what}"
        raise Diverged(f"{told}: {_advice(training.config, epoch)}")


def _advice(config: TrainingConfig, epoch: int) -> str:
    """What to change: the setting that is out of range by itself, or how long steps are.

    Descent with momentum m on a penalty p * w^2 is stable while rate * 2 * p < 2 * (1 + m).
    """
    tuning = epoch >= config.compress_at
    rate = config.restart if tuning and config.restart is not None else config.learning_rate
    usual = rate <= _LARGEST_RATE
    for name in ("weight_decay", *(["mask_penalty"] if tuning else [])):
        penalty, most = getattr(config, name), (1 + config.momentum) / rate
        if usual and config.optimizer is None and penalty >= most:
            return f"{name} ({penalty:g}) must be below {most:.3g} at a learning rate of {rate:g}"
    longer = 1 / (1 - config.momentum)
    if usual and longer > _MUCH_LONGER:
        return f"lower momentum (now {config.momentum:g}, which makes steps {longer:.0f} times longer)"
    name = "restart" if tuning and config.restart is not None else "learning_rate"
    return f"lower {name} (now {rate:g}) or lengthen warmup (now {config.warmup:g} epochs)"
