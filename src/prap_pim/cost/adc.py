"""What one conversion costs, under the conventions that a chip chooses. The same for every method."""

from prap_pim.chip import Chip
from prap_pim.cost.table import ComponentTable


def conversion_time(chip: Chip, table: ComponentTable) -> float:
    """Seconds of one conversion: one sample of a pipelined converter, or bits + 2 clock cycles."""
    cycles = chip.adc_bits + 2 if chip.adc_time == "(bits+2)/rate" else 1
    return cycles / table("adc", "rate")


def conversion_energy(chip: Chip, table: ComponentTable) -> float:
    """Joules of one conversion.

    Power scales with resolution b as 2**b / (b + 1) where the chip asks for it: the capacitor array of a successive
    approximation converter grows exponentially, its other parts do not (ISAAC, ISCA 2016).
    """
    power = table("adc", "power")
    if chip.adc_scaling == "2^b/(b+1)":
        published = table("adc", "resolution")
        power *= (2.0**chip.adc_bits / (chip.adc_bits + 1)) / (2.0**published / (published + 1))
    cycles = chip.adc_bits + 2 if chip.adc_energy == "power*(bits+2)/rate" else 1
    return power * cycles / table("adc", "rate")
