"""What a run says at a glance, in words and formatted numbers: the terminal and the page show the same."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prap_pim.common.names import shortened
from prap_pim.report.quality import Quality, qualities
from prap_pim.report.quantities import bits, count, known, percent, quantity, relative, significant, times, words
from prap_pim.results.run import CostFigures, LayerResult, MethodResult, Results


@dataclass(frozen=True)
class Gains:
    """Figures beside those of the reference. A ratio above 1 says that they are better; NaN: no ratio."""

    reference: CostFigures
    method: CostFigures

    @property
    def serial_speedup(self) -> float:
        """Reference latency / latency, nothing overlapping."""
        return _ratio(self.reference.serial.latency_s, self.method.serial.latency_s)

    @property
    def pipelined_speedup(self) -> float:
        """Reference latency / latency, pipelined."""
        return _ratio(self.reference.pipelined.latency_s, self.method.pipelined.latency_s)

    @property
    def throughput_gain(self) -> float:
        """Throughput / reference throughput, pipelined."""
        return _ratio(self.method.pipelined.throughput_per_s, self.reference.pipelined.throughput_per_s)

    @property
    def throughput_gain_per_area(self) -> float:
        """The same for each square metre: copies bring buffers and links with them."""
        return self.throughput_gain * _ratio(self.reference.area_m2, self.method.area_m2)

    @property
    def energy_gain(self) -> float:
        """Reference energy / energy."""
        return _ratio(self.reference.energy_j, self.method.energy_j)


@dataclass(frozen=True)
class Comparison(Gains):
    """A method beside the reference on the same chip."""

    reference: MethodResult
    method: MethodResult

    @property
    def at_budget(self) -> Gains:
        """Both filling the same number of crossbars."""
        return Gains(self.reference.at_budget, self.method.at_budget)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _power(watts: float | None) -> str:
    return "n/a" if watts is None else quantity(watts, "W")


def comparisons(results: Results) -> list[Comparison]:
    """Every method beside the first one, which is beside itself."""
    return [Comparison(results.methods[0], method) for method in results.methods]


@dataclass(frozen=True)
class Row:
    """One figure of every method, in the order of the methods."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


def _noise(method: MethodResult) -> str:
    """Of the output that is worst."""
    outputs = method.check.outputs if method.check is not None else []
    if not outputs:
        return "not measured"
    noise = [output.sqnr_db for output in outputs if output.sqnr_db is not None]
    return f"{min(noise):.1f} dB" if noise else "no difference"


def _years(method: MethodResult) -> str:
    """That the cells last."""
    if not method.cells_written:
        return "unlimited"
    if method.endured_inferences is None:
        return "n/a"
    return f"{significant(method.endured_inferences / (365.25 * 24 * 3600))} years"


def _changed(method: MethodResult) -> str:
    outputs = method.check.outputs if method.check is not None else []
    changed = [output.changed for output in outputs if output.changed is not None]
    return percent(max(changed)) if changed else "n/a"


def _most(parts: Mapping[str, float] | None) -> str:
    """The largest of some parts, and its share."""
    if not parts:
        return "n/a"
    name = max(parts, key=lambda part: parts[part])
    return f"{name}, {_share(parts[name], sum(parts.values()))}"


def _bottleneck(method: MethodResult) -> str:
    """Layer and resource that set the pace where layers overlap."""
    if not method.layers:
        return "n/a"
    slowest = max(method.layers, key=lambda layer: layer.pipelined_latency_s)
    (name,) = shortened([slowest.name])
    return f"{name}, {slowest.bottleneck}" if slowest.bottleneck else name


