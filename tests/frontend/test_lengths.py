"""Batches that differ in size: left open where the model is traced, and costed as the first one is."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.frontend import capture
from tests.methods.calibrate.networks import compress


class Encoder(nn.Module):
    """Sentences with a mask, as a tokenizer pads them."""

    def __init__(self, tokens: bool = False) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(50, 16), nn.Parameter(torch.randn(40, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head, self.tokens = nn.Linear(16, 5), tokens

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids) + self.positions[: ids.shape[1]]
        x = self.encoder(x, src_key_padding_mask=mask == 0)
        if self.tokens:
            return self.head(x)
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def batch(count: int, length: int) -> dict[str, Tensor]:
    torch.manual_seed(length)
    lengths = torch.randint(2, length + 1, (count, 1))
    mask = (torch.arange(length) < lengths).long()
    return {"ids": torch.randint(1, 50, (count, length)) * mask, "mask": mask}


def made(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [False, True])
def test_sentences_of_several_lengths(tokens: bool) -> None:
    model = made(Encoder(tokens))
    batches = [batch(16, 12), batch(16, 17), batch(8, 12), batch(1, 9)]
    captured = capture(model, batches[0], "net", others=batches[1:])
    for each in (*batches, batch(3, 30)):
        found = captured.module(each["ids"], each["mask"])
        torch.testing.assert_close(found, model(**each), rtol=1e-4, atol=1e-5)
    found = prap_pim.compress(model, batches, compute_ratio=0.5)
    assert {layer.positions for layer in found.network.layers} == ({12} if tokens else {12, 1})
    alone = capture(model, batches[0], "net").network
    assert [(each.name, each.positions) for each in found.network.layers] == [
        (each.name, each.positions) for each in alone.layers
    ]
    assert prap_pim.estimate(found).ou_steps <= 0.5 * prap_pim.estimate(model, batches[0]).ou_steps
    assert "OU steps and costs are of an input [12], as in the first batch" in found.summary()
    for each in batches:
        assert found.model(**each).shape == found.bit_true(**each).shape == model(**each).shape
        assert found.sqnr_db(each) > 0


def test_one_size_is_traced_as_it_is() -> None:
    """A model that counts its positions in Python, which holds for one length only."""

    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            total = sum(self.inner(x[:, i]).relu() for i in range(x.shape[1]))
            return self.head(total * scale)

    def inputs(length: int) -> tuple[Tensor, Tensor]:
        return torch.randn(6, length, 4), torch.rand(6, 1)

    model = made(Unrolled())
    found = prap_pim.compress(model, [inputs(5), inputs(5)], method="similar", keep=0.5)
    assert "differ in size" not in found.summary()
    with pytest.raises(UserError, match=re.escape("batch 2 has inputs of [(7, 4), (1,)], the first of [(5, 4), (1,)]")):
        prap_pim.compress(model, [inputs(5), inputs(5), inputs(7)], method="similar", keep=0.5)


@pytest.mark.parametrize("plain", [False, True])
def test_a_model_that_takes_another_way_at_another_length(plain: bool) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 8)

        def forward(self, x: Tensor, scale: Any = None) -> Tensor:
            x = self.inner(x)
            x = x * 2 if x.shape[1] > 6 else x
            return x.mean(1) if plain else x.mean(1) * scale

    def inputs(length: int) -> Any:
        x = torch.randn(6, length, 4)
        return x if plain else (x, torch.rand(6, 1))

    with pytest.raises(UserError, match=r"batch 1 has inputs of .*\(7, 4\).* give all of them one size"):
        prap_pim.compress(made(Other()), [inputs(5), inputs(7)], method="similar", keep=0.5)


def test_the_calibration_does_not_depend_on_how_rows_are_put_into_batches() -> None:
    """The same rows as sequences of one length and of several: the same plan."""
    torch.manual_seed(0)
    rows = torch.randn(240, 16) @ torch.randn(16, 16)
    model = made(nn.Sequential(nn.Linear(16, 24)))
    plans = []
    for shapes in ([(40, 6)], [(20, 6), (10, 12)], [(10, 12), (5, 20), (20, 1)]):
        cut = rows.split([count * length for count, length in shapes])
        batches = [part.reshape(*shape, 16) for part, shape in zip(cut, shapes, strict=True)]
        captured = capture(model, batches[0], "net", others=batches[1:])
        found = compress(captured, batches, compute_ratio=0.5, update_weight=0)
        plans.append(found.plans["0"].real_weights())
    for plan in plans[1:]:
        assert (plan == plans[0]).all()


def test_sound_of_several_lengths() -> None:
    """Convolutions over time, traced by torch.fx; the pooling takes any length."""
    model = made(
        nn.Sequential(nn.Conv1d(2, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    )
    batches = [torch.randn(6, 2, length) for length in (40, 64, 41)]
    found = prap_pim.compress(model, batches, compute_ratio=0.5)
    assert found.network.layers[0].positions == 18  # (40 - 5) // 2 + 1
    for each in batches:
        assert found.sqnr_db(each) > 0
    assert "of an input [2, 40]" in found.summary()


def test_max_drop_counts_tokens_of_all_lengths() -> None:
    model = made(Encoder(tokens=True))
    with torch.no_grad():
        logits = model(**batch(8, 12))  # no class far above the others, sure of some
        model.head.bias -= logits.mean((0, 1))
        for value in model.head.parameters():
            value *= 2 / (logits - logits.mean((0, 1))).std()
    found = prap_pim.compress(model, [batch(8, 12), batch(8, 17)], max_drop=0.3)
    assert found.calibration is not None
    assert found.calibration.drop is not None
    assert found.calibration.drop <= 0.3
    assert any(layer.setting is not None for layer in found.calibration.layers)
