"""The figures of a point, by the stages of a run. What stages find is kept in the study's folder by what it depends on.

Trials that differ in the ADC alone share the trained network and the compressed plan; only their cost is counted anew,
which takes less time than to look it up would be worth.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import key_of
from prap_pim.common.progress import Progress
from prap_pim.frontend import Captured
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.folder import PLAN
from prap_pim.runs.config import RunConfig
from prap_pim.runs.record import figures, unskipped_ratio
from prap_pim.runs.stages import (
    MethodStages,
    check,
    data_digest,
    depends_on,
    digests,
    has_meaning,
    trace,
    train_network,
)
from prap_pim.runs.store import Store
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.figures import BUDGET, QUALITY
from prap_pim.runs.study.folder import Locks, StudyFolder
from prap_pim.runs.study.space import Point, SearchSpace
from prap_pim.training import Checkpoint
from prap_pim.training.data import Splits, load

_PLANS = 8  # that a process keeps in memory, beside one trained network and one data set of each kind

Evaluate = Callable[[Mapping[str, Any]], dict[str, int | float | None]]


class Stages:
    """Figures of the trials of one study."""

    def __init__(self, study: StudyConfig, folder: StudyFolder, locks: Locks, progress: Progress) -> None:
        self._space, self._folder, self._locks, self._progress = SearchSpace(study), folder, locks, progress
        self._quality = any(name in QUALITY for name in study.asked)
        self._budget = any(name.startswith(BUDGET) for name in study.asked)
        # by configuration as JSON, bounded: memory stays flat however many trials there are
        self._splits = lru_cache(maxsize=1)(self._load_splits)
        self._trained = lru_cache(maxsize=1)(self._train)
        self._graph = lru_cache(maxsize=1)(self._trace)
        self._of_network = lru_cache(maxsize=_PLANS)(self._depends_on)
        self._plans: dict[str, NetworkPlan] = {}  # by key, the oldest first

    @staticmethod
    def check(study: StudyConfig) -> dict[str, str]:
        """Find mistakes that can be known before any work.

        Returns:
            digests of what the configuration only names.

        Raises:
            UserError: there is one.
        """
        space = SearchSpace(study)
        base = space.base
        splits, chip = load(base.data, base.seed), space.point({}).chip
        if any(name in QUALITY for name in study.asked) and not has_meaning(base) and "checkpoint" not in study.space:
            raise UserError("objectives: accuracy needs training or a checkpoint: the base's weights are random")
        if base.training is not None:
            check(base, trace(base, splits), chip)
        return digests(base, splits, chip)

    def __call__(self, values: Mapping[str, Any]) -> dict[str, int | float | None]:
        """The figures of a trial.

        Raises:
            UserError: there can be no such run, or a file cannot be read or written.
        """
        stages = self._stages(self._space.point(values))
        plan, network = self._plan(stages), stages.graph.network
        costs = stages.costs(network, plan, self._budget)
        named: dict[str, Any] = {
            "ou_steps": costs.own.ou_steps,
            "compute_ratio": unskipped_ratio(network, costs.own, stages.chip),
            **figures(costs.own),
        }
        if costs.at_budget is not None:
            named["at_budget"] = {"budget": costs.budget, **figures(costs.at_budget)}
        if self._quality:
            named |= stages.accuracy().model_dump(include=set(QUALITY))
        return dict(_flat(named))

    def _stages(self, point: Point) -> MethodStages:
        """Those of a run of one method, in a folder of the study that is named by what they depend on."""
        text, splits = _plain(point.config), self._data(point.config)[0]
        here = point.config, splits, point.chip, self._of_network(text), self._graph(text), lambda: self._trained(text)
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

    def _load_splits(self, data: str, seed: int) -> tuple[Splits, str]:
        """The data, and a digest of them."""
        config = RunConfig.checked({**self._space.base.resolved(), "data": json.loads(data)}, "run")
        splits = load(config.data, seed)
        return splits, data_digest(splits)

    def _data(self, config: RunConfig) -> tuple[Splits, str]:
        return self._splits(config.data.model_dump_json(), config.seed)

    def _depends_on(self, text: str) -> dict[str, Any]:
        config = self._config(text)
        return depends_on(config, self._data(config)[1])

    def _config(self, text: str) -> RunConfig:
        """Of what ``_plain`` gave."""
        return RunConfig.checked(
            {**json.loads(text), "name": self._space.base.name, "methods": [{"name": "dense"}]}, "run"
        )

    def _train(self, text: str) -> tuple[nn.Module, Checkpoint | None]:
        config, key = self._config(text), key_of(self._of_network(text))
        with self._locks.stage(key):
            checkpoints = self._folder.stage("trained", key) / "checkpoints"
            return train_network(config, self._data(config)[0], checkpoints, self._progress)

    def _trace(self, text: str) -> Captured:
        config = self._config(text)
        return trace(config, self._data(config)[0])


def _plain(config: RunConfig) -> str:
    """What a run's trained network depends on, as JSON."""
    return config.model_dump_json(include={"data", "model", "checkpoint", "training", "seed"})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Any:
    for name, value in values.items():
        if hasattr(value, "model_dump"):
            value = value.model_dump()
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
