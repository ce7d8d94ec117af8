import math

import pytest

from prap_pim.report.quality import qualities
from prap_pim.report.summary import Card, caveat, comparisons, exactness, headline, sections
from prap_pim.results.run import TimingResult
from tests.report.made_up import EVIL, layer, method, results


def test_gains_by_hand():
    first, second = comparisons(results())
    assert first.serial_speedup == first.energy_gain == 1
    assert second.serial_speedup == pytest.approx(4.1 / 2.5)  # ms
    assert second.pipelined_speedup == pytest.approx(0.9 / 0.6)
    assert second.throughput_gain == pytest.approx(7000 / 4000)
    assert second.energy_gain == pytest.approx(100 / 80)  # uJ
    (accuracy,) = qualities(results())
    values = (accuracy.bit_true(each.method) or 0 for each in (second, first))
    assert accuracy.change(*values) == "−0.37 points"  # 97.22 % - 97.59 %


def test_a_ratio_to_zero_is_not_available():
    stopped = method(1, serial=TimingResult(latency_s=0.0, throughput_per_s=0.0))
    assert math.isnan(comparisons(results(methods=[method(0), stopped]))[1].serial_speedup)
    rows = {row.label: row.values for part in sections(results(methods=[method(0), stopped])) for row in part.rows}
    assert rows["speedup, serial"] == ("1.00x", "n/a")


def test_headline_is_about_the_last_method():
    said = headline(results(methods=[method(0), method(0, name="other"), method(1)]))
    assert "prap runs resnet20 1.64x as fast as dense" in said.sentence
    assert "80.0 % of its energy" in said.sentence
    assert said.cards[0] == Card("1.64x", "speedup, serial", "2.50 ms instead of 4.10 ms")
    assert said.cards[2] == Card(
        "3.00x",
        "throughput at equal crossbars",
        "pipelined, each with 140 crossbars; 2.90x per mm²",
    )
    assert said.cards[3] == Card("1.25x", "energy gain", "80.0 µJ instead of 100 µJ")
    assert said.cards[4] == Card("0.00 %", "area change", "2.13 mm² instead of 2.13 mm²")
    assert said.cards[5] == Card("−0.37 points", "accuracy change", "97.22 % instead of 97.59 %")


def test_an_accuracy_that_stays_is_said_to_stay():
    """The float network's 97.96 % is told where it is another."""
    for accuracy, told in (
        (0.9759, "Its accuracy stays at 97.59 %; the network as it was trained, in float, has 97.96 %."),
        (0.9722, "Its accuracy is 97.22 % instead of 97.59 %; the network as it was trained, in float, has 97.96 %."),
    ):
        assert headline(results(methods=[method(0), method(1, bit_true_accuracy=accuracy)])).sentence.endswith(told)
    same = [method(i, bit_true_accuracy=0.9796) for i in (0, 1)]
    assert headline(results(methods=same)).sentence.endswith("energy. Its accuracy stays at 97.96 %.")


def test_what_sets_the_time_is_named():
    """fc is the last layer and twenty times as slow as the first; of 4.1 ms 4 are the crossbars', of 2.5 2.3."""
    (rows,) = [
        section.rows for section in sections(results(), True) if section.title == "Time and energy of one inference"
    ]
    told = {row.label: row.values for row in rows}
    assert told["most of it, serial"] == ("crossbars, 97.6 %", "crossbars, 92.0 %")
    assert told["bottleneck, pipelined"] == ("fc, crossbars", "fc, crossbars")
    labels = [row.label for section in sections(results()) for row in section.rows]
    assert "bottleneck, pipelined" not in labels  # on a terminal names would push methods out
    nothing = results(methods=[method(0, serial_breakdown_s=None, layers=[])])
    (rows,) = [
        section.rows for section in sections(nothing, True) if section.title == "Time and energy of one inference"
    ]
    assert [row.values for row in rows if row.label in ("most of it, serial", "bottleneck, pipelined")] == [
        ("n/a",),
        ("n/a",),
    ]


def test_headline_says_so_when_a_method_is_slower():
    said = headline(results(methods=[method(1), method(0)]))
    assert said.cards[0] == Card("0.610x", "speedup, serial", "4.10 ms instead of 2.50 ms")
    assert "0.610x as fast" in said.sentence
    assert "125 % of its energy" in said.sentence


def test_an_accuracy_that_is_lost_is_told_beside_the_gains():
    """1 point is the limit, against the float network's 97.96 %: 96.97 % may pass, 96.95 % may not."""
    for accuracy, told in (
        (0.9697, ""),
        (0.9695, "loses 1.01 points of the float network's 97.96 %"),
        (0.5, "loses 48.0 points of the float network's 97.96 %"),
        (None, ""),
    ):
        whole = results(methods=[method(0), method(1, bit_true_accuracy=accuracy)])
        assert caveat(whole, whole.methods[1]) == told
        assert headline(whole).cards[5].caveat == told
        alone = results(methods=[method(1, bit_true_accuracy=accuracy)])
        assert headline(alone).cards[-1].caveat == told


def test_an_accuracy_that_may_be_chance_is_told():
    """Guessing among 10 classes: 36 of 360, standard deviation sqrt(360 * 0.1 * 0.9) = 5.7; 3 of them: 53 of 360."""
    for right, told in ((53, "no better than guessing among 10 classes"), (54, "loses 83.0 points"), (20, "no better")):
        whole = results(classes=10, methods=[method(1, bit_true_accuracy=right / 360)])
        assert caveat(whole, whole.methods[0]).startswith(told)
    whole = results(classes=None, methods=[method(1, bit_true_accuracy=0.1)])  # as earlier versions wrote
    assert caveat(whole, whole.methods[0]).startswith("loses")


def test_bits_per_byte_that_are_lost_are_told():
    """Guessing a byte takes 8 bits; 1 % more bits than the float network's 2 may pass."""
    for bits, told in ((2.019, ""), (2.1, "5.00 % above the float network's 2.000"), (7.95, "no better than guessing")):
        text = method(1, bit_true_bits_per_byte=bits, bit_true_accuracy=0.004)
        whole = results(classes=256, inputs="sequences", float_bits_per_byte=2.0, methods=[text])
        assert caveat(whole, text).startswith(told)
        assert bool(caveat(whole, text)) == bool(told)


def test_one_method_alone_is_not_compared():
    said = headline(results(methods=[method(0)]))
    assert "nothing to compare" in said.sentence
    assert said.cards[0].figure == "4.10 ms"


def test_exactness_adds_up_all_methods_and_names_what_differs():
    found = exactness(results())
    assert (found.checked, found.mismatches, found.wrong) == (2 * 20 * 65_536, 0, ())
    assert found.proven
    broken = method(1, layers=[layer("good", 0, 1), layer(EVIL[0], 1, 1, mismatches=3)])
    found = exactness(results(methods=[method(0, layers=[]), broken]))
    assert (found.checked, found.mismatches, found.wrong) == (131_072, 3, (f"prap, {EVIL[0]}",))
    assert not found.proven


def test_nothing_checked_is_nothing_proven():
    assert not exactness(results(methods=[method(0, layers=[])])).proven
