"""Published figures outside PRAP, from our tables: ISAAC (Shafiee et al., ISCA 2016), table I and text.

Its rows went into the table as joules per event and square metres per instance; here they come back as the powers and
areas of the whole tile, by counting what a tile has and how often it can do what it does.
"""

import numpy as np
import pytest

from prap_pim.common.units import GIGA, MICRO, MILLI, NANO
from prap_pim.cost import activity, conversion_energy, layer_time
from prap_pim.cost.price import Instances, area
from prap_pim.cost.schedule import ou_step_stages
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import load_table
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan
from prap_pim.mapping import map_layer
from tests.cost.test_hand_counts import plan_of
from tests.strategies import layer_for

TABLE = load_table("isaac-32nm")
CYCLE = 1.2 * GIGA  # Hz
READ = 100 * NANO  # all 128 rows and columns of a crossbar
OU_READ = TABLE("crossbar", "latency")  # what the table's energies of DAC and cells are per


def isaac(**changes: object) -> Chip:
    """ISAAC-CE as published: all rows at once, 2-bit cells, 16-bit weights and inputs, 8-bit ADCs."""
    grain = Grain(ou_rows=128, ou_columns=128, cell_bits=2, weight_bits=16, input_bits=16)
    return Chip.checked(load_chip("isaac-32nm").model_dump() | {"grain": grain, "adc_bits": 8} | changes, "ISAAC")


def ima_watts() -> float:
    """An IMA at work: 8 crossbars of 128 x 128, 8 ADCs, 4 shift-adders, registers of 2 KB and 256 B."""
    rows, cells = 8 * 128, 8 * 128 * 128
    return (
        8 * conversion_energy(isaac(), TABLE) * CYCLE
        + rows * TABLE("dac", "energy_per_drive") / OU_READ
        + cells * TABLE("crossbar", "energy_per_cell_read") / OU_READ
        + rows * TABLE("sample_and_hold", "energy_per_sample") / READ
        + 4 * TABLE("shift_add", "energy_per_conversion") * CYCLE
        + rows * TABLE("input_register", "energy_per_drive") / READ
        + TABLE("output_register", "energy_per_write") * CYCLE
    )


def tile_watts() -> float:
    """12 IMAs, and the eDRAM at one access in its 1.2 ns, the bus at 48 bytes a cycle, a quarter of a router whose 8
    ports move a 32-bit flit each cycle, two output units, a shift-adder, a pooling unit, a 3 KB register."""
    return (
        12 * ima_watts()
        + TABLE("input_buffer", "energy_per_access") / TABLE("input_buffer", "latency")
        + 48 * TABLE("bus", "energy_per_byte") * CYCLE
        + 8 * 4 * TABLE("router", "energy_per_byte_hop") * CYCLE / 4
        + 2 * TABLE("output_unit", "energy_per_output") * CYCLE
        + TABLE("shift_add", "energy_per_conversion") * CYCLE
        + TABLE("digital_unit", "energy_per_op") * CYCLE
        + TABLE("partial_sum_buffer", "energy_per_read") * CYCLE
    )


def tile_square_metres() -> tuple[float, float]:
    """All IMAs, and the tile. Ours has a shift-adder for each of 8 ADCs, ISAAC 4; ours one output unit, ISAAC two."""
    parts = area(Instances(crossbars=96, pes=12, tiles=1, index_bytes=0), isaac(), TABLE)
    ima = ("adc", "dac", "sample_and_hold", "crossbar", "input_register", "output_register")
    shift_add = TABLE("shift_add", "area")
    imas = sum(parts[part] for part in ima) + 12 * 4 * shift_add
    rest = ("input_buffer", "bus", "router", "output_unit", "digital_unit")
    tile = imas + sum(parts[part] for part in rest) + TABLE("output_unit", "area") + shift_add
    return imas, tile + TABLE("partial_sum_buffer", "area")  # one 3 KB register


def test_tile_power() -> None:
    """Table I: 12 IMAs 289 mW, the tile 330 mW; the chip of 168 tiles and HyperTransport (10.4 W) 65.8 W."""
    assert 12 * ima_watts() / MILLI == pytest.approx(289, rel=0.01)
    assert tile_watts() / MILLI == pytest.approx(330, rel=0.03)
    assert 168 * tile_watts() + 10.4 == pytest.approx(65.8, rel=0.03)


