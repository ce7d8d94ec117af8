import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prap_pim import pattern_mask, similar_reuse
from prap_pim.common.errors import UserError
from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import PatternSet, ReuseMap
from prap_pim.methods.prune import NoPruning, PatternPruning, prune
from prap_pim.methods.reuse import NoReuse, ReuseConfig, SimilarReuse, reuse
from prap_pim.methods.reuse.similar import _ratio_limits
from tests.golden import golden_cases
from tests.layers import layer_of, weights
from tests.reference.matching import slow_similar_reuse
from tests.strategies import examples

CASES = golden_cases()


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = CASES[name]
    mask = case.get("mask", np.ones(case["weight"].shape, np.uint8))
    for function in (similar_reuse, slow_similar_reuse):
        source, scale = function(case["weight"], mask, int(case["group_channels"]), float(case["keep_ratio"]))
        np.testing.assert_array_equal(source, case["source"])
        assert scale.dtype == np.float32
        np.testing.assert_array_equal(scale, case["scale"])


shares = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5, 1.0]))


def same_as_slow(weight: np.ndarray, mask: np.ndarray, group: int, keep: float) -> None:
    for ours, slow in zip(
        similar_reuse(weight, mask, group, keep), slow_similar_reuse(weight, mask, group, keep), strict=True
    ):
        assert ours.dtype == slow.dtype
        np.testing.assert_array_equal(ours, slow)


@examples(50)
@given(weights([(3, 3), (5, 5), (2, 4)]), st.sampled_from([(1, 8), (2, 4), (4, 2)]), shares)
def test_pruned_kernels_as_the_slow_version(weight: np.ndarray, split: tuple[int, int], keep: float) -> None:
    same_as_slow(weight, pattern_mask(weight, *split), split[0], keep)


@examples(30)
@given(weights([(), (1, 1)]), st.sampled_from([8, 16, 32]), shares)
def test_pruned_inputs_as_the_slow_version(weight: np.ndarray, group: int, keep: float) -> None:
    same_as_slow(weight, pattern_mask(weight, group, None), group, keep)


@examples(30)
@given(weights(), st.integers(1, 9), shares)
def test_unpruned_as_the_slow_version(weight: np.ndarray, group: int, keep: float) -> None:
    same_as_slow(weight, np.ones(weight.shape, np.uint8), group, keep)


@examples(30)
@given(weights(), st.integers(1, 9), shares, st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.integers(0, 99))
def test_any_mask_as_the_slow_version(weight: np.ndarray, group: int, keep: float, density: float, seed: int) -> None:
    # every filter has a shape of its own; some have none at all, and scales above 1 are common
    mask = (np.random.default_rng(seed).random(weight.shape) < density).astype(np.uint8)
    same_as_slow(weight, mask, group, keep)


def test_more_reusers_than_a_tile_as_the_slow_version() -> None:
    weight = np.random.default_rng(3).standard_normal((1200, 8), np.float32)
    same_as_slow(weight, np.ones(weight.shape, np.uint8), 8, 0.01)


def test_a_pattern_too_wide_for_float32() -> None:
    weight = np.full((2, 600), 127 * 256, np.float32)
    weight[0, -1] -= 1  # |q|_1 is 19507199, odd and above 2**24: in float32 it would equal filter 1's
    source, scale = similar_reuse(weight, None, 600, 0.5)
    np.testing.assert_array_equal(source[:, 0], [1, 1])
    np.testing.assert_array_equal(scale[:, 0], [1, 1])
    weight = np.random.default_rng(4).integers(-127, 128, (6, 40, 3, 3)).astype(np.float32)
    same_as_slow(weight, np.ones(weight.shape, np.uint8), 15, 0.5)


def test_by_hand() -> None:
    # max |w| = 127, so an int8 step is 1. Donors: filters 2 (L1 191) and 0 (L1 162).
    weight = np.zeros((5, 8), np.float32)
    weight[0, :2] = 100, 62
    weight[1, :2] = 25, 16  # a quarter of filter 0, but for half a step
    weight[2, 2:4] = 127, 64
    weight[3, 2:5] = -63, -33, 1  # filter 2 halved, of the other sign: scales are positive, so nothing is nearest
    weight[4, 2:4] = 1, 1  # 2**-6.58 of filter 2, rounded to 2**-7: 0.992, 0.5
    source, scale = similar_reuse(weight, None, 8, 0.4)
    np.testing.assert_array_equal(source[:, 0], [0, 0, 2, -1, 2])
    np.testing.assert_array_equal(scale[:, 0], [1, 0.25, 1, 0, 2**-7])


