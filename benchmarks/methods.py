"""How long each method takes to compress all layers of VGG16, at the published settings, with random normal weights.

    python benchmarks/methods.py

Prints, for every method, the median seconds of pruning and reuse, of making the plans, and the share of OUs left.
"""

import time
from statistics import median

import numpy as np

from prap_pim.common.parallel import cores
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import plan_weights
from prap_pim.methods.presets import method_settings
from prap_pim.methods.prune import PruneConfig, prune
from prap_pim.methods.reuse import ReuseConfig, reuse
from prap_pim.training.models import VGG16Config, weight_shapes

RUNS = 3
METHODS = ("dense", "structured", "orc", "pattern", "identical", "similar", "structured+identical", "prap")
TARGET_SECONDS = 2.0  # pruning and reuse, 2 cores


def main() -> None:
    model, rng = VGG16Config(), np.random.default_rng(0)
    layers = [layer_of(name, rng.standard_normal(shape, np.float32)) for name, shape in weight_shapes(model).items()]
    print(f"VGG16: {len(layers)} layers, {sum(layer.weight.size for layer in layers) / 1e6:.1f} M weights")
    print(f"{cores()} cores, median of {RUNS}, target {TARGET_SECONDS} s for pruning and reuse")
    for method in METHODS:
        settings = method_settings("prap-2023", method, model)
        compress(layers[:2] + layers[-1:], settings)  # compilation or numba's cache
        runs = [compress(layers, settings) for _ in range(RUNS)]
        decide, plan = median(run[0] for run in runs), median(run[1] for run in runs)
        print(f"{method:21} {decide:6.3f} s, plans {plan:6.3f} s, {runs[0][2]:6.1%} of the OUs")


def compress(layers: list[Layer], settings: dict[str, tuple[PruneConfig, ReuseConfig]]) -> tuple[float, float, float]:
    """Seconds for pruning and reuse, seconds for the plans, and OUs as a share of the dense ones."""
    grain, decide, plan, left, dense = Grain(), 0.0, 0.0, 0, 0
    for layer in layers:
        pruning, reusing = settings[layer.name]
        started = time.perf_counter()
        patterns = prune(pruning, layer, grain)
        decided = reuse(reusing, layer, patterns, grain)
        between = time.perf_counter()
        made = plan_weights(layer.name, layer.matrix, patterns, decided).scaled(layer.filter_scale, layer.filter_bias)
        decide, plan = decide + between - started, plan + time.perf_counter() - between
        left += sum(grain.ous(int(donors)) for donors in made.donors_per_group)
        dense += grain.row_groups(layer.rows) * grain.ous(layer.filters)
    return decide, plan, left / dense


def layer_of(name: str, weight: np.ndarray) -> Layer:
    filters, inputs = weight.shape[:2]
    size = (8, 8) if weight.ndim == 4 else ()
    ones, zeros = np.ones(filters, np.float32), np.zeros(filters, np.float32)
    kind = "conv" if weight.ndim == 4 else "linear"
    return Layer(name, kind, weight, ones, zeros, (inputs, *size), (filters, *size), ())


if __name__ == "__main__":
    main()
