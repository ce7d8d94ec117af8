"""The whole cost of a network plan on a chip: counts, times, energy, area."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.common.notebook import html_table
from prap_pim.common.units import TERA
from prap_pim.cost.activity import LayerActivity, activation_bytes, activity
from prap_pim.cost.adc import conventions
from prap_pim.cost.adc import warnings as adc_warnings
from prap_pim.cost.price import Instances, area, energy, leakage, total
from prap_pim.cost.schedule import LayerTime, builds, layer_time, pipelined_latency
from prap_pim.cost.writes import Writes, in_turns, programming
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import ComponentTable, UsedFigure, load_table
from prap_pim.ir.network import Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.mapping import LayerMapping, Mode, NetworkMapping, map_network, replicate, share_out
from prap_pim.mapping.steps import dense_steps
from prap_pim.results.run import above_dense

_YEAR_S = 365.25 * 24 * 3600

ZeroInput = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Timing:
    """One way of timing: seconds of one inference, inferences per second in a stream of them."""

    latency_s: float
    throughput_per_s: float


@dataclass(frozen=True)
class LayerCost:
    """One layer; counts and energy of one inference.

    Attributes:
        name: the layer.
        activity, time: its counts and times.
        energy_breakdown_j: by component.
        copies: times that it is built.
        crossbars, tiles: of all copies.
        crossbar_ous: of one copy: OUs on a crossbar, and how many crossbars in a row hold so many.
    """

    name: str
    activity: LayerActivity
    time: LayerTime
    energy_breakdown_j: Mapping[str, float]
    copies: int
    crossbars: int
    tiles: int
    crossbar_ous: tuple[tuple[int, int], ...]

    def __repr__(self) -> str:
        times = f"{self.pipelined_latency_s:.4g} s pipelined, {self.serial_latency_s:.4g} s serial"
        return f"LayerCost({self.name}: {self.ou_steps:,} OU steps, {times}, {self.energy_j:.4g} J)"

    @property
    def energy_j(self) -> float:
        """Sum of the breakdown."""
        return total(self.energy_breakdown_j)

    @property
    def serial_latency_s(self) -> float:
        """Nothing overlapping."""
        return self.time.serial_s

    @property
    def pipelined_latency_s(self) -> float:
        """Stages overlapping."""
        return self.time.pipelined_s

    @property
    def ou_steps(self) -> int:
        """OUs x input steps x positions."""
        return self.activity.ou_steps

    @property
    def stored_cells(self) -> int:
        """Cells that are programmed, in all copies."""
        return self.activity.stored_cells

    @property
    def index_stored_bytes(self) -> int:
        """Index that is stored, in all copies."""
        return self.copies * -(-self.activity.index_bits // 8)


@dataclass(frozen=True)
class CostReport:
    """One network plan on one chip.

    Attributes:
        network: what was costed.
        method: that made its plan.
        mode: how it was mapped.
        budget: crossbars that the network might take; None: what each layer takes by itself.
        chip: on what.
        layers: in network order.
        macs: multiplications of one inference of the uncompressed network, whatever the method leaves of them, on
            crossbars and off them: the useful work, so that methods can be compared.
        crossbar_macs: of these, by weights that are on crossbars.
        serial: times if nothing overlaps.
        pipelined: times if stages and layers overlap.
        energy_breakdown_j: of one inference, by component; leakage is not in it.
        area_breakdown_m2: of the crossbars, PEs and tiles that the network takes, by component.
        leakage_breakdown_w: idle power of these, by component; None if the component table says nothing of it.
        cache_bytes: keys and values that are kept; 0 of a network that is costed as a whole.
        conventions: how a conversion is timed and charged, in words.
        figures: every figure of the table, with source.
        warnings: of the chip; that a network is larger than it or packed, or its plan takes more OU steps than dense.
        writes: what programming the cells takes, once or, where the network is larger than the chip, in each inference:
            times and energy are then with it, and crossbars and tiles of layers are more than the chip has.
        mapping: where its layers lie.
    """

    network: str
    method: str
    mode: Mode
    budget: int | None
    chip: Chip
    layers: tuple[LayerCost, ...]
    macs: int
    crossbar_macs: int
    serial: Timing
    pipelined: Timing
    energy_breakdown_j: Mapping[str, float]
    area_breakdown_m2: Mapping[str, float]
    leakage_breakdown_w: Mapping[str, float] | None
    cache_bytes: int
    conventions: tuple[str, ...]
    figures: tuple[UsedFigure, ...]
    warnings: tuple[str, ...]
    writes: Writes
    mapping: NetworkMapping = field(repr=False, compare=False)

    def __repr__(self) -> str:
        what = f"{self.network}, {self.method}, on {self.chip.name}: {len(self.layers)} layers"
        times = f"{self.pipelined.latency_s:.4g} s pipelined, {self.serial.latency_s:.4g} s serial"
        return (
            f"CostReport({what}, {times}, {self.energy_j:.4g} J, {self.area_m2:.4g} m2, {self.crossbars:,} crossbars)"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("latency, pipelined", f"{self.pipelined.latency_s:.4g} s"),
            ("latency, serial", f"{self.serial.latency_s:.4g} s"),
            ("throughput, pipelined", f"{self.pipelined.throughput_per_s:.4g} /s"),
            ("energy", f"{self.energy_j:.4g} J"),
            ("area", f"{self.area_m2:.4g} m²"),
            ("crossbars", f"{self.crossbars:,}"),
            ("OU steps", f"{self.ou_steps:,}"),
            ("multiplications on crossbars", f"{self.crossbar_macs / self.macs:.1%}"),
            ("cells written to program it", f"{self.stored_cells:,}"),
            ("energy of programming", _known(self.programming_j, "J")),
            ("time of programming", _known(self.programming_s, "s")),
        ]
        if self.turns > 1:
            rows += [
                ("turns", f"{self.turns:,}"),
                ("cells written per inference", f"{self.cells_written:,}"),
                ("inferences until cells wear out", _known(self.endured_inferences, "")),
            ]
        caption = f"{self.network} ({self.method}) on {self.chip.name}, for one inference"
        return html_table(caption, ("figure", "value"), rows)

    @property
    def energy_j(self) -> float:
        """Sum of the breakdown."""
        return total(self.energy_breakdown_j)

    @property
    def serial_breakdown_s(self) -> dict[str, float]:
        """What the serial latency is spent on."""
        phases = [layer.time.serial_phases_s for layer in self.layers]
        return {phase: sum(each[phase] for each in phases) for phase in phases[0]}

    @property
    def leakage_w(self) -> float | None:
        """Sum of the breakdown."""
        return None if self.leakage_breakdown_w is None else total(self.leakage_breakdown_w)

    def leakage_energy_j(self, timing: Timing) -> float | None:
        """What the hardware leaks from one inference to the next in a stream of them."""
        return None if self.leakage_w is None else self.leakage_w / timing.throughput_per_s

    @property
    def tops_per_w(self) -> float:
        """Tera-operations per joule, pipelined: two operations to each of ``macs``, over energy and leakage."""
        return 2 * self.macs / (self.energy_j + (self.leakage_energy_j(self.pipelined) or 0.0)) / TERA

    @property
    def area_m2(self) -> float:
        """Sum of the breakdown."""
        return total(self.area_breakdown_m2)

    @property
    def crossbars(self) -> int:
        """Crossbars of all layers."""
        return sum(layer.crossbars for layer in self.layers)

    @property
    def tiles(self) -> int:
        """Tiles of all layers."""
        return sum(layer.tiles for layer in self.layers)

    @property
    def ou_steps(self) -> int:
        """Of one inference."""
        return sum(layer.ou_steps for layer in self.layers)

    @property
    def stored_cells(self) -> int:
        """Cells that are programmed, in all copies."""
        return sum(layer.stored_cells for layer in self.layers)

    @property
    def programming_j(self) -> float | None:
        """Joules of writing all stored cells once; None: the component table does not say (``writes.unknown``)."""
        return self.writes.energy_j

    @property
    def programming_s(self) -> float | None:
        """Seconds of it; None likewise."""
        return self.writes.time_s

    @property
    def unknown_writes(self) -> list[str]:
        """Figures of writing that the component table lacks."""
        return list(self.writes.unknown)

    @property
    def turns(self) -> int:
        """Turns in which layers are written and computed; 1: all fit the chip."""
        return self.writes.turns

    @property
    def cells_written(self) -> int:
        """In every inference; 0 of a network that fits the chip."""
        return self.writes.per_inference

    @property
    def endured_inferences(self) -> float | None:
        """Until the cells are worn out; None: the table has no endurance, or nothing is written."""
        return self.writes.inferences if self.cells_written else None

    def years(self, rate_per_s: float) -> float | None:
        """That cells last at so many inferences a second: infinite if the network fits the chip; None: the component
        table has no endurance.

        Raises:
            UserError: the rate is no number above 0.
        """
        number = isinstance(rate_per_s, int | float | np.number) and not isinstance(rate_per_s, bool)
        if not (number and 0 < rate_per_s < np.inf):
            raise UserError(f"rate_per_s must be inferences a second, a number above 0, not {rate_per_s!r}")
        inferences = self.writes.inferences
        return None if inferences is None else inferences / rate_per_s / _YEAR_S

    @property
    def copies(self) -> dict[str, int]:
        """Times that each layer is built."""
        return {layer.name: layer.copies for layer in self.layers}

    @property
    def copy_crossbars(self) -> dict[str, int]:
        """Crossbars of one copy of each layer."""
        return {layer.name: layer.crossbars // layer.copies for layer in self.layers}

    @property
    def index_stored_bytes(self) -> int:
        """Index that is stored, in all copies."""
        return sum(layer.index_stored_bytes for layer in self.layers)

    @property
    def index_read_bytes(self) -> int:
        """Index that is read in one inference."""
        return sum(layer.activity.index_read_bytes for layer in self.layers)

    @property
    def partial_sum_bytes(self) -> int:
        """Accumulators read and written in one inference."""
        return sum(
            layer.activity.partial_sum_read_bytes + layer.activity.partial_sum_write_bytes for layer in self.layers
        )


def cost(
    network: Network,
    plan: NetworkPlan,
    chip: Chip,
    mode: Mode = "spread",
    table: ComponentTable | None = None,
    crossbars: int | None = None,
    zero_input: ZeroInput | None = None,
    spread_idle: bool = True,
) -> CostReport:
    """Map a network plan on a chip and count, time and price one inference.

    Args:
        network: shapes and data flow.
        plan: what is stored and computed, whatever method made it.
        chip: hardware and conventions.
        mode: see ``map_network``; layers that are to be spread are packed where the chip is too small for that.
        table: component figures instead of the chip's own.
        crossbars: a budget for the whole network: each layer on its fewest crossbars, and the rest spent on copies of
            the layers that hold up the pipeline (``share_out``), and on wider ones of those that have a copy for every
            position.
        zero_input: for every layer, the share of (position, input step) pairs in which the input bits of each row group
            of its plan are all 0 (float64 [G]): these OU steps are skipped. None: nothing is skipped.
        spread_idle: under a budget, in mode "spread": False leaves every copy on the fewest crossbars.

    Raises:
        UserError: plan and network do not belong together, the chip or the budget is too small, a component lacks a
            figure, or ``zero_input`` does not fit the plan.
    """
    table = table or load_table(chip.components)
    if zero_input is not None:
        for layer in network.layers:
            if layer.name not in zero_input:
                raise UserError(f"layer {layer.name}: no zero-input shares were measured for it")
    mapping = map_network(network, plan, chip, mode, crossbars)
    lack, packed = mapping.shortage(network, chip), ""
    if lack and mode == "spread" and crossbars is None:  # on fewer crossbars, which take longer, it may fit
        mode, packed = "pack", f"{lack} if its layers are spread: they are packed"
        mapping = map_network(network, plan, chip, mode)
        lack = mapping.shortage(network, chip)
    if crossbars is not None and not lack:
        spread = spread_idle and mode == "spread"
        mapping = _within(crossbars, network, mapping, chip, table, zero_input, spread)
    counts = activities(network, mapping, chip, zero_input)

    layers = tuple(_layer_cost(counts[name], placed, chip, table) for name, placed in mapping.layers.items())
    instances = _instances(mapping, layers, chip)
    times = {layer.name: layer.time for layer in layers}
    serial_s = sum(time.serial_s for time in times.values())
    serial = Timing(serial_s, 1 / serial_s)
    pipelined = Timing(pipelined_latency(network, times), 1 / max(time.busy_s for time in times.values()))
    writes, warnings = (
        programming(mapping, chip, table),
        (*adc_warnings(chip, table), *([packed] if packed and not lack else [])),
    )
    if lack:
        writes, *seconds = in_turns(writes, network, mapping, counts, chip, table)
        serial, pipelined = (Timing(each, 1 / each) for each in seconds)
        layers = tuple(_written(layer, writes) for layer in layers)
        instances = instances.at_most(chip)
        warnings = (*warnings, f"{lack}: layers are written in {writes.turns} turns, anew in every inference")
    return CostReport(
        network=network.name,
        method=plan.method,
        mode=mode,
        budget=crossbars,
        chip=chip,
        layers=layers,
        macs=network.macs,
        crossbar_macs=network.crossbar_macs,
        serial=serial,
        pipelined=pipelined,
        energy_breakdown_j={
            component: sum(layer.energy_breakdown_j[component] for layer in layers)
            for component in layers[0].energy_breakdown_j
        },
        area_breakdown_m2=area(instances, chip, table),
        leakage_breakdown_w=leakage(instances, chip, table),
        cache_bytes=sum(op.cached for op in network.digital) * activation_bytes(chip),
        conventions=conventions(chip, table),
        figures=tuple(table.figures.values()),
        warnings=(*warnings, *filter(None, [_above_dense(network, plan.method, layers, chip)])),
        writes=writes,
        mapping=mapping,
    )


def _instances(mapping: NetworkMapping, layers: tuple[LayerCost, ...], chip: Chip) -> Instances:
    """What a mapped network takes."""
    return Instances(
        crossbars=mapping.crossbars,
        pes=sum(placed.total_pes for placed in mapping.layers.values()),
        tiles=mapping.tiles,
        index_bytes=sum(layer.index_stored_bytes for layer in layers),
        dot_register_bytes=sum(layer.crossbars * layer.activity.dot_register_bytes for layer in layers),
        memory_bytes=sum(layer.activity.memory_bytes for layer in layers),
        adc_groups=sum(
            layer.copies * -(-layer.crossbars // layer.copies // chip.crossbars_per_adc) for layer in layers
        ),
    )


def _written(layer: LayerCost, writes: Writes) -> LayerCost:
    """With the energy of writing it in every inference."""
    joules = (writes.energy_j or 0.0) * layer.stored_cells / max(1, writes.cells)
    return replace(layer, energy_breakdown_j={**layer.energy_breakdown_j, "cell": joules})


def _known(value: float | None, unit: str) -> str:
    return "n/a" if value is None else f"{value:.4g} {unit}".rstrip()


def _above_dense(network: Network, method: str, layers: Iterable[LayerCost], chip: Chip) -> str:
    dense = {layer.name: dense_steps(layer, chip.grain) for layer in network.layers}
    return above_dense(method, {layer.name: (layer.ou_steps, dense[layer.name]) for layer in layers})


def _within(
    budget: int,
    network: Network,
    mapping: NetworkMapping,
    chip: Chip,
    table: ComponentTable,
    zero_input: ZeroInput | None,
    spread: bool,
) -> NetworkMapping:
    """A mapping on the fewest crossbars with what the budget leaves spent on copies and, if ``spread``, wider ones."""
    ways = {
        layer.name: builds(
            mapping.layers[layer.name],
            layer,
            chip,
            table,
            budget - mapping.crossbars + mapping.layers[layer.name].crossbars,
            mapping.digital_ops[layer.name],
            None if zero_input is None else zero_input[layer.name],
            spread,
        )
        for layer in network.layers
    }
    best = share_out(ways, budget, chip.max_tiles)
    copies = {name: int(ways[name].copies[way]) for name, way in best.items()}
    copy_crossbars = {name: int(ways[name].copy_crossbars[way]) for name, way in best.items()}
    return replicate(network, mapping, chip, copies, copy_crossbars)


def _layer_cost(counts: LayerActivity, placed: LayerMapping, chip: Chip, table: ComponentTable) -> LayerCost:
    return LayerCost(
        name=counts.name,
        activity=counts,
        time=layer_time(counts, chip, table),
        energy_breakdown_j=energy(counts, chip, table),
        copies=placed.copies,
        crossbars=placed.total_crossbars,
        tiles=placed.total_tiles,
        crossbar_ous=tuple((load, len(list(alike))) for load, alike in groupby(placed.ous_per_crossbar.tolist())),
    )


def activities(
    network: Network, mapping: NetworkMapping, chip: Chip, zero_input: ZeroInput | None = None
) -> dict[str, LayerActivity]:
    """The counts of every layer of a mapped network, by name; ``zero_input`` as for ``cost``."""
    return {
        layer.name: activity(
            mapping.layers[layer.name],
            layer,
            chip,
            mapping.first_tile[layer.name],
            mapping.feeds[layer.name],
            mapping.digital_ops[layer.name],
            None if zero_input is None else zero_input[layer.name],
        )
        for layer in network.layers
    }
