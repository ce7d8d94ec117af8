"""Gains over dense on a terminal, beside those from elsewhere, and of a method over its baselines."""

from collections.abc import Mapping

from rich.console import Console

from prap_pim.report.terminal.tables import print_table
from prap_pim.results.run import Gain, mean

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


def print_over(title: str, method: str, gains: Mapping[str, Mapping[str, Gain]], console: Console) -> None:
    """Print a table: a baseline a row; what a method gains over it in each network and on the average, time and energy.

    Args:
        title: of the table.
        method: that gains.
        gains: over dense, by network and method.
        console: to print on.
    """
    headings = ("over", *gains, "mean")
    rows = []
    for baseline in next(iter(gains.values())):
        if baseline != method:
            found = [by_method[method].over(by_method[baseline]) for by_method in gains.values()]
            cells = (f"{each.speedup:.2f} / {each.energy_gain:.2f}" for each in (*found, mean(found)))
            rows.append((baseline, *cells))
    print_table(console, headings, rows, title)


def print_steps(title: str, gains: Mapping[str, Gain], console: Console) -> None:
    """Print a table: a cause a row; the gain once it is taken in, and what it changes; time and energy.

    Args:
        title: of the table.
        gains: after each cause; of the first, before all others.
        console: to print on.
    """
    rows, before = [], next(iter(gains.values()))
    for cause, gain in gains.items():
        change = gain.over(before)
        cells = (
            f"{gain.speedup:.2f}x",
            _change(change.speedup),
            f"{gain.energy_gain:.2f}x",
            _change(change.energy_gain),
        )
        rows.append((cause, *cells))
        before = gain
    print_table(console, ("from", "speedup", "changes\nby", "energy\ngain", "changes\nby"), rows, title)


def _change(ratio: float) -> str:
    return "" if ratio == 1 else f"{ratio - 1:+.0%}"


def _compared(value: float, other: float | None) -> tuple[str, str, str]:
    if other is None:
        return f"{value:.3f}", _UNKNOWN, _UNKNOWN
    return f"{value:.3f}", f"{other:.3f}", f"{value / other - 1:+.1%}"
