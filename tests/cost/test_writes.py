"""What writing cells takes: against a walk, and by hand; a network larger than its chip; what reuse saves."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.cost import cost
from prap_pim.cost.writes import stored_cells, wordlines
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import COMPONENTS, ComponentTable, load_table
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.mapping import map_layer
from tests.mapping.test_mapping import small_network
from tests.reference.machine import crossbars_of
from tests.strategies import chips, examples, grouped_plans

CHIP = load_chip("isaac-32nm")


def table_of(tmp_path: Path, **cell: float) -> ComponentTable:
    text = (COMPONENTS / "isaac-32nm.toml").read_text().partition("[cell]")[0]
    units = {"energy": "J", "time": "s", "pulses": "1", "endurance": "1"}
    lines = [
        f'{name} = {{ value = {value}, unit = "{units[name.split("_")[0]]}", source = "a test" }}'
        for name, value in cell.items()
    ]
    (tmp_path / "mine.toml").write_text(text + "\n".join(["[cell]", *lines]) + "\n")
    return load_table(tmp_path / "mine.toml")


@examples(60)
@given(chip=chips(ou_rows=4), plan=grouped_plans(), mode=st.sampled_from(["spread", "pack"]))
def test_cells_on_each_crossbar_are_those_of_a_walk(chip: Chip, plan: LayerPlan, mode: str) -> None:
    found = stored_cells(map_layer(plan, chip, mode=mode), chip)
    rows = [sum(row >= 0 for row in group) for group in plan.rows.tolist()]
    walked = [sum(rows[g] * len(columns) for g, columns in ous) for ous in crossbars_of(plan, chip, mode)]
    assert found.tolist() == walked


@examples(60)
@given(chip=chips(ou_rows=4), plan=grouped_plans(), mode=st.sampled_from(["spread", "pack"]))
def test_wordlines_of_each_crossbar_are_those_of_a_walk(chip: Chip, plan: LayerPlan, mode: str) -> None:
    """OUs side by side, band after band; every band is as high as the layer's highest OU."""
    across, highest = chip.crossbar_columns // chip.grain.ou_columns, max((plan.rows >= 0).sum(axis=1))
    walked = []
    for ous in crossbars_of(plan, chip, mode):
        written = set()
        for place in range(len(ous)):
            band = place // across * chip.grain.ou_rows
            written |= set(range(band, band + highest))
        walked.append(len(written))
    assert wordlines(map_layer(plan, chip, mode=mode), chip).tolist() == walked


def test_half_of_what_a_verifying_read_takes_is_not_nothing(tmp_path: Path) -> None:
    network, plan = small_network()
    whole = {"energy_per_pulse": 2e-12, "time_per_pulse": 10e-9, "pulses_per_write": 3}
    half = cost(network, plan, CHIP, table=table_of(tmp_path, **whole, energy_per_verify=1e-12))
    assert half.programming_j == pytest.approx(half.stored_cells * 3 * 3e-12)
    assert half.programming_s is None
    assert half.unknown_writes == ["cell.time_per_verify", "cell.endurance"]


def test_programming_by_hand(tmp_path: Path) -> None:
    """Layers of 1, 5 and 9 crossbars; the fullest holds 128 wordlines of 128 cells."""
    network, plan = small_network()
    table = table_of(
        tmp_path, energy_per_pulse=2e-12, energy_per_verify=1e-12, time_per_pulse=10e-9, time_per_verify=5e-9,
        pulses_per_write=3, endurance=1e6,
    )  # fmt: skip
    report = cost(network, plan, CHIP, table=table)
    assert (
        report.stored_cells == sum(layer.donors.size * 8 for layer in plan.layers.values()) - 5 * 32 * 8
    )  # a: 27 rows
    assert report.programming_j == pytest.approx(report.stored_cells * 3 * (2e-12 + 1e-12))
    assert report.programming_s == pytest.approx(128 * 3 * 15e-9)
    assert (report.turns, report.cells_written, report.endured_inferences) == (1, 0, None)
    assert report.years(1.0) == math.inf
    for rate in (0, -1, "a", math.nan, math.inf, True, None):
        with pytest.raises(UserError, match="rate_per_s must be inferences a second, a number above 0, not "):
            report.years(rate)  # type: ignore[arg-type]
    assert "cell" not in report.energy_breakdown_j
    assert report.unknown_writes == []


