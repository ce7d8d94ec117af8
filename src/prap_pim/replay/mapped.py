"""The networks of published settings from real mappings: what ``cost.replay`` takes from ratios is counted here.

Random weights, the real methods at the settings of every layer, plans, OUs laid on crossbars, all events counted. As in
the replay: the chip, the crossbars of each layer (all of every tile that the authors give it), its copies, and the
serial timing.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from pydantic import TypeAdapter

from prap_pim.common.progress import Progress, counted, phase
from prap_pim.cost import activities, layer_time
from prap_pim.cost.price import energy
from prap_pim.frontend import capture
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.network import Network
from prap_pim.ir.patterns import plan_weights
from prap_pim.ir.plan import NetworkPlan
from prap_pim.mapping import map_network, replicate
from prap_pim.methods.presets import layers_by_name, method_settings
from prap_pim.methods.prune import PruneConfig, prune
from prap_pim.methods.published import PublishedLayer, published
from prap_pim.methods.reuse import ReuseConfig, reuse
from prap_pim.replay.ratios import Inference, LayerEvents, chosen, copies, gains_over_dense, spread
from prap_pim.results.run import Gain
from prap_pim.training.models import ModelConfig, build

CLASSES = 10  # of CIFAR-10, on which the settings were chosen


def replay_mapped(
    preset: str, networks: Sequence[str], methods: Sequence[str], seed: int, progress: Progress
) -> dict[str, dict[str, Gain]]:
    """Gains over dense of published settings on random weights, as ``mapped_inferences`` finds them.

    Raises:
        UserError: likewise.
    """
    networks, methods = chosen(preset, networks, methods)
    return gains_over_dense(mapped_inferences(preset, networks, methods, seed, progress), methods)


def mapped_inferences(
    preset: str, networks: Sequence[str], methods: Sequence[str], seed: int, progress: Progress
) -> dict[str, dict[str, Inference]]:
    """One inference of published settings on random weights, by network and method, dense among them, on the chip that
    has the preset's name.

    Args:
        preset: of published settings.
        networks: of the preset; none means all.
        methods: of the replay's; none means all.
        seed: of the weights.
        progress: called as the work proceeds.

    Raises:
        UserError: there is no such preset, network or method.
    """
    networks, methods = chosen(preset, networks, methods)
    chip = load_chip(preset)
    found: dict[str, dict[str, Inference]] = {}
    for name in networks:
        model: ModelConfig = TypeAdapter(ModelConfig).validate_python({"name": name})
        channels, height, width = published(preset)[name].input
        example = torch.zeros(1, channels, height, width)
        network = capture(build(model, channels, CLASSES, seed), example, name).network
        layers = layers_by_name(preset, model)

        inferences: dict[str, Inference] = {}
        wanted = list(dict.fromkeys(["dense", *methods]))
        for method in counted(wanted, phase(progress, f"{name}: mapping")):
            settings = method_settings(preset, method, model)
            inferences[method] = _inference(network, *_plan(network, method, settings, chip), layers, chip)
        found[name] = inferences
    return found


def _plan(
    network: Network, method: str, settings: Mapping[str, tuple[PruneConfig, ReuseConfig]], chip: Chip
) -> tuple[NetworkPlan, dict[str, Fraction]]:
    """The plan, and of every layer the share of its patterns that is computed."""
    plans, computed = {}, {}
    for layer in network.layers:
        pruning, reusing = settings[layer.name]
        patterns = prune(pruning, layer, chip.grain)
        reused = reuse(reusing, layer, patterns, chip.grain)
        plans[layer.name] = plan_weights(layer.name, layer.matrix, patterns, reused).scaled(
            layer.filter_scale, layer.filter_bias
        )
        computed[layer.name] = Fraction(len(plans[layer.name].donors), int(np.count_nonzero(patterns.shape >= 0)))
    return NetworkPlan(method, plans, dict.fromkeys(plans, 1.0)), computed  # no inputs are quantised here


def _inference(
    network: Network,
    plan: NetworkPlan,
    computed: Mapping[str, Fraction],
    layers: Mapping[str, PublishedLayer],
    chip: Chip,
) -> Inference:
    """One layer after another, each on the crossbars and in the copies that the authors give it."""
    table = load_table(chip.components)
    mapping = replicate(
        network,
        map_network(network, plan, chip),
        chip,
        {name: copies(layer) for name, layer in layers.items()},
        {name: spread(layer, chip).tiles * chip.crossbars_per_tile for name, layer in layers.items()},
    )
    counts = activities(network, mapping, chip).values()
    return Inference(
        tuple(
            LayerEvents(
                layer_time(layer, chip, table).serial_phases_s, energy(layer, chip, table), computed[layer.name]
            )
            for layer in counts
        )
    )
