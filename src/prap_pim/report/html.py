"""The page of a run."""

from pathlib import Path

from prap_pim.files import write_whole
from prap_pim.report.allocation import HEADINGS, UNITS, allocations
from prap_pim.report.charts import layer_charts, layer_names, method_charts, simulation_chart
from prap_pim.report.page import render_page
from prap_pim.report.simulation import HEADINGS as SIMULATION_HEADINGS
from prap_pim.report.simulation import QUANTITIES, row_cells, summary, value_text
from prap_pim.report.summary import comparisons, component_names, exactness, headline, sections
from prap_pim.results import Results


def write_report(results: Results, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_whole(path, render(results))


def render(results: Results) -> str:
    """The page as text."""
    methods = [each.method for each in comparisons(results)]
    by_method, by_layer = method_charts(results), layer_charts(results)
    charts = [simulation_chart(simulation, i) for i, simulation in enumerate(results.simulations)]
    layers = [{layer.name: layer for layer in method.layers} for method in methods]
    parts = [("methods", "Methods"), ("layers", "Layers"), ("exact", "Exactness")]
    parts += [("devices", "Device effects")] if results.simulations else []
    return render_page(
        "report.html",
        parts=[*parts, ("chip", "Chip"), ("run", "Run")],
        charts=[*by_method, *by_layer, *filter(None, charts)],
        results=results,
        headline=headline(results),
        sections=sections(results),
        exactness=exactness(results),
        method_charts=by_method,
        layer_charts=by_layer,
        simulations=[
            {
                "result": simulation,
                "summary": summary(simulation),
                "quantity": QUANTITIES[simulation.sweep] if simulation.sweep is not None else "",
                "rows": [
                    (point.method, value_text(point), row_cells(simulation, point)) for point in simulation.points
                ],
                "chart": chart,
            }
            for simulation, chart in zip(results.simulations, charts, strict=True)
        ],
        simulation_headings=SIMULATION_HEADINGS,
        components=component_names(methods),
        allocations=allocations(results),
        allocation_headings=[f"{heading}, {unit}" for heading, unit in zip(HEADINGS, UNITS, strict=True)],
        layer_rows=[
            (method.name, of_method[name])
            for name in layer_names(methods)
            for method, of_method in zip(methods, layers, strict=True)
            if name in of_method
        ],
    )
