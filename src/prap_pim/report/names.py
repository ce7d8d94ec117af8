"""Names that tell apart what they name, and are no longer than that takes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def endings(names: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Each by as few of its last words as no other name ends in; whole, if there is another of its kind."""
    last = Counter(tuple(name[-n:]) for name in names for n in range(1, len(name) + 1))
    return [
        next((tuple(name[-n:]) for n in range(1, len(name)) if last[tuple(name[-n:])] == 1), tuple(name))
        for name in names
    ]


def run_names(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What to call runs: by their own names; where several have one, with as much of the folder as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    alike = [[other for other, own in zip(parts, names, strict=True) if own == name] for name in names]
    told = []
    for name, part, same in zip(names, parts, alike, strict=True):
        ending = endings(same)[same.index(part)]
        told.append(name if len(same) == 1 else f"{name} ({Path(*ending)})")
    return told
