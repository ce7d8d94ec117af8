"""How often nothing drives a row group: the rate at which hardware that looks at the input bits can skip OU steps."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.parallel import over_ranges
from prap_pim.common.progress import Steps, counted, unheard
from prap_pim.crossbar.kernels.bits import Int32, Int64, Uint64, popcount
from prap_pim.crossbar.network import check_parts, compressed_model
from prap_pim.crossbar.slices import Slices
from prap_pim.frontend import Captured, Inputs, cut, of_arrays
from prap_pim.frontend.im2col import Rows
from prap_pim.frontend.quantize import InputGrid, grid_in
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan, NetworkPlan

BYTES_AT_A_TIME = 1 << 22  # of im2col rows: every row group reads its own of them, so they are to stay in the cache


def zero_input_rates(
    captured: Captured,
    plan: NetworkPlan,
    images: Tensor | NDArray[Any] | Sequence[Inputs],
    grain: Grain,
    batch_size: int = 50,
    told: Steps = unheard,
) -> dict[str, NDArray[np.float64]]:
    """Share of a row group's OU steps in which no row is driven, measured on calibration images.

    Measured over all images, all output positions and all input steps: the share of (position, input step) pairs in
    which the input bits of all rows of the group are 0, so that each of its OUs would add nothing. Inputs are those of
    the network in float arithmetic with the plan's weights (``compressed_model``), rounded to int8 and cut into input
    bits as ``CrossbarLayer`` does: two's complement with 1-bit DACs, so one small negative input drives almost every
    step; with wider DACs the offset code, in which a 0 drives the highest step. A convolution's padding counts as
    inputs of 0; an unused row is never driven.

    Args:
        captured: the network.
        plan: a plan for each of its layers, and the steps of their inputs.
        images: calibration inputs [N, ...], N > 0, or batches of them as the model takes them.
        grain: bits of inputs and DAC.
        batch_size: images at a time.
        told: called with the batches done and all of them.

    Returns:
        by layer name, float64 [row groups of the layer's plan], in 0..1.

    Raises:
        UserError: there are no images, the plan does not fit the network, or an input exceeds the grain's bits.
    """
    check_parts(captured, plan, grain=grain)
    counters = {
        layer.name: Counter(layer, of_layer, grid_in(plan, layer.name), grain.reading(of_layer.input_bits))
        for layer in captured.network.layers
        for of_layer in [plan.layers[layer.name]]
    }
    read_inputs(captured, plan, images, grain, counters, batch_size, told)
    return {name: counter.zero_rates() for name, counter in counters.items()}


def read_inputs(
    captured: Captured,
    plan: NetworkPlan,
    images: Tensor | NDArray[Any] | Sequence[Inputs],
    grain: Grain,
    readers: Mapping[str, Callable[[nn.Module, tuple[Tensor, ...]], None]],
    batch_size: int,
    told: Steps,
) -> None:
    """Show the inputs of every layer, in float arithmetic with the plan's weights, to its reader.

    Raises:
        UserError: as ``zero_input_rates``.
    """
    check_parts(captured, plan, grain=grain)
    if len(images) == 0:
        raise UserError("there are no calibration images to measure the inputs of layers on")
    model = compressed_model(captured, plan)
    for name, reader in readers.items():
        model.get_submodule(name).register_forward_pre_hook(reader)
    with torch.no_grad():
        given = of_arrays(images) if isinstance(images, np.ndarray) else images
        for batch in counted(cut(given, batch_size, captured.network.name), told):
            try:
                model(*batch)
            except (RuntimeError, TypeError) as error:
                name, shapes = captured.network.name, " and ".join(str(list(each.shape)) for each in batch)
                raise UserError(f"model {name} does not run on inputs {shapes}: {one_line(error)}") from error


class Counter:
    """Counts, for one layer, the pairs in which a row group is driven.

    An input becomes a byte of flags, bit s set if the input's digit of step s is not 0. The bytes of the rows of a
    group, ORed, then hold one position's answers of 8 steps; 8 positions are ORed at a time, as one 64-bit word.
    """

    def __init__(self, layer: Layer, plan: LayerPlan, grid: InputGrid, grain: Grain) -> None:
        self.layer, self.plan, self.grid = layer, plan, grid
        self.slices = Slices(grain.input_bits, grain.dac_bits)
        self.flags = _flags(self.slices)
        self.driven = np.zeros(plan.groups, np.int64)
        self.positions = 0

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        images = len(x)
        if self.layer.kind == "conv":
            images = max(1, BYTES_AT_A_TIME // (self.layer.map_positions * self.layer.rows))
        for part in torch.split(x, images):
            values = self.grid.integers(part).cpu().numpy()
            self.slices.check(values, f"layer {self.layer.name}: inputs")
            self.positions += self.count(values.view(np.uint8))

    def count(self, values: NDArray[np.uint8]) -> int:
        """Count a part of a batch, int8 values as bytes; return its positions."""
        for flags in self.flags:
            by_row = self.by_row(flags[values], int(flags[self.grid.zero % 256]))
            positions: int = by_row.shape[1]
            words = np.zeros((len(by_row), -(-positions // 8) * 8), np.uint8)
            words[:, :positions] = by_row
            over_ranges(self.plan.groups, partial(count_driven, words.view(np.uint64), self.plan.rows, self.driven))
        return positions

    def by_row(self, values: NDArray[np.uint8], padding: int) -> NDArray[np.uint8]:
        """[im2col row, position]."""
        rows: NDArray[np.uint8] = Rows(self.layer, torch.from_numpy(values), padding).transposed().numpy()
        return rows

    def zero_rates(self) -> NDArray[np.float64]:
        pairs = self.positions * self.slices.count
        return (pairs - self.driven) / pairs


def _flags(slices: Slices) -> NDArray[np.uint8]:
    """Of every int8 value, seen as a byte: which digits are not 0. uint8 [ceil(steps / 8), 256], bit s for step s."""
    values = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64) + slices.offset
    flags = np.zeros((-(-slices.count // 8), 256), np.uint8)
    for step in range(slices.count):
        digit = values >> (step * slices.width) & slices.largest_digit
        flags[step // 8] |= (digit != 0).astype(np.uint8) << np.uint8(step % 8)
    return flags


@njit(cache=True, nogil=True)
def count_driven(flags: Uint64, rows: Int32, driven: Int64, first: int, end: int) -> None:
    """Add to driven[g] the bits that are set on any of the rows of row group g, for g in first .. end.

    Args:
        flags: uint64 [im2col rows, words].
        rows: int32 [groups, h], -1 where unused.
        driven: int64 [groups].
    """
    any_row = np.empty(flags.shape[1], np.uint64)
    for g in range(first, end):
        any_row[:] = 0
        for row in rows[g]:
            if row >= 0:
                words = flags[row]
                for w in range(len(any_row)):
                    any_row[w] |= words[w]
        total = np.int64(0)
        for w in range(len(any_row)):
            total += popcount(any_row[w])
        driven[g] += total
