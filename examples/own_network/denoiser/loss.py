"""What it is trained by."""

from torch import Tensor, nn


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over the pixels."""
    noisy, clean = batch
    return (model(noisy) - clean).square().mean()
