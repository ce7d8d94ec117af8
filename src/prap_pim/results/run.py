"""What a run leaves in results.json: every figure, its unit in its name (SI: s, J, m2). Read back with full checks."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from textwrap import wrap
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from prap_pim.common.names import shortened
from prap_pim.common.settings import Saved, Settings

_MOST_CHANGED = 0.1  # of the classes: more is said in a warning
_LEAST_DB = 10.0  # of outputs without classes: less is said in a warning
_WIDTH = 80  # characters of a line
_TINY = 1e-9
_USED = 0.97  # of a budget of OU steps: less is reported


class _Frozen(Saved):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(_Frozen):
    """A component figure that entered the cost, and where it comes from."""

    component: str
    quantity: str  # "energy per conversion", "area", ...
    value: float
    unit: str
    source: str


class ChipResult(_Frozen):
    """The chip that was costed: its geometry in words and every figure with its source."""

    name: str
    description: str
    geometry: dict[str, int | float | str]
    figures: list[Figure]
    conventions: list[str]  # how a conversion is timed and charged, in words
    warnings: list[str]  # about the chip itself, such as an ADC too small for its OU
    cells_per_crossbar: int | None = None  # None: an older file, as with every None below of that kind
    ous_per_crossbar: int | None = None


class TimingResult(_Frozen):
    """One way of timing. Serial: nothing overlaps. Pipelined: stages of an OU step overlap, and layers overlap."""

    latency_s: float  # of one inference
    throughput_per_s: float  # inferences


class CostFigures(_Frozen):
    """What a plan costs in one mapping; events and energy of one inference."""

    crossbars: int
    stored_cells: int  # of all copies of a layer, as area and index
    serial: TimingResult
    pipelined: TimingResult
    energy_j: float  # leakage not included
    energy_breakdown_j: dict[str, float]  # by component; sums to energy_j
    area_m2: float
    leakage_w: float | None  # idle power of what the network takes; None: the component table says nothing of it
    tops_per_w: float  # two operations for each multiplication of the uncompressed network, per joule with leakage
    index_stored_bytes: int
    index_read_bytes: int
    partial_sum_bytes: int  # read and written
    programming_j: float | None = None  # writing all stored cells once; None: the component table does not say
    programming_s: float | None = None
    unknown_writes: list[str] = Field(default_factory=list)  # figures that the table would need for it
    turns: int = 1  # in which layers are written; 1: the network fits the chip
    cells_written: int = 0  # in every inference
    endured_inferences: float | None = None  # until cells wear out; None: nothing is written, or not known


class BudgetResult(CostFigures):
    """The same plan when it may fill as many crossbars as every other method: layers are replicated, and spread."""

    budget: int  # crossbars that there are
    copies: dict[str, int]  # by layer
    copy_crossbars: dict[str, int] = Field(default_factory=dict)  # of one copy; older results do not have it


class LayerResult(_Frozen):
    """One layer under one method; counts are of one inference."""

    name: str
    kind: str
    weight_shape: list[int]
    positions: int
    row_groups: int
    donors: int
    uses: int
    ou_steps: int
    dense_ou_steps: int
    crossbars: int
    serial_latency_s: float
    pipelined_latency_s: float
    energy_j: float
    checked_outputs: int  # integers of the bit-true model that were compared with the integer matmul
    mismatches: int
    overflows: int = 0  # dot products and sums of the bit-true model that did not fit the chip's registers
    bottleneck: str | None = None  # the resource that sets the pipelined latency
    stored_cells: int | None = None  # programmed
    crossbar_ous: list[tuple[int, int]] | None = None  # (OUs on a crossbar, crossbars in a row that hold so many)

    @model_validator(mode="after")
    def _every_crossbar(self) -> Self:
        if self.crossbar_ous is not None:
            if any(ous < 0 or crossbars < 1 for ous, crossbars in self.crossbar_ous):
                raise ValueError("crossbar_ous: OUs are at least 0, crossbars at least 1")
            if sum(crossbars for _, crossbars in self.crossbar_ous) != self.crossbars:
                raise ValueError("crossbar_ous: they are not as many crossbars as the layer's")
        return self


class AllocationResult(_Frozen):
    """What calibrated reuse gave one layer of its budget."""

    name: str
    sensitivity_nats: float | None  # divergence of the network's outputs when this layer alone keeps an eighth
    donors: int | None  # of a row group that all filters share; None: every pattern is kept
    kept_positions: int | None  # of a kernel's, by each filter; None: all
    bits: int = 8  # of a donor
    uses: int = 1  # donors, at most, whose sum a filter takes of a row group
    output_error: float  # squared error of the layer's output relative to its square, on calibration inputs


class CalibrationResult(_Frozen):
    """How calibrated reuse shared out its budget."""

    inputs: int
    changed: float | None  # share of them classified otherwise than by the network itself, 0..1; None: no classes
    limit: float | None  # of that share, where one was asked for
    asked: float | None = None  # compute ratio, where one was asked for; None also: an older file
    budget: dict[str, float] | None = None  # what else was limited, to which share of the dense network's
    share: float | None = None  # what is taken of what was limited
    tuned: bool = False  # donors were trained afterwards, with labels or without: these were found before
    layers: list[AllocationResult]


class OutputCheck(_Frozen):
    """An output of the bit-true network beside the original network's."""

    name: str
    sqnr_db: float | None  # signal to noise; None: no difference
    changed: float | None  # share of the classes that are others, 0..1; None: it has no classes

    @property
    def too_far(self) -> bool:
        """Whether it has changed beyond the stated limit."""
        if self.changed is not None:
            return self.changed > _MOST_CHANGED
        return self.sqnr_db is not None and self.sqnr_db < _LEAST_DB


