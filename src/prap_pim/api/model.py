"""The library: any PyTorch model compressed and costed in a line each."""

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from prap_pim.api.saved import (
    pack_batch,
    packed,
    put_state,
    read_folder,
    read_state,
    unpack_batch,
    write_folder,
)
from prap_pim.common.cluster import here, tasks_on
from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import path_of
from prap_pim.common.names import shortened
from prap_pim.common.notebook import html_table
from prap_pim.common.progress import Progress, quiet
from prap_pim.common.progress import phase as told_phase
from prap_pim.cost import (
    CostReport,
    Phase,
    PipelinedBy,
    Traced,
    check_phase,
    check_timing,
    cost,
    of_phase,
    priced_by_data,
    timed_by_events,
)
from prap_pim.crossbar import CrossbarModel, Device, MonteCarloReport, data_rates, over_devices
from prap_pim.frontend import (
    Called,
    Captured,
    Comparison,
    Inputs,
    as_values,
    calibration_batches,
    call,
    capture,
    check_model,
    copied,
    judged_outputs,
    not_of_one_size,
    of_arrays,
    on_copies,
    one_of_each_size,
    plain_copy,
    sizes,
    state_digest,
    tensors,
    token_axes,
    with_tokens,
    without_labels,
)
from prap_pim.frontend.equalize import Equalised
from prap_pim.frontend.quantize import QuantizeConfig
from prap_pim.frontend.weights import parameter_at, put_layer, untied
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.network import DigitalOp, Network
from prap_pim.ir.plan import INT8, NetworkPlan
from prap_pim.ir.rates import DataRates
from prap_pim.mapping.steps import compute_ratio, dense_steps, ou_steps, ous
from prap_pim.methods.calibrate.layer import Setting
from prap_pim.methods.calibrate.network import Allocated, Calibration
from prap_pim.methods.compress import (
    Compressed,
    bit_true_network,
    compress_network,
    plan_for_costs,
)
from prap_pim.methods.config import MethodConfig, Tune, with_tune
from prap_pim.methods.method import Method, config_of, literal, method_of, names_to_skip
from prap_pim.methods.request import CalibrationInputs, Request
from prap_pim.results.run import CheckResult, above_dense, unused_budget
from prap_pim.runs.crossbars import Crossbars
from prap_pim.runs.metric import OwnMetric
from prap_pim.runs.stages import versions

_PLAN, _MODEL, _CAPTURED, _EXAMPLE = (f"{name}.safetensors" for name in ("plan", "model", "captured", "example"))


