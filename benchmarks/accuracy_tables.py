"""The points of benchmarks/accuracy.py as a Markdown page."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import mean
from typing import Any

NEAR = 0.005  # of accuracy: counts as equal
LOSS = 0.01  # of accuracy: may be lost for the smallest ratio
REFERENCE = "prap-tuned"
TUNED = (REFERENCE, "calibrated-tuned")
VARIANTS = ("prap-8of9", "prap-4of9")  # the better one at a ratio stands for the line "prap"

METHOD = "calibrated"  # whose energy is taken apart
PARTIAL_SUMS = ("accumulator", "partial_sum_buffer")
INDEX = ("index_buffer",)
MOVING = ("input_buffer", "bus", "router", "output_unit", "digital_unit")  # the rest reads cells

Point = dict[str, Any]
Table = dict[tuple[str, str, Fraction], list[Point]]  # by network, line and ratio: a point of each seed

HEAD = """# Accuracy at equal compute

Written by `python benchmarks/accuracy.py --write docs/accuracy.md`; that file says how every point is made. The data
are scikit-learn's digits at 32x32, perturbed (`data: {name: digits, perturb: {}}`) in all parts. Accuracies are of the
bit-true int8 network in %, mean of the seeds ± half their range. Columns are compute ratios: OU steps over those of the
dense network, the first and the last layer whole. *prap* is pattern pruning to 8 of 9 or 4 of 9 positions, whichever
does better, with similarity reuse; *tuned* lines are fine-tuned, all others one-shot. A dash: out of the method's
reach, or not run. What the methods do: [methods](methods.md), [calibrated reuse](calibrated.md).

Tuned lines branch at half of 16 epochs (of the large networks, 8) of 2,788 images and train the other half: far fewer
steps than the paper's 50 epochs of 50,000, and PRAP would recover more with more. 20 test images of each point went
through every cell, the others through the exact integer product. With 900 test images a point is 9 images. The points
were made before images were normalised by float64 sums: their pixels differ in the last bits, so one made anew may
differ by an image or two.
"""


def document(points: Sequence[Point], chips: Sequence[str]) -> str:
    """The whole page.

    Args:
        points: as benchmarks/accuracy.py writes them; of each network a dense one.
        chips: the first is read with serial latency, the second with pipelined latency.
    """
    table: Table = {}
    for point in points:
        table.setdefault((point["network"], point["line"], Fraction(point["ratio"])), []).append(point)
    table = _with_better_variant(table)
    networks, lines = list(dict.fromkeys(key[0] for key in table)), list(dict.fromkeys(key[1] for key in table))
    lines.remove("dense")
    ratios = sorted({key[2] for key in table if key[1] != "dense"}, reverse=True)
    text = HEAD
    for network in networks:
        text += f"\n## {network}\n\n{_about(table[network, 'dense', Fraction(1)])}\n\n"
        measured = [key for key in table if key[0] == network]
        columns = [ratio for ratio in ratios if any(key[2] == ratio for key in measured)]
        text += _markdown(
            ["line", *map(str, columns)],
            [
                [line, *(_spread(table.get((network, line, ratio), [])) for ratio in columns)]
                for line in lines
                if any(key[1] == line for key in measured)
            ],
        )
    text += f"\n## Smallest ratio that loses at most {100 * LOSS:g} point of the float accuracy (mean of seeds)\n\n"
    rows = [[line, *(_smallest_shown(table, network, line) for network in networks)] for line in lines]
    text += _markdown(["line", *networks], rows)
    text += f"\n## Ratio at which {100 * LOSS:g} point is lost\n\n"
    text += (
        "Between the measured ratios, the loss taken as linear in the ratio's logarithm; < where the smallest measured "
        "ratio loses less. The last row is calibrated reuse over the best one-shot rival.\n\n"
    )
    crossings = {(n, line): _crossing(table, n, line) for n in networks for line in lines}
    rows = [[line, *(crossings[n, line][0] for n in networks)] for line in lines]
    rivals = [line for line in lines if line not in TUNED and line != METHOD]
    over = [_over(crossings.get((n, METHOD)), [crossings[n, line] for line in rivals]) for n in networks]
    text += _markdown(["line", *networks], [*rows, [f"{METHOD} / best rival", *over]])
    text += f"\n## Gain over {REFERENCE}, each at its smallest ratio within {100 * NEAR:g} points of float\n\n"
    text += (
        f"Its figure over the line's. Latency is serial on {chips[0]} and pipelined on {chips[1]}; each on the dense "
        "network's crossbars, and with layers replicated to fill as many.\n\n"
    )
    rows = [row for network in networks for row in _gains(table, network, lines, chips)]
    head = [f"{what}, {chip}" for chip in chips for what in ("latency", "latency, replicated", "energy")]
    text += _markdown(["network", "line", "ratio", *head], rows)
    text += f"\n## What is left of the energy: {METHOD}, % of the dense network's\n\n"
    text += (
        "Reuse saves what reads cells (ADC, DAC, registers, shift and add). Every use of a pattern still adds up a "
        "partial sum, and names its donor in the index; activations move as before.\n\n"
    )
    rows = [row for network in networks for chip in chips for row in _left(table, network, chip, ratios)]
    return text + _markdown(["network", "chip", "ratio", "reading", "partial sums", "index", "moving", "all"], rows)


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


def _smallest(table: Table, network: str, line: str, loss: float) -> Fraction | None:
    """The smallest ratio at which a line loses at most so much; None if it always loses more."""
    losses = {key[2]: _loss(points) for key, points in table.items() if key[:2] == (network, line)}
    return min((ratio for ratio in losses if losses[ratio] <= loss), default=None)


def _smallest_shown(table: Table, network: str, line: str) -> str:
    measured = any(key[:2] == (network, line) for key in table)
    return str(_smallest(table, network, line, LOSS) or "none") if measured else "-"


def _crossing(table: Table, network: str, line: str) -> tuple[str, float | None]:
    """The ratio at which a line's loss passes LOSS, as text and as a number; None where it was not measured."""
    losses = {key[2]: _loss(points) for key, points in table.items() if key[:2] == (network, line)}
    if not losses:
        return "-", None
    losses |= {Fraction(1): _loss(table[network, "dense", Fraction(1)])}
    down = sorted(losses, reverse=True)
    for above, below in pairwise(down):
        if losses[below] > LOSS:
            share = (LOSS - losses[above]) / (losses[below] - losses[above])
            ratio = float(above) * float(below / above) ** max(0.0, share)
            return f"{ratio:.3f}", ratio
    return f"< {float(down[-1]):.3f}", float(down[-1])


