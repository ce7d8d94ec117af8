"""A user's own network from Python, in whole runs: methods compared, fine-tuned, searched. What they leave is what the
commands leave."""

import copy
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import check_writable, path_of
from prap_pim.common.notebook import html_table
from prap_pim.common.progress import Progress, quiet
from prap_pim.common.tables import data_frame
from prap_pim.crossbar import Device, compressed_model
from prap_pim.frontend import Captured, Inputs, check_model, of_arrays, state_digest, tensors, without_labels
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.equal_compute import all_within_reach
from prap_pim.methods.method import METHODS, Method, config_of, method_of, names_to_skip
from prap_pim.report.comparison import rows
from prap_pim.report.html.run import write_report
from prap_pim.report.quality import qualities
from prap_pim.report.quantities import quantity, significant, times
from prap_pim.report.summary import comparisons
from prap_pim.results.folder import RunFolder
from prap_pim.results.run import Results, SimulationResult
from prap_pim.runs import pipeline
from prap_pim.runs.config import RunConfig
from prap_pim.runs.crossbars import Crossbars
from prap_pim.runs.finished import reopen
from prap_pim.runs.simulate import Request, simulate_run
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.explore import Study, explore_config, run_study
from prap_pim.runs.study.figures import better, figure_name
from prap_pim.runs.study.trial import Stages
from prap_pim.runs.task import Task
from prap_pim.training import TrainingConfig
from prap_pim.training.data import Splits
from prap_pim.training.objective import of_loader, of_user

_CALIBRATION = 256  # inputs, of those that it is trained on

Evaluate = Callable[[nn.Module], Any]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What ``compare`` and ``finetune`` return: a finished run.

    Attributes:
        results: every figure of every method, as in ``results.json``.
        folder: of the run.
    """

    results: Results
    folder: Path
    _task: Task

    def report(self, path: str | Path) -> None:
        """Write the page of the run, one HTML file that needs no network.

        Raises:
            UserError: it cannot be written.
        """
        check_writable(page := path_of(path, "path"))
        write_report(self.results, RunFolder(self.folder), page)

    def to_pandas(self) -> Any:
        """Every figure as a DataFrame, a row for each method; names and units as in ``comparison.csv``.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(rows(self.results))

    def network(self, method: str) -> nn.Module:
        """A method's network, in float arithmetic with its compressed weights, called as the model is.

        Raises:
            UserError: the run has no such method, or a file is damaged.
        """
        with reopen(self.folder, task=self._task) as run:
            return self._task.called(compressed_model(*run.method(method)))

    def simulate(
        self,
        crossbars: Device | Mapping[str, Any] | str | Path | None = None,
        *,
        progress: Progress | None = quiet,
        **request: Any,
    ) -> SimulationResult:
        """What the methods are worth on crossbars with device effects, as ``prap_pim.simulate``."""
        asked = Request.checked({"processes": 1, **request}, "simulate")
        how = "prap_pim.simulate", progress or quiet
        return simulate_run(self.folder, asked, Crossbars.of(crossbars), *how, task=self._task)[1]

    def __repr__(self) -> str:
        head, *table = self._table()
        width = [max(len(row[i]) for row in (head, *table)) for i in range(len(head))]
        lines = [
            "  ".join(text.rjust(width[i]) if i else text.ljust(width[i]) for i, text in enumerate(row))
            for row in (head, *table)
        ]
        return "\n".join([f"{self.results.name}: {self.results.network} on {self.results.chip.name}", *lines])

    def _repr_html_(self) -> str:
        head, *table = self._table()
        return html_table(f"{self.results.name}: {self.results.network} on {self.results.chip.name}", head, table)

    def _table(self) -> list[tuple[str, ...]]:
        """Headings, and a row for each method."""
        measures = qualities(self.results)
        head = ("", *(of.title for of in measures), "compute ratio", "energy", "latency", "energy gain", "speedup")
        found: list[tuple[str, ...]] = [head]
        for each in comparisons(self.results):
            method = each.method
            worth = (of.text(of.bit_true(method)) for of in measures)
            costs = quantity(method.energy_j, "J"), quantity(method.pipelined.latency_s, "s")
            gains = times(each.energy_gain), times(each.pipelined_speedup)
            found.append((method.name, *worth, significant(method.compute_ratio), *costs, *gains))
        return found


