"""The pages as people use them: by click and by keyboard, dark and light, wide and narrow, in headless Chromium."""

import pytest
import yaml
from playwright.sync_api import expect

from prap_pim.common.files import write_whole
from prap_pim.ir.plan import NetworkPlan
from prap_pim.report.differences import NamedRun
from prap_pim.report.html.run import Evidence, render
from prap_pim.report.html.runs import render_runs
from prap_pim.report.html.study import write_study_report
from prap_pim.results.study import StudyResults, TrialResult
from tests.report.browser import opened, violations
from tests.report.made_up import EVIL, layer, many, method, results, shared_plan, simulation, summing_layer

LAYERS = (*EVIL, "layer1.conv", "fc")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three methods, a sweep and hostile names everywhere."""
    path = tmp_path_factory.mktemp("pages") / "report.html"
    evil = "".join(EVIL)
    dense, prap = ([layer(name, i, number) for i, name in enumerate(LAYERS)] for number in (0, 1))
    third = method(1, name="third<b>", description=evil, bit_true_accuracy=0.5, layers=prap)
    methods = [method(0, layers=dense), third, method(1, layers=prap)]
    whole = results(name=evil, methods=methods, simulations=[simulation(name=evil)])
    plans = {name: shared_plan(name, LAYERS) for name in ("third<b>", "prap")}
    write_whole(path, render(whole, Evidence(config=f"name: {evil}\n" + "key: value\n" * 50, plans=plans)))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "runs.html"
    other = results(name="other", chip=results().chip.model_copy(update={"name": "other<b>"}))
    found = [NamedRun("runs/digits", results()), NamedRun(f"runs/{EVIL[1]}", other)]
    write_whole(path, render_runs(found))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three objectives, so that there is a choice of pairs; a trial that failed, a hostile setting."""
    path = tmp_path_factory.mktemp("pages") / "study.html"
    trials = [
        TrialResult(
            number=i,
            values={"chip.adc_bits": i, EVIL[0]: EVIL[1]},
            figures={"energy_j": (9 - i) * 1e-6, "pipelined.latency_s": (1 + i) * 1e-3, "bit_true_accuracy": 0.9},
        )
        for i in range(6)
    ]
    trials.append(TrialResult(number=6, values={EVIL[0]: 1}, reason=EVIL[1]))
    found = StudyResults(
        name=EVIL[0],
        command="prap-pim explore study.yaml",
        seed=0,
        sampler="random",
        versions={"optuna": "4"},
        objectives={"energy_j": "minimize", "pipelined.latency_s": "minimize", "bit_true_accuracy": "maximize"},
        constraints={},
        space={"chip.adc_bits": "0 to 6", EVIL[0]: "any"},
        trials=trials,
        front=list(range(6)),
    )
    config = path.with_name("config.yaml")
    config.write_text(yaml.safe_dump({"base": {"model": {"name": EVIL[0]}, "training": "none"}, "space": {}}))
    write_study_report(found, path, config)
    return path


def test_a_studys_page_says_what_is_varied(chromium, study):
    with opened(chromium, study) as page:
        assert "Caution: the network was not trained" in page.locator("header").inner_text()
        facts = page.locator("section:has(> #study)")
        assert f"name: {EVIL[0]}" in facts.locator("dl").inner_text().replace("'", "")
        assert "training: none" in facts.locator("pre").inner_text()


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("which", ["report", "runs", "study"])
def test_every_chart_is_drawn_and_axe_objects_to_nothing(chromium, which, width, request):
    with opened(chromium, request.getfixturevalue(which), width) as page:
        charts = page.locator("figure [role=img]")
        assert charts.count() == {"report": 14, "runs": 2, "study": 1}[which]
        assert charts.locator(".main-svg .cartesianlayer .subplot").count() == charts.count()
        widths = page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths == [width, width]  # nothing to scroll sideways
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            turn = {"light": "Dark", "dark": "Light"}[scheme]
            expect(page.locator("#theme")).to_have_text(turn, timeout=30_000)
            assert violations(page) == []


