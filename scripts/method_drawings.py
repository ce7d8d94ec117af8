"""Drawings of docs/methods.md: ``python scripts/method_drawings.py``, seconds.

One small layer is compressed by every method; each drawing shows the plan that came of it: which weights are kept, who
takes whose pattern with which gain, and what is stored. docs/drawings/method-NAME.svg.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from drawing import COLOURS, blocks, framed, rectangle, text
from torch import nn

import prap_pim
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.prune import StructuredPruning
from prap_pim.methods.reuse import IdenticalReuse

DRAWINGS = Path(__file__).parents[1] / "docs" / "drawings"
CHANNELS, KERNEL, FILTERS, OU = 4, 2, 6, 8  # 16 inputs: two OUs high
INPUTS = CHANNELS * KERNEL**2
WIDTH = 440
COLUMN, ROW, CELL = 26, 9, 5  # pixels: a filter, a weight, a bit
STORED, PER_LINE, PITCH = 245, 4, 47  # where OUs are drawn, how many side by side, and how far apart
GAINS = {-3: "⅛", -2: "¼", -1: "½"}
METHODS = {
    "dense": (prap_pim.Dense(), "Every filter stores its own patterns, in two row groups."),
    "structured": (prap_pim.Structured(ratio=0.5), "Two of four channels are kept, the same for all filters."),
    "pattern": (
        prap_pim.Pattern(group_channels=4, shapes=2),
        "A filter keeps one of two shapes, the same in all channels.",
    ),
    "orc": (prap_pim.Orc(ratio=0.5), "Every filter keeps its own eight largest weights."),
    "identical": (
        prap_pim.Identical(threshold=0.7),
        "Equal patterns are stored once; small ones are dropped.",
    ),
    "similar": (prap_pim.Similar(keep=0.34), "The largest patterns are donors; others take one times 2ᵏ."),
    "structured-identical": (
        MethodConfig(
            name="structured+identical", prune=StructuredPruning(ratio=0.5), reuse=IdenticalReuse(threshold=0.7)
        ),
        "Channels are dropped, then equal patterns shared.",
    ),
    "prap": (
        prap_pim.Prap(keep=0.34, group_channels=4, shapes=2),
        "Shapes are chosen; then a filter takes a donor and its shape.",
    ),
    "calibrated": (
        prap_pim.Calibrated(compute_ratio=0.25, bits=[4], uses=2),
        "Donors are no filter's own: each adds up one or two, times ±2ᵏ.",
    ),
    "lowbit": (prap_pim.LowBit(bits=[4]), "Own patterns, of 4 bits: two of them fit one OU."),
}


def main() -> None:
    model, inputs = example()
    for name, (method, words) in METHODS.items():
        plan = prap_pim.compress(model, inputs, method).plan.layers["0"]
        (DRAWINGS / f"method-{name}.svg").write_text(drawing(name, plan, words))


def example() -> tuple[nn.Module, torch.Tensor]:
    """A layer some of whose patterns are equal, some alike up to a power of two, and some small; and its inputs."""
    draws = np.random.default_rng(3)
    first, second = draws.integers(-110, 111, (2, INPUTS))
    weights = np.stack([first, first / 2, second, first / 2, second / 4, 0 * first])
    weights += draws.integers(-4, 5, weights.shape) * (np.arange(FILTERS) > 3)[:, None]
    weights[:, OU:] = draws.permutation(weights[:, OU:])
    layer = nn.Conv2d(CHANNELS, FILTERS, KERNEL, bias=False)
    layer.weight.data = torch.tensor(weights / 127, dtype=torch.float32).reshape(layer.weight.shape)
    return nn.Sequential(layer, nn.ReLU()), torch.rand(64, CHANNELS, 6, 6, generator=torch.manual_seed(0))


class Drawing:
    """A plan with what its patterns are called and coloured by."""

    def __init__(self, plan: prap_pim.LayerPlan) -> None:
        self.plan = plan
        self.own = [self._own(donor) for donor in range(len(plan.donors))]  # the filter whose pattern it is, or None
        uses = np.bincount(plan.use_donor)
        self.reused = len(plan.donors) < plan.uses
        self.free = None in self.own and self.reused  # donors that are no filter's pattern
        self.stored = STORED + (18 if self.free else 0)  # where the OUs begin, beside the weights
        self.colour = ["dense" if n == 1 else f"c{donor % len(COLOURS)}" for donor, n in enumerate(uses)]

    def _own(self, donor: int) -> int | None:
        plan = self.plan
        for use in np.flatnonzero(plan.use_donor == donor):
            alone = (plan.use_group == plan.use_group[use]) & (plan.use_filter == plan.use_filter[use])
            if plan.use_sign[use] == 1 and plan.use_exponent[use] == 0 and alone.sum() == 1:
                return int(plan.use_filter[use])
        return None

    def name(self, donor: int) -> str:
        own = self.own[donor]
        return "ABCDEF"[own] if not self.free else f"{donor - self.plan.donor_start[self.plan.donor_group[donor]] + 1}"


def drawing(name: str, plan: prap_pim.LayerPlan, words: str) -> str:
    """The SVG."""
    of = Drawing(plan)
    per_ou = OU // plan.weight_bits
    ous = [
        donors[start : start + per_ou]
        for donors in (range(a, b) for a, b in zip(plan.donor_start, plan.donor_start[1:], strict=False))
        for start in range(0, len(donors), per_ou)
    ]
    dense = INPUTS // OU * FILTERS
    weights, foot = matrix(of)
    stored, end = list(crossbar(of, ous)), 46 + -(-len(ous) // PER_LINE) * (PITCH + 15)
    foot = max(foot, end)
    parts = [
        text(20, 30, f"{INPUTS} inputs × {FILTERS} filters", "head"),
        text(of.stored, 30, f"Stored: {len(ous)} of {dense} OUs", "head"),
        *weights,
        *stored,
        text(20, foot + 20, words),
    ]
    return framed(WIDTH, int(foot + 36), f"{name}: what is kept, shared and stored", words, parts)


def matrix(of: Drawing) -> tuple[list[str], float]:
    """Weights of the layer, a column a filter, and where they end."""
    plan, parts = of.plan, []
    mixed = any(len({row // OU for row in rows if row >= 0}) > 1 for rows in plan.rows)  # groups reach over both halves
    room = 36 if of.reused else 8
    left = 20 + (2 * COLUMN + 16 if of.free else 0)
    centre = [left + COLUMN * (column + 0.5) - 2 for column in range(FILTERS)]
    parts += [text(x, 54, letter, "mid") for x, letter in zip(centre, "ABCDEF", strict=True)]
    tops = [60 + room + row * ROW + (row // OU) * (6 if mixed else room + 2) for row in range(INPUTS)]
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for column in range(FILTERS):
        for row in range(INPUTS):
            kinds = [
                of.colour[plan.use_donor[use]]
                for use in np.flatnonzero(plan.use_filter == column)
                if row in plan.rows[plan.use_group[use]]
            ] or ["free"]
            width = (COLUMN - 4) / len(kinds)
            for place, kind in enumerate(kinds):
                found.setdefault((kind, width), []).append((left + COLUMN * column + width * place, tops[row]))
    parts += [blocks(kind, corners, width, ROW - 1) for (kind, width), corners in found.items()]
    for group in range(plan.groups):
        rows = [tops[row] for row in plan.rows[group] if row >= 0]
        top, middle = min(rows), (min(rows) + max(rows) + ROW) / 2
        if of.free:
            for donor in range(*plan.donor_start[group : group + 2]):
                x = 20 + COLUMN * (donor - plan.donor_start[group])
                parts.append(blocks(of.colour[donor], ((x, y) for y in rows), COLUMN - 4, ROW - 1))
                parts.append(text(x + COLUMN / 2 - 2, top - 6, of.name(donor), "mid"))
            parts.append(
                f'  <line class="line" x1="{left - 14}" y1="{middle:g}" x2="{left - 4}" y2="{middle:g}" '
                'marker-end="url(#tip)"/>'
            )
        if of.reused:
            parts += arrows(of, group, centre, (60 + room if mixed else top) - 4, middle)
    return parts, tops[-1] + ROW


def arrows(of: Drawing, group: int, centre: list[float], top: float, middle: float) -> Iterator[str]:
    """From a donor to the filters that take it, and the gain of each on its pattern."""
    plan = of.plan
    uses = np.flatnonzero(plan.use_group == group)
    for use in uses:
        filter_, donor = int(plan.use_filter[use]), int(plan.use_donor[use])
        gain, x = _gain(int(plan.use_sign[use]), int(plan.use_exponent[use])), centre[filter_]
        several = [other for other in uses if plan.use_filter[other] == filter_]
        if of.own[donor] != filter_ and not of.free:
            start = centre[of.own[donor]]
            bend = min(26, 8 + abs(x - start) / 4)
            yield (
                f'  <path class="line" style="fill:none" d="M{start:g} {top:g} Q{(start + x) / 2:g} '
                f'{top - 1.6 * bend:g} {x:g} {top:g}" marker-end="url(#tip)"/>'
            )
        if of.free or of.own[donor] != filter_:
            y = middle + (0 if len(several) == 1 else -18 if use == several[0] else 18)
            yield rectangle("card", x - 12, y - 10, 24, 15, 4)
            yield text(x, y + 1.5, gain, "mid tag")


def _gain(sign: int, exponent: int) -> str:
    return ("−" if sign < 0 else "×") + (GAINS.get(exponent) or str(2.0**exponent).removesuffix(".0"))


def crossbar(of: Drawing, ous: list[range]) -> Iterator[str]:
    """Bits of the donors, two's complement, in the OUs that hold them."""
    for number, donors in enumerate(ous):
        x, y = of.stored + PITCH * (number % PER_LINE), 48 + (PITCH + 15) * (number // PER_LINE)
        yield rectangle("box", x - 2, y - 2, OU * CELL + 3, OU * CELL + 3)
        for place, donor in enumerate(donors):
            bits = of.plan.weight_bits
            ones = [
                (x + CELL * (place * bits + bit), y + CELL * row)
                for row, value in enumerate(of.plan.donors[donor])
                for bit in range(bits)
                if int(value) >> bits - 1 - bit & 1
            ]
            yield blocks(of.colour[donor], ones, CELL - 1, CELL - 1)
        yield text(x + OU * CELL / 2, y + OU * CELL + 14, " ".join(map(of.name, donors)), "mid soft")


if __name__ == "__main__":
    main()
