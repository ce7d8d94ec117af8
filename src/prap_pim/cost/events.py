"""Pipelined times by simulation, event by event, beside the formula of ``schedule``.

Every copy of every layer is a process. It takes up one output position after another, as soon as the inputs of its
window are in its tile and its crossbars are free. Its own resources (crossbars, ports, adders) work on a position side
by side, each through with the position before it. Then what the copies of a tile share takes its turn, one position at
a time: the bus that brings its accumulators together, the tile's port for those of other tiles, the digital lanes, and
the port again for the outputs. With ``contention`` activations and accumulators also travel through the mesh, column by
column and then row by row; a link carries one position's at a time, whichever layers they are of. What goes to several
tiles is sent once and parts where their ways part.

What is counted, how long each resource works for a position, and which inputs a position needs are those of
``activity`` and ``schedule``; when it works is found here. Buffers hold whatever arrives.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prap_pim.common.errors import UserError
from prap_pim.cost.activity import LayerActivity, activation_bytes, tile_positions
from prap_pim.cost.schedule import (
    GATHERING,
    SHARED,
    digital_seconds,
    input_shares,
    layer_time,
    needed,
    origins_of,
    position_seconds,
    step_fill,
)
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import ComponentTable
from prap_pim.ir.network import Call, DigitalOp, Layer, Network
from prap_pim.mapping import NetworkMapping

if TYPE_CHECKING:
    import simpy

_STREAM = 3  # inferences, one behind the other: the time between the last two is the interval

Process = Generator["simpy.Event", Any, Any]


@dataclass(frozen=True)
class EventTimes:
    """What came of a simulation.

    Attributes:
        latency_s: of one inference that has the chip to itself.
        interval_s: between two inferences of a stream.
    """

    latency_s: float
    interval_s: float


def simulate(
    network: Network,
    mapping: NetworkMapping,
    counts: Mapping[str, LayerActivity],
    chip: Chip,
    table: ComponentTable,
    contention: bool = True,
) -> EventTimes:
    """Simulate one inference, and a stream of them that come as fast as the busiest layer can take them.

    Args:
        network: its data flow and shapes.
        mapping: where its layers lie.
        counts: what each layer does.
        chip, table: for rates and latencies.
        contention: whether messages of all layers wait for one another on the links of the mesh.

    Raises:
        UserError: the package simpy is not installed.
    """
    try:
        import simpy
    except ImportError as error:
        raise UserError("timing by events needs one more package: pip install 'prap-pim[events]'") from error
    layers = [_Placed.of(layer, network, mapping, counts[layer.name], chip, table) for layer in network.layers]

    shortest = max(layer_time(layer, chip, table).busy_s for layer in counts.values())

    def finished(inferences: int) -> list[float]:
        return _Machine(simpy.Environment(), network, layers, chip, contention, inferences).run(shortest)

    stream = finished(_STREAM)
    return EventTimes(latency_s=finished(1)[0], interval_s=stream[-1] - stream[-2])


@dataclass(frozen=True)
class _Placed:
    """A layer on its tiles.

    Attributes:
        calls: its node, then those that call it again: (name, output positions).
        reading: seconds that each resource of a copy works for one position as its OUs are read.
        gathering: likewise as the sums are gathered afterwards, where the chip does that.
        fill: the way of an OU step through its stages, beyond the slowest one.
        bus, sums, outputs: bits of one position, on the tile's bus, through the first tile's port from other tiles,
            and out of it.
        digital: seconds of one position in a tile's lanes.
        copies, copies_per_tile: of the layer.
        home: the tile of each copy.
        senders: tiles of each copy that send accumulators home.
        readers: tiles that are sent its outputs.
        message: bits of one position to these, with what digital operations in the tile have made of them.
    """

    layer: Layer
    calls: tuple[tuple[str, int], ...]
    reading: Mapping[str, float]
    gathering: Mapping[str, float]
    fill: float
    bus: float
    sums: float
    outputs: float
    digital: float
    copies: int
    copies_per_tile: int
    home: tuple[int, ...]
    senders: tuple[tuple[int, ...], ...]
    readers: tuple[int, ...]
    message: float

    @staticmethod
    def of(
        layer: Layer,
        network: Network,
        mapping: NetworkMapping,
        counts: LayerActivity,
        chip: Chip,
        table: ComponentTable,
    ) -> "_Placed":
        placed, first = mapping.layers[layer.name], mapping.first_tile[layer.name]
        _, beats = position_seconds(counts.busiest, chip, table)
        apart = SHARED + (GATHERING if chip.gathers else ())
        together = tile_positions(layer.positions, np.int64(placed.copies), placed.copies_per_tile)  # in a tile
        share = max(1, counts.rounds) / max(1, int(together))
        home = tuple(first + copy // placed.copies_per_tile * placed.tiles for copy in range(placed.copies))
        outputs = layer.filters * activation_bytes(chip) * 8
        sent = {
            tile: feed.elements
            for name, feeds in mapping.feeds.items()
            for feed in feeds
            if feed.source_tile == first
            for tile in _tiles(mapping, name, feed.digital)
            if tile not in home
        }
        again = ((node.name, node.positions) for node in network if isinstance(node, Call) and node.layer == layer.name)
        return _Placed(
            layer=layer,
            calls=((layer.name, network.first_positions(layer)), *again),
            reading={key: seconds for key, seconds in beats.items() if key not in apart},
            gathering={key: beats[key] for key in GATHERING} if chip.gathers else {},
            fill=step_fill(counts.busiest, chip, table) if beats["crossbars"] else 0.0,
            bus=counts.busiest.merge_bits * share,
            sums=counts.busiest.inter_tile_bits * share - outputs,
            outputs=outputs,
            digital=digital_seconds(counts, chip, table, 1) / max(1, layer.positions),
            copies=placed.copies,
            copies_per_tile=placed.copies_per_tile,
            home=home,
            senders=tuple(tuple(range(tile + 1, tile + placed.tiles)) for tile in home),
            readers=tuple(sorted(sent)),
            message=max(sent.values(), default=0) * activation_bytes(chip) * 8 / max(1, layer.positions),
        )


def _tiles(mapping: NetworkMapping, name: str, digital: bool) -> range:
    """Tiles of a layer that are sent what it reads."""
    first = mapping.first_tile[name]
    return range(first, first + (1 if digital else mapping.layers[name].total_tiles))


class _Server:
    """Works for one after another, in the order in which they come."""

    def __init__(self) -> None:
        self.free = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When the work is done that comes now."""
        self.free = max(now, self.free) + seconds
        return self.free


