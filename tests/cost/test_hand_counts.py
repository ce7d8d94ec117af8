"""Layers counted, timed and priced by hand."""

from dataclasses import replace

import numpy as np
import pytest

from prap_pim.common.errors import UserError
from prap_pim.cost import activity, layer_time
from prap_pim.cost.adc import conversion_energy
from prap_pim.cost.price import Instances, area, energy
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.ir.plan import LayerPlan
from prap_pim.mapping import map_layer, steps
from prap_pim.methods.prune import NoPruning, prune
from tests.strategies import layer_for


def plan_of(inputs: int, rows: list, donors: list[int], uses: list[list[tuple[int, int, int, int]]]) -> LayerPlan:
    """A plan from row groups, donors per group and, per group, (filter, donor in the group, sign, exponent)."""
    starts = np.concatenate([[0], np.cumsum(donors)])
    flat = [(f, d + starts[g], s, e) for g, group in enumerate(uses) for f, d, s, e in group]
    filter_, donor, sign, exponent = np.array(flat).T
    table = np.array(rows, np.int32)
    values = np.where(np.repeat(table, donors, axis=0) >= 0, 1, 0)
    filters = int(filter_.max()) + 1
    return LayerPlan(
        name="layer",
        inputs=inputs,
        rows=table,
        donors=values.astype(np.int8),
        donor_start=starts.astype(np.int64),
        use_start=np.cumsum([0] + [len(group) for group in uses]).astype(np.int64),
        use_filter=filter_.astype(np.int32),
        use_donor=donor.astype(np.int32),
        use_sign=sign.astype(np.int8),
        use_exponent=exponent.astype(np.int8),
        step=np.ones(filters, np.float32),
        bias=np.zeros(filters, np.float32),
    )


def test_dense_layer_on_the_papers_chip() -> None:
    """16 rows x 4 filters at 3 positions: 2 row groups x 4 OUs = 8 OUs on one crossbar."""
    chip = load_chip("prap-2023")
    plan = plan_of(16, [range(8), range(8, 16)], [4, 4], [[(f, f, 1, 0) for f in range(4)]] * 2)
    counts = activity(map_layer(plan, chip), layer_for(plan, size=(1, 3)), chip)
    assert counts.ou_steps == 8 * 8 * 3  # OUs x input bits x positions
    assert counts.conversions == counts.shift_adds == 192 * 8  # columns
    assert counts.row_drives == 192 * 8 * 8  # driven anew for each of 8 conversions, 8 rows
    assert counts.cell_reads == 192 * 8 * 64
    assert counts.input_register_loads == counts.input_buffer_reads == 2 * 3  # 64 bits fit one access of 256
    assert counts.input_register_bytes == 2 * 3 * 8
    assert counts.output_register_writes == 8 * 3
    assert counts.partial_sum_updates == 2 * 4 * 3
    assert counts.partial_sum_read_bytes == counts.partial_sum_write_bytes == 24 * 4
    assert counts.index_bits == counts.index_reads == counts.merges == counts.shifted_updates == 0
    assert counts.inter_tile_bytes == counts.inter_tile_byte_hops == 0
    assert counts.output_bytes == 4 * 3
    assert counts.stored_cells == 16 * 4 * 8

    # serial: register 0.8333 + decoder 0.55866 + DAC 2.5 + read 3.16 + mux 0.16372 + ADC 8/1.2 + shift, add 1.6667 ns
    conversion = 0.8333 + 0.55866 + 2.5 + 3.16 + 0.16372 + 8 / 1.2 + 1.6667
    position = 8 * 8 * 8 * conversion  # OUs x bits x columns
    position += 8 * 0.8333  # output register
    position += 8 * 0.8333  # adds
    position += 2 * 8 * 1.2  # partial sums read and written
    position += 2 * 1.2  # inputs
    position += 4 * 8 / 20  # 32 bits of outputs at 20 Gb/s
    digital = 12 / 32 / 1.2  # 12 outputs on 32 lanes of 1.2 GHz
    time = layer_time(counts, chip, load_table("prap-2023"))
    assert time.serial_s * 1e9 == pytest.approx(3 * position + digital, rel=1e-6)
    # pipelined: the ADC is the slowest stage, 8 x 6.667 ns per OU step; the first step goes through the other stages
    assert time.bottleneck == "crossbars"
    assert time.pipelined_s * 1e9 == pytest.approx(3 * 64 * 8 * 8 / 1.2 + 8 * (conversion - 8 / 1.2), rel=1e-6)

    # energy: 1536 conversions of 0.6425 mW x 8 / 1.2 GHz = 4.283 pJ; 12288 drives of 9.75 fJ (DAC) and 191.67 fJ
    # (register); 98304 cells of 57.86 aJ; 1536 shift-adds of 166.67 fJ
    joules = energy(counts, chip, load_table("prap-2023"))
    assert joules["adc"] * 1e12 == pytest.approx(1536 * 4.28333, rel=1e-5)
    assert joules["dac"] * 1e12 == pytest.approx(12288 * 0.00975, rel=1e-5)
    assert joules["crossbar"] * 1e12 == pytest.approx(98304 * 5.786e-5, rel=1e-5)
    assert joules["shift_add"] * 1e12 == pytest.approx(1536 * 0.16667, rel=1e-5)
    assert joules["input_register"] * 1e12 == pytest.approx(12288 * 0.19167 + 48 * 0.19167, rel=1e-5)
    assert joules["partial_sum_buffer"] * 1e12 == pytest.approx(48 * 0.77625, rel=1e-5)
    assert joules["accumulator"] * 1e12 == pytest.approx(24 * 0.041667, rel=1e-5)
    assert joules["input_buffer"] * 1e12 == pytest.approx(6 * 24.84, rel=1e-5)
    assert joules["index_buffer"] == joules["router"] == joules["sample_and_hold"] == joules["digital_unit"] == 0


