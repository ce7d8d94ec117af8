"""Long names are cut so that a table can be read, and none is taken for another."""

from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.names import MOST, shortened

WORDS = st.text("ab./_", min_size=1, max_size=150)


def test_short_names_stay() -> None:
    assert shortened(["conv", "a" * MOST]) == ["conv", "a" * MOST]


def test_beginning_and_end_stay() -> None:
    name = "StatefulPartitionedCall.model." + "x" * 200 + ".expanded_conv_2.depthwise.kernel"
    (cut,) = shortened([name])
    assert cut == "StatefulPartitio…" + name[-43:]
    assert len(cut) == MOST


def test_what_tells_names_apart_stays() -> None:
    names = [f"{'p' * 90}.block_{i}.{'s' * 90}" for i in (1, 2, 13)]
    assert shortened(names) == [f"{'p' * 16}…p.block_{i}.{'s' * 7}…{'s' * 16}" for i in (1, 2, 13)]
    assert shortened(names[:1]) == [f"{'p' * 16}…{'s' * 43}"]


@given(st.lists(WORDS, min_size=1, max_size=8), WORDS, WORDS)
def test_different_names_stay_different(middles: list[str], start: str, end: str) -> None:
    names = [start + middle + end for middle in middles]
    cut = shortened(names)
    assert len(set(zip(names, cut, strict=True))) == len(set(names)) == len(set(cut))
    assert all(len(own) <= len(name) for own, name in zip(cut, names, strict=True))
