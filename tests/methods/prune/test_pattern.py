from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prap_pim import pattern_mask
from prap_pim.common.errors import UserError
from prap_pim.hardware.grain import Grain
from prap_pim.methods.prune import NoPruning, PatternPruning, PruneConfig, prune
from tests.golden import golden_cases
from tests.layers import layer_of, weights
from tests.reference.matching import slow_pattern_mask
from tests.strategies import examples

PRUNED = {name: case for name, case in golden_cases().items() if "mask" in case}


@pytest.mark.parametrize("name", PRUNED)
def test_golden(name: str) -> None:
    case = PRUNED[name]
    mask = pattern_mask(case["weight"], case["group_channels"], case["kept_positions"])
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, case["mask"])
    slow = slow_pattern_mask(case["weight"], int(case["group_channels"]), int(case["kept_positions"]))
    np.testing.assert_array_equal(slow, case["mask"])


@examples(60)
@given(weights([(3, 3), (5, 5), (1, 9), (9, 9)]), st.sampled_from([(1, 8), (2, 4), (4, 2), (8, 1)]), st.integers(1, 8))
def test_kernels_as_the_slow_version(weight: np.ndarray, split: tuple[int, int], shapes: int) -> None:
    weight = weight[:, :9]
    np.testing.assert_array_equal(
        pattern_mask(weight, *split, shapes=shapes), slow_pattern_mask(weight, *split, shapes=shapes)
    )


@examples(40)
@given(weights([(), (1, 1)]), st.sampled_from([3, 8, 16, 32]), st.sampled_from([None, 1]))
def test_pointwise_as_the_slow_version(weight: np.ndarray, group: int, kept: int | None) -> None:
    np.testing.assert_array_equal(pattern_mask(weight, group, kept), slow_pattern_mask(weight, group, kept))


def test_by_hand() -> None:
    # two filters like position 0 least, one position 1, one position 8: candidates 0, then 1, then 8 (lower drop first)
    weight = np.ones((4, 1, 3, 3), np.float32)
    for filter_, dropped in enumerate([0, 0, 8, 1]):
        weight[filter_, 0].flat[dropped] = 0.5
    np.testing.assert_array_equal(pattern_mask(weight, 1, 8).reshape(4, 9).argmin(axis=1), [0, 0, 8, 1])
    # with two shapes allowed, the filter that would drop 8 retains equally much either way and takes the first
    np.testing.assert_array_equal(pattern_mask(weight, 1, 8, shapes=2).reshape(4, 9).argmin(axis=1), [0, 0, 0, 1])
    # fewer kept: equally frequent shapes {0, 1} and {0, 2}: positions descending, (1, 0) before (2, 0)
    weight = np.zeros((2, 4, 2, 2), np.float32)
    weight[:, :, 0, 0] = 2
    weight[0, :, 1, 0] = 1
    weight[1, :, 0, 1] = 1
    kept = pattern_mask(weight, 4, 2, shapes=1)
    np.testing.assert_array_equal(kept[:, 0].reshape(2, 4), [[1, 1, 0, 0]] * 2)
    # inputs of a linear layer: 1 and 3 of four have the largest sums over both filters
    linear = np.array([[1, -2, 0, 5], [0, -1, 0.5, 0]], np.float32)
    np.testing.assert_array_equal(pattern_mask(linear, 4, None, rows=2), [[0, 1, 0, 1]] * 2)


