"""Pattern sets of convolution groups: by hand, put together and taken apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import PatternSet, ReuseMap, plan_weights
from prap_pim.methods.prune import NoPruning, prune
from prap_pim.methods.reuse import IdenticalReuse, SimilarReuse, reuse
from tests.convolutions import Convolution, convolutions, decided
from tests.reference.compress import slow_compressed_weights
from tests.strategies import examples


def shared() -> PatternSet:
    """2 groups of 1 filter and 3 inputs each; the second block has rows of both."""
    return PatternSet(
        inputs=6,
        rows=np.array([[0, 1, -1], [2, 3, 4], [5, -1, -1]], np.int32),
        block_start=np.arange(4),
        shape=np.array([[0, 1, -1], [-1, 1, 2]], np.int32),
        groups=2,
    )


def test_a_block_with_rows_of_two_groups_by_hand() -> None:
    patterns = shared()
    assert (patterns.filters, patterns.blocks, patterns.fan_in) == (2, 3, 3)
    np.testing.assert_array_equal(patterns.mask(), np.ones((2, 3), bool))
    columns = patterns.columns(np.array([0, 1, 1]), np.array([1, 1, 2]))
    np.testing.assert_array_equal(columns, [[2, -1, -1], [-1, 0, 1], [2, -1, -1]])
    (first, filters, blocks), (second, others, other_blocks) = patterns.by_group()
    assert (filters, others) == (slice(0, 1), slice(1, 2))
    assert (blocks.tolist(), other_blocks.tolist()) == ([0, 1], [1, 2])
    assert first.rows.tolist() == [[0, 1, -1], [2, -1, -1]]
    assert second.rows.tolist() == [[0, 1, -1], [2, -1, -1]]  # its own rows first, unused ones at the end
    assert second.shape.tolist() == [[0, 1]]

    weight = np.array([[1, 2, 127], [4, 5, 127]], np.float32)
    np.ones(2, np.float32)
    plan = plan_weights("dw", weight, patterns, ReuseMap.none(patterns))
    np.testing.assert_array_equal(plan.donors, [[1, 2, 0], [127, 0, 0], [0, 4, 5], [127, 0, 0]])
    np.testing.assert_array_equal(plan.donors_per_group, [1, 2, 1])
    np.testing.assert_array_equal(plan.use_filter, [0, 0, 1, 1])
    np.testing.assert_array_equal(plan.weights(), weight)


def test_a_filter_cannot_take_a_pattern_of_another_group() -> None:
    """Its weights would stand on inputs that it does not read."""
    patterns = shared()
    decided = ReuseMap(
        np.array([[0, 0, -1], [-1, 0, 1]], np.int32), np.ones((2, 3), np.int8), np.zeros((2, 3), np.int8)
    )
    np.ones(2, np.float32)
    with pytest.raises(UserError, match="a filter has a weight on an input of another convolution group"):
        plan_weights("dw", np.ones((2, 3), np.float32), patterns, decided)


@examples(40)
@given(case=convolutions(), method=st.sampled_from(["dense", "structured", "orc"]), wide=st.booleans())
def test_taken_apart_and_put_together_groups_keep_the_same_weights(case: Convolution, method: str, wide: bool) -> None:
    patterns, _ = decided(method, case.layer, Grain(ou_columns=32 if wide else 8))
    parts = [part for part, _, _ in patterns.by_group()]
    again = PatternSet.of_groups(parts)
    assert (again.inputs, again.filters, again.groups) == (patterns.inputs, patterns.filters, case.layer.groups)
    np.testing.assert_array_equal(again.mask(), patterns.mask())
    for part, filters, _ in patterns.by_group():
        np.testing.assert_array_equal(part.mask(), patterns.mask()[filters])
        unused = part.rows < 0
        assert (unused[:, 1:] >= unused[:, :-1]).all()  # at the end


@examples(30)
@given(case=convolutions(), identical=st.booleans())
def test_groups_that_share_row_groups_are_reused_each_by_itself(case: Convolution, identical: bool) -> None:
    layer, grain = case.layer, Grain(ou_columns=32)
    patterns = prune(NoPruning(), layer, grain)
    method = IdenticalReuse(threshold=0.6) if identical else SimilarReuse(keep=0.4)
    found = reuse(method, layer, patterns, grain)
    each = layer.filters // layer.groups
    filters, blocks = np.nonzero(found.source >= 0)
    assert (found.source[filters, blocks] // each == filters // each).all()
    plan = plan_weights(layer.name, layer.matrix, patterns, found).scaled(layer.filter_scale, layer.filter_bias)
    slow = slow_compressed_weights(layer.matrix, patterns, found)
    scale = 2**plan.fraction_bits
    assert plan.weights().tolist() == [[int(value * scale) for value in row] for row in slow]


@pytest.mark.parametrize("method", [SimilarReuse(keep=0.25), IdenticalReuse(threshold=0.5)])
def test_a_depthwise_layer_keeps_all_its_patterns(method: object) -> None:
    """Each filter is alone with its inputs: without a donor it would compute nothing."""
    ones = np.ones(4, np.float32)
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    layer = Layer("dw", "conv", weight, ones, ones, (4, 5, 5), (4, 3, 3), (), groups=4)
    patterns = prune(NoPruning(), layer, Grain())
    found = reuse(method, layer, patterns, Grain())
    assert found.is_donor.sum() == 4 * 2
    plan = plan_weights("dw", layer.matrix, patterns, found)
    np.testing.assert_array_equal(
        plan.weights(), np.rint(layer.matrix / np.abs(layer.matrix).max(1, keepdims=True) * 127)
    )
