"""Training that can be stopped at any moment and goes on as if it had not been."""

from prap_pim.training.checkpoint import Checkpoint
from prap_pim.training.config import PRAP_2023, TrainingConfig, learning_rate
from prap_pim.training.descent import check_shards
from prap_pim.training.loop import Diverged, Hooks, Training, run_epochs, train, train_along
from prap_pim.training.processes import Lost, Processes, torch_threads

__all__ = [
    "PRAP_2023",
    "Checkpoint",
    "Diverged",
    "Hooks",
    "Lost",
    "Processes",
    "Training",
    "TrainingConfig",
    "check_shards",
    "learning_rate",
    "run_epochs",
    "torch_threads",
    "train",
    "train_along",
]
