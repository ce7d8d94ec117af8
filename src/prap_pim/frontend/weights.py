"""Weights into a network: from the user's own file (nothing is unpickled), or those that a plan computes."""

import copy
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import check_plain
from prap_pim.frontend import Captured, Origin
from prap_pim.ir.plan import LayerWeights

_Module = TypeVar("_Module", bound=nn.Module)
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # where training scripts keep the weights among other things
_UNIMPORTANT = "num_batches_tracked"  # batch norm's count: of no effect on what a network computes
_CHECKPOINT = "prap-pim checkpoint"  # a checkpoint of this package: weights stand below "model."


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a file into ``model``.

    The file is a safetensors file (``.safetensors``), this package's checkpoints among them, or what
    ``torch.save(model.state_dict(), path)`` writes; a dictionary that holds the state below "state_dict", "model" or
    "model_state_dict" will do too, and so will names that DataParallel began with "module.".

    Args:
        model: changed in place, its types and devices kept; as it was if anything is wrong.
        path: the file.

    Raises:
        UserError: the file is missing or unreadable, holds other things than tensors, lacks a weight of the model, has
            one too many, or one of another shape, or one that is not finite.
    """
    check_plain(path)
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    own = model.state_dict()
    complaint = _mismatch(own, found)
    if complaint:
        raise UserError(f"{path} does not fit the network: {complaint}")
    for name, value in found.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} holds NaN or infinity")
    model.load_state_dict(own | dict(found))


def _mismatch(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What first keeps ``found`` from being the state of the network; empty if nothing does."""
    missing = [name for name in own if name not in found and not name.endswith(_UNIMPORTANT)]
    surplus = [name for name in found if name not in own]
    if missing or surplus:
        parts = [
            f"{len(names)} {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
            for names, what in ((missing, "weights are missing"), (surplus, "are not the network's"))
            if names
        ]
        return ", ".join(parts)
    for name, value in found.items():
        if value.shape != own[name].shape:
            return f"{name} is {list(value.shape)}, the network's is {list(own[name].shape)}"
        if value.is_complex() or value.dtype == torch.bool:
            return f"{name} holds {str(value.dtype).removeprefix('torch.')} values"
    return ""


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the reader is no mapping)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise UserError(f"cannot read {path}: it is not a whole safetensors file") from error
    if header.get("format", "").startswith(_CHECKPOINT):
        return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    return tensors


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols: what cannot be read is an error below
            value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        Exception
    ) as error:  # torch names no error of its own for what it cannot read: a broken one raises many kinds
        raise UserError(
            f"cannot read {path}: it is not a whole torch file of tensors alone, and nothing else is unpickled; "
            "write one with torch.save(model.state_dict(), path)"
        ) from error
    while isinstance(value, Mapping) and (inner := next((key for key in _WRAPPERS if key in value), None)):
        value = value[inner]
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    ):
        raise UserError(f"cannot read {path}: it does not hold a state_dict, weights by name")
    return value


def layer_weight(model: nn.Module, name: str) -> nn.Parameter:
    """The weight of a layer, a convolution or a product.

    Raises:
        UserError: the model has no such layer, or it has no weight matrix.
    """
    try:
        weight = model.get_submodule(name).weight
    except AttributeError as error:
        raise UserError(f"the network has no layer {name} with weights") from error
    if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
        raise UserError(f"layer {name}: it has no weight matrix")
    return weight


def put_weights(model: nn.Module, name: str, plan: LayerWeights) -> None:
    """Give a layer the weights that its plan computes, and add the plan's bias to the layer's.

    Raises:
        UserError: the model has no such layer.
    """
    weight = layer_weight(model, name)
    with torch.no_grad():
        weight.copy_(torch.from_numpy(plan.real_weights()).reshape(weight.shape))  # float64 -> float32
        if plan.bias.any():
            layer, shift = model.get_submodule(name), torch.from_numpy(plan.bias.copy()).to(weight)
            before = layer.bias
            assert before is None or isinstance(before, Tensor)
            layer.bias = nn.Parameter(shift if before is None else before + shift, requires_grad=weight.requires_grad)


def put_own_weights(model: nn.Module, name: str, plan: LayerWeights) -> None:
    """``put_weights`` into a layer that may share its weights with another one, which keeps them."""
    weight = layer_weight(model, name)
    model.get_submodule(name).weight = nn.Parameter(torch.empty_like(weight), requires_grad=False)
    put_weights(model, name, plan)


def sharing_weights(module: _Module) -> _Module:
    """A copy with buffers of its own, so that its statistics may change; its parameters are those of the original."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def weight_module(module: nn.Module, plan: LayerWeights) -> nn.Module:
    """A copy of a layer with the weights that a plan computes."""
    changed = copy.deepcopy(module)
    put_weights(changed, "", plan)
    return changed


def put_layer(model: nn.Module, origin: Origin, captured: Captured, name: str, own: Mapping[str, nn.Parameter]) -> None:
    """Write a layer's weights where the user's model has them."""
    layer = captured.module.get_submodule(name)
    assert isinstance(layer.weight, Tensor)
    _without_tables(model, own[origin.parameter])
    view = origin.of(own[origin.parameter])
    view.copy_(layer.weight.reshape(view.shape))
    if isinstance(layer.bias, Tensor):
        if origin.bias is not None:
            origin.bias.of(parameter_at(model, origin.bias.parameter)).copy_(layer.bias)
        elif origin.module is not None:
            model.get_submodule(origin.module).bias = nn.Parameter(layer.bias.to(view).clone())


def parameter_at(model: nn.Module, path: str) -> nn.Parameter:
    owner, _, key = path.rpartition(".")
    parameter = getattr(model.get_submodule(owner), key)
    assert isinstance(parameter, nn.Parameter)
    return parameter


def untied(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of layers, by path. Where several have one, each gets its own: their biases are others, and so may
    be their patterns."""
    own: dict[str, nn.Parameter] = {}
    for path in dict.fromkeys(paths):
        parameter = parameter_at(model, path)
        if any(each is parameter for each in own.values()):
            owner, _, key = path.rpartition(".")
            parameter = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(model.get_submodule(owner), key, parameter)
        own[path] = parameter
    return own


def _without_tables(model: nn.Module, parameter: nn.Parameter) -> None:
    """Give a lookup table that is tied to a layer's parameter one of its own: a lookup is no product, and keeps its
    values."""
    holders = [(module, k) for module in model.modules() for k, p in module._parameters.items() if p is parameter]
    tables = [(module, k) for module, k in holders if isinstance(module, nn.Embedding)]
    if len(tables) < len(holders):
        for module, k in tables:
            setattr(module, k, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
