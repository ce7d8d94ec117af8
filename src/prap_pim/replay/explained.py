"""Why a method gains less from real mappings than from published ratios: one cause after another put in its place.

Both give a layer's seconds by what takes them, and its joules. So what a method gains over a baseline can be followed
from the ratios to the mapping: each step takes one part of both from the mapping, and the rest still from the ratios.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from prap_pim.methods.published import published
from prap_pim.replay.ratios import OU_STEPS, Inference, LayerEvents, inference
from prap_pim.results.run import Gain, mean

# (what is taken from the mapping, parts of the serial time, components); what is not named is the last step's
_EVENTS = (
    (
        "OU steps: rounding, crossbar borders",
        ("crossbars", "output registers"),
        (OU_STEPS, "adc", "sample_and_hold", "dac", "crossbar", "shift_add", "input_register", "output_register"),
    ),
    (
        "partial sums",
        ("accumulators", "partial-sum buffers", "dot registers", "adder trees"),
        ("accumulator", "partial_sum_buffer", "dot_register"),
    ),
    ("index", ("index buffers",), ("index_buffer",)),
    ("inputs", ("input buffers",), ("input_buffer",)),
)
_COMPUTED = "patterns computed: {}"
_REST = "between tiles, digital work"


@dataclass(frozen=True)
class Step:
    """What a method gains over a baseline once everything up to here is as in the mapping; means of the networks.

    Attributes:
        cause: what is taken from the mapping at this step.
        gain: after it.
    """

    cause: str
    gain: Gain


def explain(preset: str, mapped: Mapping[str, Mapping[str, Inference]], method: str, baseline: str) -> list[Step]:
    """The way from published ratios to real mappings.

    Args:
        preset: of published settings.
        mapped: inferences by network and method (``mapped_inferences``).
        method, baseline: the gain of which over which.

    Returns:
        The steps; the first is the gain from published ratios, the last that from mappings.
    """
    weights = [_COMPUTED.format(each) for each in (method, baseline)]
    ways = [
        [
            _way(preset, network, method, by_method[method], weights, ()),
            _way(preset, network, baseline, by_method[baseline], weights[1:], weights[:1]),
        ]
        for network, by_method in mapped.items()
    ]
    return [Step(cause, mean([own[cause].gain_over(other[cause]) for own, other in ways])) for cause in ways[0][0]]


def verdict(steps: Sequence[Step], method: str) -> list[str]:
    """What holds, in plain words, a line each."""
    most, last = largest(steps), steps[-1].gain
    found = [
        f"Most of the difference: {most.cause}.",
        f"What remains: {_times(last.speedup)} in time and {_times(last.energy_gain)} in energy, if as many patterns",
        "  are computed as the settings say.",
    ]
    if most.cause == _COMPUTED.format(method):
        found.append("  The rest of the published gain needs patterns that are zero after training.")
    return found


def _times(gain: float) -> str:
    return f"{gain:.2f}x" if gain >= 1 else f"{gain:.2f}x (a loss)"


def largest(steps: Sequence[Step]) -> Step:
    """The step that changes the speedup and the energy gain most, both together."""

    def change(pair: tuple[Step, Step]) -> float:
        factors = pair[1].gain.over(pair[0].gain)
        return abs(log(factors.speedup)) + abs(log(factors.energy_gain))

    return max(pairwise(steps), key=change)[1]


def _way(
    preset: str, network: str, method: str, mapped: Inference, random_from: Sequence[str], not_yet: Sequence[str]
) -> dict[str, Inference]:
    """By cause: an inference that is as in the mapping up to there.

    Args:
        preset, network, method: which.
        mapped: from the real mapping.
        random_from: causes from which on as many patterns are computed as of the mapping's weights.
        not_yet: those before them.
    """
    by_ratios = inference(preset, network, method)
    random = inference(preset, network, method, [layer.computed for layer in mapped.layers])
    ends = [i == 0 or layer.type == "linear" for i, layer in enumerate(published(preset)[network].layers)]
    now = Inference(tuple(map(_chosen, ends, mapped.layers, random.layers)))
    found = {
        **dict.fromkeys(["published ratios", *not_yet], by_ratios),
        **dict.fromkeys(random_from, random),
        "first layer and classifier": now,
    }
    for cause, phases, components in _EVENTS:
        parts = zip(now.layers, mapped.layers, strict=True)
        now = found[cause] = Inference(tuple(_taken(layer, real, phases, components) for layer, real in parts))
    return found | {_REST: mapped}


def _chosen(first: bool, one: LayerEvents, other: LayerEvents) -> LayerEvents:
    return one if first else other


def _taken(layer: LayerEvents, real: LayerEvents, phases: Sequence[str], components: Sequence[str]) -> LayerEvents:
    """The layer with some parts as in the real mapping."""
    seconds = {**layer.seconds, **{key: value for key, value in real.seconds.items() if key in phases}}
    joules = {key: value for key, value in layer.joules.items() if key not in components}
    joules |= {key: value for key, value in real.joules.items() if key in components}
    return LayerEvents(seconds, joules, layer.computed)