class TuningResult(_Frozen):
    """What label-free tuning has brought. Divergence of outputs: nats of classes, relative squared error of values."""

    steps: int
    taken: int  # the steps after which the network was best on the inputs held back; 0: it is left as it was
    before: float  # divergence on the inputs that it was tuned on
    after: float
    held_before: float | None  # on those held back; None: there were too few
    held_after: float | None

    @property
    def told(self) -> str:
        """In words."""
        if not self.taken:
            return (
                f"tuned without labels for {self.steps:,} steps: nothing became better, the network is left as it was"
            )
        best = f", {self.taken:,} of them taken" if self.taken < self.steps else ""
        held = (
            "" if self.held_after is None else f", {self.held_before:.4g} to {self.held_after:.4g} on those held back"
        )
        return (
            f"tuned without labels for {self.steps:,} steps{best}: divergence of the outputs {self.before:.4g} to "
            f"{self.after:.4g} on the inputs it was tuned on{held}"
        )


class CheckResult(_Frozen):
    """How far a finished, bit-true network's outputs are from the original network's."""

    inputs: int  # that were looked at
    held_back: bool  # whether compression has not seen them; there were too few otherwise
    outputs: list[OutputCheck]  # every one that counts
    worst: dict[str, float]  # layers that lost most: relative error of their outputs; none where training went on
    varies: bool = False  # whether the original network gives other outputs again for the same inputs
    tuning: TuningResult | None = None  # without labels, before this check

    @property
    def lines(self) -> list[str]:
        """In words; a warning last, if an output has changed too much, in lines of about a terminal's width."""
        return [*self.findings, *wrap(self.warning, _WIDTH, subsequent_indent="  ")]

    @property
    def findings(self) -> list[str]:
        """What was found of each output, in words."""
        which = "held-back inputs" if self.held_back else "calibration inputs, which it was fitted to"
        found = wrap(self.tuning.told, _WIDTH, subsequent_indent="  ") if self.tuning is not None else []
        found.append(f"check: the bit-true network against the original on {self.inputs:,} {which}")
        for output in self.outputs:
            noise = "no difference" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"
            classes = "" if output.changed is None else f", {output.changed:.1%} of the classes changed"
            found.append(f"  output {output.name}: {noise}{classes}")
        return found

    @property
    def warning(self) -> str:
        """What is wrong and what to try; empty if all outputs are near enough."""
        if self.varies:
            return (
                "warning: the original network gives other outputs each time for the same inputs, which is part of the "
                "difference above. Does it draw random numbers? Compress it without them"
            )
        far = ", ".join(output.name for output in self.outputs if output.too_far)
        worst = zip(shortened(list(self.worst)), self.worst.values(), strict=True)
        layers = ", ".join(f"{name} ({error:.1%})" for name, error in worst)
        return far and (
            f"warning: too much of output {far} has changed (more than {_MOST_CHANGED:.0%} of the classes, or values "
            f"below {_LEAST_DB:g} dB); most is lost in {layers}. Try to compress less, skip these layers, or give "
            "more and more varied calibration inputs"
        )


