"""A study in several processes on this machine. One that dies is replaced; its trial is run again."""

import multiprocessing
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prap_pim.common.errors import UserError
from prap_pim.common.parallel import end_with_parent, ignoring_interrupts
from prap_pim.common.progress import Progress
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.folder import join_study
from prap_pim.runs.study.search import Search
from prap_pim.runs.study.work import Kind, one_by_one, work

_DEATHS = 3  # in a row, with no trial finished between them


def in_processes(
    count: int,
    config: StudyConfig,
    folder: Path,
    kind: Kind,
    finished: Callable[[], int],
    progress: Progress,
) -> None:
    """Run the trials of a study in so many processes, until all have finished.

    Args:
        count: of processes.
        config, folder, kind, finished: the study, and how many of its trials have finished.
        progress: called after every trial and every step of one.

    Raises:
        UserError: something that is no trial's fault; or processes die again and again.
    """
    context = multiprocessing.get_context("spawn")  # a fork in the middle of other threads' work may hang
    running: dict[Connection, BaseProcess] = {}

    def start() -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, config, folder, kind), daemon=True)
        with ignoring_interrupts():
            process.start()
        theirs.close()
        running[ours] = process

    done, deaths = finished(), 0
    try:
        for _ in range(count):
            start()
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                try:
                    kind_of, *message = connection.recv()
                except (EOFError, OSError):
                    process = running.pop(connection)
                    process.join()
                    connection.close()
                    if process.exitcode:
                        before, done = done, finished()
                        deaths = 1 if done > before else deaths + 1
                        if deaths >= _DEATHS:
                            raise UserError(
                                f"{deaths} processes died one after the other (the last by signal "
                                f"{-process.exitcode}); fewer than {count} need less memory"
                            ) from None
                        start()
                    continue
                if kind_of == "error":
                    raise UserError(message[0])
                progress(*message)
    finally:
        for connection, process in running.items():
            process.kill()
            process.join()
            connection.close()


def _work(connection: Connection, config: StudyConfig, folder: Path, kind: Kind) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # interrupted with its parent, without a word
    end_with_parent()
    tqdm.set_lock(threading.RLock())  # torch.fx makes one otherwise that outlives a process that is killed
    torch.set_num_threads(config.threads)

    def tell(*what: Any) -> None:
        connection.send(what)

    def progress(phase: str, done: int, total: int, note: str) -> None:
        tell("progress", phase, done, total, note)

    try:
        with join_study(folder) as (place, locks):
            search = Search(config, place, locks)
            work(search, place, locks, one_by_one(config, kind(config, place, locks, progress)), progress)
    except UserError as error:
        tell("error", str(error))
