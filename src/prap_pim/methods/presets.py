"""The methods of a paper with the settings that its authors chose for every layer of their networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from pydantic_core import PydanticCustomError

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings, nearest
from prap_pim.methods.prune import NoPruning, OrcPruning, PatternPruning, PruneConfig, StructuredPruning
from prap_pim.methods.published import PublishedLayer, published
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, ReuseConfig, SimilarReuse
from prap_pim.training.models import ModelConfig, weight_shapes

_WHOLE = 1.0  # a published share of 1 means that the layer is left alone


def _no_pruning(layer: PublishedLayer) -> PruneConfig:
    return NoPruning()


def _structured(layer: PublishedLayer) -> PruneConfig:
    ratio = layer.keep["structured"]
    return NoPruning() if ratio == _WHOLE else StructuredPruning(ratio=ratio)


def _orc(layer: PublishedLayer) -> PruneConfig:
    ratio = layer.keep["orc"]
    return NoPruning() if ratio == _WHOLE else OrcPruning(ratio=ratio)


def _pattern(layer: PublishedLayer) -> PruneConfig:
    if layer.kept_positions is not None:
        return PatternPruning(group_channels=layer.group_channels)
    if layer.group_channels == 8:  # of every 8 inputs 8 are kept
        return NoPruning()
    return PatternPruning(pointwise_group=layer.group_channels)


def _no_reuse(layer: PublishedLayer) -> ReuseConfig:
    return NoReuse()


def _identical(layer: PublishedLayer) -> ReuseConfig:
    threshold = layer.keep["identical"]
    return NoReuse() if threshold == _WHOLE else IdenticalReuse(threshold=threshold)


def _similar(layer: PublishedLayer) -> ReuseConfig:
    keep = layer.keep["similar"]
    return NoReuse() if keep == _WHOLE else SimilarReuse(keep=keep)


@dataclass(frozen=True)
class _Method:
    """A method of the paper: what it is, and how it prunes and reuses a layer."""

    description: str
    prune: Callable[[PublishedLayer], PruneConfig]
    reuse: Callable[[PublishedLayer], ReuseConfig]


_METHODS = {
    "dense": _Method("every weight pattern stored and computed", _no_pruning, _no_reuse),
    "structured": _Method("input channels of little weight dropped", _structured, _no_reuse),
    "orc": _Method("small weights dropped and each filter's rest packed anew (after SRE)", _orc, _no_reuse),
    "pattern": _Method("pattern pruning: PRAP's step 1 alone", _pattern, _no_reuse),
    "identical": _Method("nearly identical patterns computed once (after PattPIM)", _no_pruning, _identical),
    "similar": _Method(
        "patterns similar up to a power of two computed once: PRAP's step 2 alone", _no_pruning, _similar
    ),
    "structured+identical": _Method("both (after RePIM): the joint baseline of the paper", _structured, _identical),
    "prap": _Method("pattern pruning and reuse of similar patterns", _pattern, _similar),
}


def method_settings(preset: str, method: str, model: ModelConfig) -> dict[str, tuple[PruneConfig, ReuseConfig]]:
    """How a published method treats every layer of a network.

    Args:
        preset: published settings, by name.
        method: dense, structured, orc, pattern, identical, similar, structured+identical or prap.
        model: the network; it may be narrower or wider than the published one, as settings are shares.

    Returns:
        pruning and reuse by layer name, in the order of the network. A layer whose published share is 1 is left dense.

    Raises:
        UserError: there is no such preset or method, or the preset has no settings for the network.
    """
    if method not in _METHODS:
        raise UserError(f"no method {method!r} in preset {preset} ({nearest(method, list(_METHODS))})")
    chosen = _METHODS[method]
    layers = layers_by_name(preset, model)
    return {name: (chosen.prune(layer), chosen.reuse(layer)) for name, layer in layers.items()}


def layers_by_name(preset: str, model: ModelConfig) -> dict[str, PublishedLayer]:
    """The published layer that each layer of a network is; both stand in the same order, shortcuts included.

    Raises:
        UserError: there is no such preset, or it has no such network.
    """
    networks = published(preset)
    if model.name not in networks:
        raise UserError(f"preset {preset} has no settings for model {model.name} (it has: {', '.join(networks)})")
    layers, shapes = networks[model.name].layers, weight_shapes(model)
    if len(layers) != len(shapes):
        raise UserError(f"preset {preset} is for a {model.name} of {len(layers)} layers, not {len(shapes)}")
    for layer, (name, shape) in zip(layers, shapes.items(), strict=True):
        kernel = shape[-1] if len(shape) == 4 else 1
        if kernel != layer.kernel:
            raise UserError(
                f"preset {preset} is for a {model.name} with a {layer.kernel}x{layer.kernel} kernel in {name}, "
                f"not {kernel}x{kernel}"
            )
    return dict(zip(shapes, layers, strict=True))


class _PresetMethod(Settings):
    """One item of ``methods`` that takes its settings from a preset."""

    name: str
    preset: str
    method: str = ""  # of the preset; empty: as ``name``
    description: str = ""  # empty: the preset's
    finetune: bool = True
    exceptions: tuple[Any, ...] = Field(default=())  # of the user; they come before the preset's


def with_presets(methods: Any, model: ModelConfig) -> Any:
    """``methods`` as the user wrote them, with what a preset stands for put in its place.

    Args:
        methods: a preset's name (all of its methods), or a list in which an item may name a preset:
            ``{name: prap, preset: prap-2023}``, or ``{name: mine, preset: prap-2023, method: prap, ...}`` with
            ``description``, ``finetune`` and ``exceptions`` of the user's own. Anything else is left as it is.
        model: the network that they are for.

    Returns:
        the list, with plain values of a method (name, description, finetune, exceptions) for each item of a preset.

    Raises:
        PydanticCustomError: one line that says what is wrong.
    """
    try:
        if isinstance(methods, str):
            return [_expanded(_PresetMethod(name=method, preset=methods), model) for method in _METHODS]
        if not isinstance(methods, list | tuple):
            return methods
        return [
            _expanded(_PresetMethod.checked(item, str(item.get("name", "an item"))), model)
            if isinstance(item, dict) and "preset" in item
            else item
            for item in methods
        ]
    except UserError as error:
        raise PydanticCustomError("preset", "{complaint}", {"complaint": str(error)}) from error


def _expanded(item: _PresetMethod, model: ModelConfig) -> dict[str, Any]:
    method = item.method or item.name
    settings = method_settings(item.preset, method, model)
    rules = [
        {"layers": name, "prune": prune, "reuse": reuse}
        for name, (prune, reuse) in settings.items()
        if (prune, reuse) != (NoPruning(), NoReuse())
    ]
    return {
        "name": item.name,
        "description": item.description or f"{_METHODS[method].description}; settings of {item.preset}",
        "finetune": item.finetune,
        "exceptions": [*item.exceptions, *rules],
    }
