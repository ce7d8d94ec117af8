"""What people read of a study, in words: names, figures and settings of trials, for page, terminal and notebook."""

import json
from typing import Any

from prap_pim.report.names import endings
from prap_pim.report.quantities import percent, quantity, significant
from prap_pim.results.study import OWN, SHORT, StudyResults, TrialResult

_UNITS = {"s": "s", "j": "J", "m2": "m2", "w": "W", "bytes": "B"}  # by what a figure's name ends in


SHOWN = 30  # trials of the front in a table for people; the files have all
_LONG = {whole: short for short, whole in SHORT.items()}


def label(figure: str) -> str:
    """A figure's name for people."""
    return _LONG.get(figure, figure.removeprefix(OWN))


def unit(figure: str) -> str:
    """Its unit: that of SI, "%", "/s" or none."""
    for part in reversed(figure.split(".")):
        if part.endswith("accuracy"):
            return "%"
        if part.endswith("per_s"):
            return "/s"
        if (last := part.rpartition("_")[2]) in _UNITS:
            return _UNITS[last]
    return ""


def figure_text(figure: str, value: int | float | None) -> str:
    """A figure with its unit: "1.23 ms", "97.5 %"."""
    if value is None:
        return "n/a"
    kind = unit(figure)
    if kind == "%":
        return percent(value)
    if kind in ("", "/s"):
        return f"{value:,d}" if isinstance(value, int) else f"{significant(value)} {kind}".rstrip()
    return quantity(value, kind)


def value_text(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def summary(results: StudyResults) -> str:
    """The study in one sentence."""
    failed = sum(trial.reason is not None for trial in results.trials)
    missed = sum(not trial.feasible for trial in results.trials) - failed
    parts = [f"{len(results.trials):,} trials", f"{len(results.front):,} on the front"]
    parts += [f"{missed:,} that miss a constraint"] if missed else []
    parts += [f"{failed:,} without figures"] if failed else []
    return ", ".join(parts)


def cells_of(results: StudyResults, trial: TrialResult) -> tuple[list[str], list[str]]:
    """Figures and settings of one trial."""
    figures = [figure_text(name, trial.figures.get(name)) for name in asked_figures(results)]
    values = [value_text(trial.values[name]) if name in trial.values else "" for name in results.space]
    return figures, values


def headings_of(results: StudyResults) -> list[str]:
    """Settings by as few of their last words as tell them apart."""
    names = [name.partition(",")[0].strip().split(".") for name in results.space]
    return [".".join(words) for words in endings(names)]


def asked_figures(results: StudyResults) -> list[str]:
    return list(dict.fromkeys([*results.objectives, *results.constraints]))


def wanted_figures(results: StudyResults) -> list[str]:
    """What is asked of each figure, in words."""
    goals = {name: "least" if way == "minimize" else "most" for name, way in results.objectives.items()}
    limits = {name: _limit_text(name, limit) for name, limit in results.constraints.items()}
    return [", ".join(filter(None, [goals.get(name, ""), limits.get(name, "")])) for name in asked_figures(results)]


def _limit_text(figure: str, limit: str) -> str:
    """A constraint with its unit: "<= 10.0 mm²"."""
    sign, _, number = limit.partition(" ")
    try:
        return f"{sign} {figure_text(figure, float(number))}"
    except ValueError:  # not one of ours
        return limit
