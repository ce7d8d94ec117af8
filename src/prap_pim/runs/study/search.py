"""Proposals of trials by Optuna, and its journal of those that have finished.

What is proposed depends on the study's configuration and on the trials before its batch, never on time or on who asks:
each trial's sampler has a seed of its own, of the study's seed and the trial's number, and batches are proposed when
all trials before them have finished. So any number of processes, killed at any time, find the same trials.
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import OptunaError
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from prap_pim.common.errors import UserError
from prap_pim.common.files import key_of, read_json, write_json
from prap_pim.results.entries import damaged
from prap_pim.results.study import TrialResult
from prap_pim.runs.study.config import Choices, Range, StudyConfig
from prap_pim.runs.study.folder import Locks, StudyFolder
from prap_pim.runs.study.space import SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)

_BLIND = 1000  # trials that are proposed at once, where that depends on no other: a million would take minutes
_OFTEN = 100  # the journal is written again when a hundredth more trials have finished

# what Optuna answers to a damaged journal: it does not check what it reads
_DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, OptunaError)


@dataclass(frozen=True)
class Proposal:
    """A trial that is to be run.

    Attributes:
        number: of the trial.
        values: of the settings of the space, by name.
        notes: what Optuna's sampler needs to know of the trial later.
    """

    number: int
    values: dict[str, Any]
    notes: dict[str, Any]


class Search:
    """The trials of a study, shared through its folder."""

    def __init__(self, config: StudyConfig, folder: StudyFolder, locks: Locks) -> None:
        """
        Raises:
            UserError: the space is wrong, or the journal cannot be used; or it is damaged while others work with it.
        """
        self.space = SearchSpace(config)
        self._config, self._folder, self._locks = config, folder, locks
        grid = self.space.grid() if config.sampler == "grid" else None
        self._grid = grid if grid is None or config.trials is None else grid[: config.trials]
        self.total = len(self._grid) if self._grid is not None else config.trials or 0
        self._memory = self._new_memory()
        self._asked: dict[int, Trial] = {}
        self._known = 0  # trials whose results ``_memory`` has
        self._batch: list[Proposal] = []  # the last one
        self._counted, self._since = 0, 0  # trials in the journal when it was last written; finished here since then
        self._journal: Study
        with locks.order():
            self._journal = self._whole_journal()

    def _whole_journal(self) -> Study:
        """The journal; a damaged one is removed, and a new one made of the trials as ``_commit`` comes by."""
        path = self._folder.journal
        with suppress(*_DAMAGE):
            self._journal = self._open_journal()
            if self._is_whole(self._journal):
                return self._journal
        if not self._locks.alone():
            raise UserError(f"{path} is damaged: it is made anew when nobody else works on the study")
        path.unlink(missing_ok=True)
        return self._open_journal()

    def _is_whole(self, journal: Study) -> bool:
        """Whether a journal tells what is known of the trials otherwise."""
        found = journal.get_trials(deepcopy=False)
        if journal.directions != self._memory.directions or len(found) > self.total:
            return False
        known = list(islice(self.trials(), len(found)))
        return len(known) == len(found) and all(
            trial is None or _same(self._frozen(proposal, trial), its)
            for (proposal, trial), its in zip(known, found, strict=True)
        )

    def _open_journal(self) -> Study:
        path = self._folder.journal
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Mending(path)))
            if not storage.get_all_studies():
                return optuna.create_study(
                    storage=storage, study_name=self._config.name, directions=list(self._config.objectives.values())
                )
            return optuna.load_study(study_name=None, storage=storage)
        except OSError as error:
            raise UserError(f"cannot use {path}: {error.strerror or error}") from error

    @property
    def finished(self) -> int:
        """Trials in the journal: all up to this number have finished."""
        return len(self._journal.get_trials(deepcopy=False))

    def next_batch(self) -> list[Proposal]:
        """The trials that are to be run now, finished ones among them; none: the study is complete.

        Raises:
            UserError: the folder cannot be written or holds something else.
        """
        with self._locks.order():
            done = self._commit()
            if done >= self.total:
                return [proposal for proposal, trial in self.trials() if trial is None]  # damaged since
            if not self._batch or self._batch[-1].number < done:
                self._batch = self._read_batch(done) or self._propose(done)
            return self._batch

    def commit(self) -> int:
        """Write trials that have finished into the journal, in the order of their numbers; how many it has now.

        Raises:
            UserError: it cannot be written.
        """
        with self._locks.order():
            self._counted, self._since = self._commit(), 0
        return self._counted

    def one_more(self) -> int:
        """How many trials have finished, about, one more here; the journal is written when that is a hundredth more.

        Optuna lists all trials to count them: after each, a million would take days.

        Raises:
            UserError: as ``commit``.
        """
        self._since += 1
        if self._since * _OFTEN < self._counted:
            return self._counted + self._since
        return self.commit()

    def _commit(self) -> int:
        done = self.finished
        while done < self.total and self._folder.trial(done).exists():
            if not self._batch or not self._batch[0].number <= done <= self._batch[-1].number:
                self._batch = self._read_batch(done)
                if not self._batch:
                    raise UserError(f"{self._folder.path} holds trial {done}, but not its proposal")
            proposal = self._batch[done - self._batch[0].number]
            if (trial := self._folder.load_trial(done, proposal.values)) is None:
                break
            try:
                self._journal.add_trial(self._frozen(proposal, trial))
            except OSError as error:
                raise UserError(f"cannot write {self._folder.journal}: {error.strerror or error}") from error
            done += 1
        return done

    def _frozen(self, proposal: Proposal, trial: TrialResult) -> FrozenTrial:
        kinds = {d.name: d.values for d in self.space.dimensions}
        whole = trial.reason is None
        return create_trial(
            state=TrialState.COMPLETE if whole else TrialState.FAIL,
            values=[float(trial.figures[name] or 0) for name in self._config.objectives] if whole else None,
            params={name: _encoded(kinds[name], value) for name, value in proposal.values.items()},
            distributions={name: _distribution(kinds[name]) for name in proposal.values},
            user_attrs={} if whole else {"reason": trial.reason},
            system_attrs=dict(proposal.notes),
            constraints=dict(trial.violation) if whole else None,
        )

    def trials(self) -> Iterator[tuple[Proposal, TrialResult | None]]:
        """All that were proposed, in the order of their numbers; None: there is no result, or it is damaged."""
        number = 0
        while number < self.total and (batch := self._read_batch(number)):
            yield from ((proposal, self._folder.load_trial(proposal.number, proposal.values)) for proposal in batch)
            number = batch[-1].number + 1

    def _read_batch(self, number: int) -> list[Proposal]:
        """The batch that has this trial; empty: it has not been proposed."""
        for path in sorted(self._folder.proposals.glob("[0-9]*.json"), reverse=True):
            if int(path.stem) <= number:
                try:
                    batch = _batch_of(path)
                except UserError:
                    batch = self._propose_again(path)
                return batch if batch and batch[-1].number >= number else []
        return []

    def _propose_again(self, path: Path) -> list[Proposal]:
        """What a damaged file held: the same trials lead to the same proposals.

        Raises:
            UserError: others work on the study, or trials before it are missing.
        """
        first = int(path.stem)
        if not self._locks.alone() or self.finished < first:
            raise damaged(path)
        self._memory, self._asked, self._known = self._new_memory(), {}, 0
        return self._propose(first)

    def _new_memory(self) -> Study:
        return optuna.create_study(directions=list(self._config.objectives.values()))

    def _propose(self, first: int) -> list[Proposal]:
        """The batch that begins with trial ``first``, all before it being in the journal."""
        blind = self._config.sampler in ("grid", "random")  # what is proposed does not depend on what was found
        count = min(self.total - first, max(self._config.batch, _BLIND) if blind else self._config.batch)
        if self._grid is not None:
            batch = [Proposal(first + i, values, {}) for i, values in enumerate(self._grid[first : first + count])]
        else:
            if blind:
                self._memory = (
                    self._new_memory()
                )  # to ask takes longer the more it knows, and what is random needs none
                self._asked = {}
            else:
                self._remember(first)
            batch = [self._ask(first + i) for i in range(count)]
        content = {"proposals": [vars(proposal) for proposal in batch]}
        write_json(self._folder.proposals / f"{first:06d}.json", {**content, "sha256": key_of(content)})
        return batch

    def _remember(self, first: int) -> None:
        """Tell the study in memory, which proposes, what the journal has of the trials before ``first``."""
        for trial in self._journal.get_trials(deepcopy=False)[self._known : first]:
            asked = self._asked.pop(trial.number, None)
            if asked is None:
                self._memory.add_trial(trial)
            else:
                for name, excess in trial.constraints.items():
                    asked.set_constraint(name, excess)
                self._memory.tell(asked, trial.values, trial.state)
            self._known += 1

    def _ask(self, number: int) -> Proposal:
        self._memory.sampler = self._sampler(number)
        trial = self._memory.ask()
        assert self._config.sampler == "random" or trial.number == number
        values: dict[str, Any] = {}
        for dimension in self.space.values_of(values):
            kind = dimension.values
            if isinstance(kind, Choices):
                encoded = trial.suggest_categorical(dimension.name, [_code(value) for value in kind.values])
            elif kind.whole:
                encoded = trial.suggest_int(
                    dimension.name, int(kind.low), int(kind.high), step=int(kind.step or 1), log=kind.log
                )
            else:
                encoded = trial.suggest_float(dimension.name, kind.low, kind.high, step=kind.step, log=kind.log)
            values[dimension.name] = _decoded(kind, encoded)
        self._asked[number] = trial
        notes = self._memory.get_trials(deepcopy=False)[trial.number].system_attrs
        return Proposal(number, values, dict(notes))

    def _sampler(self, number: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
        if self._config.sampler == "random":
            return RandomSampler(seed)
        if self._config.sampler == "tpe":
            return TPESampler(seed=seed)
        sampler = NSGAIISampler(population_size=self._config.batch, seed=seed)
        done = [trial for trial in self._memory.get_trials(deepcopy=False) if trial.state.is_finished()]
        newest = max((sampler.get_trial_generation(self._memory, trial) for trial in done), default=0)
        for generation in range(newest + 1):  # each from the one before: the sampler would descend to the first
            sampler.get_parent_population(self._memory, generation)
        return sampler

    def front(self) -> list[int]:
        """Numbers of the trials that are feasible and not dominated; of equal points the first."""
        first: dict[str, int] = {}
        for trial in sorted(self._journal.best_trials, key=lambda trial: trial.number):
            first.setdefault(json.dumps(trial.params, sort_keys=True), trial.number)
        return sorted(first.values())


def _batch_of(path: Path) -> list[Proposal]:
    """
    Raises:
        UserError: a file is not what was written.
    """
    content = read_json(path)
    if isinstance(content, dict):
        if content.pop("sha256", None) != key_of(content):
            raise damaged(path)
        content = content.get("proposals")
    try:
        batch = [Proposal(**proposal) for proposal in content]
    except TypeError as error:
        raise UserError(f"cannot read {path}: it holds no proposals") from error
    numbers = [proposal.number for proposal in batch]
    if numbers != list(range(int(path.stem), int(path.stem) + len(batch))):
        raise damaged(path)
    if not all(isinstance(part, dict) for proposal in batch for part in (proposal.values, proposal.notes)):
        raise damaged(path)
    return batch


def _same(one: FrozenTrial, other: FrozenTrial) -> bool:
    return all(
        getattr(one, key) == getattr(other, key)
        for key in ("state", "values", "params", "distributions", "user_attrs", "system_attrs", "constraints")
    )


def _code(value: Any) -> bool | int | float | str | None:
    """A choice as Optuna has it: what is not plain as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def _encoded(kind: Choices | Range, value: Any) -> Any:
    return _code(value) if isinstance(kind, Choices) else value


def _decoded(kind: Choices | Range, encoded: Any) -> Any:
    if isinstance(kind, Range):
        return encoded
    return next(v for v in kind.values if _code(v) == encoded and isinstance(_code(v), type(encoded)))


def _distribution(kind: Choices | Range) -> BaseDistribution:
    if isinstance(kind, Choices):
        return CategoricalDistribution([_code(value) for value in kind.values])
    if kind.whole:
        return IntDistribution(int(kind.low), int(kind.high), log=kind.log, step=int(kind.step or 1))
    return FloatDistribution(kind.low, kind.high, log=kind.log, step=kind.step)


class _Mending(JournalFileOpenLock):
    """Who writes has the study's lock already; what is left to do before is to cut off the line of a killed process."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        with open(self._path, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            start = end
            while start > 0:  # back to the end of the last whole line
                step = min(4096, start)
                file.seek(start - step)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    start = start - step + newline + 1
                    break
                start -= step
            if start < end:
                file.truncate(start)
        return True

    def release(self) -> None:
        pass
