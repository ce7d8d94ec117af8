"""The random plans of benchmarks/accumulate.py have the counts that its table says."""

import importlib
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prap_pim.hardware.grain import Grain
from prap_pim.mapping import steps

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("accumulate")


def test_plans_have_the_uses_and_the_ratio_that_they_are_named_for(benchmark: ModuleType) -> None:
    network = benchmark.encoder(2)
    assert [(layer.rows, layer.filters) for layer in network.layers[:6]] == [
        *[(384, 384)] * 4,
        *((384, 1536), (1536, 384)),
    ]
    assert len(network.layers) == 36
    random, grain = np.random.default_rng(0), Grain()
    for uses, bits, ratio in benchmark.PLANS.values():
        for layer in network.layers[3:6]:
            plan = benchmark.random_plan(layer, uses, bits, ratio, random)
            assert plan.weight_bits == bits
            found = Fraction(steps.ous(plan, grain), steps.dense_ous(layer, grain))
            assert found == pytest.approx(ratio, rel=0.03)  # whole OUs: 3 bits do not divide them
            served = np.bincount(plan.use_group * plan.filters + plan.use_filter)
            assert len(served) == plan.groups * plan.filters
            assert set(served.tolist()) == {max(uses, 1)}
