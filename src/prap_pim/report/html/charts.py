"""Results as Plotly figures: plain values, drawn by the page. No colour alone carries meaning; bars begin at 0.

Plotly reads a little HTML in labels, so every name is escaped here for Plotly, as it is escaped once more for JSON.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from math import isfinite
from typing import Any

from prap_pim.report.html.drawing import (
    NUMBERS,
    Chart,
    Choice,
    bar_layout,
    color,
    hatch,
    label,
    room_for_text,
    safe,
    symbol,
)
from prap_pim.report.quality import Quality, measured, qualities
from prap_pim.report.quantities import Scale, count, quantity, scale, significant, times, words
from prap_pim.report.summary import Comparison, comparisons, component_names
from prap_pim.results.run import LayerResult, MethodResult, Results

_PLOT = 260  # pixels of a chart of lines
_BAR = 30  # pixels of a bar with the space around it
_GAIN_BAR = 19  # pixels of one bar in the group of a method
_GAP = 14  # pixels between two groups
_LAYER_ROW = 22  # pixels of a layer in a dot plot
_GAIN_HATCHES = ("", "/", "x", ".")
_SLIVER = 0.015  # of a method's energy: components below it in every method share one entry of the legend


def method_charts(results: Results) -> list[Chart]:
    """Methods compared: gains, latency, energy by component, quality of the network's answers."""
    compared = comparisons(results)
    methods = [each.method for each in compared]
    return [
        *([] if len(methods) == 1 else [_gains_of_one_mapping(compared), _gains_at_budget(compared)]),
        _latency(methods),
        _energy_breakdown(methods),
        *([_quality(of, methods) for of in qualities(results)] if measured(results) else []),
        *([_tradeoff(results, compared)] if measured(results) and len(methods) > 2 else []),
    ]


def layer_chart(results: Results) -> Chart:
    """Layer by layer, a mark for every method; the reader chooses what is shown."""
    methods = [each.method for each in comparisons(results)]
    names = layer_names(methods)
    measures: list[tuple[str, Callable[[LayerResult], float], str]] = [
        ("latency, pipelined", lambda layer: layer.pipelined_latency_s, "s"),
        ("latency, serial", lambda layer: layer.serial_latency_s, "s"),
        ("energy", lambda layer: layer.energy_j, "J"),
        ("OU steps", lambda layer: layer.ou_steps, ""),
    ]
    return Chart(
        "layer-chart",
        "Every layer under every method",
        "One inference; further left is better. The axis is logarithmic. The table below holds the figures.",
        kind="Dot plot",
        choosing="Show",
        choices=[_by_layer(*measure, methods, names) for measure in measures],
    )


