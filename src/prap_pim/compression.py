"""A captured network compressed one-shot by any method: what the pipeline, the library and ONNX files share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from prap_pim.calibrate import CalibratedReuse, Calibration, Walk, calibrate
from prap_pim.capture import Captured, Inputs, cut
from prap_pim.chip import Chip
from prap_pim.config import AnyReuse, MethodConfig
from prap_pim.errors import UserError
from prap_pim.network import Network
from prap_pim.outline import Outline
from prap_pim.patterns import PatternSet, ReuseMap, make_plan
from prap_pim.plan import LayerPlan, NetworkPlan
from prap_pim.progress import Steps, counted, phase, unheard
from prap_pim.prune import NoPruning, PruneConfig, dense_plan, prune
from prap_pim.quantize import QuantizeConfig, input_steps
from prap_pim.reuse import NoReuse, reuse
from prap_pim.training import Progress, quiet
from prap_pim.weights import put_own_weights, sharing_weights

_BATCH = 64  # inputs of one tensor at a time


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network.

    Attributes:
        captured: the network with the compressed weights, and the statistics of batch norm that these bring.
        plan: of all layers, those that were left whole as their dense plans.
        changed: names of the layers that were compressed.
        calibration: how calibrated reuse shared its budget out; None for another method.
        asked: the compute ratio that it was to meet, if one was asked for.
        limit: the share of the inputs that it was allowed to classify otherwise (``max_drop``), if one was asked for.
    """

    captured: Captured
    plan: NetworkPlan
    changed: tuple[str, ...]
    calibration: Calibration | None
    asked: float | None
    limit: float | None

    @property
    def met(self) -> str:
        """How the limit was met, in words; nothing without one."""
        if self.limit is None or self.calibration is None or self.calibration.drop is None:
            return ""
        drop = self.calibration.drop
        told = f"{drop:.2%} of the calibration inputs are classified otherwise, at most {self.limit:.2%} allowed"
        if drop > self.limit:
            return f"{told}: it could not be met, every layer keeps all its patterns"
        kept = all(layer.setting is None for layer in self.calibration.layers)
        return f"{told}: no compute ratio below 1 that was tried meets it" if kept else told


@torch.no_grad()
def compress_network(
    captured: Captured,
    inputs: Tensor | Sequence[Inputs],
    method: MethodConfig,
    chip: Chip,
    *,
    seed: int = 0,
    quantize: QuantizeConfig | None = None,
    progress: Progress = quiet,
) -> Compressed:
    """Compress a network one-shot.

    Args:
        captured: the network; it is not changed.
        inputs: calibration inputs [N, ...] or batches of them, without labels: for calibrated reuse, for the steps of
            the int8 activations, and for the statistics of batch norm, which are measured anew whatever the method.
        method: what to do to which layer; ``finetune`` is of no effect.
        chip: decides what an OU holds.
        seed: see ``calibrate``.
        quantize: how the steps of the activations are found.
        progress: told after every layer.

    Raises:
        UserError: the method cannot handle a layer, or the inputs or the seed are of no use.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise UserError(f"seed must be a whole number from 0 to 2**31 - 1, not {seed!r}")
    batches = cut(inputs, _BATCH, captured.network.name)
    changed = changed_layers(method, captured.network)
    calibration = asked = limit = None
    if isinstance(method.reuse, CalibratedReuse):
        asked, limit = method.reuse.compute_ratio, method.reuse.max_drop
        whole = [layer.name for layer in captured.network.layers if layer.name not in changed]
        found = (captured, batches, method.reuse, chip, seed)
        calibration = calibrate(*found, whole=whole, phase=method.name, progress=progress)
        plans = {layer.name: calibration.plans[layer.name] for layer in calibration.layers if layer.changed}
    else:
        plans = {}
        told = phase(progress, f"{method.name}: layers")
        for name, assignment in assign(changed, captured.network, chip, told).items():
            layer = next(layer for layer in captured.network.layers if layer.name == name)
            plans[name] = make_plan(name, layer.matrix, *assignment)
    module = _with_weights(captured.module, plans)
    walk = Walk(module, batches, remember=bool(plans))
    for node in walk.nodes() if plans else ():  # measures batch norm anew
        walk.run(node)
    after = captured.with_module(module)
    steps = input_steps(after, batches, _BATCH, quantize, phase(progress, f"{method.name}: ranges of inputs"))
    return Compressed(
        after, whole_plan(method.name, after, plans, steps, chip), tuple(plans), calibration, asked, limit
    )


def _with_weights(module: fx.GraphModule, plans: Mapping[str, LayerPlan]) -> fx.GraphModule:
    """A copy with other weights in some layers; the other weights are shared with the original."""
    changed = sharing_weights(module)
    for name, plan in plans.items():
        put_own_weights(changed, name, plan)
    return changed


def changed_layers(method: MethodConfig, network: Network) -> dict[str, tuple[PruneConfig, AnyReuse]]:
    """The layers that a method does not leave whole, with their settings."""
    settings = method.layer_settings(network)
    return {name: setting for name, setting in settings.items() if setting != (NoPruning(), NoReuse())}


def assign(
    settings: Mapping[str, tuple[PruneConfig, AnyReuse]], network: Network, chip: Chip, told: Steps = unheard
) -> dict[str, tuple[PatternSet, ReuseMap]]:
    """What pruning and reuse decide, for the layers of ``settings``; ``told`` hears how many are done."""
    assignments = {}
    for layer in counted([layer for layer in network.layers if layer.name in settings], told):
        pruning, reusing = settings[layer.name]
        patterns = prune(pruning, layer, chip.grain)
        assignments[layer.name] = patterns, reuse(reusing, layer, patterns, chip.grain)
    return assignments


def whole_plan(
    name: str, captured: Captured, compressed: Mapping[str, LayerPlan], steps: Mapping[str, float], chip: Chip
) -> NetworkPlan:
    """Every layer as a plan: those that are compressed with the batch norm of ``captured``, the others dense."""
    layers = {}
    for layer in captured.network.layers:
        if layer.name in compressed:
            layers[layer.name] = compressed[layer.name].scaled(layer.filter_scale, layer.filter_bias)
        else:
            layers[layer.name] = dense_plan(layer, chip.grain, layer.filter_scale, layer.filter_bias)
    return NetworkPlan(name, layers, dict(steps), Outline.of(captured.network))
