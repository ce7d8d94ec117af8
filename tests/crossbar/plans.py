"""Plans of layers, for tests that need a whole network."""

from typing import Any

import numpy as np
from torch import Tensor

from prap_pim.crossbar import CrossbarModel, SimulationReport, measure
from prap_pim.frontend import Captured
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Float32
from prap_pim.ir.patterns import PatternSet, ReuseMap, plan_weights
from prap_pim.ir.plan import LayerPlan, NetworkPlan


def dense_plan(
    name: str, matrix: Float32, scale: Float32 | None = None, bias: Float32 | None = None, height: int = 8
) -> LayerPlan:
    """Every pattern of ``height`` consecutive rows stored and computed."""
    filters, inputs = matrix.shape
    groups = -(-inputs // height)
    rows = np.arange(groups * height, dtype=np.int32)
    rows = np.where(rows < inputs, rows, -1).astype(np.int32).reshape(groups, height)
    shape = np.tile(np.arange(groups, dtype=np.int32), (filters, 1))
    patterns = PatternSet(inputs, rows, np.arange(groups + 1, dtype=np.int64), shape)
    scale = np.ones(filters, np.float32) if scale is None else scale
    bias = np.zeros(filters, np.float32) if bias is None else bias
    return plan_weights(name, matrix, patterns, ReuseMap.none(patterns)).scaled(scale, bias)


def dense_network_plan(captured: Captured, grids: dict[str, InputGrid]) -> NetworkPlan:
    """Dense plans for every layer."""
    plans = {
        layer.name: dense_plan(layer.name, layer.matrix).scaled(layer.filter_scale, layer.filter_bias)
        for layer in captured.network.layers
    }
    return network_plan("dense", plans, grids)


def network_plan(method: str, plans: dict[str, LayerPlan], grids: dict[str, InputGrid]) -> NetworkPlan:
    """Of layers' plans and the grids of their inputs."""
    steps = {name: grid.step for name, grid in grids.items()}
    return NetworkPlan(method, plans, steps, input_zero={name: grid.zero for name, grid in grids.items()})


def simulate(
    captured: Captured, plan: NetworkPlan, grain: Grain, adc_bits: int, images: Tensor, labels: Tensor, **how: Any
) -> SimulationReport:
    """``measure`` on crossbars of ideal cells and wide accumulators, with an ADC that clips; every image is checked."""
    model = CrossbarModel(grain=grain, adc_bits=adc_bits)
    return measure(captured, plan, model, images, labels, **{"check": True, **how})
