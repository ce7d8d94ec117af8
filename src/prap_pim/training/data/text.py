"""The user's own text for language models: tokens in windows, cut when they are asked for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from prap_pim.common.arrays import bytes_of
from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import check_plain, digest_of
from prap_pim.common.settings import Settings
from prap_pim.training.data.splits import Examples, Splits, Streamed, load

_BYTES = 256
_PIECE = 1 << 20  # characters that are tokenised at a time

Tokens = NDArray[np.uint8] | NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class _Cut:
    """A window, and what follows each of its tokens, by its number; that is counted from ``first`` on."""

    texts: Sequence[Tokens]
    counts: NDArray[np.int64]
    length: int
    first: int

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        ends = np.cumsum(self.counts)
        text = int(np.searchsorted(ends, self.first + number, side="right"))
        place = (self.first + number - int(ends[text] - self.counts[text])) * self.length
        window = torch.from_numpy(self.texts[text][place : place + self.length + 1].astype(np.int64))
        return window[:-1], window[1:]


class Windows(Settings):
    """How text becomes inputs: windows of so many tokens, and the token that follows each.

    Attributes:
        tokenizer: a folder of transformers' (``save_pretrained``); None: bytes.
        length: tokens of a window.
        held_out: share of the windows to calibrate with, and again to test with, at the end of the text.
        train: windows; None: all.
        calibration, test: windows, at most.
    """

    tokenizer: Path | None = None
    length: int = Field(default=128, ge=1, le=65536)
    held_out: float = Field(default=0.1, gt=0, lt=0.5)
    train: int | None = Field(default=None, ge=1)
    calibration: int = Field(default=256, ge=1)
    test: int = Field(default=512, ge=1)

    def splits(self, description: str, texts: Sequence[Tokens], classes: int) -> Splits:
        """The windows of texts in three parts; none reaches over the end of its text.

        Raises:
            UserError: there are too few.
        """
        counts = np.array([max(0, len(text) - 1) // self.length for text in texts])
        total, held = int(counts.sum()), int(self.held_out * counts.sum())
        if held < 1:
            need = int(1 / self.held_out) + 1
            raise UserError(f"{description}: {total} windows of {self.length} tokens are too few, {need} are needed")
        digest = digest_of(*(text.tobytes() for text in texts), str(self.length))

        def part(first: int, count: int) -> Streamed:
            cut = _Cut(texts, counts, self.length, first)
            return Streamed(count, cut, digest_of(digest, str(first), str(count)), are_tokens=True)

        rest = total - 2 * held
        calibration = part(rest, min(held, self.calibration))
        return Splits(
            f"{description}, {total:,} windows of {self.length} {'bytes' if self.tokenizer is None else 'tokens'}",
            classes,
            part(0, min(rest, self.train or rest)),
            Examples(*calibration.take(torch.arange(len(calibration)))),
            part(rest + held, min(held, self.test)),
        )

    def tokens(self) -> tuple[Callable[[str], Tokens], int]:
        """What makes tokens of a text, and how many there are.

        Raises:
            UserError: the tokenizer cannot be read.
        """
        if self.tokenizer is None:
            return (lambda text: np.frombuffer(text.encode(), np.uint8)), _BYTES
        found = _tokenizer(self.tokenizer)

        def encoded(text: str) -> Tokens:
            pieces = (text[i : i + _PIECE] for i in range(0, len(text), _PIECE))
            return np.array([x for each in pieces for x in found.encode(each, add_special_tokens=False)], np.uint32)

        return encoded, len(found)


def _tokenizer(folder: Path) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError("data: a tokenizer needs transformers: pip install 'prap-pim[transformers]'") from error
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many kinds
        raise UserError(f"data: transformers cannot read a tokenizer in {folder}: {one_line(error)}") from error


class TextConfig(Windows):
    """Text files, UTF-8; without a tokenizer byte by byte."""

    name: Literal["text"] = "text"
    files: tuple[Path, ...] = Field(min_length=1)


@load.register
def _(config: TextConfig, seed: int) -> Splits:
    tokens, classes = config.tokens()
    texts: list[Tokens] = []
    for path in config.files:
        check_plain(path)
        try:
            as_it_lies = config.tokenizer is None
            texts.append(bytes_of(path) if as_it_lies else tokens(path.read_text("utf-8")))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:  # empty, or no text
            raise UserError(f"cannot read {path}: it is empty, or not UTF-8 text") from error
    return config.splits(", ".join(path.name for path in config.files), texts, classes)
