"""Gain-shape k-means: few donors such that every pattern is near a signed power of two times one of them, or nothing.

The inner loops are compiled and work in float32 on whitened patterns, in which the cost of an error is its squared
norm. A pattern z that takes donor d with gain c costs |z - c d|^2 = |z|^2 - saving, saving = c (2 <z, d> - c <d, d>).
The gain is <z, d> / <d, d> rounded to the nearest power of two; of all signed powers of two that is the cheapest.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

_LEAST_GAIN = np.float32(2.0**EXPONENT_MIN)
_GREATEST_GAIN = np.float32(2.0**EXPONENT_MAX)
_EXPONENT_BITS = np.int32(0x7F800000)  # of a float32: what is left is the power of two below
_CHUNK = 128  # donors that stay in the nearest cache
_LANES = 16  # float32 that a processor works on at a time, at most
_NO_ENERGY = np.float32(1e-30)
_ROUNDING = np.float32(4 / 3 * (1 - 1e-5))  # so that no donor is passed over for want of digits
_SETTLED = 1e-3  # relative improvement of a round below which the rounds stop


@dataclass(frozen=True, eq=False)
class Choice:
    """Which donor each pattern takes. N patterns.

    Attributes:
        donor: int32 [N], -1 for none.
        gain: float32 [N], a signed power of two; 0 for none.
        saving: float32 [N], how much less than its squared norm the pattern's error is.
    """

    donor: Int32
    gain: Float32
    saving: Float32


def choose(patterns: Float32, donors: Float32, worth: Float32) -> Choice:
    """The cheapest donor and gain for every pattern; none where that saves no more than the use of a donor costs.

    Args:
        patterns: float32 [N, h], whitened.
        donors: float32 [K, h], whitened.
        worth: float32 [N], the saving that a use must exceed.
    """
    choice = Choice(*_room(len(patterns)))
    _choose(patterns, np.ascontiguousarray(donors.T), worth, choice.donor, choice.gain, choice.saving)
    return choice


def fit(patterns: Float32, weight: Float32, worth: Float32, donors: Float32, rounds: int) -> Float32:
    """Improve donors by alternating ``choose`` and the least-squares donor of those who chose it (Lloyd's rounds).

    Args:
        patterns: float32 [N, h], whitened.
        weight: float32 [N], what a pattern's squared error counts.
        worth: float32 [N], as for ``choose``.
        donors: float32 [K, h], to start from. One that nobody takes is moved to the pattern served worst.
        rounds: at most.
    """
    donors_t = np.ascontiguousarray(donors.T)
    _fit(patterns, weight, worth, donors_t, rounds, *_room(len(patterns)))
    return np.ascontiguousarray(donors_t.T)


def seeds(patterns: Float32, weight: Float32, count: int) -> Float32:
    """Donors to start from: again and again the pattern that those so far serve worst.

    Returns:
        float32 [K, h], K <= ``count``; fewer if so many serve every pattern without error, at least 1.
    """
    donors_t = np.zeros((patterns.shape[1], max(1, count)), np.float32)
    found: int = _seed(np.ascontiguousarray(patterns.T), weight, donors_t)
    return np.ascontiguousarray(donors_t[:, : max(1, found)].T)


def _room(count: int) -> tuple[Int32, Float32, Float32]:
    return np.empty(count, np.int32), np.empty(count, np.float32), np.empty(count, np.float32)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _choose(
    patterns: Float32, donors_t: Float32, worth: Float32, chosen: Int32, gain: Float32, saving: Float32
) -> None:
    """``choose`` into arrays; ``donors_t`` is [h, K].

    No gain saves more than the best real one would, <z, d>^2 / <d, d>: a chunk of donors in which that is nowhere more
    than what is saved already is passed over. Loops over a chunk are vectorised.
    """
    height, count = donors_t.shape
    width = min(_CHUNK, (count + _LANES - 1) // _LANES * _LANES)
    chunk = np.empty((height, width), np.float32)
    energy = np.empty(width, np.float32)
    inverse = np.empty(width, np.float32)  # 4/3 / energy: the power of two below 4/3 x is the one nearest to x
    product = np.empty(width, np.float32)
    power = np.empty(1, np.float32)
    bits = power.view(np.int32)
    for n in range(len(patterns)):
        chosen[n] = -1
        gain[n] = 0
        saving[n] = worth[n]
    for first in range(0, count, width):
        size = min(width, count - first)
        chunk[:] = 0
        chunk[:, :size] = donors_t[:, first : first + size]
        energy[:] = 0
        for i in range(height):
            for k in range(width):
                energy[k] += chunk[i, k] * chunk[i, k]
        for k in range(width):
            inverse[k] = np.float32(4 / 3) / energy[k] if energy[k] > _NO_ENERGY else np.float32(0)
        for n in range(len(patterns)):
            product[:] = 0
            for i in range(0, height - 3, 4):  # four at a time, so that sums stay in registers
                a, b, c, d = patterns[n, i], patterns[n, i + 1], patterns[n, i + 2], patterns[n, i + 3]
                of_a, of_b, of_c, of_d = chunk[i], chunk[i + 1], chunk[i + 2], chunk[i + 3]
                for k in range(width):
                    product[k] = (((product[k] + a * of_a[k]) + b * of_b[k]) + c * of_c[k]) + d * of_d[k]
            for i in range(height - height % 4, height):
                a, of_a = patterns[n, i], chunk[i]
                for k in range(width):
                    product[k] += a * of_a[k]
            bar = _ROUNDING * saving[n]
            better = False
            for k in range(width):
                better |= product[k] * product[k] * inverse[k] > bar
            if not better:
                continue
            for k in range(size):
                if product[k] * product[k] * inverse[k] > bar:
                    along = abs(product[k])
                    power[0] = along * inverse[k]
                    bits[0] &= _EXPONENT_BITS
                    nearest = min(max(power[0], _LEAST_GAIN), _GREATEST_GAIN)
                    saved = nearest * (along + along - nearest * energy[k])
                    if saved > saving[n]:
                        saving[n] = saved
                        chosen[n] = first + k
                        gain[n] = nearest if product[k] > 0 else -nearest
                        bar = _ROUNDING * saved
    for n in range(len(patterns)):
        if chosen[n] < 0:
            saving[n] = 0


@njit(cache=True, nogil=True)
def _fit(
    patterns: Float32,
    weight: Float32,
    worth: Float32,
    donors_t: Float32,
    rounds: int,
    chosen: Int32,
    gain: Float32,
    saving: Float32,
) -> None:
    height, count = donors_t.shape
    norm = np.zeros(len(patterns), np.float32)
    for n in range(len(patterns)):
        for i in range(height):
            norm[n] += patterns[n, i] * patterns[n, i]
    before = -1.0
    for _ in range(rounds):
        _choose(patterns, donors_t, worth, chosen, gain, saving)
        total = 0.0
        share = np.zeros(count)  # of the gains squared
        sums = np.zeros((height, count))
        for n in range(len(patterns)):
            k = chosen[n]
            if k >= 0:
                total += weight[n] * saving[n]
                share[k] += weight[n] * gain[n] * gain[n]
                for i in range(height):
                    sums[i, k] += weight[n] * gain[n] * patterns[n, i]
        moved = False
        for k in range(count):
            if share[k] > 0:
                for i in range(height):
                    donors_t[i, k] = sums[i, k] / share[k]
                continue
            worst = 0
            for n in range(1, len(patterns)):
                if weight[n] * (norm[n] - saving[n]) > weight[worst] * (norm[worst] - saving[worst]):
                    worst = n
            if weight[worst] * (norm[worst] - saving[worst]) > 0:
                moved = True
                saving[worst] = norm[worst]
                for i in range(height):
                    donors_t[i, k] = patterns[worst, i]
        if not moved and total <= before * (1 + _SETTLED):
            break
        before = total


@njit(cache=True, nogil=True)
def _seed(patterns_t: Float32, weight: Float32, donors_t: Float32) -> int:
    """Fills columns of ``donors_t`` and returns how many. Patterns are [h, N]: loops over them are vectorised."""
    height, count = patterns_t.shape
    norm = np.zeros(count, np.float32)
    for i in range(height):
        for n in range(count):
            norm[n] += patterns_t[i, n] * patterns_t[i, n]
    error = norm.copy()
    urgency = weight * norm
    product = np.empty(count, np.float32)
    power = np.empty(count, np.float32)
    bits = power.view(np.int32)
    for k in range(donors_t.shape[1]):
        worst = np.argmax(urgency)
        if error[worst] <= np.float32(1e-6) * norm[worst]:
            return k
        product[:] = 0
        for i in range(height):
            donors_t[i, k] = patterns_t[i, worst]
            x = donors_t[i, k]
            for n in range(count):
                product[n] += x * patterns_t[i, n]
        energy = norm[worst]
        inverse = np.float32(4 / 3) / energy
        for n in range(count):
            product[n] = abs(product[n])
            power[n] = product[n] * inverse
        for n in range(count):
            bits[n] &= _EXPONENT_BITS
        for n in range(count):
            gain = min(max(power[n], _LEAST_GAIN), _GREATEST_GAIN)
            saving = max(np.float32(0), gain * (2 * product[n] - gain * energy))
            error[n] = max(np.float32(0), min(error[n], norm[n] - saving))
            urgency[n] = weight[n] * error[n]
        error[worst] = 0
        urgency[worst] = 0
    return int(donors_t.shape[1])
