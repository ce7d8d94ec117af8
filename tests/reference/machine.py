"""A slow simulator: walks a layer position by position, crossbar by crossbar, OU by OU, step by step, and counts.

Written from the description of the machine, not from the package's counting: it places OUs itself (one list of
columns after another), moves registers, and looks at every use, row and column one at a time. Copies of a layer are
put on PEs and tiles one after another and dealt the positions in turn. Where uses are gathered, the index of a PE is
written down bit by bit (``gathered_index``) and can be read back (``uses_in``).
"""

from collections import Counter
from collections.abc import Set
from math import ceil

from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import LayerPlan


def bits_for(count: int) -> int:
    """Bits that number ``count`` things."""
    bits = 0
    while 2**bits < count:
        bits += 1
    return bits


def columns_of(plan: LayerPlan, chip: Chip) -> int:
    """Columns of a donor: whole weights have the bits that the chip gives them, narrower ones their own."""
    bits = chip.grain.weight_bits if plan.weight_bits == 8 else max(plan.weight_bits, chip.grain.cell_bits)
    return cells_of(bits, chip)


def cells_of(bits: int, chip: Chip) -> int:
    """Cells of a weight: one for every few of its bits, or of its magnitude's, twice."""
    if chip.grain.encoding == "differential":
        return 2 * ceil((bits - 1) / chip.grain.cell_bits)
    return ceil(bits / chip.grain.cell_bits)


def input_bits_of(plan: LayerPlan, chip: Chip) -> int:
    """Bits of an input: the chip's, or as few as the plan's have."""
    return chip.grain.input_bits if plan.input_bits == 8 else min(plan.input_bits, chip.grain.input_bits)


def input_steps_of(plan: LayerPlan, chip: Chip) -> list[int]:
    """Bits of each step of an input."""
    steps, left = [], input_bits_of(plan, chip)
    while left > 0:
        steps.append(min(left, chip.grain.dac_bits))
        left -= steps[-1]
    return steps


def pulses_of(law: str, bits: int) -> int:
    """Pulses that bring so many bits to a row."""
    return {"1": 1, "bits": bits, "2^bits-1": 2**bits - 1}[law]


def to_convert(columns: list[int], chip: Chip) -> list:
    """What the converters of an OU see: its columns, or the weights that lie in it, whole or in part."""
    return columns if chip.conversions == "per column" else list(dict.fromkeys(columns))


