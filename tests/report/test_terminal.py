import io
import re

from rich.console import Console

from prap_pim.report.terminal.run import print_results
from prap_pim.results.run import CheckResult, OutputCheck
from tests.report.made_up import layer, method, results, simulation


def printed(given, width=100):
    stream = io.StringIO()
    print_results(given, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def row(text, label):
    """Cells of the first row with this label; cells stand at least two spaces apart."""
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith(label + "  "))
    return re.split(r" {2,}", line)[1:]


def test_every_figure_has_its_unit():
    text = printed(results())
    assert row(text, "float network") == ["97.96 %", "97.96 %"]
    assert row(text, "compressed") == ["97.78 %", "97.41 %"]
    assert row(text, "bit-true int8") == ["97.59 %", "97.22 %"]
    assert row(text, "compute ratio") == ["1.00", "0.250"]
    assert row(text, "OU steps") == ["12,345,678", "3,086,420"]
    assert row(text, "crossbars") == ["134", "134"]
    assert row(text, "area") == ["2.13 mm²", "2.13 mm²"]
    assert row(text, "latency, serial") == ["4.10 ms", "2.50 ms"]
    assert row(text, "latency, pipelined") == ["900 µs", "600 µs"]
    assert row(text, "throughput, serial") == ["244 /s", "400 /s"]
    assert row(text, "throughput, pipelined") == ["4,000 /s", "7,000 /s"]
    assert row(text, "energy, without leakage") == ["100 µJ", "80.0 µJ"]
    assert row(text, "throughput gain per area") == ["1.00x", "2.90x"]  # 12000 / 4000 * 2.13 / 2.2
    assert row(text, "speedup, serial") == ["1.00x", "1.64x"]
    assert row(text, "energy gain") == ["1.00x", "1.25x"]
    assert "2,621,440 integers compared with the integer matmul, 0 mismatches" in text.splitlines()


def test_nine_methods_fit_a_hundred_columns_and_all_are_shown():
    names = ["dense", "structured", "orc", "pattern", "identical", "similar", "structured+identical", "prap", "mine"]
    text = printed(results(methods=[method(i % 2, name=name) for i, name in enumerate(names)]))
    assert max(map(len, text.splitlines())) <= 100
    summary = text.index("Gains over dense")
    heads = [line.split() for line in text[:summary].splitlines() if line.split()[:1] == ["dense"]]
    assert len(heads) > 1
    assert [name for head in heads for name in head[1:]] == names[1:]  # and dense in front of each
    steps = [line.split()[2:] for line in text.splitlines() if line.strip().startswith("OU steps")]
    for head, cells in zip(heads, steps, strict=True):
        assert cells == [("12,345,678", "3,086,420")[names.index(name) % 2] for name in head]  # no cell is cut
    assert text.count("Time and energy of one inference") == len(heads)  # nor a label


def test_mismatches_are_told():
    wrong = method(1, layers=[layer("conv", 0, 1, mismatches=3)])
    assert "65,536 integers compared with the integer matmul, 3 mismatches" in printed(
        results(methods=[method(0, layers=[]), wrong])
    )


def test_images_that_went_through_every_cell_and_sums_that_overflowed_are_counted():
    narrow = layer("conv", 0, 1).model_copy(update={"overflows": 1234})
    text = printed(results(methods=[method(0, checked_images=50), method(1, checked_images=50, layers=[narrow])]))
    assert "0 mismatches; 50 of 360 test images of each method went through every cell" in " ".join(text.split())
    assert "1,234 sums did not fit their registers (prap, conv: 1,234)" in text.splitlines()
    assert "registers" not in printed(results())