_Figures = Mapping[str, Callable[[Any], str]]  # of a method, or of what it is at a budget, by label
_STORED: _Figures = {
    "area": lambda m: quantity(m.area_m2, "m2"),
    "index stored": lambda m: quantity(m.index_stored_bytes, "B"),
    "index read": lambda m: quantity(m.index_read_bytes, "B"),
    "partial sums moved": lambda m: quantity(m.partial_sum_bytes, "B"),
}
_WORK: _Figures = {
    "compute ratio": lambda m: significant(m.compute_ratio),
    "OU steps": lambda m: count(m.ou_steps),
    "stored cells": lambda m: count(m.stored_cells),
    "crossbars": lambda m: count(m.crossbars),
    **_STORED,
}
_WRITTEN: _Figures = {
    "energy, once": lambda m: known(m.programming_j, "J"),
    "time, once": lambda m: known(m.programming_s, "s"),
    "turns per inference": lambda m: count(m.turns),
    "cells written per inference": lambda m: count(m.cells_written),
    "cell life at 1 inference/s": _years,
}
_SERIAL: _Figures = {"latency, serial": lambda m: quantity(m.serial.latency_s, "s")}
_PIPELINED: _Figures = {"latency, pipelined": lambda m: quantity(m.pipelined.latency_s, "s")}
_FLOW: _Figures = {
    "throughput, serial": lambda m: f"{significant(m.serial.throughput_per_s)} /s",
    "throughput, pipelined": lambda m: f"{significant(m.pipelined.throughput_per_s)} /s",
    "energy, without leakage": lambda m: quantity(m.energy_j, "J"),
    "leakage": lambda m: _power(m.leakage_w),
    "TOPS/W": lambda m: significant(m.tops_per_w),
}
_NAMES: tuple[_Figures, _Figures] = (
    {"most of it, serial": lambda m: _most(m.serial_breakdown_s)},
    {"bottleneck, pipelined": _bottleneck},
)
_AT_BUDGET: _Figures = {
    "crossbars used": lambda m: count(m.crossbars),
    "stored cells": lambda m: count(m.stored_cells),
    **_STORED,
    **_SERIAL,
    **_PIPELINED,
    **_FLOW,
}
_BUDGET_GAINS: _Figures = {
    "throughput gain": lambda c: times(c.at_budget.throughput_gain),
    "throughput gain per area": lambda c: times(c.at_budget.throughput_gain_per_area),
}
_GAINS: _Figures = {
    "speedup, serial": lambda c: times(c.serial_speedup),
    "speedup, pipelined": lambda c: times(c.pipelined_speedup),
    "throughput, pipelined": lambda c: times(c.throughput_gain),
    "energy gain": lambda c: times(c.energy_gain),
}


def sections(results: Results, bottlenecks: bool = False) -> list[Section]:
    """The table of methods: methods are columns, figures rows; with ``bottlenecks``, rows of names, too."""
    methods, compared = results.methods, comparisons(results)

    def rows(of: Sequence[Any], figures: _Figures) -> tuple[Row, ...]:
        return tuple(Row(label, tuple(map(text, of))) for label, text in figures.items())

    def worth(of: Quality) -> Section:
        values: _Figures = {
            "float network": lambda _: of.text(of.before),
            "compressed": lambda m: of.text(of.compressed(m)),
            "bit-true int8": lambda m: of.text(of.bit_true(m)),
        }
        return Section(of.title, rows(methods, values))

    checks = [method.check for method in methods if method.check is not None]
    unseen = "held-back inputs" if all(check.held_back for check in checks) else "inputs that it was fitted to"
    checked = f"Bit-true against the original network, on {unseen}"
    most, slowest = _NAMES if bottlenecks else ({}, {})
    at_budget = [method.at_budget for method in methods]
    budget = f"With {count(at_budget[0].budget)} crossbars, layers replicated to fill them"
    found = [worth(of) for of in qualities(results)]
    if checks:
        found.append(Section(checked, rows(methods, {"signal to noise": _noise, "classes changed": _changed})))
    return [
        *found,
        Section("Work and storage", rows(methods, _WORK)),
        Section("Writing the cells", rows(methods, _WRITTEN)),
        Section(
            "Time and energy of one inference",
            rows(methods, {**_SERIAL, **most, **_PIPELINED, **slowest, **_FLOW}),
        ),
        Section(budget, rows(at_budget, _AT_BUDGET) + rows(compared, _BUDGET_GAINS)),
        Section(f"Gain over {methods[0].name}", rows(compared, _GAINS)),
    ]