@examples(30)
@given(weights(), st.integers(1, 8))
def test_handler_agrees_with_the_function(weight: np.ndarray, shapes: int) -> None:
    positions = int(np.prod(weight.shape[2:]))
    group = {1: 16, 3: 4, 4: 2, 9: 1, 25: 2}[positions]
    config = PatternPruning(group_channels=group, pointwise_group=16, shapes=shapes)
    patterns = prune(config, layer_of(weight), Grain())
    mask = pattern_mask(weight, group, 1 if positions == 1 else 8 // group, shapes)
    np.testing.assert_array_equal(patterns.mask(), mask.reshape(len(weight), -1))
    assert patterns.rows.shape[1] == 8
    assert np.diff(patterns.block_start).max() <= shapes


@examples(20)
@given(weights(), st.sampled_from([4, 8, 16]))
def test_no_pruning_keeps_every_weight_once(weight: np.ndarray, height: int) -> None:
    patterns = prune(NoPruning(), layer_of(weight), Grain(ou_rows=height))
    assert patterns.mask().all()
    rows = patterns.rows.ravel()
    np.testing.assert_array_equal(rows[rows >= 0], np.arange(weight[0].size))
    assert patterns.blocks == -(-weight[0].size // height)
    np.testing.assert_array_equal(patterns.shape, np.tile(np.arange(patterns.blocks), (len(weight), 1)))


def test_a_layer_that_does_not_fit_is_named() -> None:
    layer = layer_of(np.ones((4, 4, 2, 2), np.float32), "conv7")
    with pytest.raises(UserError, match=r"layer conv7: group_channels \(1\) .* 4 positions .*allowed: 2, 4, 8"):
        prune(PatternPruning(group_channels=1), layer, Grain())
    with pytest.raises(UserError, match=r"layer conv7: group_channels \(3\)"):
        prune(PatternPruning(group_channels=3), layer, Grain())
    linear = layer_of(np.ones((4, 4), np.float32), "fc")
    with pytest.raises(UserError, match=r"layer fc: pointwise_group \(12\) must be a multiple of the OU's 8 rows"):
        prune(PatternPruning(pointwise_group=12), linear, Grain())
    with pytest.raises(UserError, match=r"layer fc: pointwise_group \(8\) must be a multiple of the OU's 16 rows"):
        prune(PatternPruning(pointwise_group=8), linear, Grain(ou_rows=16))
    with pytest.raises(TypeError, match="str is not the config of a pruning method"):
        prune("pattern", linear, Grain())


@pytest.mark.parametrize(
    ("rows", "kernel", "channels", "kept"),
    [
        (8, 3, 2, 4),  # the paper's
        (8, 5, 2, 4),
        (4, 3, 1, 4),
        (16, 3, 4, 4),
        (32, 3, 8, 4),
        (128, 3, 32, 4),
        (9, 3, 3, 3),  # 4 does not divide 9
        (16, 1.5, 8, 2),  # kernels of 3 positions
        (2, 3, 1, 2),
    ],
)
def test_without_settings_groups_fill_the_rows_of_an_ou(rows: int, kernel: float, channels: int, kept: int) -> None:
    shape = (1, 3) if kernel == 1.5 else (kernel, kernel)
    weight = np.random.default_rng(0).normal(size=(12, 64, *map(int, shape))).astype(np.float32)
    grain = Grain(ou_rows=rows)
    patterns = prune(PatternPruning(), layer_of(weight), grain)
    np.testing.assert_array_equal(patterns.mask(), pattern_mask(weight, channels, kept, rows=rows).reshape(12, -1))
    assert channels * kept == rows
    assert np.count_nonzero(patterns.rows >= 0, axis=1).min() == rows or 64 % channels  # no row of an OU is idle
    linear = prune(PatternPruning(), layer_of(weight[:, :, 0, 0]), grain)
    np.testing.assert_array_equal(linear.mask(), pattern_mask(weight[:, :, 0, 0], 2 * rows, None, rows=rows))


def test_config() -> None:
    adapter = TypeAdapter(PruneConfig)
    assert adapter.validate_python({"kind": "pattern", "group_channels": 4}) == PatternPruning(group_channels=4)
    assert adapter.validate_python({"kind": "none"}) == NoPruning()
    for wrong in (
        {"kind": "other"},
        {"kind": "none", "shapes": 8},
        {"kind": "pattern", "group_channels": 0},
        {"kind": "pattern", "pointwise_group": 0},
        {"kind": "pattern", "shapes": 0},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


GOOD = np.ones((2, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD.astype(np.float64), 1, 8), "weight must be a float32 NumPy array, not float64"),
        (([[1.0]], 1, 8), "weight must be a float32 NumPy array, not list"),
        ((GOOD[0], 1, 8), r"weight must be .* its shape is \(4, 3, 3\)"),
        ((GOOD[:0], 1, 8), "not empty"),
        ((GOOD * np.nan, 1, 8), "weight holds NaN or infinity"),
        ((GOOD * np.inf, 1, 8), "weight holds NaN or infinity"),
        ((-GOOD * np.inf, 1, 8), "weight holds NaN or infinity"),
        ((GOOD, 0, 8), "group_channels must be a whole number of at least 1, not 0"),
        ((GOOD, 1.5, 8), "group_channels must be a whole number"),
        ((GOOD, "1", 8), "group_channels must be a number"),
        ((GOOD, True, 8), "group_channels must be a number"),
        ((GOOD, 1, None), "kept_positions must be a number, not None"),
        ((GOOD, 1, 10), "kept_positions .* exceeds the kernel's 9 positions"),
        ((GOOD, 2, 8), r"\(2 \* 8\) exceeds the 8 rows"),
        ((GOOD, 1, 8, 0), "shapes must be a whole number"),
        ((GOOD, 1, 8, 8, 0), "rows must be a whole number"),
        ((GOOD[:, :, 0, 0], 8, 2), "kept_positions must be 1 or None"),
    ],
)
def test_mistakes(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pattern_mask(*arguments)


def test_arguments_stay_as_they_are_and_any_layout_will_do() -> None:
    weight = np.random.default_rng(1).standard_normal((6, 8, 3, 3), np.float32)
    before = weight.copy()
    straight = pattern_mask(weight, np.int64(2), np.array(4))
    np.testing.assert_array_equal(weight, before)
    for order, step in product("CF", (1, 2)):
        other = np.asarray(np.repeat(weight, step, axis=1), order=order)[:, ::step]
        other.flags.writeable = False
        np.testing.assert_array_equal(pattern_mask(other, 2, 4), straight)
