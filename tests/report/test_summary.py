import math

import pytest

from prap_pim.report.summary import comparisons, exactness, headline, sections
from prap_pim.results import TimingResult
from tests.report.made_up import EVIL, layer, method, results


def test_gains_by_hand():
    first, second = comparisons(results())
    assert first.serial_speedup == first.energy_gain == 1
    assert second.serial_speedup == pytest.approx(4.1 / 2.5)  # ms
    assert second.pipelined_speedup == pytest.approx(0.9 / 0.6)
    assert second.throughput_gain == pytest.approx(7000 / 4000)
    assert second.energy_gain == pytest.approx(100 / 80)  # uJ
    assert second.accuracy_change == pytest.approx(-0.0037)  # 97.22 % - 97.59 %


def test_a_ratio_to_zero_is_not_available():
    stopped = method(1, serial=TimingResult(latency_s=0.0, throughput_per_s=0.0))
    assert math.isnan(comparisons(results(methods=[method(0), stopped]))[1].serial_speedup)
    rows = {row.label: row.values for part in sections(results(methods=[method(0), stopped])) for row in part.rows}
    assert rows["speedup, serial"] == ("1.00x", "n/a")


def test_headline_is_about_the_last_method():
    said = headline(results(methods=[method(0), method(0, name="other"), method(1)]))
    assert "prap runs resnet20 1.64x as fast as dense" in said.sentence
    assert "80.0 % of its energy" in said.sentence
    assert said.cards[0] == ("1.64x", "speedup, serial", "2.50 ms instead of 4.10 ms")
    assert said.cards[2] == (
        "3.00x",
        "throughput at equal crossbars",
        "pipelined, each with 140 crossbars; 2.90x per mm²",
    )
    assert said.cards[3] == ("1.25x", "energy gain", "80.0 µJ instead of 100 µJ")
    assert said.cards[4] == ("0.00 %", "area change", "2.13 mm² instead of 2.13 mm²")
    assert said.cards[5][0] == "-0.37 points"


def test_headline_says_so_when_a_method_is_slower():
    said = headline(results(methods=[method(1), method(0)]))
    assert said.cards[0] == ("0.610x", "speedup, serial", "4.10 ms instead of 2.50 ms")
    assert "0.610x as fast" in said.sentence
    assert "125 % of its energy" in said.sentence


def test_one_method_alone_is_not_compared():
    said = headline(results(methods=[method(0)]))
    assert "nothing to compare" in said.sentence
    assert said.cards[0][0] == "4.10 ms"


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
