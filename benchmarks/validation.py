"""Our figures beside published ones of chips, silicon and simulated: writes docs/validation.md.

    python benchmarks/validation.py [--write docs/validation.md]

Every figure of ours comes out of the cost model on a preset, or on a preset with the settings that its section names: a
layer of dense weights that fills the crossbars, one position.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from validation_page import Bound, Figure, Subject, document
from validation_points import NEURRAM, SILICON_OUTPUTS, SOURCES, Point

from prap_pim.common.files import write_whole
from prap_pim.common.units import GIGA, MICRO, MILLI, NANO, PICO, TERA
from prap_pim.cost import LayerActivity, LayerTime, activity, conversion_energy, layer_time, ou_step_stages
from prap_pim.cost.price import Instances, area, energy, total
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import ComponentTable, load_table
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan
from prap_pim.mapping import map_layer

FEMTO = 1e-15


@dataclass(frozen=True)
class Full:
    """Crossbars full of dense weights, one position: counts, times, joules by component."""

    counts: LayerActivity
    time: LayerTime
    joules: dict[str, float]
    table: ComponentTable

    def energy(self, *components: str) -> float:
        """Joules of some components, or of all."""
        return sum(self.joules[each] for each in components) if components else total(self.joules)


def chip_of(preset: str, **changes: Any) -> Chip:
    """A preset with other settings, those of its grain among them."""
    chip = load_chip(preset)
    grain = replace(chip.grain, **{key: changes.pop(key) for key in list(changes) if key in vars(chip.grain)})
    return Chip.checked(chip.model_dump() | {"grain": grain} | changes, preset)


def dense(rows: int, filters: int, height: int, bits: int) -> LayerPlan:
    """Every filter its own patterns, ``height`` rows each."""
    groups = -(-rows // height)
    at = np.arange(groups * height, dtype=np.int32).reshape(groups, height)
    start, one = np.arange(groups + 1) * filters, np.ones(groups * filters, np.int8)
    return LayerPlan(
        name="full",
        inputs=rows,
        rows=np.where(at < rows, at, -1).astype(np.int32),
        donors=np.repeat(at < rows, filters, axis=0).astype(np.int8),
        donor_start=start,
        use_start=start,
        use_filter=np.tile(np.arange(filters, dtype=np.int32), groups),
        use_donor=np.arange(groups * filters, dtype=np.int32),
        use_sign=one,
        use_exponent=0 * one,
        step=np.ones(filters, np.float32),
        bias=np.zeros(filters, np.float32),
        weight_bits=bits,
    )


def full(chip: Chip, rows: int, filters: int, bits: int = 8, table: ComponentTable | None = None) -> Full:
    """``rows`` x ``filters`` weights at work for one position."""
    table, plan = table or load_table(chip.components), dense(rows, filters, chip.grain.ou_rows, bits)
    layer = Layer(
        name="full",
        kind="linear",
        weight=np.ones((filters, rows), np.float32),
        filter_scale=np.ones(filters, np.float32),
        filter_bias=np.zeros(filters, np.float32),
        input_shape=(rows,),
        output_shape=(filters,),
        sources=("input",),
    )
    counts = activity(map_layer(plan, chip), layer, chip)
    return Full(counts, layer_time(counts, chip, table), energy(counts, chip, table), table)


def isaac() -> Subject:
    """ISAAC-CE: all rows at once for 100 ns, where the table's DACs and cells are driven for the 3.16 ns of an OU."""
    chip = chip_of("isaac-32nm", ou_rows=128, ou_columns=128, cell_bits=2, weight_bits=16, input_bits=16, adc_bits=8)
    table = load_table("isaac-32nm")
    held = {("dac", "energy_per_drive"), ("crossbar", "energy_per_cell_read")}
    table = replace(
        table,
        figures={
            key: replace(figure, value=figure.value * 100 / 3.16) if key in held else figure
            for key, figure in table.figures.items()
        },
    )
    ima, imas, rate = full(chip, 128, 128, table=table), 168 * 12, table("adc", "rate")
    macs, text_rate = 128 * 128, 1.28 * GIGA  # the text's converter: 128 columns in 100 ns
    seconds = ima.time.busy_s * rate / text_rate
    watts = imas * ima.energy() / ima.time.busy_s + 10.4
    parts = area(Instances(crossbars=96, pes=12, tiles=1, index_bytes=0), chip, table)
    sums = 11 * table("partial_sum_buffer", "area")  # ISAAC's tile has one register of 3 KB, ours one in each PE
    metres = total(parts) - sums
    adc = conversion_energy(chip, table) * rate
    chip_metres = 168 * metres + 22.88 * MICRO
    return Subject(
        "ISAAC-CE, `isaac-32nm` with OUs of 128 x 128, 2-bit cells, 16-bit weights and inputs, 8-bit ADCs",
        False,
        SOURCES["isaac"],
        (
            Figure("time to convert the columns of a read, ns", ou_step_stages(chip, table)["ADC"] / NANO, 100, "B"),
            Figure("conversions a 16-bit MAC", ima.counts.conversions / macs, 1, "D"),
            Figure("power of an ADC, mW", adc / MILLI, 2, "B", "fitted"),
            Figure("power of a chip's ADCs, W", imas * 8 * adc, 32.26, "D", "parts"),
            Figure("power of a chip at its peak, W", watts, 65.8, "B"),
            Figure("peak throughput, TOPS", imas * 2 * macs / seconds / TERA, 41.29, "D"),
            Figure("power efficiency, GOPS/W", imas * 2 * macs / seconds / watts / GIGA, 627.5, "B"),
            Figure("area of a tile, mm2", metres / MICRO, 0.372, "B", "parts"),
            Figure("area of a chip, mm2", chip_metres / MICRO, 85.4, "B", "parts"),
            Figure("share of ADCs in a tile's area", parts["adc"] / metres, 0.31, "B", "parts"),
            Figure("area efficiency, GOPS/mm2", imas * 2 * macs / seconds / chip_metres * MICRO / GIGA, 478.95, "B"),
        ),
    )


