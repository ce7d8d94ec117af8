"""The stages of a run and of a study's trial: train, compress, measure."""

import copy
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file, save
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of, file_digest, key_of
from prap_pim.common.progress import Progress, Steps, counted, phase, quiet, unheard
from prap_pim.common.settings import Settings
from prap_pim.cost import CostReport, ZeroInput, check_events, cost, priced_by_data, timed_by_events
from prap_pim.crossbar import CrossbarModel, Metrics, OnCrossbars, compressed_model, data_rates, zero_input_rates
from prap_pim.frontend import Captured, check_trained
from prap_pim.frontend.weights import put_weights
from prap_pim.hardware.chip import Chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.network import Network
from prap_pim.ir.patterns import PatternSet, ReuseMap
from prap_pim.ir.plan import LayerWeights, NetworkPlan
from prap_pim.ir.rates import DataRates
from prap_pim.mapping import fewest_crossbars
from prap_pim.mapping.steps import dense_crossbars
from prap_pim.methods.calibrate.config import Budgeted
from prap_pim.methods.calibrate.network import Calibration, check_budget
from prap_pim.methods.calibrate.train_donors import train_donors
from prap_pim.methods.compress import (
    assignments_of,
    changed_layers,
    compress_network,
    plan_for_costs,
    planned,
)
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.equal_compute import all_within_reach
from prap_pim.methods.finetune import finetune
from prap_pim.methods.method import settled
from prap_pim.methods.request import CalibrationInputs, Request
from prap_pim.methods.tune import check_tune
from prap_pim.results.folder import PLAN
from prap_pim.results.run import CalibrationResult, CheckResult
from prap_pim.runs.calibration import calibration_of, prices_of_budget, result_of_calibration
from prap_pim.runs.config import RunConfig
from prap_pim.runs.metric import ACCURACY, BITS
from prap_pim.runs.places import chip_digest
from prap_pim.runs.store import Store
from prap_pim.runs.task import Task
from prap_pim.training import Checkpoint, Processes, Training, train
from prap_pim.training.models.own import OnnxNetwork

DIGITAL = "digital.safetensors"  # of a method's folder beside the plan, as these
_CALIBRATED = "calibrated.safetensors"
_ZERO_INPUTS = "zero-inputs.safetensors"
_DATA_RATES = "data-rates.safetensors"
_BATCH = 100  # inputs at a time; results do not depend on it
_PACKAGES = ("prap-pim", "torch", "numpy", "numba", "scikit-learn")


def at_equal_compute(config: RunConfig, captured: Captured, chip: Chip) -> RunConfig:
    """The same with the settings of methods that are asked for by their compute ratio.

    Raises:
        UserError: that is out of reach of some; says of each what it can reach.
    """
    trained = config.training is not None
    found = all_within_reach(config.methods, lambda method: settled(method, captured, chip, trained))
    return config.model_copy(update={"methods": tuple(found)})


def check(config: RunConfig, captured: Captured, chip: Chip, told: Steps = unheard) -> None:
    """Walk through every method on the untrained network (``Task.graph``): a mistake shows before hours of training.

    ``told`` is called with the methods done.

    Raises:
        UserError: a layer cannot be mapped or compressed as asked, or the chip is too small.
    """
    config.quantize.on(chip).check_names([layer.name for layer in captured.network.layers])
    if config.training is not None:
        check_trained(captured.module, captured.network.name)
    if by_events := config.cost.timing == "events":
        check_events(cost(captured.network, plan_for_costs(captured, chip), chip, config.mapping))
    for method in counted(config.methods, told):
        names = [layer.name for layer in captured.network.layers]
        changed = changed_layers(method, captured.network)
        check_tune(method, changed, captured)
        if isinstance(method.reuse, Budgeted):
            check_budget(captured.network, method.reuse, chip, set(names) - set(changed))
            continue  # what it will find takes no more OUs than the dense plan
        plans = planned(assignments_of(changed, captured.network, chip))
        plan = plan_for_costs(captured, chip, method.name, plans)
        own = cost(captured.network, plan, chip, config.mapping)
        cost(captured.network, plan, chip, crossbars=crossbar_budget(config, captured.network, plan, chip))
        if by_events:
            check_events(own)


