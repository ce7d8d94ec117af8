"""Equalised channels: the same function bit for bit, less error by int8, and only where nobody else reads them."""

import copy

import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.frontend import capture
from prap_pim.frontend.equalize import equalised
from prap_pim.frontend.quantize import QuantizeConfig


class Block(nn.Module):
    """A norm with two channels a hundred times as large as the others, as in language models."""

    def __init__(self, kind: str = "layer", residual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.residual = nn.Linear(16, 32), residual
        self.norm = nn.LayerNorm(32) if kind == "layer" else nn.RMSNorm(32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        with torch.no_grad():
            self.norm.weight[[3, 20]] = 128.0
            self.up.weight[:, [3, 20]] /= 128.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.inner(x))
        z = self.down(torch.relu(self.up(y)))
        return z + y if self.residual else z


class Convs(nn.Module):
    """Batch norm with a large channel, ReLU, and a grouped convolution that reads it."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.activation, self.second = activation(), nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.third = nn.Conv2d(12, 5, 1)
        with torch.no_grad():
            self.norm.weight[5] = 64.0
            self.second.weight[6:, 1] /= 64.0

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.activation(self.norm(self.first(x)))))


def inputs(kind: type[nn.Module]) -> Tensor:
    return torch.randn(*((64, 16) if kind is Block else (64, 3, 8, 8)), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("model", "source", "readers"),
    [(Block(), "norm", ("up",)), (Block("rms"), "norm", ("up",)), (Convs(), "first", ("second",))],
)
def test_the_same_function_and_less_error(model: nn.Module, source: str, readers: tuple[str, ...]) -> None:
    model, x = model.eval(), inputs(type(model))
    captured = capture(model, x[:2], "m")
    before = copy.deepcopy(captured.module.state_dict())
    other, sites = equalised(captured, [(x,)], QuantizeConfig())
    assert (source, readers) in [(site.source, site.readers) for site in sites]
    assert all(site.gain > 1 / 0.9 for site in sites)
    assert torch.equal(other.module(x), captured.module(x))  # powers of two: bit for bit
    assert all(torch.equal(value, before[name]) for name, value in captured.module.state_dict().items())
    with_it, without = (prap_pim.compress(model, x, "dense", quantize={"equalize": on}) for on in (True, False))
    assert with_it.sqnr_db(x) > without.sqnr_db(x) + 1
    assert torch.equal(with_it.model(x), model(x))
    assert "channels equalised" in with_it.summary()
    assert "channels equalised" not in without.summary()


def test_written_into_the_users_own_modules() -> None:
    model, x = Block().eval(), inputs(Block)
    found = prap_pim.compress(model, x, "dense")
    factor = model.norm.weight / found.model.norm.weight
    assert factor[3] > 1 or factor[20] > 1
    torch.testing.assert_close(found.model.up.weight, model.up.weight * factor)
    assert torch.equal(torch.exp2(torch.log2(factor).round()), factor)


def test_through_torch_export_too() -> None:
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    with torch.no_grad():
        model.layers[0].norm2.weight[4] = 100.0
        model.layers[0].linear1.weight[:, 4] /= 100.0
    x = torch.randn(32, 6, 16)
    found = prap_pim.compress(model, x, "dense")
    assert "layers.0.linear1" in [name for site in found._compressed.equalised for name in site.readers]
    torch.testing.assert_close(found.model(x), model(x))
    assert found.model.layers[0].norm2.weight[4] < 100.0


@pytest.mark.parametrize("model", [Block(residual=True), Convs(nn.ReLU6), Convs(nn.Hardswish)])
def test_not_where_others_read_the_channels_or_an_activation_has_a_scale(model: nn.Module) -> None:
    x = inputs(type(model))
    captured = capture(model.eval(), x[:2], "m")
    _, sites = equalised(captured, [(x,)], QuantizeConfig())
    assert not any(site.source in ("norm", "first") for site in sites)


def test_a_setting_that_is_wrong_is_one_line() -> None:
    model, x = Block().eval(), inputs(Block)
    with pytest.raises(UserError, match="did you mean 'equalize'"):
        prap_pim.compress(model, x, "dense", quantize={"equalise": False})
    with pytest.raises(UserError, match="quantize must hold settings by name"):
        prap_pim.compress(model, x, "dense", quantize="off")  # type: ignore[arg-type]
