"""The table of a study on the terminal."""

from rich.console import Console
from rich.text import Text

from prap_pim.common.errors import printable
from prap_pim.report.study import SHOWN, asked_figures, cells_of, headings_of, label, summary, wanted_figures
from prap_pim.report.terminal.tables import print_table
from prap_pim.results.study import StudyResults


def print_study(results: StudyResults, console: Console) -> None:
    """Print the front, best in the first objective first, and why trials have no figures."""
    console.print(Text(f"{printable(results.name)}: {summary(results)}", style="bold"))
    shown = results.front_trials[:SHOWN]
    if shown:
        asked = zip(asked_figures(results), wanted_figures(results), strict=True)
        headings = ["trial", *(f"{label(name)}\n{wanted}" for name, wanted in asked), "settings"]
        rows = []
        for trial in shown:
            figures, values = cells_of(results, trial)
            settings = zip(headings_of(results), values, strict=True)
            rows.append(
                (f"{trial.number}", *figures, ", ".join(f"{name}={value}" for name, value in settings if value))
            )
        print_table(console, headings, rows, texts=(len(headings) - 1,))
    if len(results.front) > len(shown):
        console.print(Text(f"and {len(results.front) - len(shown):,} more on the front"))
    reasons: dict[str, int] = {}
    for trial in results.trials:
        if trial.reason is not None:
            reasons[trial.reason] = reasons.get(trial.reason, 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:3]:
        console.print(Text(f"{count:,} without figures: {printable(reason)}", style="yellow"))
    if results.constraints and not results.front:
        console.print(Text("no trial meets all constraints", style="yellow"))
