"""Arrays in a user's npz file; nothing is unpickled, and nothing unpacked before its size is known."""

import math
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from prap_pim.common.errors import UserError
from prap_pim.common.files import check_plain
from prap_pim.common.memory import available_memory, check_room

_MOST = 10_000  # arrays of a file
_BOMB = 100  # times its file's size that an archive may unpack to, beyond ...
_HARMLESS = 256 << 20  # ... so many bytes
_SUFFIX = ".npy"


@dataclass(frozen=True)
class Header:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_headers(path: Path) -> dict[str, Header]:
    """What the arrays of an npz file are, by name; their values are not read.

    Raises:
        UserError: it cannot be read, or holds other things than plain arrays.
    """
    return _read(path, ())[0]


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file, by name.

    Args:
        path: of the file.
        names: of those that are wanted, where the file has them; others are not unpacked. None: all.

    Raises:
        UserError: it cannot be read, holds other things than arrays of numbers, or unpacks to more than fits into
            memory or to many times its size.
    """
    return _read(path, names)[1]


def _read(path: Path, names: Collection[str] | None) -> tuple[dict[str, Header], dict[str, NDArray[Any]]]:
    check_plain(path)
    try:
        with path.open("rb") as stream:
            if stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise UserError(f"cannot read {path}: it is a single array, no npz file; write one with numpy.savez")
            with zipfile.ZipFile(stream) as archive:
                headers = _headers(path, archive)
                wanted = [name for name in headers if names is None or name in names]
                _check_sizes(path, [headers[name] for name in wanted])
                return headers, {name: _array(archive, name) for name in wanted}
    except (UserError, MemoryError):
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive makes zipfile, zlib and numpy say many things
        raise UserError(f"cannot read {path}: it is no whole npz file of plain arrays (none is unpickled)") from error


def _headers(path: Path, archive: zipfile.ZipFile) -> dict[str, Header]:
    found: dict[str, Header] = {}
    infos = archive.infolist()
    if len(infos) > _MOST:
        raise UserError(f"cannot read {path}: it holds more than {_MOST:,} arrays")
    for info in infos:
        name = info.filename.removesuffix(_SUFFIX)
        if name == info.filename:
            raise UserError(f"cannot read {path}: it holds other things than arrays")
        with archive.open(info) as stream:
            header = _header(stream)
            if name in found or header.dtype.hasobject or stream.tell() + header.nbytes != info.file_size:
                raise ValueError(name)
        found[name] = header
    return found


def _header(stream: IO[bytes]) -> Header:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    shape, _, dtype = readers[version](stream)
    return Header(tuple(map(int, shape)), dtype)


def _check_sizes(path: Path, headers: list[Header]) -> None:
    total, there = sum(header.nbytes for header in headers), path.stat().st_size
    if total > max(_HARMLESS, _BOMB * there):
        times = total // max(1, there)
        raise UserError(f"cannot read {path}: its arrays unpack to {total / 2**30:,.1f} GiB, {times:,} times the file")
    check_room(2 * total, f"{path}: to unpack its arrays")


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}{_SUFFIX}") as stream:
        found: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        stream.read()  # to the end, where the sum over the bytes is compared
        return found


def bytes_of(path: Path, offset: int = 0, size: int | None = None) -> NDArray[np.uint8]:
    """Bytes of a user's file, from ``offset`` on, which stay what they are whatever becomes of the file.

    Only what takes more than a quarter of free memory is left on the disk; who cuts such a file meanwhile ends this
    process.

    Raises:
        OSError, ValueError: it cannot be read, is empty, or is cut while it is read.
    """
    size = path.stat().st_size - offset if size is None else size
    if size < 1:
        raise ValueError("it is empty")
    if 4 * size > available_memory():
        return np.memmap(path, np.uint8, "r", offset, (size,))
    found = np.fromfile(path, np.uint8, size, offset=offset)
    if len(found) < size:
        raise ValueError("it was cut while it was read")
    return found