def _over(own: tuple[str, float | None] | None, rivals: Sequence[tuple[str, float | None]]) -> str:
    known = [ratio for _, ratio in rivals if ratio is not None]
    if own is None or own[1] is None or not known:
        return "-"
    return f"{'< ' if own[0].startswith('<') else ''}{own[1] / min(known):.2f}"


def _gains(table: Table, network: str, lines: Sequence[str], chips: Sequence[str]) -> list[list[str]]:
    chosen = {line: _smallest(table, network, line, NEAR) for line in lines}
    costs = {line: _costs(table[network, line, ratio], chips) for line, ratio in chosen.items() if ratio is not None}
    base = costs.get(REFERENCE)
    if base is None:
        return []
    return [
        [network, line, str(chosen[line]), *(f"{b / o:.2f}x" for b, o in zip(base, own, strict=True))]
        for line, own in costs.items()
    ]


def _costs(points: list[Point], chips: Sequence[str]) -> list[float]:
    """Mean latency, latency with layers replicated, and energy on each chip, in s and J."""
    timing = ("serial_latency_s", "pipelined_latency_s")
    keys = [
        (chip, key)
        for chip, latency in zip(chips, timing, strict=True)
        for key in (latency, f"replicated_{latency}", "energy_j")
    ]
    return [mean(point["chips"][chip][key] for point in points) for chip, key in keys]


def _left(table: Table, network: str, chip: str, ratios: Sequence[Fraction]) -> list[list[str]]:
    """Energy by purpose, of the dense network's, mean of the seeds."""
    dense = {point["seed"]: point["chips"][chip]["energy_j"] for point in table[network, "dense", Fraction(1)]}
    rows = []
    for line, ratio in [("dense", Fraction(1)), *((METHOD, ratio) for ratio in ratios)]:
        points = table.get((network, line, ratio), [])
        shares = []
        for point in points:
            parts = point["chips"][chip]["energy_breakdown_j"]
            known = [sum(parts.get(name, 0.0) for name in names) for names in (PARTIAL_SUMS, INDEX, MOVING)]
            every = sum(parts.values())
            shares.append([100 * value / dense[point["seed"]] for value in (every - sum(known), *known, every)])
        if shares:
            rows.append([network, chip, str(ratio), *(f"{mean(column):.2f}" for column in zip(*shares, strict=True))])
    return rows


def _accuracy(points: list[Point]) -> float:
    return mean(point["bit_true_accuracy"] for point in points)


def _loss(points: list[Point]) -> float:
    """Of accuracy against the float network of the same seed; rounded, so that one image in 200 is half a point."""
    return round(mean(point["float_accuracy"] - point["bit_true_accuracy"] for point in points), 9)


def _spread(points: list[Point], key: str = "bit_true_accuracy") -> str:
    values = [100 * point[key] for point in points]
    spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}" if values else "-"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))
