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
        # 6 of 16 inputs, there at 2 + 6/16 x 15 = 7.625 s.
        (time(4.0, 0.5), 17 + 4 / 16 + 0.5),  # faster than a: ends a position after a's last output
        (time(32.0, 0.5), 7.625 + 32.5),  # slower: from its start it works without a pause
    ],
)
def test_a_layer_starts_with_its_first_window(second: LayerTime, expected: float) -> None:
    network = Network("two", (IMAGE, conv("a", "x"), DigitalOp("relu", "relu", 16, 16, ("a",)), conv("b", "relu")))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": second}) == pytest.approx(expected)


def test_copies_start_when_all_of_them_have_their_windows() -> None:
    """b in 4 copies: 4 rounds of 8 s. Its first 4 positions, row 0, need rows 0 and 1: 8 of 16 inputs."""
    network = Network("two", (IMAGE, conv("a", "x"), conv("b", "a")))
    start = 2 + 8 / 16 * 15
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(32.0, 0.5, 4)}) == pytest.approx(start + 32.5)
    # 2 copies of stride 2 and kernel 1: output columns 0 and 1 of row 0 are inputs 0 and 2, so 3 of 16
    strided = Layer(
        "b", "conv", np.zeros((1, 1, 1, 1), np.float32), np.ones(1, np.float32), np.zeros(1, np.float32),
        (1, 4, 4), (1, 2, 2), ("a",), stride=(2, 2),
    )  # fmt: skip
    start = 2 + 3 / 16 * 15
    two = Network("two", (IMAGE, conv("a", "x"), strided))
    assert pipelined_latency(two, {"a": time(16.0, 1.0), "b": time(32.0, 0.0, 2)}) == pytest.approx(start + 32)


def test_a_1x1_window_needs_one_input() -> None:
    network = Network("two", (IMAGE, conv("a", "x"), conv("b", "a", kernel=1)))
    start = 2 + 1 / 16 * 15
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(32.0, 0.0)}) == pytest.approx(start + 32)


def test_one_position_needs_all_inputs_and_tokens_only_theirs() -> None:
    network = Network("two", (IMAGE, conv("a", "x"), linear("b", "a")))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(3.0, 1.0, 1)}) == pytest.approx(17 + 4)
    tokens = Network("two", (IMAGE, linear("a", "x", 4), linear("b", "a", 4)))
    # a: 4, 8, 12, 16 s; b starts when a quarter of the time between 4 and 16 s has passed, at 7 s, and takes 20 s
    assert pipelined_latency(tokens, {"a": time(16.0, 0.0, 4), "b": time(20.0, 0.0, 4)}) == pytest.approx(27)


def test_a_sum_waits_for_its_later_operand() -> None:
    network = Network("branches", (IMAGE, conv("a", "x"), conv("b", "x"), DigitalOp("add", "add", 32, 16, ("a", "b"))))
    assert pipelined_latency(network, {"a": time(16.0, 1.0), "b": time(8.0, 0.0)}) == pytest.approx(17)


@pytest.mark.parametrize("source", ["a", "x"])
def test_a_layer_that_is_called_again_works_on_one_call_after_the_other(source: str) -> None:
    """32 positions of 1 s, half of them in each call: the first ends at 1 + 16 s, and the second begins then, whatever
    it reads. b follows the second, whose outputs come from 17 + 2 to 34 s: at 6/16 of the way its first window is
    there, and it takes 32.5 s from then.
    """
    layer = replace(conv("a", "x"), more_positions=16)
    again = Call("a:2", "a", 16, 16, (source,))
    network = Network("again", (IMAGE, layer, again))
    assert pipelined_latency(network, {"a": time(32.0, 1.0, 32)}) == pytest.approx(34)
    longer = Network("longer", (IMAGE, layer, again, conv("b", "a:2")))
    start = 19 + 6 / 16 * (34 - 19)
    times = {"a": time(32.0, 1.0, 32), "b": time(32.0, 0.5)}
    assert pipelined_latency(longer, times) == pytest.approx(start + 32.5)


def test_first_windows_in_one_and_three_dimensions() -> None:
    """A 1-D kernel of 3 dilated by 2, without padding, needs 5 of 9 inputs; a 3-D one of 2x2x2 on 3x3x3 needs plane 0,
    row 0 and 1 of plane 1, less the last of row 1: 9 + 3 + 2 of 27."""
    one = np.ones(1, np.float32)
    line = Layer("b", "conv", np.zeros((1, 1, 3), np.float32), one, one, (1, 9), (1, 5), ("a",), dilation=(2,))
    cube = Layer("b", "conv", np.zeros((1, 1, 2, 2, 2), np.float32), one, one, (1, 3, 3, 3), (1, 2, 2, 2), ("a",))
    for layer, share, positions in ((line, 5 / 9, 5), (cube, 14 / 27, 8)):
        network = Network("two", (IMAGE, conv("a", "x"), layer))
        start = 2 + share * 15
        times = {"a": time(16.0, 1.0), "b": time(32.0, 0.0, positions)}
        assert pipelined_latency(network, times) == pytest.approx(start + 32)
