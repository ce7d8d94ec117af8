"""A model file in, a compressed model file out, and what there is to say about it."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError, shown
from prap_pim.common.files import check_writable
from prap_pim.common.progress import Progress, counted, phase, quiet
from prap_pim.cost import CostReport, cost
from prap_pim.frontend import Spread, decibel, on_copies
from prap_pim.frontend.onnx.calibration import read_inputs
from prap_pim.frontend.onnx.file import Array, OnnxFile
from prap_pim.frontend.onnx.lower import OnnxCapture, alike, capture_onnx, run_file
from prap_pim.frontend.onnx.program import to_tensor
from prap_pim.frontend.onnx.write import remove, write_onnx
from prap_pim.frontend.quantize import QuantizeConfig, grid_in
from prap_pim.frontend.weights import put_weights
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.network import Layer
from prap_pim.methods.compress import Compressed, bit_true_network, compress_network, plan_for_costs
from prap_pim.methods.config import Tune, with_tune
from prap_pim.methods.method import Method, config_of, given_once, method_of
from prap_pim.methods.prune import dense_weights
from prap_pim.methods.request import CalibrationInputs, Request
from prap_pim.results.onnx import CostSummary, LayerSummary, OnnxSummary, OutputSummary

_EXAMPLE = 2  # inputs that the shapes are found with
_LEAST_DB = 10.0  # of a bit-true file: where rounding comes out otherwise once, an input differs by one step
_TOGETHER = 64  # inputs, at most, that small batches are put together to


def compress_onnx(
    model: str | Path,
    calibration: str | Path,
    output: str | Path,
    method: str | Method = "calibrated",
    *,
    compute_ratio: float | None = None,
    chip: str | Path | Chip = "isaac-32nm",
    skip: Collection[str] = (),
    seed: int = 0,
    plan: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    quantize: QuantizeConfig | Mapping[str, Any] | None = None,
    batch_axes: Mapping[str, int | None] | None = None,
    bit_true: str | Path | None = None,
    tune: Tune | Mapping[str, Any] | int | None = None,
    progress: Progress | None = quiet,
) -> OnnxSummary:
    """Compress the weights of an ONNX model; its graph stays.

    Args:
        model: the file.
        calibration: npz file with the model's inputs (``read_inputs``).
        output: where the compressed model goes, with the weights that the crossbars hold: int8 times a step.
        method: as for ``prap_pim.compress``, as are the next four.
        compute_ratio: OU steps of the whole model over those of the uncompressed one.
        chip: a preset, a TOML file, or a ``Chip``.
        skip: names of layers that keep their weights.
        seed: of the calibration.
        plan: where the plan goes, if anywhere.
        options: further settings of the method, as for ``prap_pim.compress``.
        quantize: as for ``prap_pim.compress``.
        bit_true: where a model goes that computes as the crossbars do, if anywhere: its layers read int8.
        batch_axes: where inputs have their batch, by name; None: nowhere, the input is given once. What is not named is
            inferred (``read_inputs``).
        tune: as for ``prap_pim.compress``.
        progress: called after every layer.

    Raises:
        UserError: a file is not what it should be, or the model cannot be compressed as asked; nothing is written.
    """
    model, calibration, output = _path("model", model), _path("calibration", calibration), _path("output", output)
    plan = None if plan is None else _path("plan", plan)
    bit_true = None if bit_true is None else _path("bit_true", bit_true)
    progress = progress or quiet
    _check_places(model, calibration, output, plan, bit_true)
    on_chip = load_chip(chip)
    asked = method_of(method, given_once(options, compute_ratio=compute_ratio))
    file = OnnxFile.read(model)
    for what, path in (("the output", output), ("the plan", plan), ("the bit-true model", bit_true)):
        if path is not None and any(_same(path, each) for each in file.external):
            raise UserError(f"cannot write {what} to {path}: weights of {model} are in it")
    file, batches = read_inputs(file, calibration, batch_axes)
    found = capture_onnx(file, batches[0] if file.batch else tuple(x[:_EXAMPLE] for x in batches[0]))
    config = with_tune(config_of(asked, found.captured, on_chip, skip), tune)
    request = Request(config, on_chip, seed, QuantizeConfig.given(quantize))
    inputs = together(found, batches)
    given = CalibrationInputs.of(found.captured, inputs, config, divisible=file.batch is None)
    compressed = compress_network(found.captured, given, request, progress=progress)
    dense = plan_for_costs(found.captured, on_chip)
    costing = counted((dense, compressed.plan), phase(progress, "costs"))
    costs = [cost(found.captured.network, each, on_chip) for each in costing]
    before = run_file(file, counted(batches, phase(progress, "outputs before")))
    module = as_stored(compressed, on_chip)
    files, exact = write_onnx(found, module, output), None
    try:
        if bit_true is not None:
            grids = {layer.name: grid_in(compressed.plan, layer.name) for layer in found.captured.network.layers}
            files = (*files, *write_onnx(found, as_stored(compressed, on_chip, biases=True), bit_true, grids=grids))
            exact = _as_the_crossbars(file, bit_true, compressed, on_chip, batches[0])
        written = replace(OnnxFile.read(output), axes=file.axes, once=file.once)
        after = run_file(written, counted(batches, phase(progress, "outputs after")))
        if plan is not None:
            compressed.plan.save(plan)
    except UserError:
        remove(files)
        raise
    network = found.captured.network
    return OnnxSummary(
        model=str(model),
        output=str(output),
        files=[str(each) for each in files],
        method=config.name,
        chip=on_chip.name,
        seed=seed,
        inputs=sum(len(batch[0]) for batch in batches),
        layers=_layers(found, compressed, module, costs),
        mapped_weights=network.on_crossbars.weights,
        mapped_macs=network.on_crossbars.macs,
        digital=dict(found.captured.unsupported),
        digital_shares={name: str(network.share_of(name)) for name in found.captured.unsupported},
        batch_axes=dict(file.axes),
        once={name: _value(value) for name, value in file.once.items()},
        branches={each.node.name or each.node.output[0]: each.taken for each in file.branches},
        compute_ratio=costs[1].ou_steps / costs[0].ou_steps,
        dense=_costs(costs[0]),
        compressed=_costs(costs[1]),
        limit=". ".join(filter(None, [compressed.prepared, compressed.spent, compressed.met, compressed.decided])),
        check=compressed.check,
        outputs=_outputs(file, before, after),
        bit_true_outputs=exact,
        plan_sha256=compressed.plan.digest(),
    )


def together(found: OnnxCapture, batches: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """Batches of a fixed size as larger ones, if the network computes the same on them: several see more than one."""
    fixed = found.file.batch
    if fixed is None or 2 * fixed > _TOGETHER:
        return batches
    each = _TOGETHER // fixed
    larger = [tuple(map(torch.cat, zip(*batches[i : i + each], strict=True))) for i in range(0, len(batches), each)]
    one_by_one = run_file(found.file, batches[:each])
    try:
        with torch.no_grad():
            found_together = found.captured.module(*larger[0])
        given = (found_together,) if isinstance(found_together, Tensor) else found_together
        wanted = [_joined(every, whole) for every, whole in zip(zip(*one_by_one, strict=True), given, strict=True)]
    except (UserError, RuntimeError, ValueError):
        return batches
    return larger if all(alike(own, other) for own, other in zip(wanted, given, strict=True)) else batches


def _joined(parts: Sequence[Array], whole: Tensor) -> Tensor:
    """An output of several batches one after another, on the axis on which it is longer for all of them together."""
    longer = (i for i, (one, other) in enumerate(zip(parts[0].shape, whole.shape, strict=False)) if one != other)
    return torch.cat([to_tensor(each) for each in parts], next(longer, 0))


def _value(array: Array) -> str:
    return f"{array.item():g}" if array.size == 1 else f"{array.dtype} {list(array.shape)}"


def _path(what: str, given: Any) -> Path:
    if not isinstance(given, str | Path) or not str(given):
        raise UserError(f"{what} must be the path of a file, not {given!r}")
    return Path(given)


def _check_places(model: Path, calibration: Path, output: Path, plan: Path | None, bit_true: Path | None) -> None:
    """
    Raises:
        UserError: one of the files would take the place of another, or cannot be written.
    """
    places = {"the model": model, "the calibration inputs": calibration, "the output": output, "the plan": plan}
    for what, path in (("the output", output), ("the plan", plan), ("the bit-true model", bit_true)):
        if path is None:
            continue
        check_writable(path)
        for other, its_path in places.items():
            if its_path is not None and other != what and _same(path, its_path):
                raise UserError(f"cannot write {what} to {path}: it would replace {other}")


def _same(one: Path, other: Path) -> bool:
    both = one.exists() and other.exists()
    return one.resolve() == other.resolve() or (both and one.samefile(other))


def as_stored(compressed: Compressed, chip: Chip, biases: bool = False) -> nn.Module:
    """The compressed network with what the crossbars hold, int8 times a step, also of layers that are left dense.

    Args:
        biases: whether the biases of these are the plan's, too, which take back the mean of what rounding changes;
            not inside of a node that takes none, such as an einsum.
    """
    captured = compressed.captured
    module = copy.deepcopy(captured.module)
    for layer in captured.network.layers:
        if layer.name in compressed.changed:
            continue
        plan = dense_weights(layer, chip.grain)
        if biases and captured.origins[layer.name].takes_bias:
            usable = layer.filter_scale != 0
            shift = (compressed.plan.layers[layer.name].bias - layer.filter_bias) / np.where(
                usable, layer.filter_scale, 1
            )
            plan = replace(plan, bias=np.where(usable, shift, 0).astype(np.float32))
        put_weights(module, layer.name, plan)
    return module


def _layers(
    found: OnnxCapture, compressed: Compressed, module: nn.Module, costs: list[CostReport]
) -> list[LayerSummary]:
    calibration = compressed.calibration
    errors = {each.name: each.error for each in calibration.layers if each.changed} if calibration else {}
    lines = []
    for layer, dense, now in zip(found.captured.network.layers, costs[0].layers, costs[1].layers, strict=True):
        lines.append(
            LayerSummary(
                name=layer.name,
                rows=layer.rows,
                filters=layer.filters,
                groups=layer.groups,
                calls=len(found.calls[layer.name]),
                ou_steps=now.ou_steps,
                dense_ou_steps=dense.ou_steps,
                error=errors[layer.name] if layer.name in errors else _weight_error(layer, module),
            )
        )
    return lines


def _weight_error(layer: Layer, module: nn.Module) -> float:
    weight: Any = module.get_submodule(layer.name).weight
    difference = weight.detach().numpy().reshape(layer.matrix.shape) - layer.matrix
    energy = float(np.square(layer.matrix, dtype=np.float64).sum())
    return float(np.square(difference, dtype=np.float64).sum()) / energy if energy else 0.0


def _costs(report: CostReport) -> CostSummary:
    return CostSummary(
        crossbars=report.crossbars,
        area_m2=report.area_m2,
        energy_j=report.energy_j,
        serial_latency_s=report.serial.latency_s,
        pipelined_latency_s=report.pipelined.latency_s,
        pipelined_throughput_per_s=report.pipelined.throughput_per_s,
    )


@torch.no_grad()
def _as_the_crossbars(
    file: OnnxFile, path: Path, compressed: Compressed, chip: Chip, batch: tuple[Tensor, ...]
) -> list[OutputSummary]:
    """What a bit-true file gives for a batch, by onnxruntime, beside the bit-true network.

    Raises:
        UserError: it gives something else.
    """
    written = replace(OnnxFile.read(path), axes=file.axes, once=file.once)
    wanted = on_copies(bit_true_network(compressed.captured, compressed.plan, chip), batch)
    arrays = [each.numpy() for each in ((wanted,) if isinstance(wanted, Tensor) else wanted)]
    found = _outputs(file, [arrays], run_file(written, [batch]))
    for each, array in zip(found, arrays, strict=True):
        if each.sqnr_db is not None and each.sqnr_db < _LEAST_DB and np.issubdtype(array.dtype, np.floating):
            raise UserError(
                f"{path}: what was written does not compute as the crossbars do: output {shown(each.name)} has "
                f"{each.sqnr_db:.1f} dB against the bit-true network"
            )
    return found


def _outputs(file: OnnxFile, before: list[list[Array]], after: list[list[Array]]) -> list[OutputSummary]:
    lines = []
    for i, name in enumerate(file.outputs):
        signal, noise, largest, value = Spread(), 0.0, 0.0, 0.0
        for one, other in zip(before, after, strict=True):
            own, changed = np.asarray(one[i], np.float64), np.asarray(other[i], np.float64)
            if own.shape != changed.shape or not np.isfinite(changed).all():
                raise UserError(f"{file.path}: compressed, its output {shown(name)} is of another size or not finite")
            difference = np.abs(own - changed)
            signal.add(torch.from_numpy(own), 1 if own.ndim > 3 else -1)
            noise += float(np.square(difference).sum())
            largest, value = max(largest, difference.max(initial=0)), max(value, np.abs(own).max(initial=0))
        sqnr = None if noise == 0 else decibel(signal.total, noise)
        lines.append(OutputSummary(name=name, sqnr_db=sqnr, largest_difference=largest, largest_value=value))
    return lines
