"""SI prefixes, so that a constant can be written with the unit of its source: ``2 * MILLI`` watts."""

TERA = 1e12
GIGA = 1e9
MEGA = 1e6
KILO = 1e3
MILLI = 1e-3
MICRO = 1e-6
NANO = 1e-9
PICO = 1e-12
FEMTO = 1e-15
