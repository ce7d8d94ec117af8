"""Pipelined times against simulations: of every OU step on small networks, of every position on ResNet-20."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.cost import CostReport, cost
from prap_pim.cost.events import EventTimes, simulate
from prap_pim.cost.schedule import input_shares, needed
from prap_pim.frontend import capture
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import load_table
from prap_pim.ir.network import DigitalOp, Layer, Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.compress import plan_for_costs
from prap_pim.training.models import ModelConfig, build
from tests.crossbar.plans import dense_plan
from tests.reference.pipeline import finish_times, window
from tests.strategies import examples


def conv(
    name: str, source: str, shape: tuple[int, int, int], filters: int, kernel: int, stride: int, pad: int
) -> Layer:
    channels, *space = shape
    out = tuple((size + 2 * pad - kernel) // stride + 1 for size in space)
    one = np.ones(filters, np.float32)
    weight = np.ones((filters, channels, kernel, kernel), np.float32)
    sizes = {"stride": (stride, stride), "padding": (pad, pad)}
    return Layer(name, "conv", weight, one, one * 0, shape, (filters, *out), (source,), **sizes)


def planned(network: Network, height: int) -> NetworkPlan:
    plans = {layer.name: dense_plan(layer.name, layer.matrix, height=height) for layer in network.layers}
    return NetworkPlan("dense", plans, dict.fromkeys(plans, 1.0))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Convolutions of one after another, some with a shortcut past them, and sometimes a linear layer behind them."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(4, 7)), draw(st.integers(4, 7)))
    nodes: list[Layer | DigitalOp] = [DigitalOp("x", "input", 0, int(np.prod(shape)), ())]
    for i in range(draw(st.integers(1, 3))):
        before = nodes[-1].name
        kernel = draw(st.sampled_from([1, 2, 3]))
        same = draw(st.booleans()) and kernel != 2 and i > 0  # the same shape comes out: a shortcut is possible
        stride = 1 if same else draw(st.sampled_from([1, 2]))
        layer = conv(f"c{i}", before, shape, shape[0] if same else draw(st.integers(2, 8)), kernel, stride, kernel // 2)
        nodes.append(layer)
        shape, size = layer.output_shape, layer.output_elements
        if same:
            nodes.append(DigitalOp(f"add{i}", "add", 2 * size, size, (layer.name, before)))
        nodes.append(DigitalOp(f"relu{i}", "relu", size, size, (nodes[-1].name,)))
    if draw(st.booleans()):
        size, one = int(np.prod(shape)), np.ones(3, np.float32)
        last = nodes[-1].name
        nodes.append(Layer("fc", "linear", np.ones((3, size), np.float32), one, one, (size,), (3,), (last,)))
    return Network("small", tuple(nodes))


@st.composite
def chips(draw: st.DrawFn) -> Chip:
    """Small crossbars, so that layers fill several, in several tiles; buffers and links that are seldom in the way."""
    base = load_chip(draw(st.sampled_from(["prap-2023", "isaac-32nm"])))
    sizes = {"crossbar_rows": 16, "crossbar_columns": draw(st.sampled_from([64, 128]))}
    shared = {"crossbars_per_pe": draw(st.integers(1, 2)), "pes_per_tile": draw(st.integers(1, 3))}
    return Chip.checked({**base.model_dump(), **sizes, **shared}, "test chip")


def latencies(chip: Chip) -> dict[str, float]:
    table = load_table(chip.components)
    found = {component: f.value for (component, quantity), f in table.figures.items() if quantity == "latency"}
    cycles = chip.adc_bits + 2 if chip.adc_time == "(bits+2)/rate" else 1
    return found | {"adc": cycles / table("adc", "rate")}


def by_events(network: Network, report: CostReport, contention: bool = True) -> EventTimes:
    counts = {layer.name: layer.activity for layer in report.layers}
    table = load_table(report.chip.components)
    return simulate(network, report.mapping, counts, report.chip, table, contention)


@examples(40)
@given(network=networks(), chip=chips())
def test_pipelined_times_are_those_of_a_walk_through_every_ou_step(network: Network, chip: Chip) -> None:
    """Where nothing contends: links between tiles are free in the walk, and here they carry little."""
    plan = planned(network, chip.grain.ou_rows)
    report = cost(network, plan, chip)
    ends = finish_times(network, plan.layers, chip, latencies(chip), 4)
    expected = EventTimes(latency_s=ends[0], interval_s=ends[3] - ends[2])
    formula = EventTimes(report.pipelined.latency_s, 1 / report.pipelined.throughput_per_s)
    for found in (formula, by_events(network, report, False), by_events(network, report)):
        assert vars(found) == pytest.approx(vars(expected), rel=0.05)


def test_resnet20_takes_as_long_as_a_simulation_of_every_position() -> None:
    config = TypeAdapter[ModelConfig](ModelConfig).validate_python({"name": "resnet", "depth": 20})
    model = build(config, 3, 10, seed=0)
    captured = capture(model, torch.zeros(2, 3, 32, 32), "resnet20")
    for name in ("isaac-32nm", "prap-2023"):
        chip = load_chip(name)
        report = cost(captured.network, plan_for_costs(captured, chip), chip)
        found = by_events(captured.network, report)
        assert found.latency_s == pytest.approx(report.pipelined.latency_s, rel=0.05)
        assert found.interval_s == pytest.approx(1 / report.pipelined.throughput_per_s, rel=0.05)


def token_layer(name: str, source: str, tokens: int, filters: int, channels: int) -> Layer:
    one, weight = np.ones(filters, np.float32), np.ones((filters, channels), np.float32)
    return Layer(name, "linear", weight, one, one * 0, (tokens, channels), (tokens, filters), (source,))


def test_messages_wait_for_one_another_on_a_link() -> None:
    """Layers a to d in tiles 0 to 3 of one row, with two tokens each; c reads a, and d reads b. All links pass a bit a
    second, so that nothing else takes time. Outputs of a and b leave their tiles after 8 and 16 s, those of c and d 8 s
    after they have come: after 16 and 24 s. But both go from tile 1 to tile 2: the first ones get there after 8 and 16
    s, the second ones after 24 and 32 s, and the last one of d leaves after 40 s."""
    x = DigitalOp("x", "input", 0, 2, ())
    layers = [token_layer(name, source, 2, 1, 1) for name, source in (("a", "x"), ("b", "x"), ("c", "a"), ("d", "b"))]
    network = Network("four", (x, *layers))
    for columns, seconds in ((4, 40), (1, 40), (2, 24)):  # of two columns: they go from 0 to 2 and from 1 to 3
        slow = {"inter_tile_bits_per_s": 1.0, "mesh_columns": columns}
        chip = Chip.checked({**load_chip("isaac-32nm").model_dump(), **slow}, "test chip")
        report = cost(network, planned(network, 8), chip)
        assert by_events(network, report, contention=False).latency_s == pytest.approx(24, abs=1e-3)
        assert by_events(network, report).latency_s == pytest.approx(seconds, abs=1e-3)


def test_what_is_sent_is_what_the_tile_has_made_of_its_outputs() -> None:
    """b's tile puts a's outputs beside its own, so that 16 bits a token go on to c, 8 s later than b's own."""
    x = DigitalOp("x", "input", 0, 2, ())
    a, b = (token_layer(name, "x", 2, 1, 1) for name in ("a", "b"))
    both = DigitalOp("cat", "cat", 4, 4, ("a", "b"))
    network = Network("three", (x, a, b, both, token_layer("c", "cat", 2, 1, 2)))
    chip = Chip.checked({**load_chip("isaac-32nm").model_dump(), "inter_tile_bits_per_s": 1.0}, "test chip")
    report = cost(network, planned(network, 8), chip)
    assert by_events(network, report, contention=False).latency_s == pytest.approx(24, abs=1e-3)
    assert by_events(network, report).latency_s == pytest.approx(16 + 2 * 8 + 8, abs=1e-3)