def test_logarithm_is_rounded_as_in_float32() -> None:
    # 3363 / 2378 is above sqrt(2), so log2(ratio) is above -7.5; in float32 it is -7.5, and round goes to the even -8
    weight = np.empty((2, 19), np.float32)
    weight[0] = [127 * 256] * 18 + [92 * 256]  # |y|_1 = 2378 * 256
    weight[1] = 177  # |x|_1 = 3363
    assert 3363 / 2378 > 2**0.5
    source, scale = similar_reuse(weight, None, 19, 0.5)
    np.testing.assert_array_equal(source[:, 0], [0, 0])
    np.testing.assert_array_equal(scale[:, 0], [1, 2**-8])


def test_limits_of_the_ratio_are_those_of_a_float32_logarithm() -> None:
    limits = _ratio_limits(20)
    for exponent, limit in zip(range(-7, 21), limits, strict=True):
        below = np.nextafter(limit, np.float32(0))
        assert np.rint(np.log2(limit)) == exponent  # NumPy's own float32 log2
        assert np.rint(np.log2(below)) == exponent - 1


def test_ties_go_to_the_earlier_donor_and_nothing_is_last() -> None:
    weight = np.zeros((4, 8), np.float32)
    weight[0, 0] = weight[1, 1] = 127  # donors in the order of filters
    weight[2, :2] = 2  # as far from either donor (scaled by 2**-5) as the other
    weight[3, 2] = 1  # zero under both donors' patterns? no: one shape. Distance to a scaled donor 2, to nothing 1
    source, scale = similar_reuse(weight, None, 8, 0.5)
    np.testing.assert_array_equal(source[:, 0], [0, 1, 0, -1])
    np.testing.assert_array_equal(scale[:, 0], [1, 1, 2**-5, 0])


