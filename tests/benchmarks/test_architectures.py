"""A part of the sweep over transformers architectures: one of each kind, and those of the README's promises."""

import pytest

from benchmarks.architectures import FAMILIES, Line, table, tried

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

PART = ("bert", "gpt2", "qwen3", "t5", "whisper", "vit", "mamba", "mixtral")


def test_the_sweep_is_over_forty_families_of_all_kinds() -> None:
    assert len(FAMILIES) >= 40
    assert {FAMILIES[name].kind for name in PART} == {each.kind for each in FAMILIES.values()}


@pytest.mark.parametrize("name", PART)
def test_a_family_is_mapped_whole_and_computes_what_it_did(name: str) -> None:
    found = tried(name)
    assert not found.problem
    assert found.layers >= 2
    assert min(found.weights, found.macs) > 0.5


def test_the_table_says_how_many_are_whole() -> None:
    made = table([Line("one", "decoder", 3, 0.5, 1.0), Line("two", "vision", problem="no")])
    assert made.splitlines()[0] == "1 of 2 are mapped whole."
    assert made.splitlines()[-2:] == ["| one | decoder | 3 | 50.0% | 100.0% |  |", "| two | vision |  |  |  | no |"]
