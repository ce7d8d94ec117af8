"""Gain-shape k-means: few donors such that every pattern is near a signed power of two times one of them, or nothing.

The inner loops are compiled and work in float32 on whitened patterns, in which the cost of an error is its squared
norm. A pattern z that takes donor d with gain c costs |z - c d|^2 = |z|^2 - saving, saving = c (2 <z, d> - c <d, d>).
The gain is <z, d> / <d, d> rounded to the nearest power of two; of all signed powers of two that is the cheapest.

A pattern may take the sum of several donors (additive quantisation: Babenko and Lempitsky, CVPR 2014): one after
another, each for what those before leave (matching pursuit), then each anew given the others.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

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
    """Which donors each pattern takes. N patterns, U uses at most, no donor twice.

    Attributes:
        donor: int32 [U, N], -1 for none.
        gain: float32 [U, N], a signed power of two; 0 for none.
        saving: float32 [N], how much less than its squared norm the pattern's error is.
    """

    donor: Int32
    gain: Float32
    saving: Float32


def choose(patterns: Float32, donors: Float32, worth: Float32, uses: int = 1) -> Choice:
    """The cheapest donors and gains for every pattern; none where that saves no more than the use of a donor costs.

    Args:
        patterns: float32 [N, h], whitened.
        donors: float32 [K, h], whitened.
        worth: float32 [N], the saving that a use must exceed.
        uses: donors that a pattern may take; found greedily, and then one by one anew.
    """
    choice = _room(uses, len(patterns))
    _pursue(patterns, np.ascontiguousarray(donors.T), worth, choice)
    return Choice(choice.donor, choice.gain, choice.saving.sum(0))


def fit(patterns: Float32, weight: Float32, worth: Float32, donors: Float32, rounds: int, uses: int = 1) -> Float32:
    """Improve donors by alternating ``choose`` and the least-squares donors of those who chose them (Lloyd's rounds).

    Args:
        patterns: float32 [N, h], whitened.
        weight: float32 [N], what a pattern's squared error counts.
        worth: float32 [N], as for ``choose``.
        donors: float32 [K, h], to start from. One that nobody takes is moved to the pattern served worst.
        rounds: at most.
        uses: as for ``choose``.
    """
    donors_t = np.ascontiguousarray(donors.T)
    choice = _room(uses, len(patterns))
    if uses == 1:
        _fit(patterns, weight, worth, donors_t, rounds, choice)
    else:
        _fit_sums(patterns, weight, worth, donors_t, rounds, choice)
    return np.ascontiguousarray(donors_t.T)


def seeds(patterns: Float32, weight: Float32, count: int) -> Float32:
    """Donors to start from: again and again the pattern that those so far serve worst.

    Returns:
        float32 [K, h], K <= ``count``; fewer if so many serve every pattern without error, at least 1.
    """
    donors_t = np.zeros((patterns.shape[1], max(1, count)), np.float32)
    found: int = _seed(np.ascontiguousarray(patterns.T), weight, donors_t)
    return np.ascontiguousarray(donors_t[:, : max(1, found)].T)


class _Uses(NamedTuple):
    """As ``Choice``, the savings by use: float32 [U, N]."""

    donor: Int32
    gain: Float32
    saving: Float32


def _room(uses: int, count: int) -> _Uses:
    shape = uses, count
    return _Uses(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32))


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _choose(patterns: Float32, donors_t: Float32, worth: Float32, choice: _Uses, use: int) -> None:
    """One use of every pattern, into ``choice``; ``donors_t`` is [h, K]. Donors of its other uses are not taken.

    No gain saves more than the best real one would, <z, d>^2 / <d, d>: a chunk of donors in which that is nowhere more
    than what is saved already is passed over. Loops over a chunk are vectorised.
    """
    chosen, gain, saving = choice.donor[use], choice.gain[use], choice.saving[use]
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
                    if saved > saving[n] and not _taken(choice.donor, use, n, first + k):
                        saving[n] = saved
                        chosen[n] = first + k
                        gain[n] = nearest if product[k] > 0 else -nearest
                        bar = _ROUNDING * saved
    for n in range(len(patterns)):
        if chosen[n] < 0:
            saving[n] = 0


@njit(cache=True, inline="always")
def _taken(donor: Int32, use: int, n: int, k: int) -> bool:
    """Whether another use of the pattern has this donor."""
    for other in range(len(donor)):  # noqa: SIM110  # compiled
        if other != use and donor[other, n] == k:
            return True
    return False


@njit(cache=True, nogil=True)
def _pursue(patterns: Float32, donors_t: Float32, worth: Float32, choice: _Uses) -> Float32:
    """``choose`` into ``choice``; returns what is left of the patterns, [N, h]."""
    uses = len(choice.donor)
    choice.donor[:] = -1
    if uses == 1:
        _choose(patterns, donors_t, worth, choice, 0)
        return patterns
    left = patterns.copy()
    for latest in range(uses):  # and those before once more, so that a further use never makes it worse
        _choose(left, donors_t, worth, choice, latest)
        _add(left, donors_t, choice, latest, np.float32(-1))
        for use in range(latest + 1 if latest > 0 else 0):
            _add(left, donors_t, choice, use, np.float32(1))
            _choose(left, donors_t, worth, choice, use)
            _add(left, donors_t, choice, use, np.float32(-1))
    norm = np.zeros(len(patterns), np.float32)  # savings of uses depend on one another: all of it is the first's
    for n in range(len(patterns)):
        for i in range(patterns.shape[1]):
            norm[n] += patterns[n, i] * patterns[n, i] - left[n, i] * left[n, i]
    choice.saving[:] = 0
    choice.saving[0] = norm
    return left


@njit(cache=True, nogil=True)
def _add(left: Float32, donors_t: Float32, choice: _Uses, use: int, sign: np.float32) -> None:
    """Add, or with sign -1 take off, what a use gives every pattern."""
    for n in range(len(left)):
        k = choice.donor[use, n]
        if k >= 0:
            for i in range(len(donors_t)):
                left[n, i] += sign * choice.gain[use, n] * donors_t[i, k]


@njit(cache=True, nogil=True)
def _users(donor: Int32, count: int) -> tuple[Int64, Int64]:
    """Uses by donor: those of donor k are entries start[k] : start[k + 1] of the second, places in [U, N] laid flat."""
    flat = donor.ravel()
    start = np.zeros(count + 1, np.int64)
    for k in flat:
        if k >= 0:
            start[k + 1] += 1
    start = np.cumsum(start)
    where, at = np.empty(start[-1], np.int64), start[:-1].copy()
    for j in range(len(flat)):
        if flat[j] >= 0:
            where[at[flat[j]]] = j
            at[flat[j]] += 1
    return start, where


@njit(cache=True, nogil=True)
def _wanted_step(users: Int64, weight: Float32, gain: Float32, left: Float32) -> Float64:
    """What a donor would have to change by for the least error of its ``users``, float64 [h]; 0 if it has none."""
    share, step = 0.0, np.zeros(left.shape[1])
    for j in users:
        n = j % len(left)
        share += weight[n] * gain[j] * gain[j]
        for i in range(len(step)):
            step[i] += weight[n] * gain[j] * left[n, i]
    for i in range(len(step)):
        step[i] = step[i] / share if share > 0 else 0.0
    return step


@njit(cache=True, nogil=True)
def _shift(left: Float32, users: Int64, gain: Float32, step: Float64) -> None:
    """Take off what is left of a donor's users that it has changed by ``step``."""
    for j in users:
        n = j % len(left)
        for i in range(len(step)):
            left[n, i] -= gain[j] * np.float32(step[i])


@njit(cache=True, nogil=True)
def _fit_sums(
    patterns: Float32, weight: Float32, worth: Float32, donors_t: Float32, rounds: int, choice: _Uses
) -> None:
    """``fit`` where patterns are sums: each donor in turn is solved for, the others as they are."""
    height, count = donors_t.shape
    before = np.inf
    for _ in range(rounds):
        left = _pursue(patterns, donors_t, worth, choice)
        start, where = _users(choice.donor, count)
        gain = choice.gain.ravel()
        for k in range(count):
            users = where[start[k] : start[k + 1]]
            step = _wanted_step(users, weight, gain, left)
            for i in range(height):
                donors_t[i, k] += np.float32(step[i])
            _shift(left, users, gain, step)
        error = np.zeros(len(patterns))
        for n in range(len(patterns)):
            for i in range(height):
                error[n] += weight[n] * left[n, i] * left[n, i]
        total, moved = error.sum(), False
        for k in range(count):
            if start[k] == start[k + 1]:
                worst = np.argmax(error)
                if error[worst] > 0:
                    moved = True
                    error[worst] = 0
                    donors_t[:, k] = left[worst]
        if not moved and total >= before * (1 - _SETTLED):
            break
        before = total


@njit(cache=True, nogil=True)
def _fit(patterns: Float32, weight: Float32, worth: Float32, donors_t: Float32, rounds: int, choice: _Uses) -> None:
    chosen, gain, saving = choice.donor[0], choice.gain[0], choice.saving[0]
    height, count = donors_t.shape
    norm = np.zeros(len(patterns), np.float32)
    for n in range(len(patterns)):
        for i in range(height):
            norm[n] += patterns[n, i] * patterns[n, i]
    before = -1.0
    for _ in range(rounds):
        _choose(patterns, donors_t, worth, choice, 0)
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


def rounded(
    patterns: Float32, weight: Float32, donors: Float32, choice: Choice, factor: Float64, scale: float, largest: int
) -> Float64:
    """Donors as whole numbers of at most ``largest``, times a power of two, which gains take back.

    One after another, each is solved for what the others leave to it, those before rounded.

    Args:
        patterns, weight, donors: as for ``fit``.
        choice: of the patterns, as ``choose`` gives it.
        factor: float64 [h, h]; donor values times it, over ``scale``, are whitened.
        scale: see ``factor``.
        largest: value of a donor.

    Returns:
        float64 [K, h].
    """
    donors_t, whole = np.ascontiguousarray(donors.T), np.zeros(donors.shape)
    uses = _Uses(choice.donor, choice.gain, choice.gain)
    white, plain = factor / scale, np.linalg.inv(factor) * scale
    _round(patterns, weight, donors_t, uses, white, np.ascontiguousarray(plain), largest, whole)
    return whole


@njit(cache=True, nogil=True)
def _round(
    patterns: Float32,
    weight: Float32,
    donors_t: Float32,
    choice: _Uses,
    white: Float64,
    plain: Float64,
    largest: int,
    whole: Float64,
) -> None:
    height, count = donors_t.shape
    left = patterns.copy()
    for use in range(len(choice.donor)):
        _add(left, donors_t, choice, use, np.float32(-1))
    start, where = _users(choice.donor, count)
    gain = choice.gain.ravel()
    wanted, values, best, got = np.empty(height), np.empty(height), np.empty(height), np.empty(height)
    for k in range(count):
        users = where[start[k] : start[k + 1]]
        step = _wanted_step(users, weight, gain, left)
        for i in range(height):
            wanted[i] = donors_t[i, k] + step[i]
        top = 0.0
        for i in range(height):
            values[i] = 0.0
            for r in range(height):
                values[i] += wanted[r] * plain[r, i]
            top = max(top, abs(values[i]))
        if top <= 0:
            continue
        power = np.floor(np.log2(largest / top) + 1e-4)
        least = np.inf
        for tried in (power, power + 1):  # the larger one clips
            factor = 2.0 ** min(max(tried, -7.0), 4.0)
            for i in range(height):
                best[i] = min(max(np.rint(values[i] * factor), -largest), largest)
            error = 0.0
            for i in range(height):
                white_value = 0.0
                for r in range(height):
                    white_value += best[r] * white[r, i]
                error += (white_value / factor - wanted[i]) ** 2
            if error < least:
                least = error
                for i in range(height):
                    whole[k, i] = best[i]
                    got[i] = best[i] / factor
        for i in range(height):
            wanted[i] = 0.0
            for r in range(height):
                wanted[i] += got[r] * white[r, i]
        for i in range(height):
            step[i] = wanted[i] - donors_t[i, k]
            donors_t[i, k] = wanted[i]
        _shift(left, users, gain, step)
