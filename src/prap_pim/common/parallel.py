"""Work on all cores: kernels that release the interpreter lock, on plain threads; and what worker processes need."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_CHUNKS_PER_THREAD = 4  # so that an unequal load evens out


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_ranges(count: int, work: Callable[[int, int], object]) -> None:
    """Call ``work(first, end)`` for ranges that together cover ``0 .. count``, on as many threads as there are cores.

    Threads and not numba's ``prange``: its OpenMP runtime breaks processes that fork later, its fallback breaks when
    two threads call it. The result does not depend on the number of threads as long as ``work`` writes only what
    belongs to its range.
    """
    threads = min(cores(), count)
    if threads < 2:
        work(0, count)
        return
    chunks = min(count, threads * _CHUNKS_PER_THREAD)
    edges = [count * i // chunks for i in range(chunks + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile ignore Ctrl-C (SIGINT) until they set a handler of their own."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere signals cannot be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent() -> None:
    """End this process when its parent does: one that is killed cannot tell its workers, which would wait for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
