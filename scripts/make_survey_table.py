"""Ask the public models again for the tool-derived figures of ``survey-32nm`` and compare them with the table.

    python3.12 -m venv models-venv
    models-venv/bin/pip install hwcomponents-adc hwcomponents-library hwcomponents-cacti hwcomponents-neurosim
    models-venv/bin/python scripts/make_survey_table.py

It needs Python 3.12 and these packages, none of which prap_pim needs, and nothing of prap_pim. It prints one line for
each figure: what the table has, what the model says now, and whether they agree within the table's digits. It writes
nothing: a figure is changed in the table by hand, with its source. Exit code 1 if a model is missing or disagrees.

What has been run: with Python 3.12.1, hwcomponents 1.0.114, -adc 1.0.21 and -library 1.0.58 the ADC and adder figures
agreed. The CACTI 7 and NeuroSim programs within those packages need glibc 2.38; on the older one that was at hand they
did not start, so the memories and the cell have not been asked again by this script.

NeuroSim's code is CC BY-NC: it is used as an installed tool, and only figures come from it.
"""

import sys
import tomllib
from collections.abc import Callable, Iterator
from math import isclose
from pathlib import Path

TABLE = Path(__file__).parents[1] / "src/prap_pim/hardware/tables/survey-32nm.toml"
NODE = 32e-9  # m
RATE = 1.2e9  # samples per second, as ISAAC's
DIGITS = 3e-3  # relative: the table gives three or four digits
INSTALL = "pip install hwcomponents-adc hwcomponents-library hwcomponents-cacti hwcomponents-neurosim"

Figures = Iterator[tuple[str, float]]  # (component.quantity, value in SI units)


def adcs() -> Figures:
    """Best published converters of 4 to 8 effective bits (arXiv 2404.06553); the model starts at 4."""
    from hwcomponents_adc import ADC

    for bits in range(4, 9):
        adc = ADC(n_bits=bits, tech_node=NODE, throughput=RATE, n_adcs=1)
        yield f"adc.energy_at_{bits}_bits", adc.convert().energy
        yield f"adc.area_at_{bits}_bits", adc.area
        yield f"adc.leakage_at_{bits}_bits", adc.leak_power
    yield "adc.power", adc.convert().energy * RATE  # of the last, 8 bits
    yield "adc.area", adc.area
    yield "adc.leakage", adc.leak_power


def adders() -> Figures:
    """Aladdin's 32-bit adder, brought from 40 to 32 nm by the library, and ISAAC's 16-bit shift and add."""
    from hwcomponents_library.library.aladdin import AladdinAdder
    from hwcomponents_library.library.isaac import IsaacShiftAdd

    adder, shifter = AladdinAdder(tech_node=NODE, width=32), IsaacShiftAdd(tech_node=NODE, width=16)
    yield "accumulator.energy_per_add", adder.add().energy
    yield "accumulator.energy_per_shift", shifter.read().energy
    yield "accumulator.area", adder.area + shifter.area
    yield "shift_add.energy_per_conversion", shifter.read().energy
    yield "shift_add.area", shifter.area


def memories() -> Figures:
    """CACTI 7: 64 KB with a 256-bit port (inputs, index), 16 KB with a 64-bit port (partial sums)."""
    from hwcomponents_cacti import SRAM

    large = SRAM(tech_node=NODE, width=256, depth=64 * 8192 // 256, size=64 * 8192)
    read, write = large.read(), large.write()
    yield "input_buffer.energy_per_access", (read.energy + write.energy) / 2
    yield "input_buffer.latency", 1 / read.throughput
    yield "input_buffer.area", large.area
    yield "index_buffer.energy_per_access", read.energy
    yield "index_buffer.latency", 1 / read.throughput
    yield "index_buffer.area_per_byte", large.area / (64 * 1024)
    small = SRAM(tech_node=NODE, width=64, depth=16 * 8192 // 64, size=16 * 8192)
    yield "partial_sum_buffer.energy_per_read", small.read().energy
    yield "partial_sum_buffer.energy_per_write", small.write().energy
    yield "partial_sum_buffer.latency", 1 / small.read().throughput
    yield "partial_sum_buffer.area", small.area


def cells() -> Figures:
    """NVSim's RRAM cell in NeuroSim's 128 x 128 array, 8 columns at once, inputs and cells averaging 0.5."""
    import hwcomponents_neurosim

    pulse = 3.16e-9  # s, of reading an OU
    cell = hwcomponents_neurosim.MemoryCell(
        tech_node=NODE,
        cycle_period=pulse,
        rows=128,
        cols=128,
        cols_active_at_once=8,
        cell_config=str(Path(hwcomponents_neurosim.__file__).parent / "cells" / "nvsim_RRAM.cell"),
        average_input_value=0.5,
        average_cell_value=0.5,
        read_pulse_width=pulse,
    )
    yield "crossbar.energy_per_cell_read", cell.compute().energy
    yield "crossbar.area", cell.area * 128 * 128


def main() -> int:
    """Ask every model; 0 if all could be asked and agree."""
    if sys.version_info < (3, 12):
        print(f"Python 3.12 or newer is needed, this is {sys.version.split()[0]}; then: {INSTALL}")
        return 1
    table = tomllib.loads(TABLE.read_text())
    trouble = False
    models: tuple[Callable[[], Figures], ...] = (adcs, adders, memories, cells)
    for model in models:
        try:
            for name, now in model():
                component, quantity = name.split(".")
                given = table[component][quantity]["value"]
                agrees = isclose(given, now, rel_tol=DIGITS)
                trouble |= not agrees
                print(f"{name:<36} table {given:<12.5g} model {now:<12.5g} {'agrees' if agrees else 'DIFFERS'}")
        except ModuleNotFoundError as error:
            trouble = True
            print(f"{model.__name__}: {error}; {INSTALL}")
        except Exception as error:  # the tools raise bare exceptions where their programs do not run
            trouble = True
            print(f"{model.__name__}: could not be asked: {' '.join(str(error).split())[:160]}")
    return int(trouble)


if __name__ == "__main__":
    sys.exit(main())
