"""Activity and schedule against the slow simulator, on random plans and chips, with copies and skipped steps."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.cost import activity, conversion_time, layer_time
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.plan import LayerPlan
from prap_pim.mapping import fewest_crossbars, map_layer
from tests.reference.machine import crossbars_of, encoded, homes_of, ous_of, serial_seconds, simulate, uses_in
from tests.strategies import chips, examples, grouped_plans, layer_for

NOT_SIMULATED = {"name", "positions", "busiest", "index_bits", "output_buffer_writes", "digital_ops"}
modes = st.sampled_from(["spread", "pack"])


def some_skipped(
    data: st.DataObject, plan: LayerPlan, positions: int, steps: int
) -> tuple[set[tuple[int, int, int]], np.ndarray]:
    """Any set of skipped (position, step, group), and each group's share of them."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    zero = random.random((positions, steps, plan.groups)) < random.choice([0.0, 0.3, 0.9, 1.0], plan.groups)
    return set(zip(*(axis.tolist() for axis in np.nonzero(zero)), strict=True)), zero.mean(axis=(0, 1))


@examples(100)
@given(chip=chips(ou_rows=4), plan=grouped_plans(), mode=modes, data=st.data())
def test_counts_are_those_of_a_walk(chip: Chip, plan: LayerPlan, mode: str, data: st.DataObject) -> None:
    positions, copies, fewest = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6)), data.draw(st.booleans()))
    layer = layer_for(plan, size=(1, positions))
    skipped, share = some_skipped(data, plan, positions, chip.grain.input_steps)
    mapping = map_layer(plan, chip, fewest_crossbars(plan, chip) if fewest else None, mode)
    mapping = replace(mapping, copies=copies)
    placed = crossbars_of(plan, chip, mode, fewest)
    assert mapping.ous_per_crossbar.tolist() == [len(ous) for ous in placed]
    assert mapping.total_tiles == homes_of(placed, chip, copies)[-1] + mapping.tiles

    counts = activity(mapping, layer, chip, zero_input=share if skipped or data.draw(st.booleans()) else None)
    events, busiest = simulate(plan, layer, chip, mode, skipped, copies, fewest)
    expected = {key: events[key] for key in asdict(counts) if key not in NOT_SIMULATED}
    assert {key: getattr(counts, key) for key in expected} == expected
    assert asdict(counts.busiest) == pytest.approx(busiest, rel=1e-12)
    assert all(isinstance(value, int) for key, value in asdict(counts).items() if key not in {"name", "busiest"})


@examples(40)
@given(chip=chips(ou_rows=4), plan=grouped_plans(), mode=modes, data=st.data())
def test_serial_time_is_that_of_a_walk(chip: Chip, plan: LayerPlan, mode: str, data: st.DataObject) -> None:
    layer, table = layer_for(plan, size=(1, 2)), load_table(chip.components)
    skipped, share = some_skipped(data, plan, 2, chip.grain.input_steps)
    cycles = chip.adc_bits + 2 if chip.adc_time == "(bits+2)/rate" else 1
    latency = {component: f.value for (component, quantity), f in table.figures.items() if quantity == "latency"}
    latency["adc"] = cycles / table("adc", "rate")
    time = layer_time(activity(map_layer(plan, chip, mode=mode), layer, chip, zero_input=share), chip, table)
    assert time.serial_s == pytest.approx(serial_seconds(plan, layer, chip, mode, latency, skipped), rel=1e-9)
    assert sum(time.serial_phases_s.values()) == pytest.approx(time.serial_s, rel=1e-12)
    assert time.pipelined_s <= time.serial_s * (1 + 1e-12)


@examples(60)
@given(plan=grouped_plans(), data=st.data())
def test_an_index_in_filter_order_says_every_use(plan: LayerPlan, data: st.DataObject) -> None:
    """What the bits that are counted say can be read back, of any of a plan's donors."""
    donors = [donor for donor in range(len(plan.donors)) if data.draw(st.booleans())]
    names = ("use_filter", "use_donor", "use_sign", "use_exponent")
    uses = [use for use in zip(*(getattr(plan, name).tolist() for name in names), strict=True) if use[1] in donors]
    counts = np.bincount([use[0] for use in uses], minlength=1)
    between = set(np.trim_zeros(counts).tolist())
    each = between.pop() if len(between) == 1 else None
    gains = data.draw(st.booleans()) or any(use[2:] != (1, 0) for use in uses)
    assert uses_in(encoded(plan, donors, gains), plan, donors, gains, each) == sorted(uses)


@examples(60)
@given(chip=chips(ou_rows=4), plan=grouped_plans(), data=st.data())
def test_any_placement_conserves_ous(chip: Chip, plan: LayerPlan, data: st.DataObject) -> None:
    total = len(ous_of(plan, chip))
    least = max(1, -(-total // chip.ous_per_crossbar))
    budget = data.draw(st.integers(least, least + 9))
    for mode in ("spread", "pack"):
        mapping = map_layer(plan, chip, budget, mode)
        assert mapping.ous == mapping.run_ous.sum() == mapping.ous_per_crossbar.sum() == total
        assert mapping.crossbars <= budget
        assert mapping.ous_per_crossbar.max() <= chip.ous_per_crossbar
    spread = map_layer(plan, chip, budget)
    assert spread.crossbars == budget
    assert spread.ous_per_crossbar.max() - spread.ous_per_crossbar.min() <= 1


@examples(40)
@given(chip=chips(ou_rows=4), plan=grouped_plans(), data=st.data())
def test_pulses_of_uneven_steps(chip: Chip, plan: LayerPlan, data: st.DataObject) -> None:
    """7 bits in steps of 3: 3, 3, 1. A step's pulses are its own; a plan's inputs may have fewer bits."""
    grain = replace(chip.grain, input_bits=7, dac_bits=data.draw(st.integers(2, 5)))
    chip, plan = chip.model_copy(update={"grain": grain}), replace(plan, input_bits=data.draw(st.integers(2, 8)))
    layer, table = layer_for(plan, size=(1, 2)), load_table(chip.components)
    counts = activity(map_layer(plan, chip), layer, chip)
    events, _ = simulate(plan, layer, chip, "spread")
    names = ("row_drives", "cell_reads", "samples", "conversions", "ou_steps", "input_register_bytes")
    assert {name: getattr(counts, name) for name in names} == {name: events[name] for name in names}
    latency = {component: f.value for (component, quantity), f in table.figures.items() if quantity == "latency"}
    latency["adc"] = conversion_time(chip, table)
    assert layer_time(counts, chip, table).serial_s == pytest.approx(
        serial_seconds(plan, layer, chip, "spread", latency), rel=1e-9
    )
