"""The tour runs, and what is kept in it is what it prints."""

import importlib
import re

import nbformat
import pytest
from nbformat import NotebookNode

from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[NotebookNode, NotebookNode]:
    """As kept, and as run now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        tour = importlib.import_module("run_tour")
        return nbformat.read(tour.TOUR, as_version=4), tour.run(tour.TOUR, tmp_path_factory.mktemp("tour"))


def _printed(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_what_is_kept_is_what_it_prints(pair: tuple[NotebookNode, NotebookNode]) -> None:
    kept, now = pair
    compared = exact = 0
    for before, after in zip(kept.cells, now.cells, strict=True):
        if before.cell_type != "code":
            continue
        pictures = [sum("data" in output for output in cell.outputs) for cell in (before, after)]
        assert pictures[0] == pictures[1]
        assert not any(output.get("name") == "stderr" for output in after.outputs)
        old, new = _printed(before), _printed(after)
        compared += 1
        if "trained" in before.metadata.get("tags", []):
            old, new = (re.sub(r"[\s\d.,]+", " # ", text) for text in (old, new))
        else:
            exact += bool(old)
        assert old == new
    assert compared >= 10
    assert exact >= 2


def test_the_proof_in_it_holds(pair: tuple[NotebookNode, NotebookNode]) -> None:
    printed = "".join(_printed(cell) for cell in pair[1].cells if cell.cell_type == "code")
    proof = re.search(r"([\d,]+) integers compared with the integer matmul, (\d+) mismatches", printed)
    assert proof is not None
    assert int(proof[1].replace(",", "")) > 10_000
    assert int(proof[2]) == 0
