"""Several runs side by side: the figures of every method and what was proven, for page and terminal."""

from collections.abc import Sequence

from prap_pim.report.differences import NamedRun
from prap_pim.report.quality import Quality, qualities
from prap_pim.report.quantities import quantity, significant, times
from prap_pim.report.summary import Comparison, Exactness, caveat, comparisons, exactness

HEADINGS = (
    "accuracy",
    "compute ratio",
    "latency, serial",
    "latency, pipelined",
    "throughput, pipelined",
    "energy",
    "area",
    "speedup, serial",
    "speedup, pipelined",
    "energy gain",
    "throughput gain, equal crossbars",
)


_Cells = list[tuple[str, float | None]]


def rows(runs: Sequence[NamedRun]) -> list[tuple[str, str, _Cells, str]]:
    """Run, method, cells (text, SI value to sort by) for each of ``HEADINGS``, and what to know of the accuracy."""
    return [
        (run.name, each.method.name, _cells(each, qualities(run.results)[0]), caveat(run.results, each.method))
        for run in runs
        for each in comparisons(run.results)
    ]


def proofs(runs: Sequence[NamedRun]) -> list[tuple[str, str, Exactness]]:
    """Run, whether its crossbars are exact in words, and what was found."""
    found = [(run.name, exactness(run.results)) for run in runs]
    words = {(True, True): "exact", (True, False): "not exact", (False, False): "not checked"}
    return [(name, words[each.checked > 0, each.proven], each) for name, each in found]


def _cells(each: Comparison, of: Quality) -> _Cells:
    method = each.method
    value = of.bit_true(method)
    unit = {"share": "", "bits": " bits/byte"}.get(of.kind, f" {of.title}") if value is not None else ""
    quality = (of.text(value) + unit, value)
    gains = (each.serial_speedup, each.pipelined_speedup, each.energy_gain, each.at_budget.throughput_gain)
    return [
        quality,
        (significant(method.compute_ratio), method.compute_ratio),
        (quantity(method.serial.latency_s, "s"), method.serial.latency_s),
        (quantity(method.pipelined.latency_s, "s"), method.pipelined.latency_s),
        (f"{significant(method.pipelined.throughput_per_s)} /s", method.pipelined.throughput_per_s),
        (quantity(method.energy_j, "J"), method.energy_j),
        (quantity(method.area_m2, "m2"), method.area_m2),
        *((times(gain), gain) for gain in gains),
    ]
