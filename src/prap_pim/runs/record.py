"""What a run found, as results that are saved and shown."""

from typing import Any

from torch import nn

from prap_pim.capture.evaluate import Quality, evaluate
from prap_pim.common.progress import Progress, phase
from prap_pim.cost import CostReport, conventions, load_table
from prap_pim.crossbar import SimulationReport
from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import Layer, Network
from prap_pim.methods.config import MethodConfig
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
from prap_pim.runs.stages import CompressedMethod, capture_network, dense_ous, has_meaning, versions
from prap_pim.training.data import Splits


def result_of(
    method: MethodConfig,
    found: CompressedMethod,
    chip: Chip,
    budget: int,
    costs: CostReport,
    at_budget: CostReport,
    proof: SimulationReport | None,
    compressed: Quality | None,
    of_bytes: bool,
) -> MethodResult:
    plan, layers = found.plan, []
    for layer, priced in zip(found.captured.network.layers, costs.layers, strict=True):
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
                ou_steps=priced.ou_steps,
                dense_ou_steps=_dense_ou_steps(layer, chip),
                crossbars=priced.crossbars,
                serial_latency_s=priced.serial_latency_s,
                pipelined_latency_s=priced.pipelined_latency_s,
                energy_j=priced.energy_j,
                checked_outputs=proof.layers[layer.name].checked if proof else 0,
                mismatches=proof.layers[layer.name].mismatches if proof else 0,
                overflows=proof.overflows[layer.name] if proof else 0,
                bottleneck=priced.time.bottleneck,
                stored_cells=priced.stored_cells,
                crossbar_ous=list(priced.crossbar_ous),
            )
        )
    return MethodResult(
        name=method.name,
        description=method.description,
        compressed_accuracy=compressed.accuracy if compressed else None,
        bit_true_accuracy=proof.quality.accuracy if proof else None,
        compressed_bits_per_byte=compressed.bits if compressed and of_bytes else None,
        bit_true_bits_per_byte=proof.quality.bits if proof and of_bytes else None,
        checked_images=proof.checked_images if proof else 0,
        compute_ratio=compute_ratio(found.captured.network, costs, chip),
        ou_steps=costs.ou_steps,
        serial_breakdown_s=costs.serial_breakdown_s,
        at_budget=BudgetResult(
            budget=budget, copies=at_budget.copies, copy_crossbars=at_budget.copy_crossbars, **figures(at_budget)
        ),
        plan_sha256=plan.digest(),
        calibration=found.calibration,
        check=found.check,
        layers=layers,
        **figures(costs),
    )


def compute_ratio(network: Network, costs: CostReport, chip: Chip) -> float:
    """OU steps over those of the dense plan on the same chip."""
    return costs.ou_steps / sum(_dense_ou_steps(layer, chip) for layer in network.layers)


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
    splits: Splits,
    chip: Chip,
    trained: nn.Module,
    methods: list[MethodResult],
    progress: Progress,
) -> Results:
    captured = capture_network(config, splits, trained)
    geometry = chip.model_dump(mode="json", exclude={"name", "description", "grain"})
    geometry = {key: _shown(value) for key, value in geometry.items() if value is not None} | vars(chip.grain)
    table, test = load_table(chip.components), splits.test
    told = phase(progress, "float network: accuracy")
    quality = evaluate(trained, test.inputs, test.labels, told=told) if has_meaning(config) else None
    return Results(
        schema_version=1,
        name=config.name,
        command=command,
        seed=config.seed,
        versions=versions(),
        data=splits.description,
        inputs="sequences" if test.are_tokens else "images",
        images={"train": len(splits.train), "calibration": len(splits.calibration), "test": len(splits.test)},
        classes=splits.classes,
        network=captured.network.name,
        parameters=captured.network.parameters,
        weights=_origin(config),
        zero_input_skipping=config.zero_input_skipping,
        float_accuracy=quality.accuracy if quality else None,
        float_bits_per_byte=quality.bits if quality and test.are_tokens else None,
        chip=ChipResult(
            name=chip.name,
            description=chip.description,
            geometry=geometry,
            figures=[Figure(**vars(figure)) for figure in table.figures.values()],
            conventions=list(conventions(chip, table)),
            warnings=list(chip.warnings),
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


def _origin(config: RunConfig) -> str:
    """Where the weights come from, for people."""
    start = f"from {config.checkpoint.name}" if config.checkpoint else f"random (seed {config.seed})"
    if config.training is None:
        return start if config.checkpoint else f"{start}, never trained: this run tells costs, not accuracy"
    return f"{start}, trained for {config.training.epochs} epochs"


def _dense_ou_steps(layer: Layer, chip: Chip) -> int:
    return dense_ous(layer, chip) * chip.grain.input_steps * layer.positions
