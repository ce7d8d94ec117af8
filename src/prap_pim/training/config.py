"""The recipe of training and of PRAP's fine-tuning (PRAP, step 3)."""

from math import cos, pi
from typing import Literal, Self

from pydantic import Field, model_validator

from prap_pim.common.settings import Settings
from prap_pim.training.data import AffineAugment, AugmentConfig

_MOST = 1_000_000  # epochs; and rates and weights of terms, beyond which nothing is learnt


class TrainingConfig(Settings):
    """Stochastic gradient descent with momentum on one cosine over all epochs; the defaults are the paper's schedule.

    Compression branches off at ``compress_at``: the epochs before it are the base training, the epochs from it on are
    the fine-tuning, under the same cosine or, with ``restart``, one of their own. Penalties are written as the paper
    writes them, as terms of the loss; AdamW (Loshchilov and Hutter, 2019) takes ``weight_decay`` from the weights
    directly and not through the gradient.
    """

    epochs: int = Field(default=200, ge=1, le=_MOST)
    compress_at: int = Field(
        default=150, ge=0, le=_MOST
    )  # epochs trained when patterns and donors are chosen; 0: before
    epoch_size: int | None = Field(default=None, ge=1, le=10**9)  # examples, drawn anew for each epoch; None: all
    batch_size: int = Field(default=128, ge=1, le=2**20)
    shards: int | None = Field(default=None, ge=1, le=1024)  # parts of a batch that processes may share, see Descent
    optimizer: Literal["adamw"] | None = None  # None: stochastic gradient descent
    learning_rate: float = Field(default=0.1, gt=0, le=_MOST)
    restart: float | None = Field(default=None, gt=0, le=_MOST)  # learning rate at compress_at; None: one cosine
    momentum: float = Field(default=0.9, ge=0, lt=1)
    warmup: float = Field(default=0.0, ge=0, le=_MOST)  # epochs in which the learning rate rises from 0, at each start
    weight_decay: float = Field(default=0.5e-3, ge=0, le=_MOST)  # loss term: this times |w|^2, of no bias or norm
    mask_penalty: float = Field(default=0.5e-3, ge=0, le=_MOST)  # loss term: this times |W - M*W|^2
    reuse_penalty: float = Field(default=1e-3, ge=0, le=_MOST)  # loss term: this times |(W - What) / scale|^2
    project_every: int = Field(default=5, ge=1, le=_MOST)  # epochs of fine-tuning from one projection to the next
    augment: AugmentConfig = AffineAugment()  # of images; tokens are taken as they are

    @model_validator(mode="after")
    def _room_to_finetune(self) -> Self:
        if self.compress_at >= self.epochs:
            raise ValueError(f"compress_at ({self.compress_at}) must be less than epochs ({self.epochs})")
        return self


PRAP_2023 = TrainingConfig()  # the schedule of the paper, by its name


def learning_rate(config: TrainingConfig, time: float) -> float:
    """The learning rate at ``time``, in epochs since the start of base training; it reaches 0 at ``config.epochs``."""
    start, end, highest = 0, config.epochs, config.learning_rate
    if config.restart is not None:
        base = time < config.compress_at
        start, end, highest = (0, config.compress_at, highest) if base else (config.compress_at, end, config.restart)
    done = time - start
    rise = min(1.0, done / config.warmup) if config.warmup > 0 else 1.0
    return highest * rise * (1 + cos(pi * done / (end - start))) / 2
