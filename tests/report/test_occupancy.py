"""What crossbars hold, by hand: crossbars of 16,384 cells and 256 places for OUs of 64 cells."""

import pytest

from prap_pim.report.html.occupancy import occupancies, occupancy_charts, table
from prap_pim.results.run import LayerResult
from tests.report.made_up import layer, method, results


def of(**changes):
    plain = layer("conv", 0, 0).model_dump() | changes
    return LayerResult.model_validate(plain)


def test_cells_and_loads_by_hand():
    (found,) = occupancies(results(methods=[method(0, layers=[layer("conv", 0, 0)])]))
    assert found.loads == (200, 200, 199)
    assert (found.crossbars, found.cells, found.stored, found.places, found.ous) == (3, 49_152, 36_000, 768, 599)
    assert found.fragments == 599 * 64 - 36_000
    assert found.empty == (768 - 599) * 64
    assert found.stored + found.fragments + found.empty == found.cells
    assert found.balance == pytest.approx(599 / 600)
    ((name, by, cells),) = table([found])
    assert (name, by) == ("conv", "dense")
    assert [text for text, _ in cells] == [
        *("3", "49,152", "36,000", "73.24 %", "2,336", "169", "199", "200", "99.83 %"),
    ]


def test_charts_show_every_cell_and_every_crossbar():
    cells, squares = occupancy_charts(occupancies(results()))
    (dense, prap) = cells.choices
    assert (dense.label, prap.label) == ("dense", "prap")
    for choice in (dense, prap):
        for parts in zip(*(trace["x"] for trace in choice.data), strict=True):
            assert sum(parts) == pytest.approx(100)
    assert dense.data[0]["x"][0] == pytest.approx(100 * 36_000 / 49_152)
    (heat,) = squares.choices[0].data
    assert heat["z"][0] == pytest.approx([100 * load / 256 for load in (200, 200, 199)])


def test_many_crossbars_are_drawn_together_and_few_end_early():
    large = of(crossbars=200, crossbar_ous=[(256, 98), (128, 101), (1, 1)], stored_cells=1)
    small = of(crossbars=1, crossbar_ous=[(64, 1)], stored_cells=1)
    (choice,) = occupancy_charts(occupancies(results(methods=[method(0, layers=[large, small])])))[1].choices
    (heat,) = choice.data
    assert len(heat["z"][0]) == 40  # five each
    assert heat["z"][0][18] == 100
    assert heat["z"][0][19] == pytest.approx(100 * (3 * 256 + 2 * 128) / 5 / 256)  # crossbars 96 to 100
    assert heat["z"][0][39] == pytest.approx(100 * (4 * 128 + 1) / 5 / 256)  # crossbars 196 to 200
    assert heat["z"][1] == [pytest.approx(25), *[None] * 39]
    assert "crossbar 1 to 5: 256 of 256 OUs" in heat["hovertext"][0][0]
    assert (heat["x0"], heat["dx"]) == (3, 5)  # the middle of crossbars 1 to 5, 6 to 10, ...
    assert choice.layout["xaxis"]["tickvals"] == [1, 50, 100, 150, 200]


def test_the_axis_of_crossbars_has_few_round_numbers():
    def numbers(crossbars):
        single = of(crossbars=crossbars, crossbar_ous=[(256, crossbars)], stored_cells=1)
        (choice,) = occupancy_charts(occupancies(results(methods=[method(0, layers=[single])])))[1].choices
        return choice.layout["xaxis"]["tickvals"]

    assert numbers(1) == [1]
    assert numbers(4) == [1, 2, 3, 4]
    assert numbers(5) == [1, 2, 4]
    assert numbers(8192) == [1, 2000, 4000, 6000, 8000]


def test_an_empty_layer_is_even():
    (found,) = occupancies(results(methods=[method(0, layers=[of(crossbar_ous=[(0, 3)], stored_cells=0)])]))
    assert (found.balance, found.stored, found.fragments, found.empty) == (1, 0, 0, found.cells)


def test_results_without_these_figures_have_none():
    old = layer("conv", 0, 0).model_copy(update={"crossbar_ous": None})
    assert occupancies(results(methods=[method(0, layers=[old])])) == []
    assert occupancy_charts([]) == []


@pytest.mark.parametrize("runs", [[(200, 2)], [(200, 4)], [(-1, 3)], [(1, 4), (1, -1)], [(5, 0), (5, 3)]])
def test_a_file_that_contradicts_itself_is_refused(runs):
    with pytest.raises(ValueError, match="crossbar_ous"):
        of(crossbar_ous=runs)
