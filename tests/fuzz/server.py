"""Cases in child processes of one that has the library loaded: each costs a fork, and has limits of time and memory."""

import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0  # of a case
MEMORY = 4 << 30  # bytes beyond what the parent has
_LONGEST = 700  # characters of a message
_REPAIRED = "; what it holds is computed again"  # of a damaged file, by --resume


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        code: exit code; -9: it was ended for taking too long, or died of a signal.
        seconds: that it took.
        error: what it wrote to stderr.
        wrong: what is wrong with it; empty: nothing.
    """

    code: int
    seconds: float
    error: str
    wrong: str


def run(work: Callable[[], int], place: Path) -> Outcome:
    """Run ``work`` in a child, in a folder.

    It must end with 0, saying nothing on stderr, or with 2 and one line there.
    """
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(work, place)
    code = _waited(child)
    seconds = time.monotonic() - begun
    error = (place / "stderr").read_text("utf-8", "replace")
    return Outcome(code, seconds, error, _wrong(code, error))


def _child(work: Callable[[], int], place: Path) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(place)
        for number, name in ((1, "stdout"), (2, "stderr")):
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
            os.close(handle)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        code = work()
    except BaseException as error:  # what main lets through is a failure of its own
        os.write(2, f"{type(error).__name__}: {str(error)[:500]}\n".encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _waited(child: int) -> int:
    with os.fdopen(os.pidfd_open(child)) as ended:
        if not select.select([ended], [], [], SECONDS)[0]:
            os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _wrong(code: int, error: str) -> str:
    lines = [line for line in error.splitlines() if not (code == 0 and line.endswith(_REPAIRED))]
    if code == 0:
        return f"exit 0 with something on stderr: {lines[0]}" if lines else ""
    if code == -signal.SIGKILL:
        return "it took too long"
    if code != 2:
        return f"exit {code}: {lines[-1] if lines else ''}"
    if len(lines) != 1 or not lines[0].startswith("prap-pim: "):
        return f"exit 2 with {len(lines)} lines on stderr: {lines[0] if lines else ''}"
    return "a message that is too long" if len(lines[0]) > _LONGEST else ""