def above_dense(method: str, steps: Mapping[str, tuple[int, int]]) -> str:
    """That a method takes more OU steps than dense, in words; empty if it does not.

    Args:
        method: its name.
        steps: by layer: of the method, of dense.
    """
    taken, dense = (sum(each[i] for each in steps.values()) for i in (0, 1))
    if taken <= dense:
        return ""
    more = {name: own / full for name, (own, full) in steps.items() if own > full}
    most = max(more, key=lambda name: more[name])
    return (
        f"{method} takes {taken / dense:.4g} times the OU steps of dense: {len(more)} of {len(steps)} layers take more "
        f"than dense, {most} {more[most]:.3g} times as many; their patterns leave parts of the OUs empty"
    )


def unused_budget(used: float, asked: float | None) -> str:
    """That much less of a compute ratio was used than asked for, in words; nothing if it was not, or none was asked."""
    if asked is None or used >= _USED * asked:
        return ""
    return (
        f"{used:#.3g} of the dense OU steps are used, {asked:#.3g} were allowed: "
        "nothing that was looked at takes more of it (layers take whole OUs; balance, if on, keeps back more)"
    )


def spent_budget(quantity: str, asked: float, taken: float) -> str:
    """What is taken of a budget of energy or time, in words; nothing of one of OU steps, which is shown everywhere."""
    if quantity == "compute":
        return ""
    over = "" if taken <= asked * (1 + _TINY) else ": it could not be met"
    return f"{quantity}: {taken:.4f} of the dense network's, {asked:g} allowed{over}"


class MethodResult(CostFigures):
    """One method on the trained network."""

    name: str
    description: str
    compressed_accuracy: float | None  # compressed weights, float arithmetic; 0..1; None: not measured
    bit_true_accuracy: float | None  # int8 inputs and donors on the bit-true crossbars; 0..1; None: not measured
    compressed_bits_per_byte: float | None = None  # cross-entropy of the next byte; None: no bytes, or not measured
    bit_true_bits_per_byte: float | None = None
    compressed_metrics: dict[str, float] = Field(default={})  # what else the user's own metric gives, by name
    bit_true_metrics: dict[str, float] = Field(default={})
    checked_images: int | None = None  # test inputs that went through every cell; None: an older file
    compute_ratio: float  # OU steps / OU steps of the dense plan on the same chip
    ou_steps: int
    serial_breakdown_s: dict[str, float] | None = None  # by what takes the time; sums to the serial latency
    at_budget: BudgetResult
    plan_sha256: str
    calibration: CalibrationResult | None = None  # of calibrated reuse
    check: CheckResult | None = None  # against the network that was compressed; None: written before there was one
    layers: list[LayerResult]


class ParameterResult(_Frozen):
    """A setting of simulated crossbars, and where it was said."""

    name: str  # dots between nested settings: "device.variation.sigma"
    value: str
    source: str  # "chip NAME", a file, "--set", "--sweep" or "default"


class PointResult(_Frozen):
    """One method on simulated crossbars of one kind."""

    method: str
    value: float | None  # of the swept quantity; None: nothing is swept
    mean: float  # of the metric over the devices
    spread: float  # its standard deviation from device to device (n - 1); 0 for one device
    worst: float
    accuracies: list[float] = Field(min_length=1)  # by device; one where nothing differs between devices
    overflows: int  # dot products and sums that did not fit their registers, over all devices and images
    layers_by_cell: int  # layers whose cells were visited; the others can lose nothing and took the integer product


