"""What data makes of the work of a layer's crossbars, beside uniform data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DataRates:
    """Of each row group of a layer's plan, over what uniform inputs and weights would give; 1: as much as these.

    Attributes:
        rows: float64 [G], rows that are raised: whose input bits are not 0.
        cells: float64 [G], current of the cells: level of the input times level of the cell.
        conversions: float64 [G], steps in which any row is raised, so that there is something to convert.
    """

    rows: Float64
    cells: Float64
    conversions: Float64
