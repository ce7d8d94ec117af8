"""The figures of a point, by the stages of a run. What stages find is kept in the study's folder by what it depends on.

Trials that differ in the ADC alone share the trained network and the compressed plan; only their cost is counted anew,
which takes less time than to look it up would be worth.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import key_of
from prap_pim.common.progress import Progress
from prap_pim.common.settings import nearest
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.folder import PLAN
from prap_pim.results.study import OWN
from prap_pim.runs.config import RunConfig
from prap_pim.runs.metric import OwnMetric
from prap_pim.runs.record import figures, unskipped_ratio
from prap_pim.runs.stages import (
    MethodStages,
    at_equal_compute,
    check,
    depends_on,
    digests,
    has_meaning,
    train_network,
)
from prap_pim.runs.store import Store
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.figures import BUDGET, QUALITY
from prap_pim.runs.study.folder import Locks, StudyFolder
from prap_pim.runs.study.space import Point, SearchSpace
from prap_pim.runs.task import Task, load_task
from prap_pim.training import Checkpoint

_PLANS = 8  # that a process keeps in memory, beside one trained network and one data set of each kind

Evaluate = Callable[[Mapping[str, Any]], dict[str, int | float | None]]


@dataclass(frozen=True)
class Stages:
    """A ``Kind``: figures by the stages of a run.

    Attributes:
        allow_imports: whether code that the base names may run.
        task: the network and what it is for, where a program gave them: for a study in one process.
    """

    allow_imports: bool = False
    task: Task | None = None

    def __call__(self, study: StudyConfig, folder: StudyFolder, locks: Locks, progress: Progress) -> Evaluate:
        return Figures(self, study, folder, locks, progress)

    def of(self, config: RunConfig) -> Task:
        """The network of a configuration, and what it is for."""
        return self.task or load_task(config, self.allow_imports)

    def check(self, study: StudyConfig) -> dict[str, str]:
        """Find mistakes that can be known before any work.

        Returns:
            digests of what the configuration only names.

        Raises:
            UserError: there is one.
        """
        space = SearchSpace(study)
        base = space.base
        task, chip = self.of(base), space.point({}).chip
        measured = any(name in QUALITY or name.startswith(OWN) for name in study.asked)
        if measured and self.task is not None and task.metric is None:
            raise UserError("objectives: what a network is worth needs evaluate, a function of a module")
        if measured and not has_meaning(base, task) and "checkpoint" not in study.space:
            raise UserError("objectives: accuracy needs training or a checkpoint: the base's weights are random")
        if measured and isinstance(task.metric, OwnMetric):
            given = task.metric.of_model(copy.deepcopy(task.model))  # a mistake shows before hours of trials
            for name in study.asked:
                number = name.removeprefix(OWN).removeprefix("bit_true_").removeprefix("compressed_")
                if (name in QUALITY or name.startswith(OWN)) and number not in given:
                    hint = nearest(number, list(given))
                    raise UserError(f"objectives: evaluate {task.metric.name} gives no {number!r} ({hint})")
        if base.training is not None or task.own:
            check(at_equal_compute(base, task.graph, chip), task.graph, chip)
        elif not space.varies_reach:
            at_equal_compute(base, task.graph, chip)  # or no trial has a figure
        return digests(base, task, chip)


class Figures:
    """Figures of the trials of one study."""

    def __init__(self, kind: Stages, study: StudyConfig, folder: StudyFolder, locks: Locks, progress: Progress) -> None:
        self._kind = kind
        self._space, self._folder, self._locks, self._progress = SearchSpace(study), folder, locks, progress
        self._quality = any(name in QUALITY or name.startswith(OWN) for name in study.asked)
        self._budget = any(name.startswith(BUDGET) for name in study.asked)
        # by configuration as JSON, bounded: memory stays flat however many trials there are
        self._task = lru_cache(maxsize=1)(lambda text: kind.of(self._config(text)))
        self._trained = lru_cache(maxsize=1)(self._train)
        self._of_network = lru_cache(maxsize=_PLANS)(self._depends_on)
        self._plans: dict[str, NetworkPlan] = {}  # by key, the oldest first

    def __call__(self, values: Mapping[str, Any]) -> dict[str, int | float | None]:
        """The figures of a trial.

        Raises:
            UserError: there can be no such run, or a file cannot be read or written.
        """
        stages = self._stages(self._space.point(values))
        plan, network = self._plan(stages), stages.task.graph.network
        costs = stages.costs(network, plan, self._budget)
        named: dict[str, Any] = {
            "ou_steps": costs.own.ou_steps,
            "compute_ratio": unskipped_ratio(network, costs.own, stages.chip),
            **figures(costs.own),
        }
        if costs.at_budget is not None:
            named["at_budget"] = {"budget": costs.budget, **figures(costs.at_budget)}
        if self._quality:
            named |= stages.accuracy().model_dump(include={*QUALITY, OWN[:-1]})
        return dict(_flat(named))

    def _stages(self, point: Point) -> MethodStages:
        """Those of a run of one method, in a folder of the study that is named by what they depend on."""
        text = _plain(point.config)
        config = at_equal_compute(point.config, self._task(text).graph, point.chip)
        here = config, self._task(text), point.chip, self._of_network(text), lambda: self._trained(text)
        return MethodStages(*here, self._place, self._progress)

    def _place(self, key: str) -> Store:
        return Store(self._folder.stage("compressed", key), self._locks.stage)

    def _plan(self, stages: MethodStages) -> NetworkPlan:
        key = stages.store.path.name
        if key not in self._plans:
            stages.compressed()
            if len(self._plans) == _PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = NetworkPlan.load(stages.store.path / PLAN)
        return self._plans[key]

    def _depends_on(self, text: str) -> dict[str, Any]:
        task = self._task(text)
        return depends_on(self._config(text), task.data_digest, task.digests)

    def _config(self, text: str) -> RunConfig:
        """Of what ``_plain`` gave."""
        return RunConfig.checked(
            {**json.loads(text), "name": self._space.base.name, "methods": [{"name": "dense"}]}, "run"
        )

    def _train(self, text: str) -> tuple[nn.Module, Checkpoint | None]:
        config, key = self._config(text), key_of(self._of_network(text))
        with self._locks.stage(key):
            checkpoints = self._folder.stage("trained", key) / "checkpoints"
            return train_network(config, self._task(text), checkpoints, self._progress)


def _plain(config: RunConfig) -> str:
    """What a run's trained network depends on, as JSON."""
    return config.model_dump_json(include={"data", "model", "checkpoint", "training", "seed", "metric", "loss"})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Any:
    for name, value in values.items():
        if hasattr(value, "model_dump"):
            value = value.model_dump()
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):  # names of what is not known
            yield f"{prefix}{name}", value
