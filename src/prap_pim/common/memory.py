"""Memory of this process: what there is, and how the C library deals with it."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prap_pim.common.errors import UserError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT = 1 << 30  # bytes, of one piece and of what is free
_LARGEST = 1 << 25  # that glibc itself keeps, at most, as it learns what is asked for again and again


def available_memory() -> int:
    """Bytes that this process and its children may still take, as far as the system tells (Linux); else 4 GiB."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 4 << 30
    try:  # a container's limit, less what it has taken
        limit, taken = (int(Path(f"/sys/fs/cgroup/memory.{key}").read_text()) for key in ("max", "current"))
    except (OSError, ValueError):  # "max": none
        limit, taken = free, 0
    return max(0, min(free, limit - taken, _address_space()))


def _address_space() -> int:
    """Bytes that a limit of this process's (``ulimit -v``) leaves; without one, more than there is."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return 1 << 62
    try:
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return limit


def check_room(needed: int, what: str) -> None:
    """
    Raises:
        UserError: ``what`` needs more bytes of memory than there are; before anything of it is allocated.
    """
    if needed > (free := available_memory()):
        size = f"{needed / 2**30:,.1f} GiB" if needed < 1 << 60 else "more memory than any machine has"
        raise UserError(f"{what} needs about {size}, of which {free / 2**30:,.1f} GiB are free")


@contextmanager
def kept_memory() -> Iterator[None]:
    """What is freed meanwhile is used again rather than given back to the system and asked for anew.

    A network that is run layer by layer takes and frees activations of tens of MiB thousands of times; fetching each
    piece from the system takes a fifth of all time (glibc; other C libraries are left as they are). Afterwards all that
    is free is given back.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _KEPT)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        libc.malloc_trim(0)
