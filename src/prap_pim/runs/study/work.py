"""What each process does that takes part in a study: take a trial that nobody has, run it, keep its result."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.progress import Progress
from prap_pim.results.study import TrialResult
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.folder import Locks, StudyFolder
from prap_pim.runs.study.search import Proposal, Search
from prap_pim.runs.study.trial import Evaluate


class Kind(Protocol):
    """What finds the figures of trials: ``Stages()``, or another in tests. It is sent to other processes."""

    def __call__(self, study: StudyConfig, folder: StudyFolder, locks: Locks, progress: Progress) -> Evaluate:
        """For one process."""

    def check(self, study: StudyConfig) -> dict[str, str]:
        """Find mistakes before any work; returns digests of what the configuration only names."""


_PAUSE = 0.05  # seconds until one looks again whether others have finished, or died

Run = Callable[[Iterable[Proposal]], Iterator[TrialResult]]  # the results of proposals, in any order


def work(search: Search, folder: StudyFolder, locks: Locks, run: Run, progress: Progress) -> None:
    """Run trials until all of the study have finished, here or elsewhere.

    Args:
        search: proposes them.
        folder: where results are kept.
        locks: a trial is the process's that has its lock, until it has finished or the process has died.
        run: how to run trials that are ours; it takes them one by one, as it has room.
        progress: called after every trial of ours.

    Raises:
        UserError: something that is no trial's fault, such as a full disk; all that has finished is kept.
    """
    while batch := search.next_batch():
        while open_ := [proposal for proposal in batch if not folder.trial(proposal.number).exists()]:
            idle = True
            for trial in run(_ours(open_, folder, locks)):
                idle = False
                folder.save_trial(trial)
                locks.give_back_trial(trial.number)
                progress("trials", search.one_more(), search.total, f"trial {trial.number}")
            if idle:
                time.sleep(_PAUSE)


def _ours(proposals: Iterable[Proposal], folder: StudyFolder, locks: Locks) -> Iterator[Proposal]:
    for proposal in proposals:
        if not locks.take_trial(proposal.number):
            continue
        if folder.trial(proposal.number).exists():  # finished since we looked
            locks.give_back_trial(proposal.number)
            continue
        yield proposal


def one_by_one(config: StudyConfig, evaluate: Evaluate) -> Run:
    """Trials run here."""

    def run(proposals: Iterable[Proposal]) -> Iterator[TrialResult]:
        for proposal in proposals:
            yield attempt(config, proposal, evaluate)

    return run


def attempt(config: StudyConfig, proposal: Proposal, evaluate: Evaluate) -> TrialResult:
    """Run one trial.

    Raises:
        UserError: a file could not be read or written, which is no fault of the trial.
    """
    number, values = proposal.number, proposal.values
    try:
        figures = evaluate(values)
        for name in config.asked:
            value = figures.get(name)
            if value is None or not math.isfinite(value):
                raise UserError(f"this point has no figure {name}")
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return TrialResult(number=number, values=values, reason=str(error))
    except (MemoryError, ArithmeticError) as error:  # this point is impossible, others are not
        return TrialResult(number=number, values=values, reason=f"{type(error).__name__}: {one_line(error)}")
    violation = {name: limit.violation(float(figures[name] or 0)) for name, limit in config.constraints.items()}
    return TrialResult(number=number, values=values, figures=figures, violation=violation)
