"""Measures one point of benchmarks/real.py, in a process of its own so that its memory can be told.

    python benchmarks/real_point.py REQUEST.json POINT.json

real.py starts it. Its functions measure a point in this process: ``measure(Request(network="onet", ...))``.
"""

import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch
from pydantic import BaseModel, Field
from real_networks import network
from real_networks.base import Answers, Array, Data, Inputs, Network, batches
from torch import nn

import prap_pim
from prap_pim.api.onnx import compress_onnx
from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import read_json, write_json
from prap_pim.ir.plan import NetworkPlan

CHIPS = ("isaac-32nm", "prap-2023")  # plans are made for the OUs of the first; the other has the same
GATHER = "isaac-32nm, gather"  # the first with another order of partial sums
FLOAT = "float"  # the network as it is


class Request(BaseModel, frozen=True, extra="forbid"):
    """What to measure.

    Attributes:
        network: a module of real_networks.
        method: of ``prap_pim.compress``, or ``FLOAT``.
        ratio: as asked for, "1/4"; "1" where there is nothing to ask for.
        compute_ratio, options: what ``prap_pim.compress`` is given.
        calibration, test: numbers of inputs, as asked for; the network's own if None.
        threads: of PyTorch and onnxruntime; the environment must say so, too.
    """

    network: str
    method: str = "calibrated"
    ratio: str = "1"
    compute_ratio: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    calibration: int | None = None
    test: int | None = None
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Compressed:
    """A compressed network.

    Attributes:
        plan: what is stored.
        compute_ratio: OU steps over those of the dense network.
        unmapped: parts with weights that are left to the digital units, and why.
        answers: its answers to inputs, those of the crossbars: an ONNX file's layers read int8.
    """

    plan: NetworkPlan
    compute_ratio: float
    unmapped: Mapping[str, str]
    answers: Callable[[], Answers]


def measure(request: Request) -> dict[str, Any]:
    """A point: scores, costs, seconds and memory.

    Raises:
        UserError: a package is missing, or the method cannot do this to this network.
    """
    torch.set_num_threads(request.threads)
    net = network(request.network)
    versions = net.versions()
    given = net.data(request.calibration or net.calibration, request.test or net.test, request.seed)
    model = net.load()
    reference, seconds_float = _timed(lambda: answers(model, given, net.batch, request.threads))
    point: dict[str, Any] = {
        "inputs": {"calibration": _count(given.calibration), "test": _count(given.test)},
        "packages": versions,
        "kind": "ONNX" if isinstance(model, Path) else "PyTorch",
    }
    memory = {"float": _peak_gib()}
    if request.method == FLOAT:
        scores, more = net.score(reference, reference, given.truth), {"seconds": {"float": seconds_float}}
    else:
        compress = _compress_onnx if isinstance(model, Path) else _compress_torch
        with tempfile.TemporaryDirectory() as folder:
            found, seconds = _timed(lambda: compress(model, given, net, request, Path(folder)))
            memory["compressed"] = _peak_gib()
            mine, seconds_test = _timed(found.answers)
        scores = net.score(mine, reference, given.truth)
        more = _figures(found) | {"seconds": {"float": seconds_float, "compress": seconds, "test": seconds_test}}
    memory["peak"] = _peak_gib()
    return point | {"scores": scores} | more | {"gib": memory}


def _figures(found: Compressed) -> dict[str, Any]:
    """What a compression is and costs."""
    layers = found.plan.network().layers
    chips = {name: prap_pim.load_chip(name) for name in CHIPS}
    chips[GATHER] = chips[CHIPS[0]].model_copy(update={"accumulate": "gather"})
    costs = {}
    for name, chip in chips.items():
        report = prap_pim.estimate(found.plan, chip=chip)
        costs[name] = {
            "energy_j": report.energy_j,
            "serial_latency_s": report.serial.latency_s,
            "pipelined_latency_s": report.pipelined.latency_s,
        }
    return {
        "bit_true": True,
        "compute_ratio": found.compute_ratio,
        "layers": len(layers),
        "weights": sum(layer.weight.size for layer in layers),
        "unmapped": dict(found.unmapped),
        "costs": costs,
        "plan_sha256": found.plan.digest(),
    }


def answers(model: nn.Module | Path, given: Data, size: int, threads: int) -> list[Array]:
    """A model's outputs for the test inputs: what an ONNX file, or a module, computes."""
    if isinstance(model, Path):
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
        found: Iterable[list[Array]] = (session.run(None, dict(batch)) for batch in batches(given.test, size))
    else:
        found = (_call(model, batch) for batch in batches(given.test, size))
    return [np.concatenate(every) for every in zip(*found, strict=True)]


@torch.no_grad()
def _call(model: nn.Module, batch: Mapping[str, Array]) -> list[Array]:
    found = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


def _compress_torch(model: Any, given: Data, net: Network, request: Request, folder: Path) -> Compressed:
    inputs = [
        {name: torch.from_numpy(array) for name, array in batch.items()} for batch in batches(given.calibration, 64)
    ]
    found = prap_pim.compress(
        model,
        inputs,
        request.method,
        compute_ratio=request.compute_ratio,
        chip=CHIPS[0],
        seed=request.seed,
        name=request.network,
        **request.options,
    )
    return Compressed(
        plan=found.plan,
        compute_ratio=found.compute_ratio,
        unmapped=found.unsupported,
        answers=lambda: answers(found.bit_true, given, net.batch, request.threads),
    )


def _compress_onnx(model: Any, given: Data, net: Network, request: Request, folder: Path) -> Compressed:
    calibration, output, plan = folder / "calibration.npz", folder / "compressed.onnx", folder / "plan.safetensors"
    bit_true = folder / "bit_true.onnx"
    arrays: dict[str, Any] = dict(given.calibration)
    np.savez(calibration, **arrays)
    summary = compress_onnx(
        model,
        calibration,
        output,
        request.method,
        compute_ratio=request.compute_ratio,
        bit_true=bit_true,
        chip=CHIPS[0],
        seed=request.seed,
        plan=plan,
        options=request.options,
    )
    return Compressed(
        plan=NetworkPlan.load(plan),
        compute_ratio=summary.compute_ratio,
        unmapped=summary.digital,
        answers=lambda: answers(bit_true, given, net.batch, request.threads),
    )


def _count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = work()
    return result, perf_counter() - start


def _peak_gib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux tells it in KiB


def main() -> None:
    request, place = Request.model_validate(read_json(Path(sys.argv[1]))), Path(sys.argv[2])
    try:
        write_json(place, measure(request))
    except UserError as error:
        write_json(place, {"error": one_line(error)})
    except Exception as error:  # a finding about this network and method: kept, not hidden
        write_json(place, {"error": one_line(f"{type(error).__name__}: {error}")})


if __name__ == "__main__":
    main()
