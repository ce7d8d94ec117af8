"""Wires with resistance: what the cells of an OU conduct as seen from its drivers and its ADCs.

The network is linear in the drivers' voltages, so wires change the conductances and nothing else: the current of
bitline c is the sum over rows of V_r times the effective conductance of (r, c). Every row of the OU is driven, at the
read voltage or at 0 V. A wordline starts at its driver, one segment before its first cell; a bitline ends at its ADC, a
virtual ground, one segment after its last cell. Source of the circuit: the usual nodal analysis of a crossbar.
"""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_UNKNOWNS_AT_A_TIME = 1 << 21  # 16 MiB of matrix


def effective_conductances(conductance: Float64, row_wire: float, column_wire: float) -> Float64:
    """What each cell contributes to the current of its bitline, per volt at its row's driver.

    Args:
        conductance: float64 [OUs, h, w]; 0 where there is no cell.
        row_wire, column_wire: resistance of a segment, in the inverse unit of ``conductance``; 0: none.

    Returns:
        float64 [OUs, h, w].
    """
    nodes = conductance[0].size * ((row_wire > 0) + (column_wire > 0)) if len(conductance) else 0
    if nodes == 0:
        return conductance
    at_a_time = max(1, _UNKNOWNS_AT_A_TIME // nodes**2)
    parts = [
        _solve(conductance[first : first + at_a_time], row_wire, column_wire)
        for first in range(0, len(conductance), at_a_time)
    ]
    return np.concatenate(parts)


def _solve(conductance: Float64, row_wire: float, column_wire: float) -> Float64:
    """Kirchhoff's current law at every node where a cell meets a wire that has a resistance."""
    count, height, width = conductance.shape
    cells = height * width
    place = np.arange(cells).reshape(height, width)
    on_row = place if row_wire > 0 else None  # node number of a cell's end at its wordline
    on_column = place + (cells if row_wire > 0 else 0) if column_wire > 0 else None
    nodes = cells * ((row_wire > 0) + (column_wire > 0))
    laplacian = np.zeros((count, nodes, nodes))
    driven = np.zeros((count, nodes, height))  # current into a node per volt of each driver
    flat = conductance.reshape(count, cells)

    if on_row is not None:
        wire = 1 / row_wire
        _connect(laplacian, on_row[:, :-1].ravel(), on_row[:, 1:].ravel(), wire)
        first = on_row[:, 0]
        laplacian[:, first, first] += wire
        driven[:, first, np.arange(height)] += wire
    if on_column is not None:
        wire = 1 / column_wire
        _connect(laplacian, on_column[:-1].ravel(), on_column[1:].ravel(), wire)
        last = on_column[-1]
        laplacian[:, last, last] += wire
    if on_row is not None and on_column is not None:
        _connect(laplacian, on_row.ravel(), on_column.ravel(), flat)
    elif on_row is not None:
        laplacian[:, on_row.ravel(), on_row.ravel()] += flat  # into the grounded bitline
    elif on_column is not None:
        laplacian[:, on_column.ravel(), on_column.ravel()] += flat  # from the driver itself
        driven[:, on_column.ravel(), np.repeat(np.arange(height), width)] += flat

    volts = np.linalg.solve(laplacian, driven)  # [OU, node, driver]
    if on_column is not None:
        current = volts[:, on_column[-1]] / column_wire  # [OU, column, driver]
    else:
        assert on_row is not None
        current = np.einsum("ohw,ohwd->owd", conductance, volts[:, on_row.ravel()].reshape(count, height, width, -1))
    return np.ascontiguousarray(current.transpose(0, 2, 1))


def _connect(
    laplacian: Float64, one: NDArray[np.int64], other: NDArray[np.int64], conductance: float | Float64
) -> None:
    """A conductance between pairs of nodes; each node is in ``one`` at most once, and in ``other``."""
    laplacian[:, one, one] += conductance
    laplacian[:, other, other] += conductance
    laplacian[:, one, other] -= conductance
    laplacian[:, other, one] -= conductance
