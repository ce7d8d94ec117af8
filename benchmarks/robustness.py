"""Accuracy on cells that vary, of dense, irregular, reused and calibrated plans that are equally accurate without it.

    python benchmarks/robustness.py [--seeds 0 1 2] [--devices 5] [--images 200]   half an hour a seed
    python benchmarks/robustness.py --quick                                        a tiny network, to see that it works

The plans are those of benchmarks/accuracy.py (ResNet-20 of width 16 on perturbed digits), read from its --cache; those
that are missing there are made as it does. For each seed of the network, all plans are gathered in a run folder of
their own below --folder and measured there as ``prap-pim simulate`` does. Killed? The same command goes on; more seeds
or devices only add to what is done.

Prints Markdown: mean accuracy in % over seeds and devices ± standard deviation over them (n - 1), worst in brackets.
Every plan meets the same images and the same seeds of devices. "Own cells" is the control for what sharing does: the
same integers with the same gains, but each use stores its pattern again, so no two filters share an error.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from accuracy import DENSE, LINES, TASKS, TINY, Case

from prap_pim.common.errors import UserError
from prap_pim.crossbar.slices import WeightSlices
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.results.folder import RunFolder
from prap_pim.results.run import Results
from prap_pim.runs.crossbars import Crossbars, Sweep
from prap_pim.runs.simulate import Request, simulate_run

PLANS: tuple[tuple[str, Fraction], ...] = (
    ("orc", Fraction(1, 2)),
    ("prap-tuned", Fraction(1, 2)),
    ("calibrated", Fraction(1, 2)),
    ("calibrated", Fraction(1, 8)),
)
SIGMAS = (0.05, 0.1, 0.2, 0.3)
SIGMA = 0.2  # of what is measured at one sigma alone
ENCODINGS = ("two's complement", "differential")
MITIGATIONS = {
    "write-verify (0.2 levels, 5 attempts)": ["device.write_verify.tolerance=0.2", "device.write_verify.attempts=5"],
    "the quarter of the donors with the most uses stored 4 times": ["copies.share=0.25", "copies.copies=4"],
}
OWN = " own cells"  # behind a plan's name: without sharing

Found = dict[tuple[str, float, str], list[float]]  # by crossbars, sigma and plan: accuracies of all devices and seeds


def gather(case: Case, folder: Path, chosen: Sequence[tuple[str, Fraction]]) -> dict[str, NetworkPlan]:
    """A run folder that holds all plans of a case, made anew from the runs of ``accuracy.py``.

    Returns:
        the plans by name.
    """
    gathered = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plans: dict[str, NetworkPlan] = {}
    methods = []
    named: dict[str, tuple[str, Fraction] | None] = {DENSE["name"]: None}
    named |= {f"{line}-{ratio.numerator}of{ratio.denominator}": (line, ratio) for line, ratio in chosen}
    for name, point in named.items():
        run = RunFolder(case.folder / name)
        if not run.results.exists():
            case.run(LINES[point[0]](case, point[1]) | {"name": name} if point else DENSE)
        results = Results.load(run.results)
        if point is None:
            dense = results
            shutil.copy(run.config, folder)
            gathered.write_manifest(run.read_manifest().origin)
        plan = NetworkPlan.load(run.method(name) / "plan.safetensors")
        apart = replace(plan, layers={key: own_cells(layer) for key, layer in plan.layers.items()})
        for suffix, kept in (("", plan), (OWN, apart)):
            plans[name + suffix] = kept
            shutil.copytree(run.method(name), gathered.method(name + suffix), dirs_exist_ok=True)
            kept.save(gathered.method(name + suffix) / "plan.safetensors")
            renamed = {"name": name + suffix, "plan_sha256": kept.digest()}
            methods.append(results.methods[0].model_copy(update=renamed))
    gathered.finish(dense.model_copy(update={"methods": methods}))
    return plans


def own_cells(plan: LayerPlan) -> LayerPlan:
    """The same integers, with a donor for every use."""
    donors = plan.donors[plan.use_donor]
    return replace(plan, donors=donors, donor_start=plan.use_start, use_donor=np.arange(plan.uses, dtype=np.int32))


def weight_error(plan: NetworkPlan, encoding: str) -> float:
    """Standard deviation of the weights at ``SIGMA`` over their root mean square, mean of the layers; 1-bit cells."""
    slices = WeightSlices(8, 1, encoding)
    variance = np.exp(SIGMA**2) * (np.exp(SIGMA**2) - 1)  # of e^(sigma z)
    found = []
    for layer in plan.layers.values():
        levels = slices.levels(layer.donors)  # [donor, column, row]
        errors = variance * np.einsum("dcr,c->d", levels.astype(np.float64), slices.factors.astype(np.float64) ** 2)
        gain = np.exp2(layer.use_exponent.astype(np.float64)) * layer.step[layer.use_filter]
        found.append(np.sqrt((gain**2 * errors[layer.use_donor]).sum() / (layer.real_weights() ** 2).sum()))
    return float(np.mean(found))


def measure(folder: Path, names: Sequence[str], options: argparse.Namespace, found: Found, exact: Found) -> None:
    """All points of a run folder."""
    plain = [name for name in names if not name.endswith(OWN)]
    apart = [name for name in names if name.endswith(OWN) and name != DENSE["name"] + OWN]
    asked: list[tuple[str, str, list[str], list[str], Sequence[float]]]
    asked = [(encoding, encoding, [], plain, options.sigmas) for encoding in ENCODINGS]
    asked += [(f"{ENCODINGS[0]}, {how}", ENCODINGS[0], flags, plain, (SIGMA,)) for how, flags in MITIGATIONS.items()]
    asked += [(encoding, encoding, [], apart, (SIGMA,)) for encoding in ENCODINGS]
    for title, encoding, flags, methods, sigmas in asked:
        sweep = Sweep(quantity="sigma", values=tuple(sigmas))
        request = Request(
            methods=tuple(methods),
            samples=options.images,
            devices=options.devices,
            sweep=sweep,
            processes=options.processes,
            name=title + (OWN if methods is apart else ""),
        )
        # a write-verify needs a variation; the sweep puts its own in the place of this one
        crossbars = Crossbars.read(None, [f"encoding={encoding}", f"device.variation.sigma={SIGMA}", *flags])
        _, simulation = simulate_run(folder, request, crossbars, "benchmarks/robustness.py", _show)
        for point in simulation.points:
            found.setdefault((title, float(point.value or 0), point.method), []).extend(point.accuracies)
        for name, accuracy in simulation.exact_accuracy.items():
            exact.setdefault(("exact", 0.0, name), [])
            if title == ENCODINGS[0]:
                exact["exact", 0.0, name].append(accuracy)


def text(accuracies: Sequence[float]) -> str:
    """Mean ± spread (worst), in %."""
    if not accuracies:
        return ""
    spread = f" ± {100 * stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{100 * fmean(accuracies):.1f}{spread} ({100 * min(accuracies):.1f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the networks")
    parser.add_argument("--sigmas", nargs="+", type=float, default=SIGMAS, help="of ln g")
    parser.add_argument("--devices", type=int, default=5, help="for each network and point")
    parser.add_argument("--images", type=int, default=200, help="the first of the test images")
    parser.add_argument("--processes", type=int, help="as for prap-pim simulate")
    parser.add_argument("--cache", type=Path, default=Path("runs/accuracy"), help="that of benchmarks/accuracy.py")
    parser.add_argument("--folder", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--quick", action="store_true", help="one tiny network, 2 devices and 20 images instead")
    options = parser.parse_args(arguments)
    name, task, test, chosen = "resnet20-w16", TASKS["resnet20-w16"], 900, PLANS
    if options.quick:
        name, task, test, chosen = "tiny", TINY, 20, PLANS[:3]  # its calibrated plans cannot be as small as the last
        options.seeds, options.devices, options.images = [0], 2, 20
    found: Found = {}
    exact: Found = {}
    errors: Found = {}
    for seed in options.seeds:
        case = Case(name, task, seed, test, options.cache / f"{name}-{test}" / f"seed{seed}")
        folder = options.folder / f"{name}-{test}" / f"seed{seed}"
        plans = gather(case, folder, chosen)
        measure(folder, list(plans), options, found, exact)
        for plan_name, plan in plans.items():
            for encoding in ENCODINGS:
                errors.setdefault((encoding, SIGMA, plan_name), []).append(weight_error(plan, encoding))
    names = [name for name in plans if not name.endswith(OWN)]
    rows = [["none", "", *(text(exact["exact", 0.0, name]) for name in names)]]
    for title, sigma in dict.fromkeys(key[:2] for key in found):
        rows.append([title, f"{sigma:g}", *(text(found[title, sigma, name]) for name in names)])
    print(f"{len(options.seeds)} networks, {options.devices} devices each, {options.images} images\n")
    print(table(["crossbars", "sigma", *names], rows))
    rows = []
    for encoding in ENCODINGS:
        for what, suffix in (("as they are", ""), ("own cells", OWN)):
            cells = (text(found.get((encoding, SIGMA, name + suffix), [])) for name in names)
            rows.append([f"{encoding}, {what}", *cells])
        rows.append(
            [f"{encoding}, error of a weight", *(f"{fmean(errors[encoding, SIGMA, name]):.2f}" for name in names)]
        )
    print(table([f"sigma {SIGMA:g}", *names], rows))


def _show(phase: str, done: int, total: int, note: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{phase} {done}/{total} {note}", end="\r", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