def component_names(methods: Sequence[MethodResult]) -> list[str]:
    """Components of the energy breakdown, the largest of the first method first."""
    names = dict.fromkeys(name for method in methods for name in method.energy_breakdown_j)
    first = methods[0].energy_breakdown_j
    return sorted(names, key=lambda name: -first.get(name, 0.0))


def energy_section(results: Results) -> Section:
    """The energy of one inference, by component."""
    rows = (
        Row(words(name), tuple(quantity(m.energy_breakdown_j.get(name, 0.0), "J") for m in results.methods))
        for name in component_names(results.methods)
    )
    return Section("Energy of one inference, by component", tuple(rows))


_LOSS = 0.01  # of accuracy, or of bits per byte as a share of them: a greater one is named beside the gains
_DEVIATIONS = 3  # of the accuracy of guessing: one that is not above it by as many may be chance


def caveat(results: Results, method: MethodResult) -> str:
    """What must be known of a method's answers before its gains are read; empty: nothing, or they were not measured."""
    of = qualities(results)[0]
    value, before = of.bit_true(method), of.before
    if value is None or before is None:
        return ""
    if of.kind == "share":
        lost = before - value
        return guessed(results, value) or (
            f"loses {significant(100 * lost)} points of the float network's {of.text(before)}" if lost > _LOSS else ""
        )
    if of.kind == "bits" and results.classes and value > (1 - _LOSS) * math.log2(results.classes):
        return f"no better than guessing, which takes {bits(math.log2(results.classes))}"
    worse = (value - before if of.less else before - value) / (abs(before) or 1)
    side = "above" if of.less else "below"
    return f"{percent(worse)} {side} the float network's {of.text(before)}" if worse > _LOSS else ""


def guessed(results: Results, accuracy: float | None) -> str:
    """Says that an accuracy may be that of guessing; empty: it is better, or nothing is known."""
    tests = results.images.get("test", 0)
    if accuracy is None or results.inputs != "images" or not results.classes or not tests:
        return ""
    chance = 1 / results.classes
    spread = math.sqrt(chance * (1 - chance) / tests)
    if accuracy > chance + _DEVIATIONS * spread:
        return ""
    return f"no better than guessing among {count(results.classes)} classes"


@dataclass(frozen=True)
class Card:
    """One figure of the headline.

    Attributes:
        figure: with its unit.
        label: what it is.
        origin: what it comes from.
        caveat: what must be known with it; empty: nothing.
    """

    figure: str
    label: str
    origin: str
    caveat: str = ""


@dataclass(frozen=True)
class Headline:
    """The one method that a reader should look at first: the last of the run, as the user ordered them."""

    sentence: str
    methods: tuple[MethodResult, ...]  # that the sentence names
    cards: tuple[Card, ...]


