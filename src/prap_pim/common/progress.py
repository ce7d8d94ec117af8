"""Progress of long work, reported to a callback."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Steps = Callable[[int, int], object]  # (done, total)
_T = TypeVar("_T")


def unheard(done: int, total: int) -> None:
    """Reports to nobody."""


def phase(progress: Callable[[str, int, int, str], object], name: str) -> Steps:
    """One phase of a longer work, reported without a note."""
    return lambda done, total: progress(name, done, total, "")


def counted(items: Sequence[_T], told: Steps) -> Iterator[_T]:
    """The items one by one; ``told`` is called before each, and at the end."""
    for done, item in enumerate(items):
        told(done, len(items))
        yield item
    told(len(items), len(items))


class Progress(Protocol):
    """A callback after every step of long work."""

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """``done`` of ``total`` steps of ``phase`` are done; ``note`` says where it stands, in a few words."""


def quiet(phase: str, done: int, total: int, note: str) -> None:
    """Progress that nobody wants to see."""
