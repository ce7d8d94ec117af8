"""What is public is documented, and what is shown of it is public."""

import json
import re
from pathlib import Path

import prap_pim

ROOT = Path(__file__).parents[2]


def test_the_reference_lists_everything_public() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    listed = re.findall(r"^::: prap_pim\.(\w+)$|`prap_pim\.(\w+)`", page, re.MULTILINE)
    assert sorted(one or other for one, other in listed) == sorted(prap_pim.__all__)
    assert all(hasattr(prap_pim, name) for name in prap_pim.__all__)


def test_what_public_functions_return_is_public() -> None:
    returned = {
        "Captured",
        "SimulationReport",
        "FinishedRun",
        "OnnxSummary",
        "SimulationResult",
        "Compression",
        "Study",
    }
    assert returned <= set(prap_pim.__all__)


def test_the_tour_imports_from_the_top() -> None:
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    assert any("from prap_pim import" in line for line in lines)
    assert not [line for line in lines if re.search(r"(from|import) prap_pim\.", line)]


def test_docstrings_send_nobody_below_the_top() -> None:
    assert prap_pim.compress.__doc__ is not None
    assert "see ``calibrate``" not in prap_pim.compress.__doc__
    for page in (ROOT / "docs").glob("*.md"):
        assert "`prap_pim.crossbar`" not in page.read_text(), page