@examples(30)
@given(weights(), st.floats(0.01, 1), st.booleans())
def test_handler_agrees_with_the_function(weight: np.ndarray, keep: float, pruned: bool) -> None:
    positions = int(np.prod(weight.shape[2:]))
    if not pruned and positions > 1:
        weight = weight[:, :, 0, 0].copy()  # dense blocks are groups of 8 inputs only where kernels have one position
        positions = 1
    group = {1: 16 if pruned else 8, 3: 4, 4: 2, 9: 2, 25: 4}[positions]
    config = PatternPruning(group_channels=group, pointwise_group=16) if pruned else NoPruning()
    mask = np.ones(weight.shape, np.uint8)
    if pruned:
        mask = pattern_mask(weight, group, 1 if positions == 1 else 8 // group)
    layer = layer_of(weight)
    result = reuse(SimilarReuse(keep=keep), layer, prune(config, layer, Grain()), Grain())
    filters = len(weight)
    share = keep if filters * keep >= 1 else np.nextafter(1 / filters, 1)  # where the function keeps no donor
    source, scale = similar_reuse(weight, mask, group, min(1.0, share))
    np.testing.assert_array_equal(result.source, source)
    used = source >= 0
    np.testing.assert_array_equal(np.exp2(result.exponent.astype(np.float32))[used], scale[used])
    assert (result.sign == 1).all()


def test_one_donor_at_least() -> None:
    weight = np.ones((3, 8), np.float32)
    weight[1] = 4
    patterns = prune(NoPruning(), layer_of(weight), Grain())
    result = reuse(SimilarReuse(keep=0.25), layer_of(weight), patterns, Grain())  # the paper's floor(0.75) is 0
    np.testing.assert_array_equal(result.source[:, 0], [1, 1, 1])
    np.testing.assert_array_equal(result.exponent[:, 0], [-2, 0, -2])


def test_keep_all_makes_every_nonzero_pattern_a_donor() -> None:
    weight = np.random.default_rng(0).standard_normal((9, 24), np.float32)
    weight[4, 8:16] = 0
    layer = layer_of(weight)
    result = reuse(SimilarReuse(keep=1), layer, prune(NoPruning(), layer, Grain()), Grain())
    expected = np.ones((9, 3), bool)
    expected[4, 1] = False
    np.testing.assert_array_equal(result.is_donor, expected)
    assert result.source[4, 1] == -1


def test_a_filter_without_a_shape_takes_and_gives_nothing() -> None:
    weight = np.ones((3, 8), np.float32)
    patterns = PatternSet(8, np.arange(8, dtype=np.int32)[None], np.array([0, 1]), np.array([[0], [-1], [0]], np.int32))
    result = reuse(SimilarReuse(keep=0.4), layer_of(weight), patterns, Grain())
    np.testing.assert_array_equal(result.source[:, 0], [0, -1, 0])


def test_a_scale_above_the_hardware_s_is_limited() -> None:
    # Shapes: rows 0..127 (filter 0's) and 128..255 (filter 1's); an int8 step is 256.
    weight = np.zeros((2, 256), np.float32)
    weight[0, 0], weight[0, 1:128] = 256, 128  # y = 256, 0, 0, ...: 128 is half a step and rounds to even
    weight[1, :2] = 32512, 13850  # |x|_1 / |y|_1 = 181.1, above 2**7.5
    weight[1, 128] = 15000  # distance of "nothing"; below filter 0's L1 of 16512
    patterns = PatternSet(
        256, np.arange(256, dtype=np.int32).reshape(2, 128), np.array([0, 2]), np.array([[0], [1]], np.int32)
    )
    result = reuse(SimilarReuse(keep=0.5), layer_of(weight), patterns, Grain(ou_rows=128))
    # at 2**7: |32768 - 32512| + 13850 = 14106 < 15000; at 2**8 it would be 46874, and nothing would be nearer
    assert (result.source[1, 0], result.exponent[1, 0]) == (0, 7)
    mask = patterns.mask().astype(np.uint8)
    assert similar_reuse(weight, mask, 256, 0.5)[0][1, 0] == -1


def test_no_reuse() -> None:
    layer = layer_of(np.ones((4, 20), np.float32))
    patterns = prune(NoPruning(), layer, Grain())
    result = reuse(NoReuse(), layer, patterns, Grain())
    assert isinstance(result, ReuseMap)
    assert result.is_donor.all()
    with pytest.raises(TypeError, match="int is not the config of a reuse method"):
        reuse(3, layer, patterns, Grain())


def test_config() -> None:
    adapter = TypeAdapter(ReuseConfig)
    assert adapter.validate_python({"kind": "similar", "keep": 0.25}) == SimilarReuse(keep=0.25)
    assert adapter.validate_python({"kind": "none"}) == NoReuse()
    for wrong in ({"kind": "similar"}, {"kind": "similar", "keep": 0}, {"kind": "similar", "keep": 1.5}, {"kind": "x"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


GOOD = np.ones((2, 4, 3, 3), np.float32)
MASK = np.ones(GOOD.shape, np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD * np.nan, MASK, 1, 0.5), "weight holds NaN or infinity"),
        ((GOOD, MASK[:1], 1, 0.5), "mask must have the shape of weight"),
        ((GOOD, MASK * 2, 1, 0.5), "mask must hold zeros and ones only"),
        ((GOOD, MASK * 0.5, 1, 0.5), "mask must hold zeros and ones only"),
        ((GOOD, "all", 1, 0.5), "mask must be a NumPy array"),
        ((GOOD, MASK, 0, 0.5), "group_channels must be a whole number"),
        ((GOOD, MASK, 1, 1.1), r"keep must lie in 0..1, not 1.1"),
        ((GOOD, MASK, 1, -0.1), r"keep must lie in 0..1"),
        ((GOOD, MASK, 1, np.nan), "keep must be a number"),
        ((GOOD, MASK, 1, [0.5]), "keep must be a number"),
        ((np.ones((1, 40000), np.float32), None, 40000, 0.5), "a group of 40000 rows is too large: 32768 are allowed"),
    ],
)
def test_mistakes(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        similar_reuse(*arguments)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_masks_of_any_type_and_layout(dtype: type) -> None:
    weight = np.random.default_rng(2).standard_normal((6, 8, 3, 3), np.float32)
    mask = pattern_mask(weight, 2, 4)
    expected = similar_reuse(weight, mask, 2, 0.5)
    source, scale = similar_reuse(
        np.asfortranarray(weight), np.asfortranarray(mask.astype(dtype)), np.int32(2), np.float64(0.5)
    )
    np.testing.assert_array_equal(source, expected[0])
    np.testing.assert_array_equal(scale, expected[1])
