"""The control and the weights' error of benchmarks/robustness.py."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prap_pim.ir.plan import NetworkPlan
from tests.crossbar.test_model import one_filter_each

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("robustness")


def test_own_cells_compute_the_same_and_share_nothing(benchmark: ModuleType) -> None:
    plan = one_filter_each(np.arange(40).reshape(5, 8))
    use_donor = np.array([1, 1, 0, 1, 0], np.int32)
    plan = replace(plan, donors=plan.donors[:2], donor_start=np.array([0, 2]), use_donor=use_donor)
    plan = replace(plan, use_exponent=np.array([0, 2, -1, 0, 1], np.int8))
    apart = benchmark.own_cells(plan)
    np.testing.assert_array_equal(apart.weights(), plan.weights())
    assert len(np.unique(apart.use_donor)) == apart.uses == len(apart.donors) == 5


def test_error_of_a_weight_by_hand(benchmark: ModuleType) -> None:
    # -1 is eight conducting cells in two's complement, one in differential; its gain does not matter
    layer = one_filter_each(np.full((1, 8), -1))
    layer = replace(layer, use_exponent=np.array([3], np.int8))
    plan = NetworkPlan("one", {layer.name: layer}, {layer.name: 1.0})
    of_a_cell = np.sqrt(np.exp(0.04) * (np.exp(0.04) - 1))  # standard deviation of e^(0.2 z)
    assert benchmark.weight_error(plan, "differential") == pytest.approx(of_a_cell)
    squares = sum(4.0**bit for bit in range(8))
    assert benchmark.weight_error(plan, "two's complement") == pytest.approx(of_a_cell * np.sqrt(squares))
