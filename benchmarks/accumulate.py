"""What gathering partial sums brings on the layers of MiniLM-L6: the tables of docs/cost.md.

    python benchmarks/accumulate.py [--tokens 32] [--chips isaac-32nm]

Costs do not depend on weights, so plans are random: every row group has as many donors as the ratio of OU steps leaves,
every filter takes so many of them, each with a sign and a power of two in 2**-3..1. Six blocks, 384 wide, 12 heads,
1536 inner units; activations by activations, norms and biases are digital. Gains are over dense int8 weights on the
chip as it is, which scatters. "Interval": each layer on as many crossbars as dense takes; "with copies": the same
number for the whole network, shared out.
"""

import argparse
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from cost import dense
from torch import Tensor, nn
from torch.nn import functional

from prap_pim.cost import CostReport, cost
from prap_pim.frontend import capture
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.plan import INT8, LayerPlan, NetworkPlan

WIDTH, HEADS, INNER, BLOCKS = 384, 12, 1536, 6
PLANS = {  # uses of a filter in a row group, bits of donors, OU steps over those of dense
    "1 use, 8 bits, 1/4": (1, 8, Fraction(1, 4)),
    "4-bit weights": (0, 4, Fraction(1, 2)),
    "2 uses, 4 bits, 1/4": (2, 4, Fraction(1, 4)),
    "1 use, 4 bits, 1/8": (1, 4, Fraction(1, 8)),
    "2 uses, 4 bits, 1/8": (2, 4, Fraction(1, 8)),
    "2 uses, 4 bits, 1/16": (2, 4, Fraction(1, 16)),
    "3 uses, 4 bits, 1/16": (3, 4, Fraction(1, 16)),
    "2 uses, 3 bits, 1/32": (2, 3, Fraction(1, 32)),
}
PARTS = {  # of what is left of the energy
    "partial sums": ("accumulator", "partial_sum_buffer", "dot_register"),
    "index": ("index_buffer",),
    "ADC": ("adc",),
}


class Block(nn.Module):
    """Attention and a perceptron, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, WIDTH] to the same."""
        query, key, value = (
            torch.unflatten(layer(x), -1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        x = self.norm1(x + self.out(mixed))
        out: Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return out


def encoder(tokens: int) -> Network:
    """The network of MiniLM's shapes."""
    model = nn.Sequential(*(Block() for _ in range(BLOCKS))).eval()
    return capture(model, torch.zeros(1, tokens, WIDTH), "minilm").network


def random_plan(layer: Layer, uses: int, bits: int, ratio: Fraction, random: np.random.Generator) -> LayerPlan:
    """Row groups of 8 rows with as many donors as fit ``ratio`` of the dense OUs.

    ``uses``: donors that every filter takes in a row group; 0: each has one of its own, with gain 1.
    """
    groups, filters = layer.rows // 8, layer.filters
    donors, shape = int(filters * ratio * INT8 / bits), (groups, filters, 1)
    first = np.arange(filters)[:, None] % donors  # every donor has a use
    if uses == 0:
        chosen = np.broadcast_to(first, shape)
    else:
        apart = random.integers(1, donors // uses, shape)
        chosen = random.permuted(np.broadcast_to(first, shape), axis=1) + apart * np.arange(uses)
        chosen = np.sort(chosen % donors, axis=2)  # [group, filter, use]
    count = chosen.size
    gains = uses > 0
    return LayerPlan(
        name=layer.name,
        inputs=layer.rows,
        rows=np.arange(layer.rows, dtype=np.int32).reshape(groups, 8),
        donors=np.ones((groups * donors, 8), np.int8),
        donor_start=np.arange(groups + 1) * donors,
        use_start=np.arange(groups + 1) * (count // groups),
        use_filter=np.broadcast_to(np.arange(filters)[:, None], chosen.shape).astype(np.int32).ravel(),
        use_donor=(chosen + np.arange(groups)[:, None, None] * donors).astype(np.int32).ravel(),
        use_sign=(random.choice([-1, 1], count) if gains else np.ones(count)).astype(np.int8),
        use_exponent=(random.integers(-3, 2, count) if gains else np.zeros(count)).astype(np.int8),
        step=np.ones(filters, np.float32),
        bias=np.zeros(filters, np.float32),
        weight_bits=bits,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--chips", nargs="+", default=["isaac-32nm", "survey-32nm", "prap-2023"])
    arguments = parser.parse_args()
    network = encoder(arguments.tokens)
    random = np.random.default_rng(0)
    for name in arguments.chips:
        scatter = load_chip(name)
        chips = [scatter, scatter.model_copy(update={"accumulate": "gather"})]
        plans = {"dense": dense(network, scatter)} | {
            title: NetworkPlan(title, found, dict.fromkeys(found, 1.0))
            for title, what in PLANS.items()
            if (found := {layer.name: random_plan(layer, *what, random) for layer in network.layers})
        }
        print(f"\n{name}\n")
        head = ["plan", "order", "energy", *PARTS, "interval", "bound by", "with copies", "bound by", "area"]
        print(_row(head), _row(["---"] * len(head)), sep="\n")
        before = cost(network, plans["dense"], scatter)
        for title, plan in plans.items():
            for chip in chips:
                now, copied = cost(network, plan, chip), cost(network, plan, chip, crossbars=before.crossbars)
                print(_row([title, chip.accumulate, *_figures(before, now, copied)]))


def _figures(before: CostReport, now: CostReport, copied: CostReport) -> list[str]:
    """Gains over ``before``, and what energy and intervals are made of."""
    parts = [sum(now.energy_breakdown_j[part] for part in parts) / now.energy_j for parts in PARTS.values()]
    row = [f"{before.energy_j / now.energy_j:.2f}x", *(f"{100 * part:.0f} %" for part in parts)]
    for report in (now, copied):
        slowest = max(report.layers, key=lambda layer: layer.time.busy_s).time
        gain = report.pipelined.throughput_per_s / before.pipelined.throughput_per_s
        row += [f"{gain:.2f}x", slowest.bottleneck]
    return [*row, f"{now.area_m2 / before.area_m2:.2f}"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