@dataclass(frozen=True, eq=False)
class Compression:
    """What ``compress`` returns.

    Attributes:
        model: a copy of the user's model with the compressed weights, in evaluation mode: called as the model is. Its
            activations are not quantised.
        plan: the weight patterns that are stored and who uses them: what ``estimate`` costs; ``plan.save(path)``.
        network: the model's layers and digital operations.
        changed: names of the layers that were compressed.
        unsupported: modules with weights that cannot be mapped and were skipped, and why.
        chip: the plan is for its OUs.
    """

    model: nn.Module
    plan: NetworkPlan
    network: Network
    changed: tuple[str, ...]
    unsupported: Mapping[str, str]
    chip: Chip
    _compressed: Compressed
    _original: Captured
    _batch: Inputs
    _several_sizes: bool = False
    _skip: tuple[str, ...] = ()
    _of_model: str = ""  # digest of the user's model

    def __repr__(self) -> str:
        whole = f"{self.network.name}: {self.plan.method}, {self.compute_ratio:.4f} of the OU steps"
        return f"Compression({whole}, {len(self.changed)} of {len(self.network.layers)} layers, for {self.chip.name})"

    @property
    def calibration(self) -> Calibration | None:
        """What calibrated reuse gave each layer, and which share of the inputs is classified otherwise; None for
        another method."""
        return self._compressed.calibration

    @property
    def check(self) -> CheckResult:
        """How far the bit-true outputs are from the original model's, on inputs that were held back for it."""
        return self._compressed.check

    @property
    def compute_ratio(self) -> float:
        """OU steps of one inference over those of the uncompressed model, layers that were left dense included."""
        return compute_ratio(self.network, self.plan, self.chip.grain)

    @cached_property
    def bit_true(self) -> nn.Module:
        """The network with every layer's integers computed exactly as the crossbars do, activations int8.

        It is called as the model is, with the tensors in the same places and all else as in the first calibration
        batch, and gives what the model gives.
        """
        rebuilt = bit_true_network(self._compressed.captured, self.plan, self.chip)
        return Called.as_model(rebuilt, self.model, self._batch, self.network.name)

    def simulate(
        self,
        crossbars: Device | Mapping[str, Any] | None = None,
        *,
        evaluate: Callable[[nn.Module], Any],
        devices: int = 10,
        seed: int = 0,
        minimize: Collection[str] = (),
        processes: int = 1,
        progress: Progress | None = quiet,
    ) -> MonteCarloReport:
        """What the network is worth on crossbars with device effects, device by device.

        Args:
            crossbars: a device; or settings of ``CrossbarModel`` over those of the chip, as ``{"adc_bits": 4}``; None:
                the chip's own crossbars.
            evaluate: of a module that is called as the model is; gives a number, or numbers by name.
            devices: how many, each with errors of its own; one stands for all where nothing is random.
            seed: of their errors.
            minimize: names of those numbers of which less is better.
            processes: as for ``monte_carlo``; more than one need a function that is defined at the top of a module.
            progress: called after every device.

        Raises:
            UserError: a setting is wrong, or ``evaluate`` raises or gives no finite number.
        """
        model, progress = Crossbars.of(crossbars).model(self.chip), progress or quiet
        called = Called.as_model(nn.Identity(), self.model, self._batch, self.network.name).around
        metric = OwnMetric(evaluate, tuple(minimize), called)
        networks = {self.plan.method: (self._compressed.captured, self.plan)}
        told = told_phase(progress, "with device effects")
        return over_devices(networks, model, metric, devices, seed, processes, told, metric.minimize)

    def save(self, folder: str | Path) -> None:
        """Keep all of it in a folder: plan, weights, the first calibration batch, and a manifest; safetensors and JSON.

        Raises:
            UserError: a file cannot be written.
        """
        found, path = self._compressed, path_of(folder, "folder")
        batch, example = pack_batch(self._batch)
        calibration = found.calibration
        content = {
            "name": self.network.name,
            "method": found.request.method.model_dump(mode="json"),
            "chip": self.chip.model_dump(mode="json"),
            "seed": found.request.seed,
            "quantize": [each.model_dump(mode="json") for each in (found.request.quantize, found.quantize)],
            "changed": list(self.changed),
            "skip": list(self._skip),
            "inputs": found.inputs,
            "several_sizes": self._several_sizes,
            "check": found.check.model_dump(mode="json"),
            "equalised": [vars(site) for site in found.equalised],
            "calibration": None if calibration is None else _plain(calibration),
            "batch": batch,
            "model": self._of_model,
        }
        files = {
            _PLAN: self.plan.packed(),
            _MODEL: packed(self.model.state_dict()),
            _CAPTURED: packed(found.captured.module.state_dict()),
            _EXAMPLE: packed(example),
        }
        write_folder(path, content, files)

    @staticmethod
    def load(folder: str | Path, model: nn.Module) -> "Compression":
        """Read what ``save`` wrote.

        Args:
            folder: where it is.
            model: the one that was compressed, with its own weights; it is not touched.

        Raises:
            UserError: a file is missing or damaged, or it is another model.
        """
        path = path_of(folder, "folder")
        content = read_folder(path)
        check_model(model)
        if state_digest(model) != content["model"]:
            raise UserError(f"{path} is of another model than this {type(model).__name__}, or of other weights")
        batch = unpack_batch(content["batch"], read_state(path / _EXAMPLE))
        skip = tuple(content["skip"])
        original = capture(model, batch, content["name"], skip)
        try:
            captured = original.with_state(read_state(path / _CAPTURED))
        except RuntimeError as error:
            raise UserError(
                f"{path}: the model is traced otherwise than when it was compressed, by other settings of its own or "
                "another version of torch"
            ) from error
        changed_model = plain_copy(model, content["name"])
        if any(original.origins[layer].computed for layer in content["changed"]):
            changed_model = Called.as_model(copy.deepcopy(captured.module), changed_model, batch, content["name"])
        else:
            put_state(changed_model, read_state(path / _MODEL))
        chip, method = Chip.checked(content["chip"], str(path)), MethodConfig.checked(content["method"], str(path))
        asked, settled = (QuantizeConfig.checked(each, str(path)) for each in content["quantize"])
        calibration = content["calibration"]
        found = Compressed(
            captured=captured,
            plan=NetworkPlan.load(path / _PLAN),
            changed=tuple(content["changed"]),
            calibration=None if calibration is None else _calibration(calibration),
            check=CheckResult.model_validate(content["check"]),
            equalised=tuple(
                Equalised(site["source"], tuple(site["readers"]), tuple(site["parameters"]), site["gain"])
                for site in content["equalised"]
            ),
            request=Request(method, chip, content["seed"], asked),
            quantize=settled,
            inputs=content["inputs"],
        )
        kept = content["several_sizes"], skip, content["model"]
        return Compression._of(changed_model, original, found, batch, *kept)

    @staticmethod
    def _of(
        model: nn.Module,
        original: Captured,
        found: Compressed,
        batch: Inputs,
        several_sizes: bool,
        skip: tuple[str, ...],
        of_model: str,
    ) -> "Compression":
        return Compression(
            model=model,
            plan=found.plan,
            network=found.captured.network,
            changed=found.changed,
            unsupported=original.unsupported,
            chip=found.request.chip,
            _compressed=found,
            _original=original,
            _batch=batch,
            _several_sizes=several_sizes,
            _skip=skip,
            _of_model=of_model,
        )

    @torch.no_grad()
    def sqnr_db(self, batch: Inputs | None = None) -> float:
        """Signal to noise of all bit-true outputs together against those of the user's model, in dB.

        The signal is what varies, as in the check: each channel's distance from its mean over the batch.

        Args:
            batch: inputs as the model takes them; the first calibration batch if None, which calibrated reuse was
                fitted to: inputs that it has not seen tell more.

        Raises:
            UserError: the model does not run on the batch.
        """
        given = self._batch if batch is None else without_labels(of_arrays(batch), self.model)
        name = self.network.name
        try:
            wanted = judged_outputs(on_copies(self._original.module, tensors(given, name)), name)
        except RuntimeError as error:
            raise UserError(f"model {name} does not run on this batch: {one_line(error)}") from error
        comparison = Comparison(as_values(wanted))
        comparison.add(wanted, judged_outputs(call(self.bit_true, tree_map(copied, given)), name))
        return comparison.sqnr_db

    def summary(self) -> str:
        """What is on crossbars; the result's check and the budget; what is not on crossbars; a table of every layer."""
        notes, table = self._table()
        width = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = [
            "  ".join([row[0].ljust(width[0]), *(row[i].rjust(width[i]) for i in range(1, len(row)))]) for row in table
        ]
        return "\n".join([*notes, "", *lines])

    def _repr_html_(self) -> str:
        notes, (heads, *rows) = self._table()
        return html_table(". ".join(notes), heads, rows)

    def _table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """What there is to say of all layers; headings, and a row for each."""
        header = ("layer", "rows", "filters", "conv groups", "OU steps", "share")
        given = {each.name: each for each in self.calibration.layers} if self.calibration else {}
        table: list[tuple[str, ...]] = [(*header, "donors", "sensitivity", "error") if given else header]
        names = shortened([layer.name for layer in self.network.layers])
        for name, layer in zip(names, self.network.layers, strict=True):
            steps, of_dense = self._steps[layer.name]
            share = f"{steps / of_dense:.3f}" if layer.name in self.changed else "whole"
            sizes = (f"{layer.rows:,}", f"{layer.filters:,}", f"{layer.groups:,}")
            told = _told(given[layer.name], layer.kernel_positions) if given else ()
            table.append((name, *sizes, f"{steps:,}", share, *told))
        layers = f"{len(self.network.layers)} layers on crossbars ({self.network.on_crossbars})"
        whole = f"{self.plan.method}: {self.compute_ratio:.4f} of the OU steps, {layers}"
        found = self._compressed
        not_mapped = [f"digital: {kind}: {share}" for kind, share in self.network.digital_shares().items()]
        for path, reason in self.unsupported.items():
            not_mapped.append(f"not mapped: {path}: {reason}; {self.network.share_of(path)}")
        limits = [
            found.prepared,
            self._costed,
            unused_budget(self.compute_ratio, found.asked),
            found.spent,
            found.met,
            found.decided,
            self._left_whole,
        ]
        above = above_dense(self.plan.method, self._steps)
        warning = [f"warning: {above}"] if above else []
        return [whole, *warning, *found.check.lines, *filter(None, limits), *not_mapped], table

    @property
    def _steps(self) -> dict[str, tuple[int, int]]:
        """OU steps of each layer, and those of its dense plan."""
        plans, grain = self.plan.layers, self.chip.grain
        return {
            layer.name: (ou_steps(layer, ous(plans[layer.name], grain), grain), dense_steps(layer, grain))
            for layer in self.network.layers
        }

    @property
    def _left_whole(self) -> str:
        """Layers that were not compressed although nobody asked for that."""
        names = ", ".join(self._original.read_twice)
        return names and f"left dense: {names}, which read one parameter in several ways, as x @ w and x @ w.T do"

    @property
    def _costed(self) -> str:
        """What costs are of, where the calibration batches differ in size."""
        if not self._several_sizes:
            return ""
        shapes = " and ".join(str(list(size)) for size in dict.fromkeys(sizes(self._batch, self.network.name)))
        return f"the batches differ in size: OU steps and costs are of an input {shapes}, as in the first batch"