def headline(results: Results) -> Headline:
    """The last method against the first; the method alone where there is only one."""
    last = comparisons(results)[-1]
    method, reference = last.method, last.reference
    warning, of = caveat(results, method), qualities(results)[0]
    if method is reference:
        return Headline(
            f"{method.name} needs {quantity(method.serial.latency_s, 's')} and {quantity(method.energy_j, 'J')} for "
            f"one inference of {results.network} on the chip {results.chip.name}. "
            "The run holds no other method, so there is nothing to compare it with.",
            (method,),
            (
                Card(quantity(method.serial.latency_s, "s"), "latency, serial", "one inference, nothing overlaps"),
                Card(quantity(method.pipelined.latency_s, "s"), "latency, pipelined", "one inference, layers overlap"),
                Card(quantity(method.energy_j, "J"), "energy", "one inference"),
                Card(quantity(method.area_m2, "m2"), "area", f"{count(method.crossbars)} crossbars"),
                Card(of.text(of.bit_true(method)), of.label, f"float network: {of.text(of.before)}", warning),
            ),
        )

    def instead(new: str, old: str) -> str:
        return f"{new} instead of {old}"

    mine, other, change = of.bit_true(method), of.bit_true(reference), "not measured"
    known = mine is not None and other is not None
    if mine is not None and other is not None:
        change = of.change(mine, other)
    now, before = of.text(mine), of.text(of.before)
    told, same = instead(now, of.text(other)), now == of.text(other)
    is_, stays = ("are", "stay at") if of.kind == "bits" else ("is", "stays at")
    answers = f"Its {of.label} {f'{stays} {now}' if same else f'{is_} {told}'}"
    if not same or before != now:
        answers += f"; the network as it was trained, in float, has {before}"
    return Headline(
        f"On the chip {results.chip.name}, {method.name} runs {results.network} {times(last.serial_speedup)} as fast "
        f"as {reference.name} (serial timing) and uses {_share(method.energy_j, reference.energy_j)} of its energy. "
        + (f"{answers}." if known else f"Accuracy was not measured ({results.weights})."),
        (method, reference),
        (
            Card(
                times(last.serial_speedup),
                "speedup, serial",
                instead(*(quantity(m.serial.latency_s, "s") for m in (method, reference))),
            ),
            Card(
                times(last.pipelined_speedup),
                "speedup, pipelined",
                instead(*(quantity(m.pipelined.latency_s, "s") for m in (method, reference))),
            ),
            Card(
                times(last.at_budget.throughput_gain),
                "throughput at equal crossbars",
                f"pipelined, each with {count(method.at_budget.budget)} crossbars; "
                f"{times(last.at_budget.throughput_gain_per_area)} per mm²",
            ),
            Card(
                times(last.energy_gain),
                "energy gain",
                instead(*(quantity(m.energy_j, "J") for m in (method, reference))),
            ),
            Card(
                relative(_ratio(method.area_m2, reference.area_m2) - 1),
                "area change",
                instead(*(quantity(m.area_m2, "m2") for m in (method, reference))),
            ),
            Card(change, f"{of.label} change", told, warning) if known else Card(change, of.label, results.weights),
        ),
    )


def _share(part: float, whole: float) -> str:
    share = _ratio(part, whole)
    return f"{significant(100 * share)} %" if math.isfinite(share) else significant(share)


@dataclass(frozen=True)
class Exactness:
    """What the bit-true check found over all methods and layers."""

    checked: int
    mismatches: int
    wrong: tuple[str, ...]  # "method, layer" where integers differ
    inputs: str  # how many went through every cell; empty: not known
    overflows: int
    overflowed: tuple[str, ...]  # "method, layer: how often" where a register was too narrow

    @property
    def proven(self) -> bool:
        """Integers were compared and all were equal."""
        return self.checked > 0 and self.mismatches == 0

    @property
    def line(self) -> str:
        """For the terminal."""
        if not self.checked:
            return "no integers were compared: this run checks nothing on crossbars"
        found = f"{count(self.checked)} integers compared with the integer matmul, {count(self.mismatches)} mismatches"
        return f"{found}; {self.inputs}" if self.inputs else found

    @property
    def overflow_line(self) -> str:
        """For the terminal; empty if every sum fitted."""
        if not self.overflows:
            return ""
        return f"{count(self.overflows)} sums did not fit their registers ({'; '.join(self.overflowed)})"


def exactness(results: Results) -> Exactness:
    """Sum up the checks of every layer under every method."""
    layers: list[tuple[str, LayerResult]] = [(m.name, layer) for m in results.methods for layer in m.layers]
    return Exactness(
        checked=sum(layer.checked_outputs for _, layer in layers),
        mismatches=sum(layer.mismatches for _, layer in layers),
        wrong=tuple(f"{method}, {layer.name}" for method, layer in layers if layer.mismatches),
        inputs=_checked_inputs(results),
        overflows=sum(layer.overflows for _, layer in layers),
        overflowed=tuple(
            f"{method}, {layer.name}: {count(layer.overflows)}" for method, layer in layers if layer.overflows
        ),
    )


def _checked_inputs(results: Results) -> str:
    """How many inputs of each method went through every cell."""
    checked = [method.checked_images or 0 for method in results.methods]
    fewest, most = min(checked), max(checked)
    if most == 0:
        return ""
    numbers = count(most) if fewest == most else f"{count(fewest)} to {count(most)}"
    whole = f" of {count(results.images['test'])}" if "test" in results.images else ""
    return f"{numbers}{whole} test {results.inputs} of each method went through every cell"