def puma() -> Subject:
    """PUMA: an MVMU's product of 128 x 128 weights of 16 bits, and a node."""
    chip = load_chip("puma-32nm")
    mvmu, mvmus, macs = full(chip, 128, 128), 138 * 16, 128 * 128
    core = mvmu.energy("adc", "dac", "crossbar", "sample_and_hold", "input_register", "output_register", "shift_add")
    parts = area(Instances(crossbars=138 * 128, pes=mvmus, tiles=138, index_bytes=0), chip, mvmu.table)
    return Subject(
        "PUMA, `puma-32nm`",
        False,
        SOURCES["puma"],
        (
            Figure("time of an MVM, ns", mvmu.time.pipelined_s / NANO, 2304, "B"),
            Figure("energy of an MVM, nJ", core / NANO, 43.97, "B"),
            Figure("energy of a 16-bit MAC, pJ", core / macs / PICO, 2.684, "D"),
            Figure("power of an MVMU, mW", core / mvmu.time.busy_s / MILLI, 18.96, "D", "parts"),
            Figure("weights of a node, MB", mvmus * macs * 2 / 2**20, 69, "B"),
            Figure(
                "power of a node, W",
                mvmus * mvmu.energy() / mvmu.time.busy_s + 10.4,
                62.5,
                "B",
                "predicted",
                "no instruction and attribute memories, control and vector units",
            ),
            Figure("area of a node, mm2", total(parts) / MICRO + 22.88, 90.6, "B"),
        ),
    )


def forms() -> Subject:
    """FORMS: a fragment's conversions; energy of a MAC over ISAAC's with the same bits."""
    chip = load_chip("forms-32nm")
    stages = ou_step_stages(chip, load_table("forms-32nm"))
    one = full(chip, 128, 32)
    baseline = chip_of("isaac-32nm", ou_rows=128, ou_columns=128, cell_bits=2, weight_bits=8, input_bits=16, adc_bits=8)
    table = load_table("forms-32nm")
    return Subject(
        "FORMS, `forms-32nm`",
        False,
        SOURCES["forms"],
        (
            Figure("time to convert a fragment's columns, ns", stages["ADC"] / NANO, 15.24, "D"),
            Figure(
                "power of 32 ADCs, mW",
                32 * conversion_energy(chip, table) * table("adc", "rate") / MILLI,
                15.2,
                "B",
                "fitted",
            ),
            Figure(
                "power efficiency over ISAAC's",
                full(baseline, 128, 32).energy() / one.energy(),
                1.93,
                "B",
                "predicted",
                "the paper's ISAAC is optimised in ways of its own, its fragments skip zero bits of inputs, and "
                "no table beyond its ADCs was found; without that, 16 times as many conversions cannot be cheaper",
            ),
        ),
    )


def sre() -> Subject:
    """SRE: the power of its 6-bit ADC from ISAAC's 8-bit one, by the law of this line of simulators."""
    from_isaac = chip_of("isaac-32nm", adc_bits=6)
    table, own = load_table("isaac-32nm"), load_table("sre-32nm")
    law = conversion_energy(from_isaac, table) * table("adc", "rate")
    return Subject(
        "SRE, `sre-32nm`",
        False,
        SOURCES["sre"],
        (
            Figure("power of a 6-bit ADC from an 8-bit one's by 2^b/(b+1), mW", law / MILLI, 0.6425, "B"),
            Figure("the same in its own table, mW", own("adc", "power") / MILLI, 0.6425, "B", "fitted"),
        ),
    )