def compress(
    model: nn.Module,
    calibration: Tensor | Iterable[Inputs],
    method: str | Method | MethodConfig = "calibrated",
    *,
    compute_ratio: float | None = None,
    chip: str | Path | Chip = "isaac-32nm",
    skip: str | Collection[str] = (),
    seed: int = 0,
    name: str = "",
    quantize: QuantizeConfig | Mapping[str, Any] | None = None,
    tune: Tune | Mapping[str, Any] | int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = quiet,
    **options: Any,
) -> Compression:
    """Compress any model that torch.fx or torch.export can trace, without labels. The model itself is not touched.

    A result that takes more OU steps than the uncompressed model is warned of (``UserWarning``).

    Args:
        model: any module. Convolutions and linear layers, also those inside attention, are mapped on crossbars.
        calibration: a tensor of inputs [N, ...], or batches as the model takes them: a tensor, a tuple of arguments or
            a dictionary of named ones each, all with the batch in front. NumPy arrays will do. Labels are not needed:
            from pairs (inputs, labels), as a data loader gives them, the inputs are taken if the model's ``forward``
            has no second argument; if it has, give the inputs alone.
        method: ``Calibrated(...)``, ``LowBit``, ``Similar``, ``Identical``, ``Prap``, ``Orc``, ``Structured``,
            ``Pattern`` or ``Dense()``; or the name of one ("calibrated", ...), whose settings are then keywords of this
            call.
        compute_ratio: OU steps of the whole model over those of the uncompressed one.
        chip: a preset, a TOML file or a ``Chip`` (``load_chip``), for the size of its OUs.
        skip: names of layers, of modules that hold them, or patterns with * and ?: they keep their weights (but for
            equalised channels, see ``quantize``). Modules that cannot be mapped are computed digitally if named.
        seed: of which of a layer's inputs are looked at where there are more than needed: the same seed gives the same
            plan.
        name: what to call the model; its class's name if empty.
        quantize: how the int8 grids of activations are found (``QuantizeConfig``), such as ``{"zero_point": False}``.
        tune: train what is compressed to the model's own outputs, without labels: so many steps, or settings of
            ``Tune``, such as ``{"steps": 300, "inputs": 32}``. None: it is not trained.
        scheduler: address of a Dask scheduler, as tcp://host:port, whose workers compress layers that do not depend on
            one another (``prap-pim[cluster]``); the plan is the same. None: this process does.
        progress: called after every layer; None: nobody is.
        options: further settings of a method that is given by its name, such as ``keep`` of "similar".

    Raises:
        UserError: the model cannot be traced, a module cannot be mapped, a setting is wrong, or the ratio is out of
            reach; one line that names what and why.
    """
    check_model(model)
    if not isinstance(name, str):
        raise UserError(f"name must be text, not {name!r}")
    progress = progress or quiet
    asked = method_of(method, {"compute_ratio": compute_ratio, **options})
    skip = names_to_skip(skip)
    name = name or type(model).__name__
    batches = calibration_batches(calibration, model, name)
    on_chip = load_chip(chip)
    captured = capture(model, batches[0], name, skip, batches[1:])
    whole = (*skip, *map(literal, captured.read_twice))
    config = with_tune(config_of(asked, captured, on_chip, whole), tune)
    request = Request(config, on_chip, seed, QuantizeConfig.given(quantize))
    try:
        inputs = CalibrationInputs.of(captured, batches, config)
        with nullcontext(here) if scheduler is None else tasks_on(scheduler, versions) as tasks:
            found = compress_network(captured, inputs, request, progress=progress, tasks=tasks)
    except RuntimeError as error:
        raise _of_one_size(batches, name, error) from error
    several = bool(one_of_each_size(batches, name))
    changed = _drop_in(model, captured, found, batches[0], name)
    compression = Compression._of(changed, captured, found, batches[0], several, skip, state_digest(model))
    if above := above_dense(compression.plan.method, compression._steps):
        warnings.warn(above, stacklevel=2)
    return compression


