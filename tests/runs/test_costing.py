"""What a run says of times and energy, as its configuration asks for them: the same as ``estimate`` says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.results.run import MethodResult, Results

INPUTS = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.2
METHODS = prap_pim.Dense(), prap_pim.Similar(keep=0.5)
BOTH = {"timing": "events", "data": "calibration"}


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 64, 16)).eval()


def compared(folder: Path, **settings: Any) -> list[MethodResult]:
    prap_pim.compare(network(), INPUTS, methods=METHODS, output=folder, **settings)
    return Results.load(folder / "results.json").methods


@pytest.mark.parametrize("given", [{"timing": "events"}, {"data": "calibration"}, BOTH])
def test_a_run_says_what_estimate_says(tmp_path: Path, given: dict[str, str]) -> None:
    asked = {"timing": given.get("timing", "formula"), "data": INPUTS if "data" in given else None}
    found, plain = compared(tmp_path / "r", cost=given), compared(tmp_path / "plain")
    for method, result, other in zip(METHODS, found, plain, strict=True):
        compression = prap_pim.compress(network(), INPUTS, method)
        costs = prap_pim.estimate(compression, **asked)
        assert compression.plan.digest() == result.plan_sha256 == other.plan_sha256
        assert result.energy_j == pytest.approx(costs.energy_j)
        assert result.energy_breakdown_j == pytest.approx(costs.energy_breakdown_j)
        assert result.pipelined.latency_s == pytest.approx(costs.pipelined.latency_s)
        assert result.pipelined.throughput_per_s == pytest.approx(costs.pipelined.throughput_per_s)
        assert result.serial == other.serial
        assert (result.energy_j != other.energy_j) == ("data" in given)
        assert (result.pipelined != other.pipelined) == ("timing" in given)
        assert (result.at_budget.energy_j != other.at_budget.energy_j) == ("data" in given)
        assert (result.at_budget.pipelined != other.at_budget.pipelined) == ("timing" in given)
    results = Results.load(tmp_path / "r/results.json")
    assert (results.timing, results.energy_of) == (asked["timing"], given.get("data", "uniform"))


def test_rates_are_kept_and_damage_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compared(tmp_path / "r", cost=BOTH)
    (file,) = (tmp_path / "r/methods/similar").glob("data-rates.safetensors")
    whole = file.read_bytes()
    (tmp_path / "r/results.json").unlink()
    file.write_bytes(whole[:-1] + b"\x00")
    assert compared(tmp_path / "r", cost=BOTH) == before
    assert file.read_bytes() == whole
    monkeypatch.setattr("prap_pim.runs.stages.data_rates", None)  # nothing is measured again
    (tmp_path / "r/results.json").unlink()
    assert compared(tmp_path / "r", cost=BOTH) == before


def test_with_skipped_zero_inputs_pipelines_are_simulated_too(tmp_path: Path) -> None:
    skipping = compared(tmp_path / "r", cost={"timing": "events"}, zero_input_skipping=True)
    plain = compared(tmp_path / "plain", cost={"timing": "events"})
    for one, other in zip(skipping, plain, strict=True):
        assert one.pipelined.latency_s < other.pipelined.latency_s


def test_what_cannot_be_costed_so_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"cost\.data: the energy of calibration inputs is that of a chip that skips no"
    ):
        compared(tmp_path / "r", cost={"data": "calibration"}, zero_input_skipping=True)
    with pytest.raises(UserError, match=r"timing.*'formula' or 'events'"):
        compared(tmp_path / "r", cost={"timing": "event"})
    chip = prap_pim.load_chip("isaac-32nm")
    small = chip.model_copy(update={"name": "small", "max_tiles": 1, "crossbars_per_pe": 1, "pes_per_tile": 2})
    with pytest.raises(UserError, match="events: a network that is larger than the chip is timed by the formula alone"):
        compared(tmp_path / "r", cost={"timing": "events"}, chip=small)
    monkeypatch.setattr("prap_pim.cost.timing.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs one more package: pip install 'prap-pim\[events\]'"):
        compared(tmp_path / "r", cost={"timing": "events"})
    assert not (tmp_path / "r").exists()
