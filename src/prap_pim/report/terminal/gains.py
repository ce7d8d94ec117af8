"""Gains over dense on a terminal, beside those from elsewhere."""

from collections.abc import Mapping

from rich.console import Console

from prap_pim.report.terminal.tables import print_table
from prap_pim.results.run import Gain

_UNKNOWN = "-"


def print_gains(
    title: str, gains: Mapping[str, Gain], others: Mapping[str, Gain], basis: str, console: Console
) -> None:
    """Print a table: a method a row; speedup and energy gain, each beside that from elsewhere, and the deviation.

    Args:
        title: of the table.
        gains: by method.
        others: to compare with, by method, where known.
        basis: what ``others`` are, for the heading.
        console: to print on.
    """
    rows = []
    for method, gain in gains.items():
        known = others.get(method)
        speedup = _compared(gain.speedup, known.speedup if known else None)
        rows.append((method, *speedup, *_compared(gain.energy_gain, known.energy_gain if known else None)))
    compared = (basis.replace(" ", "\n"), "differs")
    print_table(console, ("method", "speedup", *compared, "energy\ngain", *compared), rows, title)


def _compared(value: float, other: float | None) -> tuple[str, str, str]:
    if other is None:
        return f"{value:.3f}", _UNKNOWN, _UNKNOWN
    return f"{value:.3f}", f"{other:.3f}", f"{value / other - 1:+.1%}"
