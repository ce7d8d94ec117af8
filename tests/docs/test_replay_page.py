"""The page on the authors' cost model gives the figures that its commands give."""

import io
import json
from contextlib import redirect_stdout

import pytest

from prap_pim.__main__ import main
from tests.docs.pages import ROOT

NETWORKS = ("vgg16", "resnet18", "resnet50", "wide-resnet")
_BEFORE, _BETWEEN = "\n## Result\n", "\n## The same networks from real mappings\n"


def _replay(*options: str) -> dict[str, dict[str, dict[str, float]]]:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["replay", "prap-2023", "--json", *options]) == 0
    return json.loads(printed.getvalue())


def _rows(part: int) -> dict[str, list[str]]:
    """The cells behind each method's name in the table of a part of the page."""
    text = (ROOT / "docs" / "replay.md").read_text().partition(_BEFORE)[2].split(_BETWEEN)[part]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert len(rows) == 2 + 7  # heads, a line, all methods but dense
    return {method: cells for method, *cells in rows[2:]}


def _shown(found: dict[str, dict[str, dict[str, float]]], method: str) -> list[str]:
    """Speed and energy gain on each network, as the page rounds them."""
    return [f"{found[network][method][what]:.2f}" for network in NETWORKS for what in ("speedup", "energy_gain")]


def test_by_ratios() -> None:
    found = _replay()
    for method, cells in _rows(0).items():
        assert [*cells[0::6], *cells[3::6]] == [_shown(found, method)[i] for i in (0, 2, 1, 3)], method
    for method, cells in _rows(1).items():
        assert cells[1::2] == _shown(found, method), method


@pytest.mark.slow
def test_mapped() -> None:
    found = _replay("--mapped")
    for method, cells in _rows(1).items():
        assert cells[0::2] == _shown(found, method), method
