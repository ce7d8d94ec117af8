"""What one conversion costs, under the conventions that a chip chooses. The same for every method."""

from pathlib import Path

from prap_pim.common.units import NANO, PICO
from prap_pim.hardware.chip import LAWS, Chip
from prap_pim.hardware.components import ComponentTable

# cycles of the table's rate, by the names that chips give them
_CYCLES = {
    name: LAWS[law]
    for law, names in {
        "1": ("1/rate", "power/rate"),
        "bits": ("bits/rate", "power*bits/rate"),
        "bits+2": ("(bits+2)/rate", "power*(bits+2)/rate"),
        "2^bits": ("2^bits/rate", "power*2^bits/rate"),
    }.items()
    for name in names
}


def _power(chip: Chip, table: ComponentTable) -> float:
    """Watts of an ADC of the chip's resolution."""
    if chip.adc_scaling == "by table":
        return table.of_bits("energy", chip.adc_bits) * table("adc", "rate")
    if chip.adc_scaling == "as published":
        return table("adc", "power")
    law = LAWS[chip.adc_scaling]
    return table("adc", "power") * (law(chip.adc_bits) / law(table("adc", "resolution")))


def conversion_time(chip: Chip, table: ComponentTable) -> float:
    """Seconds of one conversion.

    Raises:
        UserError: the table has no ADC of the chip's resolution, where the chip looks it up.
    """
    if chip.adc_time == "by table":
        return table.of_bits("time", chip.adc_bits)
    return _CYCLES[chip.adc_time](chip.adc_bits) / table("adc", "rate")


def conversion_energy(chip: Chip, table: ComponentTable) -> float:
    """Joules of one conversion.

    Raises:
        UserError: as ``conversion_time``.
    """
    return _power(chip, table) * _CYCLES[chip.adc_energy](chip.adc_bits) / table("adc", "rate")


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


def warnings(chip: Chip, table: ComponentTable) -> tuple[str, ...]:
    """Of the chip, of its table, and of an ADC that is charged the power of another resolution, one line each."""
    found = [*chip.warnings, *table.warnings]
    published = table("adc", "resolution")
    if (chip.adc_scaling, chip.adc_energy) == ("as published", "power/rate") and chip.adc_bits != published:
        found.append(
            f"chip {chip.name}: a conversion of its ADC of {chip.adc_bits} bits is charged as component table "
            f"{Path(table.name).name} has it for {published:g} bits (adc_scaling = 'as published')"
        )
    return tuple(found)


def conventions(chip: Chip, table: ComponentTable) -> tuple[str, ...]:
    """How a conversion is timed and charged, in words, with the figures that come of it; whether sums are gathered."""
    published = f"{table('adc', 'resolution'):g} bits"
    scaling = {
        "as published": f"as published for {published}",
        "by table": "from the table's row of that resolution",
    }.get(chip.adc_scaling, f"scaled from {published} by {chip.adc_scaling}")
    shared = f", in turns with {chip.crossbars_per_adc - 1} other crossbars" if chip.crossbars_per_adc > 1 else ""
    pulses = [f"{what} {law}" for what, law in (("time", chip.dac_time), ("energy", chip.dac_energy)) if law != "1"]
    seconds = conversion_time(chip, table)
    return (
        f"a conversion of {chip.adc_bits} bits takes {chip.adc_time} = {seconds / NANO:.3f} ns{shared}",
        f"a conversion costs {chip.adc_energy} = {conversion_energy(chip, table) / PICO:.3f} pJ, power {scaling}",
        "an OU is driven once and its columns are sampled"
        if chip.sample_and_hold
        else "an OU is driven anew for every round of conversions",
        *((f"a read of n bits takes pulses: {', '.join(pulses)}",) if pulses else ()),
        *(
            ("the columns of a weight are combined before they are converted",)
            if chip.conversions == "per weight"
            else ()
        ),
        *(("partial sums are gathered: a PE updates the accumulator of a filter once",) if chip.gathers else ()),
    )
