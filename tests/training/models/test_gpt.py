"""The GPT: its size by hand, its forward pass written out, and that nothing looks ahead."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prap_pim.common.errors import UserError
from prap_pim.training.models import GPTConfig, build, weight_shapes

SMALL = GPTConfig(layers=2, width=12, heads=3)


def tokens(count: int = 2, length: int = 7) -> Tensor:
    return torch.randint(50, (count, length), generator=torch.Generator().manual_seed(0))


def test_parameters_by_hand() -> None:
    model = build(GPTConfig(), 128, 256, 0)
    block = 12 * 192 * 192 + (3 + 1 + 4 + 1) * 192 + 2 * 2 * 192  # weights, biases, layer norms
    assert sum(p.numel() for p in model.parameters()) == 4 * block + (256 + 128 + 256) * 192 + 2 * 192


def test_names() -> None:
    shapes = weight_shapes(SMALL)
    block = {"qkv": (36, 12), "out": (12, 12), "up": (48, 12), "down": (12, 48)}
    assert shapes == {f"blocks.{i}.{name}": shape for i in (0, 1) for name, shape in block.items()} | {"head": (10, 12)}


def test_the_forward_pass_written_out() -> None:
    model = build(SMALL, 7, 50, 0).eval()
    state = model.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    x = state["embedding.weight"][tokens()] + state["position"]
    for i in range(2):
        query, key, value = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.qkv").split(12, dim=-1)
        mixed = torch.zeros_like(x)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            for t in range(7):
                scores = (query[:, t, None, part] * key[:, : t + 1, part]).sum(-1) / 2  # over the root of 4
                mixed[:, t, part] = (scores.softmax(-1)[..., None] * value[:, : t + 1, part]).sum(1)
        x = x + linear(mixed, f"blocks.{i}.out")
        x = x + linear(functional.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.up")), f"blocks.{i}.down")
    torch.testing.assert_close(model(tokens()), linear(norm(x, "norm"), "head"))


def test_no_output_looks_ahead() -> None:
    model = build(SMALL, 7, 50, 0).eval()
    changed = tokens()
    changed[:, 4] = (changed[:, 4] + 1) % 50
    before, after = model(tokens()), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


def test_it_can_be_traced() -> None:
    model = build(SMALL, 7, 50, 0).eval()
    assert torch.equal(torch.fx.symbolic_trace(model)(tokens()), model(tokens()))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match="must be a multiple of heads"):
        GPTConfig(width=10, heads=4)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (build(SMALL, 7, 50, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_positions_begin_as_waves() -> None:
    """Vaswani et al., 3.5, written out: the sine of position / 10000^(2i / width) at 2i, its cosine at 2i + 1."""
    position = build(SMALL, 7, 50, 0).state_dict()["position"]
    for t in (0, 1, 6):
        for i in range(6):
            angle = t / 10_000 ** (2 * i / 12)
            assert position[t, 2 * i : 2 * i + 2].tolist() == pytest.approx(
                [math.sin(angle), math.cos(angle)], abs=1e-5
            )


def test_blocks_begin_small() -> None:
    """Of torch's own weights, uniform within the root of 1 / inputs, those into the sum are divided by 2 (2 blocks)."""
    state = build(SMALL, 7, 50, 0).state_dict()
    limits = {"qkv": 12**-0.5, "out": 12**-0.5 / 2, "up": 12**-0.5, "down": 48**-0.5 / 2}
    for name, limit in limits.items():
        largest = float(state[f"blocks.1.{name}.weight"].abs().max())
        assert 0.9 * limit < largest <= limit
