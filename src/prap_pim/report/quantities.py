"""Numbers as people read them: SI prefixes, sensible digits, counts with separated thousands, percent, ratios."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from prap_pim.common import units

NOT_AVAILABLE = "n/a"  # stands for NaN, as in a ratio to zero
_LINEAR = 30  # of positive values, the largest over the smallest: beyond, an axis is logarithmic
_MINUS = "−"  # of numbers that people read; a hyphen is shorter than the + of others, and ends a line

_PREFIXES = (
    ("T", units.TERA),
    ("G", units.GIGA),
    ("M", units.MEGA),
    ("k", units.KILO),
    ("", 1.0),
    ("m", units.MILLI),
    ("µ", units.MICRO),
    ("n", units.NANO),
    ("p", units.PICO),
    ("f", units.FEMTO),
)
_NAMES = {"shift_add": "shift and add"}  # of components whose own name is short for another
_ACRONYMS = {"adc": "ADC", "adcs": "ADCs", "dac": "DAC", "ou": "OU", "pe": "PE", "pes": "PEs"}
_PREFIXED = re.compile(r"(s|J|W|Hz|V|A|F|B|m2)(?![A-Za-z0-9])(.*)", re.DOTALL)  # "J", "s/access", "m2", ...


def significant(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, thousands separated: 1.50, 0.00123, 12,300, −3.00."""
    if not math.isfinite(value):
        return NOT_AVAILABLE
    if value == 0:
        return "0"
    if value < 0:
        return _MINUS + significant(-value, digits)
    rounded = f"{value:.{digits - 1}e}"
    exponent = int(rounded.partition("e")[2])  # of the rounded number: 999.9 has the exponent of 1000
    if not -7 < exponent < 15:
        return rounded
    return f"{float(rounded):,.{max(0, digits - 1 - exponent)}f}"


@dataclass(frozen=True)
class Scale:
    """A unit with a prefix: ``value * factor`` is the number to write before ``unit``."""

    factor: float
    unit: str


def scale(values: Iterable[float], unit: str, digits: int = 3) -> Scale:
    """The prefixed unit in which the largest of ``values`` reads best.

    Units that take no prefix (those that do not begin with a bare SI unit) stay as they are. Areas step by a million
    from prefix to prefix, so a hundredth is still written with the larger one: 0.05 mm2, not 50,000 um2.
    """
    match = _PREFIXED.fullmatch(unit)
    if match is None:
        return Scale(1.0, unit)
    symbol, rest = match.groups()
    power, least = (2, 0.01) if symbol == "m2" else (1, 1.0)
    symbol = "m²" if symbol == "m2" else symbol
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return Scale(1.0, symbol + rest)
    largest = float(f"{largest:.{digits - 1}e}")
    prefixes = [(prefix, size) for prefix, size in _PREFIXES if power == 1 or size <= 1]
    prefix, size = next((p for p in prefixes if largest >= least * p[1] ** power), prefixes[-1])
    return Scale(float(f"1e{-power * round(math.log10(size))}"), prefix + symbol + rest)


def spans_decades(values: Iterable[float]) -> bool:
    """Whether the small ones would be lost on a linear axis."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    return bool(positive) and max(positive) > _LINEAR * min(positive)


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """A computed figure: 0.0012345 s is "1.23 ms", 2e-6 m2 is "2.00 mm²"."""
    chosen = scale([value], unit, digits)
    return f"{significant(value * chosen.factor, digits)} {chosen.unit}".rstrip()


def known(value: float | None, unit: str) -> str:
    """A computed figure, or n/a where there is none."""
    return NOT_AVAILABLE if value is None else quantity(value, unit)


def given(value: float, unit: str) -> str:
    """A figure taken from a source: up to six digits and none that were not there: 2e-3 W is "2 mW"."""
    chosen = scale([value], unit, digits=6)
    sign = _MINUS if value < 0 else ""
    return f"{sign}{abs(value) * chosen.factor:,.6g} {chosen.unit}".rstrip()


def count(value: int) -> str:
    """Exact, thousands separated."""
    return f"{value:,d}"


def percent(share: float | None) -> str:
    """A share of 1: 0.9778 is "97.78 %"."""
    return "not measured" if share is None else f"{100 * share:.2f} %"


def bits(value: float | None) -> str:
    """Bits per byte: "1.916"."""
    return "not measured" if value is None else f"{value:.3f}"


def points(change: float) -> str:
    """A difference of two shares, with its sign: -0.0037 is "−0.37 points"."""
    return f"{_signed(100 * change)} points"


def relative(change: float) -> str:
    """A change as a share of what it was, with its sign: 0.021 is "+2.10 %"."""
    return f"{_signed(100 * change)} %"


def difference(value: float, unit: str) -> str:
    """Of two figures, with its sign: -3e-3 s is "−3.00 ms"."""
    return f"{'+' if value > 0 else ''}{quantity(value, unit)}"


def _signed(value: float) -> str:
    if not math.isfinite(value):
        return NOT_AVAILABLE
    text = f"{abs(value):.2f}"
    return text if text == "0.00" else f"{'+' if value > 0 else _MINUS}{text}"


def words(name: str) -> str:
    """A name of the code as people write it: "adc_bits" is "ADC bits"."""
    return _NAMES.get(name) or " ".join(_ACRONYMS.get(word, word) for word in name.split("_"))


def times(ratio: float) -> str:
    """A ratio: "1.64x"."""
    return significant(ratio) + ("x" if math.isfinite(ratio) else "")
