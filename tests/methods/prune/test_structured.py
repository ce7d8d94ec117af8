from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prap_pim.hardware.grain import Grain
from prap_pim.methods.prune import PruneConfig, StructuredPruning, prune
from tests.layers import layer_of, weights
from tests.reference.baselines import slow_structured_rows
from tests.strategies import examples


@examples(60)
@given(weights(), st.floats(0.01, 1), st.sampled_from([3, 8, 16]))
def test_as_the_slow_version(weight: np.ndarray, ratio: float, height: int) -> None:
    patterns = prune(StructuredPruning(ratio=ratio), layer_of(weight), Grain(ou_rows=height))
    kept = slow_structured_rows(weight, ratio)
    np.testing.assert_array_equal(patterns.rows.ravel()[: len(kept)], kept)  # packed without gaps
    assert (patterns.rows.ravel()[len(kept) :] == -1).all()
    assert patterns.rows.shape == (ceil(len(kept) / height), height)
    np.testing.assert_array_equal(patterns.shape, np.tile(np.arange(patterns.blocks), (len(weight), 1)))


def test_by_hand() -> None:
    weight = np.zeros((2, 4, 1, 3), np.float32)
    weight[0, 0] = [1, -1, 0]  # channels' sums: 2.5, 4, 2.5, 3
    weight[1, 0] = [0, 0, -0.5]
    weight[:, 1] = [-2, 0, 0]
    weight[1, 2] = [2.5, 0, 0]
    weight[0, 3] = [1, 1, 1]
    # floor(4 * 0.8) = 3 channels: 1, 3, and of the equals 0 and 2 the lower
    patterns = prune(StructuredPruning(ratio=0.8), layer_of(weight), Grain(ou_rows=4))
    np.testing.assert_array_equal(patterns.rows, [[0, 1, 2, 3], [4, 5, 9, 10], [11, -1, -1, -1]])
    one = prune(StructuredPruning(ratio=0.1), layer_of(weight), Grain(ou_rows=4))
    np.testing.assert_array_equal(one.rows, [[3, 4, 5, -1]])
    np.testing.assert_array_equal(one.shape, [[0], [0]])


def test_config() -> None:
    adapter = TypeAdapter(PruneConfig)
    assert adapter.validate_python({"kind": "structured", "ratio": 0.65}) == StructuredPruning(ratio=0.65)
    for wrong in ({}, {"ratio": 0}, {"ratio": 1.01}, {"ratio": 0.5, "keep": 1}):
        with pytest.raises(ValidationError):
            adapter.validate_python({"kind": "structured"} | wrong)
