"""From counts to seconds, two ways.

Serial: nothing overlaps, as in the PRAP authors' model. A position of a layer takes its crossbars' walk, then the
transfers through each shared port, one phase after another; every phase is as long as its busiest resource. Layers
run one after another.

Pipelined: the stages of an OU step work on consecutive steps at once, so that a step costs its slowest stage; ports,
links and digital lanes work beside them (small queues decouple them), so a position costs its busiest resource; layers
overlap: a layer starts as soon as its first window of inputs is there. On chips that gather partial sums, a position's
uses are read, shifted and added, a stage each, while the OUs of the next one are read.

Copies of a layer do as many positions at once, in rounds; ports and links that they share work for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.memory import check_room
from prap_pim.cost.activity import Busiest, LayerActivity, activity, tile_positions
from prap_pim.cost.adc import conversion_time
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import ComponentTable
from prap_pim.ir.network import Call, DigitalOp, Layer, Network
from prap_pim.mapping import Builds, LayerMapping, map_layer

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class LayerTime:
    """Times of one layer, in seconds.

    Attributes:
        serial_s: one inference, nothing overlapping.
        serial_phases_s: its parts; they sum to ``serial_s``.
        pipelined_s: one inference with its inputs all there: ``busy_s + fill_s``.
        busy_s: what the layer takes of each inference in a stream of them.
        fill_s: the way of the first OU step through its stages; where sums are gathered, the shorter of reading the OUs
            of a position and gathering them as well.
        bottleneck: the resource that sets ``busy_s``.
        rounds: positions done one after another, each in a copy of the layer.
    """

    serial_s: float
    serial_phases_s: Mapping[str, float]
    pipelined_s: float
    busy_s: float
    fill_s: float
    bottleneck: str
    rounds: int


_ROUNDING = 1e-9  # of a number of outputs
_MANY = 1 << 20  # positions, of which ...
_ARRAYS = 6  # ... so many arrays of 8 bytes each are held at once, about
SHARED = ("intra-tile links", "inter-tile links")  # by the copies of a layer in one tile
GATHERING = ("dot registers", "accumulators", "adder trees", "partial-sum buffers", "index buffers")


def layer_time(activity: LayerActivity, chip: Chip, table: ComponentTable) -> LayerTime:
    """Time one layer from its counts."""
    return time_positions(
        activity.busiest, activity.rounds, digital_seconds(activity, chip, table, activity.output_tiles), chip, table
    )


def digital_seconds(activity: LayerActivity, chip: Chip, table: ComponentTable, tiles: int) -> float:
    """Seconds of digital work that ``tiles`` tiles share: of the lanes, or of the memory that brings what they read."""
    lanes = (activity.digital_ops + activity.outputs) / (chip.digital_lanes * chip.clock_hz)
    return max(lanes, activity.memory_accesses * table("digital_memory", "latency")) / tiles


def time_positions(busiest: Busiest, positions: int, digital_s: float, chip: Chip, table: ComponentTable) -> LayerTime:
    """Time ``positions`` output positions one after another.

    Args:
        busiest: per position.
        positions: done by one copy of the layer.
        digital_s: seconds of digital work in one inference.
        chip, table: for rates and latencies.
    """
    serial, beats = position_seconds(busiest, chip, table)
    phases = {key: value * positions for key, value in serial.items()} | {"digital": digital_s}
    busy = {key: value * positions for key, value in beats.items()} | {"digital": digital_s}
    bottleneck = max(busy, key=lambda key: busy[key])
    fill = step_fill(busiest, chip, table) if beats["crossbars"] else 0.0
    if chip.gathers:
        fill += min(beats["crossbars"], max(beats[key] for key in GATHERING))
    return LayerTime(
        serial_s=sum(phases.values()),
        serial_phases_s=phases,
        pipelined_s=busy[bottleneck] + fill,
        busy_s=busy[bottleneck],
        fill_s=fill,
        bottleneck=bottleneck,
        rounds=positions,
    )


def position_seconds(busiest: Busiest, chip: Chip, table: ComponentTable) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds that each resource works for one position: with the stages of an OU step in turn, and overlapping."""
    stages = ou_step_stages(chip, table, busiest).values()
    steps = busiest.ous * chip.grain.input_steps if busiest.steps is None else busiest.steps
    resources = {
        "output registers": busiest.ous * table("output_register", "latency"),
        "accumulators": (busiest.updates + busiest.shifted_updates) * table("accumulator", "latency"),
        "partial-sum buffers": busiest.partial_sum_accesses * table("partial_sum_buffer", "latency"),
        "input buffers": busiest.input_accesses * table("input_buffer", "latency"),
        "index buffers": busiest.index_accesses * table("index_buffer", "latency"),
        "intra-tile links": busiest.merge_bits / chip.intra_tile_bits_per_s,
        "inter-tile links": busiest.inter_tile_bits / chip.inter_tile_bits_per_s,
    }
    overlapping = resources
    if chip.gathers:
        resources["dot registers"] = busiest.updates * table("dot_register", "latency")
        resources["adder trees"] = busiest.gathered * table("accumulator", "latency")
        overlapping = resources | {"accumulators": busiest.updates * table("accumulator", "latency")}  # while shifting
    return {"crossbars": steps * sum(stages), **resources}, {"crossbars": steps * max(stages), **overlapping}


