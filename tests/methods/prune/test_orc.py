from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prap_pim.cost.activity import activity
from prap_pim.hardware.chip import load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.mapping import map_layer
from prap_pim.methods.prune import NoPruning, OrcPruning, PruneConfig, prune
from tests.layers import layer_of, weights
from tests.reference.baselines import slow_orc_rows
from tests.strategies import examples


@examples(60)
@given(weights(), st.floats(0.01, 1, exclude_max=True), st.sampled_from([3, 8, 16]))
def test_as_the_slow_version(weight: np.ndarray, ratio: float, height: int) -> None:
    layer = layer_of(weight)
    patterns = prune(OrcPruning(ratio=ratio), layer, Grain(ou_rows=height))
    slow = slow_orc_rows(layer.matrix, ratio)
    assert patterns.blocks == ceil(len(slow[0]) / height)
    for filter_, kept in enumerate(slow):
        packed = patterns.rows[patterns.shape[filter_]].ravel()
        np.testing.assert_array_equal(packed[: len(kept)], kept)
        assert (packed[len(kept) :] == -1).all()
    if len(slow[0]) < layer.rows:  # no two filters share an OU's inputs
        assert len(np.unique(patterns.shape)) == patterns.shape.size == len(patterns.rows)


def test_by_hand() -> None:
    weight = np.array([[0, 3, -4, 1, 2, 0], [1, -1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0]], np.float32)
    # floor(6 * 0.5) = 3 a filter; of equals the lower rows
    patterns = prune(OrcPruning(ratio=0.5), layer_of(weight), Grain(ou_rows=2))
    np.testing.assert_array_equal(patterns.rows, [[1, 2], [0, 1], [0, 1], [4, -1], [2, -1], [2, -1]])
    np.testing.assert_array_equal(patterns.block_start, [0, 3, 6])
    np.testing.assert_array_equal(patterns.shape, [[0, 3], [1, 4], [2, 5]])
    one = prune(OrcPruning(ratio=0.01), layer_of(weight), Grain(ou_rows=2))
    np.testing.assert_array_equal(one.rows, [[2, -1], [0, -1], [0, -1]])


def test_a_layer_left_whole_is_dense() -> None:
    layer = layer_of(np.random.default_rng(0).standard_normal((4, 20), np.float32))
    whole, dense = prune(OrcPruning(ratio=1), layer, Grain()), prune(NoPruning(), layer, Grain())
    np.testing.assert_array_equal(whole.rows, dense.rows)
    np.testing.assert_array_equal(whole.shape, dense.shape)


def test_every_ou_gathers_its_inputs_and_pays_for_their_indices() -> None:
    # 6 filters keep 15 of 30 rows: 2 OUs each, of 8 and 7 rows. A row's number takes 5 bits, a filter's 3.
    weight = np.random.default_rng(1).permuted(np.tile(np.arange(1, 31, dtype=np.float32), (6, 1)), axis=1)
    layer, chip = layer_of(weight), load_chip("prap-2023")
    patterns = prune(OrcPruning(ratio=0.5), layer, chip.grain)
    np.ones(6, np.float32)
    plan = plan_weights(layer.name, layer.matrix, patterns, ReuseMap.none(patterns))
    counts = activity(map_layer(plan, chip), layer, chip)
    assert counts.ou_steps == 12 * 8
    assert counts.input_register_loads == counts.input_buffer_reads == 12
    assert counts.input_register_bytes == 6 * 15
    assert counts.partial_sum_updates == 12
    assert counts.index_bits == 12 * (8 * 5 + 3)
    assert counts.stored_cells == 6 * 15 * 8


def test_config() -> None:
    adapter = TypeAdapter(PruneConfig)
    assert adapter.validate_python({"kind": "orc", "ratio": 0.2}) == OrcPruning(ratio=0.2)
    for wrong in ({}, {"ratio": 0}, {"ratio": 1.01}, {"ratio": 0.5, "keep": 1}):
        with pytest.raises(ValidationError):
            adapter.validate_python({"kind": "orc"} | wrong)
