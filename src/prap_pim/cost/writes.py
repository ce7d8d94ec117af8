"""What writing the cells takes: a network once, and, where it is larger than the chip, its layers in turns.

A crossbar's wordlines are written one after another, crossbars side by side; its OUs lie side by side along a wordline
as far as they go, then on the next ones. Turns: the layers in order, as many at a
time as the chip has tiles for; a layer larger than the chip has several turns, and its partial sums stay in its buffers
between them. In every inference each turn is written and then computed. Or the chip is halved, and one half is written
while the other computes: what takes less time is done.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.cost.activity import LayerActivity
from prap_pim.cost.schedule import LayerTime, layer_time, pipelined_latency
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import ComponentTable
from prap_pim.ir.network import Network
from prap_pim.mapping import LayerMapping, NetworkMapping

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Writes:
    """Cells of a network and what writing them takes.

    Attributes:
        cells: that hold weights, in all copies.
        energy_j: of writing each once; None: the component table does not say.
        time_s: likewise.
        endurance: times that a cell can be written; None: the table does not say.
        unknown: figures of the table that would be needed.
        cells_there: of the crossbars that the network takes, or of the chip where layers take turns.
        turns: 1: the network fits the chip.
        double_buffered: whether a turn is written while the one before it is computed.
    """

    cells: int
    energy_j: float | None
    time_s: float | None
    endurance: float | None
    unknown: tuple[str, ...]
    cells_there: int
    turns: int = 1
    double_buffered: bool = False

    @property
    def per_inference(self) -> int:
        """Cells that are written in every inference: none of a network that fits."""
        return self.cells if self.turns > 1 else 0

    @property
    def inferences(self) -> float | None:
        """Inferences until the cells are worn out, writes being spread over all cells alike; infinite of a network that
        fits, None if the table has no endurance."""
        if not self.per_inference:
            return inf
        return None if self.endurance is None else self.endurance * self.cells_there / self.per_inference


Part = tuple[str, int, int]  # of a layer, from which crossbar to which


def programming(mapping: NetworkMapping, chip: Chip, table: ComponentTable) -> Writes:
    """Of all cells once, side by side on as many crossbars as the network takes."""
    needed = dict.fromkeys([*_of_write(table, "energy"), *_of_write(table, "time"), "endurance"])
    total = sum(int(stored_cells(layer, chip).sum()) * layer.copies for layer in mapping.layers.values())
    energy, time = _write(table, "energy"), _write(table, "time")
    most = max(int(wordlines(layer, chip).max()) for layer in mapping.layers.values())
    return Writes(
        cells=total,
        energy_j=None if energy is None else total * energy,
        time_s=None if time is None else most * time,
        endurance=table.known("cell", "endurance"),
        unknown=tuple(f"cell.{name}" for name in needed if table.known("cell", name) is None),
        cells_there=mapping.crossbars * chip.crossbar_rows * chip.crossbar_columns,
    )


def in_turns(
    once: Writes,
    network: Network,
    mapping: NetworkMapping,
    counts: Mapping[str, LayerActivity],
    chip: Chip,
    table: ComponentTable,
) -> tuple[Writes, float, float]:
    """Of a network larger than the chip, with the seconds of an inference, serial and pipelined; ``once``: of writing
    it once (``programming``).

    A part of a layer takes as long as the layer, for parts have equally long walks, but has only its share of the
    digital work and of what goes from tile to tile.

    Raises:
        UserError: the table does not say what a write takes.
    """
    tiles = chip.max_tiles or 0
    if once.energy_j is None or once.time_s is None:
        needed = ", ".join(name for name in once.unknown if not name.endswith("endurance"))
        lack = mapping.shortage(network, chip)
        raise UserError(f"{lack}. To write layers in turns, component table {table.name} must have {needed}")
    of_wordline, idle = _write(table, "time") or 0.0, LayerTime(0.0, {}, 0.0, 0.0, 0.0, "", 1)
    lines = {name: wordlines(layer, chip) for name, layer in mapping.layers.items()}

    def seconds(turns: list[list[Part]]) -> tuple[list[float], list[float], float]:
        """Of writing and of computing each turn; of computing all, serial."""
        parts = Counter(name for turn in turns for name, _, _ in turn)
        times = {name: layer_time(_share(of_layer, parts[name]), chip, table) for name, of_layer in counts.items()}
        written = [max(int(lines[name][first:end].max()) for name, first, end in turn) for turn in turns]
        at_work = [{name for name, _, _ in turn} for turn in turns]
        return (
            [of_wordline * each for each in written],
            [
                pipelined_latency(network, {name: time if name in names else idle for name, time in times.items()})
                for names in at_work
            ],
            sum(times[name].serial_s * count for name, count in parts.items()),
        )

    turns = _turns(mapping, tiles)
    writes, computes, serial = seconds(turns)
    serial += sum(writes)
    pipelined, halves = sum(writes) + sum(computes), _turns(mapping, tiles // 2) if tiles > 1 else []
    overlapping = inf
    if halves:
        half_writes, half_computes, _ = seconds(halves)
        overlapping = sum(map(max, half_computes, [*half_writes[1:], half_writes[0]]))
    double = overlapping < pipelined
    found = replace(
        once,
        time_s=sum(writes),
        cells_there=tiles * chip.crossbars_per_tile * chip.crossbar_rows * chip.crossbar_columns,
        turns=len(halves if double else turns),
        double_buffered=double,
    )
    return found, serial, min(overlapping, pipelined)


def _share(counts: LayerActivity, parts: int) -> LayerActivity:
    """What one of so many parts of a layer does of its digital work and sends from tile to tile."""
    if parts == 1:
        return counts
    names = ("digital_ops", "outputs", "memory_accesses")
    busiest = replace(counts.busiest, inter_tile_bits=counts.busiest.inter_tile_bits / parts)
    return replace(counts, busiest=busiest, **{name: -(-getattr(counts, name) // parts) for name in names})


def stored_cells(mapping: LayerMapping, chip: Chip) -> Int64:
    """Cells that hold weights on each crossbar of one copy, int64 [crossbar]."""
    grain, plan = chip.grain.of_bits(mapping.plan.weight_bits), mapping.plan
    last = np.cumsum(mapping.run_ous) == mapping.group_start[mapping.run_group + 1]  # has the end of its row group
    spare = np.diff(mapping.group_start) * grain.ou_columns - plan.donors_per_group * grain.columns_per_weight
    columns = mapping.run_ous * grain.ou_columns - last * spare[mapping.run_group]  # [run]
    rows = np.count_nonzero(plan.rows >= 0, axis=1)[mapping.run_group]
    found = np.bincount(mapping.run_crossbar, weights=columns * rows, minlength=mapping.crossbars)
    return found.astype(np.int64)  # float64 is exact below 2**53


def _of_write(table: ComponentTable, what: Literal["energy", "time"]) -> list[str]:
    """Figures of a write: pulses, and what each takes, with its verifying read if the table has anything of one."""
    verified = any(table.known("cell", f"{each}_per_verify") is not None for each in ("energy", "time"))
    return ["pulses_per_write", f"{what}_per_pulse", *([f"{what}_per_verify"] if verified else [])]


def _write(table: ComponentTable, what: Literal["energy", "time"]) -> float | None:
    """Joules of writing a cell or seconds of a wordline: pulses, each followed by a read that verifies it, if there is
    one. None where the table does not say."""
    values = [table.known("cell", name) for name in _of_write(table, what)]
    known = [value for value in values if value is not None]
    return known[0] * sum(known[1:]) if len(known) == len(values) else None


def wordlines(mapping: LayerMapping, chip: Chip) -> Int64:
    """Wordlines with cells that hold weights, of each crossbar of one copy, int64 [crossbar]."""
    plan, grain = mapping.plan, chip.grain
    height = int(np.count_nonzero(plan.rows >= 0, axis=1).max(initial=0))  # of an OU, at most
    found: Int64 = -(-mapping.ous_per_crossbar // (chip.crossbar_columns // grain.ou_columns)) * height
    return found


def _turns(mapping: NetworkMapping, tiles: int) -> list[list[Part]]:
    """What is on the chip at a time."""
    turns: list[list[Part]] = [[]]
    free = tiles
    for name, layer in mapping.layers.items():
        if layer.total_tiles > free and free < tiles:
            turns.append([])
            free = tiles
        step = tiles * layer.crossbars_per_tile
        for first in range(0, layer.crossbars, step):
            if first:
                turns.append([])
            turns[-1].append((name, first, min(first + step, layer.crossbars)))
        free -= (layer.total_tiles - 1) % tiles + 1 if layer.total_tiles > tiles else layer.total_tiles
    return turns
