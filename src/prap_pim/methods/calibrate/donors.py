"""Gain-shape k-means: few donors such that every pattern is near a signed power of two times one of them, or nothing.

The inner loops are compiled and work in float32 on whitened patterns, in which the cost of an error is its squared
norm. A pattern z that takes donor d with gain c costs |z - c d|^2 = |z|^2 - saving, saving = c (2 <z, d> - c <d, d>).
The gain is <z, d> / <d, d> rounded to the nearest power of two; of all signed powers of two that is the cheapest.

A pattern may take the sum of several donors (additive quantisation: Babenko and Lempitsky, CVPR 2014): one after
another, each for what those before leave (matching pursuit), then each anew given the others.
"""

from dataclasses import dataclass, replace
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
_TILE = 512  # patterns that stay in the nearest cache
_NO_ENERGY = np.float32(1e-30)
_SETTLED = 1e-3  # relative improvement of a round below which the rounds stop


@dataclass(frozen=True, eq=False)
class Choice:
    """Which donors each pattern takes. N patterns, U uses at most, no donor twice.

    Attributes:
        donor: int32 [U, N], -1 for none.
        gain: float32 [U, N], a signed power of two; 0 for none.
        saving: float64 [N], how much less than its squared norm the pattern's error is.
    """

    donor: Int32
    gain: Float32
    saving: Float64

    def of(self, patterns: slice) -> "Choice":
        """Of some patterns."""
        return Choice(self.donor[:, patterns], self.gain[:, patterns], self.saving[patterns])

    def renumbered(self, more: int) -> "Choice":
        """With so much added to the donors' numbers."""
        return replace(self, donor=np.where(self.donor >= 0, self.donor + more, -1).astype(np.int32))


def choose(patterns: Float32, donors: Float32, worth: Float32, uses: int = 1, start: Choice | None = None) -> Choice:
    """The cheapest donors and gains for every pattern; none where that saves no more than the use of a donor costs.

    Args:
        patterns: float32 [N, h], whitened.
        donors: float32 [K, h], whitened.
        worth: float32 [N], the saving that a use must exceed.
        uses: donors that a pattern may take; found greedily, and then one by one anew.
        start: uses to begin with; each is then chosen anew. A pattern takes what is better, this or what is found
            without.
    """
    afresh = _choice(patterns, donors, worth, uses, None)
    if start is None or uses == 1:
        return afresh
    again = _choice(patterns, donors, worth, uses, start)
    better = again.saving - worth * (again.donor >= 0).sum(0) > afresh.saving - worth * (afresh.donor >= 0).sum(0)
    return Choice(*(np.where(better, getattr(again, x), getattr(afresh, x)) for x in ("donor", "gain", "saving")))


def _choice(patterns: Float32, donors: Float32, worth: Float32, uses: int, start: Choice | None) -> Choice:
    choice = _room(uses, len(patterns), start)
    left = _chosen(patterns, donors, worth, choice, _order(uses, start is None))
    return Choice(choice.donor, choice.gain, _saved(patterns, left))


def fit(
    patterns: Float32,
    weight: Float32,
    worth: Float32,
    donors: Float32,
    rounds: int,
    uses: int = 1,
    start: Choice | None = None,
) -> tuple[Float32, Choice]:
    """Improve donors by alternating ``choose`` and least-squares donors for those who chose them (Lloyd's rounds).

    Args:
        patterns: float32 [N, h], whitened.
        weight: float32 [N], what a pattern's squared error counts.
        worth: float32 [N], as for ``choose``.
        donors: float32 [K, h], to start from. One that nobody takes is moved to what is left of the pattern served
            worst.
        rounds: at most.
        uses: as for ``choose``.
        start: uses to begin with, as many or fewer; each is then chosen anew, those not given first.

    Returns:
        the donors, and what the patterns take of them.
    """
    donors, choice = donors.copy(), _room(uses, len(patterns), start)
    left = _fit(patterns, weight, worth, donors, rounds, choice, _order(uses, start is None))
    return donors, Choice(choice.donor, choice.gain, _saved(patterns, left))


def _saved(patterns: Float32, left: Float32) -> Float64:
    before, after = (np.einsum("nh,nh->n", x, x, dtype=np.float64) for x in (patterns, left))
    return np.asarray(before - after)


