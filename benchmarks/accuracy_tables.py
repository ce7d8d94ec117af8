"""The points of benchmarks/accuracy.py as a Markdown page."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

NEAR = 0.005  # of accuracy: counts as equal
LOSS = 0.01  # of accuracy: may be lost for the smallest ratio
REFERENCE = "prap-tuned"
TUNED = (REFERENCE, "lowbit-tuned", "calibrated-tuned", "lean-tuned")
VARIANTS = ("prap-8of9", "prap-4of9")  # the better one at a ratio stands for the line "prap"

METHOD = "calibrated"  # whose energy is taken apart
PURPOSES = {  # of energy: components; the rest reads cells
    "partial sums": ("accumulator", "partial_sum_buffer", "dot_register"),
    "index": ("index_buffer",),
    "moving": ("input_buffer", "bus", "router", "output_unit", "digital_unit"),
}
READING = "reading"
LOST = "points lost"  # head of the table of what each line loses, where the accuracies do not tell

Point = dict[str, Any]
Table = dict[tuple[str, str, Fraction], list[Point]]  # by network, line and ratio: a point of each seed

HEAD = """# Accuracy at equal compute

How much accuracy each method keeps at the same share of the dense network's OU steps, on five networks trained on
digits. Calibrated reuse, one-shot, keeps most at every ratio, and by far below 1/2. The figure shows the points of
accuracy lost, one panel a network.

![Points of accuracy that each line loses, by compute ratio and network](drawings/accuracy.svg)

Written by `python benchmarks/accuracy.py --write docs/accuracy.md`; that file says how every point is made. Date
and machine: [benchmarks](benchmarks.md).

- **Data**: scikit-learn's digits at 32x32, perturbed (`data: {name: digits, perturb: {}}`) in all parts.
- **Accuracies** are of the bit-true int8 network in %, mean of the seeds ± half their range. With 900 test images a
  point is 9 images. 20 test images of each point went through every cell, the others through the exact integer
  product.
- **Columns** are compute ratios: OU steps over those of the dense network, the first and the last layer whole. A
  dash: out of the method's reach, or not run.
- **Lines**: *prap* is pattern pruning to 8 of 9 or 4 of 9 positions, whichever does better, with similarity reuse;
  *lean* is calibrated reuse that also saves partial sums (`shapes: [4], update_weight: 0.5`). *Tuned* lines are
  fine-tuned, all others one-shot ([methods](methods.md), [calibrated reuse](calibrated.md)).
- **Fine-tuning** starts at half of 16 epochs (8 for the large networks) of 2,788 images and uses the other half:
  far fewer steps than the paper's 50 epochs of 50,000, and PRAP would recover more with more.
- **The last column** is the ratio at which a line has lost 1 point of the float accuracy; between measured ratios
  the loss is interpolated linearly in the ratio's logarithm. < means that the smallest measured ratio loses less, >
  that the largest one loses more. Its last row is calibrated reuse over the best one-shot baseline.
