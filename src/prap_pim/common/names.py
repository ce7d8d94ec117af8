"""Names that are too long for a table, and names that are taken."""

from collections import Counter
from collections.abc import Sequence

MOST = 60  # characters
_HEAD = 16  # of these
_AROUND = 8  # characters on both sides of what tells names apart
_GAP = "\N{HORIZONTAL ELLIPSIS}"


def shortened(names: Sequence[str], most: int = MOST) -> list[str]:
    """Each name with its middle left out if it is long, so that different names stay different.

    Where beginning and end do not tell names apart, what does stays, too; and where that fails, the whole name.

    Args:
        names: of one table.
        most: characters, where that many tell a name apart.
    """
    cut = {name: _cut(name, most) for name in names}
    for alike in _alike(cut):
        before = _common(alike)
        after = _common([name[before:][::-1] for name in alike])
        for name in alike:
            cut[name] = _around(name, before, len(name) - after, most)
    for alike in _alike(cut):
        cut |= {name: name for name in alike}
    return [cut[name] for name in names]


def _alike(cut: dict[str, str]) -> list[list[str]]:
    """Different names that are cut to one."""
    counts = Counter(cut.values())
    return [[name for name, own in cut.items() if own == each] for each, count in counts.items() if count > 1]


def _common(names: Sequence[str]) -> int:
    """Letters with which all of them begin."""
    first, last = min(names), max(names)
    return next((i for i, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), len(first))


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else name[:_HEAD] + _GAP + name[_HEAD + 1 - most :]


def _around(name: str, start: int, end: int, most: int) -> str:
    """Beginning and end, and between them what is from ``start`` to ``end``."""
    start, end = max(_HEAD, start - _AROUND), min(len(name) - _HEAD, end + _AROUND)
    short = name[:_HEAD] + _GAP + name[start:end] + _GAP + name[-_HEAD:]
    return short if start < end and len(short) < len(name) else name


def untaken(asked: str, taken: set[str], mark: str) -> str:
    """A name, with ``mark`` and a number behind it where that is taken; now it is."""
    name, count = asked, 1
    while name in taken:
        count += 1
        name = f"{asked}{mark}{count}"
    taken.add(name)
    return name
