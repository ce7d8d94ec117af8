"""PP-OCR's detector: where the lines of text are in a picture."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from real_networks.base import Answers, Array, Network, Scores, package_folder
from real_networks.text_images import LICENCE, PACKAGE, by_halves, font, model, normalised, words

_SIDE = 320
_LIKELY, _SURE = 0.3, 0.5  # of a pixel to be text, and of a box's mean
_GROW = 1.6  # boxes are learnt smaller than the text, by the area over the outline
_SAME = 0.5  # intersection over union of two boxes that are the same line
_BACKGROUNDS = (  # to calibrate with, to test on
    ("coins.png", "astronaut.png", "brick.png", "camera.png"),
    ("chelsea.png", "coffee.png", "gravel.png", "rocket.jpg"),
)

Box = tuple[float, float, float, float]  # left, top, right, bottom


def _pictures(half: int, count: int, seed: int) -> tuple[Array, list[list[Box]]]:
    """Pictures with three to six lines of text, each line on paper or on a photograph."""
    rng = np.random.default_rng([seed, half])
    folder = package_folder("skimage") / "data"
    photographs = [Image.open(folder / name).convert("RGB") for name in _BACKGROUNDS[half]]
    found, truth = [], []
    for i in range(count):
        if i % 2:
            image = Image.new("RGB", (_SIDE, _SIDE), (int(rng.integers(170, 256)),) * 3)
        else:
            photograph = photographs[rng.integers(len(photographs))]
            x, y = (int(rng.integers(0, length - _SIDE + 1)) if length > _SIDE else 0 for length in photograph.size)
            image = photograph.crop((x, y, x + _SIDE, y + _SIDE))
            image = Image.blend(image, Image.new("RGB", image.size, "white"), 0.5)
        draw, boxes, top = ImageDraw.Draw(image), [], int(rng.integers(6, 30))
        for _ in range(rng.integers(3, 7)):
            face, text = font(rng, 14, 30), " ".join(rng.choice(words(half), int(rng.integers(1, 4))))
            width, height = int(face.getlength(text)), face.size
            if width > _SIDE - 12 or top + height > _SIDE - 6:
                continue
            place = (int(rng.integers(6, _SIDE - width - 5)), top)
            draw.text(place, text, fill=(int(rng.integers(0, 90)),) * 3, font=face)
            boxes.append((float(place[0]), float(top), float(place[0] + width), float(top + sum(face.getmetrics()))))
            top += int(height * rng.uniform(1.6, 2.6))
        found.append(normalised(image, rng, 6))
        truth.append(boxes)
    return np.array(found, np.float32), truth


def _boxes(probability: Array) -> list[Box]:
    """Upright boxes around the regions of likely text, grown as the detector's authors do: [height, width]."""
    regions, _ = ndimage.label(probability > _LIKELY)
    found = []
    for i, place in enumerate(ndimage.find_objects(regions), 1):
        down, right = place
        height, width = down.stop - down.start, right.stop - right.start
        if min(height, width) < 3 or float(probability[place][regions[place] == i].mean()) < _SURE:
            continue
        grow = _GROW * height * width / (2 * (height + width))
        found.append((right.start - grow, down.start - grow, right.stop + grow, down.stop + grow))
    return found


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (both - width * height)


def f1(found: list[list[Box]], wanted: list[list[Box]]) -> float:
    """Of boxes, each matched at most once, in all pictures together."""
    matched = 0
    for boxes, others in zip(found, wanted, strict=True):
        left = list(others)
        for box in boxes:
            best = max(left, key=lambda other: _overlap(box, other), default=None)
            if best is not None and _overlap(box, best) >= _SAME:
                left.remove(best)
                matched += 1
    total = sum(map(len, found)) + sum(map(len, wanted))
    return 2 * matched / total if total else 1.0


def _score(answers: Answers, reference: Answers, truth: list[list[Box]]) -> Scores:
    found, by_float = ([_boxes(each[0]) for each in maps[0]] for maps in (answers, reference))
    return {"F1": f1(found, truth), "F1 against float": f1(found, by_float)}


NETWORK = Network(
    name="PP-OCR detector",
    task="finds lines of text in pictures (PP-OCRv4)",
    packages=(PACKAGE, "scikit-image"),
    licence=LICENCE,
    data_from="Pictures of 320x320 pixels with up to six rendered lines of text, half of them on scikit-image's "
    "photographs; other words and photographs to calibrate with than to test on.",
    scored="F1 of the boxes found, where an overlap (intersection over union) of one half is a match.",
    load=lambda: model("ch_PP-OCRv4_det_infer.onnx"),
    data=by_halves(_pictures),
    score=_score,
    calibration=16,
    test=60,
    batch=10,
)
