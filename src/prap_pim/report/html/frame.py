"""The frame that all pages share: one file, dark and light, nothing from the network, every name untrusted.

A page is a template in ``templates/`` that extends the frame, and a call of ``render_page``::

    {% extends "frame.html" %}
    {% from "parts.html" import scroll, figure, filters %}
    {% block title %}{{ study.name }}{% endblock %}
    {% block head %}<h1>{{ study.name }}</h1>{% endblock %}
    {% block main %}
    <section aria-labelledby="front"><h2 id="front">Pareto front</h2>
      <div class="charts">{{ figure(chart) }}</div>
      {{ filters("points-table", "Method or setting", [("Method", 0, methods)]) }}
      {% call scroll("points-caption", tall=true) %}
      <table id="points-table" class="sortable"><caption id="points-caption">...</caption> ... </table>
      {% endcall %}
    </section>
    {% endblock %}

    write_whole(path, render_page("study.html", parts=[("front", "Front")], charts=[chart], study=study, chart=chart))

- Templates escape every value. In a chart, names go through ``drawing.label`` or ``drawing.safe``, for Plotly reads a
  little HTML of its own.
- A table of class ``sortable`` gets headings that sort (a cell's ``data-value``, else its text; it has one ``tbody``),
  ``filters`` a search field and lists. Both work without script as plain tables.
- A script of the page reads ``data`` with ``page.read("page-data")``, packed data (``pack_json``) with ``page.unpack``.
- No inline event handlers: the page's policy refuses every script but its own.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_text
from prap_pim.report import quantities
from prap_pim.report.html.drawing import Chart

_UNIT = re.compile(r"(?<=\d) (?=(%|points|[TGMkmµnpf]?(s|J|W|m²|B|Hz)|/s)(?!\w))")


_CONFIG = 200_000  # characters of a configuration that are shown


def config_text(path: Path) -> str:
    """A configuration as a page shows it; empty if it cannot be read."""
    try:
        config = read_text(path)
    except UserError:
        return ""
    return config if len(config) <= _CONFIG else f"{config[:_CONFIG]}\n# cut here: the rest is in {path.name}"


def render_page(
    template: str,
    parts: Sequence[tuple[str, str]],
    charts: Sequence[Chart] = (),
    data: Any = None,
    scripts: Sequence[str] = (),
    **values: Any,
) -> str:
    """A page as text.

    Args:
        template: file in ``templates/`` that extends ``frame.html``.
        parts: id and title of each part, for the links at the top.
        charts: each drawn in the element with its id (``figure`` makes it).
        data: for the page's scripts: plain values without NaN or infinity.
        scripts: files in ``templates/`` to run after ``page.js``.
        values: for the template.
    """
    texts = [_file(name) for name in ("page.js", *scripts)]
    frame = {
        "style": Markup(_file("page.css")),
        "scripts": [Markup(text) for text in texts],
        "script_hashes": " ".join([*map(_csp_hash, texts), *([_plotly()[1]] if charts else [])]),
        "charts": _json_for_script([asdict(chart) for chart in charts]),
        "data": _json_for_script(data),
        "plotly": _plotly()[0] if charts else "",
        "version": version("prap-pim"),
    }
    return _environment().get_template(template).render(frame=frame, parts=parts, **values)


def pack_json(value: Any) -> Markup:
    """Plain values that a page carries many of, as base64 of gzip. Read by ``page.unpack``."""
    return _pack(json.dumps(value, allow_nan=False, separators=(",", ":")), 6)  # 9 takes ten times as long for 2 %


def _pack(text: str, level: int) -> Markup:
    return Markup(base64.b64encode(gzip.compress(text.encode(), level, mtime=0)).decode())


@cache
def _plotly() -> tuple[Markup, str]:
    """Plotly's script, packed, and how the page's policy names it."""
    script = str(get_plotlyjs())
    return _pack(script, 9), _csp_hash(script)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("prap_pim.report.html"),
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
        "words": quantities.words,
        "unbroken": lambda text: _UNIT.sub("\u00a0", text),  # a number and its unit stay on one line
    }
    return environment


def _file(name: str) -> str:
    return resources.files("prap_pim.report.html").joinpath("templates", name).read_text(encoding="utf-8")


def _json_for_script(value: Any) -> Markup:
    """JSON without a character that HTML or JavaScript reads otherwise: < > & and all but ASCII are \\u escapes."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _csp_hash(script: str) -> str:
    """How a content security policy names the one script that may run: a name that slipped through could not."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