_FITTED = {(4, 2), (10, 8)}  # output and input bits from which neurram-130nm has its energies


def neurram_core(point: Point) -> tuple[Full, float]:
    """A core's product at a precision, and its seconds: steps of the input in phases, the sign by polarity."""
    magnitude = max(1, point.input_bits - 1)
    chip = chip_of(
        "neurram-130nm", adc_bits=point.output_bits, input_bits=magnitude, dac_bits=-(-magnitude // point.phases)
    )
    core = full(chip, 128, 256, bits=4)
    return core, core.time.serial_phases_s["crossbars"] + core.time.serial_phases_s["output registers"]


def neurram() -> Subject:
    """NeuRRAM: throughput, efficiency and energy by part at each precision that was measured."""
    figures, operations = [], 2 * 256 * 128
    constant = "a part that does not grow with the input bits is not modelled; it shows where there is one bit"
    for point in NEURRAM:
        core, seconds = neurram_core(point)
        parts = {
            "word lines": core.energy("dac"),
            "neurons": core.energy("adc", "sample_and_hold"),
            "input pulses": core.energy("crossbar"),
        }
        bits = f"{point.output_bits} bits out, {point.input_bits} in"
        slow = ", one phase" if point.phases == 1 and point.output_bits > 6 else ""
        how = "fitted" if (point.output_bits, point.input_bits) in _FITTED else "predicted"
        figures.append(Figure(f"{bits}{slow}: GOPS of 48 cores", 48 * operations / seconds / GIGA, point.gops, "A"))
        efficiency = operations / sum(parts.values()) / TERA
        figures.append(Figure(f"{bits}{slow}: TOPS/W", efficiency, point.tops_per_w, "A", how))
        if point.parts_fj:
            figures += [
                Figure(f"{bits}: {name}, fJ an operation", ours / operations / FEMTO, published, "A", how, constant)
                for (name, ours), published in zip(parts.items(), point.parts_fj, strict=True)
            ]
    table, step = load_table("neurram-130nm"), load_chip("neurram-130nm")
    metres = area(Instances(crossbars=1, pes=0, tiles=0, index_bytes=0), step, table)
    figures += [
        Figure(
            "energy of a step of the ADC, pJ (hwcomponents-library)",
            table("adc", "power") / table("adc", "rate") / PICO,
            0.3,
            "A",
            "predicted",
            "ours is what neurons and their control take for an output bit, theirs the converter's alone",
        ),
        Figure("area of a core's cells, mm2", metres["crossbar"] / MICRO, 0.12 * 1.16114, "D"),
    ]
    return Subject("NeuRRAM, `neurram-130nm` at each precision", True, SOURCES["neurram"], tuple(figures))


def chen() -> Subject:
    """The 9-row macro: a read of 25 rows, and an output's energy, of a table made of one time and one energy."""
    chip = chip_of("chen-65nm", weight_bits=2, input_bits=1)
    one = full(chip, 9, 8, bits=2)
    stages = ou_step_stages(chip, one.table)
    ours = chip_of(
        "isaac-32nm", ou_rows=9, ou_columns=16, weight_bits=2, input_bits=1, encoding="differential", adc_bits=3
    )
    borrowed = full(ours, 9, 8, bits=2)
    return Subject(
        "Chen 2019, the macro of `chen-65nm`",
        True,
        SOURCES["chen"],
        (
            Figure("time of a read of 9 rows, ns", max(stages.values()) / NANO, 14.8, "A", "fitted"),
            Figure("time of a read of 25 rows, ns", max(stages.values()) / NANO, 15.6, "B"),
            Figure("energy of an output, pJ", one.energy("adc", "crossbar", "dac") / 8 / PICO, 1.06195, "D", "fitted"),
            Figure(
                "energy of an output by ISAAC's components, pJ",
                borrowed.energy("adc", "crossbar", "dac", "sample_and_hold") / 8 / PICO,
                1.06195,
                "D",
                "predicted",
                "ISAAC's are estimates at 32 nm, the 3-bit ADC scaled by 2^b/(b+1); the macro is of 65 nm and draws a "
                "direct current while it senses",
            ),
            Figure(
                "time of a read by ISAAC's components, ns",
                sum(
                    ou_step_stages(
                        chip_of("isaac-32nm", ou_rows=9, adcs_per_crossbar=8), load_table("isaac-32nm")
                    ).values()
                )
                / NANO,
                14.8,
                "A",
                "predicted",
                "32 nm, not 65 nm; the read of an OU is the PRAP authors' 3.16 ns",
            ),
        ),
    )


def _combined(weight_bits: int, input_bits: int) -> Chip:
    """A chip that combines the columns of a signed weight before it converts."""
    bits = {"weight_bits": weight_bits, "input_bits": input_bits, "ou_columns": 2 * (weight_bits - 1)}
    return chip_of("isaac-32nm", encoding="differential", conversions="per weight", **bits)


def _from_binary(binary: float, weight_bits: int, input_bits: int) -> float:
    """Efficiency of a macro at more bits from its binary one, by the conversions that a product takes."""

    def conversions(weights: int, inputs: int) -> int:
        return full(_combined(weights, inputs), 8, 16, bits=weights).counts.conversions

    return binary * conversions(2, 1) / conversions(weight_bits, input_bits)


def macros() -> list[Subject]:
    """Xue and Hung: the figures of more bits from the binary ones."""
    wider = "a conversion of more bits counts as much as a binary one here, and cells and drivers are in both"
    xue = chip_of("chen-65nm", weight_bits=3, input_bits=2)
    return [
        Subject(
            "Xue 2019, from its 1-bit inputs",
            True,
            SOURCES["xue"],
            (
                Figure("columns of a signed 3-bit weight", xue.grain.columns_per_weight, 4, "B"),
                Figure(
                    "2-bit inputs: TOPS/W",
                    53.17 / xue.grain.input_steps,
                    21.9,
                    "B",
                    "predicted",
                    "here a second bit costs as much as the first; the macro's costs 1.4 times as much",
                ),
                Figure(
                    "2-bit inputs: time, ns",
                    11.75 * xue.grain.input_steps,
                    14.6,
                    "A",
                    "predicted",
                    "here bits follow one another through the whole read; the macro repeats a part of it",
                ),
            ),
        ),
        Subject(
            "Xue 2020, from its binary figure",
            True,
            SOURCES["xue20"],
            (Figure("4 x 4 bits: TOPS/W, columns combined", _from_binary(121.3, 4, 4), 28.9, "B"),),
        ),
        Subject(
            "Hung 2021, from its binary figure",
            True,
            SOURCES["hung"],
            (
                Figure(
                    "8 x 8 bits: TOPS/W, columns combined", _from_binary(194.4, 8, 8), 15.6, "A", "predicted", wider
                ),
                Figure(
                    "8 x 8 bits: ADC of a MAC on `isaac-32nm`, columns combined, fJ",
                    full(_combined(8, 8), 8, 16).energy("adc") / (8 * 16) / FEMTO,
                    128.2,
                    "D",
                    "predicted",
                    "8 rows share a conversion of 0.54 pJ in each of 8 input steps here; all of the macro, of 22 nm, "
                    "takes less",
                ),
            ),
        ),
    ]


def bounds() -> list[Bound]:
    """Energies of conversions, where there are macros of as many bits."""
    chips = {
        "ISAAC's by `2^b/(b+1)` (`isaac-32nm`)": "isaac-32nm",
        "PUMA's, linear in bits (`puma-32nm`)": "puma-32nm",
        "FORMS' (`forms-32nm`)": "forms-32nm",
        "ADC survey (`survey-32nm`)": "survey-32nm",
        "NeuRRAM's steps, 130 nm (`neurram-130nm`)": "neurram-130nm",
    }
    found = []
    for bits, silicon in SILICON_OUTPUTS.items():
        for law, preset in chips.items():
            chip = chip_of(preset, adc_bits=bits)
            table = load_table(chip.components)
            if chip.adc_scaling == "by table" and table.known("adc", f"energy_at_{bits}_bits") is None:
                continue
            if chip.adc_scaling == "as published" and preset == "forms-32nm" and bits != table("adc", "resolution"):
                continue
            found.append(Bound(bits, law, conversion_energy(chip, table) / PICO, silicon))
    return found


def subjects() -> list[Subject]:
    """All that is compared."""
    alone: list[Callable[[], Subject]] = [neurram, chen]
    simulated: list[Callable[[], Subject]] = [isaac, puma, forms, sre]
    return [*(each() for each in alone), *macros(), *(each() for each in simulated)]


def page() -> str:
    """docs/validation.md."""
    return document(subjects(), bounds(), len(_FITTED))


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there, as Markdown")
    options = parser.parse_args()
    text = page()
    if options.write:
        write_whole(options.write, text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
