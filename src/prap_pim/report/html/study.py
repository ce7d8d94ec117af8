"""The page of a study."""

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import yaml

from prap_pim.common.errors import UserError
from prap_pim.common.files import write_whole
from prap_pim.common.notebook import html_table
from prap_pim.common.settings import read_yaml
from prap_pim.report.html.drawing import LEGEND, NUMBERS, Chart, Choice, bar_layout, color, room_for_text, safe
from prap_pim.report.html.frame import config_text, render_page
from prap_pim.report.quantities import Scale, scale, spans_decades
from prap_pim.report.study import (
    SHOWN,
    asked_figures,
    cells_of,
    figure_text,
    headings_of,
    label,
    summary,
    unit,
    value_text,
    wanted_figures,
)
from prap_pim.results.study import StudyResults, TrialResult

_WITH_WEIGHTS = {"given", "import", "onnx", "transformers"}  # kinds of networks that bring their own
_BASE = ("model", "data", "training", "checkpoint", "chip", "seed")  # of the run that is varied


_BAR = 30  # pixels of a bar with the space around it
_LABELLED = 1000.0  # of an axis, its end over its beginning, where 2 and 5 have room beside 1
_NUMBERED = 40  # trials of a front whose numbers have room in a chart


def front_table(results: StudyResults) -> str:
    """The front as a table in HTML, every name escaped."""
    heads = [
        "trial",
        *(f"{label(name)} ({how})" for name, how in zip(asked_figures(results), wanted_figures(results), strict=True)),
    ]
    rows = []
    for trial in results.front_trials[:SHOWN]:
        figures, values = cells_of(results, trial)
        rows.append([str(trial.number), *figures, *values])
    return html_table(f"{results.name}: {summary(results)}", [*heads, *headings_of(results)], rows)


def write_study_report(results: StudyResults, path: Path, config: Path) -> None:
    """Write the page, whole or not at all.

    Args:
        results: what it shows.
        path: where it goes.
        config: the study's configuration, YAML; says what is varied. Left out if it cannot be read.

    Raises:
        UserError: the file cannot be written.
    """
    chart, by_chip = _chart(results), _chips(results)
    varied = _varied(config)
    rows = [(trial, _outcome(results, trial), *cells_of(results, trial)) for trial in results.trials]
    page = render_page(
        "study.html",
        parts=[("front", "Front"), ("trials", "Trials"), ("study", "Study")],
        charts=[chart, *by_chip],
        results=results,
        summary=summary(results),
        front_charts=[chart, *by_chip],
        front=[rows[trial.number] for trial in results.front_trials],
        rows=rows,
        settings=list(zip(headings_of(results), results.space, strict=True)),
        goals=list(zip(map(label, asked_figures(results)), wanted_figures(results), strict=True)),
        config=config_text(config),
        varied={name: text for name, text in varied.items() if text != "null"},
        untrained=_untrained(config),
        figures=[
            (label(name), wanted, name)
            for name, wanted in zip(asked_figures(results), wanted_figures(results), strict=True)
        ],
    )
    write_whole(path, page)


def _outcome(results: StudyResults, trial: TrialResult) -> str:
    if trial.reason is not None:
        return trial.reason
    if trial.number in results.repeated:
        return f"same settings as trial {results.repeated[trial.number]}"
    return "front" if trial.number in results.front else "" if trial.feasible else "misses a constraint"


def _varied(config: Path) -> dict[str, str]:
    """Of the run configuration that a study varies, what says which network and data these are; empty: not known."""
    try:
        base = read_yaml(config)["base"]
        texts = {key: yaml.safe_dump(base[key], default_flow_style=True, width=10**6) for key in _BASE if key in base}
        return {key: text.removesuffix("...\n").strip() for key, text in texts.items()}
    except (UserError, AttributeError, KeyError, TypeError):
        return {}


def _untrained(config: Path) -> bool:
    """Whether the weights are those that a network of the package, of timm or torchvision has before it is trained. A
    user's own, which has no name in a configuration but that of where it comes from, has its own."""
    try:
        base = read_yaml(config)["base"]
        never = base.get("checkpoint") is None and base.get("training", "PRAP's") in ("none", None)
        model = base.get("model", {})
        return never and _WITH_WEIGHTS.isdisjoint({*model, model.get("name")})
    except (UserError, AttributeError, KeyError, TypeError):
        return False


def _chart(results: StudyResults) -> Chart:
    """Trials as points: each pair of objectives, or the one objective against the number of the trial."""
    names = list(results.objectives)
    pairs: list[tuple[str | None, str]] = list(combinations(names, 2)) if len(names) > 1 else [(None, names[0])]
    choices = [Choice(f"{label(x) if x else 'trial'} and {label(y)}", *_points(results, x, y)) for x, y in pairs]
    one = len(choices) == 1
    hidden = "Those that look worse here are better in an objective that is not drawn. " if len(names) > 2 else ""
    hidden += "Some differ in digits that are not shown. " if _rounded_alike(results) else ""
    return Chart(
        "pareto",
        "Trials" if len(names) == 1 else "Pareto front",
        "A point is a trial. Diamonds are the front: no other trial is better in one objective without being worse in "
        f"another. {hidden}Drag to zoom, double-click to see all; point at a trial for its settings.",
        data=choices[0].data if one else [],
        layout=choices[0].layout if one else {},
        kind="Scatter plot",
        choosing="" if one else "Objectives",
        choices=[] if one else choices[::-1],
    )


