"""What a mapped network costs: activity (integer counts) -> schedule (seconds) -> price (joules, square metres)."""

from prap_pim.cost.activity import Busiest, LayerActivity, activity
from prap_pim.cost.adc import conventions, conversion_energy, conversion_time
from prap_pim.cost.estimate import CostReport, LayerCost, Timing, ZeroInput, activities, cost
from prap_pim.cost.phase import Phase, Traced, check_counts, check_phase, of_phase
from prap_pim.cost.schedule import LayerTime, builds, layer_time, ou_step_stages, pipelined_latency, time_positions
from prap_pim.cost.writes import Writes

__all__ = [
    "Busiest",
    "CostReport",
    "LayerActivity",
    "LayerCost",
    "LayerTime",
    "Phase",
    "Timing",
    "Traced",
    "Writes",
    "ZeroInput",
    "activities",
    "activity",
    "builds",
    "check_counts",
    "check_phase",
    "conventions",
    "conversion_energy",
    "conversion_time",
    "cost",
    "layer_time",
    "of_phase",
    "ou_step_stages",
    "pipelined_latency",
    "time_positions",
]
