"""Bit-true simulation beside float32 inference: ResNet20 of width 16, 1x32x32 images, dense plan, the same batches.

    python benchmarks/function.py [--images 100] [--threads 2]

Prints milliseconds an image and the ratio to float, both from this run; the first pass, which compiles, is not counted.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor, nn

from prap_pim.capture import Captured, capture
from prap_pim.function import simulate
from prap_pim.grain import Grain
from prap_pim.models import ResNetConfig, build
from prap_pim.patterns import PatternSet, ReuseMap, make_plan
from prap_pim.plan import LayerPlan, NetworkPlan
from prap_pim.quantize import input_steps


def dense(captured: Captured, images: Tensor, batch: int) -> NetworkPlan:
    """Every pattern of 8 consecutive rows stored and computed."""
    plans: dict[str, LayerPlan] = {}
    for layer in captured.network.layers:
        groups = -(-layer.rows // 8)
        rows = np.arange(8 * groups, dtype=np.int32)
        rows = np.where(rows < layer.rows, rows, -1).astype(np.int32).reshape(groups, 8)
        shape = np.tile(np.arange(groups, dtype=np.int32), (layer.filters, 1))
        patterns = PatternSet(layer.rows, rows, np.arange(groups + 1, dtype=np.int64), shape)
        reuse = ReuseMap.none(patterns)
        plans[layer.name] = make_plan(
            layer.name, layer.matrix, patterns, reuse, layer.filter_scale, layer.filter_bias
        )  # fmt: skip
    return NetworkPlan("dense", plans, input_steps(captured, images, batch))


def milliseconds(run: Callable[[], object], images: int, repeats: int = 5) -> float:
    """Median time of an image, after one uncounted pass."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times) / images


def infer(model: nn.Module, images: Tensor, batch: int) -> None:
    """Float inference as it stands."""
    with torch.no_grad():
        for part in torch.split(images, batch):
            model(part)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    numba.set_num_threads(min(arguments.threads, numba.config.NUMBA_NUM_THREADS))

    model = build(ResNetConfig(), 1, 10, seed=0).eval()
    images = torch.rand(arguments.images, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(arguments.images, dtype=torch.int64)
    captured = capture(model, images[:1], "resnet20")
    plan = dense(captured, images, arguments.batch)

    reference = milliseconds(lambda: infer(model, images, arguments.batch), arguments.images)
    print(f"float32 torch              {reference:8.2f} ms an image")
    for name, adc_bits, check in (
        ("exact path", 4, False),
        ("bit-true and checked", 4, True),
        ("ADC that clips (3 bits)", 3, False),
    ):

        def run(adc_bits: int = adc_bits, check: bool = check) -> object:
            return simulate(captured, plan, Grain(), adc_bits, images, labels, arguments.batch, check=check)

        taken = milliseconds(run, arguments.images)
        print(f"{name:<26} {taken:8.2f} ms an image, {taken / reference:6.1f} x float32")


if __name__ == "__main__":
    main()
