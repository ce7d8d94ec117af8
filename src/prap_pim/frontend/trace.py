"""A PyTorch model becomes a ``Network``: traced, its shapes found by running an example.

Two tracers end in one normal form, a graph in which every product with a weight matrix is a call of an ``nn.Linear`` or
``nn.Conv1d..3d``: torch.fx for plain models of such modules, torch.export (``export.py``) for all others.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_map

from prap_pim.common.errors import UserError
from prap_pim.frontend.export import OneSize, exported, without_a_word
from prap_pim.frontend.graph import CONVS, PRODUCTS, Captured, Origin, raw_name
from prap_pim.frontend.inputs import (
    Inputs,
    call,
    doubled,
    few,
    has_batch,
    not_of_one_size,
    of_arrays,
    on_copies,
    one_of_each_size,
    output_names,
    outputs,
    tensors,
)
from prap_pim.frontend.plain import plain_copy
from prap_pim.frontend.rows import merge_rows

_NORMS = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm  # their weights stay digital


_WEIGHTED_FUNCTIONS: frozenset[Any] = frozenset(
    {
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
        functional.linear,
        functional.bilinear,
        functional.embedding,
        functional.multi_head_attention_forward,
    }
)


_ALIKE = 1e-3  # of the largest output


def capture(
    model: nn.Module, example: Inputs, name: str, skip: Collection[str] = (), others: Sequence[Inputs] = ()
) -> Captured:
    """Trace a model in eval mode.

    Every product with a weight matrix becomes a ``Layer`` (a convolution of one to three dimensions, strided, padded,
    dilated, grouped; a transposed one as the product that it is, its sums overlapped digitally; linear layers; the
    projections of attention); a matrix that is used more than once is stored once. A batch norm that alone and directly
    follows goes into ``filter_scale`` and ``filter_bias``. Everything else that computes becomes a ``DigitalOp``.

    Args:
        model: the user's model; it is copied and never touched.
        example: an input batch, batch first, on the model's device: a tensor, a tuple of positional arguments or a
            dictionary of named ones. Only shapes and types matter.
        name: what to call the network.
        skip: names of modules that may be computed digitally where they cannot be mapped.
        others: further batches. Sizes in which they differ from the example are left open; those of the network are the
            example's.

    Raises:
        UserError: the model does not run on the example, cannot be traced, not for all sizes, or has layers that cannot
            be mapped; names the module paths and the reasons.
    """
    check_model(model)
    batches = [_alone(of_arrays(batch)) for batch in (example, *others)]
    sized = one_of_each_size(batches, name)
    example = batches[0]
    example = _cloned(example)  # it may be changed
    tensors(example, name)  # says what it needs
    model = plain_copy(model, name)
    with torch.no_grad():
        example = few(model, example, name)
        flat = tensors(example, name)
        batch = len(flat[0])
        try:
            given = call(model, example)
        except Exception as error:
            shapes = ", ".join(str(tuple(each.shape)) for each in flat)
            hint = " (a batch of two is two arguments: give it without labels)" if _like_labels(flat) else ""
            raise UserError(f"model {name} does not run on an input {shapes}: {_line(error)}{hint}") from error
        _without_observers(model, example)
        module = _plainly_traced(model, example, list(sized.values()))
        origins: Mapping[str, Origin] = {}
        unsupported: Mapping[str, str] = {}
        if module is None:
            if batch == 1:  # a batch of one would be traced as a constant
                flat, example = doubled(flat), doubled(example)
                batch = 2
            varying = _varying(flat, [tensors(batch, name) for batch in sized.values()])
            try:
                module, origins, unsupported = exported(model, example, name, varying)
            except OneSize:
                exported(model, example, name)  # says why if it cannot be traced at all
                raise not_of_one_size(batches, next(iter(sized)), name) from None
            for at, batch in sized.items() if _gives_the_same(module, model, example, name) else ():
                if not _gives_the_same(module, model, batch, name):
                    raise not_of_one_size(batches, at, name)
        _check_skipped(unsupported, skip, name)
        if any(node.target is merge_rows for node in module.graph.nodes):  # whose loads are those of all inputs
            flat = tensors(_cloned(batches[0]), name)
        captured = Captured.of_graph(module, flat, name, origins, unsupported)
        _check_skipped(captured.unsupported, skip, name)
        return replace(captured, outputs=output_names(given), read_twice=_read_twice(model, captured))


def _check_skipped(unsupported: Mapping[str, str], skip: Collection[str], name: str) -> None:
    """
    Raises:
        UserError: something cannot be mapped that was not to be skipped.
    """
    refused: dict[str, list[str]] = {}
    for path, reason in unsupported.items():
        if not _named(path, skip):
            refused.setdefault(reason, []).append(path)
    if refused:
        every = "; ".join(f"{', '.join(paths)}: {reason}" for reason, paths in refused.items())
        raise UserError(f"model {name} cannot be mapped as a whole: {every} (or name what to skip)")


def check_trained(model: nn.Module, name: str) -> None:
    """
    Raises:
        UserError: it has parameters of half precision: these are compressed, but steps of training are lost in them.
    """
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UserError(f"model {name} is in {kind}, which is compressed but not trained: give model.float()")


def check_model(model: Any) -> None:
    """
    Raises:
        UserError: it is no module that can be traced.
    """
    if scripted := _scripted(model):
        raise UserError(
            f"{scripted} is TorchScript, which cannot be traced: give the nn.Module that it was made of (its "
            "load_state_dict takes the state_dict() of this one), or export it to ONNX and use prap-pim compress"
        )
    if not isinstance(model, nn.Module):
        raise UserError(f"the model must be a torch.nn.Module, not {getattr(model, '__name__', type(model).__name__)}")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UserError(f"{name} has no size yet: call the model once before")
        if parameter.is_meta:
            raise UserError(f"{name} is on the device meta, which keeps no values: load the weights before")
        if parameter.is_complex():
            raise UserError(f"{name} holds complex numbers, which cells do not")


def _scripted(model: Any) -> str:
    """What of a model is TorchScript, in words; nothing if it is none."""
    kinds = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    if not isinstance(model, nn.Module):
        return "the model" if isinstance(model, kinds) else ""
    paths = (path for path, module in model.named_modules() if isinstance(module, kinds))
    path = next(paths, None)
    return "" if path is None else f"module {path} of the model" if path else "the model"


def _read_twice(model: nn.Module, captured: Captured) -> tuple[str, ...]:
    """See ``Captured``."""
    by_path: dict[str, list[str]] = {}
    for layer in captured.network.layers:
        if not captured.origins[layer.name].computed:
            by_path.setdefault(captured.origins[layer.name].parameter, []).append(layer.name)
    found: list[str] = []
    for path, names in by_path.items():
        if len(names) > 1:
            parameter = model.get_parameter(path)
            places = torch.arange(parameter.numel(), dtype=torch.int32).reshape(parameter.shape)
            read = [captured.origins[name].of(places).flatten() for name in names]
            times = torch.bincount(torch.cat(read), minlength=parameter.numel())
            found += [name for name, mine in zip(names, read, strict=True) if bool((times[mine] > 1).any())]
    return tuple(found)


def _without_observers(model: nn.Module, example: Inputs) -> None:
    """Take away hooks that only look on: what is traced has no values that they could keep."""
    places = [
        (hooks, key, hook)
        for part in model.modules()
        for hooks in (part._forward_pre_hooks, part._forward_hooks)
        for key, hook in hooks.items()
        if not type(hook).__module__.startswith("torch.")  # as weight norm's
    ]
    if not places:
        return
    acting = set()

    def watched(at: int, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = hook(*args, **kwargs)
        if found is not None:
            acting.add(at)
        return found

    with without_a_word():
        for at, (hooks, key, hook) in enumerate(places):
            hooks[key] = partial(watched, at, hook)
        before = tree_flatten(call(model, _cloned(example)))[0]
        for at, (hooks, key, hook) in enumerate(places):
            hooks[key] = hook if at in acting else _nothing
        after = tree_flatten(call(model, _cloned(example)))[0]
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, Tensor))
    for at, (hooks, key, hook) in enumerate(places):
        hooks[key] = hook
        if same and at not in acting:  # otherwise one of them works in place
            del hooks[key]


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    pass


def _cloned(batch: Inputs) -> Inputs:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)


def _alone(batch: Inputs) -> Inputs:
    """A tensor that is the only argument, as itself."""
    return batch[0] if isinstance(batch, tuple | list) and len(batch) == 1 and isinstance(batch[0], Tensor) else batch


def _varying(example: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> list[set[int]]:
    """Of each tensor, the axes beside the batch in which others have other sizes."""
    return [
        {
            axis
            for other in others
            for axis in range(has_batch(each, example[0]), each.ndim)
            if other[i].shape[axis] != each.shape[axis]
        }
        for i, each in enumerate(example)
    ]


def _gives_the_same(module: fx.GraphModule, model: nn.Module, batch: Inputs, name: str) -> bool:
    """Whether a traced model gives what the model gives for a batch, as far as floats of another order of sums go."""
    batch = _cloned(batch)
    try:
        with without_a_word():
            found = outputs(on_copies(module, tensors(batch, name)), name)
            for own, other in zip(outputs(call(model, batch), name), found, strict=True):
                largest = float(own.double().nan_to_num().abs().max()) if own.numel() else 0.0
                torch.testing.assert_close(other, own, atol=_ALIKE * largest, rtol=0, equal_nan=True)
    except Exception:  # whatever goes wrong on other sizes than those that were traced
        return False
    return True


def _named(path: str, names: Collection[str]) -> bool:
    """Whether a module, or one that holds it, is among names or matches one with * or ?."""
    holders = list(accumulate(path.split("."), "{}.{}".format))
    return any(name in holders or any(fnmatchcase(holder, name) for holder in holders) for name in names)


def _line(error: Exception) -> str:
    """The first line of what went wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _like_labels(batch: Sequence[Tensor]) -> bool:
    """Whether the second of two tensors could be the labels of the first."""
    return len(batch) == 2 and batch[1].ndim == 1 and batch[1].shape[0] == batch[0].shape[0]


