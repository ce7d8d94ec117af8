"""Wires with resistance: what the cells of an OU conduct as seen from its drivers and its ADCs.

The network is linear in the drivers' voltages, so wires change the conductances and nothing else: the current of
bitline c is the sum over rows of V_r times the effective conductance of (r, c). Every row of the OU is driven, at the
read voltage or at 0 V. A wordline starts at its driver, one segment before its first cell; a bitline ends at its ADC, a
virtual ground, one segment after its last cell. Source of the circuit: the usual nodal analysis of a crossbar.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.common.memory import check_room
from prap_pim.common.parallel import over_ranges

Float64 = NDArray[np.float64]

_OUS_AT_A_TIME = 1024
_AT_A_TIME = 1 << 23  # values of their matrices, at most, if there is more than one


def effective_conductances(conductance: Float64, row_wire: float, column_wire: float) -> Float64:
    """What each cell contributes to the current of its bitline, per volt at its row's driver.

    Args:
        conductance: float64 [OUs, h, w]; 0 where there is no cell.
        row_wire, column_wire: resistance of a segment, in the inverse unit of ``conductance``; 0: none.

    Returns:
        float64 [OUs, h, w].

    Raises:
        UserError: an OU's matrices do not fit into memory, or the wires are so resistive, or so little so, that double
            precision cannot solve them.
    """
    height, width = conductance.shape[1:]
    check_room(4 * 8 * width * height**2, f"wires of an OU of {height} x {width}")
    together = max(1, min(_OUS_AT_A_TIME, _AT_A_TIME // (width * height**2)))
    effective = np.empty_like(conductance)
    work = partial(_solve_range, conductance, row_wire, column_wire, effective, together)
    try:
        with np.errstate(all="ignore"):
            over_ranges(-(-len(conductance) // together), work)
    except np.linalg.LinAlgError as error:
        raise UserError(f"{_SINGULAR} (a matrix is singular)") from error
    if not np.isfinite(effective).all():
        raise UserError(f"{_SINGULAR} (currents are not finite)")
    return effective


_SINGULAR = (
    "device: row_wire_ohm and column_wire_ohm against on_resistance_ohm make a network of wires that cannot be solved"
)


def _solve_range(
    conductance: Float64,
    row_wire: float,
    column_wire: float,
    effective: Float64,
    together: int,
    begin: int,
    end: int,
) -> None:
    for task in range(begin, end):
        part = slice(task * together, (task + 1) * together)
        effective[part] = _solve(conductance[part], row_wire, column_wire)


def _solve(conductance: Float64, row_wire: float, column_wire: float) -> Float64:
    """Bitline after bitline, from the far end: to the nodes at one, those behind are an h x h conductance matrix."""
    count, height, width = conductance.shape
    one = np.eye(height)
    drawn, grounded = _bitlines(conductance, column_wire)
    beyond = np.zeros((count, height, height))  # current out of the nodes here into the bitlines behind, per volt
    passed = np.empty((width, count, height, height))  # volts at the nodes here per volt at those before
    for column in reversed(range(width)):
        total = drawn[:, column] + beyond
        passed[column] = np.linalg.inv(one + row_wire * total)
        beyond = total @ passed[column]
    effective = np.empty_like(conductance)
    volts = np.broadcast_to(one, (count, height, height))  # at the nodes here per volt at each driver
    for column in range(width):
        volts = passed[column] @ volts
        effective[:, :, column] = (grounded[:, column, None, :] @ volts)[:, 0]
    return effective


def _bitlines(conductance: Float64, column_wire: float) -> tuple[Float64, Float64]:
    """Of every bitline by itself, per volt at its cells' wordlines: current out of these, and current into its ground.

    Returns:
        float64 [OUs, w, h, h] and [OUs, w, h].
    """
    height = conductance.shape[1]
    cells = np.ascontiguousarray(conductance.transpose(0, 2, 1))  # [OU, column, row]
    alone = cells[..., None] * np.eye(height)
    if column_wire == 0:
        return alone, cells
    wire = 2 * np.eye(height) - np.eye(height, k=1) - np.eye(height, k=-1)
    wire[0, 0] = 1  # nothing before the first cell; after the last one a segment leads to the ground
    volts = np.linalg.solve(alone + wire / column_wire, alone)  # along the bitline per volt at each wordline
    grounded = np.asarray(volts[..., -1, :] / column_wire, np.float64)
    return alone - cells[..., None] * volts, grounded