def estimate(
    model: "nn.Module | Compression | NetworkPlan",
    example: Inputs | None = None,
    chip: str | Path | Chip | None = None,
    skip: str | Collection[str] = (),
    plan: "NetworkPlan | Compression | str | Path | None" = None,
    *,
    phase: Phase | None = None,
    context: int | None = None,
    batch: int = 1,
    timing: PipelinedBy = "formula",
    data: Tensor | Iterable[Inputs] | None = None,
) -> CostReport:
    """Latency, energy and area of one inference of a model, of what ``compress`` returned, or of a plan.

    Of a transformer also of a prompt and of one token (``phase``): ``estimate(model, example, phase="decode",
    context=1024)``.

    Args:
        model: a module is mapped as it is, every layer dense, or by the plan that is given with it. A plan that
            ``compress`` or a run made holds its model's shapes, for the inputs that it was made with.
        example: one input batch as the model takes it; sizes count, values do not. For a compression or a plan: not
            needed; its sizes must be those that they were made with.
        chip: a preset, a TOML file or a ``Chip``; None: the one that a compression was made for, else "isaac-32nm". The
            chip of a compression must have OUs of the size that it was made for.
        skip: as for ``compress``.
        plan: of this model: a plan, the file of one that was saved, or what ``compress`` returned.
        phase: "prefill": a prompt of ``context`` tokens, whose keys and values are kept; "decode": one token more,
            which attends to ``context`` tokens, itself among them. The model is traced for two small numbers of tokens;
            the counts for any other follow. The example has its tokens on axis 1; where inputs have names that begin
            with "decoder_", tokens are theirs, and what is beside them is an encoder's, of the size that it has.
        context: see ``phase``; the number of tokens of the example if None.
        batch: sequences whose keys and values are kept; all else is of one of them.
        timing: of the pipelined times. "formula": every layer by itself, position by position; "events": a simulation
            in which messages wait for one another on the links between tiles (``prap-pim[events]``).
        data: inputs as for ``compress``, of a compression (``method="dense"`` compresses nothing): energy is what they
            and the stored weights take, by the rows that they raise, the cells that conduct and the conversions of
            steps in which any row is raised. None: that of uniform data, which is the tables'.

    Raises:
        UserError: as ``compress``; or the plan is of another model; or the chip is too small.
    """
    on_chip, skip, example = chip_of(chip, model, plan), names_to_skip(skip), of_arrays(example)
    check_timing(timing)
    if phase is None and (context is not None or batch != 1):
        raise UserError('context and batch need a phase: give phase="prefill" or phase="decode"')
    if phase is not None:
        if timing == "events" or data is not None:
            raise UserError('timing="events" and data are of a whole network: leave phase out')
        return of_phases(model, example, [(phase, context)], batch, on_chip, skip, plan)[0]
    plan = _plan(plan)
    if plan is not None and isinstance(model, NetworkPlan | Compression):
        raise UserError("give either a plan as the model, or a model and its plan")
    if isinstance(model, NetworkPlan):
        network, plan = model.network(), model
        _same_inputs(network, example)
    elif isinstance(model, Compression):
        if on_chip.grain != model.chip.grain:
            raise UserError(f"chip {on_chip.name} has other OUs than {model.chip.name}, for which the plan was made")
        network, plan = model.network, model.plan
        _same_inputs(network, example)
    else:
        captured = capture(model, _example(model, example), type(model).__name__, skip)
        network, plan = captured.network, plan_for_costs(captured, on_chip) if plan is None else plan
    report = cost(network, plan, on_chip)
    if data is not None:
        report = priced_by_data(report, _rates(model, data, on_chip))
    return timed_by_events(report, network) if timing == "events" else report


