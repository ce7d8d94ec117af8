"""How much calibration inputs and stored weights drive the crossbars, beside uniform ones: for energy that depends on
data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prap_pim.common.progress import Steps, unheard
from prap_pim.crossbar.model import CrossbarModel
from prap_pim.crossbar.slices import Slices, WeightSlices
from prap_pim.crossbar.zero_inputs import Counter, read_inputs
from prap_pim.frontend import Captured, Inputs
from prap_pim.frontend.quantize import InputGrid, grid_in
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.ir.rates import DataRates

Float64 = NDArray[np.float64]


def data_rates(
    captured: Captured,
    plan: NetworkPlan,
    inputs: Tensor | NDArray[Any] | Sequence[Inputs],
    model: CrossbarModel,
    batch_size: int = 50,
    told: Steps = unheard,
) -> dict[str, DataRates]:
    """What inputs and the plan's own bits make of rows, cells and conversions.

    Inputs are those of ``zero_input_rates``: rounded to int8 and cut into input bits. A cell conducts in proportion to
    the level of its row's input and its own; of uniform data all codes are as frequent.

    Args:
        captured: the network.
        plan: a plan for each of its layers, and the steps of their inputs.
        inputs: calibration inputs [N, ...], N > 0, or batches of them as the model takes them.
        model: bits of inputs, DACs and cells, and how weights are encoded.
        batch_size: inputs at a time.
        told: called with the batches done and all of them.

    Returns:
        by layer name.

    Raises:
        UserError: as ``zero_input_rates``, or weights have no code.
    """
    seen = {
        layer.name: _Seen(layer, plan.layers[layer.name], grid_in(plan, layer.name), model)
        for layer in captured.network.layers
    }
    read_inputs(captured, plan, inputs, model.grain, seen, batch_size, told)
    return {name: of_layer.rates() for name, of_layer in seen.items()}


class _Seen(Counter):
    """Of the inputs of one layer: how far each im2col row is raised, too."""

    def __init__(self, layer: Layer, plan: LayerPlan, grid: InputGrid, model: CrossbarModel) -> None:
        super().__init__(layer, plan, grid, model.grain.reading(plan.input_bits))
        self.cells = model.weight_slices(plan)
        values = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64) + self.slices.offset
        steps = self.slices.width * np.arange(self.slices.count)
        digits = values[:, None] >> steps & self.slices.largest_digit
        self.of_value = np.stack([np.count_nonzero(digits, axis=1), digits.sum(axis=1)])  # [what, value as a byte]
        self.sums = np.zeros((2, layer.rows), np.int64)

    def count(self, values: NDArray[np.uint8]) -> int:
        by_row = self.by_row(values, self.grid.zero % 256)
        counts = np.stack([np.bincount(row, minlength=256) for row in by_row])  # [im2col row, value]
        self.sums += self.of_value @ counts.T
        return super().count(values)

    def rates(self) -> DataRates:
        plan = self.plan
        used = plan.rows >= 0  # [group, h]
        count = np.count_nonzero(used, axis=1)
        driven, level = self.sums / (self.positions * self.slices.count)  # [im2col row] each
        uniform = Uniform.of(self.slices, self.cells)
        of_row = np.where(used, level[plan.rows], 0.0)  # [group, h]
        current = self.cells.levels(plan.donors).sum(axis=1)  # [donor, h], of all columns of a weight
        of_donor = (of_row[plan.donor_group] * current).sum(axis=1)
        columns = plan.donors_per_group * self.cells.columns
        expected = count * uniform.level * columns * uniform.cell
        idle = uniform.none_raised(count)
        return DataRates(
            rows=_over(np.where(used, driven[plan.rows], 0.0).sum(axis=1), count * uniform.driven),
            cells=_over(np.bincount(plan.donor_group, of_donor, plan.groups).astype(np.float64), expected),
            conversions=_over(1 - self.zero_rates(), 1 - idle),
        )


def _over(found: Float64, expected: Float64) -> Float64:
    """found / expected; 1 where nothing is expected."""
    return np.divide(found, expected, out=np.ones(len(found)), where=expected > 0)


class Uniform:
    """Means of data whose codes are all as frequent.

    Attributes:
        driven: share of input digits that are not 0.
        level: of an input digit.
        cell: level of a cell.
    """

    def __init__(self, widths: NDArray[np.int64], cell: float) -> None:
        self._widths = widths  # bits of each input step; the last may have fewer than the DAC
        self.driven = float((1 - 0.5**widths).mean())
        self.level = float(((2.0**widths - 1) / 2).mean())
        self.cell = cell

    @staticmethod
    def of(inputs: Slices, cells: WeightSlices) -> "Uniform":
        widths = np.minimum(inputs.width, inputs.bits - inputs.width * np.arange(inputs.count))
        limit = 1 << (min(cells.bits, 8) - 1)
        codes = np.arange(-limit + (cells.encoding == "differential"), limit).astype(np.int8)
        return Uniform(widths, float(cells.levels(codes).mean()))

    def none_raised(self, rows: NDArray[np.int64]) -> Float64:
        """Share of the steps in which none of so many rows is raised."""
        return np.asarray((0.5 ** (self._widths * rows[:, None])).mean(axis=1))
