"""What all ways to compress share: inputs held back, what a mask hides, and what memory it takes."""

import pytest
import torch
from torch import nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.frontend import padding_mask
from prap_pim.methods import compress
from prap_pim.methods.request import held_back


@pytest.mark.parametrize(("total", "kept"), [(15, 0), (16, 8), (64, 8), (80, 8), (81, 9), (400, 40)])
def test_a_tenth_is_held_back_and_at_least_eight(total: int, kept: int) -> None:
    x = torch.arange(total)
    used, held = held_back([(part, part + 1000) for part in torch.split(x, 7)])
    seen, new = ([int(v) for batch in every for v in batch[0]] for every in (used, held))
    assert len(new) == kept
    assert sorted(seen + new) == list(range(total))
    assert all(torch.equal(a + 1000, b) for a, b in (*used, *held))
    if kept:  # evenly spread: the inputs may be in order
        gaps = torch.tensor(new).diff()
        assert int(gaps.max() - gaps.min()) <= 1


def test_what_is_given_once_stays_with_every_batch() -> None:
    rate = torch.tensor([16000])
    used, held = held_back([(torch.arange(20), rate)])
    assert all(batch[1] is rate for batch in (*used, *held))


def test_a_mask_is_known_by_its_form() -> None:
    tokens = torch.randint(2, 90, (4, 6))
    mask = torch.tensor([[1] * n + [0] * (6 - n) for n in (6, 2, 3, 1)])
    kinds = torch.tensor([[0] * 3 + [1] * 3] * 4)
    for batch in ((tokens, mask), (mask, tokens), (tokens, kinds, mask), (tokens, mask.bool())):
        assert torch.equal(padding_mask(batch), mask.bool())
    for batch in ((tokens, kinds), (mask,), (tokens, mask.float()), (tokens, mask[:, :5]), (tokens, 1 - mask)):
        assert padding_mask(batch) is None


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.one, self.two = nn.Embedding(50, 24), nn.Linear(24, 32), nn.Linear(32, 8)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.two(torch.relu(self.one(self.table(ids))))
        return (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def test_padding_does_not_count() -> None:
    """Whatever the padding tokens are, the plans are the same."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (64, 10), generator=generator)
    mask = (torch.arange(10) < torch.randint(1, 10, (64, 1), generator=generator)).long()
    model = Masked().eval()
    plans = []
    for padding in (0, 7):
        given = {"ids": torch.where(mask == 1, ids, padding), "mask": mask}
        quantize = {"input_percentile": 100, "zero_point": False, "equalize": False}
        plans.append(prap_pim.compress(model, given, compute_ratio=0.5, quantize=quantize).plan)
    for one, other in zip(plans[0].layers.values(), plans[1].layers.values(), strict=True):
        same = (one.donors.shape == other.donors.shape) and (one.donors == other.donors).mean() > 0.95
        assert same


def test_what_takes_more_memory_than_there_is_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 3000), nn.ReLU(), nn.Linear(3000, 8)).eval()
    x = torch.randn(32, 64)
    monkeypatch.setattr(compress, "available_memory", lambda: 100 << 20)
    with pytest.raises(UserError, match=r"layer 2: the covariance of its 3,000 inputs takes 0\.3 GiB.*skip='2'"):
        prap_pim.compress(model, x, compute_ratio=0.5)
    assert prap_pim.compress(model, x, compute_ratio=0.9, skip="2").changed == ("0",)
    monkeypatch.setattr(compress, "available_memory", lambda: 1 << 10)
    with pytest.raises(UserError, match=r"activations of 24 calibration inputs .* give fewer inputs"):
        prap_pim.compress(model, x, "dense")


def test_what_the_ranges_of_inputs_were_chosen_by_is_told() -> None:
    x = torch.rand(24, 1, 60000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[:, 0, 777] *= 20
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    assert "clipped, which the outputs as a whole do better with" in prap_pim.compress(model, x, "dense").summary()
    asked = prap_pim.compress(model, x, "dense", quantize={"norm": 2})
    assert "clipped" not in asked.summary()
