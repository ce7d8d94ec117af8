"""The drawings of the methods show the plans that the methods make today."""

import importlib

import numpy as np
import pytest

import prap_pim
from tests.docs.pages import ROOT

ON_WEIGHTS = ("dense", "structured", "pattern", "orc", "identical", "similar", "structured-identical", "prap")


@pytest.mark.parametrize("name", [*ON_WEIGHTS, "calibrated", "lowbit"])
def test_it_is_of_the_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    drawings = importlib.import_module("method_drawings")
    method, words = drawings.METHODS[name]
    plan = prap_pim.compress(*drawings.example(), method).plan.layers["0"]
    kept = (ROOT / "docs" / "drawings" / f"method-{name}.svg").read_text()
    if name in ON_WEIGHTS:
        assert kept == drawings.drawing(name, plan, words)
    columns = plan.weight_bits * np.diff(plan.donor_start)  # of each row group, in OUs of 8
    assert f"Stored: {np.ceil(columns / 8).sum():.0f} of 12 OUs" in kept
