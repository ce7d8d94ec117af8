"""From counts to joules and square metres. Each line says what a figure is charged for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from prap_pim.cost.activity import LayerActivity
from prap_pim.cost.adc import conversion_energy, converter_area, converter_leakage
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import ComponentTable

# (component, figure, the count of LayerActivity that it is charged for); the ADC has its conventions in adc.py
ENERGY = (
    ("dac", "energy_per_drive", "row_drives"),
    ("crossbar", "energy_per_cell_read", "cell_reads"),
    ("input_register", "energy_per_drive", "row_drives"),
    ("input_register", "energy_per_byte_loaded", "input_register_bytes"),
    ("shift_add", "energy_per_conversion", "shift_adds"),
    ("output_register", "energy_per_write", "output_register_writes"),
    ("accumulator", "energy_per_add", "use_additions"),
    ("accumulator", "energy_per_add", "merges"),
    ("accumulator", "energy_per_shift", "shifted_updates"),
    ("partial_sum_buffer", "energy_per_read", "partial_sum_updates"),
    ("partial_sum_buffer", "energy_per_write", "partial_sum_updates"),
    ("input_buffer", "energy_per_access", "input_buffer_reads"),
    ("input_buffer", "energy_per_access", "output_buffer_writes"),
    ("index_buffer", "energy_per_access", "index_reads"),
    ("bus", "energy_per_byte", "input_register_bytes"),
    ("bus", "energy_per_byte", "merge_bytes"),
    ("router", "energy_per_byte_hop", "inter_tile_byte_hops"),
    ("output_unit", "energy_per_output", "outputs"),
    ("digital_unit", "energy_per_op", "digital_ops"),
    ("digital_memory", "energy_per_access", "memory_accesses"),
)
COMPONENTS = tuple(
    dict.fromkeys(["adc", "sample_and_hold", *(component for component, _, _ in ENERGY), "dot_register"])
)


@dataclass(frozen=True)
class Instances:
    """Hardware that a layer or a network takes: a chip cut to measure. Counts."""

    crossbars: int
    pes: int
    tiles: int
    index_bytes: int
    dot_register_bytes: int = 0
    memory_bytes: int = 0
    adc_groups: int | None = None  # crossbars that share converters, of each copy; None: as if all stood side by side

    def at_most(self, chip: Chip) -> "Instances":
        """What a chip has, if the layers on it take turns; they share its crossbars' dot registers."""
        tiles = min(self.tiles, chip.max_tiles or self.tiles)
        crossbars = tiles * chip.crossbars_per_tile
        return replace(
            self,
            crossbars=crossbars,
            pes=tiles * chip.pes_per_tile,
            tiles=tiles,
            dot_register_bytes=-(-self.dot_register_bytes * crossbars // max(1, self.crossbars)),
            adc_groups=crossbars // chip.crossbars_per_adc,
        )

    def of(self, component: str, chip: Chip) -> int:
        """How many instances of a component these hold."""
        groups = -(-self.crossbars // chip.crossbars_per_adc) if self.adc_groups is None else self.adc_groups
        return {
            "adc": groups * chip.adcs_per_crossbar,
            "dac": self.crossbars * chip.crossbar_rows,
            "crossbar": self.crossbars,
            "sample_and_hold": self.crossbars * chip.crossbar_columns * chip.sample_and_hold,
            "input_register": self.crossbars,
            "shift_add": groups * chip.adcs_per_crossbar,
            "output_register": self.crossbars,
            "accumulator": self.crossbars + self.pes * chip.crossbars_per_pe * chip.gathers,  # a PE's tree of adders
            "partial_sum_buffer": self.pes,
            "input_buffer": self.tiles,
            "bus": self.tiles,
            "router": self.tiles,
            "output_unit": self.tiles,
            "digital_unit": self.tiles,
        }[component]


_BY_BYTE = {"index_buffer", "dot_register", "digital_memory"}  # as large as is needed
PLACED = tuple(component for component in COMPONENTS if component not in _BY_BYTE)


def energy(activity: LayerActivity, chip: Chip, table: ComponentTable) -> dict[str, float]:
    """Joules of one inference of a layer by component, leakage apart."""
    joules = dict.fromkeys(COMPONENTS, 0.0)
    joules["adc"] = activity.conversions * conversion_energy(chip, table)
    if chip.sample_and_hold:
        joules["sample_and_hold"] = activity.samples * table("sample_and_hold", "energy_per_sample")
    for component, figure, event in ENERGY:
        joules[component] += getattr(activity, event) * table(component, figure)
    if chip.gathers:
        per_byte = table("dot_register", "energy_per_access_byte")
        access = table("dot_register", "energy_per_access") + activity.dot_register_bytes * per_byte
        joules["dot_register"] = activity.dot_register_accesses * access
    return joules


def area(instances: Instances, chip: Chip, table: ComponentTable) -> dict[str, float]:
    """Square metres by component. Index and digital memory and dot registers are charged by the byte that is stored."""
    metres = {component: instances.of(component, chip) * table(component, "area") for component in PLACED}
    return metres | {
        "adc": instances.of("adc", chip) * converter_area(chip, table),
        "index_buffer": instances.index_bytes * table("index_buffer", "area_per_byte"),
        "dot_register": instances.dot_register_bytes * table("dot_register", "area_per_byte") if chip.gathers else 0.0,
        "digital_memory": instances.memory_bytes * table("digital_memory", "area_per_byte"),
    }


def leakage(instances: Instances, chip: Chip, table: ComponentTable) -> dict[str, float] | None:
    """Watts that idle hardware draws, by component; None if the table says nothing of it."""
    if not table.has_leakage:
        return None
    watts = {component: instances.of(component, chip) * table.leakage(component) for component in PLACED}
    return watts | {
        "adc": instances.of("adc", chip) * converter_leakage(chip, table),
        "dot_register": instances.dot_register_bytes * table.leakage("dot_register"),
    }


def total(breakdown: Mapping[str, float]) -> float:
    """Sum of a breakdown."""
    return sum(breakdown.values())