def _plainly_traced(model: nn.Module, example: Inputs, others: Sequence[Inputs]) -> fx.GraphModule | None:
    """The model as torch.fx traces it; None if it cannot, or where that is not the normal form."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    if hooked or not isinstance(example, Tensor):
        return None
    try:
        module = fx.symbolic_trace(model)
    except Exception:  # whatever goes wrong in a user's model: torch.export is tried next, and says why
        return None
    modules = dict(module.named_modules(remove_duplicate=False))
    called = {modules[str(node.target)] for node in module.graph.nodes if node.op == "call_module"}
    weights = [id(each.weight) for each in called if isinstance(each, nn.Linear | CONVS)]
    alone = len(set(weights)) == len(weights)  # modules that share a weight are one layer
    one = sum(node.op == "placeholder" for node in module.graph.nodes) == 1
    following: set[fx.Node] = set()  # the inputs
    for node in module.graph.nodes:
        if node.op == "placeholder" or not following.isdisjoint(node.all_input_nodes):
            following.add(node)
        elif node.op == "call_module" and isinstance(modules[str(node.target)], nn.Linear | CONVS):
            return None  # a product of constants
    normal = one and alone and all(_is_normal(node, modules, following) for node in module.graph.nodes)
    return module if normal and all(_agree(module, model, each) for each in (example, *others)) else None


def _agree(module: fx.GraphModule, model: nn.Module, example: Tensor) -> bool:
    """Whether a traced model gives what the model gives for another number of inputs, a tensor or a tuple of tensors.

    torch.fx runs a model without values: what a model does to its sizes, or with numbers, may be lost unnoticed.
    """
    some = example[[0, 0]] if len(example) != 2 else example[[0, 0, 0]]
    try:
        with without_a_word():
            found = module(some.clone())
        found = found if isinstance(found, tuple) else (found,)
        torch.testing.assert_close(found, outputs(model(some.clone()), ""), equal_nan=True)
    except Exception:  # as above, and what differs
        return False
    return True


def _is_normal(node: fx.Node, modules: Mapping[str, nn.Module], following: Collection[fx.Node]) -> bool:
    """Whether a node has no weight matrix, or is a module whose weight is one.

    Args:
        following: nodes that depend on the inputs. One of the others, or a value that was chosen from one, may be a
            weight.
    """
    if node.op == "call_module":
        called = modules[str(node.target)]
        if isinstance(called, CONVS):
            even = called.padding != "same" or all(
                d * (k - 1) % 2 == 0 for d, k in zip(called.dilation, called.kernel_size, strict=True)
            )
            return called.padding_mode == "zeros" and even
        if isinstance(called, nn.Linear | nn.Embedding | _NORMS):
            return True
        return not any(parameter.ndim > 1 for parameter in called.parameters())
    constants = any(each not in following or _is_part(each, following) for each in node.all_input_nodes)
    return node.target not in _WEIGHTED_FUNCTIONS and not (constants and raw_name(node) in PRODUCTS)


def _is_part(node: fx.Node, following: Collection[fx.Node]) -> bool:
    """Whether a node gives parts of a constant that the inputs choose, or a view of these."""
    while node.all_input_nodes and node.all_input_nodes[0] in following and node.op == "call_method":
        node = node.all_input_nodes[0]
    chosen = raw_name(node) in ("getitem", "index_select") and bool(node.all_input_nodes)
    return chosen and node.all_input_nodes[0] not in following
