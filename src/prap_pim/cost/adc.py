"""What one conversion costs, under the conventions that a chip chooses. The same for every method."""

from collections.abc import Callable, Mapping

from prap_pim.common.units import NANO, PICO
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import ComponentTable


def _published(chip: Chip, table: ComponentTable) -> float:
    return table("adc", "power")


def _by_law(chip: Chip, table: ComponentTable) -> float:
    """Power grows with resolution b as 2**b / (b + 1): the capacitor array of a successive approximation converter
    grows exponentially, its other parts do not (ISAAC, ISCA 2016)."""
    published = table("adc", "resolution")
    ratio: float = (2.0**chip.adc_bits / (chip.adc_bits + 1)) / (2.0**published / (published + 1))
    return table("adc", "power") * ratio


def _by_table(chip: Chip, table: ComponentTable) -> float:
    return table.of_bits("energy", chip.adc_bits) * table("adc", "rate")


_POWER: Mapping[str, Callable[[Chip, ComponentTable], float]] = {
    "as published": _published,
    "2^b/(b+1)": _by_law,
    "by table": _by_table,
}


def conversion_time(chip: Chip, table: ComponentTable) -> float:
    """Seconds of one conversion: one sample of a pipelined converter, or bits + 2 clock cycles."""
    cycles = chip.adc_bits + 2 if chip.adc_time == "(bits+2)/rate" else 1
    return cycles / table("adc", "rate")


def conversion_energy(chip: Chip, table: ComponentTable) -> float:
    """Joules of one conversion.

    Raises:
        UserError: the table has no ADC of the chip's resolution, where the chip looks it up.
    """
    cycles = chip.adc_bits + 2 if chip.adc_energy == "power*(bits+2)/rate" else 1
    return _POWER[chip.adc_scaling](chip, table) * cycles / table("adc", "rate")


def converter_area(chip: Chip, table: ComponentTable) -> float:
    """Square metres of one ADC: of the chip's resolution where the chip looks it up, else as published.

    Raises:
        UserError: as ``conversion_energy``.
    """
    return table.of_bits("area", chip.adc_bits) if chip.adc_scaling == "by table" else table("adc", "area")


def converter_leakage(chip: Chip, table: ComponentTable) -> float:
    """Watts that one idle ADC draws; 0 where the table does not say.

    Raises:
        UserError: as ``conversion_energy``.
    """
    return table.of_bits("leakage", chip.adc_bits) if chip.adc_scaling == "by table" else table.leakage("adc")


def conventions(chip: Chip, table: ComponentTable) -> tuple[str, ...]:
    """How a conversion is timed and charged, in words, with the figures that come of it; whether sums are gathered."""
    scaling = {
        "as published": f"as published for {table('adc', 'resolution'):g} bits",
        "2^b/(b+1)": f"scaled from {table('adc', 'resolution'):g} bits by 2^b/(b+1)",
        "by table": "from the table's row of that resolution",
    }[chip.adc_scaling]
    return (
        f"a conversion of {chip.adc_bits} bits takes {chip.adc_time} = {conversion_time(chip, table) / NANO:.3f} ns",
        f"a conversion costs {chip.adc_energy} = {conversion_energy(chip, table) / PICO:.3f} pJ, power {scaling}",
        "an OU is driven once and its columns are sampled"
        if chip.sample_and_hold
        else "an OU is driven anew for every round of conversions",
        *(("partial sums are gathered: a PE updates the accumulator of a filter once",) if chip.gathers else ()),
    )