@pytest.mark.parametrize("which", ["report", "study"])
def test_a_finger_hits_what_can_be_touched(chromium, which, request):
    """44 CSS pixels, as WCAG 2.2 has it for targets that are easy to hit (2.5.5); words in a sentence apart."""
    with opened(chromium, request.getfixturevalue(which), 360) as page:
        targets = page.locator("button:visible, select:visible, input:visible, nav a:visible, summary:visible")
        heights = {t.inner_text() or t.get_attribute("id"): t.bounding_box()["height"] for t in targets.all()}
        assert len(heights) > 8
        assert {name: height for name, height in heights.items() if height < 43.5} == {}


def test_the_longest_names_leave_nothing_to_scroll_sideways(chromium, tmp_path):
    long = "a_name_without_any_break_" * 10
    chip = results().chip.model_copy(update={"name": long, "warnings": [long], "geometry": {long: long}})
    methods = [method(i, name=f"{i}{long}", description=long, layers=[layer(long, 0, i)]) for i in (0, 1)]
    whole = results(name=long, network=long, data=long, command=long, chip=chip, methods=methods)
    plans = {methods[1].name: shared_plan(methods[1].name, (long,))}
    path = tmp_path / "long.html"
    write_whole(path, render(whole, Evidence(config=long, plans=plans)))
    for width in (1280, 360):
        with opened(chromium, path, width) as page:
            assert page.evaluate("() => document.documentElement.scrollWidth") == width
            fixed = page.locator("#layers-table tbody th").first.bounding_box()
            assert fixed["width"] <= 0.5 * width  # leaves room beside it for what scrolls


def column(page, table, number):
    """Texts of a column, of the rows that are shown."""
    return page.locator(f"#{table} tbody tr:not([hidden]) > :nth-child({number})").all_inner_texts()


def test_headings_sort_by_click_and_by_keyboard(chromium, report):
    with opened(chromium, report) as page:
        heading = page.locator("#layers-table thead th", has_text="Energy")
        button, number = heading.get_by_role("button"), 1 + heading.evaluate("(each) => each.cellIndex")
        before = column(page, "layers-table", 1)
        energies = sorted([0.3 * (i + 1) * share for i in range(5) for share in (2, 1, 1)])

        def shown():
            texts = [text.split() for text in column(page, "layers-table", number)]
            return [float(figure) * {"nJ": 1e-3, "µJ": 1}[unit] for figure, unit in texts]

        for press in (button.click, lambda: page.keyboard.press("Enter")):  # the click has left the focus there
            press()
            assert shown() == pytest.approx(energies, rel=5e-3)  # three digits are shown
            assert heading.get_attribute("aria-sort") == "ascending"
            press()
            assert shown() == pytest.approx(energies[::-1], rel=5e-3)
            assert heading.get_attribute("aria-sort") == "descending"
            press()
            assert heading.get_attribute("aria-sort") is None
            assert column(page, "layers-table", 1) == before
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.textContent") == "Integers checked"  # the next heading


def test_the_table_filters_by_words_and_by_method(chromium, report):
    with opened(chromium, report) as page:
        status = page.locator(".controls[data-table=layers-table] [role=status]")
        assert status.inner_text() == "15 of 15 rows"
        page.locator("#layers-table-search").focus()
        page.keyboard.type("LINEAR  third")
        assert status.inner_text() == "1 of 15 rows"
        assert column(page, "layers-table", 1) == ["fc"]
        page.locator("#layers-table-search").fill("")
        page.locator("#layers-table-1").select_option("third<b>")
        assert status.inner_text() == "5 of 15 rows"
        assert set(column(page, "layers-table", 2)) == {"third<b>"}
        page.locator("#layers-table-search").fill("no such layer")
        assert column(page, "layers-table", 1) == []
        assert status.inner_text() == "None of 15 rows matches."


def test_the_filter_finds_numbers_however_they_are_typed(chromium, report):
    with opened(chromium, report) as page:
        status = page.locator(".controls[data-table=layers-table] [role=status]")
        for typed, rows in (
            ("65536", 15),
            ("65,536", 15),
            ("655", 15),  # a part of it
            ("100000 10x64", 3),  # fc, the fifth layer: 100,000 steps when dense
            ("64x32", 12),
            ("64 × 32", 12),
            ("64 x 32 x 3 x 3", 12),
            ("1.20 uj", 3),
            ("1.20 µJ", 3),
            ("conv3664", 0),  # cells are not run together
        ):
            page.locator("#layers-table-search").fill(typed)
            told = f"{rows} of 15 rows" if rows else "None of 15 rows matches."
            assert (typed, status.inner_text()) == (typed, told)


