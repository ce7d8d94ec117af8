"""The settings of calibrated reuse, and where a method may not have others beside it."""

from typing import Any

import pytest

from prap_pim.common.errors import UserError
from prap_pim.methods.calibrate.config import CalibratedReuse
from prap_pim.methods.prune import NoPruning
from prap_pim.methods.reuse import NoReuse
from prap_pim.runs.config import RunConfig

REUSE = {"kind": "calibrated", "compute_ratio": 0.25}


def run_of(**method: Any) -> RunConfig:
    return RunConfig.checked({"name": "r", "methods": [{"name": "m", "reuse": REUSE, **method}]}, "f.yaml")


def test_either_budget_is_enough():
    assert CalibratedReuse(compute_ratio=0.25).max_drop is None
    assert CalibratedReuse(max_drop=0).compute_ratio is None
    assert CalibratedReuse(budget={"energy": 0.25}).share == ("energy", 0.25)
    assert CalibratedReuse(compute_ratio=0.25).share == CalibratedReuse(budget={"compute": 0.25}).share
    assert CalibratedReuse(max_drop=0).share is None
    config = run_of().methods[0]
    assert config.reuse == CalibratedReuse(compute_ratio=0.25)
    assert RunConfig.checked(run_of().resolved(), "again") == run_of()


@pytest.mark.parametrize(
    ("reuse", "message"),
    [
        ({"compute_ratio": None}, "give either compute_ratio"),
        ({"max_drop": 0.01}, "give either compute_ratio"),
        ({"compute_ratio": 0}, "compute_ratio: must be above 0, not 0"),
        ({"compute_ratio": 1.01}, "compute_ratio: must be at most 1, not 1.01"),
        ({"compute_ratio": float("nan")}, "compute_ratio: must be"),
        ({"compute_ratio": True}, "compute_ratio must be a number, not true"),
        ({"budget": {"energy": 0.5}}, "give either compute_ratio (--ratio), budget (--budget) or max_drop"),
        ({"compute_ratio": None, "budget": {"enrgy": 0.5}}, "budget: unknown key 'enrgy' (did you mean 'energy'?)"),
        ({"compute_ratio": None, "budget": {"energy": 0}}, "budget.energy: must be above 0, not 0"),
        ({"compute_ratio": None, "budget": {"latency": 1.5}}, "budget.latency: must be at most 1, not 1.5"),
        ({"compute_ratio": None, "budget": {"energy": True}}, "energy must be a number, not true"),
        ({"compute_ratio": None, "budget": 0.5}, "budget: must be pairs of a key and a value"),
        ({"compute_ratio": None, "budget": {}}, "budget: give exactly one of compute, energy, latency, interval"),
        ({"compute_ratio": None, "budget": {"energy": 0.5, "latency": 0.5}}, "budget: give exactly one of compute, "),
        ({"compute_ratio": None, "budget": {"interval": 0.5}, "balance": True}, "leave balance out"),
        ({"passes": False}, "passes must be a number, not false"),
        ({"compute_ratio": None, "max_drop": -0.1}, "max_drop: must be at least 0"),
        ({"compute_ratio": None, "max_drop": 1.5}, "max_drop: must be at most 1"),
        ({"shapes": []}, "shapes: "),
        ({"shapes": [5]}, "shapes.0: must be 9, 8 or 4, not 5"),
        ({"passes": -1}, "passes: "),
        ({"passes": 2.5}, "passes: "),
        ({"mimic": 1.1}, "mimic: "),
        ({"damping": 0}, "damping: "),
        ({"fisher": 1.5}, "fisher: "),
        ({"update_weight": -1}, "update_weight: "),
        ({"keep": 0.5}, "unknown key 'keep'"),
        ({"kind": "calibrted"}, "unknown kind 'calibrted' (did you mean 'calibrated'?)"),
    ],
)
def test_a_mistake_is_one_line(reuse: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        run_of(reuse={**REUSE, **reuse})
    assert message in str(caught.value)
    assert str(caught.value).startswith("f.yaml: methods.m.reuse")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"prune": {"kind": "pattern"}}, "calibrated reuse prunes by itself (reuse.shapes): leave prune out"),
        (
            {"exceptions": [{"layers": "a"}, {"layers": "b", "reuse": {"kind": "similar", "keep": 0.5}}]},
            "calibrated reuse has one budget: an exception can only leave layers dense",
        ),
        ({"exceptions": [{"layers": "b", "prune": {"kind": "pattern"}}]}, "an exception can only leave layers dense"),
        ({"exceptions": [{"layers": "b", "reuse": REUSE}]}, "exceptions.b.reuse"),
    ],
)
def test_nothing_else_prunes_or_reuses(method: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        run_of(**method)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_exception_leaves_layers_whole():
    method = run_of(prune={"kind": "none"}, exceptions=[{"layers": "stem.*"}]).methods[0]
    assert method.exceptions[0].prune == NoPruning()
    assert method.exceptions[0].reuse == NoReuse()


def test_calibrated_is_no_exception_to_another_method():
    exceptions = [{"layers": "stem.*", "reuse": REUSE}]
    with pytest.raises(UserError, match="unknown kind 'calibrated'"):
        run_of(reuse={"kind": "none"}, exceptions=exceptions)
