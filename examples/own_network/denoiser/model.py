"""The network."""

import torch
from torch import Tensor, nn


class Denoiser(nn.Module):
    """Three convolutions find the noise [N, 1, H, W], which is taken off the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.inner(x)).relu()
        return x - self.outer(self.middle(hidden).relu())


def build(width: int = 16) -> Denoiser:
    """With random weights, always the same."""
    torch.manual_seed(0)
    return Denoiser(width)