def chip_of(chip: str | Path | Chip | None, *made: Any) -> Chip:
    """The chip that is asked for; None: that of the first of these which is a compression, or else the default."""
    if chip is None:
        chip = next((each.chip for each in made if isinstance(each, Compression)), "isaac-32nm")
    return load_chip(chip)


def _rates(model: Any, data: Any, chip: Chip) -> dict[str, DataRates]:
    if not isinstance(model, Compression):
        raise UserError('data are of a compression: estimate(compress(model, inputs, "dense"), data=inputs)')
    name = model.network.name
    batches = calibration_batches(data, model.model, name)
    return data_rates(model._compressed.captured, model.plan, batches, CrossbarModel.of(chip))


def of_phases(
    model: "nn.Module | Compression | NetworkPlan",
    example: Inputs | None,
    phases: Sequence[tuple[Phase, int | None]],
    batch: int,
    chip: str | Path | Chip | None,
    skip: str | Collection[str],
    plan: "NetworkPlan | Compression | str | Path | None",
) -> list[CostReport]:
    """As ``estimate``, of several phases, each with its context; the model is traced for all of them together."""
    for phase, context in phases:
        check_phase(phase, 1 if context is None else context, batch)
    if isinstance(model, NetworkPlan):
        raise UserError("a plan has the shapes of one number of tokens: a phase needs the model, plan=plan")
    if isinstance(model, Compression):
        if plan is not None:
            raise UserError("give either a plan as the model, or a model and its plan")
        plan, example = model.plan, model._batch if example is None else example
        model = model.model
    example = _example(model, example)
    on_chip, plan, name = chip_of(chip, model, plan), _plan(plan), type(model).__name__
    tokens, _ = token_axes(example, name)
    own = max(tokens, _FEWEST)
    sizes = own, own // 2 if own >= 2 * _FEWEST else own + _FEWEST
    captured, other = (capture(model, with_tokens(example, each, name), name, names_to_skip(skip)) for each in sizes)
    one, two = (Traced(each.network, size) for each, size in zip((captured, other), sizes, strict=True))
    plan = plan_for_costs(captured, on_chip) if plan is None else plan
    contexts = [(phase, tokens if context is None else context) for phase, context in phases]
    return [cost(of_phase(one, two, phase, context, batch), plan, on_chip) for phase, context in contexts]


