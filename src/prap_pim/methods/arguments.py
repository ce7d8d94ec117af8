"""Checks of what a caller hands to the public NumPy functions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError


def checked_weight(weight: Any) -> NDArray[np.float32]:
    """``weight`` as float32 [O, C, positions of a kernel], C-contiguous.

    Raises:
        UserError: not a float32 array [O, C] or [O, C, kh, kw], empty, or with NaN or infinity.
    """
    if not isinstance(weight, np.ndarray) or weight.dtype != np.float32:
        raise UserError(f"weight must be a float32 NumPy array, not {getattr(weight, 'dtype', type(weight).__name__)}")
    if weight.ndim not in (2, 4) or weight.size == 0:
        raise UserError(f"weight must be [O, C, kh, kw] or [O, C] and not empty, its shape is {weight.shape}")
    # the extremes are finite exactly when all are (NaN spreads to them), and need no array of their own
    if not (np.isfinite(weight.max()) and np.isfinite(weight.min())):
        raise UserError("weight holds NaN or infinity")
    return np.ascontiguousarray(weight).reshape(*weight.shape[:2], -1)


def read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A view that cannot be written, so that a numba kernel is compiled once and not again for read-only arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``; NumPy scalars are welcome.

    Raises:
        UserError: it is something else.
    """
    number = _scalar(name, value)
    if number != int(number) or number < least:
        raise UserError(f"{name} must be a whole number of at least {least}, not {number}")
    return int(number)


def checked_share(name: str, value: Any) -> float:
    """A number in 0..1; NumPy scalars are welcome.

    Raises:
        UserError: it is something else.
    """
    number = _scalar(name, value)
    if not 0 <= number <= 1:
        raise UserError(f"{name} must lie in 0..1, not {number}")
    return number


def _scalar(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "iuf" or not np.isfinite(array):
        raise UserError(f"{name} must be a number, not {value!r}")
    return float(array)
