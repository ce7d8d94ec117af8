"""Training that can be stopped at any moment and goes on as if it had not been."""

from prap_pim.training.checkpoint import Checkpoint
from prap_pim.training.config import PRAP_2023, TrainingConfig, learning_rate
from prap_pim.training.evaluate import Quality, Tally, accuracy, evaluate, reestimate_batchnorm
from prap_pim.training.loop import Hooks, Progress, quiet, run_epochs, train

__all__ = [
    "PRAP_2023",
    "Checkpoint",
    "Hooks",
    "Progress",
    "Quality",
    "Tally",
    "TrainingConfig",
    "accuracy",
    "evaluate",
    "learning_rate",
    "quiet",
    "reestimate_batchnorm",
    "run_epochs",
    "train",
]
