"""Pipelined times by simulation, in the place of those by formula."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal, get_args

from prap_pim.common.errors import UserError
from prap_pim.cost.estimate import CostReport, Timing
from prap_pim.cost.events import simulate
from prap_pim.hardware.components import ComponentTable, load_table
from prap_pim.ir.network import Network

PipelinedBy = Literal["formula", "events"]


def check_timing(timing: Any) -> None:
    """
    Raises:
        UserError: there is no such way to time a pipeline.
    """
    if timing not in get_args(PipelinedBy):
        raise UserError(f"there is no timing {timing!r}; pipelines are timed by {' or '.join(get_args(PipelinedBy))}")


def check_events(report: CostReport) -> None:
    """
    Raises:
        UserError: the package simpy is not installed, or the network is written in turns.
    """
    if find_spec("simpy") is None:
        raise UserError("timing by events needs one more package: pip install 'prap-pim[events]'")
    if report.writes.turns > 1:
        raise UserError("events: a network that is larger than the chip is timed by the formula alone")


def timed_by_events(report: CostReport, network: Network, table: ComponentTable | None = None) -> CostReport:
    """The same with pipelined times that are simulated position by position, messages waiting for one another.

    Args:
        report: of ``cost``.
        network: that it is of.
        table: as for ``cost``.

    Raises:
        UserError: the package simpy is not installed, or the network is written in turns.
    """
    check_events(report)
    counts = {layer.name: layer.activity for layer in report.layers}
    table = table or load_table(report.chip.components)
    found = simulate(network, report.mapping, counts, report.chip, table)
    told = "pipelined times are simulated, event by event: messages wait for one another"
    pipelined = Timing(found.latency_s, 1 / found.interval_s)
    return replace(report, pipelined=pipelined, conventions=(*report.conventions, told))
