"""Runs side by side: what may be compared is said, what differs is named."""

import io

from rich.console import Console

from prap_pim.report.runs import HEADINGS, NamedRun, aspects, print_runs, render_runs, rows, verdict
from tests.report.made_up import EVIL, method, results


def two(**changes):
    return [NamedRun("runs/a", results()), NamedRun("runs/b", results(**changes))]


def test_runs_of_one_kind_can_be_compared():
    comparable, told = verdict(two(seed=5, command="another"))
    assert comparable
    assert told == "These runs are of the same chip, network and data: their figures can be compared."
    assert [aspect.label for aspect in aspects(two(seed=5)) if aspect.differs] == ["seed"]


def test_what_must_not_be_compared_is_named():
    other = results().chip.model_copy(update={"name": "other"})
    comparable, told = verdict(two(chip=other, data="CIFAR-10", network="vgg16"))
    assert not comparable
    assert told.startswith("These runs differ in chip, network and data: figures of different runs are not of the same")
    assert verdict(two(zero_input_skipping=True))[1].startswith("These runs differ in zero-input skipping:")
    assert not verdict(two(images={"test": 1}))[0]


def test_chips_of_one_name_and_other_figures_differ():
    chip = results().chip
    dearer = chip.figures[0].model_copy(update={"value": 1.0})
    runs = two(chip=chip.model_copy(update={"figures": [dearer, *chip.figures[1:]]}))
    assert aspects(runs)[0].values == ("digits-128", "digits-128, with other figures (2)")
    assert not verdict(runs)[0]
    alike = chip.model_copy(update={"cells_per_crossbar": None, "warnings": ["one"]})  # of an earlier version
    assert verdict(two(chip=alike))[0]


def test_every_method_of_every_run_has_a_row():
    """Gains over the first method of the same run: 4.1/2.5, 0.9/0.6, 100/80, 12000/4000."""
    found = rows(two(methods=[method(1), method(0)]))
    assert [(run, name) for run, name, _ in found] == [
        *(("runs/a", "dense"), ("runs/a", "prap"), ("runs/b", "prap"), ("runs/b", "dense")),
    ]
    cells = dict(zip(HEADINGS, (text for text, _ in found[1][2]), strict=True))
    assert cells == {
        "accuracy": "97.22 %",
        "compute ratio": "0.250",
        "latency, serial": "2.50 ms",
        "latency, pipelined": "600 µs",
        "throughput, pipelined": "7,000 /s",
        "energy": "80.0 µJ",
        "area": "2.13 mm²",
        "speedup, serial": "1.64x",
        "speedup, pipelined": "1.50x",
        "energy gain": "1.25x",
        "throughput gain, equal crossbars": "3.00x",
    }
    assert found[3][2][7][0] == "0.610x"


def test_the_terminal_tells_the_same():
    stream = io.StringIO()
    print_runs(two(seed=5, name="x\x1b[2J", command="\x1b]0;x\x07"), Console(file=stream, width=80))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "seed:\n  runs/a: 20231126\n  runs/b: 5" in text
    lines = [line.split() for line in text.splitlines()]
    assert (
        lines.count(["prap", *["97.22", "%", "2.50", "ms", "600", "µs", "80.0", "µJ", "2.13", "mm²", "1.64x", "1.25x"]])
        == 2
    )


def test_names_on_the_page_are_text():
    page = render_runs([NamedRun(EVIL[0], results()), NamedRun(EVIL[1], results(data=EVIL[0], command=EVIL[1]))])
    assert "<script>alert" not in page
    assert "<img" not in page
    assert len(page.encode()) < 6_000_000
    assert "These runs differ in data" in page
