"""The harness of benchmarks/gpt.py on its tiny network, and its page on points whose answers are plain."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prap_pim.common.files import read_json

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, small_library: None) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpt")


def _go(benchmark: ModuleType, folder: Path, *more: str) -> dict[str, dict[str, Any]]:
    """Points by line."""
    places = ["--cache", str(folder), "--output", str(folder / "points.json")]
    benchmark.main(["--quick", "--ratios", "1/2", *places, *more])
    return {point["line"]: point for point in read_json(folder / "points.json")["points"]}


def test_every_point_is_a_run_on_one_trained_network(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[str] = []
    monkeypatch.setattr(benchmark, "_show", lambda phase, done, total, note: phases.append(phase))
    points = _go(benchmark, tmp_path, "--write", str(tmp_path / "page.md"))
    assert list(points) == list(benchmark.LINES)
    dense = read_json(tmp_path / "points.json")["dense"]
    for point in points.values():
        assert point["float_bits_per_byte"] == dense["float_bits_per_byte"]
        assert point["compute_ratio"] == pytest.approx(0.5, rel=0.05)
        assert point["checked_outputs"] > 0
        assert point["mismatches"] == 0
    assert sum(phase.startswith("training to") for phase in phases) == 3 * 10  # once: 3 epochs of 120 windows by 12
    assert points["calibrated-tuned"]["bit_true_bits_per_byte"] < points["calibrated"]["bit_true_bits_per_byte"]
    better = points["prap"]["bit_true_bits_per_byte"] < points["similar"]["bit_true_bits_per_byte"]
    assert points["prap-tuned"]["description"] == ("prap" if better else "similar")
    assert (tmp_path / "page.md").read_text() in capsys.readouterr().out

    # done again, nothing is made anew but what is missing
    lost, kept = (next(tmp_path.glob(f"*/{name}-1of2/results.json")) for name in ("calibrated-tuned", "similar"))
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert _go(benchmark, tmp_path)["calibrated-tuned"] == points["calibrated-tuned"]
    assert kept.stat().st_mtime_ns == before


def _point(line: str, ratio: str, bits: float, cost: float = 1.0) -> dict[str, Any]:
    return {
        "line": line,
        "ratio": ratio,
        "network": "gpt (small)",
        "weights": 1_234_567,
        "training": "random (seed 0), trained for 9 epochs",
        "seed": 0,
        "data": "a text",
        "windows": {"train": 10, "calibration": 20, "test": 3000},
        "float_bits_per_byte": 2.0,
        "float_accuracy": 0.625,
        "bit_true_bits_per_byte": bits,
        "pipelined_latency_s": cost,
        "energy_j": 2 * cost**2,
    }


def test_the_page_by_hand(benchmark: ModuleType) -> None:
    points = [_point("orc", "1/8", 3.0, 0.25), _point("orc", "1/2", 2.05, 0.5), _point("calibrated", "1/8", 1.99, 0.5)]
    lines = benchmark.document(_point("dense", "1", 2.002), points).splitlines()
    assert "| line | 1/2 | 1/8 |" in lines
    assert "| orc | 2.050 (+2.5%) | 3.000 (+50.0%) |" in lines
    assert "| calibrated | - | 1.990 (-0.5%) |" in lines
    assert "| orc | 2.00x, 4.00x | 4.00x, 16.00x |" in lines
    assert any("2.000 bits per byte (62.5% of the next bytes right), dense bit-true 2.002 (+0.1%)" in x for x in lines)
    assert any("1,234,567 weights on crossbars" in x and "3,000 to test on" in x for x in lines)
