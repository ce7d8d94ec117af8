"""The whole flow, one stage a line: train, compress, quantise, map, cost, prove, report."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json, write_json
from prap_pim.common.progress import Progress, counted, phase
from prap_pim.cost import cost
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.calibrate import tie
from prap_pim.methods.config import MethodConfig
from prap_pim.report.comparison import write_comparison
from prap_pim.report.html.run import write_report
from prap_pim.results.folder import Manifest, RunFolder, open_run
from prap_pim.results.run import (
    MethodResult,
    Results,
)
from prap_pim.runs.config import RunConfig
from prap_pim.runs.record import result_of, results_of
from prap_pim.runs.stages import (
    PLAN,
    check,
    compress_method,
    crossbar_budget,
    digest_of,
    digests,
    has_meaning,
    prove,
    train_network,
    untrained,
    versions,
    zero_inputs,
)
from prap_pim.training import (
    Checkpoint,
    Processes,
    TrainingConfig,
    check_shards,
    train_along,
)
from prap_pim.training.data import Splits, load


def run(
    config: RunConfig,
    output: Path,
    command: str,
    resume: bool,
    progress: Progress,
    processes: Processes | None = None,
) -> Results:
    """Do everything that a configuration asks for, or what is left of it.

    Args:
        config: what to do.
        output: the run folder.
        command: how the user called it, for the report.
        resume: go on with the run in the folder, from its last checkpoint; it ends as an undisturbed run would.
        progress: told how far things are.
        processes: who trains; this one is the first and does all the rest, the others call ``assist``. None: one,
            on the CPU.

    Raises:
        UserError: a mistake of the user; whatever can be known beforehand is checked before the folder is touched.
    """
    processes = processes or Processes()
    splits = load(config.data, config.seed)
    chip = load_chip(config.chip)
    if config.training is not None:
        check_shards(config.training, len(splits.train), processes.count)
    elif processes.count > 1:
        raise UserError(f"training: none leaves {processes.count} processes nothing to share: use one")
    check(config, splits, chip, phase(progress, "checking the methods"))
    manifest = Manifest(
        seed=config.seed,
        threads=_threads(config.training),
        versions=versions(),
        arithmetic=processes.arithmetic,
        inputs=digests(config, splits, chip),
    )
    with open_run(output, config.resolved(), manifest, resume) as folder, _as_many_threads_as_begun(folder):
        if not folder.results.exists():
            trained, branch = train_network(config, splits, folder.checkpoints, progress, processes)
            methods = [
                _method(config, m, splits, chip, trained, branch, folder, progress, processes) for m in config.methods
            ]
            results = results_of(config, command, splits, chip, trained, methods, progress)
            write_report(results, folder, progress=progress)
            write_comparison(results, folder.comparison)
            write_json(
                folder.manifest, {**read_json(folder.manifest), "plans": {m.name: m.plan_sha256 for m in methods}}
            )
            results.save(folder.results)  # last: it says that the run has finished
        processes.tell({})
        return Results.load(folder.results)


def assist(config: RunConfig, processes: Processes) -> None:
    """What every process but the first does in a run: train along, until there is nothing left to train.

    Raises:
        UserError: a mistake of the user, which the first process will have told; or the first process has ended.
    """
    splits = load(config.data, config.seed)
    while (heard := processes.hear())[0]:
        task, structure = heard
        model = untrained(config.model_copy(update={"checkpoint": None}), splits)  # weights come from the first process
        if structure:
            tie(model, structure)
        assert config.training is not None
        train_along(model, splits.train, config.training, config.seed, processes, task)


def _threads(schedule: TrainingConfig | None) -> int:
    """That share the sums of floats in a new run; with shards as many as if each shard had a process of its own.

    So they do not depend on how many processes there are. ``OMP_NUM_THREADS`` overrides it.
    """
    threads = torch.get_num_threads()
    shards = schedule.shards if schedule is not None else None
    return threads if shards is None or "OMP_NUM_THREADS" in os.environ else max(1, threads // shards)


@contextmanager
def _as_many_threads_as_begun(folder: RunFolder) -> Iterator[None]:
    """Sums of floats depend on how many threads share them: a resumed run goes on with those that it was begun with."""
    before = torch.get_num_threads()
    torch.set_num_threads(folder.read_manifest().threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _method(
    config: RunConfig,
    method: MethodConfig,
    splits: Splits,
    chip: Chip,
    trained: nn.Module,
    branch: Checkpoint | None,
    folder: RunFolder,
    progress: Progress,
    processes: Processes,
) -> MethodResult:
    """Compress, plan, cost and prove one method."""
    place = folder.method(method.name)
    before = _finished(place)
    if before is not None:
        return before

    found = compress_method(config, method, splits, chip, trained, branch, place, progress, processes)
    captured, plan = found.captured, found.plan
    zero_input = zero_inputs(config, captured, plan, splits, chip, phase(progress, f"{method.name}: zero inputs"))
    budget = crossbar_budget(config, captured.network, plan, chip)
    mappings: list[dict[str, Any]] = [{"mode": config.mapping}, {"crossbars": budget}]
    costs, at_budget = (
        cost(captured.network, plan, chip, zero_input=zero_input, **mapping)
        for mapping in counted(mappings, phase(progress, f"{method.name}: costs"))
    )
    compressed, proof = prove(config, captured, plan, splits, chip, progress) if has_meaning(config) else (None, None)
    of_bytes = splits.test.are_tokens
    result = result_of(method, found, chip, budget, costs, at_budget, proof, compressed, of_bytes)
    write_json(place / "result.json", {"sha256": digest_of(result.model_dump_json()), "result": result.model_dump()})
    return result


def _finished(place: Path) -> MethodResult | None:
    """The result of a method that is done; None if it is not, or if its files are not what was written."""
    try:
        saved = read_json(place / "result.json")
        result = MethodResult.model_validate(saved["result"])
        whole = saved["sha256"] == digest_of(result.model_dump_json())
        return result if whole and NetworkPlan.load(place / PLAN).digest() == result.plan_sha256 else None
    except (UserError, ValueError, KeyError, TypeError):
        return None
