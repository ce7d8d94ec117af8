"""OUs and OU steps of plans, and of the dense plans that they are compared with."""

from prap_pim.hardware.chip import Chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.plan import LayerWeights, NetworkPlan


def ous(plan: LayerWeights, grain: Grain) -> int:
    """OUs that a plan's donors fill."""
    filled = grain.of_bits(plan.weight_bits)
    return sum(filled.ous(int(count)) for count in plan.donors_per_group)


def dense_ous(layer: Layer, grain: Grain) -> int:
    """OUs of a layer that stores every pattern."""
    return grain.dense_ous(layer.rows, layer.filters, layer.groups)


def ou_steps(layer: Layer, count: int, grain: Grain) -> int:
    """OU steps of one inference of a layer with so many OUs: each for every output position and step of an input."""
    return count * layer.positions * grain.input_steps


def dense_steps(layer: Layer, grain: Grain) -> int:
    """OU steps of one inference of a layer that stores every pattern."""
    return ou_steps(layer, dense_ous(layer, grain), grain)


def compute_ratio(network: Network, plan: NetworkPlan, grain: Grain) -> float:
    """OU steps of a plan over those of the dense plan; no step is skipped."""
    steps = sum(ou_steps(layer, ous(plan.layers[layer.name], grain), grain) for layer in network.layers)
    return steps / sum(dense_steps(layer, grain) for layer in network.layers)


def dense_crossbars(layer: Layer, chip: Chip) -> int:
    """Crossbars that a layer fills when it stores every pattern."""
    return -(-dense_ous(layer, chip.grain) // chip.ous_per_crossbar)
