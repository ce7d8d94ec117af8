"""Where a method saves: from the first method's energy and latency to another's, part by part."""

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from prap_pim.report.html.drawing import Chart, Choice, bar_layout, label, room_for_text, safe
from prap_pim.report.quantities import difference, quantity, scale, words
from prap_pim.results.run import MethodResult, Results

CHOOSER = "waterfall-method"
_STEPS = 14  # parts that are shown one by one; the others, those that change least, are summed up
_SLIVER = 0.002  # of the first method's figure: smaller changes are summed up, too
_BAR = 26  # pixels
_TOTAL, _MORE, _LESS = "#0072B2", "#D55E00", "#009E73"

_Parts = Callable[[MethodResult], Mapping[str, float] | None]


def waterfall_charts(results: Results) -> list[Chart]:
    """Energy by component and layer, serial latency by resource and layer; a choice for every method but the first.

    Pipelined latency is left out: what overlaps does not add up.
    """
    first, *baselines = results.methods
    if not baselines:
        return []
    kinds: tuple[tuple[str, str, str, _Parts], ...] = (
        ("energy-components", "Energy, by component", "J", lambda m: _spaced(m.energy_breakdown_j)),
        ("latency-phases", "Latency, serial, by resource", "s", lambda m: m.serial_breakdown_s),
        ("energy-layers", "Energy, by layer", "J", lambda m: {each.name: each.energy_j for each in m.layers}),
        (
            "latency-layers",
            "Latency, serial, by layer",
            "s",
            lambda m: {each.name: each.serial_latency_s for each in m.layers},
        ),
    )
    return [
        Chart(
            id_,
            title,
            f"One inference. From {first.name} down to the chosen method: − saves, + costs more.",
            kind="Waterfall chart",
            chooser=CHOOSER,
            choices=[_waterfall(first, baseline, parts, unit) for baseline in baselines],
        )
        for id_, title, unit, parts in kinds
        if all(parts(method) for method in results.methods)
    ]


def _spaced(parts: Mapping[str, float]) -> dict[str, float]:
    return {words(name): value for name, value in parts.items()}


def steps(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, float]]:
    """What changes from part to part, in their order; small changes are summed up in the last step."""
    changes = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in dict.fromkeys([*before, *after])}
    changes = {name: change for name, change in changes.items() if change}
    least = _SLIVER * sum(before.values())
    large = [name for name in sorted(changes, key=lambda name: -abs(changes[name])) if abs(changes[name]) >= least]
    kept = set(large[:_STEPS])
    if len(changes) == len(kept) + 1:
        kept = set(changes)
    rest = [change for name, change in changes.items() if name not in kept]
    shown = [(name, change) for name, change in changes.items() if name in kept]
    return [*shown, *([(f"{len(rest)} others", sum(rest))] if rest else [])]


def _waterfall(first: MethodResult, last: MethodResult, parts: _Parts, unit: str) -> Choice:
    before, after = parts(first) or {}, parts(last) or {}
    changes = steps(before, after)
    start, end = sum(before.values()), sum(after.values())
    chosen = scale([start, end], unit)
    names = [first.name, *(name for name, _ in changes), last.name]
    texts = [quantity(start, unit), *(difference(change, unit) for _, change in changes), quantity(end, unit)]
    data: list[dict[str, Any]] = [
        {
            "type": "waterfall",
            "orientation": "h",
            "y": list(range(len(names))),
            "measure": ["absolute", *["relative"] * len(changes), "total"],
            "x": [value * chosen.factor for value in (start, *(change for _, change in changes), 0.0)],
            "hovertext": [f"{safe(name)}: {text}" for name, text in zip(names, texts, strict=True)],
            "hoverinfo": "text",
            "totals": {"marker": {"color": _TOTAL}},
            "increasing": {"marker": {"color": _MORE}},
            "decreasing": {"marker": {"color": _LESS}},
            "connector": {"line": {"color": "#808080", "width": 1}},
            "showlegend": False,
        }
    ]
    levels = [start, *accumulate((change for _, change in changes), initial=start), end]
    ends = [max(pair) * chosen.factor for pair in zip(levels[1:], levels[:-1], strict=True)]
    data.append(
        {
            "type": "scatter",
            "mode": "text",
            "x": ends,
            "y": list(range(len(names))),
            "text": [f" {text}" for text in texts],
            "textposition": "middle right",
            "cliponaxis": False,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    layout = bar_layout(names, f"{'energy' if unit == 'J' else 'latency'} / {chosen.unit}", _BAR * len(names))
    layout["xaxis"]["range"] = room_for_text([max(levels)], chosen)
    layout["waterfallgap"] = 0.3
    return Choice(label(last.name), data, layout)