def allocation_chart(number: int, method: MethodResult) -> Chart:
    """What the budget gave every layer: how many of its OU steps, in how many bits, as sums of how many donors."""
    assert method.calibration is not None
    layers = {layer.name: layer for layer in method.layers}
    kinds: dict[tuple[int, int], list[int]] = {}  # bits and uses: places of layers
    given = method.calibration.layers
    for place, each in enumerate(given):
        kinds.setdefault((each.bits, each.uses), []).append(place)
    data = []
    for i, ((bits, uses), places) in enumerate(sorted(kinds.items(), reverse=True)):
        of = [layers[given[place].name] for place in places]
        name = f"{bits} bits" + (f", sums of up to {uses} donors" if uses > 1 else "")
        kept = [given[place].donors or layer.weight_shape[0] for place, layer in zip(places, of, strict=True)]
        texts = [f"{count(k)} of {count(layer.weight_shape[0])}" for k, layer in zip(kept, of, strict=True)]
        shares = [layer.ou_steps / layer.dense_ou_steps for layer in of]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": places,
                "width": 0.7,
                "x": shares,
                "text": texts,
                "textposition": "outside",
                "cliponaxis": False,
                "hovertext": [
                    f"{safe(layer.name)}: {name}, {text} donors, {significant(share)} of its OU steps"
                    for layer, text, share in zip(of, texts, shares, strict=True)
                ],
                "hoverinfo": "text",
                "marker": {"color": color(i), "pattern": {"shape": hatch(i)}},
            }
        )
    layout = bar_layout(
        [each.name for each in given],
        "OU steps of a layer / dense",
        _LAYER_ROW * len(given),
        legend=len(data),
    )
    layout |= {"barmode": "overlay"}
    layout["xaxis"] |= {"range": [0, 1.25], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    layout["yaxis"] |= {"range": [len(given) - 0.5, -0.5]}
    del layout["yaxis"]["autorange"]
    return Chart(
        f"budget-{number}",
        "What the budget gave each layer",
        "Beside the bars: donors stored in a row group, of its number of filters. Long bars: the network's outputs are "
        "sensitive to this layer, or it costs little.",
        data,
        layout,
    )


def layer_names(methods: Sequence[MethodResult]) -> list[str]:
    """Layers of all methods, each once, in network order."""
    return list(dict.fromkeys(layer.name for method in methods for layer in method.layers))


_Measure = tuple[str, Callable[[Comparison], float]]


def _gains_of_one_mapping(compared: Sequence[Comparison]) -> Chart:
    reference = compared[0].reference.name
    return _gains(
        "gains-chip",
        "Gains at equal chip",
        f"Against {reference}, every layer once, on the crossbars that {reference} takes (or more, where a method "
        "needs them). The line is at 1: longer bars are better.",
        compared,
        (
            ("speedup, serial", lambda each: each.serial_speedup),
            ("speedup, pipelined", lambda each: each.pipelined_speedup),
            ("throughput, pipelined", lambda each: each.throughput_gain),
            ("energy", lambda each: each.energy_gain),
        ),
    )


def _gains_at_budget(compared: Sequence[Comparison]) -> Chart:
    return _gains(
        "gains-budget",
        "Gains at equal crossbars",
        f"Against {compared[0].reference.name}, each method with {count(compared[0].method.at_budget.budget)} "
        "crossbars: what it leaves free holds further copies of layers, and wider ones. They bring buffers and links "
        "with them, which the gain per mm² counts. The line is at 1: longer bars are better.",
        compared,
        (
            ("throughput, pipelined", lambda each: each.at_budget.throughput_gain),
            ("throughput per mm²", lambda each: each.at_budget.throughput_gain_per_area),
            ("speedup, serial", lambda each: each.at_budget.serial_speedup),
            ("energy", lambda each: each.at_budget.energy_gain),
        ),
    )


def _gains(id_: str, title: str, note: str, compared: Sequence[Comparison], measures: Sequence[_Measure]) -> Chart:
    baselines = compared[1:]
    data: list[dict[str, Any]] = []
    for i, (name, value) in enumerate(measures):
        gains = [value(each) for each in baselines]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": list(range(len(baselines))),
                "x": [gain if isfinite(gain) else None for gain in gains],
                "text": list(map(times, gains)),
                "textposition": "outside",
                "textangle": 0,
                "constraintext": "none",
                "cliponaxis": False,
                "hovertext": [
                    f"{safe(each.method.name)}, {name}: {times(g)}" for each, g in zip(baselines, gains, strict=True)
                ],
                "hoverinfo": "text",
                "marker": {"color": color(i), "pattern": {"shape": _GAIN_HATCHES[i]}},
            }
        )
    largest = max((gain for trace in data for gain in trace["x"] if gain is not None), default=1.0)
    height = len(baselines) * (_GAP + _GAIN_BAR * len(measures))
    layout = bar_layout([each.method.name for each in baselines], "gain", height, legend=len(measures))
    layout["barmode"] = "group"
    layout["bargap"] = _GAP / (_GAP + _GAIN_BAR * len(measures))
    layout["xaxis"]["range"] = room_for_text([max(1.0, largest)], Scale(1.0, ""))
    layout["shapes"] = [
        {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot", "width": 2}}
    ]
    return Chart(id_, title, note, data, layout)


def _latency(methods: Sequence[MethodResult]) -> Chart:
    return Chart(
        "latency",
        "Latency",
        "One inference. Serial: nothing overlaps. Pipelined: the stages of a step and the layers overlap. "
        "Shorter is better.",
        choosing="Timing",
        choices=[
            _by_method("serial", methods, lambda method: method.serial.latency_s, "s"),
            _by_method("pipelined", methods, lambda method: method.pipelined.latency_s, "s"),
        ],
    )


def _by_method(
    timing: str, methods: Sequence[MethodResult], value: Callable[[MethodResult], float], unit: str
) -> Choice:
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
    layout = bar_layout([method.name for method in methods], f"latency, {timing} / {chosen.unit}", _BAR * len(methods))
    layout["xaxis"]["range"] = room_for_text(map(value, methods), chosen)
    return Choice(timing, [bars], layout)


def _tradeoff(results: Results, compared: Sequence[Comparison]) -> Chart:
    """What the answers are worth against what a method gains."""
    of = qualities(results)[0]
    measures: tuple[_Measure, ...] = (
        ("energy gain", lambda each: each.energy_gain),
        ("throughput gain at equal chip", lambda each: each.throughput_gain),
        ("throughput gain at equal crossbars", lambda each: each.at_budget.throughput_gain),
    )

    def choice(name: str, value: Callable[[Comparison], float]) -> Choice:
        data = []
        for i, each in enumerate(compared):
            told = of.bit_true(each.method)
            gain = value(each)
            if told is None or not isfinite(gain):
                continue
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": label(each.method.name),
                    "x": [gain],
                    "y": [of.factor * told],
                    "hovertext": [f"{safe(each.method.name)}: {name} {times(gain)}, {of.text(told)}"],
                    "hoverinfo": "text",
                    "cliponaxis": False,
                    "marker": {"color": color(i), "symbol": symbol(i), "size": 13},
                }
            )
        layout = bar_layout([], name, _PLOT, legend=len(data))
        layout["yaxis"] = {
            "title": {"text": of.axis},
            "fixedrange": True,
            "automargin": True,
            **({"autorange": "reversed"} if of.less else {}),
        }
        return Choice(name, data, layout)

    return Chart(
        "tradeoff",
        f"{of.title} against gain",
        f"Bit-true, each method's mark against its gain over {compared[0].reference.name}. The best are at the top "
        "right. The vertical axis does not begin at 0.",
        kind="Scatter plot",
        choosing="Gain",
        choices=[choice(*measure) for measure in measures],
    )


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
                "name": label(words(component)),
                "y": list(range(len(methods))),
                "x": [part * chosen.factor for part in parts],
                "hovertext": [
                    f"{safe(method.name)}, {safe(words(component))}: {quantity(part, 'J')}"
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


_OF_BYTES = "What the next byte costs on the average when it is coded by the network's probabilities. "


def _quality(of: Quality, methods: Sequence[MethodResult]) -> Chart:
    """Of the float network, then of each method compressed and bit-true."""
    values = [of.before, *chain(*((of.compressed(method), of.bit_true(method)) for method in methods))]
    told, texts = [of.factor * (value or 0.0) for value in values], [of.text(value or 0.0) for value in values]
    share = {"range": [0, 145], "tickvals": [0, 25, 50, 75, 100]}
    least, most = min(0.0, *told), room_for_text(told, Scale(1.0, ""))[1]
    note = f"{_OF_BYTES if of.kind == 'bits' else ''}{'Shorter' if of.less else 'Longer'} is better."
    # the float network is one for all methods, so it has one bar and the neutral colour
    bars = [("float network", "#999999", "")]
    for i, method in enumerate(methods):
        bars += [(f"{method.name}, compressed", color(i), "/"), (f"{method.name}, bit-true", color(i), "")]
    data = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(bars))),
        "x": told,
        "text": texts,
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [f"{safe(name)}: {text}" for (name, *_), text in zip(bars, texts, strict=True)],
        "hoverinfo": "text",
        "marker": {"color": [bar[1] for bar in bars], "pattern": {"shape": [bar[2] for bar in bars]}},
        "showlegend": False,
    }
    layout = bar_layout([name for name, *_ in bars], of.axis, _BAR * len(bars))
    layout["xaxis"] |= share if of.kind == "share" else {"range": [least, most]}
    return Chart(
        of.name.replace("_", "-") if of.kind != "ratio" else f"metric-{safe(of.name)}",
        of.title,
        "Float network: as trained. Compressed: the method's weights, float arithmetic, batch norm moved on the "
        "calibration inputs (so even dense can differ from the float network). Bit-true: int8 on the "
        f"simulated crossbars. {note}",
        [data],
        layout,
    )


