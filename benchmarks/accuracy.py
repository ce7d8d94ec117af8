"""Accuracy at equal compute, and what it costs: every method on networks and data that have something to lose.

    python benchmarks/accuracy.py                        all networks; hours; what is in the cache is not done again
    python benchmarks/accuracy.py --networks cnn --seeds 0 --lines similar identical --ratios 1/4
    python benchmarks/accuracy.py --quick                a tiny network, to see that everything works
    python benchmarks/accuracy.py --cached --write docs/accuracy.md   measures nothing: the tables of what is there

A point is a run of the package (``prap_pim.runs.pipeline.run``) in a folder of its own under --cache: a network trained
on perturbed digits with one seed, and one method at one compute ratio. All points of a network and seed start from the
checkpoints of one training run. Killed? The same command goes on, and takes finished points as they are: remove
the folders of a method whose code has changed. The figures of every point are kept in --points as well, a file of this
repository, to which each run adds its own: the page is written from there.

The ratio is OU steps over those of the dense network, first and last layer whole for every method, as in the paper.
Baselines get one share for all layers that meets the ratio (``prap_pim.methods.equal_compute``); where a method cannot,
there is no point. Batch norm moves by what a method changes, measured on calibration images.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from accuracy_curves import drawing
from accuracy_tables import DRAWING, by_purpose, document

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json, write_whole
from prap_pim.cost import cost
from prap_pim.frontend import capture
from prap_pim.frontend.evaluate import accuracy
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.network import Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.equal_compute import IDENTICAL, ORC, Family, at_compute_ratio, similar
from prap_pim.methods.prune import NoPruning, PatternPruning
from prap_pim.results.folder import RunFolder
from prap_pim.results.run import Results
from prap_pim.runs.config import RunConfig
from prap_pim.runs.pipeline import run
from prap_pim.training import Checkpoint
from prap_pim.training.data import load
from prap_pim.training.models import build

CHIPS = ("prap-2023", "isaac-32nm")  # the first is that of the runs; their saved plans are costed on the other
POINTS = Path(__file__).with_name("accuracy_points.json")
RATIOS = tuple(Fraction(1, n) for n in (2, 4, 8, 16, 32))
Key = tuple[int, int, int, Fraction]  # of a point: network, line, seed, minus the ratio


TUNED = {  # where each line's limit is
    "prap-tuned": RATIOS[:3],
    "calibrated-tuned": RATIOS[2:],
    "lean-tuned": RATIOS[2:4],
    "lowbit-tuned": RATIOS[:1],
}
PRUNED: dict[str, Any] = {"shapes": [9, 4], "passes": 3}  # at 1/32: whole kernels cannot go so low in small networks
LEAN: dict[str, Any] = {"shapes": [4], "update_weight": 0.5}  # half the row groups, and no use that gains little


@dataclass(frozen=True)
class Task:
    """A network, how it is trained, and which points are made of it.

    Attributes:
        model: as in a configuration.
        epochs: of training; compression is at half of them. The paper compresses at 150 of 200; a quarter of so few
            epochs would be too few steps of fine-tuning for its recipe.
        copies: versions of each training image, each perturbed in its own way.
        seeds: of the split, the initial weights and the batches.
        tuned: ratios of the lines that are fine-tuned, by line.
        first, last: layers that every method leaves whole.
        data, training: what else differs.
    """

    model: dict[str, Any]
    epochs: int = 16
    copies: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    tuned: dict[str, tuple[Fraction, ...]] = field(default_factory=lambda: dict(TUNED))
    first: str = "stem.conv"
    last: str = "classifier"
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


LARGE: dict[str, Any] = {
    "epochs": 8,
    "training": {"learning_rate": 0.02},  # 0.1 learns slower in so few epochs
}
TASKS = {
    "resnet20-w16": Task({"name": "resnet", "depth": 20, "width": 16}),
    "resnet20-w8": Task({"name": "resnet", "depth": 20, "width": 8}),
    "cnn": Task({"name": "cnn", "width": 16}, first="conv1"),
    "resnet18-w64": Task({"name": "resnet18", "width": 64}, **LARGE),
    "vgg16-w64": Task({"name": "vgg16", "width": 64}, first="stage1.conv1", last="classifier.fc3", **LARGE),
}
TINY = Task({"name": "cnn", "width": 4}, 4, 1, (0,), first="conv1", data={"size": 12, "train": 200, "calibration": 50})


@dataclass(frozen=True)
class Case:
    """A task with one seed, so many test images, the folder of its runs, and bit-true accuracies that are known."""

    name: str
    task: Task
    seed: int
    test: int
    folder: Path
    known: Mapping[tuple[str, Fraction], float] = field(default_factory=dict)

    def config(self, method: dict[str, Any]) -> RunConfig:
        """The run of one method."""
        task = self.task
        value = {
            "name": f"{self.name}, seed {self.seed}",
            "seed": self.seed,
            "data": {"name": "digits", "train": 697, "calibration": 200, "test": self.test}
            | {"perturb": {"copies": task.copies}}
            | task.data,
            "model": task.model,
            "training": {"epochs": task.epochs, "compress_at": task.epochs // 2, "project_every": 2}
            | {"batch_size": 64, "warmup": 1}
            | {"augment": {"rotation": 5, "shift": 0.04, "scale": 0.05, "noise": 0.05}}  # beside the perturbation
            | task.training,
            "methods": [method],
            "chip": CHIPS[0],
            "checked_images": 20,  # through every cell, the others by the exact integer product
        }
        return RunConfig.checked(value, method["name"])

    def run(self, method: dict[str, Any]) -> None:
        """Run a method, or what is left of it."""
        name, config = method["name"], self.config(method)
        place = RunFolder(self.folder / name)
        if method != DENSE:
            self._begin_trained(place, config)
        run(config, place.path, "benchmarks/accuracy.py", resume=True, progress=_show)
        place.report.unlink(missing_ok=True)  # 5 MB a point
        if method != DENSE:
            for done in (place.checkpoints, place.method(name) / "checkpoints"):
                shutil.rmtree(done, ignore_errors=True)

    def _begin_trained(self, place: RunFolder, config: RunConfig) -> None:
        """Begin a run with (links to) the checkpoints of the dense run's training, which has the same recipe."""
        if not place.config.exists():  # a run folder is known by its configuration: that comes last
            place.checkpoints.mkdir(parents=True, exist_ok=True)
            for file in RunFolder(self.folder / DENSE["name"]).checkpoints.glob("epoch-*.safetensors"):
                (place.checkpoints / file.name).unlink(missing_ok=True)
                os.link(file, place.checkpoints / file.name)
            place.write_manifest(RunFolder(self.folder / DENSE["name"]).read_manifest().origin)
            write_whole(place.config, yaml.safe_dump(config.resolved(), sort_keys=False))

    @cached_property
    def trained(self) -> tuple[Network, float]:
        """The network that the dense run trained; its float accuracy."""
        config = self.config(DENSE)
        splits = load(config.data, config.seed)
        model = build(config.model, splits.train.inputs.shape[1], splits.classes or 0, config.seed)
        newest = sorted(RunFolder(self.folder / DENSE["name"]).checkpoints.glob("epoch-*.safetensors"))[-1]
        Checkpoint.load(newest).restore(model)
        network = capture(model, splits.test.inputs[:1], self.name).network
        return network, accuracy(model, splits.test.inputs, splits.test.labels)

    def point(self, line: str, ratio: Fraction) -> dict[str, Any]:
        """Every figure of a line at a ratio, from the cache if it is there.

        Raises:
            UserError: the method cannot have this ratio.
        """
        name = _name(line, ratio)
        if not self.has(line, ratio):
            self.run(LINES[line](self, ratio) | {"name": name})
        return self.figures(name, line, ratio)

    def has(self, line: str, ratio: Fraction) -> bool:
        """Whether a point is in the cache."""
        return RunFolder(self.folder / _name(line, ratio)).results.exists()

    def figures(self, name: str, line: str, ratio: Fraction) -> dict[str, Any]:
        """What the run of a method has found."""
        place = RunFolder(self.folder / name)
        results, plan = Results.load(place.results), NetworkPlan.load(place.method(name) / "plan.safetensors")
        network, float_accuracy = self.trained
        found = results.methods[0]
        return {
            "network": self.name,
            "seed": self.seed,
            "line": line,
            "ratio": str(ratio),
            "description": found.description,
            "images": results.images,
            "float_accuracy": float_accuracy,
            "compressed_accuracy": found.compressed_accuracy,
            "bit_true_accuracy": found.bit_true_accuracy,
            "compute_ratio": found.compute_ratio,
            "checked_outputs": sum(layer.checked_outputs for layer in found.layers),
            "mismatches": sum(layer.mismatches for layer in found.layers),
            "plan_sha256": found.plan_sha256,
            "chips": {name: _costs(network, plan, load_chip(name), found.at_budget.budget) for name in CHIPS},
        }


