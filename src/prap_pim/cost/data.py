"""Energy that depends on data: rows that are raised, cells that conduct, conversions of what is not surely 0.

A table's figures are those of uniform data, so energy with data is theirs times ``DataRates``. Nothing is skipped: time
and counts stay the same.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.cost.activity import reads_of_groups
from prap_pim.cost.estimate import CostReport, LayerCost
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import ComponentTable, load_table
from prap_pim.ir.plan import LayerPlan
from prap_pim.ir.rates import DataRates

_CONVERTED = ("adc", "sample_and_hold", "shift_add")


def priced_by_data(
    report: CostReport, rates: Mapping[str, DataRates], table: ComponentTable | None = None
) -> CostReport:
    """The same with the energy that data take.

    Args:
        report: of ``cost``, without zero-input skipping.
        rates: of every layer.
        table: as for ``cost``.

    Raises:
        UserError: the rates of a layer are missing, or not those of its plan.
    """
    table = table or load_table(report.chip.components)
    layers = []
    for layer in report.layers:
        plan = report.mapping.layers[layer.name].plan
        if layer.name not in rates or len(rates[layer.name].rows) != plan.groups:
            raise UserError(f"layer {layer.name}: the rates of its data are missing, or of another plan")
        layers.append(_with_data(layer, plan, rates[layer.name], report.chip, table))
    energy = {
        component: sum(layer.energy_breakdown_j[component] for layer in layers)
        for component in report.energy_breakdown_j
    }
    told = "energy of rows, cells and conversions is that of the data given; of uniform data it is the tables'"
    conventions = (*report.conventions, told)
    return replace(report, layers=tuple(layers), energy_breakdown_j=energy, conventions=conventions)


def _with_data(layer: LayerCost, plan: LayerPlan, rates: DataRates, chip: Chip, table: ComponentTable) -> LayerCost:
    used = np.count_nonzero(plan.rows >= 0, axis=1)
    conversions, reads, cells = reads_of_groups(plan, chip)
    raised = _mean(rates.rows, reads * used)
    converted = _mean(rates.conversions, conversions)
    joules = dict(layer.energy_breakdown_j)
    joules["dac"] *= raised
    joules["input_register"] += (raised - 1) * layer.activity.row_drives * table("input_register", "energy_per_drive")
    joules["crossbar"] *= _mean(rates.cells, cells * used)
    for component in _CONVERTED:
        joules[component] *= converted
    return replace(layer, energy_breakdown_j=joules)


def _mean(rates: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    """Of row groups, each as often as it counts; 1 where none does."""
    return float(np.average(rates, weights=weights)) if weights.any() else 1.0
