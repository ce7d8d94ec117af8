"""What must hold for any plan and chip."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prap_pim.cost import LayerActivity, LayerTime, activity, layer_time
from prap_pim.cost.price import energy
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.plan import LayerPlan
from prap_pim.mapping import map_layer
from tests.strategies import chips, examples, grouped_plans, layer_for, layer_plans, merge_donors

TINY = 1 + 1e-12


def costed(plan: LayerPlan, chip: Chip, mode: str) -> tuple[LayerActivity, LayerTime, dict[str, float]]:
    table = load_table(chip.components)
    counts = activity(map_layer(plan, chip, mode=mode), layer_for(plan), chip)
    return counts, layer_time(counts, chip, table), energy(counts, chip, table)


modes = st.sampled_from(["spread", "pack"])


@examples(60)
@given(chip=chips(ou_rows=4), data=st.data(), mode=modes)
def test_fewer_ous_never_lengthen_the_walk(chip: Chip, data: st.DataObject, mode: str) -> None:
    """Whatever the plans of one layer look like: the busiest crossbar of the one with fewer OUs has no more of them."""
    shape = {"inputs": data.draw(st.integers(1, 12)), "filters": data.draw(st.integers(1, 6))}
    plans = sorted(
        (map_layer(data.draw(layer_plans(**shape)), chip, mode=mode) for _ in range(2)), key=lambda found: found.ous
    )
    assert plans[0].ous_per_crossbar.max() <= plans[1].ous_per_crossbar.max()
    assert mode == "spread" or plans[0].crossbars <= plans[1].crossbars


@examples(60)
@given(chip=chips(ou_rows=4), plan=layer_plans(), data=st.data(), mode=modes)
def test_fewer_donors_never_cost_more(chip: Chip, plan: LayerPlan, data: st.DataObject, mode: str) -> None:
    """On one crossbar. On several, the borders between crossbars move and may cut a row group once more (an extra
    register load or merge); and the first reuse of a layer brings an index that a dense layer does not need."""
    chip = chip.model_copy(update={"crossbar_rows": 400, "crossbar_columns": 100 * chip.grain.ou_columns})
    assume(len(plan.donors) > 0)
    fewer = merge_donors(plan, data.draw(st.lists(st.integers(0, len(plan.donors) - 1), min_size=1).map(np.array)))
    assume(map_layer(plan, chip, mode=mode).crossbars == 1)
    before, time_before, energy_before = costed(plan, chip, mode)
    after, time_after, energy_after = costed(fewer, chip, mode)
    assert after.ou_steps <= before.ou_steps
    assert after.use_additions == 6 * fewer.uses  # reuse alone does not remove them
    without_index = {key: value for key, value in energy_after.items() if key != "index_buffer"}
    assert all(value <= energy_before[key] for key, value in without_index.items())
    assert time_after.serial_phases_s["crossbars"] <= time_before.serial_phases_s["crossbars"]
    if after.index_bits <= before.index_bits:
        assert sum(energy_after.values()) <= sum(energy_before.values()) * TINY
        assert time_after.serial_s <= time_before.serial_s * TINY
        assert time_after.pipelined_s <= time_before.pipelined_s * TINY


@pytest.mark.parametrize("preset", ["prap-2023", "isaac-32nm"])
@pytest.mark.parametrize("mode", ["spread", "pack"])
def test_each_halving_of_the_donors_pays(preset: str, mode: str) -> None:
    """64 filters on 576 rows, 18 crossbars in 3 PEs: borders, index, merges and all."""
    chip, random = load_chip(preset), np.random.default_rng(0)
    energies, serial, pipelined = [], [], []
    for donors in (64, 32, 16, 8):
        plan = _shared(576, 64, donors, random)
        _, time, joules = costed(plan, chip, mode)
        energies.append(sum(joules.values()))
        serial.append(time.serial_s)
        pipelined.append(time.pipelined_s)
    assert energies == sorted(energies, reverse=True)
    if mode == "spread":
        assert serial == sorted(serial, reverse=True)
        assert pipelined == sorted(pipelined, reverse=True)
        assert serial[0] / serial[3] > 4  # of at most 8: updates stay


@examples(100)
@given(chip=chips(ou_rows=4), plan=grouped_plans(), mode=modes)
def test_gathering_moves_partial_sums_alone(chip: Chip, plan: LayerPlan, mode: str) -> None:
    """Never more updates, and one for each filter and PE; every use is added and merged as before."""
    scattered, gathered = (
        activity(map_layer(plan, each, mode=mode), layer_for(plan), each)
        for each in (chip.model_copy(update={"accumulate": how}) for how in ("scatter", "gather"))
    )
    assert gathered.partial_sum_updates <= scattered.partial_sum_updates == scattered.use_additions
    held = {int(plan.use_filter[use]) for use in range(plan.uses)}
    assert gathered.partial_sum_updates >= len(held) * scattered.positions
    assert gathered.busiest.partial_sum_accesses <= scattered.busiest.partial_sum_accesses
    assert gathered.busiest.gathered <= plan.filters
    changed = {
        *("partial_sum_updates", "partial_sum_read_bytes", "partial_sum_write_bytes"),
        *("dot_register_accesses", "dot_register_bytes", "index_bits", "index_reads", "index_read_bytes", "busiest"),
    }
    assert {key: value for key, value in vars(gathered).items() if key not in changed} == {
        key: value for key, value in vars(scattered).items() if key not in changed
    }


@examples(60)
@given(chip=chips(ou_rows=4), plan=layer_plans(), mode=modes)
def test_another_adc_is_never_slower(chip: Chip, plan: LayerPlan, mode: str) -> None:
    more = chip.model_copy(update={"adcs_per_crossbar": chip.adcs_per_crossbar + 1})
    before, time_before, _ = costed(plan, chip, mode)
    after, time_after, _ = costed(plan, more, mode)
    assert time_after.serial_s <= time_before.serial_s * TINY
    assert time_after.pipelined_s <= time_before.pipelined_s * TINY
    assert after.conversions == before.conversions
    assert after.row_drives <= before.row_drives


def _shared(inputs: int, filters: int, donors: int, random: np.random.Generator) -> LayerPlan:
    """Consecutive row groups of 8; the first ``donors`` filters are donors, the others take one of them."""
    groups = inputs // 8
    user = np.concatenate([np.arange(donors), random.integers(0, donors, filters - donors)])
    return LayerPlan(
        name="layer",
        inputs=inputs,
        rows=np.arange(inputs, dtype=np.int32).reshape(groups, 8),
        donors=random.integers(-128, 128, (groups * donors, 8)).astype(np.int8),
        donor_start=np.arange(groups + 1, dtype=np.int64) * donors,
        use_start=np.arange(groups + 1, dtype=np.int64) * filters,
        use_filter=np.tile(np.arange(filters, dtype=np.int32), groups),
        use_donor=(np.arange(groups)[:, None] * donors + user).astype(np.int32).ravel(),
        use_sign=np.ones(groups * filters, np.int8),
        use_exponent=np.tile(np.where(np.arange(filters) < donors, 0, -1).astype(np.int8), groups),
        step=np.ones(filters, np.float32),
        bias=np.zeros(filters, np.float32),
    )
