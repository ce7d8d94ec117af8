"""Bits per byte at equal compute: every method on the GPT of examples/gpt.yaml, at compute ratios from 1/2 down to 1/8.

    python benchmarks/gpt.py                             all points; hours on two cores, those that are done not again
    python benchmarks/gpt.py --lines calibrated --ratios 1/4
    python benchmarks/gpt.py --quick                     a tiny network, to see that everything works
    python benchmarks/gpt.py --write docs/gpt.md

A point is a run of the package (``prap_pim.runs.pipeline.run``) in a folder of its own under --cache: the recipe of the
example with one method. All points of a seed start from the checkpoints of one training run. Killed? The same command
goes on, and takes finished points as they are: remove the folders of a method whose code has changed.

The ratio is OU steps over those of the dense network; all linear layers are compressed. Baselines get one share for all
layers that meets the ratio (``prap_pim.methods.equal_compute``); where a method cannot, there is no point.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from prap_pim.common.errors import UserError
from prap_pim.common.files import write_json, write_whole
from prap_pim.common.settings import read_yaml
from prap_pim.frontend import capture
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import Network
from prap_pim.methods.equal_compute import IDENTICAL, ORC, Family, at_compute_ratio, similar
from prap_pim.methods.prune import NoPruning, PatternPruning
from prap_pim.results.folder import RunFolder
from prap_pim.results.run import Results
from prap_pim.runs.config import RunConfig
from prap_pim.runs.pipeline import run
from prap_pim.training import Checkpoint
from prap_pim.training.data import load
from prap_pim.training.models import build

EXAMPLE = Path(__file__).parent.parent / "examples" / "gpt.yaml"
RATIOS = (Fraction(1, 2), Fraction(1, 4), Fraction(1, 8))
DENSE: dict[str, Any] = {"name": "dense", "description": "every weight pattern stored and computed"}
QUICK = {
    "data": {"name": "stdlib", "length": 16, "held_out": 0.2, "calibration": 20, "test": 30},
    "model": {"name": "gpt", "layers": 1, "width": 32, "heads": 2},
    "training": {"epochs": 3, "compress_at": 2, "epoch_size": 120, "batch_size": 12, "optimizer": "adamw"}
    | {"learning_rate": 0.01, "restart": 0.002},
}

Point = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """The example's recipe with one seed, and the folder of its runs.

    Attributes:
        recipe: a configuration's values without methods.
        folder: with a run for every point.
    """

    recipe: dict[str, Any]
    folder: Path

    def config(self, method: dict[str, Any]) -> RunConfig:
        """The run of one method."""
        return RunConfig.checked(self.recipe | {"methods": [method]}, method["name"])

    def results(self, method: dict[str, Any]) -> Results:
        """What the run of a method has found; it is run, or what is left of it, if need be."""
        place, config = RunFolder(self.folder / method["name"]), self.config(method)
        if not place.results.exists():
            if method != DENSE:
                self._begin_trained(place, config)
            run(config, place.path, "benchmarks/gpt.py", resume=True, progress=_show)
            place.report.unlink(missing_ok=True)  # 5 MB a point
            if method != DENSE:
                for done in (place.checkpoints, place.method(method["name"]) / "checkpoints"):
                    shutil.rmtree(done, ignore_errors=True)
        return Results.load(place.results)

    def _begin_trained(self, place: RunFolder, config: RunConfig) -> None:
        """Begin a run with (links to) the checkpoints of the dense run's training, which has the same recipe."""
        if not place.config.exists():  # a run folder is known by its configuration: that comes last
            place.checkpoints.mkdir(parents=True, exist_ok=True)
            for file in RunFolder(self.folder / DENSE["name"]).checkpoints.glob("epoch-*.safetensors"):
                (place.checkpoints / file.name).unlink(missing_ok=True)
                os.link(file, place.checkpoints / file.name)
            place.write_manifest(RunFolder(self.folder / DENSE["name"]).read_manifest().origin)
            write_whole(place.config, yaml.safe_dump(config.resolved(), sort_keys=False))

    def network(self) -> Network:
        """As the dense run trained it."""
        config = self.config(DENSE)
        splits = load(config.data, config.seed)
        model = build(config.model, splits.train.inputs.shape[1], splits.classes or 0, config.seed)
        newest = sorted(RunFolder(self.folder / DENSE["name"]).checkpoints.glob("epoch-*.safetensors"))[-1]
        Checkpoint.load(newest).restore(model)
        return capture(model, splits.test.inputs[:1], "gpt").network

    def point(self, line: str, ratio: Fraction) -> Point:
        """Every figure of a line at a ratio, from the cache if it is there.

        Raises:
            UserError: the method cannot have this ratio.
        """
        place = self._place(line, ratio)
        name = place.path.name
        method = {"name": name} if place.results.exists() else LINES[line](self, ratio) | {"name": name}
        results = Results.load(place.results) if place.results.exists() else self.results(method)
        return figures(results, line, ratio)

    def has(self, line: str, ratio: Fraction) -> bool:
        """Whether a point is in the cache."""
        return self._place(line, ratio).results.exists()

    def _place(self, line: str, ratio: Fraction) -> RunFolder:
        return RunFolder(self.folder / f"{line}-{ratio.numerator}of{ratio.denominator}")


