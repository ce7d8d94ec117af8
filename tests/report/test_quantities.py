import math

import pytest

from prap_pim.report.quantities import (
    count,
    difference,
    given,
    percent,
    points,
    quantity,
    relative,
    scale,
    significant,
    times,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0012345, "s", "1.23 ms"),
        (2.5e-3, "s", "2.50 ms"),
        (1.0, "s", "1.00 s"),
        (0.9996, "s", "1.00 s"),  # not 1000 ms
        (999.4e-6, "s", "999 µs"),
        (1e-6, "J", "1.00 µJ"),
        (4.28e-12, "J", "4.28 pJ"),
        (0.5e-15, "J", "0.500 fJ"),
        (2_000, "Hz", "2.00 kHz"),
        (-3e-3, "s", "−3.00 ms"),
        (0.0, "J", "0 J"),
        (2.13e-6, "m2", "2.13 mm²"),  # a square millimetre is 1e-6 m2
        (5e-8, "m2", "0.0500 mm²"),
        (25e-12, "m2", "25.0 µm²"),
        (4.28e-12, "J/access", "4.28 pJ/access"),
        (math.nan, "s", "n/a s"),
        (6.0, "bits", "6.00 bits"),  # takes no prefix
        (3e-12, "parsec", "3.00e-12 parsec"),
    ],
)
def test_quantity(value, unit, text):
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2e-3, "W", "2 mW"),
        (6.0, "bits", "6 bits"),
        (0.535e-12, "J", "535 fJ"),
        (0.833, "ns", "0.833 ns"),
        (1.28e9, "Hz", "1.28 GHz"),
        (8.0, "", "8"),
        (1200e-12, "m2", "1,200 µm²"),
        (-0.5, "V", "−500 mV"),
    ],
)
def test_a_sourced_figure_gains_no_digits(value, unit, text):
    assert given(value, unit) == text


def test_plain_numbers():
    assert significant(1.499) == "1.50"
    assert significant(12_345) == "12,300"
    assert significant(0.00123456) == "0.00123"
    assert count(12_345_678) == "12,345,678"
    assert percent(0.97777) == "97.78 %"
    assert points(-0.0037) == "−0.37 points"
    assert points(0.01) == "+1.00 points"
    assert points(-1e-9) == "0.00 points"
    assert relative(-0.125) == "−12.50 %"
    assert relative(math.nan) == "n/a %"
    assert difference(2e-3, "J") == "+2.00 mJ"
    assert difference(-2e-3, "J") == "−2.00 mJ"
    assert difference(0.0, "J") == "0 J"
    assert times(1.64) == "1.64x"
    assert times(math.nan) == "n/a"


def test_one_scale_for_an_axis_is_that_of_its_largest_value():
    chosen = scale([2e-6, 3e-3], "s")
    assert (chosen.unit, chosen.factor) == ("ms", 1e3)
    assert scale([0.0], "J").unit == "J"
