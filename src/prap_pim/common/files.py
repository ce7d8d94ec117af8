"""Files are written whole or not at all, and never outside the folder they belong to."""

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from prap_pim.common.errors import UserError, one_line

_LARGEST = 128 << 20  # bytes of a text: larger than any of ours; what JSON makes of it takes 20 times as much


def write_whole(path: Path, content: bytes | str) -> None:
    """Write ``path`` so that a reader sees the old file or the new one, never a part.

    The content goes to a temporary file beside it, is flushed to disk, and takes the place of ``path`` by a rename.

    Raises:
        UserError: the folder cannot be written or the disk is full; ``path`` is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: Path | None = None
    _check_kind(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def check_writable(path: Path) -> None:
    """Find out before any work whether a file that a user names can be written; nothing is left behind.

    Raises:
        UserError: it is no file, or its folder is not there or cannot be written.
    """
    try:
        _check_kind(path)
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _check_kind(path: Path) -> None:
    """
    Raises:
        UserError: a file would take the place of a folder or a device, such as /dev/null.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no plain file'}")


def path_of(given: Any, what: str) -> Path:
    """A path as a program gives it.

    Raises:
        UserError: it is no text or path, or an empty one.
    """
    if not isinstance(given, str | os.PathLike) or not str(given) or "\0" in str(given):
        raise UserError(f"{what} must be a path, not {given!r}")
    return Path(given)


def write_where_asked(path: Path, content: bytes | str) -> None:
    """``write_whole`` where a user names the file: a folder that is not there is a mistake.

    Raises:
        UserError: it is not there, or as ``write_whole``.
    """
    check_writable(path)
    write_whole(path, content)


def check_plain(path: Path) -> None:
    """
    Raises:
        UserError: there is no file, or it is a folder, a pipe or a device, which may never end, or never begin.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # of a name that no file can have
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        kind = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "it is no plain file"
        raise UserError(f"cannot read {path}: {kind}")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: it is missing, unreadable, not text, or too large.
    """
    check_plain(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UserError(f"cannot read {path}: it is larger than {_LARGEST >> 20} MiB")
        return content.decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not UTF-8 text") from error


def json_text(value: Any) -> str:
    """``value`` as indented JSON; NaN and infinity are refused."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_whole(path, json_text(value))


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it is missing, unreadable or not JSON, or a number is not finite.
    """
    try:
        return json.loads(read_text(path), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: it is not valid JSON ({one_line(error)})") from error


def digest_of(*parts: bytes | str) -> str:
    """SHA-256, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part)  # of names of files
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 over the bytes of a file.

    Raises:
        UserError: it is missing or unreadable.
    """
    check_plain(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def key_of(depends_on: Any) -> str:
    """The one rule for what a kept value is kept under: a digest of all that it depends on, as canonical JSON."""
    return digest_of(json.dumps(depends_on, sort_keys=True, allow_nan=False))[:32]
