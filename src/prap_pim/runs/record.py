"""What a run found, as results that are saved and shown."""

from typing import Any

from prap_pim.cost import CostReport, conventions, warnings
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.network import Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.mapping.steps import dense_steps
from prap_pim.results.run import (
    BudgetResult,
    ChipResult,
    CostFigures,
    Figure,
    LayerResult,
    MethodResult,
    Results,
    TimingResult,
)
from prap_pim.runs.config import RunConfig
from prap_pim.runs.metric import FloatQuality
from prap_pim.runs.places import by_name
from prap_pim.runs.stages import (
    Accuracy,
    Compression,
    Costs,
    MethodStages,
    named_metrics,
    versions,
)
from prap_pim.runs.task import Task

_UNCHECKED = {"checked_outputs": 0, "mismatches": 0, "overflows": 0}  # of a layer whose network went through no cell


def result_of(
    stages: MethodStages,
    network: Network,
    plan: NetworkPlan,
    compression: Compression,
    costs: Costs,
    accuracy: Accuracy,
) -> MethodResult:
    """What the stages of one method found; of ``network`` only shapes count."""
    method, chip, layers = stages.method, stages.chip, []
    assert costs.at_budget is not None
    assert costs.budget is not None
    copies: dict[str, Any] = {key: getattr(costs.at_budget, key) for key in ("copies", "copy_crossbars")}
    for layer, of_layer in zip(network.layers, costs.own.layers, strict=True):
        of_plan = plan.layers[layer.name]
        layers.append(
            LayerResult(
                name=layer.name,
                kind=layer.kind,
                weight_shape=list(layer.weight.shape),
                positions=layer.positions,
                row_groups=of_plan.groups,
                donors=len(of_plan.donors),
                uses=of_plan.uses,
                ou_steps=of_layer.ou_steps,
                dense_ou_steps=dense_steps(layer, chip.grain),
                crossbars=of_layer.crossbars,
                serial_latency_s=of_layer.serial_latency_s,
                pipelined_latency_s=of_layer.pipelined_latency_s,
                energy_j=of_layer.energy_j,
                bottleneck=of_layer.time.bottleneck,
                stored_cells=of_layer.stored_cells,
                crossbar_ous=list(of_layer.crossbar_ous),
                **accuracy.layers.get(layer.name, _UNCHECKED),
            )
        )
    return MethodResult(
        name=method.name,
        description=method.description,
        compute_ratio=unskipped_ratio(network, costs.own, chip),
        ou_steps=costs.own.ou_steps,
        serial_breakdown_s=costs.own.serial_breakdown_s,
        at_budget=BudgetResult(**copies, budget=costs.budget, **figures(costs.at_budget)),
        plan_sha256=plan.digest(),
        **compression.model_dump(),
        **{**accuracy.model_dump(), "layers": layers},
        **figures(costs.own),
    )


def unskipped_ratio(network: Network, costs: CostReport, chip: Chip) -> float:
    """OU steps that are done, without those that zero inputs skip, over those of the dense plan on the same chip."""
    return costs.ou_steps / sum(dense_steps(layer, chip.grain) for layer in network.layers)


def figures(costs: CostReport) -> dict[str, Any]:
    """The fields of ``CostFigures``."""
    return {
        **{key: getattr(costs, key) for key in CostFigures.model_fields},
        "serial": TimingResult(**vars(costs.serial)),
        "pipelined": TimingResult(**vars(costs.pipelined)),
        "energy_breakdown_j": dict(costs.energy_breakdown_j),
    }


def results_of(
    config: RunConfig,
    command: str,
    task: Task,
    chip: Chip,
    quality: FloatQuality | None,
    methods: list[MethodResult],
) -> Results:
    """All of a run; ``quality`` is the float network's, where that was measured."""
    geometry = by_name(chip).model_dump(mode="json", exclude={"name", "description", "grain"})
    geometry = {key: _shown(value) for key, value in (geometry | vars(chip.grain)).items() if value is not None}
    table, network = load_table(chip.components), task.graph.network
    counts = task.counts | ({"test": quality.inputs} if quality and quality.inputs else {})
    metrics = named_metrics("float", quality.metrics if quality else {})
    return Results(
        schema_version=1,
        name=config.name,
        command=command,
        seed=config.seed,
        versions=versions(),
        data=task.data.description,
        inputs=task.inputs,
        images=counts,
        classes=task.data.classes,
        network=network.name,
        parameters=network.parameters,
        weights=_origin(config, task),
        zero_input_skipping=config.zero_input_skipping,
        timing=config.cost.timing,
        energy_of=config.cost.data,
        **metrics,
        minimize=[name for name in (task.metric.minimize if task.metric else ()) if name in metrics["float_metrics"]],
        chip=ChipResult(
            name=chip.name,
            description=chip.description,
            geometry=geometry,
            figures=[Figure(**vars(figure)) for figure in table.figures.values()],
            conventions=list(conventions(chip, table)),
            warnings=list(warnings(chip, table)),
            cells_per_crossbar=chip.crossbar_rows * chip.crossbar_columns,
            ous_per_crossbar=chip.ous_per_crossbar,
        ),
        methods=methods,
    )


def _shown(value: Any) -> int | str:
    """A chip's property for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else value


def _origin(config: RunConfig, task: Task) -> str:
    """Where the weights come from, for people."""
    start = f"from {config.checkpoint.name}" if config.checkpoint else f"random (seed {config.seed})"
    if task.own and not config.checkpoint and not task.random:
        start = "the user's own"
    known = config.checkpoint is not None or (task.own and not task.random)
    if config.training is None:
        return start if known else f"{start}, never trained: this run reports costs only, not accuracy"
    if config.training.compress_at == 0:
        return f"{start}; methods are fine-tuned for {config.training.epochs} epochs"
    return f"{start}, trained for {config.training.epochs} epochs"
