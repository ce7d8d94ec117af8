"""The same number of crossbars for every method: copies of layers, and what they must and must not change."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.cost import activity, builds, cost, layer_time
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.plan import LayerPlan
from prap_pim.mapping import fewest_crossbars, map_layer, map_network, replicate
from tests.mapping.test_mapping import conv, planned, small_network
from tests.strategies import chips, examples, layer_for, layer_plans

CHIP = load_chip("prap-2023")
EVENTS_OF_CROSSBARS = (
    "ou_steps",
    "row_drives",
    "cell_reads",
    "conversions",
    "shift_adds",
    "output_register_writes",
    "input_register_loads",
    "partial_sum_updates",
    "index_reads",
    "merges",
)
COMPONENTS_OF_CROSSBARS = (
    "adc",
    "dac",
    "crossbar",
    "sample_and_hold",
    "input_register",
    "shift_add",
    "output_register",
    "accumulator",
    "partial_sum_buffer",
)


@pytest.mark.parametrize("mode", ["spread", "pack"])
def test_dense_on_its_own_crossbars_is_the_unbudgeted_spread(mode: str) -> None:
    """Dense fills its crossbars, so nothing is left for copies and every figure is the same."""
    network, plan = small_network()
    for name in ("prap-2023", "isaac-32nm"):
        alone = cost(network, plan, load_chip(name), "spread")
        budgeted = cost(network, plan, load_chip(name), mode, crossbars=alone.crossbars)
        assert set(budgeted.copies.values()) == {1}
        if mode == "spread":
            assert replace(budgeted, budget=None) == alone
        else:  # crossbars are filled, the last of a layer only in part
            assert budgeted.crossbars == alone.crossbars
            assert budgeted.ou_steps == alone.ou_steps


def test_budget_is_spent_on_the_slowest_layers() -> None:
    """OUs of a, b, c: 128, 1152, 2304 on 1, 5, 9 crossbars; walks of 128, 231 and 256 OUs at 64 positions each.

    16 crossbars: one more than needed. A copy of a (1) is all that it buys, though a is not the slowest.
    30: c, the slowest, needs 9 for its second copy; then b (231 OUs) is the slowest and takes 5: 29; one for a: 30.
    """
    network, plan = small_network()
    assert cost(network, plan, CHIP, crossbars=16).copies == {"a": 2, "b": 1, "c": 1}
    report = cost(network, plan, CHIP, crossbars=30)
    assert report.copies == {"a": 2, "b": 2, "c": 2}
    assert report.budget == report.crossbars == 30
    assert [layer.activity.rounds for layer in report.layers] == [32, 32, 32]
    once = cost(network, plan, CHIP)
    assert report.pipelined.throughput_per_s == pytest.approx(2 * once.pipelined.throughput_per_s)
    assert report.serial.latency_s == pytest.approx(once.serial.latency_s / 2, rel=0.01)
    assert report.stored_cells == 2 * once.stored_cells
    assert report.ou_steps == once.ou_steps
    assert report.area_breakdown_m2["adc"] == pytest.approx(2 * once.area_breakdown_m2["adc"])
    assert report.tiles == once.tiles == 3  # 2 copies of 9 crossbars, 2 PEs each, fit a tile of 16 PEs
    assert report.area_breakdown_m2["input_buffer"] == once.area_breakdown_m2["input_buffer"]


def test_copies_in_further_tiles_receive_the_inputs_again() -> None:
    """c reads 32 channels x 64 values of 1 byte; a tile of 2 PEs holds one of its copies (9 crossbars, 2 PEs)."""
    network, plan = small_network()
    chip = CHIP.model_copy(update={"pes_per_tile": 2})
    mapping = replicate(network, map_network(network, plan, chip), chip, {"a": 1, "b": 1, "c": 3})
    assert mapping.tiles == 1 + 1 + 3
    counts = activity(mapping.layers["c"], network.layers[2], chip, mapping.first_tile["c"], mapping.feeds["c"])
    assert counts.inter_tile_bytes == 3 * 32 * 64  # b's output to each
    assert counts.inter_tile_byte_hops == (1 + 2 + 3) * 32 * 64
    assert counts.output_buffer_writes == 3 * 32 * 64 * 8 // 256
    assert counts.output_tiles == 3
    assert counts.rounds == 22  # 64 positions dealt to 3
    first_twice = replicate(network, map_network(network, plan, chip), chip, {"a": 3, "b": 2, "c": 1})
    assert first_twice.first_tile == {"a": 0, "b": 2, "c": 3}  # 3 copies of a (one PE each) and 2 of b: 2 tiles, 1
    few = chip.model_copy(update={"max_tiles": 3})
    once = map_network(network, plan, few)
    with pytest.raises(UserError, match="needs 22 crossbars in 4 tiles; chip prap-2023 has 3 tiles"):
        replicate(network, once, few, {"a": 3, "b": 2, "c": 1})


@examples(80)
@given(chip=chips(ou_rows=4), plan=layer_plans(), positions=st.integers(1, 6), mode=st.sampled_from(["spread", "pack"]))
def test_copies_change_no_event_of_the_crossbars_and_are_never_slower(
    chip: Chip, plan: LayerPlan, positions: int, mode: str
) -> None:
    layer, table = layer_for(plan, size=(1, positions)), load_table(chip.components)
    single = map_layer(plan, chip, mode=mode)
    alone = activity(single, layer, chip)
    before = layer_time(alone, chip, table)
    for copies in range(1, positions + 1):
        counts = activity(replace(single, copies=copies), layer, chip)
        assert [getattr(counts, key) for key in EVENTS_OF_CROSSBARS] == [
            getattr(alone, key) for key in EVENTS_OF_CROSSBARS
        ]
        assert counts.stored_cells == copies * alone.stored_cells
        time = layer_time(counts, chip, table)
        assert time.busy_s <= before.busy_s * (1 + 1e-12)
        assert time.serial_s <= before.serial_s * (1 + 1e-12)
        before = time


@examples(80)
@given(
    chip=chips(ou_rows=4),
    plan=layer_plans(),
    positions=st.integers(1, 6),
    spare=st.integers(0, 60),
    spread_idle=st.booleans(),
    skipped=st.none() | st.integers(0, 99),
)
def test_what_is_foretold_of_a_way_of_building_is_what_mapping_and_timing_it_gives(
    chip: Chip, plan: LayerPlan, positions: int, spare: int, spread_idle: bool, skipped: int | None
) -> None:
    layer, table = layer_for(plan, size=(1, positions)), load_table(chip.components)
    zero = None if skipped is None else np.random.default_rng(skipped).random(plan.groups)
    single = map_layer(plan, chip, fewest_crossbars(plan, chip))
    budget = single.crossbars + spare
    found = builds(single, layer, chip, table, budget, zero_input=zero, spread_idle=spread_idle)
    assert (found.copies[0], found.copy_crossbars[0]) == (1, single.crossbars)
    assert (np.diff(found.crossbars) > 0).all()
    assert found.crossbars[-1] <= budget
    times = []
    for copies, width, tiles in zip(found.copies, found.copy_crossbars, found.tiles, strict=True):
        assert width == single.crossbars or (spread_idle and copies == positions)
        mapping = replace(map_layer(plan, chip, int(width)), copies=int(copies))
        time = layer_time(activity(mapping, layer, chip, zero_input=zero), chip, table)
        times.append((time.busy_s, time.serial_s))
        assert tiles == mapping.total_tiles
    assert found.interval_s == pytest.approx([busy for busy, _ in times], rel=1e-12)
    assert found.latency_s == pytest.approx([serial for _, serial in times], rel=1e-12)
    assert (np.diff(times, axis=0) <= 1e-12 * times[0][1]).all()
    # no number of copies alone does better than what is offered for as many crossbars
    for copies in range(1, min(positions, budget // single.crossbars) + 1):
        time = layer_time(activity(replace(single, copies=copies), layer, chip, zero_input=zero), chip, table)
        way = int(np.searchsorted(found.crossbars, copies * single.crossbars, side="right")) - 1
        assert found.interval_s[way] <= time.busy_s * (1 + 1e-12) or found.latency_s[way] < time.serial_s


@pytest.mark.parametrize("positions", [1, 3])
def test_what_is_idle_is_spread_over_by_hand(positions: int) -> None:
    """256 filters on 8 inputs, each with a donor of its own: 256 OUs, one crossbar of prap-2023.

    With a copy for each of its positions, four times the crossbars leave each 64 OUs: a quarter of the steps and sums.
    """
    plan = planned(replace(conv("one", 2, 256, 3, "x"), weight=conv("one", 2, 256, 3, "x").weight[..., :2, :2]))
    layer, table = layer_for(plan, size=(1, positions)), load_table(CHIP.components)
    found = builds(map_layer(plan, CHIP, 1), layer, CHIP, table, 4 * positions, spread_idle=True)
    assert found.copies.tolist() == [*range(1, positions), positions, positions, positions, positions]
    assert found.copy_crossbars.tolist()[-4:] == [1, 2, 3, 4]  # 1.41 and 2.83 rounded up
    phases = [
        layer_time(activity(map_layer(plan, CHIP, width), layer, CHIP), CHIP, table).serial_phases_s for width in (1, 4)
    ]
    assert phases[1]["crossbars"] == pytest.approx(phases[0]["crossbars"] / 4)
    assert phases[1]["accumulators"] == pytest.approx(phases[0]["accumulators"] / 4)


@pytest.mark.parametrize("spread_idle", [False, True])
@pytest.mark.parametrize("keep", [1.0, 0.25])
def test_budgets(keep: float, spread_idle: bool) -> None:
    """More crossbars never lengthen the interval; copies cost the same energy; the budget is kept."""
    network, plan = small_network(keep)
    least = cost(network, plan, CHIP, crossbars=map_network(network, plan, CHIP, crossbars=10**6).crossbars)
    before = least
    for budget in (*range(least.crossbars, least.crossbars + 12), 100, 1000, 10**6):
        report = cost(network, plan, CHIP, crossbars=budget, spread_idle=spread_idle)
        assert report.crossbars <= budget
        assert report.pipelined.throughput_per_s >= before.pipelined.throughput_per_s * (1 - 1e-12)
        wider = any(layer.crossbars > layer.copies * least.layers[i].crossbars for i, layer in enumerate(report.layers))
        assert not wider or (spread_idle and budget >= 1000)  # 64 copies of a alone are 64 crossbars
        for component in COMPONENTS_OF_CROSSBARS:
            found, expected = (each.energy_breakdown_j[component] for each in (report, least))
            if wider and component in ("input_register", "accumulator"):  # more loads of a row group, more merges
                assert expected * (1 - 1e-12) < found < 2 * expected
            else:
                assert found == pytest.approx(expected, rel=1e-12)
        assert report.index_stored_bytes == sum(
            copies * -(-layer.activity.index_bits // 8)
            for copies, layer in zip(report.copies.values(), report.layers, strict=True)
        )
        before = report
    assert before.copies == {"a": 64, "b": 64, "c": 64}  # one for each position
    assert wider == spread_idle
    if spread_idle:
        once = cost(network, plan, CHIP, crossbars=10**6, spread_idle=False)
        assert report.pipelined.throughput_per_s > 2 * once.pipelined.throughput_per_s
        assert report.serial.latency_s < once.serial.latency_s / 2
        packed = [cost(network, plan, CHIP, "pack", crossbars=10**6, spread_idle=each) for each in (False, True)]
        assert packed[0] == packed[1]  # frees crossbars instead


@examples(60)
@given(budget=st.integers(6, 400), keep=st.sampled_from([1.0, 0.25, 0.05]), skip=st.booleans())
def test_wider_copies_never_cost_time(budget: int, keep: float, skip: bool) -> None:
    """Of the same interval, or a shorter one; then, at the same interval, no longer in series."""
    network, plan = small_network(keep)
    if budget < map_network(network, plan, CHIP, crossbars=10**6).crossbars:
        return
    zero = {name: np.full(layer.groups, 0.5) for name, layer in plan.layers.items()} if skip else None
    wide, narrow = (
        cost(network, plan, CHIP, crossbars=budget, zero_input=zero, spread_idle=each) for each in (True, False)
    )
    assert wide.crossbars <= budget
    assert wide.pipelined.throughput_per_s >= narrow.pipelined.throughput_per_s
    if wide.pipelined.throughput_per_s == narrow.pipelined.throughput_per_s:
        assert wide.serial.latency_s <= narrow.serial.latency_s * (1 + 1e-12)


def test_fewer_stored_patterns_are_faster_on_the_same_crossbars() -> None:
    """A quarter of the OUs: on dense's 15 crossbars 3.6 times the throughput, from copies instead of spreading."""
    dense, shared = (small_network(keep) for keep in (1.0, 0.25))
    before, after = cost(*dense, CHIP, crossbars=15), cost(*shared, CHIP, crossbars=15)
    # OUs 32, 288, 576 need 1, 2, 3 crossbars: 32, 144 and 192 OUs to walk; 2 x 2 + 3 x 3 leave one for a second a
    assert after.copies == {"a": 2, "b": 2, "c": 3}
    assert after.pipelined.throughput_per_s / before.pipelined.throughput_per_s == pytest.approx(
        256 / (144 / 2), rel=0.01
    )  # b is the slowest now: c takes 192 / 3