def compare(
    model: nn.Module,
    calibration: Tensor | Iterable[Inputs],
    *,
    output: str | Path,
    evaluate: Evaluate | None = None,
    minimize: Collection[str] = (),
    methods: Sequence[str | Method | MethodConfig] = ("dense", "calibrated"),
    compute_ratio: float = 0.25,
    chip: str | Path | Chip = "isaac-32nm",
    skip: str | Collection[str] = (),
    name: str = "",
    seed: int = 0,
    progress: Progress | None = quiet,
    **settings: Any,
) -> Comparison:
    """Compress a network by several methods, cost them and measure what they are worth, as ``prap-pim compare`` does.

    Called again with the same arguments it goes on where it was interrupted or killed, or gives the finished run.

    Args:
        model: any module that ``compress`` takes; it is not touched.
        calibration: as for ``compress``.
        output: the run's folder.
        evaluate: what a network is worth: a function of a module that is called as the model is, which gives a number
            (called as the function), or numbers by name. One that is called "accuracy" is a share, 0 to 1. None: costs
            alone are compared.
        minimize: names of those numbers of which less is better.
        methods: names or objects, such as ``Calibrated(budget={"energy": 0.25})``; gains are over the first.
        compute_ratio: of the methods that are given by name, as far as they take one: OU steps of the whole model over
            those of the uncompressed one. So they are compared at equal compute.
        chip: a preset, a TOML file or a ``Chip``.
        skip: as for ``compress``.
        name: what the run and its network are called; the model's class if empty.
        seed: of all that is random.
        progress: called as the work proceeds.
        settings: others of a run's configuration: ``crossbar_budget``, ``checked_images``, ``mapping``, ``quantize``,
            ``zero_input_skipping``, ``cost`` (such as ``{"timing": "events"}``).

    Raises:
        UserError: a mistake; whatever can be known beforehand is checked before the folder is touched.
    """
    task = task_of(model, calibration, evaluate, minimize, name, skip=skip)
    asked = _Asked.of(methods, compute_ratio, chip, task.skip)
    return _run(task, asked, _given(task, chip) | {"seed": seed, **settings}, output, "compare", progress)


def finetune(
    model: nn.Module,
    train_loader: Iterable[Any],
    *,
    output: str | Path,
    method: str | Method | MethodConfig = "prap",
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    evaluate: Evaluate | None = None,
    minimize: Collection[str] = (),
    calibration: Tensor | Iterable[Inputs] | None = None,
    epochs: int = 10,
    learning_rate: float = 0.01,
    compute_ratio: float = 0.25,
    chip: str | Path | Chip = "isaac-32nm",
    skip: str | Collection[str] = (),
    name: str = "",
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    progress: Progress | None = quiet,
    **settings: Any,
) -> Comparison:
    """Compress a trained network and train on, while its weights are drawn to the patterns and donors that were chosen
    (PRAP, step 3); with calibrated reuse the donors themselves are trained.

    The run has two methods: dense, the network as it was, and the one that is asked for. Interrupted or killed, it goes
    on from its last epoch when it is called again. The network is trained as it was captured: without dropout.

    Args:
        train_loader: batches as the loss takes them, each time it is gone through; a ``DataLoader`` shuffles by the
            seed.
        loss: of a module that is called as the model is, and a batch; one number that has a gradient. None: the
            cross-entropy of batches (inputs, labels).
        method: as for ``compress``.
        calibration: as for ``compress``; None: the first 256 inputs of the loader, whose batches then are inputs, or
            pairs of inputs and labels.
        epochs: of training.
        learning_rate: at the start; it falls to 0 along a cosine.
        recipe: other settings of ``training`` in a run's configuration: ``momentum``, ``weight_decay``, ``optimizer``,
            ``warmup``, ``project_every``, ``mask_penalty``, ``reuse_penalty``.
        evaluate: as for ``compare``.
        minimize: as for ``compare``.
        compute_ratio: as for ``compare``.
        chip: as for ``compare``.
        skip: as for ``compare``.
        name: as for ``compare``.
        seed: as for ``compare``.
        output: as for ``compare``.
        progress: as for ``compare``.
        settings: as for ``compare``.

    Raises:
        UserError: as ``compare``; or training diverges, or the loader ends early.
    """
    if calibration is None:
        calibration = _first_inputs(train_loader, model)
    task = task_of(model, calibration, evaluate, minimize, name, train_loader, loss, skip)
    training = {"epochs": epochs, "compress_at": 0, "learning_rate": learning_rate, **(recipe or {})}
    values = {
        "training": TrainingConfig.checked(training, "finetune").model_dump(mode="json"),
        "seed": seed,
        **settings,
    }
    asked = _Asked.of(["dense", method], compute_ratio, chip, task.skip)
    return _run(task, asked, _given(task, chip) | values, output, "finetune", progress)


