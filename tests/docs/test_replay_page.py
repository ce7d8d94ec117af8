"""The page on the authors' cost model gives the figures that its commands give."""

import io
import json
import re
import statistics
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


def test_the_claim_is_beside_what_comes_of_it() -> None:
    """The table of the claim is the quotient of the gains in the tables below it."""
    page = (ROOT / "docs" / "replay.md").read_text()
    by_ratios, by_mapping = re.findall(r"^structured\+identical ( .*)$", page.partition("## From settings")[0], re.M)
    gains = _replay()
    over = [
        gains[network]["prap"][what] / gains[network]["structured+identical"][what]
        for network in NETWORKS
        for what in ("speedup", "energy_gain")
    ]
    means = statistics.fmean(over[0::2]), statistics.fmean(over[1::2])
    assert re.findall(r"[0-9.]+", by_ratios) == [f"{value:.2f}" for value in (*over, *means)]
    assert f"from published ratios: {means[0]:.2f}x and {means[1]:.2f}x" in page
    *_, speedups, energy_gains = _tables()
    shown = [float(value) for value in re.findall(r"[0-9.]+", by_mapping)]
    for table, found in ((speedups, shown[0::2]), (energy_gains, shown[1::2])):
        own, other = ([float(cell) for cell in table[name][0::2]] for name in ("prap", "structured+identical"))
        quotients = [one / two for one, two in zip(own, other, strict=True)]
        assert found == pytest.approx([*quotients, statistics.fmean(quotients)], abs=0.01)


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
