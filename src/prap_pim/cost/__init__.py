"""What a mapped network costs: activity (integer counts) -> schedule (seconds) -> price (joules, square metres)."""

from prap_pim.cost.activity import Busiest, LayerActivity, activity
from prap_pim.cost.adc import conventions, conversion_energy, conversion_time, warnings
from prap_pim.cost.data import priced_by_data
from prap_pim.cost.estimate import (
    CostReport,
    LayerCost,
    Timing,
    ZeroInput,
    activities,
    cost,
)
from prap_pim.cost.phase import Phase, Traced, check_counts, check_phase, of_phase
from prap_pim.cost.schedule import LayerTime, builds, layer_time, ou_step_stages, pipelined_latency, time_positions
from prap_pim.cost.timing import PipelinedBy, check_events, check_timing, timed_by_events
from prap_pim.cost.writes import Writes

__all__ = [
    "Busiest",
    "CostReport",
    "LayerActivity",
    "LayerCost",
    "LayerTime",
    "Phase",
    "PipelinedBy",
    "Timing",
    "Traced",
    "Writes",
    "ZeroInput",
    "activities",
    "activity",
    "builds",
    "check_counts",
    "check_events",
    "check_phase",
    "check_timing",
    "conventions",
    "conversion_energy",
    "conversion_time",
    "cost",
    "layer_time",
    "of_phase",
    "ou_step_stages",
    "pipelined_latency",
    "priced_by_data",
    "time_positions",
    "timed_by_events",
    "warnings",
]
