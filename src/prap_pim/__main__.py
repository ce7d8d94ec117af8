"""The command line. Exit codes: 0 done, 1 our fault, 2 a mistake that the user can mend, 130 interrupted."""

import os
import sys
from collections.abc import Sequence

from prap_pim.cli.output import discard_output, open_streams
from prap_pim.cli.parser import build_parser
from prap_pim.common.errors import UserError, one_line

_RESUMABLE = ("run", "compare", "explore")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    open_streams()
    command, code = None, None
    try:
        parser = build_parser()
        arguments = parser.parse_args(argv)
        arguments.given = sys.argv[1:] if argv is None else argv
        command = arguments.command
        if command is None:
            parser.print_help()
        else:
            code = arguments.handler(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        how = {"simulate": "the same command goes on"} | dict.fromkeys(_RESUMABLE, "go on with --resume")
        return _complain(f"interrupted; {how.get(command or '', 'nothing was written')}", 130)
    except BrokenPipeError:
        discard_output()  # the reader of our output went away: nothing is wrong
    except OSError as error:
        discard_output()
        where = "cannot write to the output" if error.filename is None else f"cannot use {error.filename}"
        return _complain(f"{where}: {error.strerror or error}", 2)
    except MemoryError:
        return _complain("out of memory", 1)
    except Exception as error:
        if "PRAP_PIM_TRACEBACK" in os.environ:
            raise
        what = f"{type(error).__name__}: {error}"
        return _complain(f"a fault of the program: {what} (with PRAP_PIM_TRACEBACK=1 it says where)", 1)
    return code or 0


def _complain(what: object, code: int) -> int:
    print(f"prap-pim: {one_line(what)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
