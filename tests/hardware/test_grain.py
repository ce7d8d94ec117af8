"""Columns of narrow weights by hand. How convolution groups share OUs: hand counts, bounds that nothing can beat, and
that the plan has that many."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.mapping import map_layer
from prap_pim.methods.prune import NoPruning, prune
from tests.layers import fill
from tests.reference.machine import dense_ous_of, ous_of
from tests.strategies import examples


def grouped(groups: int, channels: int, filters: int, kernel: tuple[int, ...]) -> Layer:
    """``channels`` and ``filters`` of a group."""
    weight = fill(np.random.default_rng(0), "int8 steps", (groups * filters, channels, *kernel))
    weight.reshape(len(weight), -1)[:, 0] = 127  # every filter's int8 step is 1
    ones = np.ones(groups * filters, np.float32)
    shapes = (groups * channels, *kernel), (groups * filters, *(1 for _ in kernel))
    return Layer("dw", "conv", weight, ones, 0 * ones, *shapes, (), groups=groups)


@pytest.mark.parametrize(
    ("grain", "ous"),
    [
        # 16 channels of 3x3, depthwise: 144 rows, 9 of each filter
        (Grain(), 32),  # an OU holds one filter: ceil(9 / 8) each
        (Grain(cell_bits=2), 18),  # two filters: every 8 rows belong to at most two channels: 144 / 8
        (Grain(cell_bits=4), 18),
        (Grain(ou_columns=32), 18),
        (Grain(ou_rows=16), 16),  # one filter each, with 7 rows to spare
        # two filters: 9 + 7 rows, 2 + 9, and so on. Two whole filters have 18 rows, so an OU has at most one; S filters
        # that are cut need B >= 16 - S OUs for the others and 2 B >= 16 + S places: B >= 32 / 3
        (Grain(ou_rows=16, ou_columns=16), 11),
        (Grain(ou_rows=32, ou_columns=32), 5),  # four filters: 9 + 9 + 9 + 5 and 4 + 9 + 9 + 9 rows: 2 for 7 channels
        (Grain(ou_rows=64, ou_columns=32, cell_bits=4), 3),
    ],
)
def test_depthwise_3x3_by_hand(grain: Grain, ous: int) -> None:
    assert grain.dense_ous(144, 16, 16) == ous


@pytest.mark.parametrize(
    ("grain", "shape", "cut", "ous"),
    [
        # 3 groups of a 1x3 kernel and one filter: two groups fill 6 of 8 rows, and a third filter has no column
        (Grain(cell_bits=2), (9, 3, 3), (0, 6, 9), 2),
        (Grain(ou_columns=32), (9, 3, 3), (0, 6, 9), 2),  # all three have a column, but 9 rows are too many
        (Grain(ou_columns=32), (24, 8, 8), (0, 8, 16, 24), 3),  # 8 groups of 3 rows: at most 4 groups touch 8 rows
        # 4 groups of 5 rows: 5 + 3, 2 + 5 (a third group would not fit), 5: in 3 OUs, not 4
        (Grain(cell_bits=2), (20, 4, 4), (0, 8, 15, 20), 3),
        # 2 filters of 4 bits a cell fill an OU of 4 columns: nothing to gain
        (Grain(ou_columns=4, cell_bits=4), (18, 4, 2), (0, 8, 9, 17, 18), 4),
        # 3 filters take 12 of 16 columns; two groups together 24 of 32: 9 + 9 rows in 3 stretches of 2 OUs or 4 of 1
        (Grain(ou_columns=16, cell_bits=2), (18, 6, 2), (0, 8, 9, 17, 18), 4),
        # 3 filters of 2 columns of 4: alone 2 OUs a stretch, two groups together 3
        (Grain(ou_columns=4, cell_bits=4), (18, 6, 2), (0, 8, 16, 18), 2 + 3 + 2),
        (Grain(), (20, 7, 1), (0, 8, 16, 20), 21),
    ],
)
def test_cuts_by_hand(grain: Grain, shape: tuple[int, int, int], cut: tuple[int, ...], ous: int) -> None:
    assert grain.dense_cut(*shape) == cut
    assert grain.dense_ous(*shape) == ous


@pytest.mark.parametrize(
    ("grain", "columns"),
    [
        (Grain(), {2: 2, 3: 3, 4: 4, 7: 7, 8: 8}),
        (Grain(cell_bits=2), {2: 1, 3: 2, 4: 2, 7: 4, 8: 4}),
        (Grain(cell_bits=4), {2: 1, 3: 1, 4: 1, 5: 2, 8: 2}),  # at least a cell
        (Grain(cell_bits=2, weight_bits=16), {3: 2, 7: 4, 8: 8}),  # an int8 weight takes all that the chip gives one
        (Grain(weight_bits=5), {2: 2, 5: 5}),
    ],
)
def test_columns_of_narrow_weights_by_hand(grain: Grain, columns: dict[int, int]) -> None:
    for bits, wanted in columns.items():
        assert grain.of_bits(bits).columns_per_weight == wanted
        assert replace(grain.of_bits(bits), weight_bits=grain.weight_bits) == grain  # nothing else changes


def test_weights_wider_than_the_chips_are_refused() -> None:
    for bits in (6, 8):
        with pytest.raises(UserError, match=f"a plan of {bits}-bit weights does not fit a chip of 5-bit weights"):
            Grain(weight_bits=5).of_bits(bits)


grains = st.builds(
    Grain,
    ou_rows=st.integers(1, 9),
    ou_columns=st.sampled_from([1, 4, 8, 12, 32]),
    cell_bits=st.sampled_from([1, 2, 4]),
)


@examples(150)
@given(grains, st.integers(1, 7), st.integers(1, 3), st.integers(1, 4), st.sampled_from([(1,), (3,), (3, 3)]))
def test_the_dense_plan_has_these_ous_and_no_fewer_are_possible(
    grain: Grain, groups: int, channels: int, filters: int, kernel: tuple[int, ...]
) -> None:
    layer = grouped(groups, channels, filters, kernel)
    chip = Chip.checked(
        load_chip("prap-2023").model_dump()
        | {"grain": vars(grain), "crossbar_rows": grain.ou_rows, "crossbar_columns": grain.ou_columns * 4},
        "test",
    )
    patterns = prune(NoPruning(), layer, grain)
    np.ones(layer.filters, np.float32)
    plan = plan_weights("dw", layer.matrix, patterns, ReuseMap.none(patterns))
    ous = grain.dense_ous(layer.rows, layer.filters, groups)
    assert len(ous_of(plan, chip)) == dense_ous_of(plan, chip) == ous == map_layer(plan, chip).ous
    assert patterns.mask().all()
    np.testing.assert_array_equal(plan.weights(), layer.matrix)
    assert sorted(plan.rows[plan.rows >= 0].tolist()) == list(range(layer.rows))  # every input drives once

    each = grain.columns_per_weight
    visits = layer.filters * ceil(layer.fan_in / grain.ou_rows) * each  # bitlines, once for every ou_rows of a filter
    assert ceil(visits / grain.ou_columns) <= ous  # no OU has more bitlines
    assert ceil(layer.rows / grain.ou_rows) <= ous  # nor more rows
    apart = groups * grain.dense_ous(layer.fan_in, filters)
    assert ous <= apart
    if filters * each % grain.ou_columns == 0:
        assert ous == apart == groups * filters * each // grain.ou_columns * ceil(layer.fan_in / grain.ou_rows)
    if 2 * filters * each <= grain.ou_columns and layer.fan_in >= grain.ou_rows - 1:
        assert ous == ceil(layer.rows / grain.ou_rows)