def most_to_convert(plan: LayerPlan, chip: Chip) -> int:
    """The same of a full OU, wherever in it weights begin."""
    each = columns_of(plan, chip)
    ends = [[(begin + at) // each for at in range(chip.grain.ou_columns)] for begin in range(each)]
    if chip.grain.ou_columns % each == 0:
        ends = ends[:1]
    return max(len(to_convert(columns, chip)) for columns in ends)


def ous_of(plan: LayerPlan, chip: Chip) -> list[tuple[int, list[int]]]:
    """Every OU in order: (row group, the donor of each column in use)."""
    found = []
    for group in range(plan.groups):
        columns = []
        for donor in range(plan.donor_start[group], plan.donor_start[group + 1]):
            columns += [donor] * columns_of(plan, chip)
        while columns:
            found.append((group, columns[: chip.grain.ou_columns]))
            columns = columns[chip.grain.ou_columns :]
    return found


def dense_ous_of(plan: LayerPlan, chip: Chip) -> int:
    """OUs without pruning or reuse: of all ways to cut the rows into stretches that run on over a limited number of
    convolution groups, the one with the fewest."""
    own_rows, own_filters = plan.inputs // plan.convolution_groups, plan.filters // plan.convolution_groups
    columns = own_filters * cells_of(chip.grain.weight_bits, chip)
    found = []
    for limit in range(1, plan.convolution_groups + 1):
        ous, stretch = 0, []
        for owner in [row // own_rows for row in range(plan.inputs)] + [None]:
            if stretch and (owner is None or len(stretch) == chip.grain.ou_rows or len({*stretch, owner}) > limit):
                ous += ceil(len(set(stretch)) * columns / chip.grain.ou_columns)
                stretch = []
            stretch.append(owner)
        found.append(ous)
    return min(found)


def crossbars_of(plan: LayerPlan, chip: Chip, mode: str, fewest: bool = False) -> list[list[tuple[int, list[int]]]]:
    """The OUs of every crossbar, by the rules of the two modes; ``fewest``: on as few crossbars as hold them."""
    ous = ous_of(plan, chip)
    holds = (chip.crossbar_rows // chip.grain.ou_rows) * (chip.crossbar_columns // chip.grain.ou_columns)
    dense = dense_ous_of(plan, chip)
    count = ceil(dense / holds) if not fewest else max(1, ceil(len(ous) / holds))
    if mode == "spread" and len(ous) <= count * holds:
        loads = [len(ous) // count + (1 if i < len(ous) % count else 0) for i in range(count)]
    else:
        load = holds if mode == "spread" else max(min(holds, ceil(dense / count)), ceil(len(ous) / count) * fewest)
        loads = [min(load, len(ous) - start) for start in range(0, len(ous), load)] or [0]
    placed = []
    for load in loads:
        placed.append(ous[:load])
        ous = ous[load:]
    return placed


def homes_of(placed: list, chip: Chip, copies: int) -> list[int]:
    """The tile in which each copy begins: copies take whole PEs, and a tile is shared only by copies that fit it."""
    pes = ceil(len(placed) / chip.crossbars_per_pe)
    homes, tile, free = [], 0, chip.pes_per_tile
    for _ in range(copies):
        if free < pes and free < chip.pes_per_tile:
            tile, free = tile + 1, chip.pes_per_tile
        homes.append(tile)
        if pes >= chip.pes_per_tile:
            tile += ceil(pes / chip.pes_per_tile)
        else:
            free -= pes
    return homes


def encoded(plan: LayerPlan, donors: list[int], gains: bool) -> str:
    """The index bits of all uses of these donors, filter by filter."""
    filters: dict[int, list[int]] = {}
    for use, donor in enumerate(plan.use_donor):
        if donor in donors:
            filters.setdefault(int(plan.use_filter[use]), []).append(use)
    if not filters:
        return ""
    first, last = min(filters), max(filters)
    counts = {len(filters.get(filter_, [])) for filter_ in range(first, last + 1)}
    text = "".join(number(filter_, bits_for(plan.filters)) for filter_ in (first, last))
    for filter_ in range(first, last + 1):
        for use in filters.get(filter_, []):
            text += "1" if len(counts) > 1 else ""
            text += number(donors.index(plan.use_donor[use]), bits_for(len(donors)))
            if gains:
                text += "1" if plan.use_sign[use] < 0 else "0"
                text += number(int(plan.use_exponent[use]) + 8, 4)
        text += "0" if len(counts) > 1 else ""
    return text


def uses_in(text: str, plan: LayerPlan, donors: list[int], gains: bool, each: int | None) -> list[tuple[int, ...]]:
    """What ``encoded`` wrote: (filter, donor, sign, exponent); ``each``: uses of every filter, None if they differ."""
    bits, found = iter(text), []

    def read(count: int) -> int:
        return int("0" + "".join(next(bits) for _ in range(count)), 2)

    if not donors:
        return []
    first, last = read(bits_for(plan.filters)), read(bits_for(plan.filters))
    for filter_ in range(first, last + 1):
        done = 0
        while read(1) if each is None else done < each:
            donor = donors[read(bits_for(len(donors)))]
            sign, exponent = (1 - 2 * read(1), read(4) - 8) if gains else (1, 0)
            found.append((filter_, donor, sign, exponent))
            done += 1
    assert next(bits, None) is None
    return found


def number(value: int, bits: int) -> str:
    """In binary, so many bits."""
    return format(value, f"0{bits}b") if bits else ""


def group_of(plan: LayerPlan, donor: int) -> int:
    """A donor's row group."""
    return next(group for group in range(plan.groups) if donor < plan.donor_start[group + 1])


def gathered_index(plan: LayerPlan, donors: list[int], gains: bool) -> int:
    """Bits of the shorter index of a PE's donors: all together, or row group by row group."""
    groups = {group_of(plan, donor): [] for donor in donors}
    for donor in donors:
        groups[group_of(plan, donor)].append(donor)
    return min(
        len(encoded(plan, donors, gains)), sum(len(encoded(plan, together, gains)) for together in groups.values())
    )


def simulate(
    plan: LayerPlan,
    layer: Layer,
    chip: Chip,
    mode: str,
    skipped: Set[tuple[int, int, int]] = frozenset(),
    copies: int = 1,
    fewest: bool = False,
) -> tuple[Counter, dict[str, float]]:
    """Events of one inference, and what the busiest resource does for one position in every copy.

    ``skipped``: (position, input step, row group) whose input bits are all 0.
    """
    grain, events = chip.grain, Counter()
    placed = crossbars_of(plan, chip, mode, fewest)
    homes = homes_of(placed, chip, copies)
    crossbar_steps, tile_bits, link_bits = Counter(), Counter(), Counter()
    uses_of: dict[int, list[int]] = {donor: [] for donor in range(len(plan.donors))}
    for use, donor in enumerate(plan.use_donor):
        uses_of[donor].append(use)
    last_ou = {donor: number for number, (_, columns) in enumerate(ous_of(plan, chip)) for donor in columns}
    gains = any(s != 1 or e != 0 for s, e in zip(plan.use_sign, plan.use_exponent, strict=True))
    shared = any(len(uses) > 1 for uses in uses_of.values())
    entry = bits_for(plan.filters) + (1 if shared else 0) + (1 + bits_for(16) if gains else 0)

    def needs_use_index(group: int) -> bool:
        uses = range(plan.use_start[group], plan.use_start[group + 1])
        donors = list(range(plan.donor_start[group], plan.donor_start[group + 1]))
        owners = {int(row) // plan.fan_in for row in plan.rows[group] if row >= 0}  # convolution groups
        concerned = [
            filter_
            for filter_ in range(plan.filters)
            if owners and min(owners) <= filter_ // (plan.filters // plan.convolution_groups) <= max(owners)
        ]
        if plan.convolution_groups == 1:
            concerned = list(range(plan.filters))
        return not (
            [plan.use_filter[use] for use in uses] == concerned
            and [plan.use_donor[use] for use in uses] == donors
            and all(plan.use_sign[use] == 1 and plan.use_exponent[use] == 0 for use in uses)
        )

    named = [row for rows in plan.rows.tolist() for row in rows if row >= 0]
    in_order = named == sorted(set(named))  # then the inputs that are read lie side by side in the buffer

    def needs_row_index(group: int) -> bool:
        rows = list(plan.rows[group])
        regular = [
            [row if row < plan.inputs else -1 for row in range(start, start + grain.ou_rows)]
            for start in range(0, plan.inputs, grain.ou_rows)
        ]
        return rows not in regular and not in_order

    positions = layer.output_shape[1] * layer.output_shape[2]
    busiest: dict[str, float] = {}
    for position in range(positions):
        home = homes[position % copies]
        crossbar, pe_load = [Counter() for _ in placed], Counter()
        registers: list[list[int]] = [[] for _ in placed]  # of each crossbar: the donors that are finished
        sums: dict[int, set[int]] = {}  # filters accumulated in each PE
        number = 0
        for at, ous in enumerate(placed):
            pe = at // chip.crossbars_per_pe
            held, index = None, 0
            for group, columns in ous:
                rows = [row for row in plan.rows[group] if row >= 0]
                if held != group:
                    held = group
                    bits = len(rows) * input_bits_of(plan, chip)
                    events["input_register_loads"] += 1
                    events["input_register_bytes"] += ceil(bits / 8)
                    events["input_buffer_read_bytes"] += ceil(bits / 8)
                    events["input_buffer_reads"] += ceil(bits / chip.buffer_port_bits)
                    pe_load["input_accesses", pe] += ceil(bits / chip.buffer_port_bits)
                    if needs_row_index(group):
                        index += grain.ou_rows * bits_for(plan.inputs)
                crossbar[at]["ous"] += 1
                for step, bits in enumerate(input_steps_of(plan, chip)):
                    if (position, step, group) in skipped:
                        continue
                    events["ou_steps"] += 1
                    crossbar_steps[at] += 1
                    waiting, first = to_convert(columns, chip), True
                    pulses = pulses_of(chip.dac_energy, bits)
                    while waiting:
                        if first or not chip.sample_and_hold:
                            events["row_drives"] += len(rows) * pulses
                            events["cell_reads"] += len(rows) * len(columns) * pulses
                        first = False
                        taken, waiting = waiting[: chip.adcs_per_crossbar], waiting[chip.adcs_per_crossbar :]
                        events["conversions"] += len(taken)
                        events["samples"] += len(taken) * pulses
                        events["shift_adds"] += len(taken)
                events["output_register_writes"] += 1
                for donor in dict.fromkeys(columns):
                    if last_ou[donor] != number:
                        continue
                    if chip.accumulate == "gather":
                        registers[at].append(donor)
                        events["dot_register_accesses"] += 1
                        continue
                    for use in uses_of[donor]:
                        events["use_additions"] += 1
                        events["partial_sum_updates"] += 1
                        events["partial_sum_read_bytes"] += ceil(chip.partial_sum_bits / 8)
                        events["partial_sum_write_bytes"] += ceil(chip.partial_sum_bits / 8)
                        crossbar[at]["updates"] += 1
                        pe_load["partial_sum_accesses", pe] += 2
                        if plan.use_exponent[use] != 0:
                            events["shifted_updates"] += 1
                            crossbar[at]["shifted_updates"] += 1
                        if needs_use_index(group):
                            index += entry
                        sums.setdefault(pe, set()).add(int(plan.use_filter[use]))
                number += 1
            events["index_reads"] += ceil(index / chip.buffer_port_bits)
            events["index_read_bytes"] += ceil(index / 8)
            pe_load["index_accesses", pe] += ceil(index / chip.buffer_port_bits)
        # gather what the crossbars of a PE have for one filter after another
        by_pe = [range(at, min(at + chip.crossbars_per_pe, len(placed))) for at in range(len(placed))]
        for pe, members in enumerate(by_pe[:: chip.crossbars_per_pe] if chip.accumulate == "gather" else []):
            touched = None
            for filter_ in range(plan.filters):
                served = False
                for at in members:
                    for donor in registers[at]:
                        for use in uses_of[donor]:
                            if plan.use_filter[use] == filter_:
                                served = True
                                events["dot_register_accesses"] += 1
                                events["use_additions"] += 1
                                crossbar[at]["updates"] += 1
                                if plan.use_exponent[use] != 0:
                                    events["shifted_updates"] += 1
                                    crossbar[at]["shifted_updates"] += 1
                if served:
                    events["partial_sum_updates"] += 1
                    events["partial_sum_read_bytes"] += ceil(chip.partial_sum_bits / 8)
                    events["partial_sum_write_bytes"] += ceil(chip.partial_sum_bits / 8)
                    pe_load["gathered", pe] += 1
                    sums.setdefault(pe, set()).add(filter_)
                    word = filter_ // max(1, chip.buffer_port_bits // chip.partial_sum_bits)
                    if word != touched:
                        pe_load["partial_sum_accesses", pe] += 2
                    touched = word
            finished = [donor for at in members for donor in registers[at]]
            index = gathered_index(plan, [each for each in finished if needs_use_index(group_of(plan, each))], gains)
            events["index_reads"] += ceil(index / chip.buffer_port_bits)
            events["index_read_bytes"] += ceil(index / 8)
            pe_load["index_accesses", pe] += ceil(index / chip.buffer_port_bits)
        if chip.accumulate == "gather":
            largest = grain.input_bits + grain.weight_bits + bits_for(grain.ou_rows)
            events["dot_register_bytes"] = 2 * ceil(max(len(held) for held in registers) * largest / 8)
        # merge inside every tile, then into the first
        accumulator = ceil(chip.partial_sum_bits / 8)
        tile_sums: dict[int, set[int]] = {}
        for pe, filters in sums.items():
            into = tile_sums.setdefault(pe // chip.pes_per_tile, set())
            for one in filters:
                if one in into:
                    events["merges"] += 1
                    events["merge_bytes"] += accumulator
                    tile_bits[home + pe // chip.pes_per_tile] += chip.partial_sum_bits
                into.add(one)
        final: set[int] = set()
        leaving = layer.filters * ceil(grain.input_bits / 8) * 8
        for tile, filters in tile_sums.items():
            for one in filters:
                if tile != 0:
                    events["inter_tile_bytes"] += accumulator
                    row, column = divmod(home + tile, chip.mesh_columns)
                    home_row, home_column = divmod(home, chip.mesh_columns)
                    events["inter_tile_byte_hops"] += accumulator * (abs(row - home_row) + abs(column - home_column))
                    leaving += chip.partial_sum_bits
                if one in final:
                    events["merges"] += 1
                final.add(one)
        link_bits[home] += leaving
        events["outputs"] += layer.filters
        events["output_bytes"] += layer.filters * ceil(grain.input_bits / 8)
        busiest = {
            **{key: max(load[key] for load in crossbar) for key in ("ous", "updates", "shifted_updates")},
            **{
                key: max((load for (what, _), load in pe_load.items() if what == key), default=0)
                for key in ("input_accesses", "partial_sum_accesses", "index_accesses", "gathered")
            },
        }
    rounds = max(len(range(copy, positions, copies)) for copy in range(copies))
    busiest["merge_bits"] = max(tile_bits.values(), default=0) / rounds
    busiest["inter_tile_bits"] = max(link_bits.values()) / rounds
    every = [pulses_of(chip.dac_time, bits) for bits in input_steps_of(plan, chip)]
    busiest["pulses"] = sum(every) / len(every)
    busiest["rounds"] = ceil(most_to_convert(plan, chip) / chip.adcs_per_crossbar)
    busiest["steps"] = max(crossbar_steps.values(), default=0) / positions
    events |= {"copies": copies, "rounds": rounds, "output_tiles": len(set(homes))}
    for group in range(plan.groups):
        for _ in range(plan.donor_start[group], plan.donor_start[group + 1]):
            for row in plan.rows[group]:
                events["stored_cells"] += copies * columns_of(plan, chip) if row >= 0 else 0
    return events, busiest


def serial_seconds(
    plan: LayerPlan,
    layer: Layer,
    chip: Chip,
    mode: str,
    latency: dict[str, float],
    skipped: Set[tuple[int, int, int]] = frozenset(),
) -> float:
    """Seconds of all positions with nothing overlapping: an OU step is walked stage by stage.

    Every crossbar has a clock for its OU steps; the one that shows most at the end counts. ``latency`` holds the
    seconds of each stage by name, "adc" among them.
    """
    placed = crossbars_of(plan, chip, mode)
    _, busiest = simulate(plan, layer, chip, mode, skipped)
    clocks = [0.0 for _ in placed]
    now = 0.0
    for position in range(layer.output_shape[1] * layer.output_shape[2]):
        for at, ous in enumerate(placed):
            for group, _ in ous:
                for step, bits in enumerate(input_steps_of(plan, chip)):
                    if (position, step, group) in skipped:
                        continue
                    columns, first = most_to_convert(plan, chip), True
                    while columns > 0:
                        if first or not chip.sample_and_hold:
                            for stage in ("input_register", "row_decoder", "dac", "crossbar"):
                                clocks[at] += latency[stage] * pulses_of(chip.dac_time, bits)
                        for stage in ("column_mux", "adc", "shift_add"):
                            clocks[at] += latency[stage] * chip.crossbars_per_adc
                        first = False
                        columns -= chip.adcs_per_crossbar
        now += max(len(ous) for ous in placed) * latency["output_register"]
        now += (busiest["updates"] + busiest["shifted_updates"]) * latency["accumulator"]
        now += busiest["partial_sum_accesses"] * latency["partial_sum_buffer"]
        if chip.accumulate == "gather":
            now += busiest["updates"] * latency["dot_register"] + busiest["gathered"] * latency["accumulator"]
        now += busiest["input_accesses"] * latency["input_buffer"]
        now += busiest["index_accesses"] * latency["index_buffer"]
        now += busiest["merge_bits"] / chip.intra_tile_bits_per_s
        now += busiest["inter_tile_bits"] / chip.inter_tile_bits_per_s
    outputs = layer.filters * layer.output_shape[1] * layer.output_shape[2]
    return now + max(clocks) + outputs / chip.digital_lanes / chip.clock_hz
