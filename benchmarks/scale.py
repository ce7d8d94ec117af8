"""A GPT-2 of 124 M random weights: captured, compressed by similarity and by calibrated reuse, costed; time and memory.

    python benchmarks/scale.py                      the whole model, 4 sequences of 1024 tokens: an hour or more
    python benchmarks/scale.py --layers 2 --tokens 64 --methods calibrated

Memory is the largest resident set of the process so far, and what of it the model itself takes. It needs the extra
``transformers``; nothing is fetched.
"""

import argparse
import json
import resource
import sys
import time
from typing import Any

import torch

from prap_pim.api.model import compress, estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=["similar", "calibrated"])
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--skip", nargs="*", default=[], help="layers to leave whole, such as lm_head")
    options = parser.parse_args()
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=options.layers,
        n_embd=options.width,
        n_head=options.width // 64,
        n_positions=max(64, options.tokens),
        use_cache=False,
    )
    model = GPT2LMHeadModel(config).eval()
    weights = sum(parameter.numel() for parameter in model.parameters())
    tokens = torch.randint(config.vocab_size, (options.sequences, options.tokens))
    batches = [{"input_ids": sequence[None]} for sequence in tokens]
    print(f"{weights:,} weights, {4 * weights / 2**30:.2f} GiB; {_peak():.2f} GiB resident")
    found: list[dict[str, Any]] = []
    for method in options.methods:
        start = time.perf_counter()
        compressed = compress(
            model, batches, method, compute_ratio=options.ratio, skip=options.skip, progress=_show, name="GPT-2"
        )
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        costs = estimate(compressed)
        found.append(
            {
                "method": method,
                "compute_ratio": compressed.compute_ratio,
                "compress_s": seconds,
                "cost_s": time.perf_counter() - start,
                "energy_j": costs.energy_j,
                "pipelined_latency_s": costs.pipelined.latency_s,
                "peak_gib": _peak(),
            }
        )
        print(json.dumps(found[-1]))
        del compressed


def _peak() -> float:
    """Largest resident set of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _show(phase: str, done: int, total: int, note: str) -> None:
    print(f"\r\033[K{phase} {done}/{total} {note}", end="\n" if done == total else "", file=sys.stderr)


if __name__ == "__main__":
    main()