def test_a_region_says_on_which_sides_there_is_more_and_keeps_its_first_column(chromium, report):
    with opened(chromium, report) as page:
        region = page.get_by_role("region", name="Every layer under every method")
        around = region.locator("..")
        first = region.locator("tbody th").first

        def sides():
            page.wait_for_timeout(50)  # a scroll event comes with the next frame
            return {name for name in around.get_attribute("class").split() if name.startswith("more-")}

        assert sides() == {"more-right", "more-below"}
        assert around.evaluate("(each) => getComputedStyle(each, '::after').opacity") == "1"
        before = first.bounding_box()
        region.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert sides() == {"more-left", "more-right", "more-below"}
        region.evaluate("(each) => each.scrollTo(1e6, 1e6)")
        assert sides() == {"more-left"}
        assert first.bounding_box()["x"] == before["x"]
        assert page.locator("#methods-caption").locator("../../..").get_attribute("class") == "more"  # it fits


def test_a_lost_accuracy_is_told_beside_its_method(chromium, report):
    with opened(chromium, report) as page:
        told = page.locator(".cards > div", has_text="accuracy change")
        assert "Caution" not in told.inner_text()  # prap loses 0.74 points
        named = page.locator("#methods ~ dl.facts dt", has_text="third<b>").locator("+ dd")
        assert named.text_content().endswith(
            "loses 48.0\N{NO-BREAK SPACE}points of the float network's 97.96\N{NO-BREAK SPACE}%"
        )


def donors(page):
    rows = page.locator("[data-part=donors] tr").all()
    return [row.locator("th, td").all_inner_texts() for row in rows]


def drawn(page):
    """Wait until the reuse map shows the chosen layer, which is unpacked in the background."""
    page.wait_for_selector("#reuse-map[aria-busy=false]")


