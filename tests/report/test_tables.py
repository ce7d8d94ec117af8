"""Tables at any width: their words and numbers are those of an endless line, and no line is too long."""

import io
import re

import pytest
from rich.console import Console

from prap_pim.report.runs import NamedRun
from prap_pim.report.terminal.gains import print_gains
from prap_pim.report.terminal.run import print_results
from prap_pim.report.terminal.runs import print_runs
from prap_pim.report.terminal.study import print_study
from prap_pim.report.terminal.tables import print_table
from prap_pim.results.run import AllocationResult, CalibrationResult, Gain
from tests.report.made_up import LAYERS, method, results, simulation
from tests.report.test_figures import study

NAMES = ["dense", "structured", "orc", "pattern", "identical", "similar", "structured+identical", "prap"]
CALIBRATION = CalibrationResult(
    inputs=100,
    changed=0.01,
    limit=0.001,
    layers=[
        AllocationResult(name=name, sensitivity_nats=0.0123, donors=4, kept_positions=4, output_error=0.1234)
        for name in LAYERS
    ],
)
EIGHT = results(
    methods=[
        method(i % 2, name=name, calibration=CALIBRATION if name == "similar" else None) for i, name in enumerate(NAMES)
    ],
    simulations=[
        simulation(points=[p.model_copy(update={"method": name}) for name in NAMES for p in simulation().points[:2]])
    ],
)
GAINS = {name: Gain(speedup=1.2345 + i, energy_gain=11.5 + i) for i, name in enumerate(NAMES)}
PRINTED = {
    "results": lambda console: print_results(EIGHT, console, details=True),
    "runs": lambda console: print_runs([NamedRun("one", EIGHT), NamedRun("two", results(seed=5))], console),
    "study": lambda console: print_study(study(), console),
    "gains": lambda console: print_gains("gains of all", GAINS, GAINS, "by ratios", console),
}


def printed(what, width):
    stream = io.StringIO()
    what(Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def words(text):
    return {word.strip(":;,") for word in text.split() if set(word) != {"─"}}


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("what", PRINTED)
def test_no_word_is_broken_for_want_of_room(what, width):
    endless, narrow = (printed(PRINTED[what], columns) for columns in (10_000, width))
    assert max(map(len, narrow.splitlines())) <= width
    fragments = words(narrow) - words(endless) - words("no room for a wider terminal shows all")
    assert {
        word for word in fragments if len(word) < width - 4
    } == set()  # the name of a layer may be longer than a line


def test_no_number_is_lost_from_a_narrow_terminal():
    """Each with its unit beside it."""
    quantities = re.compile(r"\d[\d,.]*(?: ?(?:%|[mµn]?s|[mµn]?J|mm²|[kM]?B|/s)|x)(?=\s)")
    endless, narrow = (set(quantities.findall(printed(PRINTED["results"], width))) for width in (10_000, 40))
    assert len(endless) >= 50
    assert narrow == endless


HEADS = ("layer", "rows", "OU steps\nof dense", "note")
ROWS = [("conv1", "1,024", "0.125", "some words about it"), ("a.longer.name", "7", "12.5", "")]


def table(width, **how):
    lines = printed(lambda console: print_table(console, HEADS, ROWS, **how), width).splitlines()
    return [line.rstrip() for line in lines]


def test_a_table_with_room_is_a_table():
    assert table(80, title="T", texts=[3]) == [
        "T",
        "                      OU steps",
        "layer           rows  of dense  note",
        "─" * 51,
        "conv1          1,024     0.125  some words about it",
        "a.longer.name      7      12.5",
    ]


def test_columns_that_may_be_left_out_are_and_a_line_says_so():
    assert table(51, texts=[3], spare=[3, 1]) == table(80, texts=[3])
    assert table(50, texts=[3], spare=[3, 1])[1:] == [
        "layer           rows  of dense",
        "─" * 30,
        "conv1          1,024     0.125",
        "a.longer.name      7      12.5",
        "no room for: note; a wider terminal shows all",
    ]
    assert " ".join(table(29, texts=[3], spare=[3, 1])[-2:]) == "no room for: rows, note; a wider terminal shows all"


def test_what_has_no_room_has_a_line_for_each_value():
    assert table(40, texts=[3]) == [
        "layer conv1",
        "  rows                             1,024",
        "  OU steps of dense                0.125",
        "  note               some words about it",
        "layer a.longer.name",
        "  rows                  7",
        "  OU steps of dense  12.5",
    ]
    assert table(22, texts=[3])[:7] == [
        "layer conv1",
        "  rows:",
        "    1,024",
        "  OU steps of dense:",
        "    0.125",
        "  note:",
        "    some words about",
    ]


def test_names_are_no_commands_to_the_terminal():
    text = printed(lambda console: print_table(console, ("[b]a[/b]", "b"), [("[red]\x1b[2J", "1")], "[i]t"), 60)
    assert "[i]t" in text
    assert "[b]a[/b]" in text
    assert "[red]\N{REPLACEMENT CHARACTER}[2J" in text
