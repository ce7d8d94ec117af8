"""From the first method to another, part by part: the parts add up."""

import pytest

from prap_pim.report.html.waterfall import steps, waterfall_charts
from tests.report.made_up import method, results


def test_steps_by_hand():
    before, after = {"ADC": 70.0, "DAC": 20.0, "bus": 10.0}, {"ADC": 40.0, "DAC": 25.0, "bus": 10.0, "index": 5.0}
    assert steps(before, after) == [("ADC", -30), ("DAC", 5), ("index", 5)]  # the bus did not change


def test_small_changes_are_summed_up_and_nothing_is_lost():
    before = {f"part{i}": 100.0 for i in range(20)} | {"a": 1.0, "b": 1.0}
    after = {f"part{i}": 100.0 - i for i in range(20)} | {"a": 1.5, "b": 0.9}
    found = dict(steps(before, after))
    assert len(found) == 15
    assert "7 others" in found  # a, b (below 0.2 % of 2002) and the five least of 1..19
    assert found["7 others"] == pytest.approx(0.5 - 0.1 - (1 + 2 + 3 + 4 + 5))
    assert list(found)[:2] == ["part6", "part7"]  # in their order
    assert sum(found.values()) == pytest.approx(sum(after.values()) - sum(before.values()))


def test_one_part_too_many_is_shown_by_its_name():
    before = {f"part{i}": 100.0 for i in range(15)}
    assert [name for name, _ in steps(before, {name: 50.0 for name in before})] == list(before)


def test_charts_begin_and_end_with_the_totals():
    charts = {chart.id: chart for chart in waterfall_charts(results())}
    assert list(charts) == ["energy-components", "latency-phases", "energy-layers", "latency-layers"]
    for id_, first, change in (
        ("energy-components", 100, -20),  # µJ
        ("latency-phases", 4.1, -1.6),  # ms
        ("energy-layers", 126, -63),  # µJ: 0.6 (1 + ... + 20)
        ("latency-layers", 420, -210),  # µs
    ):
        (choice,) = charts[id_].choices
        bars, texts = choice.data
        assert (bars["measure"][0], bars["measure"][-1]) == ("absolute", "total")
        assert set(bars["measure"][1:-1]) == {"relative"}
        assert bars["x"][0] == pytest.approx(first)
        assert sum(bars["x"][1:-1]) == pytest.approx(change)
        assert texts["x"][0] == pytest.approx(first)  # beside its bar
        assert texts["x"][-1] == pytest.approx(max(first + change, texts["x"][-1]))
    phases = charts["latency-phases"].choices[0].data[0]["hovertext"]
    assert phases == ["dense: 4.10 ms", "crossbars: −1.70 ms", "digital: +100 µs", "prap: 2.50 ms"]


def test_every_other_method_is_a_choice_and_one_alone_has_none():
    methods = [method(0), method(1), method(1, name="third")]
    assert [[each.label for each in chart.choices] for chart in waterfall_charts(results(methods=methods))] == [
        ["prap", "third"]
    ] * 4
    assert waterfall_charts(results(methods=[method(0)])) == []
    old = [method(0), method(1, serial_breakdown_s=None)]
    assert "latency-phases" not in [chart.id for chart in waterfall_charts(results(methods=old))]
