"""A batch of inputs as users have it: one tensor, positional arguments, or named ones."""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_map
from torch.utils.data import Dataset

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of

Inputs = (
    Any  # a tensor, a tuple or list of arguments, or a dictionary of named arguments, with tensors somewhere in them
)


def of_arrays(batch: Inputs) -> Inputs:
    """A batch whose NumPy arrays are tensors; real numbers get torch's own precision."""

    def tensor(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        try:
            found = torch.from_numpy(np.ascontiguousarray(leaf))
        except TypeError as error:
            raise UserError(f"inputs must be numbers, not an array of {leaf.dtype}") from error
        return found.to(torch.get_default_dtype()) if found.is_floating_point() else found

    return tree_map(tensor, batch)


def without_labels(batch: Inputs, model: nn.Module) -> Inputs:
    """The inputs alone of a pair (inputs, labels), as data loaders give them, where the model takes one argument.

    Where it takes two, the pair is two arguments.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2 and not _takes(model, batch) and _takes(model, batch[:1]):
        return batch[0]
    return batch


def _takes(model: nn.Module, arguments: Sequence[Any]) -> bool:
    """Whether the model can be called with so many arguments in order."""
    try:
        inspect.signature(model.forward).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # it does not say
        return True
    return True


def tensors(batch: Inputs, name: str) -> tuple[Tensor, ...]:
    """The tensors of a batch in a fixed order, those of a dictionary in the order of its keys.

    Raises:
        UserError: there is none, one is sparse, or the first one holds no input.
    """
    found = tuple(leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor))
    if not found:
        raise UserError(f"model {name} needs inputs with a tensor in them, not {type(batch).__name__}")
    if any(each.layout != torch.strided for each in found):
        raise UserError(f"model {name}: sparse inputs cannot be computed with: give to_dense() of them")
    if found[0].ndim == 0 or len(found[0]) == 0:
        raise UserError(f"model {name} needs at least one input, not {tuple(found[0].shape)}")
    return found


def cut(batches: "Tensor | Sequence[Inputs]", size: int, name: str) -> list[tuple[Tensor, ...]]:
    """Inputs in batches: of one tensor [N, ...] ``size`` at a time, or the batches that were given.

    Raises:
        UserError: there are none, or a batch holds none.
    """
    if isinstance(batches, Tensor):
        if batches.ndim == 0:
            raise UserError(f"model {name}: inputs have their batch in front, a single number has none")
        batches = [batches[i : i + size] for i in range(0, len(batches), size)]
    if not batches:
        raise UserError(f"model {name}: there are no inputs to calibrate with")
    return [tensors(batch, name) for batch in batches]


_ENOUGH = 2  # inputs to trace a model with
_BATCH = 64  # inputs of a tensor at a time


def calibration_batches(calibration: Tensor | Iterable[Inputs], model: nn.Module, name: str) -> Sequence[Inputs]:
    """Calibration inputs as batches that the model takes, checked.

    Args:
        calibration: as for ``prap_pim.compress``.

    Raises:
        UserError: there are none, they differ in what is no tensor or in kind, or hold NaN.
    """
    calibration = of_arrays(calibration)
    if isinstance(calibration, Tensor):
        batches: Sequence[Inputs] = cut(calibration, _BATCH, name)
    elif isinstance(calibration, Mapping):
        batches = [calibration]
    else:
        batches = _of_loader(calibration, model, name)
    for i, batch in enumerate(batches):  # infinite ones may be masks
        if any(each.is_floating_point() and each.isnan().any() for each in tensors(batch, name)):
            raise UserError(f"model {name}: calibration batch {i} holds NaN")
    return batches


def _of_loader(calibration: Any, model: nn.Module, name: str) -> Sequence[Inputs]:
    if isinstance(calibration, str) or not isinstance(calibration, Iterable):
        hint = " (torch.utils.data.DataLoader makes batches of it)" if isinstance(calibration, Dataset) else ""
        kind = type(calibration).__name__
        raise UserError(f"model {name}: the calibration must be a tensor or batches, not {kind}{hint}")
    batches = [without_labels(of_arrays(batch), model) for batch in calibration]
    dimensions = [[each.ndim for each in batch] for batch in cut(batches, _BATCH, name)]  # says what is wrong
    for i, each in enumerate(dimensions):
        if each != dimensions[0]:
            raise UserError(
                f"model {name}: batch {i} has tensors of {each} dimensions, the first of {dimensions[0]}: "
                "give batches of inputs, without labels"
            )
    first = constants(batches[0])
    for i, batch in enumerate(batches):
        for place, value in constants(batch).items():
            if value is not first.get(place) and value != first.get(place):
                raise UserError(
                    f"model {name}: batch {i} has {value!r} at {place}, the first {first.get(place)!r}: what is no "
                    "tensor must be the same in all"
                )
    return batches


def constants(batch: Inputs) -> dict[str, Any]:
    """What is no tensor in a batch, by its place."""
    return {keystr(path): leaf for path, leaf in tree_flatten_with_path(batch)[0] if not isinstance(leaf, Tensor)}


def sizes(batch: Inputs, name: str) -> tuple[tuple[int, ...], ...]:
    """Of the tensors of a batch, without the batch in front of those that have one."""
    found = tensors(batch, name)
    return tuple(tuple(each.shape[has_batch(each, found[0]) :]) for each in found)


def has_batch(tensor: Tensor, first: Tensor) -> bool:
    """Whether a tensor has the batch of the first one in front."""
    return tensor.shape[:1] == first.shape[:1]


def one_of_each_size(batches: Sequence[Inputs], name: str) -> dict[int, Inputs]:
    """The first batch of each size but that of the very first, by its number."""
    seen = {sizes(batches[0], name)}
    found = {}
    for i, batch in enumerate(batches):
        if sizes(batch, name) not in seen:
            seen.add(sizes(batch, name))
            found[i] = batch
    return found


def not_of_one_size(batches: Sequence[Inputs], at: int, name: str) -> UserError:
    """That a model takes inputs of one size, and the batch ``at`` is of another than the first."""
    first, other = (list(sizes(batch, name)) for batch in (batches[0], batches[at]))
    return UserError(
        f"model {name}: batch {at} has inputs of {other}, the first of {first}, and the model was traced with that: "
        "give all of them one size"
    )


def call(model: nn.Module, batch: Inputs) -> Any:
    """What a model gives for a batch."""
    if isinstance(batch, Tensor):
        return model(batch)
    return model(**batch) if isinstance(batch, Mapping) else model(*batch)


def few(model: nn.Module, batch: Inputs, name: str) -> Inputs:
    """The first inputs of a batch, if the model takes so few: enough where only shapes and types matter."""
    first = tensors(batch, name)[0]
    if len(first) <= _ENOUGH:
        return batch

    def cut_short(leaf: Any) -> Any:
        return leaf[:_ENOUGH].clone() if isinstance(leaf, Tensor) and has_batch(leaf, first) else leaf

    try:
        call(model, tree_map(cut_short, batch))
    except Exception:  # it is told of the whole
        return batch
    return tree_map(cut_short, batch)


def outputs(value: Any, name: str) -> tuple[Tensor, ...]:
    """The tensors of what a model gives, in order.

    Raises:
        UserError: there is none.
    """
    leaves = tree_flatten(_plain(value))[0]
    found = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    if not found:
        raise UserError(f"model {name} gives no tensor, but {', '.join({type(leaf).__name__ for leaf in leaves})}")
    return found


def judged_outputs(value: Any, name: str) -> tuple[Tensor, ...]:
    """As ``outputs``; one number for each input, [N], as values [N, 1]."""
    return tuple(x[:, None] if x.ndim == 1 else x for x in outputs(value, name))


def filled(like: Any, values: Iterator[Tensor]) -> Any:
    """What a model gives with other tensors in it, in order."""

    def put(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return next(values)
        if not _is_record(leaf):
            return leaf
        record = copy.copy(leaf)
        for each in dataclasses.fields(leaf):
            object.__setattr__(record, each.name, filled(getattr(leaf, each.name), values))
        return record

    return tree_map(put, like)


def _plain(value: Any) -> Any:
    """With dictionaries in the place of dataclasses that torch does not look into."""

    def fields(leaf: Any) -> Any:
        if not _is_record(leaf):
            return leaf
        return {each.name: _plain(getattr(leaf, each.name)) for each in dataclasses.fields(leaf)}

    return tree_map(fields, value)


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def padding_mask(batch: Sequence[Tensor]) -> Tensor | None:
    """Which positions of a batch of padded sequences are no padding, bool [N, T]; None if nothing says so.

    It is the input of 0s and 1s, each sequence 1s and then 0s, beside another one of whole numbers of the same size:
    the attention mask beside the tokens.
    """
    whole = [x for x in batch if x.ndim == 2 and not x.is_floating_point() and not x.is_complex()]
    for x in whole:
        beside = any(other is not x and other.shape == x.shape for other in whole)
        binary = beside and bool(((x == 0) | (x == 1)).all()) and bool((x[:, 0] == 1).all())
        if binary and bool((x.long().diff(dim=1) <= 0).all()):
            return x.bool()
    return None


def output_names(value: Any) -> tuple[str, ...]:
    """Of the tensors of what a model gives, in order: keys and numbers, dots between them; "0" for a single one."""
    leaves, _ = tree_flatten_with_path(_plain(value))
    names = (
        keystr(path).replace("][", ".").strip("[].").replace("'", "") for path, x in leaves if isinstance(x, Tensor)
    )
    return tuple(name or "0" for name in names)


def doubled(batch: Inputs) -> Inputs:
    """A batch of one input as a batch of two equal ones."""

    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == 1 else leaf

    return tree_map(twice, batch)


def on_copies(network: Callable[..., Any], batch: Sequence[Tensor]) -> Any:
    """What a network gives for the tensors of a batch, which stay as they are: it may work in place."""
    return network(*(tensor.clone() for tensor in batch))


def batch_digest(batch: Any) -> str:
    """SHA-256 over the tensors of a batch, and what else is in it."""
    return digest_of(*(_bytes(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in tree_flatten(batch)[0]))


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def state_digest(model: nn.Module) -> str:
    """SHA-256 over the parameters and buffers of a module."""
    state = model.state_dict()
    return batch_digest([item for name in sorted(state) for item in (name, state[name])])