def test_mistakes() -> None:
    network, plan = small_network()
    with pytest.raises(UserError, match=r"small \(dense\) needs 15 crossbars on chip prap-2023; the budget is 14"):
        cost(network, plan, CHIP, crossbars=14)
    for wrong in (40.5, True, float("inf"), "7"):
        with pytest.raises(UserError, match="a budget of crossbars must be a whole number, not"):
            cost(network, plan, CHIP, crossbars=wrong)
    for mode in ("Pack", "", None):
        with pytest.raises(UserError, match=f"there is no mode {mode!r}; modes are spread, pack"):
            cost(network, plan, CHIP, mode)
    with pytest.raises(UserError, match="the budget is 0"):
        map_network(network, plan, CHIP, crossbars=0)
    with pytest.raises(UserError, match="layer b: it needs at least 1 copy, not 0"):
        replicate(network, map_network(network, plan, CHIP), CHIP, {"a": 1, "c": 1})


def test_a_chip_with_few_tiles_has_room_for_few_copies() -> None:
    """Tiles of 2 PEs: a copy of c fills one, two of b and of a."""
    network, plan = small_network()
    chip = CHIP.model_copy(update={"pes_per_tile": 2, "max_tiles": 4})
    report = cost(network, plan, chip, crossbars=1000)
    assert report.tiles == 4
    assert report.copies == {"a": 2, "b": 2, "c": 2}
    larger = cost(network, plan, chip.model_copy(update={"max_tiles": 2}), crossbars=1000)
    assert (larger.turns, set(larger.copies.values())) == (2, {1})  # no room for copies


