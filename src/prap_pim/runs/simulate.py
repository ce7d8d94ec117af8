"""Accuracy of a finished run's methods on crossbars with device effects: ``prap-pim simulate``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.files import file_digest, path_of
from prap_pim.common.progress import Progress, quiet
from prap_pim.common.settings import Settings
from prap_pim.crossbar import (
    Device,
    Evaluate,
    OverDevices,
    SimulationReport,
    Trial,
    check_fit,
    device_seeds,
    exact_metrics,
    measure_each,
)
from prap_pim.frontend import Captured
from prap_pim.ir.plan import NetworkPlan
from prap_pim.report.html.run import write_report
from prap_pim.results.run import PointResult, Results, SimulationResult
from prap_pim.runs.crossbars import Crossbars, Sweep
from prap_pim.runs.finished import FinishedRun, reopen
from prap_pim.runs.fit import fitting_processes
from prap_pim.runs.metric import LabelMetric
from prap_pim.runs.stages import DIGITAL, has_meaning, versions
from prap_pim.runs.store import Entry, Store
from prap_pim.runs.task import Task

_Networks = Mapping[str, tuple[Captured, NetworkPlan]]  # by method


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
    samples: int | None = Field(default=None, ge=1, le=10**9)
    devices: int = Field(default=5, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    sweep: Sweep | None = None
    processes: int | None = Field(default=None, ge=1, le=1024)
    name: str | None = Field(default=None, min_length=1, max_length=200)


class _Device(Settings):
    """What was measured on one device."""

    from_outside = False

    metrics: dict[str, float]
    overflows: int = Field(ge=0)
    layers_by_cell: int = Field(ge=0)

    @staticmethod
    def of(report: SimulationReport) -> "_Device":
        by_cell = sum(path == "cells" for path in report.paths.values())
        return _Device(metrics=dict(report.metrics), overflows=sum(report.overflows.values()), layers_by_cell=by_cell)


@dataclass
class _Measurement:
    """One device with one method and setting, where what is measured on it is kept, and that, once it is."""

    trial: Trial
    entry: Entry
    device: _Device | None


_Points = dict[tuple[str, float | None], list[_Measurement]]  # by method and value of the swept quantity


def simulate(
    run: str | Path,
    crossbars: Device | Mapping[str, Any] | str | Path | None = None,
    *,
    allow_imports: bool = False,
    progress: Progress | None = quiet,
    **request: Any,
) -> SimulationResult:
    """Accuracy of a finished run's methods on crossbars with device effects; also into its results and report.

    What an interrupted call has measured is kept in the folder and not measured again.

    Args:
        run: the folder of a finished run.
        crossbars: a device; or settings of ``CrossbarModel`` over those of the chip, as ``{"adc_bits": 4}``, or a YAML
            file of them; None: the chip's own crossbars.
        allow_imports: whether code that the run's configuration names may run (``model: {import: ...}``).
        progress: called as the work proceeds.
        request: ``methods`` (names; default: all), ``samples`` (the first so many test images), ``devices`` (5),
            ``seed``, ``sweep`` (as ``{"quantity": "sigma", "values": [0, 0.1]}``; or "adc-bits", "fault-rate"),
            ``processes`` (at once; more than 1 needs ``if __name__ == "__main__"`` in a script; default: 1) and
            ``name`` (of the simulation in the report).

    Raises:
        UserError: a mistake; whatever can be known beforehand is checked before anything is measured.
    """
    settings = Crossbars.of(crossbars)
    asked = Request.checked({"processes": 1, **request}, "simulate")
    how = settings, "prap_pim.simulate", progress or quiet, allow_imports
    return simulate_run(path_of(run, "run"), asked, *how)[1]


def simulate_run(
    path: Path,
    request: Request,
    crossbars: Crossbars,
    command: str,
    progress: Progress,
    allow_imports: bool = False,
    task: Task | None = None,
) -> tuple[Results, SimulationResult]:
    """Measure methods of a finished run on simulated crossbars; into its results.json and report.html.

    Nothing is trained. What an interrupted call has measured is kept in the folder and not measured again; the same
    request gives the same figures.

    Args:
        path: the run folder.
        request: what to measure.
        crossbars: what they are like.
        command: how the user called it, for the report.
        progress: called as the work proceeds.
        allow_imports, task: as for ``reopen``.

    Returns:
        All results of the run, and the new part of them.

    Raises:
        UserError: a mistake of the user; whatever can be known beforehand is checked before anything is measured.
    """
    with reopen(path, allow_imports, task) as run:
        simulation = _simulate(run, request, crossbars, command, progress)
        results = run.results.with_simulation(simulation)
        run.folder.finish(results)
        write_report(results, run.folder, progress=progress)
        return results, simulation


def _simulate(
    run: FinishedRun, request: Request, crossbars: Crossbars, command: str, progress: Progress
) -> SimulationResult:
    metric = run.task.metric
    if metric is None or not has_meaning(run.config, run.task):
        raise UserError(f"the run in {run.folder.path} measured no accuracy: {run.results.weights}")
    there = run.results.images.get("test", 0)
    samples = request.samples if request.samples is not None else there
    if isinstance(metric, LabelMetric):
        metric = metric.of_first(samples)
    elif request.samples is not None:
        raise UserError("samples: the user's own metric takes its test data as it does")
    if samples > there:
        raise UserError(f"samples: the run has {there} test images, not {samples}")
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

    store = Store(run.folder.simulations)
    points: _Points = {}
    for name in names:
        digital = run.folder.method(name) / DIGITAL
        basis = {
            "plan": networks[name][1].digest(),
            "digital": file_digest(digital) if digital.exists() else None,
            "data": run.inputs["data"],
            "images": samples,
            "seed": request.seed,
            "versions": versions(),
            **run.task.measured_by,
        }
        for value, model in zip(values, models, strict=True):
            here = points.setdefault((name, value), [])
            for number, seed in enumerate(device_seeds(model, request.devices, request.seed)):
                of_device = {**basis, "crossbars": model.model_dump(mode="json"), "device": number}
                entry = store.entry("device", of_device)
                here.append(_Measurement(Trial(name, model, seed), entry, entry.load(_Device)))
    exact = {}
    for number, (name, (captured, plan)) in enumerate(networks.items()):
        progress("without device effects", number, len(networks), name)
        exact[name] = exact_metrics(captured, plan, run.chip.grain, metric)
    progress("without device effects", len(networks), len(networks), "")
    _measure(points, networks, metric, request, progress)
    headline = next(iter(next(iter(exact.values()))))  # what of several numbers is told
    less = headline in metric.minimize

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
        metric=headline,
        exact_accuracy={name: metrics[headline] for name, metrics in exact.items()},
        points=[
            _point(*key, headline, less, [one.device for one in here if one.device]) for key, here in points.items()
        ],
    )


def _measure(points: _Points, networks: _Networks, evaluate: Evaluate, request: Request, progress: Progress) -> None:
    """All devices that are left, one after the other or in several processes."""
    left = [(value, one) for (_, value), here in points.items() for one in here if one.device is None]
    total = sum(map(len, points.values()))
    done = total - len(left)
    progress("with device effects", done, total, "devices")
    processes = request.processes or fitting_processes()
    trials = [one.trial for _, one in left]
    for place, report in measure_each(networks, trials, evaluate, processes=processes):
        value, one = left[place]
        one.device = _Device.of(report)
        one.entry.save(one.device)
        done += 1
        at = "" if value is None or request.sweep is None else f" {request.sweep.quantity} {value:g}"
        note = f"devices; {one.trial.network}{at}: {', '.join(f'{v:.4g}' for v in report.metrics.values())}"
        progress("with device effects", done, total, note)


def _point(
    method: str,
    value: float | None,
    headline: str,
    less: bool,
    devices: list[_Device],
) -> PointResult:
    accuracies = [device.metrics[headline] for device in devices]
    return PointResult(
        method=method,
        value=value,
        **OverDevices.of(accuracies, less)._asdict(),
        accuracies=accuracies,
        overflows=sum(device.overflows for device in devices),
        layers_by_cell=max(device.layers_by_cell for device in devices),
    )
