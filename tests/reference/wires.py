"""A crossbar with resistive wires, as a list of resistors between named nodes and nothing else."""

import numpy as np


def currents(conductance: np.ndarray, volts: np.ndarray, row_wire: float, column_wire: float) -> np.ndarray:
    """Current into each bitline's ground, [w], of cells [h, w] driven with ``volts`` [h]."""
    height, width = conductance.shape
    resistors: list[tuple[str, str, float]] = []
    for r in range(height):
        for c in range(width):
            before = f"driver {r}" if c == 0 else f"wordline {r} {c - 1}"
            resistors.append((before, f"wordline {r} {c}", 1 / row_wire))
            after = f"ground {c}" if r == height - 1 else f"bitline {r + 1} {c}"
            resistors.append((f"bitline {r} {c}", after, 1 / column_wire))
            resistors.append((f"wordline {r} {c}", f"bitline {r} {c}", float(conductance[r, c])))
    known = {f"driver {r}": float(volts[r]) for r in range(height)} | {f"ground {c}": 0.0 for c in range(width)}
    names = sorted({end for one, other, _ in resistors for end in (one, other)} - set(known))
    number = {name: i for i, name in enumerate(names)}
    matrix, right = np.zeros((len(names), len(names))), np.zeros(len(names))
    for one, other, siemens in resistors:
        for here, there in ((one, other), (other, one)):
            if here in number:  # what leaves a node adds up to 0
                matrix[number[here], number[here]] += siemens
                if there in number:
                    matrix[number[here], number[there]] -= siemens
                else:
                    right[number[here]] += siemens * known[there]
    potential = known | dict(zip(names, np.linalg.solve(matrix, right), strict=True))
    return np.array([potential[f"bitline {height - 1} {c}"] / column_wire for c in range(width)])
