"""Results as Plotly figures: plain values, drawn by the page. No colour alone carries meaning; every axis begins at 0.

Plotly reads a little HTML in labels, so every name is escaped here for Plotly, as it is escaped once more for JSON.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from prap_pim.report.drawing import (
    NUMBERS,
    Chart,
    bar_layout,
    color,
    dash,
    hatch,
    label,
    room_for_text,
    safe,
    symbol,
    transparent,
)
from prap_pim.report.quantities import Scale, bits, count, percent, quantity, scale
from prap_pim.report.simulation import QUANTITIES
from prap_pim.report.summary import comparisons, component_names
from prap_pim.results import LayerResult, MethodResult, Results, SimulationResult

_PLOT = 260  # pixels of a chart of lines
_BAR = 30  # pixels of a bar with the space around it
_LAYER_BAR = 13  # pixels of one bar in the group of a layer
_LAYER_GAP = 10  # pixels between two layers
_SLIVER = 0.015  # of a method's energy: components below it in every method share one entry of the legend


def method_charts(results: Results) -> list[Chart]:
    """Method against method: latency, energy by component, what the network's answers are worth."""
    methods = [each.method for each in comparisons(results)]
    return [
        _by_method(
            "latency-serial",
            "Latency, serial",
            "One inference when nothing overlaps. Shorter is better.",
            methods,
            lambda method: method.serial.latency_s,
            "s",
        ),
        _by_method(
            "latency-pipelined",
            "Latency, pipelined",
            "One inference when the stages of a step and the layers overlap. Shorter is better.",
            methods,
            lambda method: method.pipelined.latency_s,
            "s",
        ),
        _energy_breakdown(methods),
        *([] if results.float_bits_per_byte is None else [_bits_per_byte(results, methods)]),
        *([] if results.float_accuracy is None else [_accuracy(results, methods)]),
    ]


def layer_charts(results: Results) -> list[Chart]:
    """Layer by layer, a bar for every method."""
    methods = [each.method for each in comparisons(results)]
    energy = scale((layer.energy_j for method in methods for layer in method.layers), "J")
    return [
        _by_layer(
            "layer-steps",
            "OU steps by layer",
            "Reads of one operation unit for one inference. Shorter is better.",
            methods,
            lambda layer: layer.ou_steps,
            lambda layer: f"{count(layer.ou_steps)} OU steps",
            axis="OU steps",
            tick_format="~s",
        ),
        _by_layer(
            "layer-energy",
            "Energy by layer",
            "For one inference. Shorter is better.",
            methods,
            lambda layer: layer.energy_j * energy.factor,
            lambda layer: quantity(layer.energy_j, "J"),
            axis=f"energy / {energy.unit}",
        ),
    ]


def layer_names(methods: Sequence[MethodResult]) -> list[str]:
    """Layers of all methods, each once, in network order."""
    return list(dict.fromkeys(layer.name for method in methods for layer in method.layers))


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
        "Line chart",
    )


def _by_method(
    id_: str,
    title: str,
    note: str,
    methods: Sequence[MethodResult],
    value: Callable[[MethodResult], float],
    unit: str,
) -> Chart:
    chosen = scale(map(value, methods), unit)
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(methods))),
        "x": [value(method) * chosen.factor for method in methods],
        "text": [quantity(value(method), unit) for method in methods],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [f"{safe(method.name)}: {quantity(value(method), unit)}" for method in methods],
        "hoverinfo": "text",
        "marker": {
            "color": [color(i) for i in range(len(methods))],
            "pattern": {"shape": [hatch(i) for i in range(len(methods))]},
        },
        "showlegend": False,
    }
    layout = bar_layout([method.name for method in methods], f"{title.lower()} / {chosen.unit}", _BAR * len(methods))
    layout["xaxis"]["range"] = room_for_text(map(value, methods), chosen)
    return Chart(id_, title, note, [bars], layout)


