"""Source text: the running Python's own standard library, byte by byte. Real text that is on every machine."""

import platform
import sysconfig
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings
from prap_pim.training.data.splits import Examples, Splits, load

_BYTES = 256  # tokens that there are
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_GENERATED = "_sysconfigdata"  # how this very Python was built: other paths on every machine


class SourceTextConfig(Settings):
    """The standard library's Python files, without its tests, in windows of so many bytes.

    Whole files are held out. No window reaches over the end of its file, and no two have a predicted byte in common.
    """

    name: Literal["stdlib"] = "stdlib"
    length: int = Field(default=128, ge=1, le=65536)  # bytes of a window
    held_out: float = Field(default=0.1, gt=0, lt=0.5)  # share of the files for calibration, and again for the test
    train: int | None = Field(default=None, ge=1)  # windows; None: all of the training files
    calibration: int = Field(default=512, ge=1)
    test: int = Field(default=1024, ge=1)


@load.register
def _(config: SourceTextConfig, seed: int) -> Splits:
    files = _standard_library()
    generator = np.random.default_rng(seed)
    order = [files[i] for i in generator.permutation(len(files))]
    held = round(config.held_out * len(files))
    test, calibration, train = order[:held], order[held : 2 * held], order[2 * held :]
    total = sha256(b"".join(files))
    return Splits(
        f"source of Python {platform.python_version()}'s standard library, byte by byte: {len(files)} files, "
        f"{sum(map(len, files)):,d} bytes (SHA-256 {total.hexdigest()}), whole files held out",
        _BYTES,
        _part("train", train, config.length, config.train, generator),
        _part("calibrate", calibration, config.length, config.calibration, generator),
        _part("test", test, config.length, config.test, generator),
    )


def _standard_library() -> list[bytes]:
    """Its Python files, sorted by name.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    root = Path(sysconfig.get_path("stdlib"))
    try:
        paths = [path.relative_to(root) for path in root.rglob("*.py") if not path.name.startswith(_GENERATED)]
        found = [(path.as_posix(), (root / path).read_bytes()) for path in paths if not _LEFT_OUT & set(path.parts)]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror or error}") from error
    if not found:
        raise UserError(f"data stdlib: this Python keeps no source of its standard library in {root}")
    return [text for _, text in sorted(found)]


def _part(
    purpose: str, files: Sequence[bytes], length: int, wanted: int | None, generator: np.random.Generator
) -> Examples:
    """So many windows, any of those of the files, in random order."""
    every = [windows(text, length) for text in files]
    whole = np.concatenate([np.empty((0, length + 1), np.uint8), *every])
    if len(whole) < (wanted or 1):
        raise UserError(
            f"data stdlib: {len(files)} files have {len(whole)} windows of {length} bytes to {purpose} with, "
            f"too few for {wanted or 1}"
        )
    chosen = torch.from_numpy(whole[generator.permutation(len(whole))[:wanted]]).long()
    return Examples(chosen[:, :-1].contiguous(), chosen[:, 1:].contiguous())


def windows(text: bytes, length: int) -> NDArray[np.uint8]:
    """A text cut into windows, uint8 [N, length + 1]; the last byte of one is the first of the next.

    Inputs are the first ``length`` bytes, labels the last; the rest at the end of the text is left out.
    """
    values: NDArray[np.uint8] = np.frombuffer(text, np.uint8)
    count = max(0, len(values) - 1) // length
    places = np.arange(count)[:, None] * length + np.arange(length + 1)
    found: NDArray[np.uint8] = values[places]
    return found
