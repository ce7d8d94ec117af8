"""docs/validation.md: our figures are as near to published ones as it says, and it is what the command writes."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prap_pim.hardware.components import load_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validation() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("validation")


@pytest.fixture(scope="module")
def figures(validation: ModuleType) -> dict[str, dict[str, float]]:
    """Ours over the published ones, by chip and quantity."""
    found = validation.subjects()
    return {subject.name.partition(",")[0]: {f.what: f.ratio for f in subject.figures} for subject in found}


def test_the_page_is_what_the_command_writes(validation: ModuleType) -> None:
    assert (ROOT / "docs" / "validation.md").read_text() == validation.page()


def test_there_are_enough_of_them(validation: ModuleType) -> None:
    found = [(subject.silicon, figure) for subject in validation.subjects() for figure in subject.figures]
    assert len(found) >= 25
    assert sum(silicon for silicon, figure in found if figure.how == "predicted") >= 10
    for _, figure in found:
        assert figure.confidence in {"A", "B", "D"}, figure  # nothing from memory alone
        assert figure.near or figure.why, figure
        assert figure.how != "fitted" or figure.near, figure


def test_neurram_at_precisions_that_were_not_fitted(validation: ModuleType) -> None:
    """Silicon: within 10 %, but for the word lines at 1 bit and input pulses."""
    (neurram,) = [subject for subject in validation.subjects() if subject.name.startswith("NeuRRAM")]
    predicted = [figure for figure in neurram.figures if figure.how == "predicted"]
    ends = [figure for figure in predicted if "TOPS/W" in figure.what or "GOPS" in figure.what]
    assert len(ends) == 10 + 8  # all throughputs; efficiencies but for two
    for figure in ends:
        assert figure.ratio == pytest.approx(1, abs=0.1), figure
    assert np.median([abs(figure.ratio - 1) for figure in ends]) < 0.05


def test_neurrams_table_is_the_fit_that_it_says(validation: ModuleType) -> None:
    """Energies from (outputs, inputs) = (4, 2) and (10, 8) bits alone: 1 and 7 pulses, 1 and 2 conversions."""
    low, high = (next(p for p in validation.NEURRAM if p.output_bits == bits) for bits in (4, 10))
    lines, pulses = ((low.parts_fj[part] + 7 * high.parts_fj[part]) / (1 + 49) for part in (0, 2))  # least squares
    integrate, step = np.linalg.solve([[1, 4], [7, 2 * 10]], [low.parts_fj[1], high.parts_fj[1]])
    table, femto = load_table("neurram-130nm"), 1e-15
    assert table("dac", "energy_per_drive") == pytest.approx(lines * femto * 65536 / 128, rel=1e-3)
    assert table("crossbar", "energy_per_cell_read") == pytest.approx(pulses * femto, rel=1e-3)
    assert table("sample_and_hold", "energy_per_sample") == pytest.approx(integrate * femto * 256, rel=1e-3)
    assert table("adc", "power") / table("adc", "rate") == pytest.approx(step * femto * 256, rel=1e-3)


def test_bounds(validation: ModuleType) -> None:
    """Silicon takes 0.339 pJ for a 4-bit output, with everything: less than the survey's converter alone."""
    found = {(bound.bits, bound.law.partition(" ")[0]): bound for bound in validation.bounds()}
    assert found[4, "ISAAC's"].picojoules == pytest.approx(2e3 / 1.2e3 * (16 / 5) / (256 / 9), rel=1e-3)
    assert found[4, "ISAAC's"].holds
    assert found[4, "FORMS'"].picojoules == pytest.approx(0.226, abs=0.001)
    assert found[4, "ADC"].picojoules == pytest.approx(0.739)
    assert not found[4, "ADC"].holds


@pytest.mark.parametrize(
    ("chip", "what", "within"),
    [
        ("ISAAC-CE", "power efficiency, GOPS/W", 0.06),
        ("ISAAC-CE", "power of a chip's ADCs, W", 0.001),
        ("ISAAC-CE", "conversions a 16-bit MAC", 0.0),
        ("ISAAC-CE", "area efficiency, GOPS/mm2", 0.05),
        ("PUMA", "time of an MVM, ns", 0.02),
        ("PUMA", "energy of an MVM, nJ", 0.11),
        ("PUMA", "area of a node, mm2", 0.1),
        ("FORMS", "time to convert a fragment's columns, ns", 0.001),
        ("SRE", "power of a 6-bit ADC from an 8-bit one's by 2^b/(b+1), mW", 0.001),
        ("Chen 2019", "time of a read of 25 rows, ns", 0.06),
        ("NeuRRAM", "area of a core's cells, mm2", 0.001),
    ],
)
def test_published_figures(figures: dict[str, dict[str, float]], chip: str, what: str, within: float) -> None:
    assert figures[chip][what] == pytest.approx(1, abs=within + 1e-12)
