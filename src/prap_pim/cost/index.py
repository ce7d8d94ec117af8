"""The index of a layer: what says which rows a row group reads, and which filter uses which donor with which gain.

A stream is read in order, position after position: that of a crossbar, of its rows and, where partial sums are
scattered, of its uses; where they are gathered, also that of a PE, of its uses.
"""

import numpy as np
from numpy.typing import NDArray

from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN, LayerPlan
from prap_pim.mapping import LayerMapping

Int64 = NDArray[np.int64]

GAIN_BITS = 1 + (EXPONENT_MAX - EXPONENT_MIN).bit_length()  # a sign, and an exponent of the plan's range


def index_streams(mapping: LayerMapping, crossbar_of_donor: Int64, gathers: bool) -> tuple[Int64, Int64]:
    """Bits of each stream in one position, and the PE that it lies in, int64 [stream] both.

    Args:
        mapping: of the layer.
        crossbar_of_donor: int64 [D].
        gathers: whether partial sums are gathered.
    """
    plan, crossbar_pe = mapping.plan, np.arange(mapping.crossbars) // mapping.crossbars_per_pe
    has_gain = bool((plan.use_exponent != 0).any()) or bool((plan.use_sign < 0).any())
    rows, indexed = _index_of_rows(mapping, plan), ~_counted(plan, has_gain)  # [crossbar], [group]
    gain_bits = GAIN_BITS if has_gain else 0
    if gathers:
        uses = _gathered_index(plan, crossbar_pe[crossbar_of_donor], mapping.pes, indexed, gain_bits)  # [pe]
        return np.append(rows, uses), np.append(crossbar_pe, np.arange(mapping.pes))
    return rows + _scattered_index(plan, crossbar_of_donor, mapping.crossbars, indexed, gain_bits), crossbar_pe


def _index_of_rows(mapping: LayerMapping, plan: LayerPlan) -> Int64:
    """Index bits of the inputs that each crossbar reads in one position, int64 [crossbar].

    None for a row group of consecutive rows that starts at a multiple of the OU's rows (the last one of a layer may be
    short). None either where the row groups name their rows in ascending order throughout, as channel pruning leaves
    them: the inputs that are read lie side by side in the buffer once and for all. Else each run reads the numbers of
    the group's rows.
    """
    height = plan.rows.shape[1]
    start = plan.rows[:, :1]
    place = np.arange(height)
    consecutive = np.where(start + place < plan.inputs, start + place, -1)
    regular = ((start >= 0) & (start % height == 0) & (plan.rows == consecutive)).all(axis=1)
    regular |= bool((np.diff(plan.rows[plan.rows >= 0]) > 0).all())
    row_bits = np.where(regular, 0, height * (plan.inputs - 1).bit_length())  # [group]
    bits = np.bincount(mapping.run_crossbar, weights=row_bits[mapping.run_group], minlength=mapping.crossbars)
    return bits.astype(np.int64)


def _counted(plan: LayerPlan, has_gain: bool) -> NDArray[np.bool_]:
    """Row groups whose uses need no index, bool [group]: they are one per donor, in filter order, one for each filter
    (of the convolution groups that its rows belong to), with gain 1, so that counting is enough."""
    uses = np.diff(plan.use_start)
    plain = (uses == plan.donors_per_group) & _each_filter_once(plan)  # then donors are to be in filter order
    if plain.any():
        offset = np.repeat((plan.donor_start - plan.use_start)[:-1], uses)  # [use]
        odd = plan.use_donor - np.arange(plan.uses) != offset
        if has_gain:
            odd |= (plan.use_sign < 0) | (plan.use_exponent != 0)
        odd_before = np.concatenate([[0], np.cumsum(odd)])
        plain &= np.diff(odd_before[plan.use_start]) == 0
    return np.asarray(plain)


