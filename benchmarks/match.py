"""How long steps 1 and 2 of PRAP take for all layers of VGG16, at the paper's settings, with random normal weights.

    python benchmarks/match.py

Prints every run, the median, the peak memory, and how much faster a pair (reuser, donor) is than with NumPy
broadcasting, measured in the same run on one layer.
"""

import resource
import time
from statistics import median

import numpy as np
from numpy.typing import NDArray

from prap_pim import pattern_mask, similar_reuse
from prap_pim.common.parallel import cores
from prap_pim.methods.published import PublishedLayer, published

RUNS = 5
TARGET_SECONDS, TARGET_GIB = 1.0, 2.0  # 2 cores


def main() -> None:
    layers = published("prap-2023")["vgg16"].layers
    rng = np.random.default_rng(0)
    weights = []
    for layer in layers:
        kernel = (layer.kernel,) * 2 if layer.type == "conv" else ()
        weights.append(rng.standard_normal((layer.filters, layer.inputs, *kernel), np.float32))
    print(f"VGG16: {len(layers)} layers, {sum(w.size for w in weights) / 1e6:.1f} M weights, {cores()} cores")

    started = time.perf_counter()
    for layer, weight in zip(layers, weights, strict=True):
        match(layer, weight[:16, :64])
    print(f"compilation or numba's cache: {time.perf_counter() - started:.2f} s")

    seconds, busy = [], []
    for run in range(RUNS):
        step = np.zeros(2)
        before = time.process_time()
        for layer, weight in zip(layers, weights, strict=True):
            step += match(layer, weight)
        seconds.append(step.sum())
        busy.append(time.process_time() - before)
        print(
            f"run {run + 1}: {step.sum():.3f} s (step 1 {step[0]:.3f} s, step 2 {step[1]:.3f} s; CPU {busy[-1]:.3f} s)"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB -> GiB
    print(
        f"median of {RUNS}: {median(seconds):.3f} s (target {TARGET_SECONDS} s), peak memory {peak:.2f} GiB "
        f"(target {TARGET_GIB} GiB)"
    )

    number = next(i for i, layer in enumerate(layers) if layer.name == "conv9")
    layer, weight = layers[number], weights[number]
    ours = median(match(layer, weight)[1] for _ in range(RUNS))
    donors = int(len(weight) * layer.keep["similar"])
    groups = layer.inputs // layer.group_channels
    pairs = (len(weight) - donors) * donors
    theirs = median(broadcast_one_group(rng, len(weight), donors) for _ in range(RUNS))
    print(
        f"{layer.name}, per pair: {ours / pairs / groups * 1e9:.2f} ns, NumPy broadcasting "
        f"{theirs / pairs * 1e9:.1f} ns: {theirs * groups / ours:.0f} times faster"
    )


def match(layer: PublishedLayer, weight: NDArray[np.float32]) -> tuple[float, float]:
    """Seconds that steps 1 and 2 take for one layer."""
    started = time.perf_counter()
    mask = pattern_mask(weight, layer.group_channels, layer.kept_positions)
    between = time.perf_counter()
    similar_reuse(weight, mask, layer.group_channels, layer.keep["similar"])
    return between - started, time.perf_counter() - between


def broadcast_one_group(rng: np.random.Generator, filters: int, donors: int) -> float:
    """Seconds for all pairs of one group, matched by broadcasting [reuser, donor, row]: what one would write first."""
    x = np.rint(rng.standard_normal((filters - donors, 1, 8), np.float32) * 8000)
    y = 256 * np.rint(rng.standard_normal((1, donors, 8), np.float32) * 30)
    started = time.perf_counter()
    scale = 2 ** np.round(np.log2(np.abs(x).sum(-1) / np.abs(y).sum(-1)))
    scale = np.ceil(scale * 256) / 256
    np.abs(scale[:, :, None] * y - x).sum(-1).argmin(1)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
