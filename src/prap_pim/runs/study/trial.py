"""The figures of a point, by the stages of a run. What stages find is kept in the study's folder by what it depends on.

Trials that differ in the ADC alone share the trained network and the compressed plan; only their cost is counted anew,
which takes less time than to look it up would be worth.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from prap_pim.capture import Captured
from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json, write_json, write_whole
from prap_pim.common.progress import Progress
from prap_pim.cost import ZeroInput, cost
from prap_pim.crossbar import CrossbarModel
from prap_pim.ir.network import Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.calibrate import CalibratedReuse
from prap_pim.runs.config import RunConfig
from prap_pim.runs.record import compute_ratio, figures
from prap_pim.runs.stages import (
    PLAN,
    capture_network,
    check,
    compress_method,
    crossbar_budget,
    digests,
    has_meaning,
    prove,
    saved_method,
    train_network,
    zero_inputs,
)
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.figures import BUDGET, QUALITY
from prap_pim.runs.study.folder import Locks, StudyFolder
from prap_pim.runs.study.space import Point, SearchSpace
from prap_pim.training import Checkpoint
from prap_pim.training.data import Splits, load

_PLANS = 8  # that a process keeps in memory, beside one trained network and one data set of each kind
_DONE = "done.json"  # of a stage's folder, written last

Evaluate = Callable[[Mapping[str, Any]], dict[str, int | float | None]]


class Stages:
    """Figures of the trials of one study."""

    def __init__(self, study: StudyConfig, folder: StudyFolder, locks: Locks, progress: Progress) -> None:
        self._space, self._folder, self._locks, self._progress = SearchSpace(study), folder, locks, progress
        self._quality = any(name in QUALITY for name in study.asked)
        self._budget = any(name.startswith(BUDGET) for name in study.asked)
        # by configuration and key, bounded: memory stays flat however many trials there are
        self._splits = lru_cache(maxsize=1)(self._load_splits)
        self._trained = lru_cache(maxsize=1)(self._train)
        self._network = lru_cache(maxsize=1)(self._capture)
        self._plan = lru_cache(maxsize=_PLANS)(lambda place: NetworkPlan.load(place / PLAN))

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
            check(base, splits, chip)
        return digests(base, splits, chip)

    def __call__(self, values: Mapping[str, Any]) -> dict[str, int | float | None]:
        """The figures of a trial.

        Raises:
            UserError: there can be no such run, or a file cannot be read or written.
        """
        point = self._space.point(values)
        config, chip = point.config, point.chip
        place = self._compressed(point)
        plan, network = self._plan(place), self._network(*self._key_of_network(config))
        skipped = self._zero_inputs(point, place)
        costs = cost(network, plan, chip, config.mapping, zero_input=skipped)
        found: dict[str, Any] = {
            "ou_steps": costs.ou_steps,
            "compute_ratio": compute_ratio(network, costs, chip),
            **figures(costs),
        }
        if self._budget:
            budget = crossbar_budget(config, network, plan, chip)
            at_budget = cost(network, plan, chip, crossbars=budget, zero_input=skipped)
            found["at_budget"] = {"budget": budget, **figures(at_budget)}
        if self._quality:
            found |= self._measured(point, place)
        return dict(_flat(found))

    def _load_splits(self, data: str, seed: int) -> tuple[Splits, str]:
        """The data, and a digest of them."""
        config = RunConfig.checked({**self._space.base.resolved(), "data": json.loads(data)}, "run")
        splits = load(config.data, seed)
        total = sha256()
        for part in (splits.train, splits.calibration, splits.test):
            for tensor in (part.inputs, part.labels):
                total.update(tensor.contiguous().numpy().tobytes())
        return splits, total.hexdigest()

    def _data(self, config: RunConfig) -> tuple[Splits, str]:
        return self._splits(config.data.model_dump_json(), config.seed)

    def _key_of_network(self, config: RunConfig) -> tuple[str, str]:
        """What the trained network depends on: its key, and the configuration as JSON."""
        checkpoint = None if config.checkpoint is None else _file_digest(config.checkpoint)
        named = config.model_dump(mode="json", include={"data", "model", "checkpoint", "training", "seed"})
        named |= {"name": self._space.base.name, "methods": [{"name": "dense"}]}  # of no effect on it
        return _key({**named, "data": self._data(config)[1], "checkpoint": checkpoint}), json.dumps(named)

    def _train(self, key: str, config_json: str) -> tuple[nn.Module, Checkpoint | None]:
        config = RunConfig.checked(json.loads(config_json), "run")
        with self._locks.stage(key):
            folder = self._folder.stage("trained", key) / "checkpoints"
            return train_network(config, self._data(config)[0], folder, self._progress)

    def _capture(self, key: str, config_json: str) -> Network:
        """The shapes of a network; its weights are not those of any plan."""
        config = RunConfig.checked(json.loads(config_json), "run")
        model, _ = self._trained(key, config_json)
        return capture_network(config, self._data(config)[0], model).network

    def _compressed(self, point: Point) -> Path:
        """The folder that holds the compressed network."""
        config, chip, method = point.config, point.chip, point.config.methods[0]
        of_network = self._key_of_network(config)
        key = _key(
            {
                "network": of_network[0],
                "method": method.model_dump(mode="json", exclude={"description"}),
                "quantize": config.quantize.model_dump(mode="json"),
                "grain": vars(chip.grain),
                # calibrated reuse balances layers over crossbars
                "load": chip.ous_per_crossbar if isinstance(method.reuse, CalibratedReuse) else None,
            }
        )
        place = self._folder.stage("compressed", key)
        if _is_done(place):
            return place
        trained, branch = self._trained(*of_network)
        with self._locks.stage(key):
            if not _is_done(place):
                splits = self._data(config)[0]
                found = compress_method(config, method, splits, chip, trained, branch, place, self._progress)
                write_json(place / _DONE, {"plan": found.plan.digest()})
        return place

    def _saved(self, point: Point, place: Path) -> tuple[Captured, NetworkPlan]:
        return saved_method(point.config, self._data(point.config)[0], place)

    def _zero_inputs(self, point: Point, place: Path) -> ZeroInput | None:
        if not point.config.zero_input_skipping:
            return None
        path = place / "zero-inputs.safetensors"
        with self._locks.stage(_key({"zero inputs": place.name})):
            try:
                return load_file(path)
            except (OSError, SafetensorError):
                splits = self._data(point.config)[0]
                found = zero_inputs(point.config, *self._saved(point, place), splits, point.chip)
                assert found is not None
                write_whole(path, save(dict(found)))
                return found

    def _measured(self, point: Point, place: Path) -> dict[str, float | None]:
        """Accuracy; the same for all ADCs that can count what an OU's rows sum to."""
        crossbars = CrossbarModel.of(point.chip, adc_bits=min(point.chip.adc_bits, point.chip.lossless_adc_bits))
        key = _key(
            {
                "compressed": place.name,
                "crossbars": crossbars.model_dump(mode="json"),
                "checked": point.config.checked_images,
            }
        )
        path = place / f"quality-{key}.json"
        with self._locks.stage(key):
            try:
                saved = read_json(path)
                return {name: saved[name] for name in QUALITY}
            except (UserError, KeyError, TypeError):
                pass
            splits = self._data(point.config)[0]
            captured, plan = self._saved(point, place)
            compressed, proof = prove(point.config, captured, plan, splits, point.chip, self._progress)
            of_bytes = splits.test.are_tokens
            bits = (compressed.bits, proof.quality.bits) if of_bytes else (None, None)
            found = dict(zip(QUALITY, (compressed.accuracy, proof.quality.accuracy, *bits), strict=True))
            write_json(path, found)
            return found


def _is_done(place: Path) -> bool:
    return (place / _DONE).exists() and (place / PLAN).exists()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Any:
    for name, value in values.items():
        if hasattr(value, "model_dump"):
            value = value.model_dump()
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _key(parts: Mapping[str, Any]) -> str:
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


@lru_cache(maxsize=4)
def _file_digest(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
