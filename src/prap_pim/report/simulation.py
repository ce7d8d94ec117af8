"""Accuracy under device effects, in words and formatted numbers that the terminal and the page both show; a chart."""

from prap_pim.report.quality import kind_of, measure_text
from prap_pim.report.quantities import count
from prap_pim.results.run import PointResult, SimulationResult

HEADINGS = ("exact", "mean", "spread", "worst", "devices", "overflows")
QUANTITIES = {"sigma": "sigma of ln g", "adc-bits": "ADC bits", "fault-rate": "share of stuck cells"}


def title(simulation: SimulationResult) -> str:
    """What was measured, as a title begins."""
    return "Accuracy" if simulation.metric == "accuracy" else simulation.metric


def summary(simulation: SimulationResult) -> str:
    """What was measured, in one sentence."""
    random = any(len(point.accuracies) > 1 for point in simulation.points) or simulation.devices == 1
    devices = f"{count(simulation.devices)} device{'' if simulation.devices == 1 else 's'}"
    alike = "" if random else ", measured once: nothing is random"
    return f"{count(simulation.images)} test images on {devices} (seed {simulation.seed}){alike}"


def value_text(point: PointResult) -> str:
    """The swept value; empty if nothing is swept."""
    return "" if point.value is None else f"{point.value:g}"


def row_cells(simulation: SimulationResult, point: PointResult) -> tuple[str, ...]:
    """A cell for each of ``HEADINGS``."""
    kind = kind_of(simulation.metric)
    return (
        measure_text(simulation.exact_accuracy.get(point.method), kind),
        measure_text(point.mean, kind),
        measure_text(point.spread, kind) if len(point.accuracies) > 1 else "",
        measure_text(point.worst, kind),
        count(len(point.accuracies)),
        count(point.overflows),
    )
