"""What a program, a file or a command line says of crossbars with device effects: settings over those of the chip."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from prap_pim.common.errors import UserError, printable
from prap_pim.common.settings import Settings, nearest, read_yaml, with_overrides
from prap_pim.common.texts import parse_yaml
from prap_pim.crossbar import PUBLISHED_VARIATIONS, CrossbarModel, Device
from prap_pim.hardware.chip import Chip
from prap_pim.results.run import ParameterResult

_OF_CELLS = ("cell_bits", "dac_bits")
_SWEPT: dict[str, tuple[str, ...]] = {  # quantity: the settings that it changes
    "sigma": ("device.variation.sigma",),
    "adc-bits": ("adc_bits",),
    "fault-rate": ("device.stuck_on", "device.stuck_off"),
}


class Sweep(Settings):
    """One setting takes several values, one after the other.

    Attributes:
        quantity: "sigma" of a lognormal variation (0: no variation), "adc-bits", or "fault-rate": the share of cells
            that are stuck, on and off in the ratio of the device's ``stuck_on`` and ``stuck_off``, half and half if
            it has neither.
        values: different ones, in any order.
    """

    quantity: Literal["sigma", "adc-bits", "fault-rate"]
    values: tuple[int | float, ...] = Field(min_length=1, max_length=1000)

    @field_validator("values")
    @classmethod
    def _different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("a value is given twice")
        return values

    @staticmethod
    def parse(text: str) -> "Sweep":
        """From "quantity=value,value".

        Raises:
            UserError: it is something else.
        """
        quantity, equals, values = text.partition("=")
        if quantity not in _SWEPT:
            raise UserError(f"--sweep: no quantity {quantity!r} ({nearest(quantity, list(_SWEPT))})")
        if not equals or not values.strip():
            raise UserError(f"--sweep {text}: expected {quantity}=VALUE,VALUE")
        return Sweep.checked({"quantity": quantity, "values": parse_yaml(f"[{values}]", "--sweep")}, f"--sweep {text}")


@dataclass(frozen=True)
class Crossbars:
    """Settings of ``CrossbarModel`` as the user gave them, over those of the chip.

    Attributes:
        given: plain values, not yet checked.
        sources: where each was said, by name with dots between nested settings.
        title: what was given, in a few words.
    """

    given: dict[str, Any]
    sources: Mapping[str, str]
    title: str

    @staticmethod
    def read(file: Path | None, overrides: list[str]) -> "Crossbars":
        """From a YAML file, if there is one, and ``a.b=value`` overrides.

        Raises:
            UserError: the file or an override cannot be read.
        """
        sources = {}
        if file is not None:
            sources = dict.fromkeys(_flat(read_yaml(file)), printable(file.name))
        given = read_yaml(file, overrides) if file is not None else with_overrides({}, overrides)
        for override in overrides:
            key = override.partition("=")[0]
            sources |= dict.fromkeys((name for name in _flat(given) if _within(name, key)), "--set")
        told = [override.removeprefix("device.") for override in overrides]
        return Crossbars(given, sources, ", ".join([*([printable(file.stem)] if file is not None else []), *told]))

    @staticmethod
    def of(by: "Device | Mapping[str, Any] | str | Path | None") -> "Crossbars":
        """As a program gives them: a device, settings by name, or a file of them."""
        if isinstance(by, str | Path):
            return Crossbars.read(Path(by), [])
        values = {"device": by.model_dump()} if isinstance(by, Device) else dict(by or {})
        return Crossbars(values, dict.fromkeys(_flat(values), "simulate"), ", ".join(values))

    def model(self, chip: Chip, sweep: Sweep | None = None, value: float | None = None) -> CrossbarModel:
        """The checked model, with ``value`` in the place of the swept setting.

        Raises:
            UserError: a setting is unknown or wrong.
        """
        origin = " and ".join(dict.fromkeys(self.sources.values())) or f"chip {chip.name}"
        chip = self._with_cells(chip, origin)
        known = [*(set(CrossbarModel.model_fields) - {"grain"}), *(f"grain.{bits}" for bits in _OF_CELLS)]
        for key in self.given:
            if key != "grain" and key not in known:
                raise UserError(f"{origin}: unknown key {key!r} ({nearest(str(key), known)})")
        given = self.given
        if sweep is not None and value is not None:
            given = self._swept(chip, sweep, value)
            origin = f"{sweep.quantity} {value:g}"
        model = CrossbarModel.of(chip)
        given = {key: value for key, value in given.items() if key != "grain"}
        return CrossbarModel.checked({name: getattr(model, name) for name in model.model_fields_set} | given, origin)

    def _with_cells(self, chip: Chip, origin: str) -> Chip:
        """The chip with the bits of cells and DACs that were given: a plan does not depend on these."""
        grain = self.given.get("grain", {})
        if not isinstance(grain, dict) or set(grain) - set(_OF_CELLS):
            raise UserError(
                f"{origin}: grain is the chip's: the plans of the run were made for it; only {', '.join(_OF_CELLS)} of "
                "it may change"
            )
        return Chip.checked(chip.model_dump() | {"grain": vars(chip.grain) | grain}, origin) if grain else chip

    def _swept(self, chip: Chip, sweep: Sweep, value: float) -> dict[str, Any]:
        if sweep.quantity == "adc-bits":
            self.model(chip)
            return {**self.given, "adc_bits": value}
        device = self.given.get("device") or {}
        if not isinstance(device, dict):
            return self.given
        if sweep.quantity == "fault-rate":
            base = self.model(chip).device
            on, off = (base.stuck_on, base.stuck_off) if base is not None else (0.0, 0.0)
            stuck_on = value * (on / (on + off) if on + off else 0.5)
            return {**self.given, "device": {**device, "stuck_on": stuck_on, "stuck_off": value - stuck_on}}
        variation = device.get("variation")
        if variation is not None and not (isinstance(variation, dict) and "sigma" in variation):
            raise UserError("sweep of sigma: the device's variation is not lognormal, it has no sigma")
        if value == 0:
            return {**self.given, "device": {**device, "variation": None, "write_verify": None}}
        return {**self.given, "device": {**device, "variation": {"kind": "lognormal", "sigma": value}}}

    def parameters(self, chip: Chip, sweep: Sweep | None) -> list[ParameterResult]:
        """What the crossbars are like and where it was said; what is left out is off."""
        model = self.model(chip, sweep, max(sweep.values) if sweep else None)
        values = _flat(model.model_dump(mode="json", exclude={"grain"}))
        values["encoding"] = model.weight_encoding
        if values.get("device.variation.kind") == "lognormal":
            del values["device.variation.kind"]  # its sigma says so
        if model.device is None or not model.device.has_wires:
            values.pop("device.on_resistance_ohm", None)
        variation = (self.given.get("device") or {}).get("variation")
        if isinstance(variation, str) and variation in PUBLISHED_VARIATIONS:
            values = {name: kept for name, kept in values.items() if not _within(name, "device.variation")}
            values["device.variation"] = variation
        swept = _SWEPT[sweep.quantity] if sweep is not None else ()
        grain, of_chip = model.grain, CrossbarModel.of(chip).model_fields_set
        cells = f"{grain.ou_rows} x {grain.ou_columns}, {grain.cell_bits}-bit cells, {grain.dac_bits}-bit inputs"
        found = [("operation unit", cells, f"chip {chip.name}")]
        for name, kept in values.items():
            if name in swept or (kept in (None, False, 0) and name not in self.sources):
                continue
            source = next((source for key, source in self.sources.items() if _within(name, key)), None)
            found.append((name, _plain(kept), source or (f"chip {chip.name}" if name in of_chip else "default")))
        if sweep is not None:
            found.append((" + ".join(swept), ", ".join(f"{value:g}" for value in sweep.values), "--sweep"))
        return [ParameterResult(name=name, value=value, source=source) for name, value, source in found]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """The plain values of nested settings, with dots between their keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _within(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_plain, value)) if isinstance(value, list) else f"{value}"