def test_skipped_steps_by_hand() -> None:
    """Layer c: 36 row groups of 64 OUs, 64 positions x 8 bits = 512 pairs; half of group 0's are 0, all of 1's."""
    network, plan = small_network()
    none = {name: np.zeros(layer.groups) for name, layer in plan.layers.items()}
    share = {**none, "c": none["c"].copy()}
    share["c"][:2] = 0.5, 1.0
    full, skipped = (cost(network, plan, CHIP, zero_input=given).layers[2] for given in (none, share))
    assert asdict(full.activity) == asdict(cost(network, plan, CHIP).layers[2].activity)
    lost = 64 * (256 + 512)
    assert full.ou_steps - skipped.ou_steps == lost
    assert full.activity.conversions - skipped.activity.conversions == lost * 8
    assert full.activity.shift_adds - skipped.activity.shift_adds == lost * 8
    assert full.activity.row_drives - skipped.activity.row_drives == lost * 8 * 8  # driven for each conversion
    assert full.activity.cell_reads - skipped.activity.cell_reads == lost * 8 * 64
    for kept in (
        "input_register_loads",
        "partial_sum_updates",
        "output_register_writes",
        "index_reads",
        "stored_cells",
    ):
        assert getattr(full.activity, kept) == getattr(skipped.activity, kept)
    # groups 0 and 1 lie on the first of 9 crossbars; the others walk as before, so nothing is faster
    assert skipped.time.busy_s == full.time.busy_s
    share["c"][:] = 0.25
    assert cost(network, plan, CHIP, zero_input=share).layers[2].time.busy_s == pytest.approx(0.75 * full.time.busy_s)
    # rounded once for each group: 0.1 of 512 pairs is 51.2, so 461 of 512 are worked
    share["c"][:] = 0.1
    assert cost(network, plan, CHIP, zero_input=share).layers[2].ou_steps == 2304 * 461


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        (
            lambda z: {**z, "b": z["b"][1:]},
            r"layer b: zero-input shares of shape \(35,\); one for each of 36 row groups",
        ),
        (lambda z: {**z, "b": z["b"] + 1.5}, r"layer b: a zero-input share must lie in 0\.\.1"),
        (lambda z: {**z, "b": z["b"] * np.nan}, r"layer b: a zero-input share must lie in 0\.\.1"),
        (lambda z: {"a": z["a"]}, "layer b: no zero-input shares were measured"),
    ],
)
def test_wrong_zero_input_shares(shares, says: str) -> None:
    network, plan = small_network()
    with pytest.raises(UserError, match=says):
        cost(network, plan, CHIP, zero_input=shares({n: np.zeros(p.groups) for n, p in plan.layers.items()}))


