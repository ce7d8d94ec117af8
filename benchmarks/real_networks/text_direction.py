"""PP-OCR's classifier of text direction: whether a line is upright or upside down."""

import numpy as np

from real_networks.base import Answers, Array, Network, Scores, share
from real_networks.text_images import LICENCE, PACKAGE, by_halves, line, model, normalised

_WIDTH = 192


def _lines(half: int, count: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng([seed, half])
    found, turned = [], rng.random(count) < 0.5
    for upside_down in turned:
        image, _ = line(rng, half, 2, _WIDTH)
        found.append(normalised(image.rotate(180) if upside_down else image, rng, 12))
    return np.array(found, np.float32), turned


def _score(answers: Answers, reference: Answers, truth: Array) -> Scores:
    found = answers[0].argmax(1)
    return {"accuracy": share(found == truth), "same as float": share(found == reference[0].argmax(1))}


NETWORK = Network(
    name="PP-OCR direction",
    task="tells upright lines of text from turned ones",
    packages=(PACKAGE,),
    licence=LICENCE,
    data_from="Lines of two English words, rendered in six fonts with noise, half of them upside down; other words to "
    "calibrate with than to test on.",
    scored="Accuracy: upright or turned.",
    load=lambda: model("ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    data=by_halves(_lines),
    score=_score,
    calibration=128,
    test=400,
)