def test_reuse_over_crossbars_pes_and_tiles() -> None:
    """OU 2 x 4, 8-bit weights: a donor takes 2 OUs. Crossbar of 3 OUs, 1 to a PE, 2 PEs to a tile.

    4 rows, 3 filters: dense 2 groups x 6 OUs = 12 OUs on 4 crossbars. The plan: group (0, 1) with donors A, B and
    group (1, -1), irregular and out of order, with donor C: 4 + 2 = 6 OUs, spread 2, 2, 1, 1 over the 4 crossbars:
    c0 = A A, c1 = B B, c2 = C, c3 = C; C is finished on c3. Tile 0 has c0 and c1, tile 1 has c2 and c3.
    Uses: f0 = A, f1 = B, f2 = -B / 2 in the first group; f0 = C and f2 = C in the second.
    """
    chip = Chip.checked(
        load_chip("isaac-32nm").model_dump()
        | {
            "grain": {"ou_rows": 2, "ou_columns": 4},
            "crossbar_rows": 2,
            "crossbar_columns": 12,
            "adcs_per_crossbar": 3,
            "crossbars_per_pe": 1,
            "pes_per_tile": 2,
            "buffer_port_bits": 16,
        },
        "test",
    )
    plan = plan_of(
        4, [(0, 1), (1, -1)], [2, 1], [[(0, 0, 1, 0), (1, 1, 1, 0), (2, 1, -1, -1)], [(0, 0, 1, 0), (2, 0, 1, 0)]]
    )
    mapping = map_layer(plan, chip)
    assert mapping.ous_per_crossbar.tolist() == [2, 2, 1, 1]
    assert list(zip(mapping.run_crossbar.tolist(), mapping.run_group.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
    ]
    counts = activity(mapping, layer_for(plan, size=(1, 1)), chip)
    assert counts.ou_steps == 6 * 8
    assert counts.conversions == 6 * 8 * 4
    assert counts.row_drives == (4 * 2 + 2 * 1) * 8  # sampled once; the second group has one row in use
    assert counts.cell_reads == 80 * 4
    assert counts.input_register_loads == 4
    assert counts.input_register_bytes == 2 + 2 + 1 + 1
    assert counts.input_buffer_reads == 4  # 16, 16, 8, 8 bits through a 16-bit port
    assert counts.partial_sum_updates == 5
    assert counts.shifted_updates == 1
    # index: an entry is filter 2 bits + last 1 + sign and exponent 5 = 8; the first group's uses are indexed because
    # f2 reuses: c0 1 entry, c1 2; c3 2. Rows of the second group: 2 numbers of 2 bits on c2 and on c3.
    assert counts.index_bits == 8 + 16 + 4 + (4 + 16)
    assert counts.index_reads == 1 + 1 + 1 + 2
    assert counts.index_read_bytes == 1 + 2 + 1 + 3
    # accumulators: c0 f0; c1 f1, f2; c3 f0, f2. Nothing to merge in a tile; tile 1 sends f0 and f2 to tile 0.
    assert counts.merges == 2
    assert counts.merge_bytes == 0
    assert counts.inter_tile_bytes == counts.inter_tile_byte_hops == 2 * 4
    assert counts.stored_cells == (2 * 2 + 1) * 8
    assert counts.busiest.ous == 2
    assert counts.busiest.updates == 2
    assert counts.busiest.partial_sum_accesses == 4
    assert counts.busiest.index_accesses == 2
    assert counts.busiest.inter_tile_bits == 2 * 32 + 3 * 8


def test_rows_in_ascending_order_need_no_index_others_do() -> None:
    """OU of 2 rows; 5 inputs, so a row's number takes 3 bits; every filter its own donor, so uses need no index."""
    chip = Chip.checked(load_chip("isaac-32nm").model_dump() | {"grain": {"ou_rows": 2}, "crossbar_rows": 2}, "test")
    uses = [[(0, 0, 1, 0), (1, 1, 1, 0)]] * 2
    for groups, runs_with_index in (
        ([(0, 1), (2, 3)], 0),  # as dense
        ([(0, 2), (3, 4)], 0),  # input 1 was dropped: the others lie side by side
        ([(0, 2), (1, 3)], 2),  # interleaved: neither group is regular
        ([(2, 3), (0, 4)], 1),  # out of order: the first is regular all the same
    ):
        plan = plan_of(5, groups, [2, 2], uses)
        mapping = map_layer(plan, chip, crossbars=1)
        assert activity(mapping, layer_for(plan, size=(1, 1)), chip).index_bits == runs_with_index * 2 * 3


@pytest.mark.parametrize(("cell_bits", "ous"), [(1, 8), (2, 5)])
def test_a_depthwise_layer_has_no_index_and_each_filter_one_sum_per_stretch(cell_bits: int, ous: int) -> None:
    """4 channels of 3x3 at 3 positions, OUs of 8 x 8.

    1-bit cells: every filter has 8 rows and 1 row, an OU each. 2-bit cells: two filters fit an OU, and 36 rows in
    stretches of 8 take 5 OUs of 1 or 2 filters: rows 0-7 are of filter 0; 8-15 of 0 and 1; 16-23 of 1 and 2; 24-31 of
    2 and 3; 32-35 of 3.
    """
    chip = Chip.checked(load_chip("isaac-32nm").model_dump() | {"grain": {"cell_bits": cell_bits}}, "test")
    weight = np.arange(-18, 18, dtype=np.float32).reshape(4, 1, 3, 3)
    one = np.ones(4, np.float32)
    layer = Layer("dw", "conv", weight, one, one, (4, 3, 5), (4, 1, 3), ("x",), groups=4)
    patterns = prune(NoPruning(), layer, chip.grain)
    plan = plan_weights("dw", layer.matrix, patterns, ReuseMap.none(patterns))
    counts = activity(map_layer(plan, chip), layer, chip)
    uses = {1: 8, 2: 1 + 2 + 2 + 2 + 1}[cell_bits]
    assert counts.ou_steps == ous * 8 * 3
    assert counts.input_register_loads == ous * 3
    assert counts.input_register_bytes == 36 * 3  # every input is loaded once
    assert counts.partial_sum_updates == uses * 3
    assert counts.conversions == uses * 8 // cell_bits * 8 * 3
    assert counts.stored_cells == {1: 36 * 8, 2: (8 + 2 * 8 * 3 + 4) * 4}[cell_bits]
    assert counts.index_bits == counts.index_reads == counts.merges == 0
    assert counts.output_bytes == 4 * 3


@pytest.mark.parametrize(("filters", "entries"), [((0, 1), 0), ((0, 2), 2), ((2, 3), 2), ((0, 1, 2), 3)])
def test_filters_that_the_rows_do_not_tell_are_indexed(filters: tuple[int, ...], entries: int) -> None:
    """2 groups of 2 filters; rows of group 0, whose filters are 0 and 1. Others store zeros; 4 filters are 2 bits."""
    chip = Chip.checked(load_chip("isaac-32nm").model_dump() | {"grain": {"ou_rows": 2}, "crossbar_rows": 2}, "test")
    count = len(filters)
    donors = np.where(np.array(filters)[:, None] < 2, 3, 0) * np.ones((1, 2), int)
    plan = LayerPlan(
        name="layer",
        inputs=4,
        rows=np.array([[0, 1]], np.int32),
        donors=donors.astype(np.int8),
        donor_start=np.array([0, count]),
        use_start=np.array([0, count]),
        use_filter=np.array(filters, np.int32),
        use_donor=np.arange(count, dtype=np.int32),
        use_sign=np.ones(count, np.int8),
        use_exponent=np.zeros(count, np.int8),
        step=np.ones(4, np.float32),
        bias=np.zeros(4, np.float32),
        convolution_groups=2,
    )
    counts = activity(map_layer(plan, chip, crossbars=1), layer_for(plan, size=(1, 1)), chip)
    assert counts.index_bits == entries * 2


def test_donors_of_four_bits_take_half_the_ous() -> None:
    """16 rows x 5 filters at 3 positions, 8x8 OUs, 1-bit cells: a donor of 8 bits fills an OU, two of 4 bits one.

    So a row group takes 5 OUs of 8 columns, or 2 of 8 columns and 1 of 4.
    """
    chip = load_chip("isaac-32nm")
    plan = plan_of(16, [range(8), range(8, 16)], [5, 5], [[(f, f, 1, 0) for f in range(5)]] * 2)
    for bits, ous, columns in ((8, 2 * 5, 2 * 40), (4, 2 * 3, 2 * 20)):
        narrow = replace(plan, weight_bits=bits)
        mapping = map_layer(narrow, chip)
        assert mapping.ous == steps.ous(narrow, chip.grain) == ous
        counts = activity(mapping, layer_for(plan, size=(1, 3)), chip)
        assert counts.ou_steps == ous * 8 * 3  # OUs x input bits x positions
        assert counts.conversions == counts.shift_adds == columns * 8 * 3
        assert counts.row_drives == ous * 8 * 8 * 3  # sampled once, 8 rows
        assert counts.cell_reads == columns * 8 * 8 * 3
        assert counts.output_register_writes == ous * 3
        assert counts.stored_cells == columns * 8
        assert counts.partial_sum_updates == 2 * 5 * 3
        assert counts.index_bits == 0
        assert counts.busiest.ous == ous
        joules = energy(counts, chip, load_table("isaac-32nm"))
        assert joules["adc"] == pytest.approx(columns * 8 * 3 * conversion_energy(chip, load_table("isaac-32nm")))
    # driven anew for every conversion: the last OU of a row group holds one donor, 4 of its 8 columns
    chip = load_chip("prap-2023")
    counts = activity(map_layer(replace(plan, weight_bits=4), chip), layer_for(plan, size=(1, 3)), chip)
    assert counts.row_drives == 2 * 20 * 8 * 8 * 3
    # of 3 bits in 2-bit cells: 2 cells, so 4 donors fill an OU
    chip = Chip.checked(load_chip("isaac-32nm").model_dump() | {"grain": {"cell_bits": 2}}, "test")
    assert map_layer(replace(plan, weight_bits=3), chip).ous == 2 * 2


def test_a_second_use_of_every_filter_is_an_update_and_an_index_entry_more() -> None:
    """8 rows, 3 filters, donors A and B at 2 positions. One use: f0 = A, f1 = B, f2 = A. Two: f0 and f2 take B, f1
    takes A as well. OU steps stay; an entry is 2 bits of the filter and 1 of "last of this donor"."""
    chip = load_chip("prap-2023")
    one = plan_of(8, [range(8)], [2], [[(0, 0, 1, 0), (1, 1, 1, 0), (2, 0, 1, 0)]])
    two = plan_of(8, [range(8)], [2], [[(f, d, 1, 0) for f in range(3) for d in range(2)]])
    single, double = (activity(map_layer(plan, chip), layer_for(plan, size=(1, 2)), chip) for plan in (one, two))
    assert single.ou_steps == double.ou_steps == 2 * 8 * 2
    assert single.stored_cells == double.stored_cells == 2 * 8 * 8
    assert (single.partial_sum_updates, double.partial_sum_updates) == (3 * 2, 6 * 2)
    assert (single.index_bits, double.index_bits) == (3 * 3, 6 * 3)
    assert (single.busiest.updates, double.busiest.updates) == (3, 6)
    assert (single.busiest.partial_sum_accesses, double.busiest.partial_sum_accesses) == (6, 12)
    assert single.outputs == double.outputs == 3 * 2
    assert single.merges == double.merges == 0


def test_a_filter_has_one_accumulator_in_a_pe_however_many_donors_it_takes_there() -> None:
    """OU 2 x 8, an OU a crossbar, 2 crossbars a PE, a PE a tile: donors A, B on PE 0 and C, D on PE 1.

    f0 = A + B + C + D and f1 = B + D: each has two accumulators, of which tile 1 sends both, and two are merged.
    """
    grain = {"ou_rows": 2, "ou_columns": 8}
    cut = {"crossbar_rows": 2, "crossbar_columns": 8, "crossbars_per_pe": 2, "pes_per_tile": 1}
    chip = Chip.checked(load_chip("isaac-32nm").model_dump() | {"grain": grain} | cut, "test")
    plan = plan_of(2, [(0, 1)], [4], [[*((0, d, 1, 0) for d in range(4)), (1, 1, 1, 0), (1, 3, 1, 0)]])
    counts = activity(map_layer(plan, chip, crossbars=4), layer_for(plan, size=(1, 1)), chip)
    assert counts.partial_sum_updates == 6
    assert counts.merges == 2
    assert counts.inter_tile_bytes == 2 * 4
    assert counts.busiest.updates == 2  # B serves f0 and f1
    assert counts.busiest.partial_sum_accesses == 2 * 3


@pytest.mark.parametrize(("uses", "entries"), [([0, 1, 2], 0), ([0, 0, 1], 3), ([0, 1, 1], 3)])
def test_as_many_uses_as_filters_need_no_index_only_if_they_are_one_of_each(uses: list[int], entries: int) -> None:
    """3 filters, 3 donors, each of which serves one filter."""
    chip = load_chip("prap-2023")
    plan = plan_of(8, [range(8)], [3], [[(f, d, 1, 0) for d, f in enumerate(uses)]])
    plan = replace(plan, step=np.ones(3, np.float32), bias=np.zeros(3, np.float32))
    counts = activity(map_layer(plan, chip), layer_for(plan, size=(1, 1)), chip)
    assert counts.index_bits == entries * 2


def test_a_plan_of_more_bits_than_the_chips_is_refused() -> None:
    grain = {"weight_bits": 4}
    chip = Chip.checked(load_chip("prap-2023").model_dump() | {"grain": grain}, "test")
    plan = plan_of(8, [range(8)], [2], [[(0, 0, 1, 0), (1, 1, 1, 0)]])
    for wide in (plan, replace(plan, weight_bits=5)):
        with pytest.raises(UserError, match=f"a plan of {wide.weight_bits}-bit weights does not fit a chip of 4-bit"):
            map_layer(wide, chip)
        with pytest.raises(UserError, match="does not fit a chip of 4-bit weights"):
            steps.ous(wide, chip.grain)
    assert map_layer(replace(plan, weight_bits=4), chip).ous == 1


def test_ten_uses_gathered_are_one_update() -> None:
    """5 row groups of 8 rows and 2 donors of 4 bits, an OU each, on one crossbar; 16 filters take both donors of each
    row group, at 3 positions. Scattered, a filter's accumulator is updated 10 times, gathered once, 8 at an access."""
    scatter = load_chip("isaac-32nm")
    gather = scatter.model_copy(update={"accumulate": "gather"})
    uses = [[(f, d, 1, 0) for f in range(16) for d in range(2)]] * 5
    plan = replace(plan_of(40, [range(8 * g, 8 * g + 8) for g in range(5)], [2] * 5, uses), weight_bits=4)
    before, after = (activity(map_layer(plan, chip), layer_for(plan, size=(1, 3)), chip) for chip in (scatter, gather))
    assert (before.partial_sum_updates, after.partial_sum_updates) == (160 * 3, 16 * 3)
    assert (before.busiest.partial_sum_accesses, after.busiest.partial_sum_accesses) == (2 * 160, 2 * 2)
    assert before.use_additions == after.use_additions == 160 * 3
    assert after.partial_sum_read_bytes == after.partial_sum_write_bytes == 16 * 3 * 4
    assert (before.dot_register_accesses, after.dot_register_accesses) == (0, (10 + 160) * 3)
    # a dot product has 8 + 8 + 3 bits: 10 of them are 190 bits, 24 bytes, of two positions twice that
    assert (before.dot_register_bytes, after.dot_register_bytes) == (0, 48)
    # scattered: 4 bits of the filter, 1 of "last". Gathered: per row group the first and the last filter, 4 bits each,
    # and 1 bit for each use that says which of the 2 donors; no flags, since all have 2 uses
    assert (before.index_bits, after.index_bits) == (160 * 5, 5 * (8 + 32))
    assert (before.index_reads, after.index_reads) == (4 * 3, 1 * 3)
    assert before.merges == after.merges == 0
    unchanged = ("ou_steps", "conversions", "output_register_writes", "input_buffer_reads", "stored_cells")
    assert all(getattr(before, key) == getattr(after, key) for key in unchanged)

    table = load_table("isaac-32nm")
    joules = energy(after, gather, table)
    assert joules["dot_register"] * 1e12 == pytest.approx(510 * (0.09785 + 48 * 0.0004337), rel=1e-6)
    assert joules["partial_sum_buffer"] * 1e12 == pytest.approx(48 * 2 * 1.4, rel=1e-6)
    assert joules["accumulator"] == energy(before, scatter, table)["accumulator"]
    # the crossbar's 48 bytes, and the 8 adders of its PE
    metres = [area(Instances(1, 1, 1, 25, bytes_), chip, table) for chip, bytes_ in ((scatter, 0), (gather, 48))]
    assert metres[1]["dot_register"] == pytest.approx(48 * 3.008e-12)
    assert metres[1]["accumulator"] - metres[0]["accumulator"] == pytest.approx(8 * 246e-12)
    assert {key for key in metres[0] if metres[0][key] != metres[1][key]} == {"dot_register", "accumulator"}

    # 5 OUs x 8 steps x 8 conversions of 0.8333 ns; meanwhile 160 uses of the position before, one a cycle
    time = layer_time(after, gather, table)
    walk, gathering = 5 * 8 * 8 / 1.2, 160 * 0.8333
    first_step = 0.8333 + 0.55866 + 2.5 + 3.16 + 8 * (0.16372 + 0.8333)
    assert time.bottleneck == "crossbars"
    assert time.busy_s * 1e9 == pytest.approx(3 * walk, rel=1e-4)
    assert time.fill_s * 1e9 == pytest.approx(first_step + gathering, rel=1e-4)
    assert time.pipelined_s == pytest.approx(time.busy_s + time.fill_s)
    # with every exponent another than 0 a use is shifted first, while the one before it is added
    shifted = replace(plan, use_exponent=np.ones_like(plan.use_exponent))
    later = layer_time(activity(map_layer(shifted, gather), layer_for(plan, size=(1, 3)), gather), gather, table)
    assert (later.busy_s, later.fill_s) == (time.busy_s, time.fill_s)
    # 5 bits of gain make 1000 bits of index, 4 accesses instead of 1
    assert later.serial_s - time.serial_s == pytest.approx(3 * (160 * 0.8333e-9 + 3 * 1.2e-9))


def test_each_pe_gathers_what_its_crossbars_have() -> None:
    """OU 2 x 4, 8-bit weights: a donor takes 2 OUs, which fill a crossbar. 2 crossbars a PE, 1 PE a tile.

    Donors A, B (rows 0, 1) on PE 0, C and D (rows 2, 3) on PE 1. f0 = A + B - C / 2, f1 = B, f3 = C + D; f2 has none.
    """
    cut = {"crossbar_rows": 2, "crossbar_columns": 8, "crossbars_per_pe": 2, "pes_per_tile": 1, "buffer_port_bits": 64}
    chip = Chip.checked(
        load_chip("isaac-32nm").model_dump() | {"grain": {"ou_rows": 2, "ou_columns": 4}, "accumulate": "gather"} | cut,
        "test",
    )
    first = [(0, 0, 1, 0), (0, 1, 1, 0), (1, 1, 1, 0)]
    plan = plan_of(4, [(0, 1), (2, 3)], [2, 2], [first, [(0, 0, -1, -1), (3, 0, 1, 0), (3, 1, 1, 0)]])
    counts = activity(map_layer(plan, chip, crossbars=4), layer_for(plan, size=(1, 1)), chip)
    assert counts.use_additions == 6
    assert counts.shifted_updates == 1
    assert counts.partial_sum_updates == 2 + 2  # f0 and f1; f0 and f3
    assert counts.dot_register_accesses == 4 + 6
    assert counts.dot_register_bytes == 2 * 3  # a dot product of 8 + 8 + 1 bits
    # filters are 2 bits, a donor is 1 of 2, sign and exponent 5. PE 0: f0 twice, f1 once; PE 1: f0 once, f3 twice
    assert counts.index_bits == (4 + 3 * 6 + 3 + 2) + (4 + 3 * 6 + 3 + 4)
    assert counts.index_reads == 2
    assert counts.index_read_bytes == 4 + 4
    assert counts.merges == 1  # f0, on two tiles
    assert counts.busiest.updates == 2  # B serves f0 and f1
    assert counts.busiest.gathered == 2
    assert counts.busiest.partial_sum_accesses == 2 * 2  # two accumulators fit a port: f0 and f3 are apart