def test_what_is_not_known_is_named(tmp_path: Path) -> None:
    network, plan = small_network()
    report = cost(network, plan, CHIP, table=table_of(tmp_path, energy_per_pulse=2e-12, endurance=1e6))
    assert (report.programming_j, report.programming_s) == (None, None)
    assert report.unknown_writes == ["cell.pulses_per_write", "cell.time_per_pulse"]
    assert "n/a" in report._repr_html_()
    small = CHIP.model_copy(update={"max_tiles": 2})
    says = r"needs 15 crossbars in 3 tiles; chip isaac-32nm has 2 tiles .* must have cell.pulses_per_write, cell.time"
    with pytest.raises(UserError, match=says):
        cost(network, plan, small, table=table_of(tmp_path, energy_per_pulse=2e-12))
    timed = table_of(tmp_path, energy_per_pulse=2e-12, time_per_pulse=1e-9, pulses_per_write=1)
    assert cost(network, plan, small, table=timed).years(1.0) is None


@pytest.mark.parametrize("pulse", [1e-6, 10e-6])
def test_turns_by_hand(tmp_path: Path, pulse: float) -> None:
    """A tile a layer, two tiles: a and b, then c; or in halves a, b, c, one written while another computes.

    Dense a fills 4 x 32 OUs of 8 rows: 64 wordlines of 16 OUs; of b 231 OUs, 15 times 8; of c all 128.
    """
    network, plan = small_network()
    table = table_of(tmp_path, energy_per_pulse=1e-12, time_per_pulse=pulse, pulses_per_write=1, endurance=1e6)
    whole, small = cost(network, plan, CHIP, table=table), CHIP.model_copy(update={"max_tiles": 2})
    report = cost(network, plan, small, table=table)
    alone = {layer.name: layer.pipelined_latency_s for layer in whole.layers}
    write = {name: lines * pulse for name, lines in (("a", 64), ("b", 120), ("c", 128))}
    serial = sum(layer.serial_latency_s for layer in whole.layers)
    two = max(write["a"], write["b"]) + write["c"]
    assert report.serial.latency_s == pytest.approx(serial + two, rel=1e-9)
    if pulse > 1e-6:  # writes take longer than what is computed beside
        halves = max(alone["a"], write["b"]) + max(alone["b"], write["c"]) + max(alone["c"], write["a"])
        assert report.pipelined.latency_s == pytest.approx(halves, rel=1e-9)
    else:  # a and b overlap, which halves forbid
        assert two + max(alone.values()) < report.pipelined.latency_s < two + sum(alone.values())
    assert (report.turns, report.writes.double_buffered) == ((3, True) if pulse > 1e-6 else (2, False))
    assert report.pipelined.throughput_per_s == 1 / report.pipelined.latency_s
    assert report.energy_j == pytest.approx(whole.energy_j + whole.stored_cells * 1e-12, rel=1e-9)
    assert report.energy_breakdown_j["cell"] == pytest.approx(whole.stored_cells * 1e-12)
    assert report.cells_written == whole.stored_cells
    there = 2 * CHIP.crossbars_per_tile * 128 * 128
    assert report.endured_inferences == pytest.approx(1e6 * there / whole.stored_cells)
    assert report.years(1.0) == pytest.approx(1e6 * there / whole.stored_cells / 31557600)
    (warning,) = report.warnings
    assert f"written in {report.turns} turns" in warning


def test_area_is_the_chips() -> None:
    """Two tiles with all their crossbars, whatever the network takes."""
    network, plan = small_network()
    small = CHIP.model_copy(update={"max_tiles": 2})
    report, table = cost(network, plan, small), load_table("isaac-32nm")
    assert report.area_breakdown_m2["crossbar"] == pytest.approx(2 * 96 * table("crossbar", "area"))
    assert report.area_breakdown_m2["adc"] == pytest.approx(2 * 96 * table("adc", "area"))
    assert report.area_breakdown_m2["input_buffer"] == pytest.approx(2 * table("input_buffer", "area"))


