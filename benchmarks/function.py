"""Crossbar simulation beside float32 inference: ResNet20 of width 16, 1x32x32 images, the same images and batches.

    python benchmarks/function.py [--images 100] [--batch 50] [--repeats 3]

Prints milliseconds an image and the ratio to float32 torch, both from this run. Each line is the median of passes over
all images; compilation is not counted, programming a device (once a pass) is. Plans: dense, and one of an eighth of its
OU steps (similarity reuse that keeps an eighth of the patterns). Targets: exact 3; an ADC that clips or cells that
vary, 60 dense and 15 at an eighth; memory 2 GiB.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from prap_pim.common.parallel import cores
from prap_pim.crossbar import CrossbarModel, Device, LognormalVariation, measure
from prap_pim.frontend import Captured, capture
from prap_pim.frontend.quantize import InputGrid, input_grids
from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import plan_weights
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.methods.prune import NoPruning, prune
from prap_pim.methods.reuse import NoReuse, ReuseConfig, SimilarReuse, reuse
from prap_pim.training.models import ResNetConfig, build

VARIED = LognormalVariation(sigma=0.2)
IDEAL = CrossbarModel(adc_bits=4)
LINES = [
    ("ADC that clips (3 bits)", CrossbarModel(adc_bits=3)),
    ("cells that vary", CrossbarModel(adc_bits=4, device=Device(variation=VARIED))),
    ("the same, 32-bit accumulators", CrossbarModel(adc_bits=4, accumulator_bits=32, device=Device(variation=VARIED))),
    ("and wires", CrossbarModel(adc_bits=4, device=Device(variation=VARIED, row_wire_ohm=2, column_wire_ohm=2))),
    ("and read noise (2 %)", CrossbarModel(adc_bits=4, device=Device(variation=VARIED, read_noise=0.02))),
]


def plan_of(captured: Captured, grids: dict[str, InputGrid], reusing: ReuseConfig) -> NetworkPlan:
    """No pattern pruned."""
    plans: dict[str, LayerPlan] = {}
    for layer in captured.network.layers:
        patterns = prune(NoPruning(), layer, Grain())
        decided = reuse(reusing, layer, patterns, Grain())
        plans[layer.name] = plan_weights(layer.name, layer.matrix, patterns, decided).scaled(
            layer.filter_scale, layer.filter_bias
        )
    steps, zeros = ({name: getattr(grid, key) for name, grid in grids.items()} for key in ("step", "zero"))
    return NetworkPlan("benchmark", plans, steps, input_zero=zeros)


def compute_ratio(captured: Captured, plan: NetworkPlan) -> float:
    """OU steps over those of the dense plan."""
    computed = dense = 0
    for layer in captured.network.layers:
        ous = sum(Grain().ous(int(donors)) for donors in plan.layers[layer.name].donors_per_group)
        computed += layer.positions * ous
        dense += layer.positions * Grain().row_groups(layer.rows) * Grain().ous(layer.filters)
    return computed / dense


def milliseconds(run: Callable[[], object], images: int, repeats: int) -> float:
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
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(cores())

    model = build(ResNetConfig(), 1, 10, seed=0).eval()
    images = torch.rand(arguments.images, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(arguments.images, dtype=torch.int64)
    captured = capture(model, images[:1], "resnet20")
    grids = input_grids(captured, images, arguments.batch)
    dense, eighth = plan_of(captured, grids, NoReuse()), plan_of(captured, grids, SimilarReuse(keep=0.125))

    def show(name: str, run: Callable[[], object]) -> None:
        reference = milliseconds(lambda: infer(model, images, arguments.batch), arguments.images, arguments.repeats)
        taken = milliseconds(run, arguments.images, arguments.repeats)
        ratio = taken / reference
        print(f"  {name:<31} {taken:8.2f} ms an image, {ratio:6.1f} x float32 ({reference:.2f} ms)", flush=True)

    for plan in (dense, eighth):
        print(f"compute ratio {compute_ratio(captured, plan):.3f}")
        cells = partial(measure, captured, plan, images=images, labels=labels, batch_size=arguments.batch)
        show("exact path", partial(cells, model=CrossbarModel(adc_bits=62)))  # no bitline counts further
        show("every cell, checked", partial(cells, model=IDEAL, check=True))
        for name, crossbars in LINES:
            show(name, partial(cells, model=crossbars))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