def test_tile_area() -> None:
    """Table I: 12 IMAs 0.157 mm2, the tile 0.372 mm2; the chip with HyperTransport (22.88 mm2) 85.4 mm2."""
    imas, tile = tile_square_metres()
    assert imas / MICRO == pytest.approx(0.157, rel=0.005)
    assert tile / MICRO == pytest.approx(0.372, rel=0.003)
    assert 168 * tile / MICRO + 22.88 == pytest.approx(85.4, rel=0.003)


def full_crossbar() -> LayerPlan:
    """128 rows x 16 filters of 16 bits: 128 columns of 2-bit cells, all in use."""
    return plan_of(128, [range(128)], [16], [[(f, f, 1, 0) for f in range(16)]])


def test_adc_budget() -> None:
    """ISAAC's text: one ADC of 1.28 GS/s serves the 128 columns of a crossbar within the 100 ns of a read.

    Our table has table I's 1.2 GS/s, 106.7 ns; more columns, or a slower converter, would hold up the crossbar.
    """
    chip = isaac()
    assert chip.conversion_rounds == 128
    assert chip.reads_per_step == 1  # sampled
    stages = ou_step_stages(chip, TABLE)
    assert stages["ADC"] == pytest.approx(READ * 1.28 / 1.2, rel=1e-9)
    assert max(stages, key=lambda key: stages[key]) == "ADC"
    counts = activity(map_layer(full_crossbar(), chip), layer_for(full_crossbar(), size=(1, 1)), chip)
    assert counts.ou_steps == 16  # one OU, 16 input bits
    assert counts.conversions == 16 * 128
    time = layer_time(counts, chip, TABLE)
    assert time.bottleneck == "crossbars"
    assert time.busy_s == pytest.approx(16 * 128 / CYCLE, rel=1e-9)


def test_peak_throughput() -> None:
    """ISAAC-CE does 478.95 GOPS/mm2 at its peak: 168 x 12 x 8 crossbars of 128 x 16 weights of 16 bits, two
    operations each, every 16 x 100 ns (1.28 GS/s), on the area of the chip."""
    chip = isaac()
    time = layer_time(
        activity(map_layer(full_crossbar(), chip), layer_for(full_crossbar(), size=(1, 1)), chip), chip, TABLE
    )
    seconds = time.busy_s * 1.2 / 1.28  # the converter of the text
    operations = 168 * 12 * 8 * 2 * 128 * 16 / seconds
    square_millimetres = 168 * tile_square_metres()[1] / MICRO + 22.88
    assert operations / GIGA / square_millimetres == pytest.approx(478.95, rel=0.015)


def test_survey_has_a_row_for_each_resolution() -> None:
    """The figures of the ADC model: energy by bits, area with it; other conventions from its 8-bit row."""
    chip, table = load_chip("survey-32nm"), load_table("survey-32nm")
    rows = {4: (0.739, 5130), 5: (0.749, 5151), 6: (0.852, 5353), 7: (1.05, 5698), 8: (1.479, 6313)}
    for bits, (picojoules, square_micrometres) in rows.items():
        one = chip.model_copy(update={"adc_bits": bits})
        assert conversion_energy(one, table) == pytest.approx(picojoules * 1e-12, rel=1e-9)
        parts = area(Instances(crossbars=3, pes=1, tiles=1, index_bytes=0), one, table)
        assert parts["adc"] == pytest.approx(3 * square_micrometres * 1e-12, rel=1e-9)
        slow = one.model_copy(update={"adc_energy": "power*(bits+2)/rate"})
        assert conversion_energy(slow, table) == pytest.approx((bits + 2) * picojoules * 1e-12, rel=1e-9)
    by_law = chip.model_copy(update={"adc_scaling": "2^b/(b+1)", "adc_bits": 8})
    assert conversion_energy(by_law, table) == pytest.approx(1.479e-12, rel=1e-9)
    assert np.all(np.diff([conversion_energy(chip.model_copy(update={"adc_bits": b}), table) for b in rows]) > 0)
