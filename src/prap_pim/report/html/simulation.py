"""A simulation as a chart."""

from math import inf
from typing import Any

from prap_pim.report.html.drawing import Chart, bar_layout, color, dash, label, safe, symbol, transparent
from prap_pim.report.quality import kind_of, measure_text
from prap_pim.report.simulation import QUANTITIES, title
from prap_pim.results.run import SimulationResult

_PLOT = 260  # pixels


def simulation_chart(simulation: SimulationResult, number: int) -> Chart | None:
    """Accuracy against the swept quantity, a line for every method and a band of spread; None if nothing was swept."""
    if simulation.sweep is None:
        return None
    data: list[dict[str, Any]] = []
    kind = kind_of(simulation.metric)
    share = kind == "share"
    factor = 100 if share else 1
    methods = list(dict.fromkeys(point.method for point in simulation.points))
    for i, method in enumerate(methods):
        points = sorted((p for p in simulation.points if p.method == method), key=lambda point: point.value or 0.0)
        x = [point.value or 0.0 for point in points]
        ends = (0.0, 1.0) if share else (-inf, inf)
        low = [factor * max(ends[0], point.mean - point.spread) for point in points]
        high = [factor * min(ends[1], point.mean + point.spread) for point in points]
        band = {"fill": "toself", "fillcolor": transparent(color(i)), "line": {"width": 0}, "mode": "lines"}
        quiet = {"hoverinfo": "skip", "showlegend": False, "legendgroup": str(i)}
        data.append({"type": "scatter", "x": [*x, *reversed(x)], "y": [*high, *reversed(low)], **band, **quiet})
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "cliponaxis": False,
                "name": label(method),
                "legendgroup": str(i),
                "x": x,
                "y": [factor * point.mean for point in points],
                "hovertext": [
                    f"{safe(method)}, {point.value:g}: mean {measure_text(point.mean, kind)}, "
                    f"spread {measure_text(point.spread, kind)}, worst {measure_text(point.worst, kind)}"
                    for point in points
                ],
                "hoverinfo": "text",
                "line": {"color": color(i), "dash": dash(i), "width": 2},
                "marker": {"color": color(i), "symbol": symbol(i), "size": 9},
            }
        )
    layout = bar_layout([], QUANTITIES[simulation.sweep], _PLOT, legend=len(methods))
    layout["xaxis"] |= {"nticks": 6} | ({"dtick": 1} if simulation.sweep == "adc-bits" else {})
    layout["yaxis"] = {
        "title": {"text": "accuracy / %" if share else safe(simulation.metric)},
        **({"range": [0, 104], "tickvals": [0, 25, 50, 75, 100]} if share else {}),
        "fixedrange": True,
        "automargin": True,
    }
    return Chart(
        f"simulation-{number}",
        f"{safe(title(simulation))} against {QUANTITIES[simulation.sweep]}",
        "Lines: mean over the devices. Bands: one standard deviation from device to device, to either side.",
        data,
        layout,
        kind="Line chart",
    )
