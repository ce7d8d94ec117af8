"""The whole flow, one stage a line: train, compress, quantise, map, cost, check, report."""

import copy
import logging
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from prap_pim.common.errors import UserError
from prap_pim.common.files import key_of, write_whole
from prap_pim.common.progress import Progress, phase
from prap_pim.hardware.chip import Chip
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.calibrate.train_donors import tie
from prap_pim.report.comparison import write_comparison
from prap_pim.report.html.run import write_report
from prap_pim.results.folder import PLAN, Manifest, RunFolder, open_run
from prap_pim.results.run import MethodResult, Results
from prap_pim.runs.config import RunConfig
from prap_pim.runs.metric import FloatQuality, OwnMetric
from prap_pim.runs.places import chip_of, keep_chip, roots_of
from prap_pim.runs.record import result_of, results_of
from prap_pim.runs.stages import (
    MethodStages,
    at_equal_compute,
    check,
    depends_on,
    digests,
    has_meaning,
    named_metrics,
    train_network,
    versions,
)
from prap_pim.runs.store import Store
from prap_pim.runs.task import Task, load_task
from prap_pim.training import Diverged, Processes, TrainingConfig, check_shards, torch_threads, train_along
from prap_pim.training.data import Examples, Streamed

_logger = logging.getLogger(__name__)
_FLOAT, _QUALITY = "float", "quality"  # where it is kept what the float network is worth


def run(
    config: RunConfig,
    output: Path,
    command: str,
    resume: bool,
    progress: Progress,
    processes: Processes | None = None,
    task: Task | None = None,
    chip: Chip | None = None,
) -> Results:
    """Do everything that a configuration asks for, or what is left of it.

    Args:
        config: what to do.
        output: the run folder.
        command: how the user called it, for the report.
        resume: go on with the run in the folder, from its last checkpoint; it ends as an undisturbed run would.
        progress: called as the work proceeds.
        processes: who trains; this one is the first and does all the rest, the others call ``assist``. None: one,
            on the CPU.
        task: the network and what it is for; None: as the configuration says, which names no code.
        chip: in the place of the configuration's.

    Raises:
        UserError: a mistake of the user; whatever can be known beforehand is checked before the folder is touched. Or a
            file of a finished run is damaged that cannot be computed again; others are, and named in a warning.
    """
    processes, named = processes or Processes(), config
    roots = roots_of(RunFolder(output)) if resume else ()
    config = config.located(roots)
    task = task or load_task(config)
    chip = chip or chip_of(config, RunFolder(output), roots)
    if config.training is not None:
        count = len(task.train) if isinstance(task.train, Examples | Streamed) else None
        check_shards(config.training, count, processes.count)
    elif processes.count > 1:
        raise UserError(f"training: none leaves {processes.count} processes nothing to share: use one")
    config = at_equal_compute(config, task.graph, chip)
    check(config, task.graph, chip, phase(progress, "checking the methods"))
    manifest = Manifest(
        seed=config.seed,
        threads=_threads(config.training),
        versions=versions(),
        arithmetic=processes.arithmetic,
        inputs=digests(config, task, chip),
        started_in=str(Path.cwd()),
    )
    with ExitStack() as stack:
        folder = stack.enter_context(open_run(output, named.resolved(), manifest, resume))
        stack.enter_context(torch_threads(folder.read_manifest().threads))  # go on with those that it was begun with
        damage = _damage(folder) if folder.results.exists() else None
        if damage is not None:
            _logger.warning("%s; what it holds is computed again", damage)
        if damage is not None or not folder.results.exists():
            keep_chip(chip, folder)
            try:
                _compute(config, command, task, chip, folder, progress, processes)
            except Diverged as error:
                write_whole(folder.diverged, f"{error}\n")
                raise Diverged(f"{error}; with that, the same call (--resume) begins anew in {output}") from error
        elif not _as_measured(config, task, folder):
            why = "its figures would differ"
            what = "has finished with another evaluate or minimize"
            raise UserError(f"the run in {output} {what}: {why}; choose another output (--output)")
        processes.tell({})
        return folder.read_results()


