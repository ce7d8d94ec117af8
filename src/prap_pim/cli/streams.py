"""Streams that take any text and may have no reader."""

import codecs
import io
import logging
import os
import sys
import warnings
from typing import IO

from prap_pim.common.errors import one_line

_ASCII = {"µ": "u", "²": "2", "…": "...", "─": "-"}  # of units and cut names, where a terminal has no more


def open_streams() -> None:
    """Make stdout and stderr take any text: what a terminal lacks becomes u, 2 or ?; a closed stream takes nothing."""
    codecs.register_error("prap-pim", _in_ascii)
    for name in ("stdout", "stderr"):
        stream: IO[str] | None = getattr(sys, name)
        if stream is None:  # >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="prap-pim")


class _Line(logging.Handler):
    """What the package has to say while it works, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"prap-pim: {one_line(record.getMessage())}", file=sys.stderr)


def silence_libraries() -> None:
    """Warnings of libraries are for those who program with them: here and in processes that are started none is shown,
    unless the user asks for them by ``-W`` or ``PYTHONWARNINGS``."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.lastResort = None
    own = logging.getLogger("prap_pim")
    if not own.handlers:
        own.addHandler(_Line())


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(c, "?") for c in missing), error.end


def discard_output() -> None:
    """What is still to be written has nowhere to go; Python would complain of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