def _costs(network: Network, plan: NetworkPlan, chip: Chip, crossbars: int) -> dict[str, Any]:
    """With each layer once, with copies on the fewest crossbars, and with these spread over what is idle."""
    once = cost(network, plan, chip)
    timed = {
        "": once,
        "replicated_": cost(network, plan, chip, crossbars=crossbars, spread_idle=False),
        "spread_": cost(network, plan, chip, crossbars=crossbars),
    }
    figures: dict[str, Any] = {}
    for how, report in timed.items():
        figures |= {
            f"{how}serial_latency_s": report.serial.latency_s,
            f"{how}pipelined_latency_s": report.pipelined.latency_s,
            f"{how}pipelined_interval_s": 1 / report.pipelined.throughput_per_s,
            f"{how}energy_j": report.energy_j,
        }
    return figures | {"energy_by_purpose_j": by_purpose(once.energy_breakdown_j)}


def _name(line: str, ratio: Fraction) -> str:
    return f"{line}-{ratio.numerator}of{ratio.denominator}"


DENSE: dict[str, Any] = {"name": "dense"}
PRAP = {
    "prap-8of9": similar(PatternPruning(group_channels=1, pointwise_group=8)),
    "prap-4of9": similar(PatternPruning(group_channels=2, pointwise_group=16)),
}