def test_simulations_are_shown_with_their_settings_and_sources():
    text = printed(results(simulations=[simulation()]))
    assert "Accuracy under device effects: noisy" in text
    assert "40 test images on 3 devices (seed 5)" in text
    assert row(text, "adc_bits") == ["6", "chip digits-128"]
    assert row(text[text.index("exact") :], "dense")[-6:] == ["95.00 %", "80.00 %", "10.00 %", "70.00 %", "3", "0"]
    assert "Accuracy under" not in printed(results())
    fixed = simulation(points=[simulation().points[1]])
    assert "measured once: nothing is random" in printed(results(simulations=[fixed]))


def test_a_run_that_measured_no_accuracy_and_proved_nothing_says_so():
    bare = [method(i, compressed_accuracy=None, bit_true_accuracy=None, layers=[]) for i in (0, 1)]
    text = printed(results(methods=bare, float_accuracy=None, weights="random (seed 0)"))
    assert "accuracy was not measured; weights: random (seed 0)" in text
    assert "no integers were compared: this run checks nothing" in text
    assert "mismatches" not in text


def test_warnings_about_the_chip_are_shown():
    chip = results().chip.model_copy(update={"warnings": ["an ADC of 3 bits cannot count 8 rows"]})
    assert "warning: an ADC of 3 bits cannot count 8 rows" in printed(results(chip=chip))
    assert "warning" not in printed(results())


def test_a_method_of_more_ou_steps_than_dense_is_warned_of():
    given = results()
    layers = [given.methods[1].layers[0].model_copy(update={"ou_steps": 25_000}), given.methods[1].layers[1]]
    slow = given.methods[1].model_copy(update={"layers": layers})  # 25,000 + 20,000 of 20,000 + 40,000: less than dense
    assert "times the OU steps" not in printed(given.model_copy(update={"methods": [given.methods[0], slow]}))
    slow = slow.model_copy(update={"layers": [layers[0].model_copy(update={"ou_steps": 45_000}), layers[1]]})
    text = " ".join(printed(given.model_copy(update={"methods": [given.methods[0], slow]})).split())
    assert "warning: prap takes 1.083 times the OU steps of dense: 1 of 2 layers take more" in text
    assert "2.25 times as many" in text


def test_methods_that_change_too_much_are_warned_of():
    given = results()
    check = CheckResult(
        inputs=8, held_back=True, outputs=[OutputCheck(name="0", sqnr_db=1.0, changed=0.5)], worst={"conv": 0.9}
    )
    methods = [given.methods[0], given.methods[1].model_copy(update={"check": check}), *given.methods[2:]]
    warned = given.model_copy(update={"methods": methods})
    text = " ".join(printed(warned).split())
    assert f"warning: {methods[1].name}: too much of output 0 has changed" in text
    assert "most is lost in conv (90.0%)" in text
    assert "too much of output" not in printed(given)
    trained = methods[1].model_copy(update={"check": check.model_copy(update={"worst": {}})})
    assert "too much of output" not in printed(given.model_copy(update={"methods": [methods[0], trained]}))
    assert "too much of output" not in printed(warned.model_copy(update={"float_accuracy": None}))


def test_a_name_is_neither_markup_nor_a_terminal_command():
    text = printed(results(name="[red]x[/red]\x1b[2J", methods=[method(0, name="[b]m\x07[/b]"), method(1)]))
    assert "[red]x[/red]\N{REPLACEMENT CHARACTER}[2J" in text
    assert "[b]m\N{REPLACEMENT CHARACTER}[/b]" in text
    assert "\x1b" not in text


def test_many_methods_end_with_a_line_each():
    """Gains by hand: 4.1/2.5, 0.9/0.6, 100/80; at the budget 12000/4000 inferences a second."""
    three = [method(0), method(1), method(1, name="third", bit_true_accuracy=None)]
    text = printed(results(methods=three), width=80)
    summary = text[text.index("Gains over dense") :]
    assert row(summary, "prap") == ["97.22 %", "0.250", "1.64x", "1.50x", "1.25x", "3.00x"]
    assert row(summary, "third")[:2] == ["not measured", "0.250"]
    assert "Gains over dense" not in printed(results())