def test_the_reuse_map_works_by_click(chromium, report):
    with opened(chromium, report) as page:
        page.locator("#reuse-method").select_option("prap")
        page.locator("#reuse-layer").select_option(label="fc")
        drawn(page)
        canvas, told = page.locator("[data-part=canvas]"), page.locator("#reuse-told")
        assert (
            told.inner_text() == "Row group 0, filter 0: +1 times donor 0 of this row group, which 3 filters use."
        )  # most is shared
        assert donors(page) == [["donor 0", "3", "0 (+1), 3 (−1/2), 5 (+2)"], ["donor 1", "1", "1 (+1)"]]
        size = 24  # pixels of a cell, beside 40 of numbers and below 18
        canvas.click(position={"x": 40 + 4.5 * size, "y": 18 + 1.5 * size})
        assert told.inner_text() == "Row group 1, filter 4: +1/4 times donor 0 of this row group, which 2 filters use."
        assert donors(page) == [["donor 0", "2", "2 (+1), 4 (+1/4)"]]
        assert page.locator("#reuse-group").input_value() == "1"
        canvas.click(position={"x": 40 + 1.5 * size, "y": 18 + 0.5 * size})
        assert (
            told.inner_text()
            == "Row group 0, filter 1: +1 times donor 1 of this row group, which no other filter uses."
        )
        canvas.click(position={"x": 40 + 7.5 * size, "y": 18 + 0.5 * size})
        assert told.inner_text() == "Row group 0, filter 7: no pattern."
        strip = canvas.evaluate("(c) => [...c.getContext('2d').getImageData(40, 30, 192, 1).data]")
        filled, empty = (strip[4 * x : 4 * x + 4] for x in (size // 2, 2 * size + size // 2))
        assert filled != empty


def test_the_reuse_map_works_by_keyboard(chromium, report):
    with opened(chromium, report) as page:
        page.locator("#reuse-method").focus()
        page.keyboard.press("Home")  # a list: the first method
        assert page.locator("#reuse-method").input_value() == "third<b>"
        drawn(page)
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.dataset.part") == "filter"
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.dataset.part") == "frame"
        told = page.locator("#reuse-told")
        for key, says in (
            ("ArrowRight", "Row group 0, filter 1: +1 times donor 1 of this row group, which no other filter uses."),
            ("ArrowDown", "Row group 1, filter 1: no pattern."),
            ("ArrowDown", "Row group 1, filter 1: no pattern."),  # the last one
            ("ArrowRight", "Row group 1, filter 2: +1 times donor 0 of this row group, which 2 filters use."),
            ("PageUp", "Row group 0, filter 2: no pattern."),
            ("End", "Row group 0, filter 7: no pattern."),
            ("Home", "Row group 0, filter 0: +1 times donor 0 of this row group, which 3 filters use."),
            ("ArrowLeft", "Row group 0, filter 0: +1 times donor 0 of this row group, which 3 filters use."),
        ):
            page.keyboard.press(key)
            assert told.inner_text() == says


def test_the_reuse_map_names_all_donors_of_a_filter(chromium, tmp_path):
    path = tmp_path / "page.html"
    plan = NetworkPlan("prap", {"fc": summing_layer("fc")}, {"fc": 1.0})
    rows = [method(i, layers=[layer("fc", 0, i)]) for i in (0, 1)]
    write_whole(path, render(results(methods=rows), Evidence(plans={"prap": plan})))
    with opened(chromium, path) as page:
        drawn(page)
        canvas, told = page.locator("[data-part=canvas]"), page.locator("#reuse-told")
        first = "+1 times donor 0 of this row group, which 3 filters use"
        assert told.inner_text() == (
            f"Row group 0, filter 0: {first}; plus −1/2 times donor 1 of this row group, which 2 filters use."
        )
        assert donors(page) == [
            ["donor 0", "3", "0 (+1), 3 (−1/2), 5 (+2)"],
            ["donor 1", "2", "0 (−1/2), 1 (+1)"],
        ]
        assert page.locator("[data-part=donors] tr.chosen").count() == 2
        page.locator("[data-part=frame]").focus()
        page.keyboard.press("ArrowRight")
        assert told.inner_text() == "Row group 0, filter 1: +1 times donor 1 of this row group, which 2 filters use."
        assert donors(page)[0] == ["donor 1", "2", "0 (−1/2), 1 (+1)"]
        assert page.locator("[data-part=donors] tr.chosen").count() == 1
        size = 24  # pixels of a cell
        strip = canvas.evaluate("(c) => [...c.getContext('2d').getImageData(40, 30, 192, 1).data]")
        colours = [strip[4 * at : 4 * at + 4] for at in range(size // 2, 8 * size, size)]
        assert colours[0] == colours[1] != colours[3]  # filter 0 takes donor 1, too, filter 3 does not
        assert colours[3] == colours[5] != colours[2]  # both share donor 0; filter 2 has no pattern
        canvas.click(position={"x": 40 + 0.5 * size, "y": 18 + 0.5 * size})
        assert "; plus −1/2 times donor 1" in told.inner_text()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A layer of 300 row groups and 600 filters, of which filters 2 i and 2 i + 1 share donors."""
    path = tmp_path_factory.mktemp("pages") / "large.html"
    plan = NetworkPlan("prap", {"large": many(300, 600)}, {"large": 1.0})
    rows = [method(i, layers=[layer("large", 0, i)]) for i in (0, 1)]
    write_whole(path, render(results(methods=rows), Evidence(plans={"prap": plan})))
    return path


def test_every_part_of_a_large_layer_is_reached(chromium, large):
    def says(page, group, filter_):
        donor = filter_ // 2
        told = f"Row group {group}, filter {filter_}: +1 times donor {donor} of this row group, which 2 filters use."
        expect(page.locator("#reuse-told")).to_have_text(told)
        first = page.locator("[data-part=donors] tr").first.locator("th, td").all_inner_texts()  # the chosen one
        assert first == [f"donor {donor}", "2", f"{2 * donor} (+1), {2 * donor + 1} (+1)"]

    with opened(chromium, large) as page:
        frame, canvas = page.locator("[data-part=frame]"), page.locator("[data-part=canvas]")
        says(page, 0, 0)
        assert not page.locator("[data-part=part]").is_visible()  # it is whole
        page.locator("#reuse-group").select_option("299")
        says(page, 299, 0)
        page.locator("#reuse-filter").fill("599")
        page.keyboard.press("Enter")
        says(page, 299, 599)
        for beyond, filter_ in (("12345", 599), ("-3", 0), ("", 0)):
            page.locator("#reuse-filter").fill(beyond)
            page.keyboard.press("Tab")
            says(page, 299, filter_)
        frame.focus()
        page.keyboard.press("End")
        says(page, 299, 599)
        page.keyboard.press("ArrowDown")
        says(page, 299, 599)
        page.keyboard.press("PageUp")
        jumped = int(page.locator("#reuse-group").input_value())
        assert 240 < jumped < 290
        for _ in range(10):
            page.keyboard.press("PageUp")
        page.keyboard.press("Home")
        says(page, 0, 0)
        # by scrolling: a cell is 8 pixels, beside 40 of numbers and below 18; a click moves nothing that is in sight
        frame.evaluate("(each) => each.scrollTo(8 * 200, 8 * 100)")
        page.wait_for_timeout(100)
        canvas.click(position={"x": 40 + 10.5 * 8, "y": 18 + 20.5 * 8})
        says(page, 120, 210)
        chosen = canvas.evaluate(
            "(c) => [...c.getContext('2d').getImageData(40 + 11 * 8 + 3, 18 + 20 * 8 + 3, 1, 1).data]"
        )
        assert chosen == [0xE6, 0x9F, 0, 255]  # filter 211 uses the same donor
        assert frame.evaluate("(each) => [each.scrollLeft, each.scrollTop]") == [1600, 800]


def test_dark_and_light_by_hand(chromium, report):
    def colours(page):
        return page.evaluate(
            "() => [getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('#energy .xtick text')).fill]"
        )

    with opened(chromium, report) as page:
        light, button = colours(page), page.locator("#theme")
        button.focus()
        page.keyboard.press("Enter")
        dark = colours(page)
        assert light[0] != dark[0]
        assert light[1] != dark[1]
        button.click()
        assert colours(page) == light
        page.emulate_media(color_scheme="dark")  # the choice stays
        assert colours(page) == light
        button.click()
        assert colours(page) == dark
        page.emulate_media(color_scheme="light")
        page.reload()
        page.evaluate("() => page.ready")
        assert colours(page) == dark


def test_print_is_light_and_whole(chromium, report):
    with opened(chromium, report) as page:
        page.locator("#theme").click()  # dark
        page.emulate_media(media="print")
        expect(page.locator("#energy .xtick text").first).to_have_css("fill", "rgb(25, 29, 34)")  # light's ink
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        cut = (
            "() => [...document.querySelectorAll('.scroll')].filter((e) => getComputedStyle(e).overflow !== 'visible')"
        )
        assert page.evaluate(f"({cut})().length") == 0
        assert not page.locator("#layers-table-search").is_visible()
        assert page.locator("#waterfall-method").is_visible()  # says what is shown
        page.pdf()  # draws it once more
        assert page.locator("details").get_attribute("open") is not None


def test_a_choice_changes_its_charts(chromium, report):
    def totals(page):
        return page.evaluate("() => document.getElementById('energy-components').layout.yaxis.ticktext.at(-1)")

    with opened(chromium, report) as page:
        assert totals(page) == "prap"
        page.locator("#waterfall-method").select_option("third<b>")
        assert totals(page) == "third&#60;b&#62;"
        shown = page.locator("#latency-layers .ytick text").last.text_content()
        assert shown == "third<b>"
        page.locator("#latency-choice").select_option("serial")
        assert "serial" in page.locator("#latency .xtitle").text_content()


def test_hostile_names_are_text(chromium, report):
    with opened(chromium, report) as page:
        asked = []
        page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
        assert page.locator("h1").text_content() == "".join(EVIL)
        assert page.locator("img, main a, .main-svg a").count() == 0
        names = page.locator("#layer-chart .ytick text").all_text_contents()
        assert names[0] == "<script>alert(1)</script>"
        assert len(names) == len(LAYERS)
        assert page.locator("#reuse-layer option").all_text_contents() == list(LAYERS)
        assert asked == []


def test_tables_are_whole_without_scripts(chromium, report):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert len(column(page, "layers-table", 1)) == 15
    assert page.locator("noscript").first.is_visible()
    assert not page.locator("#reuse-map").is_visible()
    assert page.locator(".controls:visible").count() == 0
    context.close()
