import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import PatternSet, ReuseMap, plan_weights
from prap_pim.methods.prune import NoPruning, OrcPruning, PatternPruning, StructuredPruning, prune
from prap_pim.methods.reuse import IdenticalReuse, ReuseConfig, reuse
from tests.layers import layer_of, weights
from tests.reference.baselines import slow_identical_sources
from tests.strategies import examples

PRUNE = [
    NoPruning(),
    PatternPruning(group_channels=2, pointwise_group=16),
    PatternPruning(group_channels=8, shapes=3),
    StructuredPruning(ratio=0.4),
    OrcPruning(ratio=0.3),
]
thresholds = st.one_of(st.floats(0.01, 1), st.sampled_from([0.1, 0.5, 0.75, 1.0]))


def same_as_slow(weight: np.ndarray, patterns: PatternSet, theta: float) -> ReuseMap:
    layer = layer_of(weight)
    found = reuse(IdenticalReuse(threshold=theta), layer, patterns, Grain())
    np.testing.assert_array_equal(found.source, slow_identical_sources(layer.matrix, patterns, theta))
    assert (found.sign == 1).all()
    assert (found.exponent == 0).all()
    return found


@pytest.mark.parametrize("pruning", PRUNE, ids=lambda config: config.kind)
@examples(25)
@given(weight=weights([(), (1, 1), (3, 3), (2, 2)]), theta=thresholds)
def test_as_the_slow_version(pruning: object, weight: np.ndarray, theta: float) -> None:
    same_as_slow(weight, prune(pruning, layer_of(weight), Grain()), theta)


@examples(25)
@given(weights([()]), thresholds, st.integers(0, 2**32))
def test_filters_without_a_pattern_as_the_slow_version(weight: np.ndarray, theta: float, seed: int) -> None:
    dense = prune(NoPruning(), layer_of(weight), Grain(ou_rows=4))
    gone = np.random.default_rng(seed).random(dense.shape.shape) < 0.4
    shape = np.where(gone, -1, dense.shape).astype(np.int32)
    found = same_as_slow(weight, PatternSet(dense.inputs, dense.rows, dense.block_start, shape), theta)
    assert (found.source[gone] == -1).all()


def test_more_filters_than_a_tile_as_the_slow_version() -> None:
    weight = np.random.default_rng(3).standard_normal((1100, 8), np.float32)
    source = same_as_slow(weight, prune(NoPruning(), layer_of(weight), Grain()), 0.99).source
    assert (source[:, 0] == np.arange(1100)).sum() > 512  # donors of the second tile too


def test_many_blocks_that_share_rows_as_the_slow_version() -> None:
    weight = np.random.default_rng(5).standard_normal((6, 30, 3, 3), np.float32)
    patterns = prune(OrcPruning(ratio=0.9), layer_of(weight), Grain())
    assert patterns.blocks == 31
    same_as_slow(weight, patterns, 0.8)


def by_hand(theta: float) -> list[int]:
    # max |w| = 127: a step is 1. Norms 160, 152, 100, 100, 60, 10, 0, 160: in order 0, 7, 1, 2, 3, 4, 5, 6
    weight = np.zeros((8, 8), np.float32)
    weight[0, :2] = 127, 33
    weight[1, :2] = 127, 25  # 8 from filter 0
    weight[2, 2] = weight[3, 3] = 100
    weight[4, 2:4] = 30, 30  # 100 from either of 2 and 3, 60 from nothing
    weight[5, 4] = 10
    weight[7, :2] = -127, -33  # 320 from filter 0: there is no sign
    layer = layer_of(weight)
    return (
        reuse(IdenticalReuse(threshold=theta), layer, prune(NoPruning(), layer, Grain()), Grain()).source[:, 0].tolist()
    )


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        (0.1, [-1, -1, -1, -1, -1, -1, -1, -1]),  # rank 0, tau 160: all are near enough to nothing
        (0.25, [0, 0, -1, -1, -1, -1, -1, 7]),  # rank 2, tau 152
        (0.375, [0, 0, -1, -1, -1, -1, -1, 7]),  # rank 3, tau 100
        (0.65, [0, 0, 2, 3, -1, -1, -1, 7]),  # rank 5, tau 60
        (0.75, [0, 0, 2, 3, 4, -1, -1, 7]),  # rank 6, tau 10
        (0.9, [0, 1, 2, 3, 4, 5, -1, 7]),  # rank 7, tau 0
        (1.0, [0, 1, 2, 3, 4, 5, -1, 7]),  # no such rank: tau 0
    ],
)
def test_by_hand(theta: float, expected: list[int]) -> None:
    assert by_hand(theta) == expected


