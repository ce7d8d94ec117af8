"""Activity and schedule against the slow simulator, on random plans and chips."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prap_pim.chip import Chip
from prap_pim.cost import activity, layer_time, load_table
from prap_pim.mapping import map_layer
from prap_pim.plan import LayerPlan
from tests.reference.machine import crossbars_of, ous_of, serial_seconds, simulate
from tests.strategies import chips, layer_for, layer_plans

NOT_SIMULATED = {"name", "positions", "busiest", "index_bits", "output_buffer_writes", "digital_ops"}


@settings(deadline=None, max_examples=100)
@given(chip=chips(ou_rows=4), plan=layer_plans(), mode=st.sampled_from(["spread", "pack"]))
def test_counts_are_those_of_a_walk(chip: Chip, plan: LayerPlan, mode: str) -> None:
    layer, mapping = layer_for(plan, size=(1, 2)), map_layer(plan, chip, mode=mode)
    assert mapping.ous_per_crossbar.tolist() == [len(ous) for ous in crossbars_of(plan, chip, mode)]
    counts = activity(mapping, layer, chip)
    events, busiest = simulate(plan, layer, chip, mode)
    expected = {key: events[key] for key in asdict(counts) if key not in NOT_SIMULATED}
    assert {key: getattr(counts, key) for key in expected} == expected
    assert asdict(counts.busiest) == busiest
    assert all(isinstance(value, int) for key, value in asdict(counts).items() if key not in {"name", "busiest"})


@settings(deadline=None, max_examples=40)
@given(chip=chips(ou_rows=4), plan=layer_plans(), mode=st.sampled_from(["spread", "pack"]))
def test_serial_time_is_that_of_a_walk(chip: Chip, plan: LayerPlan, mode: str) -> None:
    layer, table = layer_for(plan, size=(1, 2)), load_table(chip.components)
    cycles = chip.adc_bits + 2 if chip.adc_time == "(bits+2)/rate" else 1
    latency = {component: f.value for (component, quantity), f in table.figures.items() if quantity == "latency"}
    latency["adc"] = cycles / table("adc", "rate")
    time = layer_time(activity(map_layer(plan, chip, mode=mode), layer, chip), chip, table)
    assert time.serial_s == pytest.approx(serial_seconds(plan, layer, chip, mode, latency), rel=1e-9)
    assert sum(time.serial_phases_s.values()) == pytest.approx(time.serial_s, rel=1e-12)
    assert time.pipelined_s <= time.serial_s * (1 + 1e-12)


@settings(deadline=None, max_examples=60)
@given(chip=chips(ou_rows=4), plan=layer_plans(), data=st.data())
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
