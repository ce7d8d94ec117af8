"""The command line. Exit codes: 0 done, 1 our fault, 2 a mistake that the user can fix, 130 interrupted."""

import atexit
import gc
import os
import re
import sys
from collections.abc import Sequence

import click

from prap_pim.cli.parser import COMPLETE, cli
from prap_pim.cli.streams import discard_output, open_streams, silence_libraries
from prap_pim.common.errors import UserError, one_line

_NEXT_STEP = {"simulate": "the same command goes on"} | dict.fromkeys(
    ("run", "compare", "explore"), "go on with --resume"
)

# Python looks for cycles among all objects before it ends, a second and a half with torch: who interrupts would wait
atexit.register(gc.freeze)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    open_streams()
    silence_libraries()
    words = list(sys.argv[1:] if argv is None else argv)
    context, code = None, None
    try:
        if COMPLETE in os.environ:
            from click.shell_completion import shell_complete  # imported here: only a shell asks for it

            try:
                return shell_complete(cli, {}, "prap-pim", COMPLETE, os.environ[COMPLETE])
            except (KeyError, ValueError) as error:
                raise UserError(f"{COMPLETE} is for the script that prap-pim completion prints ({error})") from error
        # not cli.main(), which would print more than one line for an interruption or a mistake
        with cli.make_context("prap-pim", words, obj=tuple(words)) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        code = done.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "prap-pim"
        return _complain(f"{error.format_message().removesuffix('.')}{_allowed(error)} (see {command} --help)", 2)
    except UserError as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        # Python ends by SIGINT, whatever is returned here, if an exec(text) was interrupted, as imports do many, until
        # another one begins
        exec("")
        command = (context and context.invoked_subcommand) or ""
        return _complain(f"interrupted; {_NEXT_STEP.get(command, 'nothing was written')}", 130)
    except BrokenPipeError:
        discard_output()  # the reader of our output went away: nothing is wrong
    except OSError as error:
        discard_output()
        where = "cannot write to the output" if error.filename is None else f"cannot use {error.filename}"
        return _complain(f"{where}: {error.strerror or error}", 2)
    except MemoryError:
        return _complain(_NO_MEMORY, 2)
    except Exception as error:
        if _is_out_of_memory(error):
            return _complain(_NO_MEMORY, 2)
        if "PRAP_PIM_TRACEBACK" in os.environ:
            raise
        what = f"{type(error).__name__}: {error}"
        return _complain(f"a fault of the program: {what} (with PRAP_PIM_TRACEBACK=1 it says where)", 1)
    return code or 0


_NO_MEMORY = "out of memory: what was asked for is larger than this machine; what was finished is kept"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether torch had no memory, which is no MemoryError to it."""
    return isinstance(error, RuntimeError) and bool(re.search("can't allocate memory|out of memory", str(error)[:500]))


def _allowed(error: click.UsageError) -> str:
    """The words that an unknown one may have been meant for, where none is near to it."""
    command = error.ctx.command if error.ctx else None
    known: list[str] = []
    if isinstance(error, click.exceptions.NoSuchCommand) and isinstance(command, click.Group):
        known = [] if error.possibilities else list(command.commands)
    elif isinstance(error, click.NoSuchOption) and command is not None and error.ctx is not None:
        options = (each.opts[-1] for each in command.get_params(error.ctx) if isinstance(each, click.Option))
        known = [] if error.possibilities else list(options)
    return f" (allowed: {', '.join(known)})" if known else ""


def _complain(what: object, code: int) -> int:
    print(f"prap-pim: {UserError(one_line(what))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
