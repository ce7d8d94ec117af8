"""Figures for papers: one table behind all formats, LaTeX that prints any name, drawings of the same values."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from pyarrow import parquet

from prap_pim.__main__ import main
from prap_pim.common.errors import UserError
from prap_pim.report.figure_names import FIGURES, FORMATS, OF_STUDIES
from prap_pim.report.figures import _drawing, figure_table, study_table, write_figure
from prap_pim.report.figures.draw import against_compute, bars, front, per_layer, render, stacked, under_noise
from prap_pim.report.figures.table import escape_tex
from prap_pim.results.study import StudyResults, TrialResult
from tests.report.made_up import LAYERS, layer, method, results, simulation

EVERYTHING = results(simulations=[simulation()])


def study(**changes):
    """By hand: two trials on the front, one behind it, one too slow, one without figures, one without all of them."""
    figures = [(0.9, 1e-3, 2e-6), (0.95, 2e-3, 3e-6), (0.89, 2e-3, 3e-6), (0.99, 9e-3, 3e-6)]
    names = ("bit_true_accuracy", "pipelined.latency_s", "energy_j")
    trials = [
        TrialResult(
            number=i,
            values={"chip.adc_bits": i},
            figures=dict(zip(names, each, strict=True)),
            violation={"pipelined.latency_s": each[1] / 5e-3 - 1},
        )
        for i, each in enumerate(figures)
    ]
    trials += [
        TrialResult(number=4, values={}, reason="this chip cannot be"),
        TrialResult(number=5, values={}, figures=dict(zip(names, (0.9, None, 1e-6), strict=True))),
    ]
    values = {
        "name": "made up",
        "command": "prap-pim explore made-up.yaml",
        "seed": 1,
        "sampler": "grid",
        "versions": {},
        "objectives": dict(zip(names, ("maximize", "minimize", "minimize"), strict=True)),
        "constraints": {"pipelined.latency_s": "<= 0.005"},
        "space": {"chip.adc_bits": "0..5"},
        "trials": trials,
        "front": [0, 1],
    }
    return StudyResults(**(values | changes))


def table(name, *runs, methods=()):
    if name in OF_STUDIES:
        return study_table(name, study())
    runs = runs or (EVERYTHING,)
    folders = [Path(f"runs/{i}") for i in range(len(runs))]
    return figure_table(name, folders, runs, methods)


def written(name, form, folder, **how):
    path = folder / f"figure.{form}"
    write_figure(name, table(name, **how), path, form)
    return path.read_bytes()


@pytest.fixture
def run(tmp_path):
    """The folder of a run, as far as a figure is concerned."""
    folder = tmp_path / "run"
    EVERYTHING.save(folder / "results.json")
    return folder


def test_gains_by_hand():
    dense, prap = table("speedup").records()
    assert dense["reference"] == prap["reference"] == "dense"
    assert (dense["serial_speedup"], dense["pipelined_speedup"]) == (1.0, 1.0)
    assert prap["serial_speedup"] == pytest.approx(4.1 / 2.5)
    assert prap["pipelined_speedup"] == pytest.approx(0.9 / 0.6)
    assert prap["throughput_gain_at_budget"] == pytest.approx(12000 / 4000)
    assert prap["throughput_gain_per_area_at_budget"] == pytest.approx(12000 / 4000 * 2.13 / 2.2)
    assert table("energy").records()[1]["energy_gain"] == pytest.approx(100 / 80)
    turned = table("speedup", methods=["prap", "dense"]).records()
    assert [row["method"] for row in turned] == ["prap", "dense"]
    assert turned[1]["serial_speedup"] == pytest.approx(2.5 / 4.1)


def test_what_is_not_there_is_empty_and_not_a_number(tmp_path):
    idle = method(1).model_dump() | {"serial": {"latency_s": 0.0, "throughput_per_s": 0.0}}
    free = table("speedup", results(methods=[method(0), type(method(1))(**idle)]))
    assert free.records()[1]["serial_speedup"] is None
    write_figure("speedup", free, tmp_path / "a.tex", "tex")
    assert " & -- & " in (tmp_path / "a.tex").read_text()
    write_figure("speedup", free, tmp_path / "a.csv", "csv")
    assert list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))[1]["serial_speedup"] == ""
    write_figure("speedup", free, tmp_path / "a.pdf", "pdf")


def test_sums_and_layers():
    parts = table("breakdown").records()
    assert sum(row["energy_j"] for row in parts if row["method"] == "prap") == pytest.approx(80e-6)
    assert sum(row["energy_share"] for row in parts if row["method"] == "prap") == pytest.approx(1)
    assert [row["component"] for row in parts[:4]] == ["ADC", "input register", "DAC", "crossbar"]
    steps = table("layer-steps").records()
    assert [row["layer"] for row in steps] == [*LAYERS, *LAYERS]
    assert [row["ou_steps"] for row in steps[20:22]] == [10_000, 20_000]


@pytest.mark.parametrize("name", FIGURES)
def test_all_formats_tell_the_same(name, tmp_path):
    made = table(name)
    rows = made.records()
    assert rows
    read = parquet.read_table(io.BytesIO(written(name, "parquet", tmp_path)))
    assert read.to_pylist() == rows
    assert [field.metadata[b"unit"].decode() for field in read.schema] == [column.unit for column in made.columns]
    lines = list(csv.DictReader(io.StringIO(written(name, "csv", tmp_path).decode(), newline="")))
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows] == lines
    tex = written(name, "tex", tmp_path).decode()
    body = tex[tex.index("\\midrule\n") + 9 : tex.index("\\bottomrule")].splitlines()
    heads = tex[tex.index("\\toprule\n") + 9 : tex.index("\\midrule")].strip().removesuffix(r" \\").split(" & ")
    assert len(body) == len(rows)
    shown = [column for column in made.columns if column.name not in made.hidden]
    for line, row in zip(body, rows, strict=True):
        assert line.endswith(r" \\")
        for column, head, cell in zip(shown, heads, line[:-3].split(" & "), strict=True):
            value = row[column.name]
            if isinstance(value, str):
                assert read_tex(cell) == value.replace("\u2028", "?")
            elif value is None:
                assert cell == "--"
            else:
                unit = read_tex(head).rpartition(" / ")[2] if " / " in head else ""
                factor = {"": 1, "%": 100, "ms": 1e3, "µs": 1e6, "µJ": 1e6, "mm²": 1e6}[unit]
                assert float(cell.replace(",", "").removesuffix("x")) == pytest.approx(value * factor, rel=5e-3)


TEX = {  # from the manual, "The Not So Short Introduction to LaTeX 2e", and latex's fontenc tables
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textquotedblright{}": '"',
    r"\textquotesingle{}": "'",
    r"\textasciigrave{}": "`",
    r"\textmu{}": "µ",
    r"\textsuperscript{2}": "²",
    "{}": "",
    "{[}": "[",
    "{*}": "*",
    **{f"\\{c}": c for c in "&%$#_{}"},
}
TOKEN = re.compile("|".join(re.escape(macro) for macro in sorted(TEX, key=len, reverse=True)) + "|(.)", re.DOTALL)


def read_tex(text):
    """What LaTeX prints; fails on a character that it would not print as it is."""

    def token(match):
        plain = match.group(1)
        if plain is None:
            return TEX[match.group(0)]
        assert plain not in '\\&%$#_{}~^<>|"`[*\n', (plain, text)
        return plain

    assert "--" not in text
    assert ",," not in text
    return TOKEN.sub(token, text)


@pytest.mark.parametrize(
    "name", [*map(chr, range(32, 127)), "µ", "²", "---", ",,,", "?`", "!`", "<<>>", r"\\[1ex]", "é"]
)
def test_latex_prints_every_character(name):
    assert read_tex(escape_tex(f"a{name}b")) == f"a{name}b"
    assert read_tex(escape_tex(name)) == name


@given(st.text())
def test_latex_prints_any_name(name):
    assert read_tex(escape_tex(name)) == "".join(c if c.isprintable() and c != "\ufffd" else "?" for c in name)


LATEX = shutil.which("pdflatex")


@pytest.mark.flow
@pytest.mark.skipif(LATEX is None, reason="needs pdflatex")
def test_latex_takes_every_table(tmp_path):
    """With no package but those that the table's first line names, whatever the names in it are."""
    evil = ["Zürich é", "a_b%c&d#e$f{g}h~i^j\\k", "[x]*|<y>", '"q"\'`--,,', *map(chr, range(33, 127)), "µ²"]
    methods = [method(i % 2, name=f"{name}{i}", layers=[layer(name, 0, 0)]) for i, name in enumerate(evil)]
    names = [name for name in FIGURES if name != "pareto"]
    packages = set()
    for name in names:
        write_figure(
            name,
            table(
                name,
                results(methods=methods, simulations=[simulation(name="50% & #1")]) if name != "noise" else EVERYTHING,
            ),
            tmp_path / f"{name}.tex",
            "tex",
        )
        first, rest = (tmp_path / f"{name}.tex").read_text().split("\n", 1)
        packages |= set(re.findall(r"\\usepackage\{(\w+)\}", first))
        assert first.startswith("% ")
        assert rest.startswith("\\begin{tabular}")
    lines = [r"\documentclass{article}", r"\begin{document}", *(f"\\input{{{name}}}\\par" for name in names)]
    lines[1:1] = [f"\\usepackage{{{package}}}" for package in sorted(packages)]
    (tmp_path / "all.tex").write_text("\n".join([*lines, r"\end{document}"]))
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert told.returncode == 0, told.stdout[-2000:]
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


