import base64
import gzip
import hashlib
import json
import re
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import plotly.graph_objects
import pytest
from plotly.offline import get_plotlyjs

from prap_pim.common.errors import UserError
from prap_pim.report.html.frame import _json_for_script
from prap_pim.report.html.run import render, write_report
from prap_pim.results.folder import RunFolder
from prap_pim.results.run import TimingResult
from tests.report.made_up import EVIL, LAYERS, layer, method, results, simulation

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would find: elements, text outside scripts and styles, and the scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.words, self.open = [], [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append((dict(attributes), ""))
        if tag in {"td", "th", "dt", "dd"}:
            self.words.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif "style" not in self.open:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def charts(self):
        """By id; of one with choices, its choices."""
        charts = {chart["id"]: chart for chart in json.loads(self.scripts[0][1])}
        return {id_: {each["label"]: each for each in chart["choices"]} or chart for id_, chart in charts.items()}

    def variants(self):
        """Every chart and every choice of one."""
        charts = json.loads(self.scripts[0][1])
        return [each for chart in charts for each in (chart["choices"] or [chart])]


@cache
def page():
    return Page(render(results()))


def test_the_file_is_whole_and_small(tmp_path):
    write_report(results(), RunFolder(tmp_path))
    content = (tmp_path / "report.html").read_bytes()
    assert len(content) < 6_000_000
    assert content.endswith(b"</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_nine_methods_of_sixty_layers_stay_under_six_megabytes():
    layers = [layer(f"layer{i}.0.downsample.conv", i, 0) for i in range(60)]
    assert len(render(results(methods=[method(0, name=f"m{i}", layers=layers) for i in range(9)])).encode()) < 6_000_000


def test_the_page_asks_the_network_for_nothing():
    for _, attributes in page().elements:
        for name, value in attributes.items():
            if name in {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href", "style"}:
                assert value.startswith("#") or value == "data:,", (name, value)
    style = re.search(r"<style>(.*?)</style>", render(results()), re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_the_browser_is_told_to_run_these_scripts_only_and_to_load_nothing():
    (policy,) = [meta["content"] for meta in page().all("meta") if "http-equiv" in meta]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    run = [text for attributes, text in page().scripts if "type" not in attributes]
    assert len(run) == 1
    run.append(str(get_plotlyjs()))  # made of what is packed
    packed = next(text for attributes, text in page().scripts if attributes.get("id") == "plotly")
    assert gzip.decompress(base64.b64decode(packed, validate=True)).decode() == run[1]
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules  # falls back to default-src
    assert rules["script-src"].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run
    ]


def test_every_figure_is_there():
    for words in (
        "prap runs resnet20 1.64x as fast as dense",
        "2.50 ms instead of 4.10 ms",
        "600 µs instead of 900 µs",
        "80.0 µJ instead of 100 µJ",
        "−0.37 points",
        "97.96 %",
        "97.78 %",
        "97.41 %",
        "12,345,678",
        "3,086,420",
        "548,864",
        "2.13 mm²",
        "244 /s",
        "7,000 /s",
        "56.8 µJ",  # ADC, prap
        "prap-pim run examples/digits.yaml",
        "digits-128",
        "128x128 crossbars read in 8x8 operation units",
        "crossbar rows 128",
        "ADC energy per conversion 4.28 pJ ISAAC (ISCA'16), table I",
        "crossbar area 25 µm² made up <i>source</i>",
        "ADC resolution 6 bits",
        "20231126",
        "torch 2.13.0",
        "train 1,257, calibration 180, test 360",
        "scikit-learn digits, resized to 32x32",
        "274,432 weights",
        "a" * 64,
        "2,621,440 integers from the simulated crossbars were compared",
        "all are equal",
    ):
        assert words in page().text, words


def test_every_layer_has_a_row_for_every_method():
    for i, name in enumerate(LAYERS):
        shown = " ".join(name.split())
        shape = "10 × 64" if name == "fc" else "64 × 32 × 3 × 3"
        kind = "linear" if name == "fc" else "conv"
        for each, steps in (("dense", (i + 1) * 20_000), ("prap", (i + 1) * 10_000)):
            start = page().text.index(f"{shown} {each} {kind} {shape}")
            cells = page().text[start : start + 250]
            assert f" {steps:,} {(i + 1) * 20_000:,} 3 " in cells


def test_charts_show_the_results_in_the_units_of_their_axes():
    charts = page().charts()
    latency = charts["latency"]
    assert latency["serial"]["data"][0]["x"] == pytest.approx([4.1, 2.5])
    assert latency["serial"]["layout"]["xaxis"]["title"]["text"].endswith("/ ms")
    assert latency["pipelined"]["data"][0]["x"] == pytest.approx([900, 600])
    assert latency["pipelined"]["layout"]["xaxis"]["title"]["text"].endswith("/ µs")
    assert charts["accuracy"]["data"][0]["x"] == pytest.approx([97.96, 97.78, 97.59, 97.41, 97.22])
    energy = charts["energy"]
    assert [trace["name"] for trace in energy["data"]] == ["ADC", "input register", "DAC", "crossbar"]
    assert [sum(trace["x"][i] for trace in energy["data"]) for i in (0, 1)] == pytest.approx([100, 80])
    assert energy["layout"]["barmode"] == "stack"


def test_small_components_share_one_entry_of_the_energy_chart():
    parts = {"ADC": 96e-6, "a": 1e-6, "b": 1.4e-6, "c": 1.1e-6}  # 1.0, 1.4 and 1.1 % of 100 uJ; in prap c has 2.5 %
    other = {"ADC": 77e-6, "a": 0.5e-6, "b": 0.5e-6, "c": 2e-6}
    methods = [method(0, energy_breakdown_j=parts), method(1, energy_breakdown_j=other)]
    chart = Page(render(results(methods=methods))).charts()["energy"]
    bars = {trace["name"]: trace["x"] for trace in chart["data"]}
    assert list(bars) == ["ADC", "c", "2 smaller ones"]
    assert bars["2 smaller ones"] == pytest.approx([2.4, 1.0])


def test_layer_charts_show_the_results():
    choices = page().charts()["layer-chart"]
    for name, step in (("OU steps", 10_000), ("energy", 0.3), ("latency, serial", 1), ("latency, pipelined", 0.25)):
        dense, prap = choices[name]["data"]
        assert dense["x"] == pytest.approx([(i + 1) * 2 * step for i in range(20)])
        assert prap["x"] == pytest.approx([(i + 1) * step for i in range(20)])
    assert choices["energy"]["layout"]["xaxis"]["title"]["text"] == "energy / µJ"


def test_gains_by_hand_stand_in_the_charts():
    charts = page().charts()
    gains = {trace["name"]: trace["x"] for trace in charts["gains-chip"]["data"]}
    assert gains == {
        "speedup, serial": [pytest.approx(4.1 / 2.5)],
        "speedup, pipelined": [pytest.approx(0.9 / 0.6)],
        "throughput, pipelined": [pytest.approx(7000 / 4000)],
        "energy": [pytest.approx(100 / 80)],
    }
    gains = {trace["name"]: trace["x"] for trace in charts["gains-budget"]["data"]}
    assert gains == {
        "throughput, pipelined": [pytest.approx(12000 / 4000)],
        "throughput per mm²": [pytest.approx(12000 / 4000 * 2.13 / 2.2)],
        "speedup, serial": [pytest.approx(4.2 / 1.4)],
        "energy": [pytest.approx(100 / 81)],
    }
    assert "gains-chip" not in Page(render(results(methods=[method(0)]))).charts()


def test_a_gain_that_is_no_number_leaves_a_gap():
    stopped = method(1, serial=TimingResult(latency_s=0.0, throughput_per_s=0.0))
    data = Page(render(results(methods=[method(0), stopped]))).charts()["gains-chip"]["data"]
    assert (data[0]["x"], data[0]["text"]) == ([None], ["n/a"])


def test_plotly_knows_every_property():
    for chart in page().variants():
        plotly.graph_objects.Figure(data=chart["data"], layout=chart["layout"])  # raises on an unknown one


def test_a_layer_that_a_method_lacks_leaves_a_gap_in_its_place():
    short = method(1, layers=[layer("second", 1, 1)])
    both = method(0, layers=[layer("first", 0, 0), layer("second", 1, 0)])
    chart = Page(render(results(methods=[both, short]))).charts()["layer-chart"]["OU steps"]
    assert chart["data"][1]["y"] == [1]
    assert chart["layout"]["yaxis"]["ticktext"] == ["first", "second"]


def test_names_are_text_wherever_they_stand():
    evil = EVIL[0] + EVIL[1]
    whole = results(
        name=evil,
        command=evil,
        data=evil,
        network=evil,
        versions={evil: evil},
        images={evil: 1},
        chip=results().chip.model_copy(
            update={"name": evil, "description": evil, "geometry": {evil: evil}, "warnings": [evil]}
        ),
        methods=[method(0, name=evil, description=evil), method(1, name=evil + "2", energy_breakdown_j={evil: 80e-6})],
    )
    text = render(whole)
    clean, dirty = page(), Page(text)
    assert "img" not in [tag for tag, _ in dirty.elements]
    assert len(dirty.scripts) == len(clean.scripts) == 4
    assert "<script>alert" not in text
    assert EVIL[0] in dirty.text  # shown as it is
    assert not [name for _, attributes in dirty.elements for name in attributes if name.startswith("on")]
    data = dirty.scripts[0][1]
    assert not set("<>&\u2028\u2029") & set(data)
    shown = [
        label
        for chart in dirty.variants()
        for label in (
            *chart["layout"]["yaxis"].get("ticktext", []),
            *chart["layout"]["meta"]["short"],
            *(t for trace in chart["data"] for texts in trace.get("hovertext", []) for t in np.ravel(texts)),
            *(t for trace in chart["data"] for t in trace.get("text", [])),
            *(trace.get("name", "") for trace in chart["data"]),
        )
    ]
    assert len(shown) > 500
    assert not [label for label in shown if "<" in label or ">" in label]  # Plotly would read tags


def test_embedded_json_holds_nothing_that_html_or_javascript_reads():
    value = {"</script><!--": "& \u2028 \u2029 >"}
    text = _json_for_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_warnings_about_the_chip_are_shown():
    chip = results().chip.model_copy(update={"warnings": ["an ADC of 3 bits cannot count <8> rows"]})
    assert "Warning: an ADC of 3 bits cannot count <8> rows" in Page(render(results(chip=chip))).text
    assert "Warning" not in page().text


def test_long_names_do_not_push_the_bars_off_the_page():
    long = method(0, layers=[layer("x" * 500, 0, 0)])
    layout = Page(render(results(methods=[long]))).charts()["layer-chart"]["OU steps"]["layout"]
    assert len(layout["meta"]["short"][0]) <= 16
    (label,) = layout["yaxis"]["ticktext"]
    assert len(label) <= 26


def test_a_lost_accuracy_is_told_in_words_in_the_headline():
    text = Page(render(results(methods=[method(0), method(1, bit_true_accuracy=0.5)]))).text
    assert "accuracy change −47.59 points Caution: loses 48.0 points of the float network's 97.96 %" in text
    assert "Caution" not in page().text


def test_what_differs_is_named():
    wrong = method(1, layers=[layer("good", 0, 1), layer(EVIL[0], 1, 1, mismatches=3)])
    text = Page(render(results(methods=[method(0, layers=[]), wrong]))).text
    assert "Not exact: of 131,072 integers from the simulated crossbars, 3 differ" in text
    assert f"prap, {EVIL[0]}" in text
    assert "all are equal" not in text


def test_images_that_went_through_every_cell_and_sums_that_overflowed_are_counted():
    narrow = layer(EVIL[0], 0, 1).model_copy(update={"overflows": 1234})
    methods = [method(0, checked_images=50), method(1, checked_images=50, layers=[narrow])]
    text = Page(render(results(methods=methods))).text
    assert "50 of 360 test images of each method went through every cell" in text
    assert f"1,234 dot products and sums did not fit the chip's registers: prap, {EVIL[0]}: 1,234" in text
    assert "registers:" not in page().text


def test_simulations_are_drawn_with_a_line_and_a_band_for_every_method():
    found = Page(render(results(simulations=[simulation(), simulation(name=EVIL[0], sweep=None)])))
    for words in (
        "Accuracy under device effects",
        "40 test images on 3 devices (seed 5)",
        "dense 0.2 95.00 % 80.00 % 10.00 % 70.00 % 3 0",
        "prap 0.2 90.00 % 50.00 % 0.00 % 50.00 % 3 7",
        "adc_bits 6 chip digits-128",
        EVIL[0],
    ):
        assert words in found.text, words
    assert "simulation-1" not in found.charts()  # nothing was swept
    chart = found.charts()["simulation-0"]
    plotly.graph_objects.Figure(data=chart["data"], layout=chart["layout"])
    band, line, _, other = chart["data"]
    assert (line["x"], line["y"]) == ([0, 0.2], pytest.approx([95, 80]))  # in order, however it was asked for
    assert (band["x"], band["y"]) == ([0, 0.2, 0.2, 0], pytest.approx([95, 90, 70, 95]))
    for key in ("line", "marker"):
        assert {line[key]["color"], other[key]["color"]} == {"#0072B2", "#E69F00"}
    assert line["line"]["dash"] != other["line"]["dash"]
    assert line["marker"]["symbol"] != other["marker"]["symbol"]
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert "device effects" not in page().text.lower()


def test_nothing_checked_is_said():
    assert "Not checked" in Page(render(results(methods=[method(0, layers=[])]))).text


def test_headings_descend_one_level_at_a_time_and_tables_have_captions():
    levels = [int(tag[1]) for tag, _ in page().elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page().all("caption")) == len(page().all("table")) == 5
    assert page().all("html") == [{"lang": "en"}]


def test_ids_are_unique_and_every_reference_has_its_target():
    ids = [attributes["id"] for _, attributes in page().elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page().elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert set(page().charts()) <= set(ids)


def test_a_page_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(results(), RunFolder(tmp_path / "file"))
