"""Component tables: every figure with its unit and its source, from a TOML file. A missing one is an error."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings, nearest
from prap_pim.hardware.chip import read_toml

COMPONENTS = Path(__file__).parent / "tables"

# What a table must give, and in which unit. Areas are of one instance; how many there are is in price.py.
REQUIRED: Mapping[str, Mapping[str, str]] = {
    "adc": {"power": "W", "rate": "Hz", "resolution": "bit", "area": "m2"},
    "dac": {"energy_per_drive": "J", "latency": "s", "area": "m2"},
    "row_decoder": {"latency": "s"},
    "column_mux": {"latency": "s"},
    "crossbar": {"energy_per_cell_read": "J", "latency": "s", "area": "m2"},
    "sample_and_hold": {"energy_per_sample": "J", "area": "m2"},
    "input_register": {"energy_per_drive": "J", "energy_per_byte_loaded": "J/B", "latency": "s", "area": "m2"},
    "shift_add": {"energy_per_conversion": "J", "latency": "s", "area": "m2"},
    "output_register": {"energy_per_write": "J", "latency": "s", "area": "m2"},
    "accumulator": {"energy_per_add": "J", "energy_per_shift": "J", "latency": "s", "area": "m2"},
    "partial_sum_buffer": {"energy_per_read": "J", "energy_per_write": "J", "latency": "s", "area": "m2"},
    "input_buffer": {"energy_per_access": "J", "latency": "s", "area": "m2"},
    "index_buffer": {"energy_per_access": "J", "latency": "s", "area_per_byte": "m2/B"},
    "bus": {"energy_per_byte": "J/B", "area": "m2"},
    "router": {"energy_per_byte_hop": "J/B", "area": "m2"},
    "output_unit": {"energy_per_output": "J", "area": "m2"},
    "digital_unit": {"energy_per_op": "J", "area": "m2"},
    "digital_memory": {"energy_per_access": "J", "latency": "s", "area_per_byte": "m2/B"},
}
# What a table must give besides for chips that gather (``Chip.accumulate``). Sizes are as needed, so area is of a byte,
# and an access takes more energy the more bytes the registers of a crossbar hold.
GATHER: Mapping[str, Mapping[str, str]] = {
    "dot_register": {"energy_per_access": "J", "energy_per_access_byte": "J/B", "latency": "s", "area_per_byte": "m2/B"}
}
# What a table may say of writing, all by choice: a pulse writes a cell, those of a wordline at a time; what a read that
# verifies it takes, if there is one; pulses until a cell has its level; times that it can be written.
CELL: Mapping[str, str] = {
    "energy_per_pulse": "J",
    "time_per_pulse": "s",
    "energy_per_verify": "J",
    "time_per_verify": "s",
    "pulses_per_write": "1",
    "endurance": "1",
}
# What a table may give besides: power that an instance draws when idle. ISAAC and the PRAP authors do not.
OPTIONAL = {"leakage": "W"}
OPTIONAL_PER_BYTE = {"leakage_per_byte": "W/B"}  # the same of what is sized as needed
# And what an ADC takes at each resolution, for chips whose adc_scaling or adc_time is "by table": of one conversion.
_BY_BITS = re.compile(r"(energy|time|area|leakage)_at_([1-9]\d*)_bits")
_MOST_BITS = 32  # of a converter
_BY_BITS_UNITS = {"energy": "J", "time": "s", "area": "m2", "leakage": "W"}


class _Entry(Settings):
    value: Annotated[float, Field(ge=0, le=1e21)]
    unit: str
    source: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class UsedFigure:
    """A figure that entered the cost."""

    component: str
    quantity: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class ComponentTable:
    """Figures by component and quantity, in SI units."""

    name: str
    figures: Mapping[tuple[str, str], UsedFigure]
    warnings: tuple[str, ...] = ()  # what is allowed but probably not meant, one line each

    def __call__(self, component: str, quantity: str) -> float:
        """The value of a figure.

        Raises:
            UserError: the table does not have it.
        """
        try:
            return self.figures[component, quantity].value
        except KeyError:
            raise UserError(f"component table {self.name}: {component} has no {quantity}") from None

    def known(self, component: str, quantity: str) -> float | None:
        """The value of a figure, or None if the table does not have it."""
        figure = self.figures.get((component, quantity))
        return figure.value if figure else None

    def of_bits(self, quantity: str, bits: int) -> float:
        """Energy or time of a conversion, or area or leakage of an ADC, of that resolution.

        Raises:
            UserError: the table does not have it; the message says which it has.
        """
        figure = self.figures.get(("adc", f"{quantity}_at_{bits}_bits"))
        if figure:
            return figure.value
        found = [_BY_BITS.fullmatch(name) for component, name in self.figures if component == "adc"]
        has = sorted(int(match[2]) for match in found if match and match[1] == quantity)
        raise UserError(
            f"component table {self.name}: no {quantity} of an ADC of {bits} bits (adc_bits); "
            + (
                f"it has {', '.join(map(str, has))}"
                if has
                else f"it has none by bits: choose another {'adc_time' if quantity == 'time' else 'adc_scaling'}"
            )
        )

    def leakage(self, component: str) -> float:
        """Idle power of one instance in watts, of dot registers of one byte; 0 where the table does not say."""
        figure = self.figures.get((component, "leakage_per_byte" if component in GATHER else "leakage"))
        return figure.value if figure else 0.0

    @property
    def has_leakage(self) -> bool:
        """Whether the table says anything of leakage."""
        return any(quantity in {*OPTIONAL, *OPTIONAL_PER_BYTE} for _, quantity in self.figures)


def table_names() -> list[str]:
    """The tables that come with the package."""
    return sorted(path.stem for path in COMPONENTS.glob("*.toml"))


def load_table(name_or_path: str | Path) -> ComponentTable:
    """Read a table by name, or a user's TOML file by path.

    A table that ``borrows`` from one of the package has that one's figures where it has none of its own; their sources
    say so.

    Raises:
        UserError: there is no such table, or a figure in it is missing, unknown, without source or in another unit.
    """
    names, origin = table_names(), str(name_or_path)
    path = COMPONENTS / f"{origin}.toml" if origin in names else Path(name_or_path)
    if not path.is_file():
        raise UserError(f"no component table {origin!r}: give a TOML file or one of {', '.join(names)}")
    content, known = read_toml(path), {**REQUIRED, **GATHER, "cell": CELL}
    lender = content.pop("borrows", None)
    if lender is not None and (not isinstance(lender, str) or lender not in names or lender == path.stem):
        raise UserError(f"{origin}: borrows: no component table {lender!r} ({nearest(str(lender), names)})")
    lent = load_table(lender).figures if lender is not None else {}
    figures = {
        key: replace(figure, source=f"borrowed from {lender}: {figure.source}")
        for key, figure in lent.items()
        if key[0] != "cell" and not _BY_BITS.fullmatch(key[1])  # rows by resolution are of another converter
    }
    for component, entries in content.items():
        if component not in known:
            raise UserError(f"{origin}: unknown component {component!r} ({nearest(component, list(known))})")
        units = {**known[component], **(OPTIONAL_PER_BYTE if component in GATHER else OPTIONAL)}
        if not isinstance(entries, dict):
            raise UserError(f"{origin}: {component} must be a table of figures")
        for quantity, given in entries.items():
            where = f"{origin}: {component}.{quantity}"
            by_bits = _BY_BITS.fullmatch(quantity) if component == "adc" else None
            unit = _BY_BITS_UNITS[by_bits[1]] if by_bits else units.get(quantity)
            if unit is None:
                raise UserError(f"{where}: unknown figure ({nearest(quantity, list(units))})")
            entry = _Entry.checked(given, where)
            if entry.unit != unit:
                raise UserError(f"{where}: unit must be {unit}, not {entry.unit!r}")
            figures[component, quantity] = UsedFigure(component, quantity, entry.value, entry.unit, entry.source)
    for component, needed in known.items():
        for quantity, unit in needed.items() if component in {*REQUIRED, *content} - {"cell"} else ():
            if (component, quantity) not in figures:
                raise UserError(f"{origin}: component {component} has no {quantity} ({unit})")
    for quantity in ("rate", "resolution"):
        if figures["adc", quantity].value == 0:
            raise UserError(f"{origin}: adc.{quantity} must be greater than 0")
    if not 1 <= (bits := figures["adc", "resolution"].value) <= _MOST_BITS:
        raise UserError(f"{origin}: adc.resolution must be 1 to {_MOST_BITS} bit, not {bits:g}")
    return ComponentTable(
        origin,
        figures,
        tuple(
            _mixed_converter(
                path.name.removesuffix(".toml") if origin in names else path.name, content.get("adc", {}), lender, lent
            )
        ),
    )


def _mixed_converter(
    origin: str, own: Mapping[str, object], lender: str | None, lent: Mapping[tuple[str, str], UsedFigure]
) -> Iterator[str]:
    """An ADC of a resolution of its own with a power, or a power with a resolution, that is another's."""
    given, other = {"power", "resolution"} & own.keys(), {"power", "resolution"} - own.keys()
    if lender is None or not given or not other:
        return
    (mine,), (borrowed,) = given, other
    bits = lent["adc", "resolution"].value
    yield (
        f"component table {origin}: adc.{mine} is its own, adc.{borrowed} is borrowed from {lender}, whose ADC has "
        f"{bits:g} bits: give both"
    )
