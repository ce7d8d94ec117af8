"""The bit-true crossbar: what the cells, ADC and shift-adders of the operation units make of a plan.

An input is applied a few bits at a time to the rows of one OU; every bitline adds up the currents of its driven cells;
the ADC turns that current into a code; codes are shifted by the weight of their column and input bit and added: that
is a donor's dot product. Each use then adds it, shifted and signed, to its filter's accumulator. Behind the ADC all is
integers. How OUs are placed on crossbars and in which order they are read does not change any of these sums as long as
no accumulator overflows, so the plan is all that is needed; where one does, row groups come in ascending order, as they
do for each filter whether a chip scatters or gathers its partial sums.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.common.parallel import over_ranges
from prap_pim.crossbar.adc import adc_codes
from prap_pim.crossbar.kernels.bits import POSITIONS_PER_TASK, Behind, Cells, Driven, Noise, Sums
from prap_pim.crossbar.kernels.direct import Bits, Donors, accumulate_by_cell, accumulate_by_count
from prap_pim.crossbar.kernels.table import Answers, accumulate_by_noisy_table, accumulate_by_table, respond
from prap_pim.crossbar.model import CrossbarModel
from prap_pim.crossbar.windows import Windows
from prap_pim.crossbar.wires import effective_conductances
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan

Int8 = NDArray[np.int8]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

_TABLE_ENTRIES = 1 << 23  # at most 64 MiB of answers at a time
_FEW_POSITIONS = 32  # below this, counting each bitline is quicker than preparing its answers to all 256 bytes
_NOISE = 1 << 31  # number of the seed's child for read noise; chunks have the lower ones
_LARGEST = float(1 << 24)  # levels that a cell may conduct: a layer's sums stay integers of 64 bits
_WIDEST = 62  # bits of a register that is wide enough for everything


def crossbar_matmul(plan: LayerPlan, inputs: Int8, grain: Grain, adc_bits: int) -> Int64:
    """The layer's accumulators, as crossbars of ideal cells with an ADC that clips compute them.

    Args:
        plan: the layer; its row groups have at most ``grain.ou_rows`` rows.
        inputs: int8 [positions, im2col rows].
        grain: geometry of the OU and bits of cells, weights, inputs and DAC.
        adc_bits: the ADC has the codes 0..2**adc_bits - 1 and clips what is above.

    Returns:
        int64 [positions, filters], in units of 2**-plan.fraction_bits.

    Raises:
        UserError: the plan does not fit the grain, or an input or weight exceeds its bits.
    """
    model = CrossbarModel.checked({"grain": grain, "adc_bits": adc_bits}, "crossbars")
    return LayerCrossbars(plan, model).matmul(inputs)


def integer_matmul(plan: LayerPlan, inputs: Int8) -> Int64:
    """The same accumulators by ``inputs @ plan.weights().T``, exactly: what the crossbars must reproduce.

    Returns:
        int64 [positions, filters], in units of 2**-plan.fraction_bits.
    """
    _check_shape(plan, inputs)
    return exact_matmul(inputs, plan.weights())


def exact_matmul(inputs: Int8, weights: NDArray[np.int32]) -> Int64:
    """``inputs @ weights.T`` in floating point, where it is fast, and yet exact, int64 [positions, filters].

    Every product and every partial sum, in whatever order, is an integer of at most 128 * sum(|weights|). A float holds
    all of these up to 2**24 (float32) or 2**53 (float64; 2**31 rows of the largest gain away).
    """
    largest = 128 * int(np.abs(weights.astype(np.int64)).sum(axis=1).max())
    kind = np.float32 if largest <= 1 << 24 else np.float64
    if largest > 1 << 53:
        raise UserError(f"a layer of {weights.shape[1]} inputs is too large to be multiplied exactly")
    product: NDArray[np.floating] = inputs.astype(kind) @ weights.T.astype(kind)
    return product.astype(np.int64)


def _check_shape(plan: LayerPlan, inputs: Int8) -> None:
    if inputs.dtype != np.int8 or inputs.ndim != 2 or inputs.shape[1] != plan.inputs:
        raise UserError(
            f"layer {plan.name}: inputs must be int8 [positions, {plan.inputs}], not {inputs.dtype} {inputs.shape}"
        )


def check_fit(plan: LayerPlan, model: CrossbarModel) -> None:
    """Refuse a plan that the model's OUs and cells cannot hold.

    Raises:
        UserError: a row group has more rows than an OU, weights have more bits than the model's, or one has no code.
    """
    height, rows = plan.rows.shape[1], model.grain.ou_rows
    if height > rows:
        raise UserError(f"layer {plan.name}: its row groups have {height} rows, an OU has {rows}")
    model.weight_slices(plan).check(plan.donors, f"layer {plan.name}: weights")


def check_inputs(plan: LayerPlan, inputs: Int8, model: CrossbarModel) -> None:
    """Refuse inputs that exceed the model's bits, of any shape.

    Raises:
        UserError: names the layer and the range.
    """
    model.input_slices.check(inputs, f"layer {plan.name}: inputs")


def loses_nothing(plan: LayerPlan, model: CrossbarModel) -> bool:
    """Whether the crossbars compute the integer product for any inputs.

    The cells are ideal, the ADC has a code for all that a bitline sums, accumulators keep all binary places, and no
    register can overflow, whatever the order of the sums.
    """
    lowest, largest = model.count_range(plan)
    codes = 1 << (model.adc_bits - (lowest < 0))
    fine_adc = model.adc_step(largest, lowest < 0) == 1 and largest < codes and -lowest <= codes
    places = model.fraction_bits is None or model.fraction_bits >= plan.fraction_bits
    if not (model.noise_free and fine_adc and places):
        return False
    dots = 128 * np.abs(plan.donors.astype(np.int64)).sum(axis=1)
    return _wide_enough(plan, model, dots)


def _wide_enough(plan: LayerPlan, model: CrossbarModel, dots: Int64) -> bool:
    """Whether no register overflows if ``dots`` [D] are the largest magnitudes of the donors' dot products."""
    sums = np.zeros(plan.filters, np.int64)
    np.add.at(sums, plan.use_filter, (np.abs(_gains(plan, model)[0]) * dots[plan.use_donor]))
    dot_limit = 1 << ((model.dot_bits or _WIDEST) - 1)
    sum_limit = 1 << ((model.accumulator_bits or _WIDEST) - 1)
    return bool(dots.max(initial=0) < dot_limit and sums.max(initial=0) < sum_limit)