def _by_layer(
    name: str,
    value: Callable[[LayerResult], float],
    unit: str,
    methods: Sequence[MethodResult],
    names: Sequence[str],
) -> Choice:
    place = {layer: i for i, layer in enumerate(names)}
    chosen = scale((value(layer) for method in methods for layer in method.layers), unit)
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(method.name),
            "y": [place[layer.name] for layer in method.layers],
            "x": [value(layer) * chosen.factor or None for layer in method.layers],  # a logarithmic axis knows no 0
            "hovertext": [
                f"{safe(layer.name)}, {safe(method.name)}: {name} "
                + (quantity(value(layer), unit) if unit else count(int(value(layer))))
                for layer in method.layers
            ],
            "hoverinfo": "text",
            "cliponaxis": False,
            "marker": {"color": color(i), "symbol": symbol(i), "size": 10, "opacity": 0.9},
        }
        for i, method in enumerate(methods)
    ]
    layout = bar_layout(
        names, f"{name} / {chosen.unit}" if chosen.unit else name, _LAYER_ROW * len(names), legend=len(methods)
    )
    layout["xaxis"] = {"title": layout["xaxis"]["title"], "type": "log", "fixedrange": True, "automargin": True}
    layout["xaxis"] |= {"tickformat": "~s" if not unit else NUMBERS, "dtick": 1, "tickangle": 0}
    layout["yaxis"] |= {"showgrid": True, "range": [len(names) - 0.5, -0.5]}
    del layout["yaxis"]["autorange"]
    return Choice(name, data, layout)
