"""Accuracy and bits counted by hand; batch norm's statistics against those of the layer's own inputs."""

import math

import pytest
import torch
from torch import nn

from prap_pim.frontend.evaluate import InMemory, Tally, accuracy, evaluate, settle_norms
from prap_pim.training.models import ResNetConfig, build


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


def images(count: int = 30) -> torch.Tensor:
    return 3 + 2 * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_statistics_are_those_of_the_images() -> None:
    model = build(ResNetConfig(depth=8, width=3), 1, 4, 0)
    model.stem.norm.running_mean.fill_(1e3)
    weights = {name: value.clone() for name, value in model.named_parameters()}
    settle_norms(model, InMemory(images(), images()), batch_size=10)
    # three batches of ten: the mean of all; for the variance, the mean of the batches' unbiased variances
    seen = nn.functional.conv2d(images(), model.stem.conv.weight, padding=1).detach()
    torch.testing.assert_close(model.stem.norm.running_mean, seen.mean(dim=(0, 2, 3)))
    variance = torch.stack([part.transpose(0, 1).flatten(1).var(dim=1) for part in seen.split(10)]).mean(0)
    torch.testing.assert_close(model.stem.norm.running_var, variance)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 and not norm.training for norm in norms)
    assert not model.training


def test_statistics_do_not_depend_on_what_was_there() -> None:
    first, second = (build(ResNetConfig(depth=8, width=3), 1, 4, 0) for _ in range(2))
    with torch.no_grad():
        second.train()(images(7))
    settle_norms(first, InMemory(images(), images()))
    settle_norms(second, InMemory(images(), images()))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_without_batch_norm_nothing_happens() -> None:
    class Refuses(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("it was run")

    model = Refuses(3, 2).train()
    settle_norms(model, InMemory(torch.zeros(4, 5, dtype=torch.int64), torch.zeros(4, 5, dtype=torch.int64)))
    assert not model.training


def test_dropout_stays_off() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1))
    model.append(nn.Conv2d(1, 1, 1))
    settle_norms(model, InMemory(images(), images()), batch_size=30)
    torch.testing.assert_close(model[1].running_mean, images().mean().reshape(1))


def test_networks_without_batch_norm_pass() -> None:
    settle_norms(nn.Conv2d(1, 1, 1), InMemory(images(), images()))
