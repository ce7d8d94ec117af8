"""Progress bars and results on a terminal of any width, or in a pipe."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_PATIENCE = 1.0  # seconds before anything is shown, and what a phase must take to stay on the screen
_UNBOUND = 10_000  # columns of a file or a pipe
_WIDE = 100  # columns of a terminal that has room for everything about a phase
_REST = 24  # columns of a narrow line of progress beside the phase's name


class Output(Console):
    """A console that reports a reader that went away to ``main``, and never wraps what goes into a pipe or a file."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _UNBOUND

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[..., None]]:
    """A function ``progress(phase, done, total, note="")`` that shows bars with the time left on a terminal at stderr.

    Nothing is shown in the first second: an error message that comes early is printed alone. What comes before the
    first phase, such as importing torch, which takes seconds, is shown as starting.
    """
    console = Output(stderr=True, quiet=quiet)
    tasks: dict[str, TaskID] = {}
    shown = console.is_terminal and not quiet
    bars = Progress(*_columns(console.width), console=console, disable=not shown)
    start = bars.add_task("starting", total=None, note="")
    later = Timer(_PATIENCE, bars.start)  # also if the first phase reports nothing for long
    later.daemon = True
    if shown and _PATIENCE:
        later.start()
    elif shown:
        bars.start()

    def advance(phase: str, done: int, total: int, note: str = "") -> None:
        bars.update(start, visible=False)
        if phase not in tasks:
            _make_room(bars, console.height)
            tasks[phase] = bars.add_task(phase, total=total, note=note)
        bars.update(tasks[phase], completed=done, total=total, note=note)
        task = bars.tasks[tasks[phase]]
        if task.finished and (task.finished_time or 0) < _PATIENCE:
            bars.update(task.id, visible=False)  # too quick to be worth a line

    try:
        yield advance
    finally:
        later.cancel()
        if later.is_alive():
            later.join()
        bars.update(start, visible=False)
        if bars.live.is_started:
            bars.stop()


def _make_room(bars: Progress, height: int) -> None:
    """Before a phase begins, the oldest finished one goes if the terminal has no more lines."""
    seen = [task for task in bars.tasks if task.visible]
    done = [task for task in seen if task.finished]
    if done and len(seen) > height - 3:
        bars.update(done[0].id, visible=False)


def _columns(width: int) -> list[ProgressColumn]:
    if width >= _WIDE:
        whole = TextColumn("{task.description:<34}", markup=False)
        note = TextColumn("{task.fields[note]}", markup=False)
        return [whole, BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), note]
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(8, width - _REST))
    phase = TextColumn("{task.description}", markup=False, table_column=name)
    return [phase, BarColumn(8), TaskProgressColumn(), TimeRemainingColumn(compact=True)]
