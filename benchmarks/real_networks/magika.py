"""Magika: the type of a file from its first and last 1,024 bytes."""

import hashlib
import os
import sysconfig
from pathlib import Path

import numpy as np

from prap_pim.common.files import read_json
from real_networks.base import Answers, Array, Data, Network, Scores, package_folder, share

_PART, _BLOCK, _NONE = 1024, 4096, 256  # bytes of each end, bytes read to find them, and no byte
_LEAST = 64  # bytes of a file
_PACKAGES = (
    "numpy",
    "torch",
    "matplotlib",
    "plotly",
    "sklearn",
    "material",
    "numba",
    "scipy",
    "onnx",
    "pyarrow",
    "jedi",
)
_TYPES = {  # by the file name's extension
    "bat": "batch",
    "c": "c",
    "cc": "cpp",
    "cpp": "cpp",
    "csv": "csv",
    "css": "css",
    "exe": "pebin",
    "f90": "fortran",
    "gz": "gzip",
    "html": "html",
    "ini": "ini",
    "jpg": "jpeg",
    "js": "javascript",
    "json": "json",
    "md": "markdown",
    "npy": "npy",
    "npz": "npz",
    "pdf": "pdf",
    "png": "png",
    "proto": "proto",
    "ps1": "powershell",
    "py": "python",
    "pyi": "python",
    "rst": "rst",
    "scss": "scss",
    "sh": "shell",
    "so": "elf",
    "svg": "svg",
    "toml": "toml",
    "ts": "typescript",
    "ttf": "ttf",
    "woff": "woff",
    "woff2": "woff2",
    "xml": "xml",
    "yaml": "yaml",
    "yml": "yaml",
    "zip": "zip",
}


def _folder() -> Path:
    return package_folder("magika") / "models" / "standard_v3_3"


def _files(salt: str) -> dict[str, list[Path]]:
    """By type, of the standard library and of packages that this project needs in any case; in an order of names."""
    places = {"": Path(sysconfig.get_path("stdlib"))}
    places |= {name: Path(sysconfig.get_path("purelib")) / name for name in _PACKAGES}
    found: dict[str, dict[str, Path]] = {}
    for package, place in places.items():
        for folder, folders, names in os.walk(place):
            folders[:] = [name for name in folders if name not in ("site-packages", "__pycache__")]
            for name in names:
                path = Path(folder, name)
                if kind := _TYPES.get(path.suffix[1:]):
                    inside = f"{salt}/{package}/{path.relative_to(place).as_posix()}"
                    found.setdefault(kind, {})[hashlib.sha256(inside.encode()).hexdigest()] = path
    return {kind: [paths[digest] for digest in sorted(paths)] for kind, paths in sorted(found.items())}


def _ends(path: Path) -> tuple[bytes, bytes, int]:
    """A file's first and last bytes, and its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(_BLOCK)
        file.seek(max(0, size - _BLOCK))
        return first, file.read(_BLOCK), size


def _chosen(count: int, salt: str) -> list[tuple[tuple[bytes, bytes, int], str]]:
    """Ends and type of so many files, of all types in turn, none twice."""
    files = _files(salt)
    found: dict[tuple[bytes, bytes, int], str] = {}
    for i in range(max(map(len, files.values()))):
        for kind, paths in files.items():
            if i < len(paths) and len(found) < count:
                ends = _ends(paths[i])
                if ends[2] >= _LEAST:
                    found.setdefault(ends, kind)
    return list(found.items())


def _tokens(first: bytes, last: bytes, size: int) -> Array:
    """As Magika cuts and pads them: blanks around are left out."""
    head, tail = first.lstrip(), last.rstrip()
    if size <= _BLOCK:
        head = tail = first.strip()
    found = np.full(2 * _PART, _NONE, np.int32)
    head, tail = head[:_PART], tail[-_PART:]
    found[: len(head)] = list(head)
    if tail:
        found[-len(tail) :] = list(tail)
    return found


def _data(calibration: int, test: int, seed: int) -> Data:
    files = _chosen(calibration + test, str(seed))
    order = np.random.default_rng(seed).permutation(len(files)).tolist()
    tokens = np.array([_tokens(*ends) for ends, _ in files])
    seen, unseen = order[:calibration], order[calibration:]
    return Data({"bytes": tokens[seen]}, {"bytes": tokens[unseen]}, [files[i][1] for i in unseen])


def _score(answers: Answers, reference: Answers, truth: list[str]) -> Scores:
    labels = read_json(_folder() / "config.min.json")["target_labels_space"]
    found = answers[0].argmax(1)
    return {
        "accuracy": share(found == np.array([labels.index(kind) for kind in truth])),
        "same type as float": share(found == reference[0].argmax(1)),
    }


NETWORK = Network(
    name="Magika",
    task="tells the type of a file, one of 214",
    packages=("magika",),
    licence="Apache-2.0",
    data_from="Files of the standard library and of packages in this project's environment, in turn of each type; the "
    "extension says which type it is. Other files to calibrate with than to test on.",
    scored="Accuracy: the type is right.",
    load=lambda: _folder() / "model.onnx",
    data=_data,
    score=_score,
    calibration=64,
    test=400,
)
