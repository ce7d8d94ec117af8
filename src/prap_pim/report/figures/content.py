"""What each figure shows, as a table, from the results of one or several runs."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest
from prap_pim.report.figures.table import Column, Kind, Table, Value
from prap_pim.report.names import run_names
from prap_pim.report.quality import kind_of, qualities
from prap_pim.report.quantities import words
from prap_pim.report.simulation import QUANTITIES
from prap_pim.report.study import label, unit
from prap_pim.report.summary import Comparison, comparisons, component_names
from prap_pim.results.run import LayerResult, MethodResult, Results
from prap_pim.results.study import StudyResults

_RATIO = re.compile(r"[-_ ]?(\d+of\d+|\d*\.\d+)$")


@dataclass(frozen=True)
class Run:
    """A run's results under a name that no other run of the figure has."""

    label: str
    results: Results


def name_runs(folders: Sequence[Path], results: Sequence[Results]) -> list[Run]:
    """Runs under names that tell them apart.

    Raises:
        UserError: a run is given twice.
    """
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise UserError(f"the run {folder} is given twice")
    names = run_names([each.name for each in results], folders)
    return [Run(name, each) for name, each in zip(names, results, strict=True)]


def only(results: Results, methods: Sequence[str]) -> Results:
    """With these methods, in this order; gains are over the first of them.

    Raises:
        UserError: the run has no method of that name.
    """
    known = {method.name: method for method in results.methods}
    for name in methods:
        if name not in known:
            raise UserError(f"the run {results.name} has no method {name!r} ({nearest(name, list(known))})")
    return results.model_copy(update={"methods": [known[name] for name in dict.fromkeys(methods)]})


ON_THE_FRONT, DOMINATED, MISSES = "on the front", "dominated", "misses a constraint"
_RUN = Column("run", "run")
_METHOD = Column("method", "method")
_REFERENCE = Column("reference", "gain over")


def speedup(runs: Sequence[Run]) -> Table:
    """Gains in time of every method over the first, on the same chip."""
    return _by_method(
        "Speedup over the first method",
        runs,
        (
            (Column("serial_latency_s", "latency, serial", "quantity", "s"), lambda c: c.method.serial.latency_s),
            (
                Column("pipelined_latency_s", "latency, pipelined", "quantity", "s"),
                lambda c: c.method.pipelined.latency_s,
            ),
            (Column("serial_speedup", "speedup, serial", "gain"), lambda c: c.serial_speedup),
            (Column("pipelined_speedup", "speedup, pipelined", "gain"), lambda c: c.pipelined_speedup),
            (
                Column("throughput_gain_at_budget", "throughput, equal crossbars", "gain"),
                lambda c: c.at_budget.throughput_gain,
            ),
            (
                Column("throughput_gain_per_area_at_budget", "throughput, equal area", "gain"),
                lambda c: c.at_budget.throughput_gain_per_area,
            ),
        ),
    )


def energy(runs: Sequence[Run]) -> Table:
    """Energy of one inference."""
    return _by_method(
        "Energy of one inference, without leakage",
        runs,
        (
            (Column("energy_j", "energy", "quantity", "J"), lambda c: c.method.energy_j),
            (Column("energy_gain", "gain", "gain"), lambda c: c.energy_gain),
        ),
    )


def area(runs: Sequence[Run]) -> Table:
    """Area that the network takes, as mapped and with its layers replicated."""
    return _by_method(
        "Area that the network takes",
        runs,
        (
            (Column("area_m2", "each layer once", "quantity", "m2"), lambda c: c.method.area_m2),
            (
                Column("area_at_budget_m2", "replicated to fill the chip", "quantity", "m2"),
                lambda c: c.method.at_budget.area_m2,
            ),
            (Column("crossbars", "crossbars", "count"), lambda c: c.method.crossbars),
            (Column("crossbars_at_budget", "crossbars, replicated", "count"), lambda c: c.method.at_budget.crossbars),
        ),
    )


def accuracy(runs: Sequence[Run]) -> Table:
    """Accuracy, bits per byte, or what a user's own metric gives first, against the share of OU steps that is left.

    Raises:
        UserError: nothing was measured, or the runs have no measure in common.
    """
    each = {run.label: qualities(run.results)[0] for run in runs}
    of = next(iter(each.values()))
    if {(other.name, other.kind) for other in each.values()} != {(of.name, of.kind)}:
        raise UserError("the runs have no measure in common, such as accuracy: plot them apart")
    own = f"{of.title}, " if of.kind == "ratio" else ""
    measured = (
        (Column(f"float_{of.name}", f"{own}float", of.kind), lambda run, _: each[run.label].before),
        (Column(f"compressed_{of.name}", f"{own}compressed", of.kind), lambda run, m: each[run.label].compressed(m)),
        (Column(f"bit_true_{of.name}", f"{own}bit-true", of.kind), lambda run, m: each[run.label].bit_true(m)),
    )
    columns: tuple[tuple[Column, Callable[[Run, MethodResult], Value]], ...] = (
        (Column("network", "network"), lambda run, _: run.results.network),
        (Column("series", "series"), lambda _, method: _RATIO.sub("", method.name) or method.name),
        (Column("compute_ratio", "OU steps, share of dense", "ratio"), lambda _, method: method.compute_ratio),
        *measured,
    )
    rows = tuple(
        (run.label, method.name, *(value(run, method) for _, value in columns))
        for run in runs
        for method in run.results.methods
    )
    if all(row[-2] is row[-1] is None for row in rows):
        raise UserError("no accuracy was measured in this run: its network was not trained")
    table = Table(
        f"{of.title if of.kind != 'share' else 'Accuracy'} against compute",
        (_RUN, _METHOD, *(column for column, _ in columns)),
        rows,
    )
    table = _without_constants(table, "run", "network")
    alone = table.values("series") == table.values("method")
    return replace(table, hidden=table.hidden | {"series"}) if alone else table


