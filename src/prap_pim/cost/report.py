"""The whole cost of a network plan on a chip: counts, times, energy, area."""

from collections.abc import Mapping
from dataclasses import dataclass

from prap_pim.chip import Chip
from prap_pim.cost.activity import LayerActivity, activity
from prap_pim.cost.price import Instances, area, energy, leakage, total
from prap_pim.cost.schedule import LayerTime, layer_time, pipelined_latency
from prap_pim.cost.table import ComponentTable, UsedFigure, load_table
from prap_pim.mapping import Mode, map_network
from prap_pim.network import Network
from prap_pim.plan import NetworkPlan


@dataclass(frozen=True)
class Timing:
    """One way of timing: seconds of one inference, inferences per second in a stream of them."""

    latency_s: float
    throughput_per_s: float


@dataclass(frozen=True)
class LayerCost:
    """One layer; counts and energy of one inference."""

    name: str
    activity: LayerActivity
    time: LayerTime
    energy_breakdown_j: Mapping[str, float]  # by component
    crossbars: int
    tiles: int

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
        """Cells that are programmed."""
        return self.activity.stored_cells


@dataclass(frozen=True)
class CostReport:
    """One network plan on one chip.

    Attributes:
        network, method, mode: what was costed, and how it was mapped.
        chip: on what.
        layers: in network order.
        serial, pipelined: the two ways of timing.
        energy_breakdown_j: of one inference, by component; leakage is not in it.
        area_breakdown_m2: of the crossbars, PEs and tiles that the network takes, by component.
        leakage_w: idle power of these; None if the component table has none.
        figures: every figure of the table, with source.
        warnings: of the chip.
    """

    network: str
    method: str
    mode: Mode
    chip: Chip
    layers: tuple[LayerCost, ...]
    serial: Timing
    pipelined: Timing
    energy_breakdown_j: Mapping[str, float]
    area_breakdown_m2: Mapping[str, float]
    leakage_w: float | None
    figures: tuple[UsedFigure, ...]
    warnings: tuple[str, ...]

    @property
    def energy_j(self) -> float:
        """Sum of the breakdown."""
        return total(self.energy_breakdown_j)

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
        """Cells that are programmed."""
        return sum(layer.stored_cells for layer in self.layers)


def cost(
    network: Network,
    plan: NetworkPlan,
    chip: Chip,
    mode: Mode = "spread",
    table: ComponentTable | None = None,
) -> CostReport:
    """Map a network plan on a chip and count, time and price one inference.

    Args:
        network: shapes and data flow.
        plan: what is stored and computed, whatever method made it.
        chip: hardware and conventions.
        mode: see ``map_layer``.
        table: component figures instead of the chip's own.

    Raises:
        UserError: plan and network do not belong together, the chip is too small, or a component lacks a figure.
    """
    table = table or load_table(chip.components)
    mapping = map_network(network, plan, chip, mode)
    layers = []
    pes = index_bytes = 0
    for layer in network.layers:
        name, placed = layer.name, mapping.layers[layer.name]
        counts = activity(placed, layer, chip, mapping.first_tile[name], mapping.feeds[name], mapping.digital_ops[name])
        layers.append(
            LayerCost(
                name=name,
                activity=counts,
                time=layer_time(counts, chip, table),
                energy_breakdown_j=energy(counts, chip, table),
                crossbars=placed.crossbars,
                tiles=placed.tiles,
            )
        )
        pes += placed.pes
        index_bytes += -(-counts.index_bits // 8)
    instances = Instances(mapping.crossbars, pes, mapping.tiles, index_bytes)
    times = {layer.name: layer.time for layer in layers}
    serial_s = sum(time.serial_s for time in times.values())
    return CostReport(
        network=network.name,
        method=plan.method,
        mode=mode,
        chip=chip,
        layers=tuple(layers),
        serial=Timing(serial_s, 1 / serial_s),
        pipelined=Timing(pipelined_latency(network, times), 1 / max(time.busy_s for time in times.values())),
        energy_breakdown_j={
            component: sum(layer.energy_breakdown_j[component] for layer in layers)
            for component in layers[0].energy_breakdown_j
        },
        area_breakdown_m2=area(instances, chip, table),
        leakage_w=leakage(instances, chip, table),
        figures=tuple(table.figures.values()),
        warnings=chip.warnings,
    )