def train_network(
    config: RunConfig, task: Task, checkpoints: Path, progress: Progress, processes: Processes | None = None
) -> tuple[nn.Module, Checkpoint | None]:
    """The network trained to the end, and the checkpoint that the compressed ones branch from, if it is trained.

    What ``checkpoints``, a folder, holds of it is not trained again. A network that is to be compressed at epoch 0 has
    been trained elsewhere, and is left as it is.
    """
    model, schedule = task.first(), config.training
    if schedule is None:
        return model, None
    if schedule.compress_at == 0:
        return model, Checkpoint.of(0, "", model, {})
    branch, _ = (
        train(model, training_of(config, task, checkpoints, f"training to epoch {stop}", progress, processes), stop)
        for stop in (schedule.compress_at, schedule.epochs)
    )
    return model, branch


def training_of(
    config: RunConfig, task: Task, folder: Path, name: str, progress: Progress, processes: Processes | None
) -> Training:
    """What all trainings of a run have in common.

    Raises:
        UserError: there is nothing to train on.
    """
    if task.train is None:
        raise UserError("training: the data have no part to train on: give one, or say training: none")
    if isinstance(task.model, OnnxNetwork):
        raise UserError(
            "training: an ONNX model is not trained with labels: say training: none (a method's tune needs none)"
        )
    assert config.training is not None
    how = True, name, progress, processes, task.traced_loss
    return Training(task.train, config.training, config.seed, folder, *how)


