"""A Llama of 1.1 billion random bf16 weights, from a safetensors folder: costed and compressed whole; time and memory.

    python benchmarks/large.py                        TinyLlama's sizes, one process a method, one after the other
    python benchmarks/large.py --layers 2 --width 256 --tokens 16 --methods similar

``similar`` and ``lowbit`` compress all of it; ``calibrated`` three of its blocks in their places among the others, from
which the time of all layers is projected by their weights. ``--blocks 0 21`` does that for any method, ``--within
self_attn`` takes these layers of the blocks alone. Seconds of the processor are given beside those of the clock. The
folder (``--folder``) is made if it is not there. Memory is the largest resident set of the process, mapped files
included. It needs the extra ``transformers``; nothing is fetched.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prap_pim.api.model import compress, estimate
from prap_pim.training.models import build
from prap_pim.training.models.own import TransformersModel

METHODS = ("dense", "similar", "lowbit", "calibrated")
_RATIO = 0.5  # of the OU steps
_HEAD = 64  # numbers of a head
_VOCABULARY = 32000


def written(folder: Path, layers: int, width: int) -> Path:
    """A folder with a model of TinyLlama's proportions, random bf16 weights, in shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if not (folder / "config.json").exists():
        config = LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=width,
            intermediate_size=width * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=width // _HEAD,
            num_key_value_heads=max(1, width // (8 * _HEAD)),
            dtype="bfloat16",
        )
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="1GB")
        finally:
            torch.set_default_dtype(before)
    return folder


def measured(folder: Path, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One method: seconds, GiB, and what came of it."""
    begun = time.perf_counter()
    model = build(TransformersModel(transformers=folder, head="AutoModelForCausalLM"), 0, 0, 0)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(_VOCABULARY, (options.sequences, options.tokens), generator=generator)
    batches = [{"input_ids": sequence[None]} for sequence in tokens]
    weights = sum(parameter.numel() for parameter in model.parameters())
    found: dict[str, Any] = {"method": method, "weights": weights}
    if method == "dense":
        costs = estimate(model, batches[0])
        return found | {"cost_s": time.perf_counter() - begun, "energy_j": costs.energy_j, "peak_gib": _peak()}
    told, worked = _Told(), time.process_time()
    skip: list[str] = []
    ratio, share, every = _RATIO, 1.0, options.layers
    blocks = options.blocks or ([0, every // 2, every - 1] if method == "calibrated" else [])
    if blocks:
        skip, share = _but(model, blocks, options.within)
        ratio = 1 - share * (1 - _RATIO)  # of the whole: of these layers it is _RATIO
    result = compress(model, batches, method, compute_ratio=ratio, skip=skip, progress=told, name="Llama")
    phases = told.seconds()
    found |= {"compress_s": time.perf_counter() - begun, "cpu_s": time.process_time() - worked, "phases_cpu_s": phases}
    if blocks:
        own = sum(phases[phase] for phase in phases if phase != "before")
        found |= {"blocks": blocks, "share": share, "projected_cpu_s": found["cpu_s"] + own * (1 / share - 1)}
    start = time.perf_counter()
    costs = estimate(result)
    found |= {
        "cost_s": time.perf_counter() - start,
        "energy_j": costs.energy_j,
        "compute_ratio": result.compute_ratio,
        "sqnr_db": result.check.outputs[0].sqnr_db,
    }
    return found | {"peak_gib": _peak()}


def _but(model: nn.Module, blocks: Sequence[int], within: str) -> tuple[list[str], float]:
    """Names of all layers outside some blocks, or of another kind, and the other layers' share of the weights."""
    sizes = {name: part.weight.numel() for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    inside = tuple(f"model.layers.{i}." for i in blocks)
    rest = [name for name in sizes if not (name.startswith(inside) and within in name)]
    return rest, 1 - sum(sizes[name] for name in rest) / sum(sizes.values())


class _Told:
    """Progress that adds up the processor's seconds in each phase, and shows where it stands."""

    def __init__(self) -> None:
        self._phases, self._last, self._before = {"before": 0.0}, time.process_time(), "before"

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        now, phase = time.process_time(), phase.partition(": ")[2]
        of = phase if done > 1 else self._before
        self._phases[of] = self._phases.get(of, 0.0) + now - self._last
        self._last, self._before = now, phase
        print(f"{phase} {done}/{total} {note} {_peak():.2f} GiB", file=sys.stderr, flush=True)

    def seconds(self) -> dict[str, float]:
        return {phase: round(seconds, 1) for phase, seconds in self._phases.items()}


def _peak() -> float:
    """Largest resident set of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--blocks", nargs="+", type=int, default=[], help="that are compressed; all others stay")
    parser.add_argument("--within", default="", help="of these blocks the layers alone whose names have this in them")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path("build") / f"llama-{options.layers}-{options.width}"
    written(folder, options.layers, options.width)
    if len(options.methods) == 1:
        print(json.dumps(measured(folder, options.methods[0], options)), flush=True)
        return
    for method in options.methods:  # each with memory of its own
        given = [each for each in sys.argv[1:] if each not in METHODS and each != "--methods"]
        subprocess.run([sys.executable, __file__, *given, "--methods", method], check=True)


if __name__ == "__main__":
    main()
