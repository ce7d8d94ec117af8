"""What is put in the place of a value, and how trees of values and bytes are changed: seeded, as their form is."""

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

# Whole numbers of some thousands are left out: they ask for large work that is legitimate.
HOSTILE: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 9, 2**31, 2**53 + 1, 2**63, 10**30, 10**400, -(10**20)),
    *(0.5, -0.0, 1e308, -1e308, 1e-320, 1e-30, 1e30, 5e-324, float("nan"), float("inf"), -float("inf"), 0.1 + 0.2),
    *(True, False, None, "", " ", "1_0", "1e3", "0x10", "nan", "none", "null", "dense", "isaac-32nm", "\u0661\u0662"),
    *(
        "a\0b",
        "\ud800",
        "\u202e",
        "x" * 300,
        "x" * 20_000,
        "../../etc/passwd",
        "/",
        "/dev/zero",
        "~",
        "%s%n",
        "<b>&amp;",
    ),
    *([], {}, [[]], [None], {"": 0}, {"kind": "none"}, {"name": "x"}, [1, True, "1"], [0.1] * 50, list(range(3000))),
    *({"low": 0, "high": 1e30, "step": 1e-30}, {"low": 1, "high": 2**40}, {"low": 0.1, "high": 0.2}),
]
_DEEP: Any = 1
for _ in range(200):
    _DEEP = [_DEEP]
HOSTILE.append(_DEEP)

# Of the kind that was there, so that they get further than the first check.
WHOLE = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    13,
    16,
    17,
    30,
    31,
    32,
    33,
    62,
    63,
    64,
    100,
    127,
    128,
    255,
    256,
    2**20,
    2**31 - 1,
    2**53,
]
REAL = [
    0.0,
    1e-30,
    1e-15,
    1e-12,
    1e-6,
    1e-3,
    0.01,
    0.25,
    0.5,
    0.75,
    0.999,
    1.0,
    1.001,
    2.0,
    10.0,
    50.5,
    99.0,
    1e3,
    1e6,
    1e12,
    1e18,
    1e30,
]
_LARGE = {
    "epochs",
    "steps",
    "copies",
    "devices",
    "samples",
    "trials",
    "batch",
    "width",
    "size",
    "passes",
    "train",
    "depth",
}
_MOST = 64  # of these: more is work

Path = tuple[Any, ...]


def near(value: Any, key: Any, random: Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice([each for each in WHOLE if each <= _MOST or key not in _LARGE])
    if isinstance(value, float):
        return random.choice(REAL)
    if isinstance(value, str) and value:
        return random.choice([value[:-1], value.upper(), f"{value} ", value * 2, value[::-1]])
    return random.choice(HOSTILE)


def places(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Of every value in a tree."""
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def changed(tree: Any, random: Random, extra: list[Any]) -> tuple[Any, str]:
    """A copy with one to three changes, and what they are in words."""
    tree, told = copy.deepcopy(tree), []
    gentle = random.random() < 0.5
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        known = list(places(tree))
        if not known:
            break
        *above, key = random.choice(known)
        owner = tree
        for part in above:
            owner = owner[part]
        where = ".".join(map(str, (*above, key)))
        how = random.random()
        if how < 0.4 or (gentle and not isinstance(owner[key], dict | list)):
            owner[key] = near(owner[key], key, random)
            told.append(f"{where}: {repr(owner[key])[:60]}")
        elif how < 0.5 and extra:
            owner[key] = copy.deepcopy(random.choice(extra))
            told.append(f"{where}: {repr(owner[key])[:60]}")
        elif how < 0.75:
            owner[key] = copy.deepcopy(random.choice(HOSTILE))
            told.append(f"{where}: {repr(owner[key])[:60]}")
        elif how < 0.8:
            del owner[key]
            told.append(f"{where} left out")
        elif isinstance(owner, dict):
            other = random.choice([str(key)[:-1], f"{key}x", "", "name", "kind", "import", "x" * 300])
            owner[other] = owner.pop(key) if how < 0.9 else copy.deepcopy(owner[key])
            told.append(f"{where} called {other[:20]!r}")
        else:
            owner += [copy.deepcopy(owner[key])] * random.choice((1, 3, 50))
            told.append(f"{where} repeated")
    return tree, "; ".join(told)


def damaged(content: bytes, random: Random) -> tuple[bytes, str]:
    """Bytes with some flipped, cut off, doubled or put in."""
    how, place = random.randrange(5), random.randrange(len(content) or 1)
    found = bytearray(content)
    if how == 0 and content:
        for _ in range(random.choice((1, 1, 4, 32))):
            found[random.randrange(len(found))] ^= 1 << random.randrange(8)
        return bytes(found), "bits flipped"
    if how == 1:
        return content[:place], f"cut at {place}"
    if how == 2:
        end = min(len(content), place + random.choice((1, 8, 100)))
        return content[:end] + content[place:], f"{place}..{end} doubled"
    if how == 3:
        put = random.choice(
            [b"\0", b"\xff" * 8, b"[" * 2000, b"{", b"&a *a ", b"<<: ", b"!!python/object ", b"1e999", b"\n"]
        )
        return content[:place] + put + content[place:], f"{put[:8]!r} at {place}"
    length = random.choice((1, 8, 60))
    return content[:place] + content[place + length :], f"{length} bytes missing at {place}"