def test_ties_go_to_the_earlier_donor_and_nothing_is_last() -> None:
    weight = np.zeros((7, 8), np.float32)
    weight[0, 0] = weight[1, 1] = 127
    weight[2, :2] = 60, 60  # 127 from either; 120 from nothing
    weight[3, :2] = 63, 63  # 127 from 0 and 1, 126 from nothing, 6 from filter 2 if that is a donor
    weight[4, 0] = 40  # 87 from 0, 40 from nothing
    weight[5, :2] = 80, 47  # norm 127. 94 from 0, 160 from 1
    source = same_as_slow(weight, prune(NoPruning(), layer_of(weight), Grain()), 0.6).source[:, 0]
    # in order 0, 1, 5, 3, 2, 4, 6; rank 4: tau 120. 5 takes 0. 3: nothing at 126 and 0 at 127 are too far
    np.testing.assert_array_equal(source, [0, 1, 3, 3, -1, 0, -1])
    tied = np.array([[100, 0], [0, 100], [50, 50], [50, 0], [1, 0]], np.float32)
    # all but the last two have norm 100: 2 is 100 from 0, from 1 and from nothing; 3 is 50 from 0 and from nothing
    patterns = prune(NoPruning(), layer_of(tied), Grain())
    # the int8 step is 100 / 127: norms 127, 127, 128, 64, 1. In order 2, 0, 1, 3, 4; rank 3: tau 64
    np.testing.assert_array_equal(same_as_slow(tied, patterns, 0.6).source[:, 0], [0, 1, 2, 2, -1])


@pytest.mark.parametrize("theta", [0.01, 0.5, 1])
def test_one_filter_and_zero_layers(theta: float) -> None:
    alone = layer_of(np.arange(1, 21, dtype=np.float32)[None])
    source = reuse(IdenticalReuse(threshold=theta), alone, prune(NoPruning(), alone, Grain()), Grain()).source
    assert (source == (0 if theta == 1 else -1)).all()
    zero = layer_of(np.zeros((5, 20), np.float32))
    found = reuse(IdenticalReuse(threshold=theta), zero, prune(NoPruning(), zero, Grain()), Grain())
    assert (found.source == -1).all()
    np.ones(5, np.float32)
    plan = plan_weights("fc", zero.matrix, prune(NoPruning(), zero, Grain()), found)
    assert (plan.groups, plan.uses) == (0, 0)


@examples(30)
@given(weights())
def test_the_highest_threshold_loses_nothing(weight: np.ndarray) -> None:
    """Of the integers on the layer's grid, by which patterns are compared: those that are 0 there are dropped."""
    layer = layer_of(weight)
    patterns = prune(NoPruning(), layer, Grain())
    np.ones(len(weight), np.float32)
    decided = reuse(IdenticalReuse(threshold=1), layer, patterns, Grain())
    shared = plan_weights(layer.name, layer.matrix, patterns, decided)
    largest = np.abs(layer.matrix).max(1, keepdims=True).astype(float)
    common, own = (np.where(most > 0, most, 127) / 127 for most in (largest.max(), largest))
    integers = np.rint(layer.matrix / common)
    columns = np.arange(layer.rows) // Grain().ou_rows
    kept = np.array([[row[columns == block].any() for block in columns] for row in integers])
    expected = integers if decided.shares else np.rint(layer.matrix / own) * kept
    np.testing.assert_array_equal(shared.weights(), expected)
    for low, high in zip(shared.donor_start[:-1], shared.donor_start[1:], strict=True):
        donors = shared.donors[low:high]
        assert not decided.shares or len(np.unique(donors, axis=0)) == len(donors)
        assert donors.any(axis=1).all()


def test_config() -> None:
    adapter = TypeAdapter(ReuseConfig)
    assert adapter.validate_python({"kind": "identical", "threshold": 0.75}) == IdenticalReuse(threshold=0.75)
    for wrong in ({}, {"threshold": 0}, {"threshold": 1.5}, {"threshold": 0.5, "keep": 1}):
        with pytest.raises(ValidationError):
            adapter.validate_python({"kind": "identical"} | wrong)
