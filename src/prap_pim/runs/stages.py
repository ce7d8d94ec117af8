"""The stages of a run and of a study's trial: train, compress, measure."""

import copy
import platform
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from prap_pim.capture import Captured, capture
from prap_pim.capture.equalize import equalised
from prap_pim.capture.evaluate import Quality, evaluate
from prap_pim.capture.quantize import QuantizeConfig, settled
from prap_pim.capture.weights import load_weights, put_weights
from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json, write_json, write_whole
from prap_pim.common.memory import kept_memory
from prap_pim.common.progress import Progress, Steps, counted, phase, unheard
from prap_pim.cost import ZeroInput, cost, load_table
from prap_pim.crossbar import CrossbarModel, SimulationReport, compressed_model, measure, zero_input_rates
from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.mapping import fewest_crossbars
from prap_pim.methods.calibrate import CalibratedReuse, check_budget, train_donors
from prap_pim.methods.compress import (
    CalibrationInputs,
    assign,
    calibrated,
    changed_layers,
    check_memory,
    checked,
    plan_for_costs,
    planned,
    whole_plan,
    with_plans,
)
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.finetune import finetune
from prap_pim.methods.rebuild import Rebuilt
from prap_pim.results.run import AllocationResult, CalibrationResult, CheckResult
from prap_pim.runs.config import RunConfig
from prap_pim.training import Checkpoint, Processes, train
from prap_pim.training.data import Splits
from prap_pim.training.models import build

PLAN = "plan.safetensors"  # of a method's folder


_DIGITAL = "digital.safetensors"


_BATCH = 100  # inputs at a time; results do not depend on it


_PACKAGES = ("prap-pim", "torch", "numpy", "numba", "scikit-learn")


def check(config: RunConfig, splits: Splits, chip: Chip, told: Steps = unheard) -> None:
    """Walk through every method on the untrained network, so that a mistake shows before hours of training.

    ``told`` hears how many methods are done.

    Raises:
        UserError: a layer cannot be mapped or compressed as asked, or the chip is too small.
    """
    if min(chip.grain.weight_bits, chip.grain.input_bits) < 8:
        raise UserError(f"chip {chip.name}: weights and inputs are int8, its grain has fewer weight_bits or input_bits")
    captured = capture_network(config, splits, untrained(config, splits))
    for method in counted(config.methods, told):
        names = [layer.name for layer in captured.network.layers]
        changed = changed_layers(method, captured.network)
        if isinstance(method.reuse, CalibratedReuse):
            check_budget(captured.network, method.reuse, chip.grain, set(names) - set(changed))
            continue  # what it will find takes no more OUs than the dense plan
        plans = planned(assign(changed, captured.network, chip), captured.network)
        plan = plan_for_costs(captured, chip, method.name, plans)
        cost(captured.network, plan, chip, config.mapping)
        cost(captured.network, plan, chip, crossbars=crossbar_budget(config, captured.network, plan, chip))


def capture_network(config: RunConfig, splits: Splits, model: nn.Module) -> Captured:
    """A model of the configuration's kind, traced on an input of the data."""
    details = ", ".join(f"{key} {value}" for key, value in config.model.model_dump(exclude={"name"}).items())
    return capture(model, splits.test.inputs[:1], f"{config.model.name} ({details})" if details else config.model.name)


def untrained(config: RunConfig, splits: Splits) -> nn.Module:
    """The network before training: with random weights, or with those of the user's checkpoint."""
    try:
        model = build(config.model, splits.train.inputs.shape[1], splits.classes, config.seed)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"model: it cannot be built here ({str(error).splitlines()[0]})") from error
    if config.checkpoint is not None:
        load_weights(model, config.checkpoint)
    return model


def train_network(
    config: RunConfig, splits: Splits, checkpoints: Path, progress: Progress, processes: Processes | None = None
) -> tuple[nn.Module, Checkpoint | None]:
    """The network trained to the end, and the checkpoint that the compressed ones branch from, if it is trained.

    What ``checkpoints``, a folder, holds of it is not trained again.
    """
    model = untrained(config, splits)
    schedule = config.training
    if schedule is None:
        return model, None
    stops = (schedule.compress_at, schedule.epochs)
    branch, _ = (
        train(
            model,
            splits.train,
            schedule,
            config.seed,
            checkpoints,
            stop=stop,
            resume=True,
            phase=f"training to epoch {stop}",
            progress=progress,
            processes=processes,
        )
        for stop in stops
    )
    return model, branch


def zero_inputs(
    config: RunConfig, captured: Captured, plan: NetworkPlan, splits: Splits, chip: Chip, told: Steps = unheard
) -> ZeroInput | None:
    """The shares of OU steps that need not be done, if they are to be skipped; measured on calibration inputs."""
    if not config.zero_input_skipping:
        return None
    return zero_input_rates(captured, plan, splits.calibration.inputs, chip.grain, _BATCH, told)