def _damage(folder: RunFolder) -> UserError | None:
    """What is said of the first file of a finished run that is damaged or missing; None: all are whole."""
    try:
        folder.read_results()
    except UserError as error:
        return error
    return None


def _kept(folder: RunFolder) -> Results | None:
    """The results of a finished run, if they are whole, with all that was simulated since; others are written anew."""
    with suppress(UserError):
        folder.read_manifest().check_file(folder.path, folder.results.name)
        return Results.load(folder.results)
    return None


def _compute(
    config: RunConfig,
    command: str,
    task: Task,
    chip: Chip,
    folder: RunFolder,
    progress: Progress,
    processes: Processes,
) -> None:
    """All stages that are left, and the results."""
    if isinstance(task.metric, OwnMetric) and config.training is not None and config.training.compress_at:
        task.metric.of_model(copy.deepcopy(task.model))  # a mistake shows before hours of training
    trained = train_network(config, task, folder.checkpoints, progress, processes)
    network = task.graph.network
    of_network = _of_network(config, task, folder)
    quality = None
    if has_meaning(config, task):
        whole = config.training is not None and config.training.compress_at > 0
        told = phase(progress, "float network: accuracy")
        on = {"network": key_of(of_network), **task.measured_by}
        quality = Store(folder.path / _FLOAT).get(
            _QUALITY, on, FloatQuality, lambda: (task.float_quality(trained[0] if whole else None, told), {})
        )

    def method_result(name: str) -> MethodResult:
        store = Store(folder.method(name))
        here = config.only([name]), task, chip, of_network, lambda: trained, lambda key: store
        stages = MethodStages(*here, progress, processes)
        compression, plan = stages.compressed(), NetworkPlan.load(store.path / PLAN)
        costs, accuracy = stages.costs(network, plan), stages.accuracy()
        if isinstance(task.metric, OwnMetric) and quality is not None:
            wanted = named_metrics("", quality.metrics)["_metrics"]
            if odd := sorted(wanted.keys() ^ accuracy.bit_true_metrics.keys()):
                what = f"evaluate {task.metric.name} gives {odd[0]!r} of some networks alone"
                raise UserError(f"{what}, of {name} or of the float one: give all numbers each time")
        return result_of(stages, network, plan, compression, costs, accuracy)

    methods = [method_result(method.name) for method in config.methods]
    results = _kept(folder) or results_of(config, command, task, chip, quality, methods)
    write_report(results, folder, progress=progress)
    write_comparison(results, folder.comparison)
    folder.finish(results)


def _of_network(config: RunConfig, task: Task, folder: RunFolder) -> dict[str, Any]:
    return depends_on(config, folder.read_manifest().inputs["data"], task.digests)


def _as_measured(config: RunConfig, task: Task, folder: RunFolder) -> bool:
    """Whether a finished run was measured by the task's metric: no configuration names a function of a program."""
    if not isinstance(task.metric, OwnMetric) or not has_meaning(config, task):
        return True
    on = {"network": key_of(_of_network(config, task, folder)), **task.measured_by}
    kept = Store(folder.path / _FLOAT).entry(_QUALITY, on).path.exists()
    return kept and set(folder.read_results().minimize) == set(task.metric.minimize)


def assist(config: RunConfig, processes: Processes, task: Task) -> None:
    """What every process but the first does in a run: train along, until there is nothing left to train.

    Raises:
        UserError: a mistake of the user, which the first process reports; or the first process has ended.
    """
    while (heard := processes.receive())[0]:
        begun, structure = heard
        model = task.first()  # weights come from the first process
        if structure:
            tie(model, structure)
        assert config.training is not None
        assert task.train is not None
        train_along(model, task.train, config.training, config.seed, processes, begun, task.traced_loss)


def _threads(schedule: TrainingConfig | None) -> int:
    """That share the sums of floats in a new run; with shards as many as if each shard had a process of its own.

    So they do not depend on how many processes there are. ``OMP_NUM_THREADS`` overrides it.
    """
    threads = torch.get_num_threads()
    shards = schedule.shards if schedule is not None else None
    return threads if shards is None or "OMP_NUM_THREADS" in os.environ else max(1, threads // shards)