def breakdown(runs: Sequence[Run]) -> Table:
    """Energy of one inference by component."""
    rows = tuple(
        (
            run.label,
            method.name,
            words(component),
            joules,
            joules / method.energy_j if method.energy_j else 0.0,
        )
        for run in runs
        for method in run.results.methods
        for component in component_names(run.results.methods)
        for joules in [method.energy_breakdown_j.get(component, 0.0)]
    )
    columns = (
        _RUN,
        _METHOD,
        Column("component", "component"),
        Column("energy_j", "energy", "quantity", "J"),
        Column("energy_share", "share", "share"),
    )
    return _without_constants(Table("Energy of one inference, by component", columns, rows), "run")


def layers(column: Column, value: Callable[[LayerResult], Value]) -> Callable[[Sequence[Run]], Table]:
    """A table maker: one figure of every layer under every method."""

    def make(runs: Sequence[Run]) -> Table:
        rows = tuple(
            (run.label, method.name, layer.name, value(layer))
            for run in runs
            for method in run.results.methods
            for layer in method.layers
        )
        return _without_constants(
            Table(f"By layer: {column.label}", (_RUN, _METHOD, Column("layer", "layer"), column), rows), "run"
        )

    return make


def noise(runs: Sequence[Run]) -> Table:
    """Accuracy on simulated crossbars against what was swept.

    Raises:
        UserError: no run has a simulation with a sweep.
    """
    sweeps = {each.sweep for run in runs for each in run.results.simulations if each.sweep is not None}
    metrics = {each.metric for run in runs for each in run.results.simulations if each.sweep is not None}
    if len(metrics) > 1:
        raise UserError(f"the simulations have no measure in common, but {', '.join(sorted(metrics))}: plot them apart")
    metric = next(iter(metrics), "accuracy")
    kind = kind_of(metric)
    columns = (
        _RUN,
        Column("simulation", "simulation"),
        Column("swept", "swept"),
        _METHOD,
        Column("value", QUANTITIES[next(iter(sweeps))] if len(sweeps) == 1 else "value", "ratio"),
        Column(f"exact_{metric}", "exact", kind),
        Column(f"mean_{metric}", "mean", kind),
        Column("spread", "spread", kind),
        Column(f"worst_{metric}", "worst", kind),
        Column("devices", "devices", "count"),
    )
    rows: list[tuple[Value, ...]] = []
    for run in runs:
        chosen = {method.name for method in run.results.methods}
        for simulation in run.results.simulations:
            if simulation.sweep is None:
                continue
            quantity = QUANTITIES[simulation.sweep]
            points = [point for point in simulation.points if point.method in chosen]
            for point in sorted(points, key=lambda point: point.value or 0.0):
                exact = simulation.exact_accuracy.get(point.method)
                devices = len(point.accuracies)
                spread = point.spread if devices > 1 else None  # of one device there is none
                found = (point.value, exact, point.mean, spread, point.worst, devices)
                rows.append((run.label, simulation.name, quantity, point.method, *found))
    if not rows:
        raise UserError(
            "there is no simulation with a sweep: make one with prap-pim simulate RUN --sweep sigma=0,0.1,0.2"
        )
    name = "Accuracy" if kind == "share" else metric
    table = Table(f"{name} under device effects, mean and spread over devices", columns, tuple(rows))
    return _without_constants(table, "run", "simulation", "swept")


def pareto(study: StudyResults) -> Table:
    """The objectives of all trials that have them.

    Raises:
        UserError: there are no such trials, or there is but one objective.
    """
    if len(study.objectives) < 2:
        raise UserError(f"the study {study.name} has one objective: there is no front to draw")
    front = set(study.front)
    rows = tuple(
        (trial.number, ON_THE_FRONT if trial.number in front else DOMINATED if trial.feasible else MISSES, *values)
        for trial in study.trials
        for values in [[trial.figures.get(name) for name in study.objectives]]
        if trial.reason is None and None not in values and trial.number not in study.repeated
    )
    if not rows:
        raise UserError(f"no trial of the study {study.name} has figures")
    objectives = tuple(_objective(name) for name in study.objectives)
    return Table("Trials of a study", (Column("trial", "trial", "count"), Column("state", "state"), *objectives), rows)


def _objective(figure: str) -> Column:
    kinds: dict[str, Kind] = {"%": "share", "": "ratio"}
    of = unit(figure)
    return Column(figure, label(figure), kinds.get(of, "quantity"), of if of not in kinds else "")


def _by_method(
    title: str, runs: Sequence[Run], columns: Iterable[tuple[Column, Callable[[Comparison], Value]]]
) -> Table:
    wanted = tuple(columns)
    rows = tuple(
        (run.label, each.method.name, each.reference.name, *(_finite(value(each)) for _, value in wanted))
        for run in runs
        for each in comparisons(run.results)
    )
    return _without_constants(
        Table(title, (_RUN, _METHOD, _REFERENCE, *(column for column, _ in wanted)), rows), "run", "reference"
    )


def _finite(value: Value) -> Value:
    """A ratio to zero is no number."""
    return None if isinstance(value, float) and value != value else value


def _without_constants(table: Table, *names: str) -> Table:
    """Columns are not shown whose values are all the same."""
    constant = frozenset(name for name in names if len(set(table.values(name))) < 2)
    return replace(table, hidden=table.hidden | constant)
