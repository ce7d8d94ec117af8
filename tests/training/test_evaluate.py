"""Accuracy and bits counted by hand."""

import math

import pytest
import torch
from torch import nn

from prap_pim.training import Tally, accuracy, evaluate


class Echo(nn.Module):
    """Its four outputs are the image's four pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return x.flatten(1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_accuracy_is_the_share_of_right_answers(batch_size: int) -> None:
    images = torch.eye(4).reshape(4, 1, 2, 2)
    model = Echo().train()
    assert accuracy(model, images, torch.tensor([0, 1, 2, 0]), batch_size) == 0.75
    assert model.training


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_bits_by_hand(batch_size: int) -> None:
    """Outputs are log probabilities: labels of 1/2, 1/8, 1/4, 1/8 cost 1, 3, 2 and 3 bits."""
    probabilities = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    images = probabilities.log().reshape(1, 1, 2, 2).repeat(4, 1, 1, 1)
    found = evaluate(Echo(), images, torch.tensor([0, 2, 1, 3]), batch_size)
    assert found.bits == pytest.approx((1 + 3 + 2 + 3) / 4)
    assert found.accuracy == 0.25


def test_every_label_of_a_sequence_counts() -> None:
    """One sequence of three, then one of three: six labels, each as much as any other."""
    tally = Tally()
    even, odd = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    tally.add(torch.stack([even, odd, odd])[None], torch.tensor([[0, 1, 0]]))
    tally.add(torch.stack([odd, odd, odd])[None], torch.tensor([[1, 1, 1]]))
    found = tally.quality()
    assert found.bits == pytest.approx((1 + 2 - 4 * math.log2(0.75)) / 6)
    assert found.accuracy == 5 / 6  # of equals, the first is the greatest
