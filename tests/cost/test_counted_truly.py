"""What is not on crossbars is counted as what is: multiplications, and weights that are stored and read."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim.cost import cost
from prap_pim.frontend import capture
from prap_pim.frontend.quantize import InputGrid
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import DigitalOp, Network, Share
from tests.crossbar.plans import dense_plan, network_plan
from tests.layers import layer_of

HEADS, WIDTH = 4, 32


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(x, x, x, need_weights=False)[0])
        return out


@pytest.mark.parametrize("length", [16, 256])
def test_macs_and_tops_are_those_of_attention_too(length: int) -> None:
    report = prap_pim.estimate(Attention().eval(), torch.randn(2, length, WIDTH))
    layers = length * (4 * WIDTH * WIDTH + WIDTH * 10)  # query, key, value and output; the head
    attention = 2 * length * length * WIDTH  # queries by keys, and what is read of the values
    assert (report.crossbar_macs, report.macs) == (layers, layers + attention)
    assert report.tops_per_w == pytest.approx(2 * (layers + attention) / report.energy_j / 1e12)


def costed(*ops: DigitalOp) -> prap_pim.CostReport:
    """A layer of 8 x 8 with digital operations behind it."""
    layer = layer_of(np.eye(8, dtype=np.float32), "first")
    plan = network_plan("dense", {"first": dense_plan("first", layer.matrix)}, {"first": InputGrid(1.0)})
    return cost(Network("net", (layer, *ops)), plan, load_chip("isaac-32nm"))


def test_weights_that_stay_digital_are_stored_and_read() -> None:
    """256 x 256 weights of 4 bytes, each multiplied once: 32 bytes an access of 20.45 pJ and 1.2 ns."""
    macs, accesses = 256 * 256, 256 * 256 * 4 / 32
    plain = costed(DigitalOp("product", "matmul", 512, 256, ("first",), macs))
    weighted = costed(DigitalOp("product", "matmul", 256, 256, ("first",), macs, macs, macs))
    (counts,) = (layer.activity for layer in weighted.layers)
    assert (counts.memory_accesses, counts.memory_bytes) == (accesses, 4 * macs)
    assert weighted.energy_j - plain.energy_j == pytest.approx(accesses * 20.45e-12)
    assert weighted.area_m2 - plain.area_m2 == pytest.approx(4 * macs * 0.083e-6 / 65536, rel=1e-4)  # ISAAC: 64 KB
    # the memory brings 8 weights an access, the lanes would do 16 multiplications a cycle: it sets the time
    assert weighted.serial_breakdown_s["digital"] == pytest.approx(accesses * 1.2e-9)
    assert plain.serial_breakdown_s["digital"] == pytest.approx((2 * macs + 8) / 32 / 1.2e9)


class Tied(nn.Module):
    """A table of 50 words that is looked up twice and is the head's weight, and positions that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.words.weight
        self.places = nn.Parameter(torch.randn(1, 6, 16))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(x) + self.words(x.flip(1)) + self.places)
        return out


def test_tables_are_stored_once_and_read_by_what_is_looked_up() -> None:
    network = capture(Tied(), torch.randint(50, (2, 6)), "net").network
    held = [(op.op, op.weights, op.weight_reads) for op in network.digital if op.weights or op.weight_reads]
    assert held == [("embedding", 50 * 16, 6 * 16), ("embedding", 0, 6 * 16), ("add", 6 * 16, 6 * 16)]
    mapped, every = 50 * 16, 2 * 50 * 16 + 6 * 16  # the head is on crossbars as well
    assert network.on_crossbars == Share(mapped / every, 1.0)
    assert network.digital_shares()["embedding"] == Share(50 * 16 / every, 0.0)


def test_the_first_line_says_what_is_on_crossbars() -> None:
    found = prap_pim.compress(Attention(), torch.randn(16, 16, WIDTH), "dense")
    macs = 16 * (4 * WIDTH * WIDTH + WIDTH * 10), 2 * 16 * 16 * WIDTH
    first, *others = found.summary().splitlines()
    share = f"100.0% of weights, {macs[0] / sum(macs):.1%} of MACs"
    assert first == f"dense: 1.0000 of the OU steps, 3 layers on crossbars ({share})"
    assert f"digital: attention: 0.0% of weights, {macs[1] / sum(macs):.1%} of MACs" in others