class SimulationResult(_Frozen):
    """Accuracy of finished methods on crossbars with device effects."""

    name: str
    command: str
    versions: dict[str, str]
    images: int  # the first of the run's test images
    devices: int
    seed: int
    parameters: list[ParameterResult]
    sweep: Literal["sigma", "adc-bits", "fault-rate"] | None
    metric: str = "accuracy"  # what was measured; another one is the user's own
    exact_accuracy: dict[str, float]  # the metric by method: on the same images where crossbars lose nothing
    points: list[PointResult] = Field(min_length=1)  # method after method, values as they were asked for


class Results(_Frozen):
    """A whole run."""

    schema_version: Literal[1]
    name: str
    command: str
    seed: int
    versions: dict[str, str]
    data: str
    inputs: Literal["images", "sequences", "inputs"] = "images"
    images: dict[str, int]  # how many inputs, by split
    classes: int | None = None  # that the network tells apart, or tokens; None: an older file
    network: str
    parameters: int
    weights: str  # where they come from
    zero_input_skipping: bool  # for all methods alike: OUs whose input bits are all 0 are not read
    timing: Literal["formula", "events"] = "formula"  # of the pipelined times
    energy_of: Literal["uniform", "calibration"] = "uniform"  # whose data the energy is that of
    float_accuracy: float | None  # the trained network before compression; 0..1; None: not measured
    float_bits_per_byte: float | None = None  # of the same network; None: no bytes, or not measured
    float_metrics: dict[str, float] = Field(default={})  # of the same network: what else the user's own metric gives
    minimize: list[str] = Field(default=[])  # names of its numbers of which less is better
    chip: ChipResult
    methods: list[MethodResult] = Field(min_length=1)  # the first is the one that the others are compared with
    simulations: list[SimulationResult] = Field(default=[])  # of the finished run, one by one

    @model_validator(mode="after")
    def _distinct_methods(self) -> Self:
        if len({method.name for method in self.methods}) < len(self.methods):
            raise ValueError("two methods have one name")
        if len({simulation.name for simulation in self.simulations}) < len(self.simulations):
            raise ValueError("two simulations have one name")
        return self

    @property
    def warnings(self) -> list[str]:
        """Of the chip, of methods that take more OU steps than dense, and of methods that have changed the outputs too
        much: of those that were trained further, or whose weights are random, that tells nothing."""
        checks = {m.name: m.check for m in self.methods if m.check and self.float_accuracy is not None}
        told = {name: check.warning.removeprefix("warning: ") for name, check in checks.items() if check.worst}
        steps = {m.name: {each.name: (each.ou_steps, each.dense_ou_steps) for each in m.layers} for m in self.methods}
        above = (above_dense(name, layers) for name, layers in steps.items())
        return [*self.chip.warnings, *filter(None, above), *(f"{name}: {text}" for name, text in told.items() if text)]

    @property
    def tunings(self) -> list[str]:
        """What label-free tuning has brought each method, in words."""
        return [f"{m.name}: {m.check.tuning.told}" for m in self.methods if m.check and m.check.tuning]

    def with_simulation(self, simulation: SimulationResult) -> Self:
        """With one simulation more, the last; it takes the place of an older one of its name."""
        others = [other for other in self.simulations if other.name != simulation.name]
        return self.model_copy(update={"simulations": [*others, simulation]})


class Gain(Settings):
    """What a method gains over dense: dense latency / its own, dense energy / its own."""

    from_outside = False

    speedup: float
    energy_gain: float

    def over(self, other: "Gain") -> "Gain":
        """What it gains over another method."""
        return Gain(speedup=self.speedup / other.speedup, energy_gain=self.energy_gain / other.energy_gain)


def mean(gains: Sequence[Gain]) -> Gain:
    """Of several networks."""
    return Gain(speedup=fmean(g.speedup for g in gains), energy_gain=fmean(g.energy_gain for g in gains))