def test_a_layer_larger_than_the_chip(tmp_path: Path) -> None:
    """Crossbars of 8 x 64 cells, one to a tile: layer c has more tiles than there are, and takes turns of its own."""
    network, plan = small_network()
    chip = Chip.checked(
        CHIP.model_dump()
        | {"crossbar_rows": 64, "crossbar_columns": 64, "crossbars_per_pe": 1, "pes_per_tile": 4, "max_tiles": 3},
        "small",
    )
    table = table_of(tmp_path, energy_per_pulse=1e-12, time_per_pulse=1e-3, pulses_per_write=1)  # writes take longest
    report = cost(network, plan, chip, table=table)
    tiles = {layer.name: layer.tiles for layer in report.layers}
    assert tiles["c"] > 3
    assert not math.isnan(report.pipelined.latency_s)
    wordlines = report.serial.latency_s / 1e-3  # computing takes nothing beside
    assert report.turns >= math.ceil(sum(tiles.values()) / 3)
    assert math.ceil(report.stored_cells / 64 / 12) <= wordlines < 64 * (report.turns + 1)


def test_reuse_lengthens_the_life_of_cells() -> None:
    """Half the donors are written in half as many writes: the cells last at least twice as long."""
    network, plan = small_network()
    small = CHIP.model_copy(update={"pes_per_tile": 1, "max_tiles": 1})
    dense = cost(network, plan, small)
    fewer = replace(
        plan,
        layers={
            name: replace(
                layer,
                donors=layer.donors[::2],
                donor_start=layer.donor_start // 2,
                use_donor=(np.arange(layer.uses) // 2).astype(np.int32),
            )
            for name, layer in plan.layers.items()
        },
    )
    shared = cost(network, fewer, small)
    assert shared.cells_written * 2 == dense.cells_written
    assert shared.years(1.0) == pytest.approx(2 * (dense.years(1.0) or 0.0))


def test_parts_of_a_layer_share_its_traffic_between_tiles(tmp_path: Path) -> None:
    """Where links between tiles take nearly all the time, turns take no longer than all tiles at once."""
    network, plan = small_network()
    sizes = {"crossbar_rows": 64, "crossbar_columns": 64, "crossbars_per_pe": 1, "pes_per_tile": 4}
    large = Chip.checked(CHIP.model_dump() | sizes | {"inter_tile_bits_per_s": 1e6}, "slow links")
    table = table_of(tmp_path, energy_per_pulse=1e-12, time_per_pulse=1e-12, pulses_per_write=1)
    whole = cost(network, plan, large, table=table)
    assert {layer.time.bottleneck for layer in whole.layers if layer.tiles > 1} == {"inter-tile links"}
    turns = cost(network, plan, large.model_copy(update={"max_tiles": 3}), table=table)
    assert turns.turns > 3
    assert turns.serial.latency_s == pytest.approx(whole.serial.latency_s, rel=0.3)


def test_a_compressed_network_that_fits_is_packed_rather_than_rewritten(tmp_path: Path) -> None:
    """Three layers of a tile each; of a sixteenth of their donors, all crossbars fit two tiles if packed."""
    network, plan = small_network()
    few = NetworkPlan("few", {name: _few_donors(layer) for name, layer in plan.layers.items()}, plan.input_step)
    small = CHIP.model_copy(update={"max_tiles": 3, "crossbars_per_pe": 2, "pes_per_tile": 2})
    report = cost(
        network, few, small, table=table_of(tmp_path, energy_per_pulse=1e-12, time_per_pulse=1e-9, pulses_per_write=1)
    )
    assert (report.turns, report.mode, report.cells_written) == (1, "pack", 0)
    assert report.crossbars <= 3 * 4
    (warning,) = report.warnings
    assert "they are packed" in warning
    assert cost(network, plan, small).turns > 1


def _few_donors(layer: LayerPlan) -> LayerPlan:
    """Every filter takes the first donor of its row group."""
    start = np.arange(layer.groups + 1)
    return replace(
        layer,
        donors=layer.donors[layer.donor_start[:-1]],
        donor_start=start,
        use_donor=layer.use_group.astype(np.int32),
    )
