"""How long the cost of ResNet-50 at 224x224 takes: from a built plan, and from the nn.Module (random weights).

    python benchmarks/cost.py [--chip isaac-32nm] [--threads 2]

Prints medians, the peak memory, and the ratio to one float32 forward pass of torch, all from this run. "Under a budget"
shares twice the dense crossbars out among copies of layers, with zero-input skipping.
"""

import argparse
import resource
import time
from collections.abc import Callable
from statistics import median

import numba
import numpy as np
import torch

from prap_pim.cost import cost
from prap_pim.frontend import capture
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.network import Network
from prap_pim.ir.patterns import plan_weights
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.prune import NoPruning, prune
from prap_pim.methods.reuse import NoReuse, reuse
from prap_pim.training.models import ResNet50Config, build

RUNS = 5
COST_SECONDS, WHOLE_SECONDS, GIB = 0.5, 5.0, 1.5  # targets on 2 cores


def dense(network: Network, chip: Chip) -> NetworkPlan:
    """Every pattern stored and computed; the input step does not matter to the cost."""
    plans = {}
    for layer in network.layers:
        patterns = prune(NoPruning(), layer, chip.grain)
        shared = reuse(NoReuse(), layer, patterns, chip.grain)
        plans[layer.name] = plan_weights(layer.name, layer.matrix, patterns, shared).scaled(
            layer.filter_scale, layer.filter_bias
        )
    return NetworkPlan("dense", plans, dict.fromkeys(plans, 1.0))


def seconds(run: Callable[[], object], runs: int = RUNS) -> float:
    """Median over ``runs``."""
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", default="isaac-32nm")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    numba.set_num_threads(min(arguments.threads, numba.get_num_threads()))

    chip = load_chip(arguments.chip)
    model = build(ResNet50Config(stem="imagenet"), 3, 1000, seed=0).eval()
    image = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        model(image)
        forward = seconds(lambda: model(image))

    def whole() -> None:
        network = capture(model, image, "resnet50").network
        cost(network, dense(network, chip), chip)

    before = time.perf_counter()
    whole()
    print(f"first run from nn.Module        {time.perf_counter() - before:8.3f} s")
    from_module = seconds(whole)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB -> GiB
    captured = seconds(lambda: capture(model, image, "resnet50"))
    network = capture(model, image, "resnet50").network
    planned = seconds(lambda: dense(network, chip))
    plan = dense(network, chip)
    report = cost(network, plan, chip)
    from_plan = seconds(lambda: cost(network, plan, chip))
    zero = {name: np.full(layer.groups, 0.3) for name, layer in plan.layers.items()}
    budget = 2 * report.crossbars
    budgeted = seconds(lambda: cost(network, plan, chip, crossbars=budget, zero_input=zero))

    print(f"ResNet-50, {len(network.layers)} layers, {report.macs / 1e9:.2f} G multiplications, chip {chip.name}")
    print(f"float32 forward pass of torch   {forward:8.3f} s")
    for what, taken in (("capture", captured), ("dense plan", planned)):
        print(f"{what:<31} {taken:8.3f} s")
    for what, taken, target in (
        ("plan to cost report", from_plan, COST_SECONDS),
        ("nn.Module to cost report", from_module, WHOLE_SECONDS),
    ):
        print(f"{what:<31} {taken:8.3f} s (target {target} s), {taken / forward:5.2f} forward passes")
    print(f"the same under a budget         {budgeted:8.3f} s, {budgeted / forward:5.2f} forward passes")
    print(f"peak memory                     {peak:8.2f} GiB (target {GIB} GiB)")


if __name__ == "__main__":
    main()