def figures(results: Results, line: str, ratio: Fraction) -> Point:
    """What a run of one method has found."""
    (found,) = results.methods
    return {
        "line": line,
        "ratio": str(ratio),
        "seed": results.seed,
        "data": results.data,
        "network": results.network,
        "weights": results.parameters,
        "training": results.weights,
        "windows": results.images,
        "description": found.description,
        "float_bits_per_byte": results.float_bits_per_byte,
        "float_accuracy": results.float_accuracy,
        "compressed_bits_per_byte": found.compressed_bits_per_byte,
        "bit_true_bits_per_byte": found.bit_true_bits_per_byte,
        "bit_true_accuracy": found.bit_true_accuracy,
        "compute_ratio": found.compute_ratio,
        "mismatches": sum(layer.mismatches for layer in found.layers),
        "checked_outputs": sum(layer.checked_outputs for layer in found.layers),
        "pipelined_latency_s": found.pipelined.latency_s,
        "energy_j": found.energy_j,
        "plan_sha256": found.plan_sha256,
    }


PRUNED = similar(PatternPruning(pointwise_group=16))  # half of the inputs; a group of 8 prunes nothing: that is similar


def baseline(family: Family, case: Case, ratio: Fraction) -> dict[str, Any]:
    """A method, one-shot, with one share for all layers."""
    settings = at_compute_ratio(family, case.network(), load_chip(case.config(DENSE).chip), float(ratio))
    rules = [
        {"layers": name, "prune": pruning.model_dump(), "reuse": reusing.model_dump()}
        for name, (pruning, reusing) in settings.items()
    ]
    return {"finetune": False, "exceptions": rules}


def tuned_prap(case: Case, ratio: Fraction) -> dict[str, Any]:
    """PRAP with or without pruning, whichever is better one-shot (on the test text, in its favour), fine-tuned."""
    found = {}
    for line, family in (("similar", similar(NoPruning())), ("prap", PRUNED)):
        with suppress(UserError):  # out of its reach
            found[case.point(line, ratio)["bit_true_bits_per_byte"]] = line, family
    if not found:
        raise UserError("out of reach, with and without pruning")
    best, family = found[min(found)]
    return baseline(family, case, ratio) | {"finetune": True, "description": best}


def calibrated(case: Case, ratio: Fraction, finetune: bool, kind: str = "calibrated") -> dict[str, Any]:
    """Calibrated reuse or low bits, which share the ratio out among the layers by themselves."""
    return {"reuse": {"kind": kind, "compute_ratio": float(ratio)}, "finetune": finetune}


LINES: dict[str, Callable[[Case, Fraction], dict[str, Any]]] = {
    "similar": partial(baseline, similar(NoPruning())),
    "identical": partial(baseline, IDENTICAL),
    "orc": partial(baseline, ORC),
    "prap": partial(baseline, PRUNED),
    "prap-tuned": tuned_prap,
    "lowbit": partial(calibrated, finetune=False, kind="lowbit"),
    "lowbit-tuned": partial(calibrated, finetune=True, kind="lowbit"),
    "calibrated": partial(calibrated, finetune=False),
    "calibrated-tuned": partial(calibrated, finetune=True),
}