def kept_fraction_bits(plan: LayerPlan, model: CrossbarModel) -> int:
    """Accumulators count in 2**-kept_fraction_bits."""
    return plan.fraction_bits if model.fraction_bits is None else min(model.fraction_bits, plan.fraction_bits)


def _gains(plan: LayerPlan, model: CrossbarModel) -> tuple[Int64, Int64]:
    """What each use multiplies its donor's dot product by, and by how many bits it is shifted right before."""
    shift = plan.use_exponent.astype(np.int64) + kept_fraction_bits(plan, model)
    return plan.use_sign.astype(np.int64) << np.maximum(shift, 0), np.maximum(-shift, 0)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """The programmed cells of some row groups, and what they answer.

    Attributes:
        groups: the row groups low..high - 1.
        cells: without variance where there is no read noise, and without signal where a table of it is all that is
            needed.
        answers: an empty table if a byte does not hold the driven rows.
    """

    groups: tuple[int, int]
    cells: Cells
    answers: Answers


class LayerCrossbars:
    """The crossbars of a layer, programmed once and then read any number of times.

    Attributes:
        plan, model: what is computed, and how.
        dot_overflows, sum_overflows: dot products and sums that did not fit their registers, over all calls.
        copies: int64 [D], how often each donor is stored.
    """

    def __init__(
        self, plan: LayerPlan, model: CrossbarModel, seed: np.random.SeedSequence | None = None, room: int | None = None
    ) -> None:
        """
        Args:
            plan: the layer; its row groups have at most ``ou_rows`` rows.
            model: cells, ADC, registers.
            seed: of the device and its read noise; default: 0.
            room: bytes that may be kept between calls, for what cells answer; None: any. Where that is too little it is
                made anew in each call, the same.

        Raises:
            UserError: the plan does not fit the model.
        """
        check_fit(plan, model)
        self.plan, self.model = plan, model
        self.seed = np.random.SeedSequence(0) if seed is None else seed
        self.dot_overflows = self.sum_overflows = 0
        self.copies = _copies(plan, model)
        self._average = np.log2(self.copies).astype(np.int64)
        self._gain, self._drop = _gains(plan, model)
        lowest, largest = model.count_range(plan)
        self._adc_step = model.adc_step(largest, lowest < 0)
        self._adc_top = (1 << model.adc_bits) - 1
        self._bias = self._adc_step << (model.adc_bits - 1) if lowest < 0 else 0
        self._weights = model.weight_slices(plan)
        self._combined = model.conversions == "per weight"
        self._factors = np.ones(1, np.int64) if self._combined else self._weights.factors
        self._inputs = model.input_slices
        self._tabled = plan.rows.shape[1] <= 8 and model.grain.dac_bits == 1
        self._ranges = _group_ranges(plan.donor_start, _TABLE_ENTRIES // 256)
        self._chunks: dict[int, _Chunk] = {}
        noise = np.random.SeedSequence(self.seed.entropy, spawn_key=(*self.seed.spawn_key, _NOISE))
        self._noise_key = int(noise.generate_state(1, np.uint64)[0] >> np.uint64(1))
        self._plane_factor = np.zeros(8, np.int64)
        if self._tabled:  # int8 has 8 planes. Planes above the 8th repeat the sign bit: their factors add up
            np.add.at(self._plane_factor, np.minimum(np.arange(self._inputs.count), 7), self._inputs.factors)
        self._keep = room is None or self._table_bytes <= room
        self._guarded: bool | None = False if not self._limited else None  # None: not known yet

    @property
    def kept_bytes(self) -> int:
        """Memory that is kept between calls."""
        return self._table_bytes if self._keep else 0

    @property
    def _table_bytes(self) -> int:
        """What cells answer."""
        stored = int(self.copies.sum()) * self._weights.columns * max(8, self.plan.rows.shape[1]) * 8
        noisy = self._read_noise > 0
        return (256 * len(self.copies) * (8 if noisy else 4) if self._tabled else 0) + (
            2 * stored if noisy else 0 if self._tabled else stored
        )

    def matmul(self, inputs: Int8, first: int = 0) -> Int64:
        """The layer's accumulators.

        Args:
            inputs: int8 [positions, im2col rows].
            first: number of the first position. Read noise depends on the seed and a position's number alone.

        Returns:
            int64 [positions, filters], in units of 2**-kept_fraction_bits(plan, model).

        Raises:
            UserError: inputs of another shape or type, or more bits than the model has.
        """
        _check_shape(self.plan, inputs)
        check_inputs(self.plan, inputs, self.model)
        return np.ascontiguousarray(self.accumulate(Windows.of_matrix(inputs), first).T)

    def accumulate(self, windows: Windows, first: int = 0) -> Int64:
        """As ``matmul``, of inputs that fit the model, to int64 [filters, positions]."""
        positions = len(windows.base)
        accumulator = np.zeros((self.plan.filters, positions), np.int64)
        few = positions < _FEW_POSITIONS and not self._chunks
        if self.model.noise_free and not self._combined and (few or not self._tabled):
            self._by_count(windows, accumulator)
        else:
            if self._guarded is None:
                self._guarded = not self._tabled or not self._never_overflows()
            for number in range(len(self._ranges)):
                chunk = self._chunk(number)
                (self._by_table if self._tabled else self._by_cell)(chunk, windows, first, accumulator)
        return accumulator

    def signal(self) -> Float64:
        """What each programmed cell adds to the current of its bitline, in levels.

        Returns:
            float64 [stored donors, columns, h], copies of a donor side by side; 0 where a row is not used.
        """
        parts = [self._program(number, low, high)[0] for number, (low, high) in enumerate(self._ranges)]
        return np.concatenate(parts) if parts else np.zeros((0, self._weights.columns, self.plan.rows.shape[1]))

    @property
    def _limited(self) -> bool:
        """Whether a register has a width, or a use drops bits."""
        return bool(self.model.dot_bits or self.model.accumulator_bits or self._drop.any())

    @property
    def _read_noise(self) -> float:
        return self.model.device.read_noise if self.model.device is not None else 0.0

    @property
    def _limits(self) -> Int64:
        """Lowest and highest dot product and sum."""
        widths = (self.model.dot_bits or _WIDEST, self.model.accumulator_bits or _WIDEST)
        return np.array([edge for bits in widths for edge in (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)], np.int64)

    def _never_overflows(self) -> bool:
        """Whether the tables prove that no register overflows; every bit that a use drops says no."""
        if self._drop.any() or self._read_noise:
            return False
        dots = np.zeros(len(self.plan.donors), np.int64)
        for number, (low, _) in enumerate(self._ranges):
            start, table, _ = self._chunk(number).answers
            for g in range(len(start) - 1):
                answers = table[256 * start[g] : 256 * start[g + 1]].reshape(256, -1).astype(np.int64)
                first = self.plan.donor_start[low + g]
                largest = np.maximum(answers.max(axis=0, initial=0), -answers.min(axis=0, initial=0))
                dots[first : first + answers.shape[1]] = largest * np.abs(self._plane_factor).sum()
        return _wide_enough(self.plan, self.model, dots)

    def _chunk(self, number: int) -> _Chunk:
        """Programmed anew or as kept: the same, since the chunk has a seed of its own."""
        if number in self._chunks:
            return self._chunks[number]
        low, high = self._ranges[number]
        donors = slice(self.plan.donor_start[low], self.plan.donor_start[high])
        start = self.plan.donor_start[low : high + 1] - donors.start
        copy_start = np.append(0, np.cumsum(self.copies[donors]))
        signal, variance = self._program(number, low, high)
        if self._combined:
            signal, variance = (
                np.einsum("dch,c->dh", cells, self._weights.factors.astype(np.float64) ** power)[:, None, :]
                for cells, power in ((signal, 1), (variance, 2))
            )
        table, quiet = np.zeros(0, np.int32), np.zeros(0, np.float32)
        if self._tabled:
            signal, variance = _by_row(signal), _by_row(variance)
            table = np.empty((donors.stop - donors.start) * 256, self._table_type)
            quiet = np.empty(len(table) if len(variance) else 0, np.float32)
            cells = self._cells(signal, variance, copy_start)
            over_ranges(high - low, partial(respond, cells, Answers(start, table, quiet)))
            if not len(variance):
                signal = signal[:0].copy()  # the table says it all
        chunk = _Chunk((low, high), self._cells(signal, variance, copy_start), Answers(start, table, quiet))
        if self._keep:
            self._chunks[number] = chunk
        return chunk

    @property
    def _table_type(self) -> type[np.signedinteger[Any]]:
        """int32 if no dot product can exceed it."""
        top = min(self._adc_top, 1 << 40) * self._adc_step
        answer = int(np.abs(self._factors).sum()) * top + self._weights.offset * self.plan.rows.shape[1]
        largest = answer * int(np.abs(self._plane_factor).sum()) * int(self.copies.max(initial=1))
        return np.int32 if largest < 1 << 30 else np.int64

    def _program(self, number: int, low: int, high: int) -> tuple[Float64, Float64]:
        """Signal and variance of every cell, copies side by side, float64 [stored donors, columns, h]."""
        plan, device = self.plan, self.model.device
        donors = slice(plan.donor_start[low], plan.donor_start[high])
        stored = np.repeat(np.arange(donors.start, donors.stop), self.copies[donors])
        group = plan.donor_group[stored]
        levels = self._weights.levels(plan.donors[stored])  # [stored donor, column, row]
        used = np.broadcast_to((plan.rows[group] >= 0)[:, None, :], levels.shape)
        largest = self._weights.largest_level
        variance = np.zeros((0, *levels.shape[1:]))
        if device is None:
            signal = np.where(used, levels, 0).astype(np.float64)
        else:
            seed = np.random.SeedSequence(self.seed.entropy, spawn_key=(*self.seed.spawn_key, number))
            with np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused below
                conductance = np.where(used, device.program(levels, largest, seed), 0.0)
                noise = device.read_noise * conductance
            if not (np.abs(conductance) <= _LARGEST).all() or not (noise <= _LARGEST).all():
                raise UserError(f"layer {plan.name}: variation or read noise is too large, over 2**24 levels")
            if device.has_wires:
                unit = device.on_resistance_ohm * (largest + device.off(largest))  # ohm of a conductance of one level
                wires = device.row_wire_ohm / unit, device.column_wire_ohm / unit
                conductance = self._through_wires(conductance, group, *wires)
            if device.read_noise:
                variance = (device.read_noise * conductance) ** 2
            signal = conductance
            if device.reference_column:
                signal = np.where(used, conductance - device.off(largest), 0.0)
        return np.ascontiguousarray(signal), np.ascontiguousarray(variance)

    def _through_wires(self, conductance: Float64, group: Int64, row_wire: float, column_wire: float) -> Float64:
        """Effective conductances. The columns of a row group fill its OUs one after another."""
        width = self.model.grain.ou_columns
        columns = conductance.shape[1]
        group_of_column = np.repeat(group, columns)
        first = np.searchsorted(group_of_column, group_of_column)  # groups ascend
        place = np.arange(len(group_of_column)) - first
        new_ou = place % width == 0
        ou = np.cumsum(new_ou) - 1
        filled = np.zeros((int(ou[-1]) + 1 if len(ou) else 0, width, conductance.shape[2]))
        filled[ou, place % width] = conductance.reshape(-1, conductance.shape[2])
        effective = effective_conductances(np.ascontiguousarray(filled.transpose(0, 2, 1)), row_wire, column_wire)
        by_column: Float64 = effective.transpose(0, 2, 1)[ou, place % width]
        return by_column.reshape(conductance.shape)

    def _cells(self, signal: Float64, variance: Float64, copy_start: Int64) -> Cells:
        weights = self._weights
        adc = self._adc_step, self._adc_top, self._bias
        return Cells(signal, variance, self._factors, *adc, weights.offset, copy_start)

    def _driven(self, windows: Windows, groups: tuple[int, int], factors: NDArray[np.signedinteger[Any]]) -> Driven:
        """The rows of these row groups, by the windows of a batch."""
        inputs, rows = self._inputs, self.plan.rows[slice(*groups)]
        batch = windows.inputs, windows.base, windows.offset
        return Driven(*batch, rows, factors, inputs.bits, inputs.width, inputs.offset)

    def _by_table(self, chunk: _Chunk, windows: Windows, first: int, accumulator: Int64) -> None:
        """h <= 8 and one input bit at a time: the driven rows are one byte, so a donor's answers are a table of 256."""
        tasks = -(-len(windows.base) // POSITIONS_PER_TASK)
        sums = Sums(accumulator, np.zeros((tasks, 2), np.int64))
        if len(chunk.cells.variance):
            driven = self._driven(windows, chunk.groups, self._plane_factor)
            noise = Noise(self._noise_key, first, int(self.plan.donor_start[chunk.groups[0]]))
            of_chunk = driven, chunk.answers, chunk.cells, noise, self._behind(chunk.groups, self._limits)
            over_ranges(tasks, partial(accumulate_by_noisy_table, *of_chunk, sums))
        else:
            driven = self._driven(windows, chunk.groups, self._plane_factor.astype(chunk.answers.table.dtype))
            behind = self._behind(chunk.groups, self._limits if self._guarded else np.zeros(0, np.int64))
            over_ranges(tasks, partial(accumulate_by_table, driven, chunk.answers, behind, sums))
        self._count(sums)

    def _by_cell(self, chunk: _Chunk, windows: Windows, first: int, accumulator: Int64) -> None:
        """Any h and DAC bits: add up every bitline."""
        sums = Sums(accumulator, np.zeros((len(windows.base), 2), np.int64))
        donors = slice(*self.plan.donor_start[list(chunk.groups)])
        driven = self._driven(windows, chunk.groups, self._inputs.factors)
        noise = Noise(self._noise_key, first, int(donors.start))
        of_donors = Donors(chunk.answers.start, self._stored_sums[donors])
        of_chunk = driven, of_donors, chunk.cells, noise, self._behind(chunk.groups, self._limits)
        over_ranges(len(windows.base), partial(accumulate_by_cell, *of_chunk, sums))
        self._count(sums)

    def _by_count(self, windows: Windows, accumulator: Int64) -> None:
        """Ideal cells, any h, cell bits and DAC bits: count every bitline. Copies of a donor would give its mean."""
        levels = self._levels(slice(None))
        donors, columns, height = levels.shape
        width = self._weights.width
        words = np.zeros((donors, columns * width, -(-height // 64)), np.uint64)
        for bit in range(columns * width):
            for row in range(height):
                ones = (levels[:, bit // width, row] >> bit % width & 1).astype(np.uint64)
                words[:, bit, row // 64] |= ones << np.uint64(row % 64)
        codes = adc_codes(self.model.count_range(self.plan)[1], self.model.adc_bits, self._adc_step)
        column_start = np.arange(columns + 1, dtype=np.int64) * width
        stored = Bits(words, column_start, self._weights.factors, self._weights.offset, codes)
        whole = 0, self.plan.groups
        driven = self._driven(windows, whole, self._inputs.factors)
        of_donors = Donors(self.plan.donor_start, self._stored_sums)
        behind = self._behind(whole, self._limits)._replace(average=np.zeros(0, np.int64))
        sums = Sums(accumulator, np.zeros((len(windows.base), 2), np.int64))
        over_ranges(len(windows.base), partial(accumulate_by_count, driven, of_donors, stored, behind, sums))
        self._count(sums)

    def _levels(self, donors: slice) -> Int64:
        """Levels of the cells, int64 [donors, columns, h]; 0 on unused rows, which have no cells."""
        used = self.plan.rows[self.plan.donor_group[donors]] >= 0
        return np.where(used[:, None, :], self._weights.levels(self.plan.donors[donors]), 0)

    @cached_property
    def _stored_sums(self) -> Int64:
        """Sum over a donor's rows of what its cells are to hold, int64 [D]."""
        sums: Int64 = np.einsum("dch,c->d", self._levels(slice(None)), self._weights.factors)
        return sums

    def _behind(self, groups: tuple[int, int], limits: Int64) -> Behind:
        """What happens to the dot products of these row groups."""
        low, high = groups
        first, last = self.plan.donor_start[low], self.plan.donor_start[high]
        uses = slice(self.plan.use_start[low], self.plan.use_start[high])
        average = self._average[first:last]
        return Behind(
            average=average if average.any() else average[:0],
            use_start=self.plan.use_start[low : high + 1] - self.plan.use_start[low],
            use_filter=self.plan.use_filter[uses],
            use_donor=self.plan.use_donor[uses] - np.int32(first),
            use_gain=self._gain[uses],
            use_drop=self._drop[uses],
            limits=limits,
            wrap=self.model.overflow == "wrap",
        )

    def _count(self, sums: Sums) -> None:
        dots, totals = sums.overflows.sum(axis=0)
        self.dot_overflows += int(dots)
        self.sum_overflows += int(totals)


def _by_row(cells: Float64) -> Float64:
    """float64 [stored donors, columns, h] to [stored donors, 8, columns], 0 on rows that do not exist."""
    rows = np.zeros((len(cells), 8, cells.shape[1]))
    rows[:, : cells.shape[2]] = cells.transpose(0, 2, 1)
    return rows


def _copies(plan: LayerPlan, model: CrossbarModel) -> Int64:
    """How often each donor is stored, int64 [D]."""
    copies = np.ones(len(plan.donors), np.int64)
    if model.copies is not None:
        uses = np.bincount(plan.use_donor, minlength=len(copies))
        most = np.argsort(-uses, kind="stable")[: int(np.ceil(model.copies.share * len(copies)))]
        copies[most] = model.copies.copies
    return copies


def _group_ranges(donor_start: Int64, most_donors: int) -> list[tuple[int, int]]:
    """Cut the row groups into ranges of at most ``most_donors`` donors, one row group at the least."""
    ranges, low = [], 0
    while low < len(donor_start) - 1:
        high = int(np.searchsorted(donor_start, donor_start[low] + most_donors, side="right")) - 1
        ranges.append((low, max(high, low + 1)))
        low = ranges[-1][1]
    return ranges