def test_copies_of_a_layer_share_what_their_tile_has() -> None:
    """Four tokens on two copies in one tile: each takes two positions, and all four leave through one port."""
    network = Network("one", (DigitalOp("x", "input", 0, 4, ()), token_layer("a", "x", 4, 1, 1)))
    chip = Chip.checked({**load_chip("isaac-32nm").model_dump(), "inter_tile_bits_per_s": 1.0}, "test chip")
    report = cost(network, planned(network, 8), chip, crossbars=2)
    assert report.copies == {"a": 2}
    found = by_events(network, report)
    assert found.latency_s == pytest.approx(4 * 8, abs=1e-3)
    assert found.interval_s == pytest.approx(4 * 8, abs=1e-3)
    assert found.interval_s == pytest.approx(1 / report.pipelined.throughput_per_s)


def test_estimate_by_events() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval(), torch.zeros(2, 3, 8, 8)
    formula, events = (prap_pim.estimate(model, x, timing=timing) for timing in ("formula", "events"))
    assert events.pipelined.latency_s == pytest.approx(formula.pipelined.latency_s, rel=0.05)
    assert events.pipelined != formula.pipelined
    assert (events.serial, events.energy_j) == (formula.serial, formula.energy_j)
    assert set(events.conventions) > set(formula.conventions)
    assert prap_pim.estimate(prap_pim.compress(model, x, "dense"), timing="events").pipelined == events.pipelined
    with pytest.raises(UserError, match="no timing 'event'"):
        prap_pim.estimate(model, x, timing="event")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave phase out"):
        prap_pim.estimate(model, x, phase="prefill", timing="events")


def test_without_simpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simpy", None)
    network = Network("one", (DigitalOp("x", "input", 0, 4, ()), token_layer("a", "x", 4, 1, 1)))
    with pytest.raises(UserError, match=r"pip install 'prap-pim\[events\]'"):
        by_events(network, cost(network, planned(network, 8), load_chip("isaac-32nm")))


@examples(60)
@given(network=networks())
def test_windows_are_those_that_are_looked_up(network: Network) -> None:
    for layer in network.layers:
        if layer.kind == "conv":
            count, most = int(np.prod(layer.input_shape[1:])), 0
            for position, share in enumerate(input_shares(layer, layer, layer.positions)):
                most = max(most, *window(layer, position), 0)
                assert needed(np.array([share]), count) == most + 1