def test_latex_is_told_of_letters_that_it_lacks(tmp_path):
    def first(name):
        write_figure("energy", table("energy", results(methods=[method(0, name=name)])), tmp_path / "a.tex", "tex")
        return (tmp_path / "a.tex").read_text().splitlines()[0]

    assert first("Zürich µ²").endswith("Needs \\usepackage{booktabs}.")
    assert first("重み").endswith("Needs \\usepackage{booktabs}; XeLaTeX or LuaLaTeX and a font that has all letters.")


def drawn(drawer, made):
    figure = Figure(figsize=(3.5, 2))
    drawer(figure, made)
    return figure.axes[0]


def test_bars_are_as_long_as_the_table_says():
    axes = drawn(bars("serial_speedup", "pipelined_speedup", axis="gain over {reference}", line=1.0), table("speedup"))
    lengths = [[bar.get_width() for bar in group] for group in axes.containers]
    assert lengths == [pytest.approx([1, 1.64]), pytest.approx([1, 1.5])]
    assert [text.get_text() for text in axes.texts] == ["1.00x", "1.64x", "1.00x", "1.50x"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dense", "prap"]
    assert axes.get_xlabel() == "gain over dense"
    faces = {group[0].get_facecolor() for group in axes.containers}
    hatches = {group[0].get_hatch() for group in axes.containers}
    assert len(faces) == len(hatches) == 2  # either tells them apart
    energy = drawn(bars("energy_j", axis="energy", note="energy_gain"), table("energy"))
    assert energy.get_xlabel() == "energy / µJ"
    assert [bar.get_width() for bar in energy.containers[0]] == pytest.approx([100, 80])
    assert [text.get_text() for text in energy.texts] == ["100 µJ  (1.00x)", "80.0 µJ  (1.25x)"]


def test_stacked_parts_make_up_the_whole():
    parts = {"ADC": 70e-6, "one": 1e-6, "two": 1e-6, "rest": 28e-6}
    axes = drawn(
        stacked("component", "energy_j"), table("breakdown", results(methods=[method(0, energy_breakdown_j=parts)]))
    )
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["ADC", "rest", "2 smaller ones"]
    ends = [group[0].get_x() + group[0].get_width() for group in axes.containers]
    assert ends == pytest.approx([70, 98, 100])
    assert [text.get_text() for text in axes.texts] == ["100 µJ"]


def many(layers, spread, methods=8, **changes):
    """Layers whose energies lie ``spread`` apart from the first to the last, under methods that save more and more."""

    def of(m):
        each = [layer(f"stage{j}.block1.shortcut.conv", j, 1) for j in range(layers)]
        joules = [spread ** (j / (layers - 1)) / (1 + m) * 1e-6 for j in range(layers)]
        return [one.model_copy(update={"energy_j": joule}) for one, joule in zip(each, joules, strict=True)]

    names = ["dense", "structured", "orc", "pattern", "identical", "similar", "structured+identical", "prap"]
    return results(methods=[method(m % 2, name=names[m], layers=of(m), **changes) for m in range(methods)])


def test_layers_that_span_decades_are_marks_on_a_logarithmic_axis():
    figure = Figure(figsize=(3.5, 2))
    per_layer("energy_j")(figure, table("layer-energy", many(21, 1e4)))
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert len(axes.lines) == 8
    assert len({line.get_marker() for line in axes.lines}) == 8
    assert list(axes.lines[7].get_xdata()) == pytest.approx([1e4 ** (j / 20) / 8 * 1e-3 for j in range(21)])  # mJ
    assert [round(y) for y in axes.lines[7].get_ydata()] == list(range(21))  # each in the row of its layer
    assert len({line.get_ydata()[0] for line in axes.lines}) == 8  # and beside one another
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert (len(named), named[20]) == (21, "stage20.block1.shortcut.conv")


def test_layers_that_do_not_are_bars_from_zero_where_there_is_room():
    for width, sizes in ((3.5, "get_width"), (7.16, "get_height")):
        figure = Figure(figsize=(width, 2))
        per_layer("energy_j")(figure, table("layer-energy", many(3, 2, methods=2)))
        found = [[getattr(bar, sizes)() for bar in group] for group in figure.axes[0].containers]
        assert found == [pytest.approx([1, 2**0.5, 2]), pytest.approx([0.5, 2**0.5 / 2, 1])]  # uJ
    per_layer("energy_j")(figure := Figure(figsize=(3.5, 2)), table("layer-energy", many(50, 2)))
    assert (figure.axes[0].containers, figure.axes[0].get_xscale(), len(figure.axes[0].lines)) == ([], "linear", 8)


def test_a_layer_that_takes_nothing_is_at_the_edge_of_a_logarithmic_axis():
    nothing = many(5, 1e4, methods=1)
    nothing.methods[0].layers[2] = layer("no", 0, 0).model_copy(update={"energy_j": 0.0})
    axes = drawn(per_layer("energy_j"), table("layer-energy", nothing))
    assert axes.lines[0].get_xdata()[2] == axes.get_xlim()[0]
    assert axes.get_xlabel() == "energy / mJ (0: at the edge)"


def test_gains_that_span_decades_begin_at_one_on_a_logarithmic_axis():
    fast = method(1, serial=method(1).serial.model_copy(update={"latency_s": 4.1e-5}))
    slow = method(1, name="slow", serial=method(1).serial.model_copy(update={"latency_s": 8.2e-3}))
    axes = drawn(bars("serial_speedup", axis="x", line=1.0), table("speedup", results(methods=[method(0), fast, slow])))
    assert axes.get_xscale() == "log"
    assert [(bar.get_x(), bar.get_width()) for bar in axes.containers[0]] == [
        pytest.approx(each) for each in ((1, 0), (1, 99), (1, -0.5))
    ]
    assert [text.get_text() for text in axes.texts] == ["1.00x", "100x", "0.500x"]


def test_energies_that_span_decades_are_marks_or_shares():
    far = results(methods=[method(0), method(1, energy_j=1e-6, energy_breakdown_j={"adc": 0.6e-6, "dac": 0.4e-6})])
    axes = drawn(bars("energy_j", axis="energy"), table("energy", far))
    assert (axes.get_xscale(), axes.containers) == ("log", [])
    assert list(axes.lines[0].get_xdata()) == pytest.approx([100, 1])
    axes = drawn(stacked("component", "energy_j"), table("breakdown", far))
    ends = [group[1].get_x() + group[1].get_width() for group in axes.containers if group[1].get_width()]
    assert ends == pytest.approx([60, 100])
    assert axes.get_xlabel() == "share of the energy / %"
    assert [text.get_text() for text in axes.texts] == ["100 µJ", "1.00 µJ"]


def test_components_have_the_names_of_the_field():
    parts = {"adc": 5e-6, "sample_and_hold": 2e-6, "shift_add": 2e-6, "partial_sum_buffer": 1e-6}
    rows = table("breakdown", results(methods=[method(0, energy_breakdown_j=parts)])).records()
    assert [row["component"] for row in rows] == ["ADC", "sample and hold", "shift and add", "partial sum buffer"]


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("name", FIGURES)
def test_all_letters_are_seven_points_high_and_on_the_paper(name, width, monkeypatch):
    """Where a column has 3.5 inches and the text of a page 7: also with eight methods, 21 layers, 4 decades."""
    largest = many(21, 1e4).model_copy(update={"simulations": EVERYTHING.simulations})
    made = table(name) if name in OF_STUDIES else table(name, EVERYTHING if name == "noise" else largest)
    figures = []
    drawer, _ = _drawing(name)
    render(lambda figure, given: (figures.append(figure), drawer(figure, given)), made, "pdf", width)
    (figure,) = figures
    placed = {"column": 3.5, "page": 7.0}[width] / figure.get_figwidth()
    texts, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (texts.append(text), draw(text, renderer)))
    figure.draw_without_rendering()
    texts = [text for text in texts if text.get_text().strip()]
    assert len(texts) > 5
    box = figure.bbox
    for text in texts:
        assert text.get_fontsize() * placed >= 7, text
        seen = text.get_window_extent()
        assert seen.x0 >= box.x0 - 1, text
        assert seen.x1 <= box.x1 + 1, text
        assert seen.y0 >= box.y0 - 1, text
        assert seen.y1 <= box.y1 + 1, text