- **Gain over prap-tuned**: each line at its smallest ratio within 0.5 points of float; the figure of prap-tuned
  over the line's own, or that of dense where prap-tuned loses more at every ratio that was run. Latency is serial
  on prap-2023 and pipelined on isaac-32nm, each on the dense network's crossbars; with layers replicated to fill as
  many; and with copies spread over those left idle ([how](cost.md#at-an-equal-number-of-crossbars); a dash, or the
  mean of fewer seeds, where points are older than that; on the three small networks nothing is left idle). The
  interval is that of a stream of images.
- **What is left of the energy**, in % of the dense network's: reading cells (ADC, DAC, registers, shift and add) is
  what reuse saves. Every use of a pattern still adds a partial sum and names its donor in the index; activations
  move as before.
- **Older points**: networks without points in `benchmarks/accuracy_points.json` were measured before that file was
  kept. Their images differ in the last bits, so a new measurement may differ by a few images, and calibrated reuse
  left up to 5 % of a budget unused.
"""
DRAWING = Path("drawings/accuracy.svg")  # beside the page


def document(points: Sequence[Point], chips: Sequence[str], before: str = "") -> str:
    """The whole page: a section for each network.

    Args:
        points: as benchmarks/accuracy.py writes them; of each network a dense one.
        chips: the first is read with serial latency, the second with pipelined latency.
        before: a page as it was, whose sections of networks without points are kept.
    """
    kept = sections(before)
    table: Table = {}
    for point in points:
        table.setdefault((point["network"], point["line"], Fraction(point["ratio"])), []).append(point)
    table = _with_better_variant(table)
    new = {name: _section(table, name, chips) for name in dict.fromkeys(key[0] for key in table)}
    return HEAD + "".join(f"\n## {name}\n\n{text.strip()}\n" for name, text in (kept | new).items())


def sections(page: str) -> dict[str, str]:
    """What a page says of each network."""
    return {name: text for name, _, text in (part.partition("\n\n") for part in page.split("\n## ")[1:])}


def _section(table: Table, network: str, chips: Sequence[str]) -> str:
    lines = [line for line in dict.fromkeys(key[1] for key in table if key[0] == network) if line != "dense"]
    ratios = sorted({key[2] for key in table if key[0] == network and key[1] != "dense"}, reverse=True)
    crossings = {line: _crossing(table, network, line) for line in lines}
    seeds = len(table[network, "dense", Fraction(1)])
    rows = [
        [line, *(_spread(table.get((network, line, ratio), []), seeds=seeds) for ratio in ratios), crossings[line][0]]
        for line in lines
    ]
    baselines = [crossings[line] for line in lines if line not in TUNED and line != METHOD]
    over = _over(crossings.get(METHOD), baselines)
    rows.append([f"{METHOD} / best baseline", *("" for _ in ratios), over])
    text = f"{_about(table[network, 'dense', Fraction(1)])}\n\n"
    again = _trained_again([point for key, each in table.items() if key[0] == network for point in each])
    text += f"{again}\n\n" if again else ""
    text += _markdown(["line", *map(str, ratios), f"{100 * LOSS:g} point lost at"], rows)
    if again:
        lost = [[line, *(_lost(table.get((network, line, ratio), []), seeds) for ratio in ratios)] for line in lines]
        text += f"\n{_markdown([LOST, *map(str, ratios)], lost)}"
    base, gains = _gains(table, network, lines, chips)
    head = [f"{what}, {chip}" for what, chip, _ in _figures(chips)]
    text += f"\nGain over {base}:\n\n{_markdown(['line', 'ratio', *head], gains)}"
    if left := [row for chip in chips for row in _left(table, network, chip, ratios)]:
        head = ["chip", "ratio", READING, *PURPOSES, "all"]
        text += f"\nWhat is left of the energy, {METHOD}:\n\n{_markdown(head, left)}"
    return text


def _with_better_variant(table: Table) -> Table:
    result: Table = {}
    for (network, line, ratio), points in table.items():
        if line in VARIANTS:
            present = [table[network, name, ratio] for name in VARIANTS if (network, name, ratio) in table]
            result[network, "prap", ratio] = max(present, key=_accuracy)
        else:
            result[network, line, ratio] = points
    return result


def _about(dense: list[Point]) -> str:
    images = dense[0]["images"]
    return (
        f"Float {_spread(dense, 'float_accuracy')}, dense bit-true {_spread(dense)}. Seeds: "
        f"{', '.join(str(point['seed']) for point in dense)}; {images['train']} images to train on, "
        f"{images['calibration']} to calibrate with, {images['test']} to test on."
    )


def _trained_again(points: Sequence[Point]) -> str:
    """Which seeds have points from more than one training, as far as the float accuracies tell; "" for none."""
    found: dict[int, set[float]] = {}
    for point in points:
        found.setdefault(point["seed"], set()).add(point["float_accuracy"])
    several = [
        f"seed {seed}: {', '.join(f'{100 * value:.2f}' for value in sorted(found[seed]))}"
        for seed in sorted(found)
        if len(found[seed]) > 1
    ]
    return (
        "Not all points of a seed are from one training: another processor rounds otherwise, and the trained networks "
        f"differ (float accuracies, {'; '.join(several)}). What is lost is counted against the network that was "
        "compressed, as in the second table."
        if several
        else ""
    )


def _smallest(table: Table, network: str, line: str, loss: float) -> Fraction | None:
    """The smallest ratio at which a line loses at most so much; None if it always loses more."""
    losses = _losses(table, network, line)
    return min((ratio for ratio in losses if losses[ratio] <= loss), default=None)


def _crossing(table: Table, network: str, line: str) -> tuple[str, float | None]:
    """The ratio at which a line's loss passes LOSS, as text and as a number; None where it was not measured."""
    losses = _losses(table, network, line)
    if not losses:
        return "-", None
    losses |= {Fraction(1): _loss(table[network, "dense", Fraction(1)])}
    down = sorted(losses, reverse=True)
    for above, below in pairwise(down):
        if losses[below] > LOSS:
            if above > 2 * below:  # too far apart to tell where
                return f"> {float(below):.3f}", None
            share = (LOSS - losses[above]) / (losses[below] - losses[above])
            ratio = float(above) * float(below / above) ** max(0.0, share)
            return f"{ratio:.3f}", ratio
    return f"< {float(down[-1]):.3f}", float(down[-1])


def _over(own: tuple[str, float | None] | None, baselines: Sequence[tuple[str, float | None]]) -> str:
    known = [ratio for _, ratio in baselines if ratio is not None]
    if own is None or own[1] is None or not known:
        return "-"
    return f"{'< ' if own[0].startswith('<') else ''}{own[1] / min(known):.2f}"


def _gains(table: Table, network: str, lines: Sequence[str], chips: Sequence[str]) -> tuple[str, list[list[str]]]:
    """What the gain is over, and the rows.

    Where the reference is nowhere near float, it is over dense, and the reference stands where it loses least.
    """
    chosen = {"dense": Fraction(1)} | {line: _smallest(table, network, line, NEAR) for line in lines}
    costs = {line: _costs(table[network, line, ratio], chips) for line, ratio in chosen.items() if ratio is not None}
    over = REFERENCE if REFERENCE in costs else "dense"
    rows = [[line, str(chosen[line]), *_over_each(costs[over], own)] for line, own in costs.items()]
    lost = [line for line in lines if line not in costs]
    losses = _losses(table, network, REFERENCE)
    if REFERENCE in lost and losses:
        least = min(losses, key=lambda ratio: losses[ratio])
        gains = _over_each(costs[over], _costs(table[network, REFERENCE, least], chips))
        rows.append([f"{REFERENCE}, loses {100 * losses[least]:.2f}", str(least), *gains])
    return over + (f" (nowhere within {100 * NEAR:g} points: {', '.join(lost)})" if lost else ""), rows


def _over_each(base: list[float | None], own: list[float | None]) -> list[str]:
    return ["-" if b is None or o is None else f"{b / o:.2f}x" for b, o in zip(base, own, strict=True)]


def _figures(chips: Sequence[str]) -> list[tuple[str, str, str]]:
    """Head, chip and key of what gains are told of: serial latencies of the first chip, pipelined of the others."""
    heads = {"latency": "", "latency, replicated": "replicated_", "and spread": "spread_"}
    found = []
    for chip in chips:
        latency = "serial_latency_s" if chip == chips[0] else "pipelined_latency_s"
        found += [(head, chip, how + latency) for head, how in heads.items()]
        if chip != chips[0]:
            found.append(("interval, spread", chip, "spread_pipelined_interval_s"))
        found.append(("energy", chip, "energy_j"))
    return found


def _costs(points: list[Point], chips: Sequence[str]) -> list[float | None]:
    """The mean of each figure, of the seeds that have it, in s and J; None where none has."""
    found = [
        [point["chips"][chip][key] for point in points if key in point["chips"][chip]]
        for _, chip, key in _figures(chips)
    ]
    return [mean(values) if values else None for values in found]


def _left(table: Table, network: str, chip: str, ratios: Sequence[Fraction]) -> list[list[str]]:
    """Energy by purpose, of the dense network's, mean of the seeds."""
    dense = {point["seed"]: point["chips"][chip]["energy_j"] for point in table[network, "dense", Fraction(1)]}
    rows = []
    for line, ratio in [("dense", Fraction(1)), *((METHOD, ratio) for ratio in ratios)]:
        shares = []
        for point in table.get((network, line, ratio), []):
            parts = [point["chips"][chip]["energy_by_purpose_j"][name] for name in (READING, *PURPOSES)]
            shares.append([100 * value / dense[point["seed"]] for value in (*parts, sum(parts))])
        if shares:
            rows.append([chip, str(ratio), *(f"{mean(column):.2f}" for column in zip(*shares, strict=True))])
    return rows


def by_purpose(breakdown_j: Mapping[str, float]) -> dict[str, float]:
    """What components use, by what they use it for."""
    known = {name: sum(breakdown_j.get(part, 0.0) for part in parts) for name, parts in PURPOSES.items()}
    return {READING: sum(breakdown_j.values()) - sum(known.values())} | known


def _accuracy(points: list[Point]) -> float:
    return float(mean(point["bit_true_accuracy"] for point in points))


def _loss(points: list[Point]) -> float:
    """Of accuracy against the float network that was compressed; rounded, so that one image in 200 is half a point."""
    return round(float(mean(point["float_accuracy"] - point["bit_true_accuracy"] for point in points)), 9)


def _losses(table: Table, network: str, line: str) -> dict[Fraction, float]:
    """What a line loses, by ratio."""
    return {key[2]: _loss(points) for key, points in table.items() if key[:2] == (network, line)}


def _spread(points: list[Point], key: str = "bit_true_accuracy", seeds: int = 1) -> str:
    """Mean and half the range; where there are fewer than ``seeds``, of how many."""
    values = [100 * point[key] for point in points]
    if not values:
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
    fewer = f" ({len(values)} of {seeds} seeds)" if len(values) < seeds else ""
    return f"{mean(values):.2f}{spread}{fewer}"


def _lost(points: list[Point], seeds: int) -> str:
    """Points of accuracy lost, as in ``_spread``."""
    return _spread([{"lost": point["float_accuracy"] - point["bit_true_accuracy"]} for point in points], "lost", seeds)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))
