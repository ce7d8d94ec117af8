"""Networks as users bring them: two outputs, an image from an image, a regression of named inputs, tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Own:
    """A network, inputs to calibrate with, and what it is worth."""

    model: nn.Module
    calibration: Any
    evaluate: Callable[[nn.Module], Any]
    minimize: tuple[str, ...] = ()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Detector(nn.Module):
    """Scores [N, 4] and boxes [N, 4, 4], by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1))
        self.scores, self.boxes = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).relu()
        return {"scores": self.scores(features).flatten(1).sigmoid(), "boxes": self.boxes(features).flatten(2).mT}


def detector() -> Own:
    torch.manual_seed(0)
    model, x = Detector().eval(), randn(40, 3, 8, 8)
    with torch.no_grad():
        wanted = model(x)

    def recall(module: nn.Module) -> dict[str, float]:
        """Of the boxes with a score above the mean, those that lie within 0.1 of the network's own."""
        assert not module.training
        found = module(x)
        counts = wanted["scores"] > wanted["scores"].mean()
        near = (found["boxes"] - wanted["boxes"]).abs().amax(-1) < 0.1
        return {
            "recall": float(near[counts].float().mean()),
            "loss": float((found["scores"] - wanted["scores"]).norm()),
        }

    return Own(model, x, recall, ("loss",))


def denoiser() -> Own:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 3, padding=1)).eval()
    noisy, clean = randn(32, 1, 8, 8), randn(32, 1, 8, 8, seed=1)

    def psnr(module: nn.Module) -> Tensor:
        return -10 * (module(noisy) - clean).square().mean().log10()

    return Own(model, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(noisy, clean), 8), psnr)


class Regression(nn.Module):
    """A number [N] of two named inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(16, 1)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.out((self.left(left) + self.right(right)).relu()).squeeze(-1)


def regression() -> Own:
    torch.manual_seed(2)
    model = Regression().eval()
    batches = [{"left": randn(16, 8, seed=i), "right": randn(16, 4, seed=9 - i), "scale": 2.0} for i in range(3)]

    def rmse(module: nn.Module) -> float:
        return float(torch.cat([(module(**batch) - batch["left"][:, 0]).square() for batch in batches]).mean().sqrt())

    return Own(model, batches, rmse, ("rmse",))


def classifier() -> Own:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    x, y = randn(40, 1, 8, 8), torch.arange(40) % 5

    def accuracy(module: nn.Module) -> float:
        return float((module(x).argmax(1) == y).float().mean())

    return Own(model, x, accuracy)


def squared(model: nn.Module, batch: Any) -> Tensor:
    """A loss of pairs."""
    return functional.mse_loss(model(batch[0]), batch[1])


EVERY = {each.__name__: each for each in (detector, denoiser, regression, classifier)}
