"""What calibrated reuse gave each layer, on the terminal and on the page."""

import io
from html.parser import HTMLParser

from rich.console import Console

from prap_pim.report.allocation import HEADINGS, allocations
from prap_pim.report.html.charts import allocation_chart
from prap_pim.report.html.run import render
from prap_pim.report.terminal.run import print_results
from prap_pim.results.run import AllocationResult, CalibrationResult, Results
from tests.report import made_up


def shared_out(limit: float | None = None, **more: object) -> Results:
    """Under method 1 every layer gets 8 donors of 64 filters and 4 positions of 9; the last one keeps everything."""
    layers = [
        AllocationResult(
            name=name,
            sensitivity_nats=None if name == "fc" else 0.0123,
            donors=None if name == "fc" else 8,
            kept_positions=None if name == "fc" else 4,
            output_error=0.0 if name == "fc" else 0.0456,
        )
        for name in made_up.LAYERS
    ]
    calibration = CalibrationResult(inputs=200, changed=0.025, limit=limit, layers=layers).model_copy(update=more)
    found = made_up.results()
    return found.model_copy(
        update={"methods": [found.methods[0], found.methods[1].model_copy(update={"calibration": calibration})]}
    )


def test_rows_by_hand() -> None:
    (allocation,) = allocations(shared_out())
    assert allocation.method == "prap"
    assert list(allocation.rows) == list(made_up.LAYERS)
    assert allocation.rows["layer1.conv"] == ("0.012", "8 of 64", "8", "4 of 9", "0.500", "4.56 %")
    assert allocation.rows["fc"] == ("-", "10 of 10", "8", "all", "0.500", "0.00 %")
    assert allocation.summary == (
        "200 calibration inputs without labels; 2.50 % of them classified differently from the original network; "
        "1 of 20 layers keep all patterns"
    )
    assert allocations(shared_out(limit=0.025))[0].summary == allocation.summary
    assert allocations(shared_out(limit=0.02))[0].summary == (
        allocation.summary + "; the limit of 2.00 % could not be met: int8 alone changes more"
    )


def test_what_else_there_is_to_say() -> None:
    first, classified, whole = allocations(shared_out())[0].summary.split("; ")
    summary = allocations(shared_out(tuned=True))[0].summary
    assert summary == f"{first}; before the donors were trained; {classified}; {whole}"
    assert allocations(shared_out(changed=None))[0].summary == f"{first}; {whole}"
    of_text = allocations(shared_out().model_copy(update={"inputs": "sequences"}))[0].summary
    assert of_text == f"{first}; {classified.replace('of them', 'of their bytes')}; {whole}"
    assert allocations(shared_out(asked=0.255))[0].summary == f"{first}; {classified}; {whole}"
    assert allocations(shared_out(asked=0.3))[0].summary == (
        f"{first}; {classified}; {whole}; 0.250 of the dense OU steps are used, 0.300 were allowed: "
        "nothing that was looked at takes more of it (layers take whole OUs; balance, if on, keeps back more)"
    )
    kept = [layer.model_copy(update={"donors": None}) for layer in shared_out().methods[1].calibration.layers]
    assert allocations(shared_out(limit=0.03, layers=kept))[0].summary.endswith(
        "; 20 of 20 layers keep all patterns; no compute ratio below 1 that was tried meets the limit of 3.00 %"
    )


def test_other_methods_have_none() -> None:
    assert allocations(made_up.results()) == []
    page = render(made_up.results())
    assert "Budget of" not in page
    assert "#budgets" not in page


def test_the_chart_by_hand() -> None:
    """A bar for each layer, as long as its share of OU steps (a half), in the colour of its bits and uses."""
    run = shared_out()
    layers = list(run.methods[1].calibration.layers)  # type: ignore[union-attr]
    layers[1] = layers[1].model_copy(update={"bits": 4, "uses": 2})
    calibration = run.methods[1].calibration.model_copy(update={"layers": layers})  # type: ignore[union-attr]
    chart = allocation_chart(7, run.methods[1].model_copy(update={"calibration": calibration}))
    wide, narrow = chart.data
    assert (wide["name"], narrow["name"]) == ("8 bits", "4 bits, sums of up to 2 donors")
    assert narrow["y"] == [1]
    assert wide["y"] == [0, *range(2, 20)]
    assert {*wide["x"], *narrow["x"]} == {0.5}
    assert wide["text"][-1] == "10 of 10"  # fc keeps every pattern
    assert narrow["text"] == ["8 of 64"]
    assert narrow["hovertext"][0].endswith("4 bits, sums of up to 2 donors, 8 of 64 donors, 0.500 of its OU steps")
    assert "<" not in narrow["hovertext"][0]  # the layer's name is EVIL
    assert chart.id == "budget-7"
    assert 'id="budget-1"' in render(run)


def test_the_terminal_shows_every_layer() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_results(shared_out(), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Budget of prap, layer by layer" in text
    line = next(line for line in text.splitlines() if line.startswith("layer16.conv"))
    assert line.split() == ["layer16.conv", "0.012", "8", "of", "64", "8", "4", "of", "9", "0.500", "4.56", "%"]


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag in ("th", "td")
        if self.inside:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def test_the_page_shows_every_layer_and_obeys_no_name() -> None:
    page = render(shared_out())
    assert '<a href="#budgets">' in page
    assert '<h3 id="budgets">Budget of prap' in page
    section = page[page.index("Budget of prap") :]
    parser = _Cells()
    parser.feed(section[: section.index("</section>")])
    width = 1 + len(HEADINGS)
    table = [parser.cells[i : i + width] for i in range(0, len(parser.cells), width)]
    assert table[0] == ["Layer", *(heading.capitalize() for heading in HEADINGS)]
    assert [row[0] for row in table[1:]] == list(made_up.LAYERS)  # hostile names come through as text
    assert table[4][1:] == ["0.012", "8 of 64", "8", "4 of 9", "0.500", "4.56 %"]
    assert "<script>alert(1)" not in section