def test_report_of_useful_work_index_and_leakage() -> None:
    """By hand: a 32 x 27, b 32 x 288, c 64 x 288 weights, 64 positions each."""
    network, plan = small_network(0.25)
    chip = load_chip("survey-32nm")
    report = cost(network, plan, chip)
    assert report.macs == 64 * (32 * 27 + 32 * 288 + 64 * 288)  # of the dense network
    assert report.partial_sum_bytes == 2 * 4 * 64 * (4 * 32 + 36 * 32 + 36 * 64)  # every use, reused or not
    assert report.index_stored_bytes > 0
    assert report.index_read_bytes == sum(layer.activity.index_read_bytes for layer in report.layers)
    # 15 crossbars, one 6-bit ADC each of 0.2556 mW; nothing else of the table leaks
    assert report.leakage_breakdown_w is not None
    assert report.leakage_breakdown_w["adc"] == pytest.approx(15 * 0.2556e-3)
    assert report.leakage_w == pytest.approx(15 * 0.2556e-3)
    leaked = report.leakage_energy_j(report.pipelined)
    assert leaked == pytest.approx(15 * 0.2556e-3 * max(layer.time.busy_s for layer in report.layers))
    assert report.tops_per_w == pytest.approx(2 * report.macs / (report.energy_j + leaked) / 1e12)
    without = cost(network, plan, load_chip("isaac-32nm"))
    assert without.leakage_w is None
    assert without.leakage_energy_j(without.pipelined) is None
    assert without.tops_per_w == pytest.approx(2 * without.macs / without.energy_j / 1e12)
    dense = cost(*small_network(), load_chip("isaac-32nm"))
    assert dense.macs == without.macs
    assert dense.index_stored_bytes == dense.index_read_bytes == 0


def test_every_copy_has_registers_and_adders_to_gather() -> None:
    """Two copies of a, b, c, on 1, 5, 9 crossbars, whose busiest hold 128, 231 and 256 dot products of 19 bits: 304,
    549 and 608 bytes, twice. They fill 1, 1 and 2 PEs of 8 adders each."""
    network, plan = small_network()
    report = cost(network, plan, CHIP.model_copy(update={"accumulate": "gather"}), crossbars=30)
    assert report.copies == {"a": 2, "b": 2, "c": 2}
    stored = 2 * 2 * (1 * 304 + 5 * 549 + 9 * 608)
    assert report.area_breakdown_m2["dot_register"] == pytest.approx(stored * 3.008e-12)
    assert report.area_breakdown_m2["accumulator"] == pytest.approx((30 + 2 * 4 * 8) * 186e-12)
    scattered = cost(network, plan, CHIP, crossbars=30)
    assert scattered.area_breakdown_m2["dot_register"] == scattered.energy_breakdown_j["dot_register"] == 0
