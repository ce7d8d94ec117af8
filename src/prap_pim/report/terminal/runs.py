"""Several runs on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prap_pim.common.errors import printable
from prap_pim.report.differences import NamedRun, aspects, verdict
from prap_pim.report.runs import HEADINGS, proofs, rows
from prap_pim.report.terminal.tables import print_table


def print_runs(runs: Sequence[NamedRun], console: Console) -> None:
    """Print what differs, what was proven, then a line for every method of every run."""
    found = verdict(runs)
    console.print(Text(printable(" ".join(found.sentences)), style="green" if found.same else "yellow"))
    for aspect in aspects(runs):
        if aspect.differs:
            console.print(Text(f"{printable(aspect.label)}:"))
            for run, value in zip(runs, aspect.values, strict=True):
                console.print(Padding(Text(f"{printable(run.name)}: {printable(value)}"), (0, 0, 0, 2), expand=False))
    for name, _, proof in proofs(runs):
        console.print(Text(printable(f"{name}: {proof.line}"), style="green" if proof.proven else "bold red"))
    shown = [0, 2, 3, 5, 6, 7, 9]
    headings = ["", *(HEADINGS[index].replace(", ", "\n").replace(" gain", "\ngain") for index in shown)]
    for run in runs:
        console.print()
        table = [(method, *(cells[index][0] for index in shown)) for _, method, cells, _ in rows([run])]
        print_table(console, headings, table, run.name, spare=(5, 2))