def seeds(patterns: Float32, weight: Float32, count: int) -> Float32:
    """Donors to start from: again and again the pattern that those so far serve worst.

    Returns:
        float32 [K, h], K <= ``count``; fewer if so many serve every pattern without error, at least 1.
    """
    donors_t = np.zeros((patterns.shape[1], max(1, count)), np.float32)
    found: int = _seed(np.ascontiguousarray(patterns.T), weight, donors_t)
    return np.ascontiguousarray(donors_t[:, : max(1, found)].T)


class _Uses(NamedTuple):
    """As ``Choice``: int32 and float32 [U, N]."""

    donor: Int32
    gain: Float32


def _room(uses: int, count: int, start: Choice | None) -> _Uses:
    room = _Uses(np.full((uses, count), -1, np.int32), np.zeros((uses, count), np.float32))
    if start is not None:  # what is further is chosen first
        room.donor[uses - len(start.donor) :], room.gain[uses - len(start.donor) :] = start.donor, start.gain
    return room


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _choose(patterns: Float32, donors: Float32, worth: Float32, choice: _Uses, use: int) -> None:
    """One use of every pattern, into ``choice``. Donors of its other uses are not taken.

    Donor after donor is offered to a tile of patterns; the loops over these are vectorised.
    """
    height, total = donors.shape[1], len(patterns)
    tile = np.empty((height, _TILE), np.float32)
    product, power = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    best, gain = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    chosen = np.empty(_TILE, np.int32)
    bits = power.view(np.int32)
    for first in range(0, total, _TILE):
        size = min(_TILE, total - first)
        for n in range(size):
            best[n] = worth[first + n]
            chosen[n] = -1
            gain[n] = 0
            for i in range(height):
                tile[i, n] = patterns[first + n, i]
        for k in range(len(donors)):
            energy = np.float32(0)
            for i in range(height):
                energy += donors[k, i] * donors[k, i]
            if energy <= _NO_ENERGY:
                continue
            product[:size] = 0
            for i in range(0, height - 3, 4):  # four at a time, so that sums stay in registers
                a, b, c, d = donors[k, i], donors[k, i + 1], donors[k, i + 2], donors[k, i + 3]
                of_a, of_b, of_c, of_d = tile[i], tile[i + 1], tile[i + 2], tile[i + 3]
                for n in range(size):
                    product[n] = (((product[n] + a * of_a[n]) + b * of_b[n]) + c * of_c[n]) + d * of_d[n]
            for i in range(height - height % 4, height):
                a, of_a = donors[k, i], tile[i]
                for n in range(size):
                    product[n] += a * of_a[n]
            for other in range(len(choice.donor)):
                if other != use:
                    taken = choice.donor[other, first : first + size]
                    for n in range(size):
                        product[n] = np.float32(0) if taken[n] == k else product[n]
            inverse = np.float32(4 / 3) / energy  # the power of two below 4/3 x is the one nearest to x
            for n in range(size):
                power[n] = abs(product[n]) * inverse
            for n in range(size):
                bits[n] &= _EXPONENT_BITS
            index = np.int32(k)
            for n in range(size):
                nearest = min(max(power[n], _LEAST_GAIN), _GREATEST_GAIN)
                along = abs(product[n])
                saved = nearest * (along + along - nearest * energy)
                better = saved > best[n]
                best[n] = saved if better else best[n]
                chosen[n] = index if better else chosen[n]
                gain[n] = (nearest if product[n] > 0 else -nearest) if better else gain[n]
        for n in range(size):  # one by one: to assign a part of an array takes seconds to compile
            choice.donor[use, first + n] = chosen[n]
            choice.gain[use, first + n] = gain[n]


def _order(uses: int, afresh: bool) -> Int64:
    """In which uses are chosen, each given the others: ``afresh`` one more at a time, those before it once more."""
    if not afresh or uses == 1:
        return np.arange(uses)
    return np.array([use for last in range(uses) for use in (last, *range(last if last + 1 < uses else uses))])