def explore(
    config: Mapping[str, Any] | str | Path | None = None,
    output: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    calibration: Tensor | Iterable[Inputs] | None = None,
    evaluate: Evaluate | None = None,
    minimize: Collection[str] = (),
    methods: Sequence[str | Method | MethodConfig] = ("calibrated",),
    compute_ratio: float = 0.25,
    chip: str | Path = "isaac-32nm",
    skip: str | Collection[str] = (),
    resume: bool | None = None,
    processes: int | None = 1,
    scheduler: str | None = None,
    allow_imports: bool = False,
    progress: Progress | None = quiet,
    **study: Any,
) -> Study:
    """Search a space of chips and compressions for the points that no other is better than.

    Args:
        config: a study's configuration: its values, or the path of a YAML file (docs/explore.md). Not needed with a
            model.
        output: the study's folder; None: as the configuration says.
        model: the user's own network, as for ``compare``, as are ``calibration``, ``evaluate``, ``minimize``,
            ``methods``, ``compute_ratio``, ``chip`` and ``skip``. Such a study runs in this process.
        resume: go on with the study in the folder, or join those who work on it. None: with a model, yes.
        processes: that work at once; None: one for each core, as far as memory allows. A script that asks for more
            than one needs ``if __name__ == "__main__"``.
        scheduler: instead: address of a Dask scheduler, as tcp://host:port, whose workers run the trials.
        allow_imports: whether code that the configuration names may run (``model: {import: ...}``).
        progress: called as the work proceeds.
        study: settings of a study by name: ``space``, ``objectives``, ``constraints``, ``sampler``, ``trials``, ... A
            number of ``evaluate`` is the objective ``metrics.NAME``; "accuracy" is short for that of that name.

    Raises:
        UserError: a mistake of the user; whatever can be known beforehand is checked before the folder is touched.
    """
    if model is None:
        given = study if config is None and study else config
        return explore_config(given, output, resume or False, processes, scheduler, progress, allow_imports)
    if calibration is None:
        raise UserError("explore: a model needs calibration inputs")
    if config is not None or processes != 1 or scheduler is not None:
        raise UserError("explore: a model is searched in one process, by settings that are given by name")
    task = task_of(model, calibration, evaluate, minimize, str(study.get("name", "")), skip=skip)
    base = _given(task, chip) | {"methods": _Asked.of(methods, compute_ratio, chip, task.skip).configs(task.graph)}
    given = {"name": task.name, **study, "base": base}
    given["objectives"] = _directed(given.get("objectives"), minimize)
    checked = StudyConfig.checked(given, "explore")
    folder = checked.output if output is None else path_of(output, "output")
    how = "prap_pim.explore", resume is not False, 1, None, progress or quiet
    return run_study(checked, folder, *how, Stages(task=task))


def _directed(objectives: Any, minimize: Collection[str]) -> Any:
    """Objectives with the direction of those of the user's own numbers of which less is better."""
    least = [f"metrics.{name}" for name in minimize]
    if isinstance(objectives, list | tuple) and any(name in least for name in objectives):
        return {name: "minimize" if name in least else better(figure_name(name)) for name in objectives}
    return objectives


