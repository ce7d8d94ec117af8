from dataclasses import replace

import numpy as np
import pytest

from prap_pim.common.errors import UserError
from prap_pim.cost import cost
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import Call, DigitalOp, Layer, Network
from prap_pim.ir.patterns import PatternSet, ReuseMap, plan_weights
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.mapping import map_layer, map_network
from prap_pim.methods.prune import NoPruning, prune

CHIP = load_chip("prap-2023")


def conv(name: str, inputs: int, filters: int, size: int, source: str) -> Layer:
    random = np.random.default_rng(filters)
    return Layer(
        name=name,
        kind="conv",
        weight=random.standard_normal((filters, inputs, 3, 3)).astype(np.float32),
        filter_scale=np.ones(filters, np.float32),
        filter_bias=np.zeros(filters, np.float32),
        input_shape=(inputs, size, size),
        output_shape=(filters, size, size),
        sources=(source,),
        padding=(1, 1),
    )


def planned(layer: Layer, keep: float = 1.0) -> LayerPlan:
    """Every 8 rows a group; the first filters are donors, the others take them in turn."""
    groups = -(-layer.rows // 8)
    rows = np.full(groups * 8, -1, np.int32)
    rows[: layer.rows] = np.arange(layer.rows)
    shape = np.tile(np.arange(groups, dtype=np.int32), (layer.filters, 1))
    patterns = PatternSet(layer.rows, rows.reshape(groups, 8), np.arange(groups + 1, dtype=np.int64), shape)
    source = np.arange(layer.filters, dtype=np.int32) % max(1, int(layer.filters * keep))
    sources = np.tile(source[:, None], (1, groups))
    reuse = ReuseMap(sources, np.ones(sources.shape, np.int8), np.zeros(sources.shape, np.int8))
    return plan_weights(layer.name, layer.matrix, patterns, reuse).scaled(layer.filter_scale, layer.filter_bias)


def small_network(keep: float = 1.0) -> tuple[Network, NetworkPlan]:
    first, second = conv("a", 3, 32, 8, "x"), conv("b", 32, 32, 8, "a")
    nodes = (
        DigitalOp("x", "input", 0, 3 * 64, ()),
        first,
        second,
        DigitalOp("sum", "add", 2 * 32 * 64, 32 * 64, ("a", "b")),
        DigitalOp("relu", "relu", 32 * 64, 32 * 64, ("sum",)),
        conv("c", 32, 64, 8, "relu"),
    )
    network = Network("small", nodes)
    plans = {layer.name: planned(layer, keep) for layer in network.layers}
    return network, NetworkPlan("dense" if keep == 1 else "shared", plans, dict.fromkeys(plans, 1.0))


def test_spread_shortens_and_pack_empties() -> None:
    """288 rows x 64 filters: 36 groups x 64 OUs = 2304 = 9 crossbars of 256; a quarter of it 576."""
    layer = conv("c", 32, 64, 8, "x")
    assert CHIP.grain.dense_ous(layer.rows, layer.filters) == 2304
    dense, quarter = planned(layer), planned(layer, 0.25)
    for mode in ("spread", "pack"):
        assert map_layer(dense, CHIP, mode=mode).ous_per_crossbar.tolist() == [256] * 9
    assert map_layer(quarter, CHIP).ous_per_crossbar.tolist() == [64] * 9
    assert map_layer(quarter, CHIP, mode="pack").ous_per_crossbar.tolist() == [256, 256, 64]
    assert map_layer(quarter, CHIP, 5).ous_per_crossbar.tolist() == [116, 115, 115, 115, 115]


def test_a_plan_larger_than_dense_fills_more_crossbars() -> None:
    """Row groups of one row each: 9 x 32 OUs where the dense plan has 2 x 32 = 64 on 1 crossbar of 256."""
    layer = conv("c", 1, 32, 8, "x")
    shape = np.tile(np.arange(9, dtype=np.int32), (32, 1))
    rows = np.full((9, 8), -1, np.int32)
    rows[:, 0] = np.arange(9)
    patterns = PatternSet(9, rows, np.arange(10, dtype=np.int64), shape)
    np.ones(32, np.float32)
    plan = plan_weights("c", layer.matrix, patterns, ReuseMap.none(patterns))
    assert map_layer(plan, CHIP).ous_per_crossbar.tolist() == [256, 32]
    assert map_layer(plan, CHIP, mode="pack").ous_per_crossbar.tolist() == [64, 64, 64, 64, 32]
    with pytest.raises(UserError, match="288 OUs do not fit 1 crossbars of 256; at least 2"):
        map_layer(plan, CHIP, 1)


def test_runs_are_contiguous_row_groups() -> None:
    mapping = map_layer(planned(conv("c", 32, 64, 8, "x")), CHIP)
    assert mapping.run_group.tolist() == list(range(36))  # 4 whole groups of 64 OUs to a crossbar: none is cut
    assert mapping.run_crossbar.tolist() == [group // 4 for group in range(36)]


def test_tiles_belong_to_one_layer_and_data_flows_between_them() -> None:
    network, plan = small_network()
    mapping = map_network(network, plan, CHIP)
    assert mapping.first_tile == {"a": 0, "b": 1, "c": 2}
    assert mapping.tiles == 3
    assert [op.name for op in mapping.digital_ops["b"]] == ["sum", "relu"]  # where the later operand lies
    assert [(feed.source_tile, feed.digital) for feed in mapping.feeds["b"]] == [(0, False), (0, True)]
    assert [(feed.source_tile, feed.elements) for feed in mapping.feeds["c"]] == [(1, 32 * 64)]
    report = cost(network, plan, CHIP)
    by_name = {layer.name: layer.activity for layer in report.layers}
    assert by_name["a"].inter_tile_bytes == 0  # from outside
    assert by_name["b"].inter_tile_bytes == 2 * 32 * 64  # as input, and as operand of the addition
    assert by_name["c"].inter_tile_byte_hops == 32 * 64
    assert by_name["b"].digital_ops == 32 * 64 + 32 * 64
    assert by_name["a"].digital_ops + by_name["c"].digital_ops == 0
    assert by_name["a"].output_buffer_writes == 3 * 64 * 8 // 256


def test_report_sums() -> None:
    dense_net, dense_weights = small_network()
    for mode in ("spread", "pack"):
        dense = cost(dense_net, dense_weights, CHIP, mode)
        shared = cost(*small_network(0.25), CHIP, mode)
        for report in (dense, shared):
            assert report.energy_j == pytest.approx(sum(layer.energy_j for layer in report.layers), rel=1e-12)
            assert report.energy_j == pytest.approx(sum(report.energy_breakdown_j.values()), rel=1e-12)
            assert report.area_m2 == pytest.approx(sum(report.area_breakdown_m2.values()), rel=1e-12)
            assert report.serial.latency_s == pytest.approx(sum(layer.serial_latency_s for layer in report.layers))
            slowest = max(layer.time.busy_s for layer in report.layers)
            assert report.pipelined.throughput_per_s == pytest.approx(1 / slowest)
            assert slowest <= report.pipelined.latency_s <= sum(layer.pipelined_latency_s for layer in report.layers)
        assert shared.ou_steps * 4 == dense.ou_steps
        assert shared.energy_j < dense.energy_j
        if mode == "spread":
            assert shared.crossbars == dense.crossbars
            assert shared.serial.latency_s < dense.serial.latency_s
        else:
            assert shared.crossbars < dense.crossbars
            assert shared.pipelined.throughput_per_s == pytest.approx(dense.pipelined.throughput_per_s)


def test_mistakes() -> None:
    network, plan = small_network()  # dense: 4 x 32, 36 x 32 and 36 x 64 OUs are 1, 5 and 9 crossbars of 256
    with pytest.raises(UserError, match=r"2304 OUs do not fit 8 crossbars of 256; at least 9"):
        map_layer(plan.layers["c"], CHIP, 8)
    with pytest.raises(UserError, match="at least 1 is needed"):
        map_layer(plan.layers["c"], CHIP, 0)
    smaller = CHIP.grain.__class__(ou_rows=4)
    with pytest.raises(UserError, match="patterns of 8 weights do not fit OUs of 4 rows"):
        map_layer(plan.layers["c"], CHIP.model_copy(update={"grain": smaller}))
    other = Network("other", network.nodes[:2])
    with pytest.raises(UserError, match="do not both have layer b"):
        map_network(other, plan, CHIP)
    swapped = Network("swapped", (network.nodes[0], conv("a", 3, 16, 8, "x")))
    with pytest.raises(UserError, match="does not fit its weight"):
        map_network(swapped, NetworkPlan("dense", {"a": plan.layers["a"]}, {"a": 1.0}), CHIP)


def test_a_layer_that_is_called_again_is_stored_once_and_fed_twice() -> None:
    """a on the image and then on its own sum with the image: 64 positions each."""
    first = replace(conv("a", 3, 3, 8, "x"), more_positions=64)
    nodes = (
        DigitalOp("x", "input", 0, 3 * 64, ()),
        first,
        DigitalOp("sum", "add", 2 * 3 * 64, 3 * 64, ("a", "x")),
        Call("a:2", "a", 64, 3 * 64, ("sum",)),
        DigitalOp("relu", "relu", 3 * 64, 3 * 64, ("a:2",)),
        conv("b", 3, 8, 8, "relu"),
        conv("c", 3, 8, 8, "a"),
    )
    network = Network("again", nodes)
    plans = {layer.name: planned(layer) for layer in network.layers}
    plan = NetworkPlan("dense", plans, dict.fromkeys(plans, 1.0))
    mapping = map_network(network, plan, CHIP)
    assert list(mapping.layers) == ["a", "b", "c"]
    assert mapping.crossbars == 3
    found = [(feed.source_tile, feed.elements, feed.digital) for feed in mapping.feeds["a"]]
    # the image, and as an operand; the sum lies where a is, and so does what follows the second call
    assert found == [(None, 192, False), (None, 192, True), (0, 192, False)]
    for name in ("b", "c"):  # c reads what the first call gave
        assert [(feed.source_tile, feed.elements) for feed in mapping.feeds[name]] == [(0, 192)]
    assert [op.name for op in mapping.digital_ops["a"]] == ["x", "sum", "relu"]
    report = cost(network, plan, CHIP)
    a, b, _ = (layer.activity for layer in report.layers)
    assert (a.positions, a.outputs, a.ou_steps) == (128, 3 * 128, 4 * 3 * 8 * 128)
    assert (b.positions, b.inter_tile_bytes) == (64, 192)
    assert a.digital_ops == 192 + 192


def test_a_grouped_layer_is_mapped_as_its_dense_plan() -> None:
    """512 channels of 3x3, depthwise: 1024 OUs on 4 crossbars of 256, not the 576 x 512 of a whole matrix."""
    one = np.ones(512, np.float32)
    weight = np.random.default_rng(0).standard_normal((512, 1, 3, 3)).astype(np.float32)
    layer = Layer("dw", "conv", weight, one, one, (512, 4, 4), (512, 2, 2), ("x",), groups=512)
    patterns = prune(NoPruning(), layer, CHIP.grain)
    plan = plan_weights("dw", layer.matrix, patterns, ReuseMap.none(patterns))
    for mode in ("spread", "pack"):
        assert map_layer(plan, CHIP, mode=mode).ous_per_crossbar.tolist() == [256] * 4