@njit(cache=True, nogil=True)
def _chosen(patterns: Float32, donors: Float32, worth: Float32, choice: _Uses, order: Int64) -> Float32:
    """Uses of ``choice`` chosen anew, given the others. Returns what is left of the patterns, float32 [N, h]."""
    left = _left(patterns, donors, choice)
    for use in order:
        _add(left, donors, choice, use, np.float32(1))
        _choose(left, donors, worth, choice, use)  # called in one place: compilers copy it into each, which takes long
        _add(left, donors, choice, use, np.float32(-1))
    return left


@njit(cache=True, nogil=True)
def _left(patterns: Float32, donors: Float32, choice: _Uses) -> Float32:
    """What the uses leave of the patterns, float32 [N, h]."""
    left = patterns.copy()
    for use in range(len(choice.donor)):
        _add(left, donors, choice, use, np.float32(-1))
    return left


@njit(cache=True, nogil=True)
def _add(left: Float32, donors: Float32, choice: _Uses, use: int, sign: np.float32) -> None:
    """Add, or with sign -1 take off, what a use gives every pattern."""
    for n in range(len(left)):
        k = choice.donor[use, n]
        if k >= 0:
            for i in range(left.shape[1]):
                left[n, i] += sign * choice.gain[use, n] * donors[k, i]


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
def _fit(
    patterns: Float32, weight: Float32, worth: Float32, donors: Float32, rounds: int, choice: _Uses, order: Int64
) -> Float32:
    """Returns what is left of the patterns. Each donor in turn is solved for, the others as they are."""
    count, height = donors.shape
    before = np.inf
    for left_rounds in range(rounds, -1, -1):
        left = _chosen(patterns, donors, worth, choice, order)
        if left_rounds == 0:
            break
        order = np.arange(len(choice.donor))
        start, where = _users(choice.donor, count)
        gain = choice.gain.ravel()
        for k in range(count):
            users = where[start[k] : start[k + 1]]
            step = _wanted_step(users, weight, gain, left)
            for i in range(height):
                donors[k, i] += np.float32(step[i])
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
                    for i in range(height):
                        donors[k, i] = left[worst, i]
        if not moved and total >= before * (1 - _SETTLED):
            break
        before = total
    return left


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
) -> tuple[Float64, Choice]:
    """Donors as whole numbers of at most ``largest``, times a power of two, which gains take back.

    One after another, each is solved for what the others leave to it, those before rounded.

    Args:
        patterns, weight, donors: as for ``fit``.
        choice: of the patterns, as ``choose`` gives it.
        factor: float64 [h, h]; donor values times it, over ``scale``, are whitened.
        scale: see ``factor``.
        largest: value of a donor.

    Returns:
        float64 [K, h], and the same choice with gains that suit these; its saving is as it was.
    """
    donors, whole, powers = donors.copy(), np.zeros(donors.shape), np.ones(len(donors))
    uses = _Uses(choice.donor, choice.gain)
    white, plain = factor / scale, np.linalg.inv(factor) * scale
    _round(patterns, weight, donors, uses, white, np.ascontiguousarray(plain), largest, whole, powers)
    return whole, replace(choice, gain=(choice.gain / powers[choice.donor]).astype(np.float32))


@njit(cache=True, nogil=True)
def _round(
    patterns: Float32,
    weight: Float32,
    donors: Float32,
    choice: _Uses,
    white: Float64,
    plain: Float64,
    largest: int,
    whole: Float64,
    powers: Float64,
) -> None:
    count, height = donors.shape
    left = _left(patterns, donors, choice)
    start, where = _users(choice.donor, count)
    gain = choice.gain.ravel()
    wanted, values, best, got = np.empty(height), np.empty(height), np.empty(height), np.empty(height)
    for k in range(count):
        users = where[start[k] : start[k + 1]]
        step = _wanted_step(users, weight, gain, left)
        for i in range(height):
            wanted[i] = donors[k, i] + step[i]
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
                least, powers[k] = error, factor
                for i in range(height):
                    whole[k, i] = best[i]
                    got[i] = best[i] / factor
        for i in range(height):
            wanted[i] = 0.0
            for r in range(height):
                wanted[i] += got[r] * white[r, i]
        for i in range(height):
            step[i] = wanted[i] - donors[k, i]
            donors[k, i] = wanted[i]
        _shift(left, users, gain, step)
