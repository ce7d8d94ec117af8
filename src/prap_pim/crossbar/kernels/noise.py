"""Read noise: what a converter gives when the current of a bitline varies from read to read."""

import math

import numpy as np
from numba import njit

from prap_pim.crossbar.kernels.bits import Cells, Float64, Noise, as_uniform, converted, mixed, popcount

_FAR = 6.0  # sigmas that read noise never exceeds: its probability, 2e-9, is below the resolution of float32


@njit(cache=True, inline="always")
def stream_of(noise: Noise, position: int) -> np.uint64:
    """The randomness of a position of a batch."""
    number = np.uint64(noise.first_position + position)
    return mixed(np.uint64(noise.key) + number * np.uint64(0x9E3779B97F4A7C15))


@njit(cache=True)
def as_normal(word: np.uint64) -> float:
    """A standard normal number (Box and Muller's)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - as_uniform(mixed(word ^ np.uint64(0x9E3779B97F4A7C15)))))
    return float(radius * np.cos(2.0 * np.pi * as_uniform(mixed(word ^ np.uint64(0xD1B54A32D192ED03)))))


@njit(cache=True, inline="always")
def near_edge(current: float, variance: float, step: int, top: int) -> bool:
    """Whether noise of this variance may change a current's code: whether the code ends within ``_FAR`` sigmas."""
    code = min(max(np.floor(current / step + 0.5), 0.0), np.float64(top))
    below = current - (code - 0.5) * step if code > 0 else np.inf
    above = (code + 0.5) * step - current if code < top else np.inf
    nearest = min(below, above)
    return nearest * nearest < _FAR * _FAR * variance


@njit(cache=True)
def unchanged_probability(current: float, sigma: float, step: int, top: int) -> float:
    """The probability that a current with normal noise gets the code that it has without."""
    code = converted(current, step, top) // step
    return 1.0 - _below(code, current, sigma, step) - _above(code, current, sigma, step, top)


@njit(cache=True)
def disturbed(
    word: np.uint64, byte: np.int64, cells: Cells, copies: tuple[int, int], room: tuple[Float64, Float64]
) -> np.int64:
    """A donor's answer to ``byte`` given that noise changes at least one of its codes; ``word`` is its randomness.

    Bitlines are visited in order. The first whose code changes is found with the same uniform number that said that
    there is one; what it becomes is drawn from the tails of the normal distribution; later ones are drawn freely.
    ``copies`` are where the donor is stored, ``room`` is for a value of each column, twice.
    """
    (first, end), (current, noise), step, top = copies, room, cells.step, cells.top
    uniform = as_uniform(word)
    answer = -(end - first) * cells.offset * popcount(np.uint64(byte))
    draw = np.uint64(1)
    unchanged = 1.0  # probability that no bitline so far has changed
    found = False
    for stored in range(first, end):
        current[:] = cells.bias
        noise[:] = 0.0
        for row in range(8):
            if byte >> row & 1:
                signal, variance = cells.signal[stored, row], cells.variance[stored, row]
                for column in range(len(current)):
                    current[column] += signal[column]
                    noise[column] += variance[column]
        for column in range(len(current)):
            here = current[column]
            read = converted(here, step, top)
            if near_edge(here, noise[column], step, top):
                sigma = np.sqrt(noise[column])
                draw += np.uint64(1)
                if found:
                    read = converted(here + sigma * as_normal(mixed(word + draw)), step, top)
                else:
                    unchanged *= unchanged_probability(here, sigma, step, top)
                    found = uniform >= unchanged
                    if found:
                        read = _changed(mixed(word + draw), here, sigma, step, top)
            answer += cells.factors[column] * (read - cells.bias)
    return answer


@njit(cache=True)
def _changed(word: np.uint64, current: float, sigma: float, step: int, top: int) -> np.int64:
    """What the ADC makes of a current with normal noise given that its code changes, as a count."""
    code = converted(current, step, top) // step
    below = _below(code, current, sigma, step)
    above = _above(code, current, sigma, step, top)
    up = as_uniform(mixed(word)) * (below + above) >= below
    tail = above if up else below
    left = as_uniform(mixed(word ^ np.uint64(0xD1B54A32D192ED03))) * tail
    code += 1 if up else -1
    while (_above(code, current, sigma, step, top) if up else _below(code, current, sigma, step)) > left:
        code += 1 if up else -1
    return code * step


@njit(cache=True)
def _below(code: np.int64, current: float, sigma: float, step: int) -> float:
    """The probability that a current with normal noise gets a code below ``code``."""
    return 0.0 if code <= 0 else _beyond((current - (code - 0.5) * step) / sigma)


@njit(cache=True)
def _above(code: np.int64, current: float, sigma: float, step: int, top: int) -> float:
    """The probability that a current with normal noise gets a code above ``code``."""
    return 0.0 if code >= top else _beyond(((code + 0.5) * step - current) / sigma)


@njit(cache=True, inline="always")
def _beyond(sigmas: float) -> float:
    """The probability that noise exceeds so many sigmas."""
    return 0.0 if sigmas > _FAR else 0.5 * math.erfc(sigmas * math.sqrt(0.5))
