"""What a mapped layer does in one inference: integer counts of events. No seconds, no joules.

Order of the work, which fixes what happens how often. For every output position, all crossbars of the layer side by
side; each walks its OUs in order, one at a time:

    new run (first OU of a row group on this crossbar): load the input registers from the input buffer
    for each OU: for each input step: drive the rows, read, convert every column, shift and add into the output register
                 after the last input step the donors' dot products stand in the output register, and
                 for each use of these donors: partial-sum buffer: read the filter's accumulator, add the
                 (shifted, negated) result, write it back

So input registers are loaded once per run and position, not per input step; the sum over input steps and columns
stays in the output register; accumulators are updated once per use and position. Reuse saves OU steps, not updates.
A donor's uses follow at once, so its result needs no buffer of its own.

That is to scatter. A chip that gathers keeps all dot products of the position, each in a register of its crossbar, and

    for each filter, in ascending order: each crossbar reads the donors that it uses, shifts, negates and adds them;
                 the PE's tree of adders adds up what its crossbars give; the accumulator is updated once

as many neighbouring accumulators at an access as a port takes. Registers are double: the OUs of the next position are
read meanwhile. Uses are read and added as often as before, accumulators updated once per filter and PE.

Every PE accumulates in its own partial-sum buffer. At the end of a position, accumulators that one filter has in
several PEs of a tile are added up in the tile, and what several tiles have in the layer's first tile. There the
outputs are brought to int8, the digital operations on them are done, and from there they go on to the next layers.

Copies of a layer are dealt its positions and work on as many at once; all in one tile use its bus, its port to the
other tiles and its digital lanes. Copies change no event but what must be brought to them, and what is stored.

With zero-input skipping an OU step is left out when the input bits of its row group are all 0 in that position and
input step. Inputs are loaded, dot products written and accumulators updated as without it.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.cost.index import index_streams
from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import DigitalOp, Layer
from prap_pim.ir.plan import LayerPlan
from prap_pim.mapping import LayerMapping
from prap_pim.mapping.network import Feed

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

_WEIGHT_BYTES = 4  # of a weight that stays digital: the bit-true model computes with it in float32, too
_FREE = frozenset(  # data stays where it is, or is addressed otherwise
    (
        *("input", "output", "identity", "dropout", "flatten", "unflatten", "reshape", "view", "transpose", "permute"),
        *("t", "swapaxes", "movedim", "expand", "expandas", "unsqueeze", "squeeze", "slice", "select", "getitem"),
        *("index", "narrow", "split", "chunk", "unbind", "contiguous", "clone", "detach", "alias", "to", "cast"),
        *("float", "cat", "concat", "stack", "pad", "constantpad", "zeropad", "pixelshuffle", "channelshuffle"),
        *("takerows", "mergerows"),
    )
)


@dataclass(frozen=True)
class Busiest:
    """What the busiest resource of a layer does for one output position: that sets the time.

    With copies: for one position in every copy. Whole numbers when counted from a mapping without copies and without
    skipping; fractions may also come from a replay of published ratios.

    Attributes:
        ous: OUs of the busiest crossbar.
        updates, shifted_updates: uses whose donor lies on the busiest crossbar; those with an exponent.
        input_accesses: reads of the input buffer through the port of the busiest PE.
        partial_sum_accesses: reads and writes of the busiest PE's partial-sum buffer.
        index_accesses: reads through the index port of the busiest PE.
        merge_bits: accumulators that the busiest tile's bus carries from PE to PE.
        inter_tile_bits: accumulators that come to the first tile from the others, and outputs that leave it.
        steps: OU steps of the crossbar that has most of them in the whole inference, per position: crossbars of a layer
            need not wait for each other at every position. None: all input steps of ``ous``.
        gathered: filters whose sums the busiest PE's adders hand to its accumulators; 0 where uses are scattered.
        rounds: of conversions that a full OU of the plan's weights needs; None: the chip's.
        pulses: of a read, the mean of the steps of the plan's inputs; None: the chip's.
    """

    ous: float
    updates: float
    shifted_updates: float
    input_accesses: float
    partial_sum_accesses: float
    index_accesses: float
    merge_bits: float
    inter_tile_bits: float
    steps: float | None = None
    gathered: float = 0
    rounds: int | None = None
    pulses: float | None = None


@dataclass(frozen=True)
class LayerActivity:
    """Events of one inference, and the busiest resources. Integers.

    Attributes:
        name: the layer.
        positions: output positions.
        copies: of the layer, which share them.
        rounds: positions that the copy with most of them does one after another.
        output_tiles: tiles in which copies finish outputs; they share the digital work.
        ou_steps: OUs x input steps x positions, less those that are skipped.
        row_drives: one wordline raised for one pulse of a read; only rows that the plan uses.
        cell_reads: cells on driven rows and converted columns, per pulse.
        conversions: one ADC sample of one column, or of one weight; columns without a weight are not converted.
        samples: one for each conversion and pulse of its read.
        shift_adds: one per conversion: the sample enters the output register at its column's and input step's place.
        output_register_writes: one per OU and position: its finished dot products.
        input_register_loads, input_register_bytes: one load per run and position.
        input_buffer_reads: accesses for these loads; the inputs of a row group lie together, so ceil(bits / port) each.
        input_buffer_read_bytes: what these accesses deliver.
        use_additions: one per use and position, reused or not.
        shifted_updates: of these, with an exponent other than 0.
        partial_sum_updates: each reads and writes one accumulator; one per use and position, or, where uses are
            gathered, per filter, PE and position.
        partial_sum_read_bytes, partial_sum_write_bytes: of updates.
        dot_register_accesses: where uses are gathered: a write per donor and position, a read per use and position.
        dot_register_bytes: that a crossbar needs for the dot products of two positions (not an event).
        merges: accumulators of one filter added up between PEs and between tiles.
        merge_bytes: of these, within tiles.
        index_bits: index that one position reads, which is also what every copy stores.
        index_reads, index_read_bytes: port-wide accesses: a crossbar's index is read as one stream per position, or,
            where uses are gathered, its rows as one, and the uses of a PE as one.
        outputs, output_bytes: activations made.
        output_buffer_writes: port-wide accesses that put arriving activations into the tiles' input buffers.
        inter_tile_bytes: activations and accumulators sent from tile to tile.
        inter_tile_byte_hops: the same times the links passed.
        digital_ops: element operations of the digital operations done in this layer's tile.
        memory_accesses: port-wide accesses of these operations to the digital memory, for weights that are not on
            crossbars, and for keys and values that are kept.
        memory_bytes: that this memory holds for them (not an event).
        stored_cells: cells that are programmed, in all copies (not an event).
        busiest: per output position.
    """

    name: str
    positions: int
    copies: int
    rounds: int
    output_tiles: int
    ou_steps: int
    row_drives: int
    cell_reads: int
    conversions: int
    samples: int
    shift_adds: int
    output_register_writes: int
    input_register_loads: int
    input_register_bytes: int
    input_buffer_reads: int
    input_buffer_read_bytes: int
    use_additions: int
    shifted_updates: int
    partial_sum_updates: int
    partial_sum_read_bytes: int
    partial_sum_write_bytes: int
    dot_register_accesses: int
    dot_register_bytes: int
    merges: int
    merge_bytes: int
    index_bits: int
    index_reads: int
    index_read_bytes: int
    outputs: int
    output_bytes: int
    output_buffer_writes: int
    inter_tile_bytes: int
    inter_tile_byte_hops: int
    digital_ops: int
    memory_accesses: int
    memory_bytes: int
    stored_cells: int
    busiest: Busiest


def activity(
    mapping: LayerMapping,
    layer: Layer,
    chip: Chip,
    first_tile: int = 0,
    feeds: tuple[Feed, ...] = (),
    digital_ops: tuple[DigitalOp, ...] = (),
    zero_input: Float64 | None = None,
) -> LayerActivity:
    """Count the events of one inference.

    Args:
        mapping: the layer on its crossbars.
        layer: for its shapes.
        chip: must be the chip that it was mapped on.
        first_tile, feeds, digital_ops: its place in the network (``NetworkMapping``); without them nothing arrives
            from other tiles.
        zero_input: float64 [G], the share of (position, input step) pairs in which a row group's input bits are all 0:
            its OU steps are skipped then. Counts stay integers: the pairs that are left are rounded once, for each
            row group; every count follows from them.

    Raises:
        UserError: ``zero_input`` is not a share for each row group.
    """
    plan, grain, positions = mapping.plan, chip.grain.of_bits(mapping.plan.weight_bits), layer.positions
    grain = grain.reading(plan.input_bits)
    per_pe = mapping.crossbars_per_pe
    used_rows = np.count_nonzero(plan.rows >= 0, axis=1)  # [group]

    converted, group_reads, group_cells = reads_of_groups(plan, chip)
    pairs = _worked_pairs(plan, grain.input_steps * positions, zero_input)  # [group]
    pulses = chip.input_pulses(chip.dac_energy, grain)

    def pulsed(counts: Int64) -> int:
        """Events of a group and pair, int64 [group], for all pulses; steps that are skipped are of the mean pulses."""
        return (
            int(np.rint(counts * pairs * pulses / grain.input_steps).sum())
            if pulses != grain.input_steps
            else int((counts * pairs).sum())
        )

    run_pairs = mapping.run_ous * pairs[mapping.run_group]  # [run], OU steps
    crossbar_steps = _largest_sum(mapping.run_crossbar, run_pairs, mapping.crossbars)
    # positions that the copies of one tile do, in as many rounds as a copy has positions
    rounds = -(-positions // mapping.copies)  # none of an expert that no row comes to
    tile_share = float(tile_positions(positions, np.int64(mapping.copies), mapping.copies_per_tile) / max(1, rounds))

    load_bits = used_rows[mapping.run_group] * grain.input_bits  # [run]
    load_accesses = -(-load_bits // chip.buffer_port_bits)
    load_bytes = -(-load_bits // 8)
    run_pe = mapping.run_crossbar // per_pe

    crossbar_of_donor = mapping.donor_crossbar(grain)
    use_crossbar = crossbar_of_donor[plan.use_donor]  # [use]
    updates = np.bincount(use_crossbar, minlength=mapping.crossbars)  # [crossbar]
    shifted = np.bincount(use_crossbar[plan.use_exponent != 0], minlength=mapping.crossbars)
    crossbar_pe = np.arange(mapping.crossbars) // per_pe
    index, index_pe = index_streams(mapping, crossbar_of_donor, chip.gathers)  # [stream]
    index_accesses = -(-index // chip.buffer_port_bits)  # [stream]

    in_pe, in_tile, tile_merges = _merges(mapping, use_crossbar)
    served = int(np.count_nonzero(in_tile.any(axis=0)))
    tile_filters = int(np.count_nonzero(in_tile))
    accumulator_bytes = -(-chip.partial_sum_bits // 8)
    merge_count = int(np.count_nonzero(in_pe)) - served

    output_bytes = layer.filters * activation_bytes(chip)
    inter_tile, byte_hops, arrived = _traffic(mapping, layer, chip, first_tile, feeds)
    from_tiles = np.count_nonzero(in_tile[1:], axis=1)  # [tile but the first]
    inter_tile += int(from_tiles.sum()) * accumulator_bytes * positions
    byte_hops += _accumulator_hops(mapping, chip, first_tile, from_tiles, positions) * accumulator_bytes
    if chip.gathers:
        sums = _gathered_sums(plan, chip, in_pe, crossbar_of_donor)
    else:
        sums = _PartialSums(updates=plan.uses, accesses=2 * _largest_sum(crossbar_pe, updates, mapping.pes))
    total_updates = sums.updates * positions
    ous = mapping.ous_per_crossbar
    return LayerActivity(
        name=plan.name,
        positions=positions,
        copies=mapping.copies,
        rounds=rounds,
        output_tiles=mapping.output_tiles(mapping.copies),
        ou_steps=int(run_pairs.sum()),
        row_drives=pulsed(group_reads * used_rows),
        cell_reads=pulsed(group_cells * used_rows),
        conversions=int((converted * pairs).sum()),
        samples=pulsed(converted),
        shift_adds=int((converted * pairs).sum()),
        output_register_writes=mapping.ous * positions,
        input_register_loads=len(mapping.run_group) * positions,
        input_register_bytes=int(load_bytes.sum()) * positions,
        input_buffer_reads=int(load_accesses.sum()) * positions,
        input_buffer_read_bytes=int(load_bytes.sum()) * positions,
        use_additions=plan.uses * positions,
        shifted_updates=int(shifted.sum()) * positions,
        partial_sum_updates=total_updates,
        partial_sum_read_bytes=total_updates * accumulator_bytes,
        partial_sum_write_bytes=total_updates * accumulator_bytes,
        dot_register_accesses=sums.dot_accesses * positions,
        dot_register_bytes=sums.dot_bytes,
        merges=merge_count * positions,
        merge_bytes=(int(np.count_nonzero(in_pe)) - tile_filters) * accumulator_bytes * positions,
        index_bits=int(index.sum()),
        index_reads=int(index_accesses.sum()) * positions,
        index_read_bytes=int((-(-index // 8)).sum()) * positions,
        outputs=layer.filters * positions,
        output_bytes=output_bytes * positions,
        output_buffer_writes=-(-arrived * 8 // chip.buffer_port_bits),
        inter_tile_bytes=inter_tile,
        inter_tile_byte_hops=byte_hops,
        digital_ops=sum(_element_ops(op) for op in digital_ops),
        memory_accesses=sum(-(-moved * 8 // chip.buffer_port_bits) for op in digital_ops for moved in _moved(op, chip)),
        memory_bytes=sum(op.weights * _WEIGHT_BYTES + op.cached * activation_bytes(chip) for op in digital_ops),
        stored_cells=int((plan.donors_per_group * used_rows).sum()) * grain.columns_per_weight * mapping.copies,
        busiest=Busiest(
            ous=int(ous.max()),
            updates=int(updates.max()),
            shifted_updates=int(shifted.max()),
            input_accesses=_largest_sum(run_pe, load_accesses, mapping.pes),
            partial_sum_accesses=sums.accesses,
            index_accesses=_largest_sum(index_pe, index_accesses, mapping.pes),
            merge_bits=int(tile_merges.max()) * chip.partial_sum_bits * tile_share,
            inter_tile_bits=(int(from_tiles.sum()) * chip.partial_sum_bits + output_bytes * 8) * tile_share,
            steps=crossbar_steps / max(1, positions),
            gathered=sums.gathered,
            rounds=chip.rounds(grain),
            pulses=chip.input_pulses(chip.dac_time, grain) / grain.input_steps,
        ),
    )


def reads_of_groups(plan: LayerPlan, chip: Chip) -> tuple[Int64, Int64, Int64]:
    """Of the OUs of each row group in one input step, int64 [G]: conversions, reads, and cells read of each row.

    OUs of a group are all full but perhaps the last; a step reads an OU once, or once for every round of conversions.
    """
    grain = chip.grain.of_bits(plan.weight_bits)
    columns = plan.donors_per_group * grain.columns_per_weight
    full, rest = np.divmod(columns, grain.ou_columns)
    converted = columns
    if chip.conversions == "per weight":
        inside = np.cumsum(np.arange(int(full.max(initial=0)) + 1) * grain.ou_columns % grain.columns_per_weight != 0)
        converted = plan.donors_per_group + inside[np.maximum(full + (rest > 0) - 1, 0)]  # parts of weights count, too
    if chip.sample_and_hold:
        return converted, full + (rest > 0), columns
    rest_rounds = -(-rest // chip.adcs_per_crossbar)  # of columns: weights are converted as a whole if sampled
    reads = full * chip.conversion_rounds + rest_rounds
    return converted, reads, full * chip.conversion_rounds * grain.ou_columns + rest_rounds * rest


def tile_positions(positions: int, copies: Int64 | np.int64, copies_per_tile: int) -> Int64:
    """Positions that the copies of a layer's first tile, which is the fullest, do together: they are dealt in turn."""
    here = np.minimum(copies, copies_per_tile)
    return here * (positions // copies) + np.minimum(here, positions % copies)


def _dealt(positions: int, copies: int) -> list[int]:
    """Positions of each copy: dealt in turn."""
    each, more = divmod(positions, copies)
    return [each + (copy < more) for copy in range(copies)]


def _worked_pairs(plan: LayerPlan, pairs: int, zero_input: Float64 | None) -> Int64:
    """(position, input step) pairs in which the OUs of each row group are read, int64 [group]."""
    if zero_input is None:
        return np.full(plan.groups, pairs, np.int64)
    share = np.asarray(zero_input)
    if share.shape != (plan.groups,):
        raise UserError(
            f"layer {plan.name}: zero-input shares of shape {share.shape}; one for each of {plan.groups} row groups is "
            "needed"
        )
    if not ((share >= 0) & (share <= 1)).all():  # NaN too
        raise UserError(f"layer {plan.name}: a zero-input share must lie in 0..1")
    return np.rint((1 - share) * pairs).astype(np.int64)


def _largest_sum(place: Int64, amount: Int64, places: int) -> int:
    """The largest of the sums of ``amount`` over equal ``place``."""
    return int(np.bincount(place, weights=amount, minlength=places).max())  # float64 is exact below 2**53


@dataclass(frozen=True)
class _PartialSums:
    """What one position does to partial sums: accumulators updated, accesses of the busiest PE's buffer, and, where
    they are gathered, the others as ``LayerActivity`` and ``Busiest`` name them."""

    updates: int
    accesses: int
    dot_accesses: int = 0
    dot_bytes: int = 0
    gathered: int = 0


def _gathered_sums(plan: LayerPlan, chip: Chip, in_pe: NDArray[np.bool_], crossbar_of_donor: Int64) -> _PartialSums:
    """Filter by filter; ``in_pe``, bool [pe, filter]: where there are donors of it."""
    together = np.logical_or.reduceat(in_pe, np.arange(0, plan.filters, chip.sums_per_access), axis=1)  # [pe, access]
    return _PartialSums(
        updates=int(np.count_nonzero(in_pe)),
        accesses=2 * int(np.count_nonzero(together, axis=1).max()),
        dot_accesses=len(plan.donors) + plan.uses,
        dot_bytes=2 * -(-int(np.bincount(crossbar_of_donor).max(initial=0)) * chip.dot_bits // 8),
        gathered=int(np.count_nonzero(in_pe, axis=1).max()),
    )


def _merges(mapping: LayerMapping, use_crossbar: Int64) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Int64]:
    """Which PE and which tile holds an accumulator of which filter, bool [pe, filter] and [tile, filter];
    and how many accumulators each tile moves between its PEs, int64 [tile]."""
    plan, pes_per_tile = mapping.plan, mapping.crossbars_per_tile // mapping.crossbars_per_pe
    in_pe = np.zeros((mapping.pes, plan.filters), np.bool_)
    in_pe[use_crossbar // mapping.crossbars_per_pe, plan.use_filter] = True
    first_pe = np.arange(0, mapping.pes, pes_per_tile)
    in_tile = np.logical_or.reduceat(in_pe, first_pe, axis=0)
    accumulators = np.add.reduceat(np.count_nonzero(in_pe, axis=1), first_pe)
    return in_pe, in_tile, accumulators - np.count_nonzero(in_tile, axis=1)


def _traffic(
    mapping: LayerMapping, layer: Layer, chip: Chip, first_tile: int, feeds: tuple[Feed, ...]
) -> tuple[int, int, int]:
    """Activations that come to the layer's tiles: bytes from other tiles, the same times hops, bytes buffered.

    Every tile receives, once per inference, the input channels that its row groups read; the copies in a tile share its
    buffer. Inputs from outside the chip pass no link between tiles but are buffered. Operands of digital operations
    are counted once, to the first tile.
    """
    each = activation_bytes(chip)
    channel_of_row = prod(layer.weight.shape[2:])  # kernel positions; 1 for a linear layer
    channels = layer.channels
    needed = np.zeros((mapping.tiles, channels + 1), np.bool_)  # the last column takes unused rows
    rows = mapping.plan.rows[mapping.run_group]  # [run, h]
    channel = np.where(rows >= 0, rows // channel_of_row, channels)
    needed[(mapping.run_crossbar // mapping.crossbars_per_tile)[:, None], channel] = True
    per_tile = np.count_nonzero(needed[:, :-1], axis=1)  # channels

    sent = hops = buffered = 0
    for feed in feeds:
        if feed.digital:
            tiles = {first_tile: feed.elements * each}
        else:
            per_channel = feed.elements // channels * each
            tiles = {
                first_tile + start + tile: int(count) * per_channel
                for start in range(0, mapping.total_tiles, mapping.tiles)
                for tile, count in enumerate(per_tile)
            }
        for tile, amount in tiles.items():
            buffered += amount
            if feed.source_tile is not None and feed.source_tile != tile:
                sent += amount
                hops += amount * chip.hops(feed.source_tile, tile)
    return sent, hops, buffered


def _accumulator_hops(mapping: LayerMapping, chip: Chip, first_tile: int, from_tiles: Int64, positions: int) -> int:
    """Accumulators that come to the first tile of a copy from its others, each as often as the hops that it takes."""
    if mapping.tiles == 1:
        return 0
    hops = 0
    for copy, done in enumerate(_dealt(positions, mapping.output_tiles(mapping.copies))):
        home = first_tile + copy * mapping.tiles  # a copy of several tiles shares none
        away = [chip.hops(home + tile, home) for tile in range(1, mapping.tiles)]
        hops += int((from_tiles * np.asarray(away, np.int64)).sum()) * done
    return hops


def activation_bytes(chip: Chip) -> int:
    """Of one activation."""
    return -(-chip.grain.input_bits // 8)


def _moved(op: DigitalOp, chip: Chip) -> tuple[int, int, int]:
    """Bytes that an operation reads of weights, and reads and writes of keys and values, in the digital memory."""
    each = activation_bytes(chip)
    return op.weight_reads * _WEIGHT_BYTES, op.cache_reads * each, op.cache_writes * each


def is_free(op: DigitalOp) -> bool:
    """Whether an operation only says where data is."""
    return op.op in _FREE


def _element_ops(op: DigitalOp) -> int:
    """Element operations: one per input element that is compared, added or mapped; none where data only changes shape.

    A product counts two for each of its multiplications, one of them the addition, and
    a lookup one per element found. An unknown operation counts as one per element read.
    """
    if is_free(op):
        return 0
    if op.op == "embedding":
        return op.output_elements
    if op.macs:
        return 2 * op.macs
    if op.op == "add":
        return op.output_elements  # two operands, one addition
    return op.input_elements