def task_of(
    model: nn.Module,
    calibration: Tensor | Iterable[Inputs],
    evaluate: Evaluate | None = None,
    minimize: Collection[str] = (),
    name: str = "",
    train_loader: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    skip: str | Collection[str] = (),
) -> Task:
    """What a call says of a network, as a run needs it.

    Raises:
        UserError: one of its parts is not what it should be.
    """
    check_model(model)
    if evaluate is not None and not callable(evaluate):
        raise UserError(f"evaluate must be a function of a module, not {type(evaluate).__name__}")
    skipped = names_to_skip(skip)
    return Task(
        name=name or type(model).__name__,
        build=lambda: copy.deepcopy(model),
        data=Splits("given by a program", None, train_loader, calibration, None),
        own=True,
        function=evaluate,
        minimize=tuple(minimize),
        loss=of_user(loss),
        digests={"model": state_digest(model), **({"skip": json.dumps(skipped)} if skipped else {})},
        skip=skipped,
    )


@dataclass(frozen=True)
class _Asked:
    """Methods of a call, for one chip.

    Attributes:
        methods: names or objects.
        ratio: of those that are given by name.
        chip: decides what an OU holds.
        skip: as for ``compress``.
    """

    methods: Sequence[str | Method | MethodConfig]
    ratio: float
    chip: Chip
    skip: Sequence[str] = ()

    @staticmethod
    def of(methods: Any, ratio: float, chip: str | Path | Chip, skip: Sequence[str] = ()) -> "_Asked":
        return _Asked(methods, ratio, load_chip(chip), skip)

    def configs(self, graph: Captured) -> list[dict[str, Any]]:
        """As configurations for one network, in plain values; those of one name are numbered.

        Raises:
            UserError: there is no such method, or a ratio is out of reach.
        """
        methods = self.methods
        if isinstance(methods, str | Method | MethodConfig) or not methods:
            raise UserError("methods must be a list of names or objects, such as ['dense', Calibrated(...)]")
        found: list[MethodConfig] = []
        for config in all_within_reach(methods, lambda given: self._config(given, graph)):
            names = [other.name for other in found]
            if config.name in names:
                number = next(i for i in range(2, len(names) + 3) if f"{config.name}-{i}" not in names)
                config = config.model_copy(update={"name": f"{config.name}-{number}"})
            found.append(config)
        return [config.model_dump(mode="json") for config in found]

    def _config(self, given: str | Method | MethodConfig, graph: Captured) -> MethodConfig:
        takes_ratio = isinstance(given, str) and "compute_ratio" in getattr(METHODS.get(given), "model_fields", ())
        asked = method_of(given, {"compute_ratio": self.ratio if takes_ratio else None})
        return config_of(asked, graph, self.chip, self.skip)


def _given(task: Task, chip: str | Path | Chip) -> dict[str, Any]:
    """What a configuration says of a network that a program gave."""
    return {
        "name": task.name,
        "model": {"name": "given", "kind": task.name},
        "data": {"name": "given"},
        "training": "none",
        "chip": chip.name if isinstance(chip, Chip) else str(chip),
    }


def _run(
    task: Task, asked: _Asked, settings: Mapping[str, Any], output: str | Path, command: str, progress: Progress | None
) -> Comparison:
    folder = path_of(output, "output")
    config = RunConfig.checked({**settings, "methods": asked.configs(task.graph)}, command)
    how = f"prap_pim.{command}", True, progress or quiet
    results = pipeline.run(config, folder, *how, task=task, chip=asked.chip)
    return Comparison(results, folder, task)


def _first_inputs(loader: Iterable[Any], model: nn.Module) -> list[Inputs]:
    """Batches of the first inputs of a loader."""
    found: list[Inputs] = []
    count = 0
    with torch.random.fork_rng(devices=[]):  # a loader that shuffles gives the same each time
        torch.default_generator.manual_seed(0)
        for batch in islice(of_loader(loader, "train_loader"), _CALIBRATION):
            found.append(without_labels(of_arrays(batch), model))
            count += len(tensors(found[-1], type(model).__name__)[0])
            if count >= _CALIBRATION:
                break
    if not found:
        raise UserError("train_loader is empty: it gives no batch")
    return found