def _example(model: nn.Module, given: Inputs | None) -> Inputs:
    check_model(model)
    if given is None:
        raise UserError("a model needs an example of its inputs to be costed")
    return without_labels(of_arrays(given), model)


def _plan(given: "NetworkPlan | Compression | str | Path | None") -> NetworkPlan | None:
    if isinstance(given, str | Path):
        return NetworkPlan.load(given)
    if isinstance(given, Compression):
        return given.plan
    if not isinstance(given, NetworkPlan | None):
        raise UserError(f"plan must be a NetworkPlan, its file or a Compression, not {type(given).__name__}")
    return given


def _plain(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain values, without the plans of its layers."""
    layers = [{**vars(layer), "setting": layer.setting and asdict(layer.setting)} for layer in calibration.layers]
    values = {"drop": calibration.drop, "held_back": list(calibration.held_back), "share": calibration.share}
    return {"layers": layers, **values}


def _calibration(plain: Mapping[str, Any]) -> Calibration:
    """Of what ``_plain`` made."""
    layers = tuple(
        Allocated(**{**layer, "setting": None if layer["setting"] is None else Setting(**layer["setting"])})
        for layer in plain["layers"]
    )
    return Calibration({}, layers, plain["drop"], tuple(plain["held_back"]), None, plain["share"])


def _told(layer: Allocated, positions: int) -> tuple[str, str, str]:
    """Donors, with their bits if these are few, sensitivity, and relative output error of a layer whose kernel has so
    many positions."""
    donors = "all" if layer.setting is None else f"{layer.setting.donors:,}"
    if layer.setting is not None and layer.setting.positions is not None:
        donors += f", {layer.setting.positions} of {positions}"
    if layer.setting is not None and layer.setting.bits < INT8:
        donors += f", {layer.setting.bits} bits"
    if layer.setting is not None and layer.setting.uses > 1:
        donors += f", sums of {layer.setting.uses}"
    return donors, "-" if layer.sensitivity is None else f"{layer.sensitivity:.2g}", f"{layer.error:.2%}"


def _same_inputs(network: Network, example: Inputs | None) -> None:
    """An example beside a plan must have the sizes that the plan was made with."""
    if example is None:
        return
    given = sum(each[0].numel() for each in tensors(example, network.name))
    known = sum(each.output_elements for each in network if isinstance(each, DigitalOp) and each.op == "input")
    if given != known:
        raise UserError(
            f"the plan of {network.name} was made for inputs of {known:,} values each, not {given:,}: "
            "estimate(model, example, plan=plan) costs it for others"
        )


def _of_one_size(batches: Sequence[Inputs], name: str, error: RuntimeError) -> Exception:
    """What went wrong in computing batches: if they differ in size, that."""
    other = next(iter(one_of_each_size(batches, name)), None)
    return error if other is None else not_of_one_size(batches, other, name)


_FEWEST = 3  # tokens that a model is traced with: not as many as the two inputs


@torch.no_grad()
def _drop_in(model: nn.Module, captured: Captured, found: Compressed, batch: Inputs, name: str) -> nn.Module:
    """A copy of the user's model with the weights, biases and statistics of batch norm of the compressed network; or
    the traced network, where the model computes a weight from others and so has no place for it."""
    changed = plain_copy(model, name)
    if any(captured.origins[layer].computed for layer in found.changed):
        return Called.as_model(copy.deepcopy(found.captured.module), changed, batch, name)
    layers = {layer.name for layer in captured.network.layers}
    own = untied(changed, (captured.origins[layer.name].parameter for layer in captured.network.layers))
    scaled = {name for site in found.equalised for name in (site.source, *site.readers)} & layers
    for name in dict.fromkeys((*found.changed, *sorted(scaled))):
        put_layer(changed, captured.origins[name], found.captured, name, own)
    for path in found.parameters:
        parameter_at(changed, _in_model(changed, path)).copy_(parameter_at(found.captured.module, path))
    for path, module in found.captured.module.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            own_norm = changed.get_submodule(path)
            own_norm.load_state_dict({**own_norm.state_dict(), **_statistics(module)})
    return changed


def _statistics(norm: nn.Module) -> dict[str, Tensor]:
    """What a batch norm computes with: how many batches it has seen is the user's, and not traced."""
    return {name: value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}


def _in_model(model: nn.Module, path: str) -> str:
    """Where a parameter of a traced module is in the user's model."""
    names = dict(model.named_parameters())
    traced = {"constants." + f"model.{name}".replace(".", "_"): name for name in names}
    return path if path in names else traced[path]
