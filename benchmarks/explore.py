"""A thousand trials of ResNet-18's cost: time with the stages' cache, beside one point without it; memory.

    python benchmarks/explore.py                             2 processes, as the claim has it: at most 10 minutes
    python benchmarks/explore.py --trials 50 --processes 1

A trial without the cache compresses, measures batch norm and input steps anew, and costs; most of the thousand only
cost. User seconds are of all processes together: they do not depend on what else the machine does. Memory is the
resident set of the processes that run trials, the largest of them, after a tenth of the trials and at the end.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from prap_pim import explore

LIMIT_S = 600.0
GROWTH = 1.1  # of memory, from a tenth of the trials to the end
STUDY: dict[str, Any] = {
    "name": "ResNet-18, cost only",
    "base": {
        "data": {"name": "digits", "size": 32},
        "model": {"name": "resnet18"},
        "training": "none",
        "methods": [
            {"name": "dense"},
            {
                "name": "prap",
                "prune": {"kind": "pattern", "group_channels": 2, "pointwise_group": 16},
                "reuse": {"kind": "similar", "keep": 0.25},
            },
        ],
    },
    "space": {
        "method": ["dense", "prap"],
        "methods.prap.reuse.keep": [0.125, 0.25, 0.5],
        "chip.grain.ou_rows, chip.grain.ou_columns": [4, 8],
        "chip.crossbar_rows, chip.crossbar_columns": [64, 128, 256],
        "chip.adc_bits": {"low": 3, "high": 8},
        "chip.adcs_per_crossbar": [1, 2, 4, 8],
        "mapping": ["spread", "pack"],
    },
    "objectives": ["latency", "energy", "area"],
    "sampler": "nsga2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        alone, _, _ = _timed({**STUDY, "sampler": "grid", "space": {"method": ["prap"]}}, Path(folder) / "one", 1)
        wall, user, memory = _timed({**STUDY, "trials": options.trials}, Path(folder) / "all", options.processes)
        found = json.loads((Path(folder) / "all" / "study.json").read_text())
        plans = len(list((Path(folder) / "all" / "stages").glob("compressed-*")))
    early, late = (max(rss for done, rss in memory if done <= share * options.trials) for share in (0.1, 1.0))
    told = {
        "trials": len(found["trials"]),
        "on the front": len(found["front"]),
        "plans": plans,
        "processes": options.processes,
        "wall_s": round(wall, 1),
        "user_s": round(user, 1),
        "one point without the cache, s": round(alone, 1),
        "times faster than without the cache": round(alone * options.trials / wall, 1),
        "memory after a tenth, MiB": round(early / 2**20),
        "memory at the end, MiB": round(late / 2**20),
    }
    print(json.dumps(told, indent=1))
    if options.trials >= 1000 and (wall > LIMIT_S or late > GROWTH * early):
        sys.exit("slower than 10 minutes, or memory has grown by more than a tenth")


def _timed(study: dict[str, Any], folder: Path, processes: int) -> tuple[float, float, list[tuple[int, int]]]:
    """Wall seconds, user seconds of all processes, and resident bytes of the largest by trials done."""
    memory: list[tuple[int, int]] = []

    def watch(phase: str, done: int, total: int, note: str) -> None:
        if phase == "trials":
            here = psutil.Process(os.getpid())
            sizes = [each.memory_info().rss for each in here.children(recursive=True)] or [here.memory_info().rss]
            memory.append((done, max(sizes)))
            print(f"\r\033[K{done}/{total}", end="\n" if done == total else "", file=sys.stderr)

    before, start = _user(), time.perf_counter()
    explore(study, folder, processes=processes, progress=watch)
    return time.perf_counter() - start, _user() - before, memory


def _user() -> float:
    return sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    main()
