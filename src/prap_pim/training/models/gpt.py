"""A GPT-type network (Radford et al., 2019): decoder blocks that tell each next token from those before it."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from prap_pim.common.settings import Settings
from prap_pim.training.models.registry import MOST_CHANNELS, builder

_LONGEST = 10_000.0  # wave, in positions per radian


class GPTConfig(Settings):
    """Blocks of causal attention and a perceptron of four times the width, both behind layer norms."""

    name: Literal["gpt"] = "gpt"
    layers: int = Field(default=4, ge=1, le=1000)  # blocks
    width: int = Field(default=192, ge=1, le=MOST_CHANNELS)
    heads: int = Field(default=6, ge=1, le=MOST_CHANNELS)

    @model_validator(mode="after")
    def _heads_of_one_size(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self


class Block(nn.Module):
    """``x + out(attention(qkv(norm1(x))))``, then ``x + down(GELU(up(norm2(x))))``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)  # queries, keys, values
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self._attention(self.qkv(self.norm1(x))))
        out: Tensor = x + self.down(self.gelu(self.up(self.norm2(x))))
        return out

    def _attention(self, qkv: Tensor) -> Tensor:
        """[N, T, 3 * width] to [N, T, width]."""
        parts = qkv.chunk(3, dim=-1)
        query, key, value = (self._by_head(parts[i]) for i in range(3))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).flatten(-2)

    def _by_head(self, x: Tensor) -> Tensor:
        """[N, T, width] to [N, heads, T, width / heads]."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


class GPT(nn.Module):
    """Tokens [N, T] to the logits of each next one, [N, T, classes].

    Modules are called ``embedding``, ``blocks.0`` .. with ``norm1``, ``qkv``, ``out``, ``norm2``, ``up`` and ``down``,
    ``norm`` and ``head``; the learned ``position`` is a parameter.
    """

    def __init__(self, config: GPTConfig, length: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, config.width)
        self.position = nn.Parameter(_waves(length, config.width))
        blocks = [Block(config.width, config.heads) for _ in range(config.layers)]
        with torch.no_grad():
            for layer in (layer for block in blocks for layer in (block.out, block.down)):
                layer.weight /= (2 * config.layers) ** 0.5  # as in GPT-2: the sum grows no larger with more blocks
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.embedding(tokens) + self.position)))
        return out


def _waves(length: int, width: int) -> Tensor:
    """What learning of positions begins with: sines and cosines of ever longer waves (Vaswani et al., 2017, 3.5).

    Their places are told apart from the first step on; from random numbers that takes some hundred steps.
    """
    pairs = torch.arange(width) // 2 * 2
    angle = torch.arange(length)[:, None] / _LONGEST ** (pairs / width)  # [T, width]
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())


@builder.register
def _(config: GPTConfig, in_channels: int, classes: int) -> GPT:
    return GPT(config, in_channels, classes)