def builds(
    mapping: LayerMapping,
    layer: Layer,
    chip: Chip,
    table: ComponentTable,
    crossbars: int,
    digital_ops: tuple[DigitalOp, ...] = (),
    zero_input: Float64 | None = None,
    spread_idle: bool = False,
) -> Builds:
    """The ways of building a layer with at most so many crossbars, and how fast each is.

    Copies as ``mapping`` has one, up to one for each position. Then, with ``spread_idle``, so many copies on more
    crossbars each, in steps of the root of two, up to one OU on each. Takes the time of ``activity`` for each width.

    Args:
        mapping: one copy.
        layer: for its shapes.
        chip, table: for sizes, rates and latencies.
        crossbars: of all copies; at least those of one.
        digital_ops, zero_input: see ``activity``.
        spread_idle: whether to put copies on more crossbars than ``mapping`` has.
    """
    positions = layer.positions
    alone = activity(mapping, layer, chip, digital_ops=digital_ops, zero_input=zero_input)
    digital_s = digital_seconds(alone, chip, table, 1)
    copies = np.arange(1, min(crossbars // mapping.crossbars, max(1, positions)) + 1)
    found = [_build(mapping, alone.busiest, positions, copies, digital_s, chip, table)]
    widest = min(crossbars // max(1, positions), mapping.ous)
    if spread_idle and widest > mapping.crossbars:
        steps = np.arange(1, 2 * (widest // mapping.crossbars).bit_length() + 1)
        widths = np.unique(np.minimum(np.ceil(mapping.crossbars * 2 ** (steps / 2)), widest).astype(np.int64))
        for width in widths.tolist():
            wide = map_layer(mapping.plan, chip, width)
            busiest = activity(wide, layer, chip, zero_input=zero_input).busiest
            found.append(_build(wide, busiest, positions, copies[-1:], digital_s, chip, table))
    return Builds.sifted(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _build(
    mapping: LayerMapping,
    busiest: Busiest,
    positions: int,
    copies: Int64,
    digital_s: float,
    chip: Chip,
    table: ComponentTable,
) -> tuple[Int64, Int64, Int64, Float64, Float64]:
    """What so many copies take and bring, in the order of ``Builds``; ``digital_s`` on one tile."""
    rounds = -(-positions // copies)
    together = tile_positions(positions, copies, mapping.copies_per_tile)
    output_tiles = -(-copies // mapping.copies_per_tile)
    digital = digital_s / output_tiles
    serial, beats = position_seconds(busiest, chip, table)
    own = [key for key in beats if key not in SHARED]
    return (
        copies,
        np.full(len(copies), mapping.crossbars),
        output_tiles * mapping.tiles,
        np.maximum.reduce(
            [rounds * max(beats[key] for key in own), together * max(beats[key] for key in SHARED), digital]
        ),
        rounds * sum(serial[key] for key in own) + together * sum(serial[key] for key in SHARED) + digital,
    )


def ou_step_stages(chip: Chip, table: ComponentTable, busiest: Busiest | None = None) -> dict[str, float]:
    """Seconds that each stage works in one OU step: the driving ones for every read, the others for every round.

    The steps of an input may have unequally many pulses: this is their mean. Rounds of conversions and pulses are those
    of the chip's own weights and inputs, unless ``busiest`` says others; crossbars that share converters wait for each
    other's.
    """
    rounds, pulses = (busiest.rounds, busiest.pulses) if busiest is not None else (None, None)
    reads = chip.reads_per_step * (pulses or chip.input_pulses(chip.dac_time) / chip.grain.input_steps)
    rounds = (rounds or chip.conversion_rounds) * chip.crossbars_per_adc
    return {
        "input register": reads * table("input_register", "latency"),
        "row decoder": reads * table("row_decoder", "latency"),
        "DAC": reads * table("dac", "latency"),
        "crossbar": reads * table("crossbar", "latency"),
        "column mux": rounds * table("column_mux", "latency"),
        "ADC": rounds * conversion_time(chip, table),
        "shift and add": rounds * table("shift_add", "latency"),
    }


def step_fill(busiest: Busiest, chip: Chip, table: ComponentTable) -> float:
    """Seconds of an OU step's way through its stages, beyond the slowest one."""
    stages = ou_step_stages(chip, table, busiest).values()
    return sum(stages) - max(stages)


def pipelined_latency(network: Network, times: Mapping[str, LayerTime]) -> float:
    """Seconds from the first input to the last output of one inference, layers overlapping.

    Position by position: a copy of a layer, dealt every so many positions, begins one when the inputs of its window are
    there and the one before it is done. So a layer that waits for its inputs still has a row of positions to do when
    the last of them come, where its windows reach over rows. Digital operations pass data on (their work is in their
    layer's time).
    """
    done: dict[str, Float64] = {}  # when each output position is
    free: dict[str, float] = {}  # when a layer's crossbars have done all calls so far
    layers = {layer.name: layer for layer in network.layers}
    origins = origins_of(network)
    for node in network:
        if isinstance(node, DigitalOp):
            continue
        layer = node if isinstance(node, Layer) else layers[node.layer]
        positions = network.first_positions(node) if isinstance(node, Layer) else node.positions
        if positions > _MANY:
            check_room(8 * _ARRAYS * positions, f"layer {layer.name}: to time its {positions:,} positions")
        time = times[layer.name]
        copies = max(1, -(-layer.positions // max(1, time.rounds)))
        beat = time.busy_s / max(1, time.rounds)
        shares = input_shares(node, layer, positions)
        ready = np.full(positions, free.get(layer.name, 0.0))
        for origin in origins[node.name]:
            if len(done[origin]):
                ready = np.maximum(ready, done[origin][needed(shares, len(done[origin])) - 1])
        dealt = np.append(ready, np.zeros(-positions % copies)).reshape(-1, copies)  # [round, copy]
        after = beat * np.arange(len(dealt))[:, None]
        ends = (np.maximum.accumulate(dealt - after, axis=0) + after + beat).ravel()[:positions]
        done[node.name] = ends + time.fill_s
        free[layer.name] = float(ends.max(initial=0.0))
    return max((float(each.max(initial=0.0)) for each in done.values()), default=0.0)


def input_shares(node: Layer | Call, layer: Layer, positions: int) -> Float64:
    """The share of a node's inputs, in raster order, that each of its output positions needs, together with those
    before it, float64 [positions]; 0..1.

    Positions beyond those of one map are those of further maps, one after another. A layer that is called again, on a
    map of another size perhaps, needs all inputs of that call.
    """
    if isinstance(node, Call):
        return np.ones(positions)
    own = max(1, layer.map_positions)
    one = np.arange(1, own + 1) / own
    if layer.kind == "conv":
        space = layer.input_shape[1:]
        place = np.unravel_index(np.arange(own), layer.output_shape[1:])
        each = zip(place, layer.stride, layer.padding, layer.reach, space, strict=True)
        last = [np.clip(at * step - pad + reach - 1, 0, size - 1) for at, step, pad, reach, size in each]
        one = (np.maximum.accumulate(np.ravel_multi_index(last, space)) + 1) / prod(space)
    maps = -(-positions // own)
    return ((np.arange(max(1, maps))[:, None] + one) / max(1, maps)).ravel()[:positions]  # [map, position of it]


def needed(shares: Float64, count: int) -> Int64:
    """Of ``count`` outputs, how many make up a share, 1..count; a share of 0.3 is 3 of 10, however floats round."""
    return np.clip(np.ceil(shares * count - _ROUNDING), 1, count).astype(np.int64)


def origins_of(network: Network) -> dict[str, tuple[str, ...]]:
    """By node: the layers and calls whose outputs it reads, through digital operations."""
    found: dict[str, tuple[str, ...]] = {}
    digital = {op.name for op in network.digital}
    for node in network:
        through = [found[source] if source in digital else (source,) for source in node.sources]
        found[node.name] = tuple(dict.fromkeys(origin for each in through for origin in each))
    return found
