"""The folder of a study: what it holds, and the locks by which any number of processes share it."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prap_pim.common.errors import UserError
from prap_pim.results.folder import Inside, Manifest, RunFolder, claim, open_lock, refuse_foreign, remove_leftovers
from prap_pim.results.study import TrialResult
from prap_pim.runs.store import Entry

# bytes of the lock file, whose locks the system takes back from a process that dies
_ORDER = 0  # who proposes trials and writes the journal
_PRESENCE = 1  # shared by all who work on the study
_TRIALS = 1 << 20
_STAGES = 1 << 40


class Locks:
    """Locks on single bytes of a file. They are the process's: its threads do not exclude one another.

    A file system that several machines share must support POSIX locks, as NFS does.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the folder; made when missing.

        Raises:
            UserError: it cannot be made or written.
        """
        self._path, self._handle = path, open_lock(path)

    def close(self) -> None:
        """Give back all locks."""
        os.close(self._handle)

    def take(self, byte: int, *, wait: bool, shared: bool = False) -> bool:
        """Take one lock; False: another process has it.

        Raises:
            UserError: the file system has no locks.
        """
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.lockf(self._handle, how, 1, byte)
        except OSError as error:
            if not wait and error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise UserError(f"cannot lock files in {self._path}: {error.strerror or error}") from error
        return True

    @contextmanager
    def _held(self, byte: int) -> Iterator[None]:
        self.take(byte, wait=True)
        try:
            yield
        finally:
            fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, byte)

    def order(self) -> AbstractContextManager[None]:
        """The right to propose trials and to write the journal, until the block ends."""
        return self._held(_ORDER)

    def stage(self, key: str) -> AbstractContextManager[None]:
        """The right to compute the stage with this key, until the block ends."""
        return self._held(_STAGES + int(key[:14], 16))

    def alone(self) -> bool:
        """Whether nobody else works on the study just now."""
        alone = self.take(_PRESENCE, wait=False)
        self.take(_PRESENCE, wait=True, shared=True)
        return alone

    def take_trial(self, number: int) -> bool:
        """The right to run a trial; False: another process has it."""
        return self.take(_TRIALS + number, wait=False)

    def give_back_trial(self, number: int) -> None:
        """Let others run a trial."""
        fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, _TRIALS + number)


@dataclass(frozen=True)
class StudyFolder(RunFolder):
    """Paths inside a study's folder. Every file there is whole but the journal, to which lines are added."""

    kind = "study"
    journal = Inside("journal.log")  # Optuna's: finished trials in the order of their numbers, a line each
    proposals = Inside("proposals")  # trials as they were proposed, a file for each batch
    trials_table = Inside("trials.parquet")  # every trial, a row each
    front_table = Inside("front.parquet")  # the trials of the front, a row each

    def stage(self, kind: str, key: str) -> Path:
        """The folder of a stage's results: what depends on the same things has the same key."""
        return self.path / "stages" / f"{kind}-{key}"

    def trial(self, number: int) -> Path:
        """The result of a trial; it is there when the trial has finished."""
        return self.path / "trials" / f"{number:06d}.json"

    def save_trial(self, trial: TrialResult) -> None:
        """Keep the result of a trial.

        Raises:
            UserError: it cannot be written.
        """
        self._entry(trial.number, trial.values).save(trial)

    def load_trial(self, number: int, values: dict[str, Any]) -> TrialResult | None:
        """The result of the trial with these values; None, and its file is removed, if that is not what was written."""
        entry = self._entry(number, values)
        if (trial := entry.load(TrialResult)) is None:
            entry.path.unlink(missing_ok=True)
        return trial

    def _entry(self, number: int, values: dict[str, Any]) -> Entry:
        return Entry(self.trial(number), {"number": number, "values": values})


@contextmanager
def open_study(
    path: Path, config: dict[str, Any], manifest: Manifest, resume: bool
) -> Iterator[tuple[StudyFolder, Locks]]:
    """Take part in the study that a folder holds, or begin it there, until the block ends.

    Raises:
        UserError: the folder holds another study or something else, or this one and it is not to be resumed; or it
            cannot be written.
    """
    folder = StudyFolder(path)
    refuse_foreign(folder)
    with closing(Locks(path)) as locks:
        with locks.order():
            claim(folder, config, manifest, resume)
            if locks.take(_PRESENCE, wait=False):  # nobody else is there
                remove_leftovers(folder)
        locks.take(_PRESENCE, wait=True, shared=True)
        yield folder, locks


@contextmanager
def join_study(path: Path) -> Iterator[tuple[StudyFolder, Locks]]:
    """Take part in a study that another process of ours has opened, until the block ends."""
    with closing(Locks(path)) as locks:
        locks.take(_PRESENCE, wait=True, shared=True)
        yield StudyFolder(path), locks
