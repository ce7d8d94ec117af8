"""A whole run of low bits, one-shot and with weights trained on: figures, and what a second try finds again."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from prap_pim.__main__ import main
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.run import Results
from tests.runs.test_calibrated_run import TINY

REUSE = {"kind": "lowbit", "compute_ratio": 0.4}
METHODS = [
    {"name": "one-shot", "finetune": False, "reuse": REUSE, "exceptions": [{"layers": "conv1"}]},
    {"name": "trained", "reuse": REUSE},
    {"name": "uniform", "finetune": False, "reuse": {"kind": "lowbit", "bits": [4]}},
]


def test_a_run_of_low_bits(tmp_path: Path) -> None:
    config, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump({**TINY, "methods": METHODS}))
    assert main(["run", str(config), "--output", str(folder), "--quiet"]) == 0
    results = Results.load(folder / "results.json")
    for method in results.methods:
        plan = NetworkPlan.load(folder / "methods" / method.name / "plan.safetensors")
        assert method.calibration is not None
        assert all(layer.mismatches == 0 and layer.checked_outputs > 0 for layer in method.layers)
        for layer, given in zip(method.layers, method.calibration.layers, strict=True):
            stored = plan.layers[layer.name]
            assert given.bits == stored.weight_bits
            assert (layer.ou_steps < layer.dense_ou_steps) == (stored.weight_bits < 8)
            assert np.abs(stored.donors).max() <= stored.largest_weight
            assert stored.uses == len(stored.donors)
    one_shot, trained, uniform = results.methods
    assert one_shot.compute_ratio <= 0.4
    assert trained.compute_ratio <= 0.4
    assert 0.5 <= uniform.compute_ratio < 0.55  # some OUs of a few filters are not full
    assert {given.bits for given in uniform.calibration.layers if uniform.calibration} == {4}
    assert one_shot.layers[0].ou_steps == one_shot.layers[0].dense_ou_steps  # the exception


@pytest.mark.parametrize("change", [{"compute_ratio": None}, {"compute_ratio": 0.1}, {"uses": 2}])
def test_a_mistake_ends_before_training(
    change: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    methods = [{"name": "m", "reuse": {**REUSE, **change}}]
    config.write_text(yaml.safe_dump({**TINY, "methods": methods}))
    assert main(["run", str(config), "--output", str(folder), "--quiet"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not folder.exists()
