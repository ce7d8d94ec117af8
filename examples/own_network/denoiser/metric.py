"""What a denoiser is worth."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def psnr(model: nn.Module, test: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Peak signal to noise in dB, and the mean squared error."""
    error = torch.cat(
        [(model(noisy) - clean).square().flatten() for noisy, clean in test]
    ).mean()
    return {"psnr": -10 * float(error.log10()), "error": float(error)}
