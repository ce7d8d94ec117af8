"""PP-OCR's recogniser: reads a line of text (convolutions and attention, 6,625 characters, CTC)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx

from real_networks.base import Answers, Array, Network, Scores, share
from real_networks.text_images import LICENCE, PACKAGE, by_halves, line, model, normalised

_FILE = "ch_PP-OCRv4_rec_infer.onnx"
_WIDTH = 320


@cache
def _characters() -> tuple[str, ...]:
    """The character of each output; the first is CTC's blank, the last a space."""
    metadata = {each.key: each.value for each in onnx.load(str(model(_FILE))).metadata_props}
    return ("", *metadata["character"].splitlines(), " ")


def _lines(half: int, count: int, seed: int) -> tuple[Array, list[str]]:
    rng = np.random.default_rng([seed, half])
    found, texts = [], []
    for _ in range(count):
        image, text = line(rng, half, int(rng.integers(2, 4)), _WIDTH)
        found.append(normalised(image, rng, 12))
        texts.append(text)
    return np.array(found, np.float32), texts


def read(probability: Array) -> list[str]:
    """The likeliest character of every step, each run once, without blanks: from [line, step, output]."""
    characters, best = _characters(), probability.argmax(2)
    begins = np.diff(best, axis=1, prepend=-1) != 0
    return ["".join(characters[k] for k in row[first]).strip() for row, first in zip(best, begins, strict=True)]


def edits(one: str, other: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != wanted))
    return row[-1]


def _error_rate(found: Sequence[str], wanted: Sequence[str]) -> float:
    wrong = sum(edits(one, other) for one, other in zip(found, wanted, strict=True))
    return wrong / sum(map(len, wanted))


def _score(answers: Answers, reference: Answers, truth: list[str]) -> Scores:
    found, by_float = read(answers[0]), read(reference[0])
    return {
        "character error rate": _error_rate(found, truth),
        "whole line right": share(np.array([one == other for one, other in zip(found, truth, strict=True)])),
        "line as float's": share(np.array([one == other for one, other in zip(found, by_float, strict=True)])),
    }


NETWORK = Network(
    name="PP-OCR recogniser",
    task="reads a line of text (PP-OCRv4)",
    packages=(PACKAGE,),
    licence=LICENCE,
    data_from="Lines of two or three English words, rendered in six fonts with noise; other words to calibrate with "
    "than to test on.",
    scored="Character error rate: edits (insert, delete, replace) from what is read to the text, over the text's "
    "characters; less is better.",
    load=lambda: model(_FILE),
    data=by_halves(_lines),
    score=_score,
    calibration=24,
    test=400,
    error=True,
)
