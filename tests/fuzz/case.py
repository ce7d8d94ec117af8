"""One hostile input, and what makes one."""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from prap_pim.__main__ import main
from prap_pim.common.errors import UserError, one_line


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        told: what was changed.
        files: by name, in the case's folder.
        command: of ``prap-pim``; empty: ``work`` is called.
        run: whether the finished run is copied there, as ``run``; files are put into that copy, too.
    """

    told: str
    files: Mapping[str, bytes]
    command: tuple[str, ...] = ()
    run: bool = False
    work: Callable[[], None] | None = field(default=None)

    def put(self, place: Path, finished: Path) -> None:
        """Write its files."""
        if self.run:
            shutil.copytree(finished, place / "run")
        for name, content in self.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)

    def __call__(self) -> int:
        if self.work is None:
            return main(self.command)
        try:
            self.work()
        except UserError as error:
            print(f"prap-pim: {one_line(error)}", file=sys.stderr)
            return 2
        return 0


Make = Callable[[Random, Path], Case]  # of a seed and the folder of a finished run
