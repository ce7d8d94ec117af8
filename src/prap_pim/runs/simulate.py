"""Accuracy of a finished run's methods on crossbars with device effects: ``prap-pim simulate``."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json, write_json
from prap_pim.common.memory import available_memory
from prap_pim.common.parallel import cores
from prap_pim.common.progress import Progress
from prap_pim.common.settings import Settings, nearest, parse_yaml, read_yaml, with_overrides
from prap_pim.crossbar import (
    PUBLISHED_VARIATIONS,
    CrossbarModel,
    OverDevices,
    SimulationReport,
    Trial,
    check_fit,
    device_seeds,
    exact_accuracy,
    measure_each,
)
from prap_pim.hardware.chip import Chip
from prap_pim.report.html.run import write_report
from prap_pim.results.run import ParameterResult, PointResult, Results, SimulationResult
from prap_pim.runs.finished import FinishedRun, reopen
from prap_pim.runs.stages import versions

_PROCESS_BYTES = 2 << 30  # that a process may need: tables of cells (1 GiB), images, torch itself
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
    values: tuple[int | float, ...] = Field(min_length=1)

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


class Request(Settings):
    """What to simulate.

    Attributes:
        methods: of the run; None: all.
        samples: the first so many test images; None: all.
        devices: how many, each with errors of its own.
        seed: of their errors.
        sweep: a setting that takes several values.
        processes: that work at once; None: one for each core, as far as memory allows.
        name: of the simulation among those of the run; None: what was asked for, in a few words.
    """

    methods: tuple[str, ...] | None = None
    samples: int | None = Field(default=None, ge=1)
    devices: int = Field(default=5, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    sweep: Sweep | None = None
    processes: int | None = Field(default=None, ge=1, le=1024)
    name: str | None = Field(default=None, min_length=1, max_length=200)


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
            try:
                sources = dict.fromkeys(_flat(read_yaml(file)), file.name)
            except RecursionError as error:
                raise UserError(f"{file}: a setting holds itself") from error
        given = read_yaml(file, overrides) if file is not None else with_overrides({}, overrides)
        for override in overrides:
            key = override.partition("=")[0]
            sources |= dict.fromkeys((name for name in _flat(given) if _within(name, key)), "--set")
        told = [override.removeprefix("device.") for override in overrides]
        return Crossbars(given, sources, ", ".join([*([file.stem] if file is not None else []), *told]))

    def model(self, chip: Chip, sweep: Sweep | None = None, value: float | None = None) -> CrossbarModel:
        """The checked model, with ``value`` in the place of the swept setting.

        Raises:
            UserError: a setting is unknown or wrong.
        """
        origin = " and ".join(dict.fromkeys(self.sources.values())) or f"chip {chip.name}"
        if "grain" in self.given:
            raise UserError(f"{origin}: grain is the chip's: the plans of the run were made for it")
        given = self.given
        if sweep is not None and value is not None:
            given = self._swept(chip, sweep, value)
            origin = f"{sweep.quantity} {value:g}"
        model = CrossbarModel.of(chip)
        return CrossbarModel.checked({name: getattr(model, name) for name in model.model_fields_set} | given, origin)

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
            raise UserError("--sweep sigma: the device's variation is not lognormal, it has no sigma")
        if value == 0:
            return {**self.given, "device": {**device, "variation": None, "write_verify": None}}
        return {**self.given, "device": {**device, "variation": {"kind": "lognormal", "sigma": value}}}

    def parameters(self, chip: Chip, sweep: Sweep | None) -> list[ParameterResult]:
        """What the crossbars are like and where it was said; what is left out is off."""
        model = self.model(chip, sweep, max(sweep.values) if sweep else None)
        values = _flat(model.model_dump(mode="json", exclude={"grain"}))
        values["encoding"] = model.weight_slices.encoding
        if values.get("device.variation.kind") == "lognormal":
            del values["device.variation.kind"]  # its sigma says so
        if model.device is None or not model.device.has_wires:
            values.pop("device.on_resistance_ohm", None)
        variation = (self.given.get("device") or {}).get("variation")
        if isinstance(variation, str) and variation in PUBLISHED_VARIATIONS:
            values = {name: kept for name, kept in values.items() if not _within(name, "device.variation")}
            values["device.variation"] = variation
        swept = _SWEPT[sweep.quantity] if sweep is not None else ()
        grain, of_chip = chip.grain, CrossbarModel.of(chip).model_fields_set
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


class _Found(Settings):
    """What was found on one device."""

    accuracy: float = Field(ge=0, le=1)
    overflows: int = Field(ge=0)
    layers_by_cell: int = Field(ge=0)

    @staticmethod
    def of(report: SimulationReport) -> "_Found":
        by_cell = sum(path == "cells" for path in report.paths.values())
        return _Found(accuracy=report.accuracy, overflows=sum(report.overflows.values()), layers_by_cell=by_cell)


class _Point:
    """The devices of one method and setting that are done, kept in a file that is written whole after each."""

    def __init__(self, folder: Path, depends_on: dict[str, Any]) -> None:
        """
        Args:
            folder: of the files.
            depends_on: all that the figures depend on, device's number aside: plain values.
        """
        text = json.dumps(depends_on, sort_keys=True)
        self.depends_on = depends_on
        self.path = folder / f"{sha256(text.encode()).hexdigest()[:32]}.json"
        self.found: dict[int, _Found] = dict(self._read())

    def _read(self) -> Iterator[tuple[int, _Found]]:
        try:
            saved = read_json(self.path)
            if saved["sha256"] == _digest(saved["found"]) and saved["depends_on"] == self.depends_on:
                found = [(int(number), _Found.model_validate(each)) for number, each in saved["found"].items()]
                yield from found
        except (UserError, ValidationError, ValueError, KeyError, TypeError, AttributeError):
            return  # missing or damaged: the devices are measured again

    def add(self, number: int, found: _Found) -> None:
        """Keep what was found on a device."""
        self.found[number] = found
        plain = {str(number): each.model_dump() for number, each in sorted(self.found.items())}
        write_json(self.path, {"depends_on": self.depends_on, "found": plain, "sha256": _digest(plain)})


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Setting:
    """A method, a value of the swept quantity, the crossbars with it, and what is known of them."""

    method: str
    value: float | None
    model: CrossbarModel
    devices: int
    point: _Point

    def result(self) -> PointResult:
        found = [self.point.found[number] for number in range(self.devices)]
        accuracies = [each.accuracy for each in found]
        return PointResult(
            method=self.method,
            value=self.value,
            **OverDevices.of(accuracies)._asdict(),
            accuracies=accuracies,
            overflows=sum(each.overflows for each in found),
            layers_by_cell=max(each.layers_by_cell for each in found),
        )


def simulate_run(
    path: Path, request: Request, crossbars: Crossbars, command: str, progress: Progress
) -> tuple[Results, SimulationResult]:
    """Measure methods of a finished run on simulated crossbars; into its results.json and report.html.

    Nothing is trained. What an interrupted call has measured is kept in the folder and not measured again; the same
    request gives the same figures.

    Args:
        path: the run folder.
        request: what to measure.
        crossbars: what they are like.
        command: how the user called it, for the report.
        progress: told how far things are.

    Returns:
        All results of the run, and the new part of them.

    Raises:
        UserError: a mistake of the user; whatever can be known beforehand is checked before anything is measured.
    """
    with reopen(path) as run:
        simulation = _simulate(run, request, crossbars, command, progress)
        results = run.results.with_simulation(simulation)
        results.save(run.folder.results)
        write_report(results, run.folder, progress=progress)
        return results, simulation


def _simulate(
    run: FinishedRun, request: Request, crossbars: Crossbars, command: str, progress: Progress
) -> SimulationResult:
    if run.results.float_accuracy is None:
        raise UserError(f"the run in {run.folder.path} measured no accuracy: {run.results.weights}")
    samples = request.samples if request.samples is not None else len(run.splits.test)
    if samples > len(run.splits.test):
        raise UserError(f"samples: the run has {len(run.splits.test)} test images, not {samples}")
    images, labels = run.splits.test.inputs[:samples], run.splits.test.labels[:samples]
    sweep = request.sweep
    values: list[float | None] = [None] if sweep is None else [float(value) for value in sweep.values]
    plain: list[int | float | None] = [None] if sweep is None else list(sweep.values)
    models = [crossbars.model(run.chip, sweep, value) for value in plain]
    names = list(dict.fromkeys(request.methods or [method.name for method in run.results.methods]))
    networks = {name: run.method(name) for name in names}
    for _, plan in networks.values():
        for model in models:
            for layer in plan.layers.values():
                check_fit(layer, model)

    settings = []
    for name in names:
        for value, model in zip(values, models, strict=True):
            depends_on = {
                "plan": networks[name][1].digest(),
                "digital": _digital_digest(run.folder.method(name) / "digital.safetensors"),
                "data": run.inputs["data"],
                "images": samples,
                "seed": request.seed,
                "crossbars": model.model_dump(mode="json"),
                "versions": versions(),
            }
            devices = len(device_seeds(model, request.devices, request.seed))
            settings.append(_Setting(name, value, model, devices, _Point(run.folder.simulations, depends_on)))

    exact = {}
    for number, (name, (captured, plan)) in enumerate(networks.items()):
        progress("without device effects", number, len(networks), name)
        exact[name] = exact_accuracy(captured, plan, run.chip.grain, images, labels)
    progress("without device effects", len(networks), len(networks), "")

    left, trials = [], []
    for setting in settings:
        for device, seed in enumerate(device_seeds(setting.model, request.devices, request.seed)):
            if device not in setting.point.found:
                left.append((setting, device))
                trials.append(Trial(setting.method, setting.model, seed))
    total = sum(setting.devices for setting in settings)
    done = total - len(left)
    progress("with device effects", done, total, "devices")
    processes = request.processes or max(1, min(cores(), available_memory() // _PROCESS_BYTES))
    for number, report in measure_each(networks, trials, images, labels, processes=processes):
        setting, device = left[number]
        setting.point.add(device, _Found.of(report))
        done += 1
        at = "" if setting.value is None or sweep is None else f" {sweep.quantity} {setting.value:g}"
        progress("with device effects", done, total, f"devices; {setting.method}{at}: {100 * report.accuracy:.1f} %")

    title = [crossbars.title or "the chip as it is", *([f"sweep of {sweep.quantity}"] if sweep is not None else [])]
    return SimulationResult(
        name=request.name or ", ".join(title)[:200],
        command=command,
        versions=versions(),
        images=samples,
        devices=request.devices,
        seed=request.seed,
        parameters=crossbars.parameters(run.chip, sweep),
        sweep=sweep.quantity if sweep is not None else None,
        exact_accuracy=exact,
        points=[setting.result() for setting in settings],
    )


def _digital_digest(path: Path) -> str | None:
    return sha256(path.read_bytes()).hexdigest() if path.exists() else None