def prove(
    config: RunConfig, captured: Captured, plan: NetworkPlan, splits: Splits, chip: Chip, progress: Progress
) -> tuple[Quality, SimulationReport]:
    """How well a compressed network tells the test labels: in float arithmetic, and on the bit-true crossbars."""
    test = splits.test
    proof = measure(
        captured,
        plan,
        CrossbarModel.of(chip),
        test.inputs,
        test.labels,
        progress=lambda done, total: progress(f"{plan.method}: bit-true simulation", done, total, "inputs"),
        check=True if config.checked_images is None else config.checked_images,
    )
    told = phase(progress, f"{plan.method}: accuracy")
    return evaluate(compressed_model(captured, plan), test.inputs, test.labels, told=told), proof


def digital_part(captured: Captured) -> nn.Module:
    """The network without its layers and the batch norms that are folded into them: what no plan holds."""
    return captured.rebuild({layer.name: nn.Identity() for layer in captured.network.layers})


@dataclass(frozen=True)
class CompressedMethod:
    """A compressed network: its weights and batch norm, its plan, how calibrated reuse went about it, and its check."""

    captured: Captured
    plan: NetworkPlan
    calibration: CalibrationResult | None
    check: CheckResult


@kept_memory()
def compress_method(
    config: RunConfig,
    method: MethodConfig,
    splits: Splits,
    chip: Chip,
    trained: nn.Module,
    branch: Checkpoint | None,
    place: Path,
    progress: Progress,
    processes: Processes | None = None,
) -> CompressedMethod:
    """The compressed network and its plan, which ``place``, a folder, holds afterwards (``saved_method``).

    With fine-tuning a method branches from the base training's checkpoint ``branch``; one-shot it starts from the
    network that is ``trained`` to the end, as does a method that changes no layer.
    """
    model, untouched = copy.deepcopy(trained), capture_network(config, splits, trained)
    given = CalibrationInputs.of(untouched, splits.calibration.inputs, method, classes=True)
    changed = changed_layers(method, untouched.network)
    check_memory(untouched.network, given, changed if isinstance(method.reuse, CalibratedReuse) else ())
    schedule = config.training if method.finetune and changed else None
    start = branch if schedule is not None else None
    if start is not None:
        start.restore(model)
    captured, calibration = capture_network(config, splits, model), None
    prepared = untouched
    if start is None:  # training goes on with the channels that it began with
        prepared, _ = equalised(captured, given.batches, config.quantize)
        captured = prepared
    quantize = settled(captured, given.batches, given.judges, config.quantize)
    told: dict[str, Any] = {"phase": f"{method.name}: fine-tuning", "progress": progress}
    training: dict[str, Any] = {"resume": True, "processes": processes, **told}
    ranges = phase(progress, f"{method.name}: ranges of inputs")
    if isinstance(method.reuse, CalibratedReuse):
        of_method = config, method, method.reuse, quantize
        network, calibration = _calibrated(*of_method, captured, given, changed, chip, place, progress)
        calibration = calibration.model_copy(update={"tuned": start is not None})
        if start is not None and schedule is not None:
            for name, plan in network.plans.items():
                put_weights(model, name, plan)
            chosen = model, splits.train, schedule, config.seed, start, network.plans, place / "checkpoints"
            plans = train_donors(*chosen, **training)
            captured = capture_network(config, splits, model)  # its statistics are of the weights that it has
            network = replace(with_plans(captured, given, {}, quantize, ranges), plans=plans)
    else:
        assignments = assign(changed, captured.network, chip, phase(progress, f"{method.name}: layers"))
        if start is not None and schedule is not None:
            tuned = model, splits.train, schedule, config.seed, start, assignments, place / "checkpoints"
            finetune(*tuned, **training)
            captured = capture_network(config, splits, model)
        network = with_plans(captured, given, planned(assignments, captured.network), quantize, ranges)
    captured = captured.with_module(network.module)
    whole = whole_plan(method.name, captured, network, chip)
    if digital := digital_part(captured).state_dict():
        write_whole(place / _DIGITAL, save(digital))
    whole.save(place / PLAN)
    errors = {x.name: x.output_error for x in calibration.layers} if calibration is not None else None
    if start is not None:  # training changes every layer, and its loss is what counts
        errors = {}
    check = checked(untouched, prepared, captured, whole, given, chip, errors)
    return CompressedMethod(captured, whole, calibration, check)


