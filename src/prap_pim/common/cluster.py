"""Work shared out on the workers of a Dask cluster."""

import pickle
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from prap_pim.common.errors import UserError

_ANSWER = 20  # seconds that a scheduler has to answer and workers to come
_AHEAD = 2  # tasks for each thread of the workers that are on the way

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Tasks(Protocol):
    """A function of many items, wherever it is computed."""

    def __call__(self, function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
        """What it gives, in the order of the items, which are taken one by one as results are asked for."""


def here(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
    """``Tasks`` in this process, one after another."""
    return map(function, items)


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
    if not isinstance(address, str):
        raise UserError(f"scheduler must be an address such as 'tcp://host:8786', not {type(address).__name__}")
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


@contextmanager
def tasks_on(address: str, versions: Callable[[], Mapping[str, str]]) -> Iterator[Tasks]:
    """Tasks for the workers of a Dask scheduler. One whose worker dies is given to another one by the scheduler.

    Args:
        address: as tcp://host:port.
        versions: of code and packages, which must be the same on all workers; importable there.

    Raises:
        UserError: as ``connected``, or a worker has other versions.
    """
    with connected(address) as client:
        own = versions()
        for worker, found in client.run(versions, on_error="return").items():
            if isinstance(found, OSError):
                continue  # it has died meanwhile; the scheduler goes on with the others
            if isinstance(found, Exception):
                raise UserError(f"worker {worker} cannot import prap_pim: {found}")
            if other := next((name for name in own if found.get(name) != own[name]), None):
                raise UserError(f"worker {worker} has another version of {other} ({found.get(other)})")
        yield partial(_on_workers, client)


def _on_workers(client: Any, function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
    running: deque[Any] = deque()
    try:
        for item in items:
            running.append(_submitted(client, function, item))
            if len(running) >= _AHEAD * max(1, sum(client.nthreads().values())):
                yield _result(running.popleft())
        while running:
            yield _result(running.popleft())
    finally:
        client.cancel(list(running))


def _submitted(client: Any, function: Callable[[_Item], _Found], item: _Item) -> Any:
    """A future. The item travels with the task, so that it can be done again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large tasks
        return client.submit(_computed, function, pickle.dumps(item), key=f"layer-{uuid4().hex}", pure=False)


def _computed(function: Callable[[Any], _Found], item: bytes) -> bytes:
    """On a worker. Arrays are as pickle makes them here and there: Dask's own would be read-only."""
    return pickle.dumps(function(pickle.loads(item)))


def _result(future: Any) -> Any:
    from distributed.scheduler import KilledWorker

    try:
        return pickle.loads(future.result())
    except KilledWorker as error:
        raise UserError("a layer ended worker after worker; workers with more memory may do") from error
    except CancelledError as error:
        raise UserError("the Dask scheduler ended before all layers were done") from error
