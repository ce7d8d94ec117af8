"""What all commands share: one line for a mistake, progress on a terminal of any width, output that may go nowhere."""

import argparse
import codecs
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import IO, Any, NoReturn, TypeVar

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

from prap_pim.common.errors import one_line

_N = TypeVar("_N")
_PATIENCE = 1.0  # seconds before anything is shown, and what a phase must take to stay on the screen
_UNBOUND = 10_000  # columns of a file or a pipe
_WIDE = 100  # columns of a terminal that has room for everything about a phase
_ASCII = {"µ": "u", "²": "2", "…": "...", "─": "-"}  # of units and cut names, where a terminal has no more
_REST = 24  # columns of a narrow line of progress beside the phase's name


class Parser(argparse.ArgumentParser):
    """argparse that answers a mistake with one line and the nearest right word, and keeps examples on one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **settings})

    @property
    def commands(self) -> dict[str, "Parser"]:
        """Parsers of the commands, by name."""
        actions = self._subparsers._group_actions if self._subparsers else []
        return {name: parser for action in actions for name, parser in (action.choices or {}).items()}  # type: ignore[attr-defined]

    def parse_known_args(  # type: ignore[override]  # typed by overloads there
        self, args: Sequence[str] | None = None, namespace: _N | None = None
    ) -> tuple[_N | argparse.Namespace, list[str]]:
        """As argparse does, after a look at the options' names: else a misspelt one is a missing one."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                break
            option = word.partition("=")[0]
            if option.startswith("--") and option not in self._option_string_actions:
                self.error(f"unknown option {option!r} ({_nearest(option, self._option_string_actions)})")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End with one line and exit code 2."""
        self.exit(2, f"prap-pim: {one_line(message)}; see {self.prog} --help\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End; what was printed is out before, so that a reader who went away is noticed here."""
        sys.stdout.flush()
        super().exit(status, message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "command" if isinstance(action, argparse._SubParsersAction) else action.dest
            raise argparse.ArgumentError(None, f"unknown {what} {value!r} ({_nearest(str(value), action.choices)})")


class _Help(argparse.HelpFormatter):
    """Paragraphs are filled; a line that begins with a space or says "example" stays whole, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            line
            if line.startswith((" ", "example")) or not line
            else super(_Help, self)._fill_text(line, width, indent)
            for line in lines
        )


def _nearest(word: str, known: Any) -> str:
    from prap_pim.common.settings import nearest  # imported here: only a mistake waits for it

    return nearest(word, [str(each) for each in known])


class Output(Console):
    """A console whose reader may go away: ``main`` hears of it. What is no terminal is as wide as it takes."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _UNBOUND

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[..., None]]:
    """A function ``progress(phase, done, total, note="")`` that shows bars with the time left on a terminal at stderr.

    Nothing is shown in the first second: a mistake found early prints its line alone. What comes before the first
    phase, such as reading torch, which takes seconds, is shown as starting.
    """
    console = Output(stderr=True, quiet=quiet)
    tasks: dict[str, TaskID] = {}
    shown = console.is_terminal and not quiet
    bars = Progress(*_columns(console.width), console=console, disable=not shown)
    start = bars.add_task("starting", total=None, note="")
    later = Timer(_PATIENCE, bars.start)  # also if the first phase tells nothing for long
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


def open_streams() -> None:
    """Make stdout and stderr take any text: what a terminal lacks becomes u, 2 or ?; a closed stream takes nothing."""
    codecs.register_error("prap-pim", _in_ascii)
    for name in ("stdout", "stderr"):
        stream: IO[str] | None = getattr(sys, name)
        if stream is None:  # >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="prap-pim")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(c, "?") for c in missing), error.end


def discard_output() -> None:
    """What is still to be written has nowhere to go; Python would complain of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