def _energy_breakdown(methods: Sequence[MethodResult]) -> Chart:
    chosen = scale((method.energy_j for method in methods), "J")
    parts_of = {
        component: [method.energy_breakdown_j.get(component, 0.0) for method in methods]
        for component in component_names(methods)
    }
    slivers = [
        component
        for component, parts in parts_of.items()
        if all(part < _SLIVER * method.energy_j for method, part in zip(methods, parts, strict=True))
    ]
    if len(slivers) > 1:
        small = [parts_of.pop(component) for component in slivers]
        parts_of[f"{len(slivers)} smaller ones"] = [sum(parts) for parts in zip(*small, strict=True)]
    data = []
    for i, (component, parts) in enumerate(parts_of.items()):
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(component.replace("_", " ")),
                "y": list(range(len(methods))),
                "x": [part * chosen.factor for part in parts],
                "hovertext": [
                    f"{safe(method.name)}, {safe(component)}: {quantity(part, 'J')}"
                    for method, part in zip(methods, parts, strict=True)
                ],
                "hoverinfo": "text",
                "marker": {"color": color(i), "pattern": {"shape": hatch(i)}},
            }
        )
    layout = bar_layout(
        [method.name for method in methods], f"energy / {chosen.unit}", _BAR * len(methods), legend=len(data)
    )
    layout["barmode"] = "stack"
    layout["xaxis"]["range"] = room_for_text((method.energy_j for method in methods), chosen)
    layout["annotations"] = [
        {
            "x": method.energy_j * chosen.factor,
            "y": i,
            "text": quantity(method.energy_j, "J"),
            "showarrow": False,
            "xanchor": "left",
        }
        for i, method in enumerate(methods)
    ]
    return Chart(
        "energy",
        "Energy, by component",
        "One inference. Shorter is better. The table below lists every component.",
        data,
        layout,
    )


def _accuracy(results: Results, methods: Sequence[MethodResult]) -> Chart:
    layout = {"range": [0, 145], "tickvals": [0, 25, 50, 75, 100]}
    pairs = [(method.compressed_accuracy, method.bit_true_accuracy) for method in methods]
    title = "Accuracy" if results.inputs == "images" else "Accuracy of the next byte"
    told = [100 * (share or 0.0) for share in (results.float_accuracy, *chain(*pairs))]
    texts = [percent(share or 0.0) for share in (results.float_accuracy, *chain(*pairs))]
    return _quality("accuracy", title, "Longer is better.", methods, told, texts, "accuracy / %", layout)


def _bits_per_byte(results: Results, methods: Sequence[MethodResult]) -> Chart:
    pairs = [(method.compressed_bits_per_byte, method.bit_true_bits_per_byte) for method in methods]
    told = [value or 0.0 for value in (results.float_bits_per_byte, *chain(*pairs))]
    layout = {"range": room_for_text(told, Scale(1.0, ""))}
    note = "What the next byte costs on the average when it is coded by the network's probabilities. Shorter is better."
    return _quality("bits-per-byte", "Bits per byte", note, methods, told, list(map(bits, told)), "bits / byte", layout)


def _quality(
    id_: str,
    title: str,
    note: str,
    methods: Sequence[MethodResult],
    told: Sequence[float],
    texts: Sequence[str],
    axis: str,
    axis_layout: dict[str, Any],
) -> Chart:
    """Of the float network, then of each method compressed and bit-true."""
    # the float network is one for all methods, so it has one bar and the neutral colour
    bars = [("float network", "#999999", "")]
    for i, method in enumerate(methods):
        bars += [(f"{method.name}, compressed", color(i), "/"), (f"{method.name}, bit-true", color(i), "")]
    data = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(bars))),
        "x": list(told),
        "text": list(texts),
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [f"{safe(name)}: {text}" for (name, *_), text in zip(bars, texts, strict=True)],
        "hoverinfo": "text",
        "marker": {"color": [bar[1] for bar in bars], "pattern": {"shape": [bar[2] for bar in bars]}},
        "showlegend": False,
    }
    layout = bar_layout([name for name, *_ in bars], axis, _BAR * len(bars))
    layout["xaxis"] |= axis_layout
    return Chart(
        id_,
        title,
        "Float network: as trained. Compressed: the method's weights, float arithmetic, batch norm re-estimated on the "
        "calibration inputs (so even dense can differ from the float network). Bit-true: int8 on the "
        f"simulated crossbars. {note}",
        [data],
        layout,
    )


def _by_layer(
    id_: str,
    title: str,
    note: str,
    methods: Sequence[MethodResult],
    value: Callable[[LayerResult], float],
    text: Callable[[LayerResult], str],
    axis: str,
    tick_format: str = NUMBERS,
) -> Chart:
    names = layer_names(methods)
    place = {name: i for i, name in enumerate(names)}
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(method.name),
            "y": [place[layer.name] for layer in method.layers],
            "x": [value(layer) for layer in method.layers],
            "hovertext": [f"{safe(layer.name)}, {safe(method.name)}: {text(layer)}" for layer in method.layers],
            "hoverinfo": "text",
            "marker": {"color": color(i), "pattern": {"shape": hatch(i)}},
        }
        for i, method in enumerate(methods)
    ]
    layout = bar_layout(names, axis, len(names) * (_LAYER_GAP + _LAYER_BAR * len(methods)), legend=len(methods))
    layout["barmode"] = "group"
    layout["bargap"] = _LAYER_GAP / (_LAYER_GAP + _LAYER_BAR * len(methods))
    layout["xaxis"]["tickformat"] = tick_format
    return Chart(id_, title, note, data, layout)
