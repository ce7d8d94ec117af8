"""What people read of a study: the front as a table on the terminal or in a notebook, and a page with all trials."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from prap_pim.common.errors import UserError, printable
from prap_pim.common.files import write_whole
from prap_pim.common.notebook import html_table
from prap_pim.common.settings import read_yaml
from prap_pim.report.html.drawing import NUMBERS, Chart, Choice, color, safe
from prap_pim.report.html.frame import config_text, render_page
from prap_pim.report.names import endings
from prap_pim.report.quantities import percent, quantity, scale, significant
from prap_pim.report.terminal.tables import print_table
from prap_pim.results.study import SHORT, StudyResults, TrialResult

_UNITS = {"s": "s", "j": "J", "m2": "m2", "w": "W", "bytes": "B"}  # by what a figure's name ends in
_BASE = ("model", "data", "training", "checkpoint", "chip", "seed")  # of the run that is varied
_NUMBERED = 40  # trials of a front whose numbers have room in a chart
_SHOWN = 30  # trials of the front on a terminal; the tables have all
_LONG = {whole: short for short, whole in SHORT.items()}


def label(figure: str) -> str:
    """A figure's name for people."""
    return _LONG.get(figure, figure)


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
        return "no figure"
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


def _cells(results: StudyResults, trial: TrialResult) -> tuple[list[str], list[str]]:
    """Figures and settings of one trial."""
    figures = [figure_text(name, trial.figures.get(name)) for name in _asked(results)]
    values = [value_text(trial.values[name]) if name in trial.values else "" for name in results.space]
    return figures, values


def _headings(results: StudyResults) -> list[str]:
    """Settings by as few of their last words as tell them apart."""
    names = [name.partition(",")[0].strip().split(".") for name in results.space]
    return [".".join(words) for words in endings(names)]


def _asked(results: StudyResults) -> list[str]:
    return list(dict.fromkeys([*results.objectives, *results.constraints]))


def _wanted(results: StudyResults) -> list[str]:
    """What is asked of each figure, in words."""
    goals = {name: "least" if way == "minimize" else "most" for name, way in results.objectives.items()}
    limits = {name: _limit_text(name, limit) for name, limit in results.constraints.items()}
    return [", ".join(filter(None, [goals.get(name, ""), limits.get(name, "")])) for name in _asked(results)]


def _limit_text(figure: str, limit: str) -> str:
    """A constraint with its unit: "<= 10.0 mm²"."""
    sign, _, number = limit.partition(" ")
    try:
        return f"{sign} {figure_text(figure, float(number))}"
    except ValueError:  # not one of ours
        return limit


def print_study(results: StudyResults, console: Console) -> None:
    """Print the front, best in the first objective first, and why trials have no figures."""
    console.print(Text(f"{printable(results.name)}: {summary(results)}", style="bold"))
    shown = results.front_trials[:_SHOWN]
    if shown:
        asked = zip(_asked(results), _wanted(results), strict=True)
        headings = ["trial", *(f"{label(name)}\n{wanted}" for name, wanted in asked), "settings"]
        rows = []
        for trial in shown:
            figures, values = _cells(results, trial)
            settings = zip(_headings(results), values, strict=True)
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


def front_table(results: StudyResults) -> str:
    """The front as a table in HTML, every name escaped."""
    heads = ["trial", *(f"{label(name)} ({how})" for name, how in zip(_asked(results), _wanted(results), strict=True))]
    rows = []
    for trial in results.front_trials[:_SHOWN]:
        figures, values = _cells(results, trial)
        rows.append([str(trial.number), *figures, *values])
    return html_table(f"{results.name}: {summary(results)}", [*heads, *_headings(results)], rows)


def write_study_report(results: StudyResults, path: Path, config: Path) -> None:
    """Write the page, whole or not at all.

    Args:
        results: what it shows.
        path: where it goes.
        config: the study's configuration, YAML; what is varied is told from it. Left out if it cannot be read.

    Raises:
        UserError: the file cannot be written.
    """
    chart = _chart(results)
    front = set(results.front)
    varied = _varied(config)
    rows = [(trial, trial.number in front, *_cells(results, trial)) for trial in results.trials]
    page = render_page(
        "study.html",
        parts=[("front", "Front"), ("trials", "Trials"), ("study", "Study")],
        charts=[chart],
        results=results,
        summary=summary(results),
        chart=chart,
        front=[row for row in sorted(rows, key=lambda row: row[0].number) if row[1]],
        rows=rows,
        settings=list(zip(_headings(results), results.space, strict=True)),
        goals=list(zip(map(label, _asked(results)), _wanted(results), strict=True)),
        config=config_text(config),
        varied={name: text for name, text in varied.items() if text != "null"},
        untrained=varied.get("training") in ("none", "null") and varied.get("checkpoint", "null") == "null",
        figures=[(label(name), wanted, name) for name, wanted in zip(_asked(results), _wanted(results), strict=True)],
    )
    write_whole(path, page)


