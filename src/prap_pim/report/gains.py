"""Gains over dense on a terminal, beside those from elsewhere."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prap_pim.presets import Gain

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
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in ("speedup", basis, "differs", "energy gain", basis, "differs"):
        table.add_column(heading, justify="right")
    for method, gain in gains.items():
        known = others.get(method)
        cells = [
            *_compared(gain.speedup, known.speedup if known else None),
            *_compared(gain.energy_gain, known.energy_gain if known else None),
        ]
        table.add_row(Text(method), *cells)
    console.print(table)


def _compared(value: float, other: float | None) -> tuple[str, str, str]:
    if other is None:
        return f"{value:.3f}", _UNKNOWN, _UNKNOWN
    return f"{value:.3f}", f"{other:.3f}", f"{value / other - 1:+.1%}"
