"""Speed and memory of calibrated reuse on networks of full size, with random weights.

    python benchmarks/calibrate.py [--models resnet18 vgg16] [--inputs 256] [--ratio 0.125]

Prints seconds, peak GiB and how busy the cores were in one calibration, and its time as a multiple of float32 forward
passes of the same inputs through the same network in this run. Goals on 2 cores: ResNet-18 (11 M weights) 180 s and
4 GiB, VGG16 (33 M) 480 s.
"""

import argparse
import os
import resource
import time

import torch
from torch import Tensor, nn

from prap_pim.frontend import capture
from prap_pim.hardware.chip import load_chip
from prap_pim.methods.calibrate.config import CalibratedReuse
from prap_pim.methods.calibrate.network import calibrate
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.request import CalibrationInputs, Request
from prap_pim.training.models import ResNet18Config, VGG16Config, build

MODELS = {"resnet18": ResNet18Config(), "vgg16": VGG16Config()}


def normalised(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A network whose batch norms hold the statistics of inputs, as if it had been trained on them."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in torch.split(inputs, 64):
            model.train()(batch)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.125)
    options = parser.parse_args()
    for name in options.models:
        inputs = torch.randn(options.inputs, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        model = normalised(build(MODELS[name], 3, 10, seed=0), inputs)
        begun = time.perf_counter()
        with torch.no_grad():
            for batch in torch.split(inputs, 64):
                model(batch)
        forward = time.perf_counter() - begun
        captured = capture(model, inputs[:1], name)
        phases: dict[str, float] = {}
        worked = time.process_time()
        last = begun = time.perf_counter()

        def told(phase: str, done: int, total: int, note: str, phases: dict[str, float] = phases) -> None:
            nonlocal last
            now = time.perf_counter()
            phases[phase] = phases.get(phase, 0.0) + now - last
            last = now

        method = MethodConfig(name=name, reuse=CalibratedReuse(compute_ratio=options.ratio))
        given = CalibrationInputs.of(captured, inputs, method)
        calibrate(captured, given, Request(method, load_chip("isaac-32nm")), progress=told)
        seconds, memory = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        busy = (time.process_time() - worked) / (seconds * len(os.sched_getaffinity(0)))
        parts = ", ".join(f"{phase.split(': ')[1]} {spent:.1f} s" for phase, spent in phases.items())
        size = captured.network.parameters / 1e6
        print(
            f"{name}: {size:.1f} M weights, {seconds:.1f} s ({parts}; cores {busy:.0%} busy), "
            f"{seconds / forward:.0f} forward passes of all {options.inputs} inputs ({forward:.2f} s), "
            f"peak {memory:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