def _varied(config: Path) -> dict[str, str]:
    """Of the run configuration that a study varies, what says which network and data these are; empty: not known."""
    try:
        base = read_yaml(config)["base"]
        texts = {key: yaml.safe_dump(base[key], default_flow_style=True, width=10**6) for key in _BASE if key in base}
        return {key: text.removesuffix("...\n").strip() for key, text in texts.items()}
    except (UserError, AttributeError, KeyError, TypeError):
        return {}


def _chart(results: StudyResults) -> Chart:
    """Trials as points: each pair of objectives, or the one objective against the number of the trial."""
    names = list(results.objectives)
    pairs: list[tuple[str | None, str]] = list(combinations(names, 2)) if len(names) > 1 else [(None, names[0])]
    choices = [Choice(f"{label(x) if x else 'trial'} and {label(y)}", *_points(results, x, y)) for x, y in pairs]
    one = len(choices) == 1
    hidden = "What seems beaten on the front is better in an objective that is not drawn. " if len(names) > 2 else ""
    return Chart(
        "pareto",
        "Trials" if len(names) == 1 else "Pareto front",
        "Every point is a trial; those of the front have their numbers. No other trial is as good as one of the front "
        f"in every objective and better in one. {hidden}Drag to zoom, double-click to see all; point at a trial for "
        "its settings.",
        data=choices[0].data if one else [],
        layout=choices[0].layout if one else {},
        kind="Scatter plot",
        choosing="" if one else "Objectives",
        choices=[] if one else choices[::-1],
    )


def _points(results: StudyResults, x: str | None, y: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    front = set(results.front)
    told = [trial for trial in results.trials if trial.reason is None]
    groups = [
        ("miss a constraint", [trial for trial in told if not trial.feasible], color(3), "x", 7),
        ("met constraints", [t for t in told if t.feasible and t.number not in front], color(0), "circle", 7),
        ("front", [trial for trial in told if trial.number in front], color(4), "diamond", 11),
    ]
    axes = {
        name: _axis(name, results.objectives[name], [trial.figures[name] or 0 for trial in told])
        for name in (x, y)
        if name
    }
    data = []
    for name, trials, shade, mark, size in groups:
        if not trials:
            continue
        across = [trial.number if x is None else (trial.figures[x] or 0) * axes[x][0] for trial in trials]
        data.append(
            {
                "type": "scattergl" if len(told) > 5000 else "scatter",
                "mode": "markers",
                **(_numbered(trials) if name == "front" and len(trials) <= _NUMBERED else {}),
                "name": name if results.constraints or name == "front" else "other trials",
                "x": across,
                "y": [(trial.figures[y] or 0) * axes[y][0] for trial in trials],
                "hovertext": [_hover(results, trial) for trial in trials],
                "hoverinfo": "text",
                "marker": {"color": shade, "symbol": mark, "size": size},
            }
        )
    layout = {
        "height": 460,
        "margin": {"l": 8, "r": 8, "t": 36, "b": 8},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "bottom",
            "traceorder": "reversed",
        },
        "hoverlabel": {"align": "left", "namelength": -1},
        "xaxis": {"title": {"text": "trial" if x is None else axes[x][1]}, "automargin": True, "tickformat": NUMBERS},
        "yaxis": {"title": {"text": axes[y][1]}, "automargin": True, "tickformat": NUMBERS},
    }
    return data, layout


def _numbered(trials: Sequence[TrialResult]) -> dict[str, Any]:
    """Marks with the trials' numbers."""
    return {"mode": "markers+text", "text": [f"{trial.number}" for trial in trials], "textposition": "top center"}


def _axis(name: str, way: str, values: Sequence[int | float]) -> tuple[float, str]:
    """What to multiply an objective by, and the title of its axis."""
    kind = unit(name)
    chosen = scale(values, kind) if kind not in ("%", "/s", "") else None
    factor = 100.0 if kind == "%" else chosen.factor if chosen is not None else 1.0
    shown = chosen.unit if chosen is not None else kind
    better = "less is better" if way == "minimize" else "more is better"
    return factor, f"{label(name)}{f' / {shown}' if shown else ''} ({better})"


def _hover(results: StudyResults, trial: TrialResult) -> str:
    lines = [f"trial {trial.number}"]
    lines += [f"{label(name)}: {figure_text(name, trial.figures.get(name))}" for name in _asked(results)]
    lines += [f"{name}: {value_text(value)}" for name, value in trial.values.items()]
    return "<br>".join(map(safe, lines))