def _scattered_index(
    plan: LayerPlan, crossbar_of_donor: Int64, crossbars: int, indexed: NDArray[np.bool_], gain_bits: int
) -> Int64:
    """Index bits of the uses on each crossbar, int64 [crossbar].

    An entry per use of the row groups that are ``indexed``, in the order of donors: the filter's number; "last of this
    donor", unless the layer has one use per donor; sign and exponent.
    """
    entry = (plan.filters - 1).bit_length() + (plan.uses > len(plan.donors)) + gain_bits
    of_indexed = crossbar_of_donor[plan.use_donor[np.repeat(indexed, np.diff(plan.use_start))]]
    return entry * np.bincount(of_indexed, minlength=crossbars)


def _gathered_index(plan: LayerPlan, pe_of_donor: Int64, pes: int, indexed: NDArray[np.bool_], gain_bits: int) -> Int64:
    """Index bits of the uses on each PE, in the order of filters, int64 [pe].

    A *stretch* is what a PE holds of one row group, or all that it holds: what is shorter for the PE. For each stretch
    the numbers of the first and the last filter with a use there; for every use an entry, which of the stretch's K
    donors it is, with sign and exponent. Unless all filters from the first to the last have equally many uses, there is
    a bit in front of each entry ("one more") and one behind those of each filter ("no more").

    Args:
        plan: whose uses.
        pe_of_donor: int64 [D].
        pes: how many there are.
        indexed: bool [G], row groups whose uses need an index.
        gain_bits: of sign and exponent.
    """
    donors = indexed[plan.donor_group]
    uses = np.repeat(indexed, np.diff(plan.use_start))
    if not uses.any():
        return np.zeros(pes, np.int64)
    use_filter, use_donor = plan.use_filter[uses], plan.use_donor[uses]
    new_run = (np.diff(pe_of_donor, prepend=0) != 0) | (np.diff(plan.donor_group, prepend=0) != 0)
    found = []
    for stretch in (pe_of_donor, np.cumsum(new_run)):  # [donor], both ascend
        pair, pair_uses = np.unique(stretch[use_donor] * plan.filters + use_filter, return_counts=True)
        place, begin = np.unique(pair // plan.filters, return_index=True)  # [stretch with a use]
        end = np.append(begin[1:], len(pair)) - 1
        span = pair[end] - pair[begin] + 1  # filters from the first to the last
        total, most = np.add.reduceat(pair_uses, begin), np.maximum.reduceat(pair_uses, begin)
        donor_bits = np.frexp(np.bincount(stretch[donors])[place] - 1)[1]
        bits = 2 * (plan.filters - 1).bit_length() + total * (donor_bits + gain_bits)
        bits += np.where(total == span * most, 0, total + span)
        pe = pe_of_donor[np.searchsorted(stretch, place)]
        found.append(np.bincount(pe, weights=bits, minlength=pes).astype(np.int64))
    return np.minimum(*found)


def _each_filter_once(plan: LayerPlan) -> NDArray[np.bool_]:
    """Whether the uses of a row group are one of each filter of the convolution groups that its rows belong to, bool
    [G]."""
    uses, group = np.diff(plan.use_start), plan.use_group
    again = (group[1:] == group[:-1]) & (plan.use_filter[1:] == plan.use_filter[:-1])
    once = np.bincount(group[1:][again], minlength=plan.groups) == 0
    if plan.convolution_groups == 1 or plan.uses == 0:
        return np.asarray(once & (uses == plan.filters))
    each, used, owner = plan.filters // plan.convolution_groups, plan.rows >= 0, plan.rows // plan.fan_in
    first = np.where(used, owner, plan.convolution_groups).min(axis=1) * each
    end = (np.where(used, owner, -1).max(axis=1) + 1) * each
    lowest = plan.use_filter[np.minimum(plan.use_start[:-1], plan.uses - 1)]  # uses are in ascending order of filter
    highest = plan.use_filter[plan.use_start[1:] - 1]
    return np.asarray(once & (uses == end - first) & (lowest == first) & (highest == end - 1))
