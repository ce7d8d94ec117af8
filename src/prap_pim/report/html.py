"""One HTML file that shows a run: opens from disk, asks the network for nothing, treats every name as untrusted."""

import base64
import hashlib
import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prap_pim.files import write_whole
from prap_pim.report import quantities
from prap_pim.report.allocation import HEADINGS, UNITS, allocations
from prap_pim.report.charts import layer_charts, layer_names, method_charts, simulation_chart
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
    scripts = [str(get_plotlyjs()), _file("report.js")]
    layers = [{layer.name: layer for layer in method.layers} for method in methods]
    return (
        _environment()
        .get_template("report.html")
        .render(
            results=results,
            headline=headline(results),
            sections=sections(results),
            exactness=exactness(results),
            method_charts=by_method,
            layer_charts=by_layer,
            chart_json=_json_for_script([asdict(chart) for chart in (*by_method, *by_layer, *filter(None, charts))]),
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
            style=Markup(_file("report.css")),
            scripts=[Markup(script) for script in scripts],
            script_hashes=" ".join(map(_csp_hash, scripts)),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("prap_pim", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": quantities.count,
        "percent": quantities.percent,
        "quantity": quantities.quantity,
        "given": quantities.given,
    }
    return environment


def _file(name: str) -> str:
    return resources.files("prap_pim.report").joinpath(name).read_text(encoding="utf-8")


def _json_for_script(value: Any) -> Markup:
    """JSON without a character that HTML or JavaScript reads otherwise: < > & and all but ASCII are \\u escapes."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _csp_hash(script: str) -> str:
    """How a content security policy names the one script that may run: a name that slipped through could not."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
