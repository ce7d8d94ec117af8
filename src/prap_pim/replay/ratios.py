"""The PRAP authors' cost model, replayed: two published ratios stand for the mapping of each layer.

Source of everything here: the authors' public implementation (2022), read; no mapping, only scalars. A layer keeps
``pruning`` of its OU rows and computes ``computing`` of its OU columns. Its rows and columns are spread evenly over all
crossbars of its tiles, and one crossbar stands for all. From these come the counts of one output position
(``LayerReplay.busiest``), which our own serial timing then turns into seconds; nothing overlaps.

R: OU rows after pruning; A: OU columns; D: OU columns that are computed; all of one crossbar.

| event of one position | count |
|---|---|
| OUs walked; writes of the output register | R D |
| reads of the inputs | R; R A where every OU gathers its own |
| partial sums read, added, written, for every column, computed or not | R A |
| results of a donor written, to be read again by its reusers | R D, with reuse |
| shift, and one more add, of a scaled result | R A, with gains |
| index reads | R for the shapes; R A for reuse, and for inputs gathered per OU |
| adds of the tile's merge: one filter a cycle | R A for each crossbar of a PE |
| outputs of all copies, through one port | filters x copies |

Index entries, inputs of an OU row and partial sums each fit one access of the 256-bit port; the crossbars of a PE take
their accesses one after another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest
from prap_pim.cost.activity import Busiest
from prap_pim.cost.adc import conversion_energy
from prap_pim.cost.schedule import time_positions
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import ComponentTable, load_table
from prap_pim.methods.published import PublishedLayer, published
from prap_pim.results.run import Gain

OU_STEPS = "OU steps"  # what the energy of a replay is of
WIDEST = 8  # output maps wider than this are replicated: authors

Ratio = Callable[[PublishedLayer], Fraction]


@dataclass(frozen=True)
class ReplayMethod:
    """What the authors' model knows of a method.

    Attributes:
        pruning: of a layer's OU rows, the share that is kept.
        computing: of its OU columns, the share that is computed.
        gathers: every OU has inputs of its own, read and indexed anew.
        shapes: every OU row reads the index of its shapes.
        reuses: results serve other filters, by an index.
        scales: a reused result is shifted.
    """

    pruning: Ratio = lambda layer: Fraction(1)
    computing: Ratio = lambda layer: Fraction(1)
    gathers: bool = False
    shapes: bool = False
    reuses: bool = False
    scales: bool = False


def _exact(decimal: float) -> Fraction:
    """A published decimal as it is written: 0.2 is 1/5, so that 5 x 0.2 rows are not rounded up to 2."""
    return Fraction(str(decimal))


def _keep(method: str) -> Ratio:
    return lambda layer: _exact(layer.keep[method])


def _observed(method: str) -> Ratio:
    return lambda layer: _exact(layer.compute_ratio[method])


def _always(share: Fraction) -> Ratio:
    return lambda layer: share


def _positions_kept(layer: PublishedLayer) -> Fraction:
    """Of step 1: p of a kernel's positions; in 1x1 and linear layers 8 of a group's inputs."""
    if layer.kept_positions is None:
        return Fraction(8, layer.group_channels)
    return Fraction(layer.kept_positions, layer.kernel**2)


METHODS = {
    "dense": ReplayMethod(),
    "structured": ReplayMethod(pruning=_keep("structured")),
    "pattern": ReplayMethod(pruning=_positions_kept, shapes=True),
    "orc": ReplayMethod(pruning=_keep("orc"), gathers=True),
    "identical": ReplayMethod(computing=_observed("identical"), reuses=True),
    "similar": ReplayMethod(computing=_observed("similar"), reuses=True, scales=True),
    "structured+identical": ReplayMethod(_keep("structured"), _observed("identical"), reuses=True),
    # its reuse index is counted; that of its shapes, a sixteenth of it, the authors do not count besides
    "prap": ReplayMethod(_positions_kept, _observed("prap"), reuses=True, scales=True),
}


@dataclass(frozen=True)
class Spread:
    """A dense layer on its tiles, evenly: what each crossbar holds.

    Attributes:
        ou_rows: OU rows in use.
        columns: cells' columns in use, a multiple of the OU's.
        tiles: that the layer touches.
    """

    ou_rows: int
    columns: int
    tiles: int


def spread(layer: PublishedLayer, chip: Chip) -> Spread:
    """Where the authors lay a layer.

    A convolution's crossbars' worth of rows are spread over all PEs of its tiles, its columns over the crossbars of a
    PE. A linear layer fills crossbar after crossbar.
    """
    grain = chip.grain
    rows, columns = layer.inputs * layer.kernel**2, layer.filters * grain.columns_per_weight
    across = Fraction(grain.row_groups(rows), chip.crossbar_rows // grain.ou_rows)  # crossbars, not rounded
    along = Fraction(grain.ous(layer.filters), chip.crossbar_columns // grain.ou_columns)
    most_rows, most_columns = min(rows, chip.crossbar_rows), min(columns, chip.crossbar_columns)
    if layer.type == "linear":
        tiles = ceil(Fraction(ceil(across) * ceil(along), chip.crossbars_per_tile))
        rows_used, columns_used = Fraction(most_rows), Fraction(most_columns)
    else:
        row_tiles = ceil(Fraction(ceil(across), chip.pes_per_tile))
        column_tiles = ceil(Fraction(ceil(along), chip.crossbars_per_pe))
        tiles = row_tiles * column_tiles
        rows_used = most_rows * across / (chip.pes_per_tile * row_tiles)
        columns_used = most_columns * along / (chip.crossbars_per_pe * column_tiles)
    return Spread(
        ou_rows=ceil(rows_used / grain.ou_rows),
        columns=ceil(columns_used / grain.ou_columns) * grain.ou_columns,
        tiles=tiles,
    )


def copies(layer: PublishedLayer) -> int:
    """Replicas of a layer that share its output map."""
    return _copies_across(layer) ** 2


def _copies_across(layer: PublishedLayer) -> int:
    return ceil(_output_width(layer) / WIDEST)


def _output_width(layer: PublishedLayer) -> int:
    return ceil(layer.input_size / layer.stride)


@dataclass(frozen=True)
class LayerReplay:
    """Counts of one layer.

    Attributes:
        busiest: what one crossbar, its PE and its tile do for one output position (of every copy).
        positions: done by one copy of the layer, one after another.
        copies: replicas that share the output map.
        crossbars: of one copy: all of every tile that it touches, filled or not.
    """

    busiest: Busiest
    positions: int
    copies: int
    crossbars: int


def replay_layer(layer: PublishedLayer, method: ReplayMethod, chip: Chip) -> LayerReplay:
    """Count the events of one layer."""
    used, pe = spread(layer, chip), chip.crossbars_per_pe
    kept = ceil(used.ou_rows * method.pruning(layer))  # R
    computed = Fraction(ceil(used.columns * method.computing(layer)), chip.grain.ou_columns)  # D
    ous, sums = float(kept * computed), kept * used.columns // chip.grain.ou_columns  # R D, R A

    width, across = _output_width(layer), _copies_across(layer)
    return LayerReplay(
        busiest=Busiest(
            ous=ous,
            updates=sums * (1 + method.scales) + sums * pe,  # the crossbar's own, and the merge of the tile
            shifted_updates=sums * method.scales,
            input_accesses=pe * (sums if method.gathers else kept),
            partial_sum_accesses=pe * (2 * sums + ous * method.reuses),
            index_accesses=pe * (kept * method.shapes + sums * (method.gathers or method.reuses)),
            merge_bits=0,  # the merge is counted by its adds
            inter_tile_bits=layer.filters * chip.grain.input_bits * copies(layer),
        ),
        positions=ceil(width / across) ** 2,
        copies=copies(layer),
        crossbars=used.tiles * chip.crossbars_per_tile,
    )


def seconds(layer: LayerReplay, chip: Chip, table: ComponentTable) -> dict[str, float]:
    """Latency of a layer, by what takes it: its copies work side by side, their positions one after another, nothing
    overlaps."""
    return dict(time_positions(layer.busiest, layer.positions, 0.0, chip, table).serial_phases_s)


def joules(layer: LayerReplay, chip: Chip, table: ComponentTable) -> float:
    """Energy of a layer: power of each component that an OU step needs x the time it is busy, in all crossbars.

    Without the cells' own, as the authors; and without buffers, which they size to the need: docs/replay.md.
    """
    driven = chip.grain.ou_rows * (table("input_register", "energy_per_drive") + table("dac", "energy_per_drive"))
    converted = conversion_energy(chip, table) + table("shift_add", "energy_per_conversion")
    ou_step = chip.reads_per_step * driven + chip.grain.ou_columns * converted
    steps = layer.busiest.ous * chip.grain.input_steps * layer.positions * layer.copies * layer.crossbars
    return steps * ou_step


@dataclass(frozen=True)
class LayerEvents:
    """What a layer takes of an inference.

    Attributes:
        seconds: by what takes them (``LayerTime.serial_phases_s``).
        joules: by component; of a replay, those of OU steps together.
        computed: of the patterns that pruning leaves, the share that is computed.
    """

    seconds: Mapping[str, float]
    joules: Mapping[str, float]
    computed: Fraction


@dataclass(frozen=True)
class Inference:
    """One inference of a network, its layers (shortcuts among them) one after another."""

    layers: tuple[LayerEvents, ...]

    @property
    def latency_s(self) -> float:
        """Sum over the layers."""
        return sum(sum(layer.seconds.values()) for layer in self.layers)

    @property
    def energy_j(self) -> float:
        """Sum over the layers."""
        return sum(sum(layer.joules.values()) for layer in self.layers)

    def gain_over(self, dense: "Inference") -> Gain:
        """Of this one over ``dense``."""
        return Gain(speedup=dense.latency_s / self.latency_s, energy_gain=dense.energy_j / self.energy_j)


def replay(preset: str, networks: Sequence[str] = (), methods: Sequence[str] = ()) -> dict[str, dict[str, Gain]]:
    """Gains over dense of published settings, on the chip that has the preset's name.

    Args:
        preset: of published settings.
        networks: of the preset; none means all.
        methods: of ``METHODS``; none means all.

    Raises:
        UserError: there is no such preset, network or method.
    """
    networks, methods = chosen(preset, networks, methods)
    return gains_over_dense(
        {
            name: {method: inference(preset, name, method) for method in dict.fromkeys(["dense", *methods])}
            for name in networks
        },
        methods,
    )


def inference(preset: str, network: str, method: str, computed: Sequence[Fraction] = ()) -> Inference:
    """One inference from published ratios.

    Args:
        preset, network, method: which.
        computed: of every layer, the share of its patterns that is computed, in the place of the published one.
    """
    chip = load_chip(preset)
    table = load_table(chip.components)
    found = []
    for i, layer in enumerate(published(preset)[network].layers):
        how = METHODS[method]
        if computed:
            how = replace(how, computing=_always(computed[i]))
        counts = replay_layer(layer, how, chip)
        energy = {OU_STEPS: joules(counts, chip, table)}
        found.append(LayerEvents(seconds(counts, chip, table), energy, how.computing(layer)))
    return Inference(tuple(found))


def gains_over_dense(
    inferences: Mapping[str, Mapping[str, Inference]], methods: Sequence[str]
) -> dict[str, dict[str, Gain]]:
    """Of inferences by network and method, dense among them: the gains of some methods."""
    return {
        name: {method: by_method[method].gain_over(by_method["dense"]) for method in methods}
        for name, by_method in inferences.items()
    }


def chosen(preset: str, networks: Sequence[str], methods: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The networks and methods that are asked for; all where none is.

    Raises:
        UserError: there is no such preset, network or method.
    """
    known = list(published(preset))
    for name in networks:
        if name not in known:
            raise UserError(f"no network {name!r} in {preset} ({nearest(name, known)})")
    for method in methods:
        if method not in METHODS:
            raise UserError(f"no method {method!r} ({nearest(method, list(METHODS))})")
    return networks or known, methods or list(METHODS)