def depends_on(config: RunConfig, data: str, own: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All that the trained network depends on.

    Args:
        data: their digest.
        own: digests of a network of the user's own (``Task.digests``).

    Raises:
        UserError: the user's checkpoint cannot be read.
    """
    settings = config.model_dump(mode="json", include={"model", "training", "seed"})
    return {
        **settings,
        **({"own": dict(own)} if own else {}),
        "data": data,
        "checkpoint": config.checkpoint and file_digest(config.checkpoint),
    }


class Compression(Settings):
    """What is known of a compressed network beside its plan: how calibrated reuse went about it, and its check."""

    from_outside = False

    calibration: CalibrationResult | None
    check: CheckResult


class Accuracy(Settings):
    """How well a compressed network predicts the test labels; None: its weights were never trained, or are not of text.

    ``layers`` counts the integers of the bit-true network as ``LayerResult`` does.
    """

    from_outside = False

    compressed_accuracy: float | None = None
    bit_true_accuracy: float | None = None
    compressed_bits_per_byte: float | None = None
    bit_true_bits_per_byte: float | None = None
    compressed_metrics: dict[str, float] = Field(default={})  # what else a user's own metric gives, by name
    bit_true_metrics: dict[str, float] = Field(default={})
    checked_images: int = 0
    layers: dict[str, dict[str, int]] = Field(default={})


def named_metrics(before: str, metrics: Metrics) -> dict[str, Any]:
    """Metrics under the names that results have for them, such as "compressed_accuracy"."""
    others = {name: value for name, value in metrics.items() if name not in (ACCURACY, BITS)}
    return {f"{before}_{name}": metrics.get(name) for name in (ACCURACY, BITS)} | {f"{before}_metrics": others}


@dataclass(frozen=True, eq=False)
class Costs:
    """A plan mapped as asked, and, if that was wanted, when it may fill ``budget`` crossbars."""

    own: CostReport
    budget: int | None
    at_budget: CostReport | None


@dataclass(frozen=True, eq=False)
class MethodStages:
    """The stages of one method in their order: compressed, zero inputs, costs, accuracy. What they find is kept.

    Attributes:
        config: of the run; its first method is the one.
        task: the network and what it is for.
        chip: decides what an OU holds.
        network: all that the trained network depends on (``depends_on``).
        trained: trains it, if that is not done: ``train_network``.
        place: the store for what stages find, by the key of the compressed network (``depends_on``); the plan and the
            checkpoints of fine-tuning are in its folder, too.
        progress: called as the work proceeds.
        processes: who trains.
    """

    config: RunConfig
    task: Task
    chip: Chip
    network: dict[str, Any]
    trained: Callable[[], tuple[nn.Module, Checkpoint | None]]
    place: Callable[[str], Store]
    progress: Progress = quiet
    processes: Processes | None = None

    @property
    def method(self) -> MethodConfig:
        """What to do to the network."""
        return self.config.methods[0]

    @property
    def depends_on(self) -> dict[str, Any]:
        """All that the compressed network depends on."""
        return {
            **prices_of_budget(self.method, self.chip),
            "network": key_of(self.network),
            "method": self.method.model_dump(mode="json", exclude={"description"}),
            "quantize": self.config.quantize.model_dump(mode="json"),
            "grain": {name: value for name, value in vars(self.chip.grain).items() if value is not None},
            # calibrated reuse balances layers over crossbars
            "load": self.chip.ous_per_crossbar if isinstance(self.method.reuse, Budgeted) else None,
        }

    @cached_property
    def store(self) -> Store:
        """Of this method."""
        return self.place(key_of(self.depends_on))

    def compressed(self) -> Compression:
        """The compressed network, which the store's folder then holds: ``saved_method`` reads it.

        Raises:
            UserError: a layer cannot be compressed as asked, or a file cannot be written.
        """
        return self.store.get("compressed", self.depends_on, Compression, self._compress)

    @cached_property
    def saved(self) -> tuple[Captured, NetworkPlan]:
        """What ``compressed`` left in the folder."""
        self.compressed()  # which sees that it is whole
        return saved_method(self.task.graph, self.store.path)

    def zero_inputs(self) -> ZeroInput | None:
        """The shares of OU steps that need not be done, if they are to be skipped; measured on calibration inputs."""
        if not self.config.zero_input_skipping:
            return None

        def rates() -> tuple[Settings, dict[str, bytes]]:
            told = phase(self.progress, f"{self.method.name}: zero inputs")
            of_layers = zero_input_rates(*self.saved, self.task.calibration, self.chip.grain, _BATCH, told)
            return Settings(), {_ZERO_INPUTS: save_arrays(dict(of_layers))}

        self.store.get("zero-inputs", self.depends_on, Settings, rates)
        return dict(load_arrays(self.store.path / _ZERO_INPUTS))

    def costs(self, network: Network, plan: NetworkPlan, at_budget: bool = True) -> Costs:
        """What the plan costs. It is not kept: to count it takes no longer than to read it would."""
        zero_input = self.zero_inputs()
        budget = crossbar_budget(self.config, network, plan, self.chip) if at_budget else None
        mappings: list[dict[str, Any]] = [{"mode": self.config.mapping}, {"crossbars": budget}]
        reports = [
            self._as_asked(cost(network, plan, self.chip, zero_input=zero_input, **mapping), network)
            for mapping in counted(mappings[: 1 + at_budget], phase(self.progress, f"{self.method.name}: costs"))
        ]
        return Costs(reports[0], budget, reports[1] if at_budget else None)

    def _as_asked(self, report: CostReport, network: Network) -> CostReport:
        """With the times and energies that the configuration asks for."""
        if self.config.cost.data == "calibration":
            report = priced_by_data(report, self._data_rates)
        return timed_by_events(report, network) if self.config.cost.timing == "events" else report

    @cached_property
    def _data_rates(self) -> dict[str, DataRates]:
        """How much the calibration inputs drive the crossbars."""

        def measured() -> tuple[Settings, dict[str, bytes]]:
            told = phase(self.progress, f"{self.method.name}: data")
            of_layers = data_rates(*self.saved, self.task.calibration, CrossbarModel.of(self.chip), _BATCH, told)
            arrays = {f"{name}/{what}": x for name, rates in of_layers.items() for what, x in vars(rates).items()}
            return Settings(), {_DATA_RATES: save_arrays(arrays)}

        self.store.get("data-rates", self.depends_on, Settings, measured)
        found: dict[str, dict[str, Any]] = {}
        for name, array in load_arrays(self.store.path / _DATA_RATES).items():
            layer, what = name.rsplit("/", 1)
            found.setdefault(layer, {})[what] = array
        return {layer: DataRates(**arrays) for layer, arrays in found.items()}

    def accuracy(self) -> Accuracy:
        """How well the compressed network predicts the test labels: in float arithmetic, and on the bit-true crossbars.

        It is the same for all ADCs that can count what an OU's rows sum to.
        """
        if not has_meaning(self.config, self.task):
            return Accuracy()
        lossless = min(self.chip.adc_bits, self.chip.lossless_adc_bits)
        depends_on = {
            "compressed": key_of(self.depends_on),
            "crossbars": CrossbarModel.of(self.chip, adc_bits=lossless).model_dump(mode="json"),
            "checked": self.config.checked_images,
            **self.task.measured_by,
        }
        return self.store.get("accuracy", depends_on, Accuracy, lambda: (self._measure(), {}))

    def _measure(self) -> Accuracy:
        (captured, plan), metric = self.saved, self.task.metric
        assert metric is not None
        total = self.task.counts.get("test")
        asked = self.config.checked_images
        checked = min(inf if asked is None else asked, inf if total is None else total)
        progress = phase(self.progress, f"{plan.method}: bit-true simulation")
        network = OnCrossbars(captured, plan, CrossbarModel.of(self.chip), 0, checked, total, progress)
        proof = network.report(metric(network, first=0 if checked == inf else int(checked)))
        told = phase(self.progress, f"{plan.method}: accuracy")
        compressed = metric(compressed_model(captured, plan), told)
        return Accuracy(
            **named_metrics("compressed", compressed),
            **named_metrics("bit_true", proof.metrics),
            checked_images=proof.checked_images,
            layers={
                name: {"checked_outputs": x.checked, "mismatches": x.mismatches, "overflows": proof.overflows[name]}
                for name, x in proof.layers.items()
            },
        )

    def _compress(self) -> tuple[Compression, dict[str, bytes]]:
        """The compressed network, and its files.

        With fine-tuning a method branches from the base training's checkpoint; one-shot it starts from the network that
        is trained to the end, as does a method that changes no layer.
        """
        trained, branch = self.trained()
        original, method = self.task.graph.with_state(trained.state_dict()), self.method
        given = CalibrationInputs.of(original, self.task.calibration, method, classes=self.task.has_labels)
        tuned = branch if method.finetune and changed_layers(method, original.network) else None
        compressed = compress_network(
            original,
            given,
            Request(method, self.chip, self.config.seed, self.config.quantize),
            tuning=_Tuned(self, copy.deepcopy(trained), tuned) if tuned is not None else None,
            remember=partial(self._remember, given.count),
            checkpoints=self.store.path / "tuning",
            progress=self.progress,
        )
        calibration = compressed.calibration
        result = (
            result_of_calibration(calibration, self.method, given.count, self.chip.grain.stored_bits)
            if calibration is not None
            else None
        )
        if result is not None:
            by_outputs = compressed.tuned is not None and compressed.tuned.result.taken > 0
            result = result.model_copy(update={"tuned": tuned is not None or by_outputs})
        digital = {name: x.clone() for name, x in digital_part(compressed.captured).state_dict().items()}
        files = {PLAN: compressed.plan.packed(), **({DIGITAL: save(digital)} if digital else {})}
        return Compression(calibration=result, check=compressed.check), files

    def _remember(self, inputs: int, captured: Captured, compute: Callable[[], Calibration]) -> Calibration:
        """Calibrated reuse of this network, or what an interrupted run has found."""
        before = digest_of(*(layer.weight.tobytes() for layer in captured.network.layers))
        entry = self.store.entry("calibration", {**self.depends_on, "weights": before})
        if (kept := entry.load(CalibrationResult)) is not None:
            return calibration_of(kept, NetworkPlan.load(self.store.path / _CALIBRATED).layers)
        calibration = compute()
        if calibration.plans:
            plans = {name: plan.alone() for name, plan in calibration.plans.items()}
            plan = NetworkPlan(self.method.name, plans, dict.fromkeys(plans, 1.0))
            entry.save(
                result_of_calibration(calibration, self.method, inputs, self.chip.grain.stored_bits),
                {_CALIBRATED: plan.packed()},
            )
        return calibration


@dataclass(frozen=True, eq=False)
class _Tuned:
    """Fine-tuning of a method from the base training's checkpoint: a ``Tuning``."""

    stages: MethodStages
    model: nn.Module
    branch: Checkpoint

    def start(self) -> Captured:
        self.branch.restore(self.model)
        return self.stages.task.graph.with_state(self.model.state_dict())

    def towards(self, assignments: Mapping[str, tuple[PatternSet, ReuseMap]]) -> Captured:
        return self._trained(partial(finetune, bits=self.stages.chip.grain.stored_bits), assignments)[0]

    def donors(self, plans: Mapping[str, LayerWeights]) -> tuple[Captured, Mapping[str, LayerWeights]]:
        for name, plan in plans.items():
            put_weights(self.model, name, plan)
        return self._trained(train_donors, plans)

    def _trained(self, train: Callable[..., Any], towards: Any) -> tuple[Captured, Any]:
        """The network with its new weights, and the statistics that belong to them; and what ``train`` returned."""
        of, name = self.stages, f"{self.stages.method.name}: fine-tuning"
        training = training_of(of.config, of.task, of.store.path / "checkpoints", name, of.progress, of.processes)
        given = train(self.model, training, self.branch, towards)
        return of.task.graph.with_state(self.model.state_dict()), given


def digital_part(captured: Captured) -> nn.Module:
    """The network without its layers and the batch norms that are folded into them: what no plan holds."""
    return captured.rebuild({layer.name: nn.Identity() for layer in captured.network.layers})


def saved_method(graph: Captured, place: Path) -> tuple[Captured, NetworkPlan]:
    """What ``MethodStages.compressed`` saved.

    Weights, scale and bias of all layers are in the plan, with the batch norms that were folded into them; what is left
    of the network (batch norms in front of a convolution) was saved beside it. The layers of what is returned have
    the weights of ``graph``, a network of the same kind, which nobody is to read.

    Raises:
        UserError: the files are missing or damaged.
    """
    plan = NetworkPlan.load(place / PLAN)
    rest, saved = digital_part(graph), place / DIGITAL
    if not rest.state_dict():
        return graph, plan
    if not saved.exists():
        raise UserError(
            f"{place} lacks {saved.name}: the run was made by an earlier version, which did not keep the "
            f"batch norms of {graph.network.name} that no layer holds; run it again in another folder"
        )
    try:
        state = load_file(saved)
        rest.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{saved} is not whole, or of another network") from error
    module = copy.deepcopy(graph.module)
    module.load_state_dict(rest.state_dict(), strict=False)
    return replace(graph, module=module), plan


def has_meaning(config: RunConfig, task: Task) -> bool:
    """Whether accuracy says anything: something measures it, and the weights were trained, as a user's own are."""
    if task.metric is None:
        return False
    return (task.own and not task.random) or config.training is not None or config.checkpoint is not None


def crossbar_budget(config: RunConfig, network: Network, plan: NetworkPlan, chip: Chip) -> int:
    """Crossbars that every method may fill: the configuration's, or what the network's dense plan takes.

    A plan that needs more than dense (its row groups may fill OUs badly) gets what it needs, unless a budget was set.
    """
    if config.crossbar_budget is not None:
        return config.crossbar_budget
    dense = sum(dense_crossbars(layer, chip) for layer in network.layers)
    return max(dense, sum(fewest_crossbars(layer, chip) for layer in plan.layers.values()))


def digests(config: RunConfig, task: Task, chip: Chip) -> dict[str, str]:
    """Digests of what the configuration only names, so that a run is not resumed with something else."""
    found = {
        "chip": chip_digest(chip),
        "component figures": digest_of(repr(sorted(load_table(chip.components).figures.items()))),
        "data": task.data_digest,
        **task.digests,
    }
    if config.checkpoint is not None:
        found["checkpoint"] = digest_of(*(x.contiguous().numpy().tobytes() for x in task.model.state_dict().values()))
    return found


def versions() -> dict[str, str]:
    """Of Python and the packages that compute."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}