def test_a_studys_front_is_told_from_what_is_behind_it():
    made = table("pareto")
    states = ["on the front", "on the front", "dominated", "misses a constraint"]
    assert [(row["trial"], row["state"]) for row in made.records()] == list(enumerate(states))
    assert [row["pipelined.latency_s"] for row in made.records()] == [1e-3, 2e-3, 2e-3, 9e-3]
    figure = Figure()
    front(figure, made)
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == [
        ("latency / ms", "accuracy / %"),
        ("energy / µJ", "accuracy / %"),
    ]
    missed, behind, best = (each.get_offsets().tolist() for each in figure.axes[0].collections)
    assert missed == [pytest.approx([9, 99])]
    assert behind == [pytest.approx([2, 89])]
    assert best == [pytest.approx([1, 90]), pytest.approx([2, 95])]
    with pytest.raises(UserError, match="has one objective"):
        study_table("pareto", study(objectives={"energy_j": "minimize"}))
    with pytest.raises(UserError, match="no trial of the study made up has figures"):
        study_table("pareto", study(trials=[TrialResult(number=0, values={}, reason="no")], front=[]))


def test_a_front_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study().save(tmp_path / "found" / "study.json")
    assert main(["plot", "found", "--figure", "pareto", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 4
    assert (tmp_path / "pareto.pdf").read_bytes().startswith(b"%PDF")
    for more in (["found"], ["--methods", "prap"]):
        assert main(["plot", "found", *more, "--figure", "pareto"]) == 2
        assert "shows one study" in capsys.readouterr().err


def test_methods_whose_long_names_look_alike_stay_apart():
    names = [f"a long name of a method, number {i}, that goes on" for i in range(2)]
    axes = drawn(
        stacked("component", "energy_j"),
        table("breakdown", results(methods=[method(i, name=names[i]) for i in (0, 1)])),
    )
    assert [len(group) for group in axes.containers] == [2] * len(axes.containers)


def test_accuracy_against_compute_of_several_runs():
    """Two seeds at one share, near enough; the mean of 0.9 and 0.8 by hand. A share in the name is no other series."""
    kept = [("mine-1of8", 0.1249, 0.9), ("mine-1of8", 0.1251, 0.8), ("mine-1of2", 0.5, 0.95)]
    runs = [
        results(name=f"seed {i}", methods=[method(1, name=name, compute_ratio=ratio, bit_true_accuracy=accuracy)])
        for i, (name, ratio, accuracy) in enumerate(kept)
    ]
    made = table("accuracy", *runs)
    assert [row["series"] for row in made.records()] == ["mine"] * 3
    axes = drawn(against_compute, made)
    points, line, floating = axes.lines
    assert list(points.get_ydata()) == pytest.approx([90, 80, 95])
    assert list(line.get_xdata()) == pytest.approx([0.125, 0.5])
    assert list(line.get_ydata()) == pytest.approx([85, 95])
    assert floating.get_ydata()[0] == pytest.approx(97.96)
    assert axes.get_ylabel() == "accuracy, bit-true / %"
    unproven = [method(i, bit_true_accuracy=None) for i in (0, 1)]
    assert (
        drawn(against_compute, table("accuracy", results(methods=unproven))).get_ylabel() == "accuracy, compressed / %"
    )


def test_bits_per_byte_against_compute():
    spoken = results(
        float_bits_per_byte=2.0,
        methods=[method(i, compressed_bits_per_byte=2.1, bit_true_bits_per_byte=2.25 + i) for i in (0, 1)],
    )
    axes = drawn(against_compute, table("accuracy", spoken))
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[2.25], [3.25]]
    assert axes.get_ylabel() == "bits per byte, bit-true"
    with pytest.raises(UserError, match="no measure in common"):
        table("accuracy", spoken, EVERYTHING)


def test_noise_is_in_order_with_its_spread():
    axes = drawn(under_noise, table("noise"))
    dense, _prap = axes.containers
    assert list(dense.lines[0].get_xdata()) == [0.0, 0.2]
    assert list(dense.lines[0].get_ydata()) == pytest.approx([95, 80])
    of_one_device, (low, high) = dense.lines[2][0].get_segments()
    assert len(of_one_device) == 0  # there is no spread
    assert [row["spread"] is None for row in table("noise").records() if row["method"] == "dense"] == [True, False]
    assert [low[1], high[1]] == pytest.approx([70, 90])
    assert axes.get_xlabel() == "sigma of ln g"
    assert list(axes.get_xticks()) == [0.0, 0.2]  # where something was measured
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.2"]
    two = results(simulations=[simulation(), simulation(name="other", sweep="adc-bits")])
    figure = Figure()
    under_noise(figure, table("noise", two))
    assert [axes.get_xlabel() for axes in figure.axes] == ["sigma of ln g", "ADC bits"]
    assert {row["method"] for row in table("noise", methods=["prap"]).records()} == {"prap"}


def test_ticks_are_at_the_swept_values_and_numbers_do_not_overlap():
    def ticks(*values, sweep="fault-rate"):
        points = [simulation().points[0].model_copy(update={"value": value}) for value in values]
        swept = results(simulations=[simulation(points=points, sweep=sweep)])
        axes = drawn(under_noise, table("noise", swept))
        assert list(axes.get_xticks()) == pytest.approx(values)
        return axes.get_xscale(), [label.get_text() for label in axes.get_xticklabels()]

    assert ticks(3, 4, 6, sweep="adc-bits") == ("linear", ["3", "4", "6"])
    assert ticks(0, 0.1, 0.102, 0.2) == ("linear", ["0", "0.1", "", "0.2"])
    assert ticks(0, 1e-3, 1e-2, 1e-1) == ("symlog", ["0", "0.001", "0.01", "0.1"])
    assert ticks(1e-4, 1e-2) == ("log", ["0.0001", "0.01"])
    assert ticks(0.1) == ("linear", ["0.1"])


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_whatever_the_names_are(name, tmp_path):
    """Names that matplotlib could take for formulas or formats, of glyphs that its font lacks, very many of them."""
    names = ["$x^{$", "{reference}", "重み%s", "a" * 300, "_hidden", "\x1b[2J\n"]
    strange = results(
        name="$\\frac{",
        methods=[method(i % 2, name=names[i], layers=[layer(n, j, 1) for j, n in enumerate(names)]) for i in range(6)],
        simulations=[
            simulation(points=[p.model_copy(update={"method": names[i]}) for i, p in enumerate(simulation().points)])
        ],
    )
    made = study_table(name, study(name="$x{")) if name in OF_STUDIES else table(name, strange, EVERYTHING)
    write_figure(name, made, tmp_path / "a.svg", "svg", "page")
    ElementTree.parse(tmp_path / "a.svg")
    write_figure(name, made, tmp_path / "a.tex", "tex")


def test_a_series_whose_name_begins_with_an_underscore_is_in_the_legend():
    """matplotlib leaves such labels out."""
    figure = Figure()
    against_compute(figure, table("accuracy", results(methods=[method(0), method(1, name="_mine")])))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "_mine", "float network"]