def _rounded_alike(results: StudyResults) -> bool:
    """Whether a trial of the front looks dominated by another one in the table, whose figures are rounded."""
    sign = {name: -1 if way == "maximize" else 1 for name, way in results.objectives.items()}
    values = [{name: sign[name] * (trial.figures[name] or 0) for name in sign} for trial in results.front_trials]
    texts = [{name: figure_text(name, value) for name, value in each.items()} for each in values]
    return any(
        texts[i] != texts[j] and all(texts[i][n] == texts[j][n] or values[i][n] < values[j][n] for n in sign)
        for i, j in permutations(range(len(values)), 2)
    )


def _chips(results: StudyResults) -> list[Chart]:
    """Chips side by side, where there are several: the best trial of each, by one objective after another."""
    found: dict[str, list[TrialResult]] = {}
    for trial in results.trials:
        if trial.feasible and "chip" in trial.values:
            found.setdefault(value_text(trial.values["chip"]), []).append(trial)
    if len(found) < 2:
        return []
    choices = [Choice(label(name), *_best(results, name, found)) for name in results.objectives]
    one = len(choices) == 1
    return [
        Chart(
            "chips",
            "Chips side by side",
            "For each chip, its best trial in this objective; of equal ones, one of the front. Point at a bar for its "
            "settings.",
            data=choices[0].data if one else [],
            layout=choices[0].layout if one else {},
            choosing="" if one else "Objective",
            choices=[] if one else choices[::-1],
        )
    ]


def _best(
    results: StudyResults, name: str, found: Mapping[str, Sequence[TrialResult]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Bars: of every chip, the best that it has in one objective; the best chip first."""
    sign, front = -1 if results.objectives[name] == "maximize" else 1, set(results.front)
    known = {chip: [t for t in trials if t.figures.get(name) is not None] for chip, trials in found.items()}
    best = {
        chip: min(trials, key=lambda t: (sign * (t.figures[name] or 0), t.number not in front))
        for chip, trials in known.items()
        if trials
    }
    chips = sorted(best, key=lambda chip: sign * (best[chip].figures[name] or 0))
    values = [best[chip].figures[name] or 0 for chip in chips]
    factor, title = _axis(name, results.objectives[name], values)
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(chips))),
        "x": [value * factor for value in values],
        "text": [figure_text(name, value) for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [_hover(results, best[chip]) for chip in chips],
        "hoverinfo": "text",
        "marker": {"color": color(0)},
    }
    layout = bar_layout(chips, title, _BAR * len(chips))
    layout["xaxis"]["range"] = room_for_text(values or [1.0], Scale(factor, ""))
    return [bars], layout


def _points(results: StudyResults, x: str | None, y: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    front = set(results.front)
    drawn = [trial for trial in results.trials if trial.reason is None and trial.number not in results.repeated]
    groups = [
        ("miss a constraint", [trial for trial in drawn if not trial.feasible], color(3), "x", 7),
        ("met constraints", [t for t in drawn if t.feasible and t.number not in front], color(0), "circle", 7),
        ("front", [trial for trial in drawn if trial.number in front], color(4), "diamond", 11),
    ]
    axes = {
        name: _axis(name, results.objectives[name], [trial.figures[name] or 0 for trial in drawn])
        for name in (x, y)
        if name
    }

    def of(name: str) -> dict[str, Any]:
        values = [trial.figures[name] or 0 for trial in drawn]
        share = unit(name) in ("%", "") and all(0 <= value <= 1 for value in values)
        return _drawn(axes[name][1], values, axes[name][0] if share else None)

    data = []
    for name, trials, shade, mark, size in groups:
        if not trials:
            continue
        across = [trial.number if x is None else (trial.figures[x] or 0) * axes[x][0] for trial in trials]
        data.append(
            {
                "type": "scattergl" if len(drawn) > 5000 else "scatter",
                "mode": "markers",
                **(_numbered(trials) if name == "front" and len(trials) <= _NUMBERED else {}),
                "name": name if results.constraints or name == "front" else "other trials",
                "x": across,
                "y": [(trial.figures[y] or 0) * axes[y][0] for trial in trials],
                "hovertext": [_hover(results, trial) for trial in trials],
                "hoverinfo": "text",
                "cliponaxis": False,  # a share of 1 lies on the border
                "marker": {"color": shade, "symbol": mark, "size": size},
            }
        )
    layout = {
        "height": 460,
        "margin": {"l": 8, "r": 8, "t": 60, "b": 8},
        "legend": {**LEGEND, "y": 1.06, "traceorder": "reversed"},  # above the numbers of trials on the border
        "hoverlabel": {"align": "left", "namelength": -1},
        "xaxis": _drawn("trial", []) if x is None else of(x),
        "yaxis": of(y),
    }
    return data, layout


def _drawn(title: str, values: Sequence[int | float], end: float | None = None) -> dict[str, Any]:
    """An axis, logarithmic where small values would be lost; ``end``: of shares, beyond which there is nothing."""
    axis = {"title": {"text": title}, "type": "linear", "automargin": True, "tickformat": NUMBERS}
    if spans_decades(values) and min(values) > 0:
        axis |= {"type": "log", "dtick": "D2" if max(values) < _LABELLED * min(values) else 1}  # 1, 2, 5, or powers
    elif end is not None:
        axis["autorangeoptions"] = {"clipmax": end}
    return axis


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
    lines += [f"{label(name)}: {figure_text(name, trial.figures.get(name))}" for name in asked_figures(results)]
    lines += [f"{name}: {value_text(value)}" for name, value in trial.values.items()]
    return "<br>".join(map(safe, lines))