HEAD = """# A transformer on text, at equal compute

How much a small GPT loses at the same share of the dense network's OU steps. Calibrated reuse, one-shot, stays
within about a tenth of the float network's bits per byte down to 1/8; every baseline loses much more.

Written by `python benchmarks/gpt.py --write docs/gpt.md`; that file says how every point is made. Date and machine:
[benchmarks](benchmarks.md).

- **Network**: that of [examples/gpt.yaml](../examples/gpt.yaml), which reads the source of Python's standard
  library byte by byte.
- **Figures** are bits per byte of the bit-true int8 network on held-out files (cross-entropy of the next byte;
  fewer is better), and how much more that is than the float network's.
- **Columns** are compute ratios: OU steps over those of the dense network, all linear layers compressed. A dash:
  out of the method's reach, or not run.
- **Lines**: *prap* prunes half of the inputs of each linear layer and reuses by similarity; without pruning it is
  *similar*. *Tuned* lines are fine-tuned in the last steps of training, which the float network takes as well; all
  others are one-shot. Donors are trained on the training text, 400 steps after 4,000.

The baselines lose most of this in the last layer: with similarity reuse at 1/2, the head compressed alone gives
4.96 bits per byte, all other layers together 2.28 (48 windows, float 1.79).
"""


def document(dense: Point, points: Sequence[Point]) -> str:
    """The whole page."""
    ratios = sorted({Fraction(point["ratio"]) for point in points}, reverse=True)
    lines = list(dict.fromkeys(point["line"] for point in points))
    table = {(point["line"], Fraction(point["ratio"])): point for point in points}
    windows = dense["windows"]
    text = f"{HEAD}\n## {dense['network']}\n\n"
    text += (
        f"{dense['weights']:,d} weights on crossbars, {dense['training']}, seed {dense['seed']}. {dense['data']}; "
        f"{windows['calibration']:,d} windows to calibrate with, {windows['test']:,d} to test on. Float "
        f"{dense['float_bits_per_byte']:.3f} bits per byte ({dense['float_accuracy']:.1%} of the next bytes right), "
        f"dense bit-true {_bits(dense)}.\n\n"
    )
    rows = [[line, *(_bits(table.get((line, ratio))) for ratio in ratios)] for line in lines]
    text += _markdown(["line", *map(str, ratios)], rows)
    text += (
        "\n## What the ratio gives\n\nDense over the line, pipelined latency and energy of one window on its chip.\n\n"
    )
    rows = [[line, *(_gains(dense, table.get((line, ratio))) for ratio in ratios)] for line in lines]
    return text + _markdown(["line", *map(str, ratios)], rows)


def _bits(point: Point | None) -> str:
    if point is None:
        return "-"
    bits: float = point["bit_true_bits_per_byte"]
    return f"{bits:.3f} ({bits / point['float_bits_per_byte'] - 1:+.1%})"


def _gains(dense: Point, point: Point | None) -> str:
    if point is None:
        return "-"
    latency, energy = (dense[key] / point[key] for key in ("pipelined_latency_s", "energy_j"))
    return f"{latency:.2f}x, {energy:.2f}x"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ratios", nargs="+", type=Fraction, default=RATIOS, help="such as 1/2 1/8")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument("--cache", type=Path, default=Path("runs/gpt-points"))
    parser.add_argument("--output", type=Path, default=Path("runs/gpt-points/points.json"))
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, as Markdown")
    parser.add_argument("--cached", action="store_true", help="only points that are in the cache")
    parser.add_argument("--quick", action="store_true", help="a tiny network instead")
    options = parser.parse_args(arguments)
    recipe = {key: value for key, value in read_yaml(EXAMPLE).items() if key not in ("methods", "output")}
    recipe |= {"seed": options.seed} | (QUICK if options.quick else {})
    case = Case(recipe, options.cache / f"seed{options.seed}")
    dense = figures(case.results(DENSE), DENSE["name"], Fraction(1))
    points: list[Point] = []
    skipped: list[dict[str, str]] = []
    for line in options.lines:
        for ratio in sorted(options.ratios, reverse=True):
            if options.cached and not case.has(line, ratio):
                continue
            try:
                points.append(case.point(line, ratio))
            except UserError as error:
                skipped.append({"line": line, "ratio": str(ratio), "why": str(error)})
                print(f"{line} {ratio}: skipped, {error}")
                continue
            print(f"{line} {ratio}: {points[-1]['compute_ratio']:.4f} of the OU steps, {_bits(points[-1])}", flush=True)
            write_json(options.output, {"dense": dense, "points": points, "skipped": skipped})
    text = document(dense, points)
    print(text)
    if options.write:
        write_whole(options.write, text)


def _show(phase: str, done: int, total: int, note: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{phase} {done}/{total} {note}", end="\r", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
