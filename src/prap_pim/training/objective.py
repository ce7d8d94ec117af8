"""What is trained on: batches, and their loss. A package's split of inputs with labels, or a user's loader."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_map

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import digest_of
from prap_pim.common.imports import place_of, running
from prap_pim.frontend import batch_digest
from prap_pim.frontend.evaluate import batches, logits, settle_norms, settling_norms
from prap_pim.training.config import TrainingConfig
from prap_pim.training.data import Examples, Streamed, augment

Loss = Callable[[nn.Module, Any], Tensor]  # of a batch, its mean


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Of the labels of a batch (inputs, labels), the first output taken as logits [n, classes] or [n, T, classes].

    Raises:
        UserError: it is no such batch.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise UserError("without a loss, batches must be pairs (inputs, labels): give loss=, a function (model, batch)")
    inputs, labels = batch
    given = logits(model(inputs))
    try:
        return functional.cross_entropy(given.flatten(0, -2), labels.flatten())
    except (RuntimeError, IndexError) as error:
        what = f"outputs {list(given.shape)} and labels {list(labels.shape)} have no cross-entropy"
        raise UserError(f"{what} ({one_line(error)}): give loss=, a function (model, batch)") from error


class Objective(Protocol):
    """What ``Descent`` goes down."""

    def batches(self) -> int:
        """In an epoch."""

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """The batches of one; what is random in them is drawn from the generator, or follows from its seed."""

    def shards(self, batch: Any, count: int) -> Sequence[Any]:
        """A batch in so many parts, none of them empty."""

    def size(self, batch: Any) -> int:
        """Examples in a batch, or a part of one."""

    def loss(self, model: nn.Module, batch: Any, generator: torch.Generator, device: torch.device) -> Tensor:
        """The mean over the examples."""

    def settle(self, model: nn.Module) -> None:
        """The end of training: see ``settling_norms``."""


@dataclass(frozen=True, eq=False)
class OfExamples:
    """An ``Objective``: inputs and labels in an order that is drawn for each epoch."""

    examples: Examples | Streamed
    config: TrainingConfig
    of_batch: Loss = cross_entropy
    layout: torch.memory_format = torch.contiguous_format  # of images

    @property
    def _size(self) -> int:
        """Examples in an epoch."""
        return min(len(self.examples), self.config.epoch_size or len(self.examples))

    def batches(self) -> int:
        return -(-self._size // self.config.batch_size)

    def epoch(self, generator: torch.Generator) -> Iterator[Tensor]:
        order = torch.randperm(len(self.examples), generator=generator)
        yield from batches(order[: self._size], self.config.batch_size)

    def shards(self, batch: Tensor, count: int) -> Sequence[Tensor]:
        return torch.tensor_split(batch, count)

    def size(self, batch: Tensor) -> int:
        return len(batch)

    def loss(self, model: nn.Module, batch: Tensor, generator: torch.Generator, device: torch.device) -> Tensor:
        inputs, labels = self.examples.take(batch)
        if inputs.ndim == 4:
            inputs = augment(self.config.augment, inputs.contiguous(memory_format=self.layout), generator)
        return self.of_batch(model, (inputs.to(device), labels.to(device)))

    def settle(self, model: nn.Module) -> None:
        settle_norms(model, self.examples)


@dataclass(frozen=True, eq=False)
class Loader:
    """A user's own batches, as a loader gives them: anything that can be gone through again and again.

    Attributes:
        batches: as the loss takes them.
        count: how many it gives.
        digest: of the first one, and how many there are.
    """

    batches: Iterable[Any]
    count: int
    digest: str

    @staticmethod
    def of(given: Any, name: str) -> "Loader":
        """
        Raises:
            UserError: it is no loader, gives nothing, or can only be gone through once.
        """
        if isinstance(given, Iterator) or not isinstance(given, Iterable) or isinstance(given, str | dict | Tensor):
            hint = "it must give batches each time it is gone through, as a DataLoader or a list does"
            raise UserError(f"{name}: {hint}, not {type(given).__name__}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            first = next(of_loader(given, name), None)
        if first is None:
            raise UserError(f"{name} is empty: it gives no batch")
        count = len(given) if isinstance(given, Sized) else sum(1 for _ in of_loader(given, name))
        return Loader(given, count, digest_of(str(count), batch_digest(first)))

    def __len__(self) -> int:
        """Examples, if that is known; else batches."""
        dataset = getattr(self.batches, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else self.count

    @property
    def content(self) -> Iterator[bytes]:
        """What it is known by."""
        yield self.digest.encode()


@dataclass(frozen=True, eq=False)
class OfLoader:
    """An ``Objective``: a user's loader and loss.

    Whatever a batch draws from torch's default generator, as a shuffling DataLoader and torchvision's transforms do,
    follows from seed, epoch and the batch's number.
    """

    loader: Loader
    of_batch: Loss = cross_entropy

    def batches(self) -> int:
        return self.loader.count

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        seed = generator.initial_seed() >> 1
        torch.default_generator.manual_seed(seed)
        items = of_loader(self.loader.batches, "the loader")
        for number in range(self.loader.count):
            torch.default_generator.manual_seed(seed + number)
            try:
                batch = next(items)
            except StopIteration:
                raise UserError(
                    f"the loader ended after {number} of {self.loader.count} batches: it must give all of them each "
                    "time that it is gone through"
                ) from None
            yield batch

    def shards(self, batch: Any, count: int) -> Sequence[Any]:
        size = self.size(batch)
        if size < count:
            raise UserError(f"training.shards ({count}) cannot be more than the examples of a batch ({size})")
        places = torch.tensor_split(torch.arange(size), count)

        def part(chosen: Tensor) -> Any:
            return tree_map(lambda x: x[chosen] if isinstance(x, Tensor) and x.ndim and len(x) == size else x, batch)

        return [part(chosen) for chosen in places]

    def size(self, batch: Any) -> int:
        leaves = (leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.ndim)
        return next((len(leaf) for leaf in leaves), 1)

    def loss(self, model: nn.Module, batch: Any, generator: torch.Generator, device: torch.device) -> Tensor:
        batch = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, batch)
        return self.of_batch(model, batch)

    def settle(self, model: nn.Module) -> None:
        with settling_norms(model) as needed, torch.random.fork_rng(devices=[]):
            for batch in self.epoch(torch.Generator().manual_seed(0)) if needed else ():
                self.of_batch(model, batch)


def of_loader(batches: Iterable[Any], name: str) -> Iterator[Any]:
    """What a user's loader gives, once through.

    Raises:
        UserError: its code raised an error, or ended the program.
    """
    with running(name):
        items = iter(batches)  # at once: a DataLoader draws a number here
    return _each(items, name)


def _each(items: Iterator[Any], name: str) -> Iterator[Any]:
    while True:
        with running(name):
            batch = next(items, _END)
        if batch is _END:
            return
        yield batch


_END = object()  # of a loader
Split = Examples | Streamed | Loader  # what is trained on


def objective_of(given: Split, config: TrainingConfig, loss: Loss) -> OfExamples | OfLoader:
    """What the recipe makes of it; a loader has batches of its own."""
    return OfLoader(given, loss) if isinstance(given, Loader) else OfExamples(given, config, loss)


def out_of_range(model: nn.Module, objective: OfExamples | OfLoader, device: torch.device) -> str:
    """Why the loss of a first batch is not finite, as far as that can be seen: in its inputs, layers or weights."""
    generator = torch.Generator().manual_seed(0)
    batch = next(objective.epoch(generator))
    given = objective.examples.take(batch) if isinstance(objective, OfExamples) else batch
    values = [leaf for leaf in tree_flatten(given)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not all(bool(value.isfinite().all()) for value in values):
        return "the first batch holds values that are not finite"
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            return f"weights {name} are not finite"
    found: list[str] = []

    def look(name: str, outcome: Any) -> None:
        leaves = (leaf for leaf in tree_flatten(outcome)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point())
        if not found and not all(bool(leaf.isfinite().all()) for leaf in leaves):
            found.append(name)

    hooks = [
        part.register_forward_hook(lambda _, __, outcome, name=name: look(name, outcome))
        for name, part in model.named_modules()
        if name and not any(part.children())
    ]
    try:
        objective.loss(model, batch, generator, device)
    finally:
        for hook in hooks:
            hook.remove()
    largest = max((float(value.abs().max()) for value in values if value.numel()), default=0.0)
    if found:
        return f"layer {found[0]} gives values that are not finite; those of the first batch reach {largest:.3g}"
    return f"all layers give finite values, those of the first batch reach {largest:.3g}: look at the loss itself"


def of_user(loss: Any) -> Loss:
    """A user's loss, checked: whatever it raises or returns wrongly becomes one line.

    Raises:
        UserError: it is no function (model, batch).
    """
    if loss is None:
        return cross_entropy
    if not callable(loss):
        raise UserError(f"loss must be a function (model, batch), not {type(loss).__name__}")
    name = getattr(loss, "__name__", "loss")
    try:
        inspect.signature(loss).bind(None, None)
    except TypeError as error:
        raise UserError(f"loss {name} must take two arguments, model and batch") from error
    except ValueError:  # it does not say
        pass

    def checked(model: nn.Module, batch: Any) -> Tensor:
        try:
            value = loss(model, batch)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"loss {name} raised {type(error).__name__}: {one_line(error)}{place_of(error)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise UserError(f"loss {name} must give one number as a tensor, not {type(value).__name__}")
        if torch.is_grad_enabled() and not value.requires_grad:
            raise UserError(f"loss {name} does not depend on the model's weights: it has no gradient")
        return value.reshape(())

    return checked
