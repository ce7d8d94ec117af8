"""Overlapping layers, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from prap_pim.cost import LayerTime, pipelined_latency
from prap_pim.ir.network import Call, DigitalOp, Layer, Network


def conv(name: str, source: str, size: int = 4, kernel: int = 3) -> Layer:
    return Layer(
        name=name,
        kind="conv",
        weight=np.zeros((1, 1, kernel, kernel), np.float32),
        filter_scale=np.ones(1, np.float32),
        filter_bias=np.zeros(1, np.float32),
        input_shape=(1, size, size),
        output_shape=(1, size, size),
        sources=(source,),
        padding=(kernel // 2, kernel // 2),
    )


def linear(name: str, source: str, tokens: int = 1) -> Layer:
    one = np.ones(1, np.float32)
    lead = (tokens,) if tokens > 1 else ()
    return Layer(name, "linear", np.zeros((1, 1), np.float32), one, one * 0, (*lead, 1), (*lead, 1), (source,))


def time(busy: float, fill: float, rounds: int = 16) -> LayerTime:
    return LayerTime(2 * busy, {}, busy + fill, busy, fill, "crossbars", rounds)


IMAGE = DigitalOp("x", "input", 0, 16, ())


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        # a makes an output at 2, 3, ... 17 s. b's first 3x3 window with padding 1 needs row 0 and 2 pixels of row 1:
        # 6 inputs, there at 7 s. The windows of row 2 reach into row 3: at 17 s, with the last input, 6 of its
        # positions are still to be done, the last 2 of row 2 and all of row 3.
        (time(4.0, 0.5), 17 + 6 * 4 / 16 + 0.5),  # faster than a
        (time(32.0, 0.5), 7 + 32.5),  # slower: from its start it works without a pause
    ],
)
def test_a_layer_starts_with_its_first_window(second: LayerTime, expected: float) -> None:
    network = Network("two", (IMAGE, conv("a", "x"), DigitalOp("relu", "relu", 16, 16, ("a",)), conv("b", "relu")))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": second}) == pytest.approx(expected)


def test_a_copy_starts_when_it_has_its_window() -> None:
    """b in 4 copies: 4 rounds of 8 s. Those that do the last 2 positions of row 0 first need 8 inputs, there at 9 s."""
    network = Network("two", (IMAGE, conv("a", "x"), conv("b", "a")))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(32.0, 0.5, 4)}) == pytest.approx(9 + 32.5)
    # 2 copies of stride 2 and kernel 1: the second one does column 1, which is input column 2: there at 4 s
    strided = Layer(
        "b", "conv", np.zeros((1, 1, 1, 1), np.float32), np.ones(1, np.float32), np.zeros(1, np.float32),
        (1, 4, 4), (1, 2, 2), ("a",), stride=(2, 2),
    )  # fmt: skip
    two = Network("two", (IMAGE, conv("a", "x"), strided))
    assert pipelined_latency(two, {"a": time(16.0, 1.0), "b": time(32.0, 0.0, 2)}) == pytest.approx(4 + 32)


def test_a_1x1_window_needs_one_input() -> None:
    network = Network("two", (IMAGE, conv("a", "x"), conv("b", "a", kernel=1)))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(32.0, 0.0)}) == pytest.approx(2 + 32)


def test_one_position_needs_all_inputs_and_tokens_only_theirs() -> None:
    network = Network("two", (IMAGE, conv("a", "x"), linear("b", "a")))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(3.0, 1.0, 1)}) == pytest.approx(17 + 4)
    tokens = Network("two", (IMAGE, linear("a", "x", 4), linear("b", "a", 4)))
    # a: 4, 8, 12, 16 s; b starts at 4 s and takes 20 s; where it takes 4 s, its last token is there a second after a's
    assert pipelined_latency(tokens, {"a": time(16.0, 0.0, 4), "b": time(20.0, 0.0, 4)}) == pytest.approx(24)
    assert pipelined_latency(tokens, {"a": time(16.0, 0.0, 4), "b": time(4.0, 0.0, 4)}) == pytest.approx(17)


def test_a_sum_waits_for_its_later_operand() -> None:
    network = Network("branches", (IMAGE, conv("a", "x"), conv("b", "x"), DigitalOp("add", "add", 32, 16, ("a", "b"))))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(8.0, 0.0)}) == pytest.approx(17)


@pytest.mark.parametrize(("source", "begin"), [("a", 17), ("x", 16)])
def test_a_layer_that_is_called_again_works_on_one_call_after_the_other(source: str, begin: int) -> None:
    """32 positions of 1 s, half of them in each call: the first leaves the crossbars at 16 s, and is done at 17 s,
    when the second begins that reads it. Its outputs come a second apart, the first after 2 s. b follows: its first
    window is there with the sixth of them, and it takes 32.5 s from then.
    """
    layer = replace(conv("a", "x"), more_positions=16)
    again = Call("a:2", "a", 16, 16, (source,))
    network = Network("again", (IMAGE, layer, again))
    assert pipelined_latency(network, {"a": time(32.0, 1.0, 32)}) == pytest.approx(begin + 17)
    longer = Network("longer", (IMAGE, layer, again, conv("b", "a:2")))
    times = {"a": time(32.0, 1.0, 32), "b": time(32.0, 0.5)}
    assert pipelined_latency(longer, times) == pytest.approx(begin + 7 + 32.5)


def test_first_windows_in_one_and_three_dimensions() -> None:
    """A 1-D kernel of 3 dilated by 2, without padding, needs 5 of 9 inputs; a 3-D one of 2x2x2 on 3x3x3 needs plane 0,
    row 0 and 1 of plane 1, less the last of row 1: 9 + 3 + 2 of 27. Of a's 16 outputs that is 9, there at 10 s."""
    one = np.ones(1, np.float32)
    line = Layer("b", "conv", np.zeros((1, 1, 3), np.float32), one, one, (1, 9), (1, 5), ("a",), dilation=(2,))
    cube = Layer("b", "conv", np.zeros((1, 1, 2, 2, 2), np.float32), one, one, (1, 3, 3, 3), (1, 2, 2, 2), ("a",))
    for layer, positions in ((line, 5), (cube, 8)):
        network = Network("two", (IMAGE, conv("a", "x"), layer))
        times = {"a": time(16.0, 1.0), "b": time(32.0, 0.0, positions)}
        assert pipelined_latency(network, times) == pytest.approx(10 + 32)


def test_maps_beyond_the_first_come_one_after_another() -> None:
    """1x1 layers on two maps of 16: each of b's 32 positions needs one output more of a, which comes every second. A
    position of b takes a quarter of a second, so b is done that much after a."""
    twice = [replace(conv(name, source, kernel=1), more_positions=16) for name, source in (("a", "x"), ("b", "a"))]
    times = {"a": time(32.0, 0.0, 32), "b": time(8.0, 0.0, 32)}
    assert pipelined_latency(Network("maps", (IMAGE, *twice)), times) == pytest.approx(32.25)
