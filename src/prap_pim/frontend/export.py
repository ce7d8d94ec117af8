"""Any model that torch.export can trace, in the normal form that the capture works on.

What torch.export gives is a graph of ATen functions, whatever modules the model was made of. Here every product with a
weight becomes a call of an ``nn.Linear`` or ``nn.Conv1d..3d`` again, batch norm a call of its module, and all that the
inputs have no part in a constant.
"""

import io
import logging
import traceback
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_unflatten

from prap_pim.common.errors import UserError
from prap_pim.frontend.graph import Origin
from prap_pim.frontend.inputs import Inputs, call, on_copies, outputs
from prap_pim.frontend.lower import Lowering, is_open
from prap_pim.frontend.packed import Padded, unpacked


class OneSize(Exception):
    """A model can be traced for inputs of one size alone."""


class _Flat(nn.Module):
    """A model that takes and gives tensors alone."""

    def __init__(self, model: nn.Module, example: Inputs, name: str) -> None:
        super().__init__()
        self.model = model
        self._leaves, self._spec = tree_flatten(example)
        self._name = name

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        leaves = [next(left) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        return outputs(call(self.model, tree_unflatten(leaves, self._spec)), self._name)


def exported(
    model: nn.Module, example: Inputs, name: str, varying: Sequence[Collection[int]] = ()
) -> tuple[fx.GraphModule, dict[str, Origin], dict[str, str]]:
    """Trace a model by torch.export and bring it into the normal form.

    Args:
        model: in eval mode; its weights are shared with what is returned where their order is the same.
        example: a batch of at least two inputs.
        name: of the model, for errors.
        varying: of each tensor of the example, the axes beside the batch whose sizes vary.

    Returns:
        the graph, which takes the tensors of the example (``inputs.tensors``) and gives a tensor or a tuple of tensors;
        where the weights of its layers are in the model; and what has weights but cannot be mapped, with the reason.

    Raises:
        UserError: it cannot be traced, or not for any batch size.
        OneSize: it can be traced, but not for other sizes on the varying axes.
    """
    flat = _Flat(model, example, name)
    given = tuple(leaf for leaf in tree_flatten(example)[0] if isinstance(leaf, Tensor))
    batch = len(given[0])
    axes = [{0} if each.ndim and len(each) == batch else set() for each in given]
    axes = [own | set(more) for own, more in zip(axes, varying or [()] * len(given), strict=True)]
    free = tuple(dict.fromkeys(sorted(each), torch.export.Dim.AUTO) for each in axes)
    one_size = False
    for strict in (False, True):  # the quicker and more tolerant way takes len(x) for a constant
        try:
            with without_a_word(), unpacked(model) as packed:
                program = torch.export.export(flat, given, dynamic_shapes={"given": free}, strict=strict)
                module = program.module(check_guards=False)
        except UserError:
            raise
        except Exception as error:
            if strict:
                break
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if _packs(error):
                reason = "it packs sequences of several lengths; give its recurrent layers padded ones"
            if any(varying):
                raise OneSize from error
            raise UserError(f"model {name} cannot be traced: {reason}") from error
        assert isinstance(module, fx.GraphModule)
        traced = Lowering(module, model).lowered()
        if packed and not _of_one_shape(traced[0], given, flat):
            why = "packed sequences are traced padded: one of the example must be as long as the longest there are"
            raise UserError(f"model {name}: {why}")
        if _any_batch(module) and _are_open(module, varying):
            return traced
        one_size = one_size or _any_batch(module)
    if one_size:
        raise OneSize
    why = "".join(f" ({path}: {reason})" for path, reason in traced[2].items())
    raise UserError(f"model {name} works for a batch of {batch} alone{why}; make it take batches of any size")


@torch.no_grad()
def _of_one_shape(module: fx.GraphModule, given: Sequence[Tensor], model: nn.Module) -> bool:
    """Whether a traced model gives tensors of the shapes that the model gives."""
    found = outputs(on_copies(module, given), "")
    return [each.shape for each in found] == [each.shape for each in on_copies(model, given)]


def _packs(error: Exception) -> bool:
    """Whether tracing failed where there was a packed sequence."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(isinstance(value, PackedSequence | Padded) for frame in frames for value in frame.f_locals.values())


@contextmanager
def without_a_word() -> Iterator[None]:
    """What torch warns, logs and prints of a model that it cannot trace or run traced is not shown."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.ERROR))
        try:
            yield
        finally:
            logging.disable(before)


def _any_batch(module: fx.GraphModule) -> bool:
    """Whether the first input's batch was left open."""
    first = next(node for node in module.graph.nodes if node.op == "placeholder")
    return is_open(first.meta["val"].shape[0])


def _are_open(module: fx.GraphModule, varying: Sequence[Collection[int]]) -> bool:
    """Whether all axes whose sizes vary were left open."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    every = ((node.meta["val"].shape, axes) for node, axes in zip(inputs, varying, strict=False))
    return all(is_open(shape[axis]) for shape, axes in every for axis in axes)
