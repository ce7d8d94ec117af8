"""Arrays in npz archives: a user's images, and calibration inputs."""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from tests.fuzz.case import Case
from tests.fuzz.configurations import ONE, RUN_IT
from tests.fuzz.models import COMPRESS, network
from tests.fuzz.values import damaged


def _npz(arrays: Mapping[str, Any], random: Random) -> tuple[bytes, str]:
    """An archive, one of whose headers, entries or bytes is hostile."""
    arrays, told = dict(arrays), "as it was"
    how = random.randrange(7)
    name = random.choice(list(arrays))
    if how == 0:
        del arrays[name]
        told = f"{name} left out"
    elif how == 1:
        odd = np.full(arrays[name].shape, random.choice([np.nan, np.inf, 1e308, -1, 255, 2**40]))
        kinds = ["f2", "f4", "f8", "i1", "u8", "c8", "S3", "?", "M8[s]"]
        with np.errstate(all="ignore"):
            arrays[name] = (odd if random.random() < 0.5 else arrays[name]).astype(random.choice(kinds))
        told = f"{name} of {arrays[name].dtype}"
    elif how == 2:
        shape = random.choice(
            [(), (0,), (1,), (1, 1, 1, 1, 1, 1), (2, 0, 3), (1 << 14, 1 << 14), (3, 1, 8, 8), (400, 8, 8)]
        )
        arrays[random.choice([name, "other"])] = np.zeros(shape, np.uint8)
        told = f"shape {shape}"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            inner = io.BytesIO()
            np.save(inner, array, allow_pickle=False)
            content = inner.getvalue()
            if how == 3 and key == name:
                content, told = _npy_header(content, random)
            archive.writestr(f"{key}.npy", content)
        if how == 4:
            archive.writestr(
                random.choice(["../x.npy", f"{name}.npy", "x", "/etc/x.npy"]), b"\x93NUMPY\x01\x00\x00\x00"
            )
            told = "an odd entry"
    if how > 4:
        return damaged(stream.getvalue(), random)
    return stream.getvalue(), told


def _npy_header(content: bytes, random: Random) -> tuple[bytes, str]:
    length = struct.unpack("<H", content[8:10])[0]
    odd = [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 8, 8), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8), }",
        "{'descr': [('a', '<f4')], 'fortran_order': True, 'shape': (4,), }",
        "{'descr': '<f4', 'shape': (4,)}",
        "(" * 3000,
        "__import__('os').abort()",
    ]
    header = random.choice(odd).encode()
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + length :], f"header {header[:60]!r}"


def npz_data(random: Random, finished: Path) -> Case:
    """A user's images."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (120, 8, 8), np.uint8), np.arange(120) % 3
    content, told = _npz({"images": images, "labels": labels}, random)
    data = {"name": "npz", "path": "d.npz", "train": 60, "calibration": 20, "test": 20}
    files = {"c.yaml": yaml.safe_dump({**ONE, "data": data}).encode(), "d.npz": content}
    return Case(told, files, RUN_IT)


def npz_calibration(random: Random, finished: Path) -> Case:
    """Calibration inputs of an ONNX model."""
    content, told = _npz({"x": np.random.default_rng(0).standard_normal((8, 1, 6, 6), np.float32)}, random)
    return Case(told, {"m.onnx": network().SerializeToString(), "d.npz": content}, COMPRESS)
