"""Several processes in Lightning Fabric; a module of its own, since importing Fabric takes seconds."""

from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn


class Joined(DDPStrategy):
    """Processes that find each other as for data-parallel training; gradients are summed by ``Descent``, in order."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module