def baseline(family: Family, case: Case, ratio: Fraction) -> dict[str, Any]:
    """A method, one-shot, with one share for all layers."""
    ends = (case.task.first, case.task.last)
    settings = at_compute_ratio(family, case.trained[0], load_chip(CHIPS[0]), float(ratio), ends)
    rules = [
        {"layers": name, "prune": pruning.model_dump(), "reuse": reusing.model_dump()}
        for name, (pruning, reusing) in settings.items()
    ]
    return {"finetune": False, "exceptions": rules}


def tuned_prap(case: Case, ratio: Fraction) -> dict[str, Any]:
    """The variant of PRAP that is better one-shot (on the test images, in its favour), fine-tuned as in the paper."""
    found = {}
    for variant in PRAP:
        with suppress(UserError):  # out of its reach
            known = case.known.get((variant, ratio))
            found[variant] = case.point(variant, ratio)["bit_true_accuracy"] if known is None else known
    if not found:
        raise UserError("out of reach of each variant")
    best = max(found, key=lambda variant: found[variant])
    return baseline(PRAP[best], case, ratio) | {"finetune": True, "description": best}


def calibrated(case: Case, ratio: Fraction, finetune: bool, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Calibrated reuse or low bits, which share the ratio out among the layers by themselves; with further settings."""
    few = ratio <= RATIOS[-1] and more is None
    return {
        "name": "calibrated",
        "reuse": {"kind": "calibrated", "compute_ratio": float(ratio)} | (PRUNED if few else {}) | (more or {}),
        "exceptions": [{"layers": case.task.first}, {"layers": case.task.last}],
        "finetune": finetune,
    }


LINES: dict[str, Callable[[Case, Fraction], dict[str, Any]]] = {
    "similar": partial(baseline, similar(NoPruning())),
    **{name: partial(baseline, family) for name, family in PRAP.items()},
    "prap-tuned": tuned_prap,
    "identical": partial(baseline, IDENTICAL),
    "orc": partial(baseline, ORC),
    "lowbit": partial(calibrated, finetune=False, more={"kind": "lowbit"}),
    "lowbit-tuned": partial(calibrated, finetune=True, more={"kind": "lowbit"}),
    "calibrated": partial(calibrated, finetune=False),
    "calibrated-tuned": partial(calibrated, finetune=True),
    "lean-tuned": partial(calibrated, finetune=True, more=LEAN),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2")
    parser.add_argument("--ratios", nargs="+", type=Fraction, default=RATIOS, help="such as 1/2 1/8")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument(
        "--test", type=int, default=900, help="test images, at most 900; other images for other numbers"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--points", type=Path, help="figures of all points so far (default: accuracy_points.json here)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, as Markdown")
    parser.add_argument("--cached", action="store_true", help="only points that are in the cache")
    parser.add_argument("--quick", action="store_true", help="one tiny network instead")
    options = parser.parse_args(arguments)
    tasks = {"tiny": TINY} if options.quick else {name: TASKS[name] for name in options.networks}
    kept = options.points or (options.cache / "points.json" if options.quick else POINTS)
    points = {_key(point): point for point in read_json(kept)} if kept.exists() else {}
    for name, task in tasks.items():
        for seed in options.seeds if options.seeds is not None else task.seeds:
            folder = options.cache / f"{name}-{options.test}" / f"seed{seed}"
            case = Case(name, task, seed, options.test, folder, _known(points.values(), name, seed, options.test))
            wanted = [(line, ratio) for line in options.lines for ratio in sorted(options.ratios, reverse=True)]
            if not options.cached:
                case.run(DENSE)
            elif not any(case.has(*each) for each in wanted):
                continue
            found = [_dense(case, points)]
            for line, ratio in wanted:
                if not options.quick and ratio not in task.tuned.get(line, RATIOS):
                    continue
                if options.cached and not case.has(line, ratio):
                    continue
                where = f"{name} seed {seed} {line} {ratio}"
                try:
                    found.append(case.point(line, ratio))
                except UserError as error:
                    print(f"{where}: skipped, {error}")
                    continue
                last = found[-1]
                print(f"{where}: {last['compute_ratio']:.4f} of the OU steps, {last['bit_true_accuracy']:.2%} bit-true")
                points |= {_key(point): point for point in found}
                _write_points(kept, points.values())
    page = options.write.read_text() if options.write and options.write.exists() else ""
    text = document([points[key] for key in sorted(points)], CHIPS, page)
    print(text)
    if options.write:
        write_whole(options.write.parent / DRAWING, drawing(text))
        write_whole(options.write, text)


def _dense(case: Case, points: Mapping[Key, dict[str, Any]]) -> dict[str, Any]:
    """The dense network's figures; its accuracies as they were where it was trained before, on another processor."""
    point = case.figures(DENSE["name"], DENSE["name"], Fraction(1))
    before = points.get(_key(point), point)
    return point if before["float_accuracy"] == point["float_accuracy"] else before | {"chips": point["chips"]}


def _known(points: Iterable[dict[str, Any]], name: str, seed: int, test: int) -> dict[tuple[str, Fraction], float]:
    """Accuracies that need not be measured again, by line and ratio."""
    return {
        (point["line"], Fraction(point["ratio"])): point["bit_true_accuracy"]
        for point in points
        if (point["network"], point["seed"], point["images"]["test"]) == (name, seed, test)
    }


def _key(point: dict[str, Any]) -> Key:
    """Of which there is one point; in the order of the page."""
    names = [list(TASKS), ["dense", *LINES]]
    network, line = (
        every.index(point[what]) if point[what] in every else len(every)
        for every, what in zip(names, ("network", "line"), strict=True)
    )
    return network, line, point["seed"], -Fraction(point["ratio"])


def _write_points(path: Path, points: Iterable[dict[str, Any]]) -> None:
    """A line for each."""
    lines = (json.dumps(point) for point in sorted(points, key=_key))
    write_whole(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _show(phase: str, done: int, total: int, note: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{phase} {done}/{total} {note}", end="\r", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