def saved_method(config: RunConfig, splits: Splits, place: Path) -> tuple[Captured, NetworkPlan]:
    """What ``compress_method`` saved.

    Weights, scale and bias of all layers are in the plan, with the batch norms that were folded into them; what is left
    of the network (batch norms in front of a convolution) was saved beside it. The layers of what is returned have
    random weights, which nobody is to read.

    Raises:
        UserError: the files are missing or damaged.
    """
    plan = NetworkPlan.load(place / PLAN)
    model = build(config.model, splits.train.inputs.shape[1], splits.classes, config.seed)
    captured = capture_network(config, splits, model)
    rest, saved = digital_part(captured), place / _DIGITAL
    if not rest.state_dict():
        return captured, plan
    if not saved.exists():
        raise UserError(
            f"{place} lacks {saved.name}: the run was made by an earlier version, which did not keep the "
            f"batch norms of {config.model.name} that no layer holds; run it again in another folder"
        )
    load_weights(rest, saved)
    module = copy.deepcopy(captured.module)
    module.load_state_dict(rest.state_dict(), strict=False)
    return replace(captured, module=module), plan


def _calibrated(
    config: RunConfig,
    method: MethodConfig,
    reusing: CalibratedReuse,
    quantize: QuantizeConfig,
    captured: Captured,
    given: CalibrationInputs,
    free: Collection[str],
    chip: Chip,
    place: Path,
    progress: Progress,
) -> tuple[Rebuilt, CalibrationResult]:
    """Calibrated reuse of the layers ``free``, or what an interrupted run has found."""
    plan_file, result_file = place / "calibrated.safetensors", place / "calibration.json"
    before = digest_of(*(layer.weight.tobytes() for layer in captured.network.layers))
    with suppress(UserError, ValueError, KeyError, TypeError):
        saved, plan = read_json(result_file), NetworkPlan.load(plan_file)
        if (saved["weights"], saved["plan"]) == (before, plan.digest()):
            network = with_plans(captured, given, plan.layers, quantize)
            return network, CalibrationResult.model_validate(saved["result"])
    how = chip, config.seed, quantize, method.name, progress
    found = calibrated(captured, given, reusing, free, *how)
    layers = [
        AllocationResult(
            name=layer.name,
            sensitivity_nats=layer.sensitivity,
            donors=layer.setting.donors if layer.setting else None,
            kept_positions=layer.setting.positions if layer.setting else None,
            output_error=layer.error,
        )
        for layer in found.layers
    ]
    result = CalibrationResult(
        inputs=sum(len(batch[0]) for batch in given.batches),
        changed=found.drop,
        limit=reusing.max_drop,
        asked=reusing.compute_ratio,
        layers=layers,
    )
    if found.plans:
        plan = NetworkPlan(method.name, found.plans, dict.fromkeys(found.plans, 1.0))
        plan.save(plan_file)
        write_json(result_file, {"weights": before, "plan": plan.digest(), "result": result.model_dump()})
    return found.rebuilt, result


def has_meaning(config: RunConfig) -> bool:
    """Whether the weights were trained at all; the accuracy of random ones says nothing."""
    return config.training is not None or config.checkpoint is not None


def crossbar_budget(config: RunConfig, network: Network, plan: NetworkPlan, chip: Chip) -> int:
    """Crossbars that every method may fill: the configuration's, or what the network's dense plan takes.

    A plan that needs more than dense (its row groups may fill OUs badly) gets what it needs, unless a budget was set.
    """
    if config.crossbar_budget is not None:
        return config.crossbar_budget
    dense = sum(-(-dense_ous(layer, chip) // chip.ous_per_crossbar) for layer in network.layers)
    return max(dense, sum(fewest_crossbars(layer, chip) for layer in plan.layers.values()))


def digest_of(*parts: bytes | str) -> str:
    total = sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
    return total.hexdigest()


def digests(config: RunConfig, splits: Splits, chip: Chip) -> dict[str, str]:
    """Digests of what the configuration only names, so that a run is not resumed with something else."""
    parts = (splits.train, splits.calibration, splits.test)
    found = {
        "chip": digest_of(chip.model_dump_json()),
        "component figures": digest_of(repr(sorted(load_table(chip.components).figures.items()))),
        "data": digest_of(*(x.contiguous().numpy().tobytes() for part in parts for x in (part.inputs, part.labels))),
    }
    if config.checkpoint is not None:
        model = untrained(config, splits)
        found["checkpoint"] = digest_of(*(x.contiguous().numpy().tobytes() for x in model.state_dict().values()))
    return found


def versions() -> dict[str, str]:
    """Of Python and the packages that compute."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def dense_ous(layer: Layer, chip: Chip) -> int:
    return chip.grain.dense_ous(layer.rows, layer.filters, layer.groups)
