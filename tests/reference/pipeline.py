"""A chip that works on a network as a discrete-event simulation: every load, OU step and message takes its turn.

Written from the description of the machine. Crossbars are placed and counted by ``machine``; windows are sets of input
positions, looked up one by one. A crossbar's inputs are loaded a run ahead through the port of its PE; an OU step goes
through its stages, each busy with one step at a time; finished donors are added, use by use, through the adder of the
crossbar and the PE's partial-sum buffer. When all of a position's uses are added, its accumulators go over the tile's
bus and from other tiles to the first one, its digital work is done, and its outputs leave. Nothing is held up but by
what is in its way. For layers of one copy that scatter; links between tiles are free.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import ceil

import simpy

from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import DigitalOp, Layer, Network
from prap_pim.ir.plan import LayerPlan
from tests.reference.machine import crossbars_of, ous_of, simulate

STAGES = ("input_register", "row_decoder", "dac", "crossbar", "column_mux", "adc", "shift_add")
Process = Iterator[simpy.Event]


class Server:
    """Serves who comes, in turn."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env, self.free = env, 0.0

    def work(self, seconds: float) -> simpy.Event:
        self.free = max(self.free, self.env.now) + seconds
        return self.env.timeout(self.free - self.env.now)


def window(layer: Layer, position: int) -> set[int]:
    """Input positions, in raster order, that an output position of a 2-D convolution reads."""
    (_, rows, columns), (_, _, width) = layer.input_shape, layer.output_shape
    y, x = divmod(position, width)
    found = set()
    for ky, kx in product(range(layer.weight.shape[2]), range(layer.weight.shape[3])):
        row = y * layer.stride[0] - layer.padding[0] + ky * layer.dilation[0]
        column = x * layer.stride[1] - layer.padding[1] + kx * layer.dilation[1]
        if 0 <= row < rows and 0 <= column < columns:
            found.add(row * columns + column)
    return found


def finish_times(
    network: Network, plans: Mapping[str, LayerPlan], chip: Chip, latency: dict[str, float], inferences: int
) -> list[float]:
    """When each of several inferences, whose inputs are all there, has its last output; seconds."""
    env = simpy.Environment()
    done: dict[tuple[int, str], list[simpy.Event]] = {}  # an event for every output position
    ends = [0.0] * inferences
    for inference in range(inferences):
        for node in network:
            if isinstance(node, Layer):
                done[inference, node.name] = [env.event() for _ in range(node.positions)]
            elif node.op == "input":
                done[inference, node.name] = []
            else:  # position by position
                each = zip(*(done[inference, source] for source in node.sources), strict=True)
                done[inference, node.name] = [simpy.AllOf(env, events) for events in each]
    for node in network:
        if isinstance(node, Layer):
            ops = sum(op.input_elements if op.op == "relu" else op.output_elements for op in done_in(network, node))
            OfLayer(env, node, plans[node.name], chip, latency, done, ends, ops).start(inferences)
    env.run()
    return ends


def done_in(network: Network, layer: Layer) -> list[DigitalOp]:
    """Digital operations in a layer's tile: whose last source, in network order, is the layer or an operation there."""
    order, home = [each.name for each in network.layers], {}
    for node in network:
        places = [home[source] for source in node.sources if home[source]]
        home[node.name] = node.name if isinstance(node, Layer) else max(places, key=order.index, default=None)
    return [op for op in network.digital if home[op.name] == layer.name and op.op != "input"]


