"""A simulation as a chart."""

from typing import Any

from prap_pim.report.html.drawing import Chart, bar_layout, color, dash, label, safe, symbol, transparent
from prap_pim.report.quantities import percent
from prap_pim.report.simulation import QUANTITIES
from prap_pim.results.run import SimulationResult

_PLOT = 260  # pixels


def simulation_chart(simulation: SimulationResult, number: int) -> Chart | None:
    """Accuracy against the swept quantity, a line for every method and a band of spread; None if nothing was swept."""
    if simulation.sweep is None:
        return None
    data: list[dict[str, Any]] = []
    methods = list(dict.fromkeys(point.method for point in simulation.points))
    for i, method in enumerate(methods):
        points = sorted((p for p in simulation.points if p.method == method), key=lambda point: point.value or 0.0)
        x = [point.value or 0.0 for point in points]
        low = [100 * max(0.0, point.mean - point.spread) for point in points]
        high = [100 * min(1.0, point.mean + point.spread) for point in points]
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
                "y": [100 * point.mean for point in points],
                "hovertext": [
                    f"{safe(method)}, {point.value:g}: mean {percent(point.mean)}, spread {percent(point.spread)}, "
                    f"worst {percent(point.worst)}"
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
        "title": {"text": "accuracy / %"},
        "range": [0, 104],
        "tickvals": [0, 25, 50, 75, 100],
        "fixedrange": True,
        "automargin": True,
    }
    return Chart(
        f"simulation-{number}",
        f"Accuracy against {QUANTITIES[simulation.sweep]}",
        "Lines: mean over the devices. Bands: one standard deviation from device to device, to either side.",
        data,
        layout,
        kind="Line chart",
    )