@pytest.mark.flow
def test_fonts_are_embedded_and_bytes_depend_on_the_table_alone(run, tmp_path):
    """Another process, place, time zone and the user's own style make no difference."""
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 20\npdf.fonttype: 3\nsavefig.dpi: 20\n")
    there = {**os.environ, "MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    forms = ("pdf", "svg", "png", "parquet")
    again = "import sys; from prap_pim.__main__ import main; [main(arguments.split()) for arguments in sys.argv[1:]]"
    commands = [f"plot run --figure breakdown -o there.{form} --quiet" for form in forms]
    subprocess.run([sys.executable, "-c", again, *commands], cwd=tmp_path, env=there, check=True)
    for form in forms:
        assert (tmp_path / f"there.{form}").read_bytes() == written("breakdown", form, tmp_path), form
    pdf = (tmp_path / "there.pdf").read_bytes()
    assert b"/Subtype /Type0" in pdf  # TrueType as it is
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"Date" not in pdf
    assert b"<dc:date>" not in (tmp_path / "there.svg").read_bytes()


def test_a_style_set_in_this_process_is_neither_used_nor_lost():
    plain = render(stacked("component", "energy_j"), table("breakdown"), "svg", "column")
    with matplotlib.rc_context({"axes.facecolor": "red"}):
        assert render(stacked("component", "energy_j"), table("breakdown"), "svg", "column") == plain
        assert matplotlib.rcParams["axes.facecolor"] == "red"


def test_the_width_is_that_of_a_column_or_of_the_page(tmp_path):
    for width, pixels in (("column", 1050), ("page", 2148)):
        write_figure("energy", table("energy"), tmp_path / "a.png", "png", width)
        assert int.from_bytes((tmp_path / "a.png").read_bytes()[16:20], "big") == pixels  # 3.5 and 7.16 in at 300 dpi


def test_runs_that_may_not_be_compared_are_told(run, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(run), "other", "--figure", "energy"]) == 0
    assert capsys.readouterr().err == ""
    told = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(json.dumps(told | {"network": "another", "seed": 99}))
    assert main(["plot", str(run), "other", "--figure", "energy"]) == 0
    assert "prap-pim: These runs differ in network and seed. Latency" in capsys.readouterr().err
    assert main(["plot", str(run), "other", "--figure", "energy", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_command_writes_and_says_where(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "run", "--figure", "speedup"]) == 0
    assert capsys.readouterr().out == "written: speedup.pdf\n"
    for form in FORMATS:
        assert main(["plot", "run", "--figure", "energy", "--format", form, "--quiet"]) == 0
        assert (tmp_path / f"energy.{form}").exists()
    assert capsys.readouterr().out == ""
    assert main(["plot", str(run), "--figure", "energy", "-o", "e.csv", "--methods", "prap", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["rows"][0]["energy_j"]) == ("e.csv", 80e-6)
    assert (tmp_path / "e.csv").read_text().splitlines()[1].split(",")[3] == "8e-05"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "--figure", "energy", "-o", "energy.docx"], "say what to write with --format"),
        (["run", "--figure", "energy", "-o", "run/results.json"], "say what to write with --format"),
        (["run", "--figure", "energy", "-o", "e.pdf", "--format", "csv"], "does not end in .csv"),
        (["run", "--figure", "energy", "--methods", "prep"], "no method 'prep' (did you mean 'prap'?)"),
        (["run", "run", "--figure", "energy"], "the run run is given twice"),
        (["nowhere", "--figure", "energy"], "there is no folder nowhere"),
        (["begun", "--figure", "energy"], "has not finished"),
        (["bare", "--figure", "noise"], "there is no simulation with a sweep"),
        (["bare", "--figure", "accuracy"], "no accuracy was measured"),
        (["run", "--figure", "energy", "-o", "run/results.json/e.pdf"], "cannot write run/results.json/e.pdf"),
        (["run", "--figure", "energy", "-o", "new/e.pdf"], "cannot write new/e.pdf: there is no folder new"),
        (["run", "--figure", "pareto"], "run is the folder of a run, not of a study (prap-pim explore makes one)"),
        (
            ["found", "--figure", "energy"],
            "found is the folder of a study, not of a run: see prap-pim plot --figure pareto",
        ),
        (["empty", "--figure", "pareto"], "empty is not the folder of a study: it holds no study.json"),
        (["empty", "--figure", "energy"], "empty is not the folder of a run: it holds no results.json"),
        (["run/results.json", "--figure", "energy"], "Directory 'run/results.json' is a file"),
    ],
)
def test_mistakes_are_one_line(arguments, complaint, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    untrained = [method(i, compressed_accuracy=None, bit_true_accuracy=None) for i in (0, 1)]
    results(methods=untrained, float_accuracy=None).save(tmp_path / "bare" / "results.json")
    study().save(tmp_path / "found" / "study.json")
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["plot", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert complaint in told.err
    assert told.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