class OfLayer:
    """The crossbars of a layer, and what they share."""

    def __init__(
        self,
        env: simpy.Environment,
        layer: Layer,
        plan: LayerPlan,
        chip: Chip,
        latency: dict[str, float],
        done: dict[tuple[int, str], list[simpy.Event]],
        ends: list[float],
        digital_ops: int,
    ) -> None:
        self.env, self.layer, self.plan, self.chip, self.latency = env, layer, plan, chip, latency
        self.done, self.ends = done, ends
        self.placed = crossbars_of(plan, chip, "spread")
        _, self.counts = simulate(plan, replace(layer, output_shape=(layer.filters, 1, 1)), chip, "spread")
        outputs = layer.filters * layer.positions
        self.digital_s = (digital_ops + outputs) / chip.digital_lanes / chip.clock_hz / layer.positions
        pes = range(ceil(len(self.placed) / chip.crossbars_per_pe))
        self.ports = {(what, pe): Server(env) for what in ("input", "sums", "index") for pe in pes}
        self.bus, self.link, self.lanes = Server(env), Server(env), Server(env)
        self.last_ou = {d: number for number, (_, columns) in enumerate(ous_of(plan, chip)) for d in columns}

    def start(self, inferences: int) -> None:
        work = [(i, p) for i in range(inferences) for p in range(self.layer.positions)]
        self.left = {each: simpy.Container(self.env, init=0) for each in work}
        number = 0
        for at, ous in enumerate(self.placed):
            loaded: simpy.Store = simpy.Store(self.env, capacity=2)
            self.env.process(self.load(at, ous, loaded, work))
            self.env.process(self.walk(at, ous, loaded, work, number))
            number += len(ous)
        for each in work:
            self.env.process(self.finish(*each))

    def inputs(self, inference: int, position: int) -> simpy.Event:
        """Happens when the window is there."""
        events = []
        for source in self.layer.sources:
            if outputs := self.done[inference, source]:
                reads = window(self.layer, position) if self.layer.kind == "conv" else range(len(outputs))
                events += [outputs[each] for each in reads]
        return simpy.AllOf(self.env, events)

    def load(self, at: int, ous: list, loaded: simpy.Store, work: list) -> Process:
        """Inputs of a crossbar's runs, one run ahead."""
        port = self.ports["input", at // self.chip.crossbars_per_pe]
        for inference, position in work:
            yield self.inputs(inference, position)
            held = None
            for group, _ in ous:
                if group != held:
                    held = group
                    bits = int((self.plan.rows[group] >= 0).sum()) * self.chip.grain.input_bits
                    yield port.work(ceil(bits / self.chip.buffer_port_bits) * self.latency["input_buffer"])
                    yield loaded.put(group)
            if not ous:
                yield loaded.put(None)

    def walk(self, at: int, ous: list, loaded: simpy.Store, work: list, number: int) -> Process:
        """OU steps, each through all stages."""
        rounds = ceil(self.chip.grain.ou_columns / self.chip.adcs_per_crossbar)
        reads = 1 if self.chip.sample_and_hold else rounds
        seconds = [self.latency[stage] * (reads if stage in STAGES[:4] else rounds) for stage in STAGES]
        free, adder, register = [0.0] * len(STAGES), Server(self.env), Server(self.env)
        for inference, position in work:
            held = None
            if not ous:
                yield loaded.get()
            added = []
            for step, (group, columns) in enumerate(ous):
                if group != held:
                    held = yield loaded.get()
                ended = self.env.now
                for _ in range(ceil(self.chip.grain.input_bits / self.chip.grain.dac_bits)):
                    ended = self.env.now
                    for stage, duration in enumerate(seconds):
                        ended = free[stage] = max(free[stage], ended) + duration
                    yield self.env.timeout(max(0.0, max(free) - sum(seconds) - self.env.now))  # a few steps in flight
                finished = [donor for donor in dict.fromkeys(columns) if self.last_ou[donor] == number + step]
                added.append(self.env.process(self.add(at, ended, finished, register, adder)))
            self.env.process(self.counted(added, inference, position))

    def counted(self, added: list, inference: int, position: int) -> Process:
        yield simpy.AllOf(self.env, added)
        yield self.left[inference, position].put(1)

    def add(self, at: int, ended: float, donors: list[int], register: Server, adder: Server) -> Process:
        """The dot products of an OU into the accumulators of those that use them."""
        yield self.env.timeout(ended - self.env.now)
        yield register.work(self.latency["output_register"])
        port = self.ports["sums", at // self.chip.crossbars_per_pe]
        for use, donor in enumerate(self.plan.use_donor):
            if donor in donors:
                shifted = 2 if self.plan.use_exponent[use] != 0 else 1
                yield adder.work(shifted * self.latency["accumulator"])
                yield port.work(2 * self.latency["partial_sum_buffer"])

    def finish(self, inference: int, position: int) -> Process:
        """What is done once all crossbars are through with a position."""
        yield self.left[inference, position].get(len(self.placed))
        leaving = self.layer.filters * ceil(self.chip.grain.input_bits / 8) * 8
        yield self.bus.work(self.counts["merge_bits"] / self.chip.intra_tile_bits_per_s)
        yield self.link.work((self.counts["inter_tile_bits"] - leaving) / self.chip.inter_tile_bits_per_s)
        yield self.lanes.work(self.digital_s)
        yield self.link.work(leaving / self.chip.inter_tile_bits_per_s)
        self.done[inference, self.layer.name][position].succeed()
        self.ends[inference] = max(self.ends[inference], self.env.now)