class _Outputs:
    """Output positions of a node that are done, as many in a row as there are from the first one on."""

    def __init__(self, env: "simpy.Environment", positions: int) -> None:
        self.env, self.positions, self.count = env, positions, 0
        self.done: set[int] = set()
        self.waiting: dict[int, simpy.Event] = {}

    def after(self, count: int) -> "simpy.Event | None":
        """What happens when so many are done; None: they are."""
        return None if count <= self.count else self.waiting.setdefault(count, self.env.event())

    def add(self, position: int) -> None:
        self.done.add(position)
        while self.count in self.done:
            self.done.remove(self.count)
            self.count += 1
            if event := self.waiting.pop(self.count, None):
                event.succeed()


class _Machine:
    """A chip that works on so many inferences, one behind the other."""

    def __init__(
        self,
        env: "simpy.Environment",
        network: Network,
        layers: Sequence[_Placed],
        chip: Chip,
        contention: bool,
        inferences: int,
    ) -> None:
        self.env, self.layers, self.chip, self.contention, self.inferences = env, layers, chip, contention, inferences
        self.origins = origins_of(network)
        self.servers: defaultdict[Any, _Server] = defaultdict(_Server)
        self.outputs = [
            {name: _Outputs(env, positions) for layer in layers for name, positions in layer.calls}
            for _ in range(inferences)
        ]
        nodes = {node.name: node for node in network if not isinstance(node, DigitalOp)}
        self.needs = {
            name: self._needs(nodes[name], layer.layer, positions)
            for layer in layers
            for name, positions in layer.calls
        }
        self.finished = [0.0] * inferences

    def run(self, apart: float) -> list[float]:
        """When each inference has its last output; their inputs come so many seconds apart."""
        for layer in self.layers:
            for copy in range(layer.copies):
                self.env.process(self._copy(layer, copy, apart))
        self.env.run()
        return self.finished

    def _needs(self, node: Layer | Call, layer: Layer, positions: int) -> list[tuple[str, list[int]]]:
        """For each node whose outputs reach another one: how many of them each of its positions needs."""
        shares = input_shares(node, layer, positions)
        counts = {origin: self.outputs[0][origin].positions for origin in self.origins[node.name]}
        return [(origin, needed(shares, count).tolist()) for origin, count in counts.items() if count]

    def _copy(self, layer: _Placed, copy: int, apart: float) -> Process:
        """A copy takes up its positions in turn, of one call and one inference after another."""
        free = dict.fromkeys((*layer.reading, *layer.gathering), 0.0)
        for inference in range(self.inferences):
            yield self._until(inference * apart)
            for name, positions in layer.calls:
                for position in range(copy, positions, layer.copies):
                    for source, counts in self.needs[name]:
                        if event := self.outputs[inference][source].after(counts[position]):
                            yield event
                    if (wait := free["crossbars"] - self.env.now) > 0:
                        yield self.env.timeout(wait)
                    done = self.env.now
                    for stage in (layer.reading, layer.gathering):
                        begin = done
                        for key, seconds in stage.items():
                            free[key] = max(free[key], begin) + seconds
                            done = max(done, free[key])
                    self.env.process(self._finish(layer, copy, done + layer.fill, inference, name, position))

    def _finish(self, layer: _Placed, copy: int, done: float, inference: int, name: str, position: int) -> Process:
        """What the copies of a tile share, and the way of the outputs to those who read them."""
        env, home = self.env, layer.home[copy]
        yield env.timeout(done - env.now)
        port = self.servers["port", home]
        if layer.bus:
            yield self._until(self.servers["bus", home].serve(env.now, layer.bus / self.chip.intra_tile_bits_per_s))
        if senders := layer.senders[copy]:
            if self.contention:
                arrived = max(self._sent(sender, [home], layer.sums / len(senders)) for sender in senders)
                yield self._until(arrived)
            yield self._until(port.serve(env.now, layer.sums / self.chip.inter_tile_bits_per_s))
        yield self._until(self.servers["lanes", home].serve(env.now, layer.digital))
        yield self._until(port.serve(env.now, layer.outputs / self.chip.inter_tile_bits_per_s))
        if self.contention:
            yield self._until(self._sent(home, layer.readers, layer.message))
        self.outputs[inference][name].add(position)
        self.finished[inference] = max(self.finished[inference], env.now)

    def _until(self, then: float) -> "simpy.Event":
        return self.env.timeout(max(0.0, then - self.env.now))

    def _sent(self, tile: int, others: Sequence[int], bits: float) -> float:
        """When a message is in all of several tiles; each link on the way carries it once. Its front runs ahead of it,
        and has passed free links when the tile's port has sent, or takes in, all of it."""
        seconds = bits / self.chip.inter_tile_bits_per_s
        head: dict[int, float] = {tile: self.env.now - seconds}  # when its front reaches a tile
        for other in others:
            for link in _route(tile, other, self.chip.mesh_columns):
                if link[1] not in head:
                    begin = max(head[link[0]], self.servers[link].free)
                    self.servers[link].free = begin + seconds
                    head[link[1]] = begin
        return max(head.values()) + seconds


def _route(tile: int, other: int, columns: int) -> Iterator[tuple[int, int]]:
    """Links from one tile to another: along its row, then along the column."""
    while tile != other:
        across = other % columns - tile % columns
        step = (1 if across > 0 else -1) if across else (columns if other > tile else -columns)
        yield tile, tile + step
        tile += step
