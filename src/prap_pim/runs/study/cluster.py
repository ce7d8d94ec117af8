"""A study on a Dask cluster: trials run on its workers, this process proposes them and keeps their results.

Scheduler and workers must run in the folder in which the study was started, on files that all of them share: workers
read the data from there and share what stages find through the study's folder. A trial whose worker dies is given to
another one by the scheduler.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from prap_pim.common.errors import UserError
from prap_pim.common.progress import Progress, quiet
from prap_pim.results.folder import Manifest
from prap_pim.results.study import TrialResult
from prap_pim.runs.stages import versions
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.folder import Locks, StudyFolder, join_study
from prap_pim.runs.study.search import Proposal, Search
from prap_pim.runs.study.trial import Evaluate
from prap_pim.runs.study.work import Kind, attempt, work

_ANSWER = 20  # seconds that a scheduler has to answer and workers to come


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of a Dask scheduler that has workers.

    Raises:
        UserError: the extra ``cluster`` is not installed, no scheduler answers, or it has no workers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("a scheduler (--scheduler) needs Dask: pip install 'prap-pim[cluster]'") from error
    try:
        client = Client(address, timeout=_ANSWER, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(f"no Dask scheduler answers at {address} ({' '.join(str(error).split())})") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_ANSWER)
        except TimeoutError as error:
            raise UserError(f"the Dask scheduler at {address} has no workers") from error
        yield client


def on_cluster(
    client: Any, config: StudyConfig, search: Search, folder: StudyFolder, locks: Locks, kind: Kind, progress: Progress
) -> None:
    """Run the trials of a study on the workers of a Dask scheduler, until all have finished.

    Args:
        client: of the scheduler (``connected``).

    Raises:
        UserError: a worker has other files or versions, or a trial ends worker after worker.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    address = client.scheduler.address
    here = str(Path.cwd()), str(folder.path), folder.read_manifest()

    def submit(proposal: Proposal) -> Any:
        key = f"trial-{proposal.number}-{uuid4().hex}"
        return client.submit(_run_trial, *here, config, kind, proposal, key=key, pure=False)

    def run(proposals: Iterable[Proposal]) -> Iterator[TrialResult]:
        running = {submit(proposal): proposal for proposal in proposals}
        for future in as_completed(running, loop=client.loop):
            number = running.pop(future).number
            error = None if future.status == "finished" else future.exception() if future.status == "error" else "lost"
            if isinstance(error, UserError):
                raise error
            if isinstance(error, KilledWorker):
                raise UserError(f"trial {number} ended worker after worker; workers with more memory may do")
            if error is not None:
                raise UserError(f"trial {number} came to no end on the cluster at {address} ({error})")
            yield future.result()

    for worker, complaint in client.run(_complaint, *here, on_error="return").items():
        if isinstance(complaint, OSError):
            continue  # it has died meanwhile; the scheduler goes on with the others
        if isinstance(complaint, Exception):
            raise complaint
        if complaint:
            raise UserError(f"worker {worker} {complaint}")
    work(search, folder, locks, run, progress)


def _complaint(home: str, path: str, manifest: Manifest) -> str:
    """Why this worker cannot run trials of a study; empty: it can."""
    if str(Path.cwd()) != home:
        return f"runs in {Path.cwd()}: start it in {home}, on files that all workers share"
    try:
        found = StudyFolder(Path(path)).read_manifest()
    except UserError as error:
        return f"does not see the study: {error}"
    if found.origin != manifest.origin:
        return f"sees another study in {path}"
    other = next((name for name, version in manifest.versions.items() if versions().get(name) != version), None)
    return f"has another version of {other} ({versions().get(other)})" if other is not None else ""


class _Worker:
    """What a worker process keeps from trial to trial: the study that it works on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # one trial at a time: locks of the folder are the process's
        self._held = ExitStack()
        self._path = ""
        self._evaluate: Evaluate | None = None

    def evaluate(self, home: str, path: str, manifest: Manifest, config: StudyConfig, kind: Kind) -> Evaluate:
        """The study's figures; another study's are let go."""
        if self._evaluate is None or self._path != path:
            if complaint := _complaint(home, path, manifest):
                raise UserError(f"a worker {complaint}")
            self._held.close()
            folder, locks = self._held.enter_context(join_study(Path(path)))
            torch.set_num_threads(config.threads)
            self._path, self._evaluate = path, kind(config, folder, locks, quiet)
        return self._evaluate


_worker = _Worker()


def _run_trial(home: str, path: str, manifest: Manifest, config: StudyConfig, kind: Kind, proposal: Proposal) -> Any:
    with _worker.lock:
        return attempt(config, proposal, _worker.evaluate(home, path, manifest, config, kind))
