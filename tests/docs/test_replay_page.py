"""The page on the authors' cost model gives the figures that its commands give."""

import io
import json
from contextlib import redirect_stdout

import pytest

from prap_pim.__main__ import main
from tests.docs.pages import ROOT

NETWORKS = ("vgg16", "resnet18", "resnet50", "wide-resnet")
Gains = dict[str, dict[str, dict[str, float]]]  # by network, method and what is gained


def _replay(*options: str) -> Gains:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["replay", "prap-2023", "--json", *options]) == 0
    return json.loads(printed.getvalue())


def _tables() -> list[dict[str, list[str]]]:
    """Those from "Result" on: the cells behind each method's name."""
    text = (ROOT / "docs" / "replay.md").read_text().partition("\n## Result\n")[2]
    tables = []
    for part in text.split("\n\n"):
        if part.startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
            assert len(rows) == 2 + 7  # heads, a line, all methods but dense
            tables.append({method: cells for method, *cells in rows[2:]})
    return tables


def _shown(gains: Gains, method: str, what: str) -> list[str]:
    return [f"{gains[network][method][what]:.2f}" for network in NETWORKS]


def test_by_ratios() -> None:
    gains = _replay()
    *results, speedups, energy_gains = _tables()
    for network, table in zip(NETWORKS, results, strict=False):
        for method, cells in table.items():
            assert [cells[0], cells[3]] == [f"{gain:.2f}" for gain in gains[network][method].values()], method
    assert len(results) == 2
    for method in speedups:
        assert speedups[method][1::2] == _shown(gains, method, "speedup"), method
        assert energy_gains[method][1::2] == _shown(gains, method, "energy_gain"), method


@pytest.mark.slow
def test_mapped() -> None:
    gains = _replay("--mapped")
    *_, speedups, energy_gains = _tables()
    for method in speedups:
        assert speedups[method][0::2] == _shown(gains, method, "speedup"), method
        assert energy_gains[method][0::2] == _shown(gains, method, "energy_gain"), method
