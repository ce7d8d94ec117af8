"""Lines and pages of rendered English text: inputs of the three PP-OCR networks."""

import argparse
import importlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from real_networks.base import Array, Data, package_folder

PACKAGE = "rapidocr-onnxruntime"
LICENCE = "Apache-2.0"
HEIGHT = 48  # of a line, in pixels
_FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Italic", "STIXGeneral")
_SOURCES = ("inspect", "subprocess", "tempfile", "json", "logging", "unittest", "tarfile", "zipfile", "random")


def by_halves(make: Callable[[int, int, int], tuple[Array, Any]]) -> Callable[[int, int, int], Data]:
    """A network's ``data``: inputs made of the words of half 0 to calibrate with, those of half 1 to test on.

    Args:
        make: inputs [N, ...] and what they are, of a half, for a count and a seed.
    """

    def data(calibration: int, test: int, seed: int) -> Data:
        inputs, truth = make(1, test, seed)
        return Data({"x": make(0, calibration, seed)[0]}, {"x": inputs}, truth)

    return data


def model(name: str) -> Path:
    """One of PP-OCR's files."""
    return package_folder("rapidocr_onnxruntime") / "models" / name


@cache
def words(half: int) -> tuple[str, ...]:
    """Words of some docstrings of the standard library, each once: every other one, so the halves 0 and 1 differ."""
    docs = [argparse.__doc__ or ""]
    for name in _SOURCES:
        module = importlib.import_module(name)
        values = (value for _, value in sorted(vars(module).items()) if inspect.isroutine(value))
        docs += [module.__doc__ or "", *(inspect.getdoc(value) or "" for value in values)]
    return tuple(sorted({word for text in docs for word in text.split() if _plain(word)})[half::2])


def _plain(word: str) -> bool:
    return word.isascii() and word.isalnum() and 2 < len(word) < 12


def font(rng: np.random.Generator, least: int, most: int) -> ImageFont.FreeTypeFont:
    """One of Matplotlib's, of some size in pixels."""
    face = _FACES[rng.integers(len(_FACES))]
    path = package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(str(path), int(rng.integers(least, most)))


def line(rng: np.random.Generator, half: int, count: int, width: int) -> tuple[Image.Image, str]:
    """So many words of a half in one line [48, width], and what they are. They fit."""
    while True:
        text, face = " ".join(rng.choice(words(half), count)), font(rng, 22, 34)
        if face.getlength(text) <= width - 6:
            break
    paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 90))
    image = Image.new("RGB", (width, HEIGHT), (paper,) * 3)
    ImageDraw.Draw(image).text((4, HEIGHT // 2), text, fill=(ink,) * 3, font=face, anchor="lm")
    return image, text


def normalised(image: Image.Image, rng: np.random.Generator, most: float) -> Array:
    """Pixels with noise, from -1 to 1, [3, height, width]."""
    pixels: Any = np.asarray(image, np.float32)
    noise = rng.normal(size=(*pixels.shape[:2], 1)) * rng.uniform(0, most)
    found: Array = ((pixels + noise) / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)
    return found
