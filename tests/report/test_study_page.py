"""The page of a study: chips side by side."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prap_pim.report.html.study import write_study_report
from prap_pim.results.study import StudyResults, TrialResult
from tests.report.made_up import EVIL


def page(path: Path, trials: list[TrialResult], front: Sequence[int] = (0,)) -> str:
    found = StudyResults(
        name="chips",
        command="prap-pim explore",
        seed=0,
        sampler="grid",
        versions={},
        objectives={"energy_j": "minimize", "bit_true_accuracy": "maximize"},
        constraints={"area_m2": "<= 1"},
        space={"chip": "a, b", "keep": "any"},
        trials=trials,
        front=list(front),
    )
    write_study_report(found, path / "report.html", path / "config.yaml")
    return (path / "report.html").read_text()


def trial(number: int, chip: str, energy: float, accuracy: float | None, **more: Any) -> TrialResult:
    figures = {"energy_j": energy, "bit_true_accuracy": accuracy}
    return TrialResult(number=number, values={"chip": chip, "keep": number}, **{"figures": figures, **more})


def bars(text: str) -> dict[str, tuple[list[str], list[str]]]:
    """By objective: chips from the best down, and their figures."""
    (found,) = re.findall(r'<script type="application/json" id="chart-data">(.*?)</script>', text, re.DOTALL)
    (chips,) = [chart for chart in json.loads(found) if chart["id"] == "chips"]
    return {each["label"]: (each["layout"]["yaxis"]["ticktext"], each["data"][0]["text"]) for each in chips["choices"]}


def test_the_best_trial_of_each_chip_by_hand(tmp_path: Path) -> None:
    """Of chip a, trial 1 takes least and trial 0 is most accurate; trial 3 misses a constraint, 4 is impossible."""
    text = page(
        tmp_path,
        [
            trial(0, "a", 3e-6, 0.9),
            trial(1, "a", 1e-6, 0.5),
            trial(2, EVIL[0], 2e-6, 0.8),
            trial(3, EVIL[0], 1e-9, 1.0, violation={"area_m2": 0.5}),
            trial(4, "c", 0, None, reason="too small", figures={}),
        ],
    )
    evil = EVIL[0].replace("<", "&#60;").replace(">", "&#62;")
    assert bars(text) == {
        "energy": (["a", evil], ["1.00 µJ", "2.00 µJ"]),
        "accuracy": (["a", evil], ["90.00 %", "80.00 %"]),
    }


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("{model: {name: resnet20}, training: none}", True),
        ("{training: null}", True),
        ("{model: {name: resnet20}, training: none, checkpoint: net.pt}", False),
        ("{model: {name: resnet20}}", False),  # trained by PRAP's schedule
        ("{model: {name: given, kind: Net}, training: none}", False),
        ("{model: {import: 'nets:make'}, training: none}", False),
        ("{model: {name: onnx, onnx: net.onnx}, training: none}", False),
        ("{model: {transformers: folder}, training: none}", False),
        ("{model: {timm: vit}, training: none}", True),  # nothing is fetched
        ("{model: {name: torchvision, torchvision: vgg16}, training: none}", True),
        ("{model: {timm: vit}, training: none, checkpoint: vit.safetensors}", False),
    ],
)
def test_a_network_of_the_package_that_was_not_trained_is_warned_of(base: str, told: bool, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"base: {base}\n")
    assert ("its weights are random" in page(tmp_path, [trial(0, "a", 1.0, 0.5)])) == told


def test_a_trial_that_was_proposed_again_is_drawn_once(tmp_path: Path) -> None:
    trials = [trial(0, "a", 1e-6, 0.5), trial(1, "b", 2e-6, 0.4), trial(2, "c", 3e-6, 0.3)]
    trials[2] = trials[2].model_copy(update={"values": trials[0].values})
    text = page(tmp_path, trials)
    assert "same settings as trial 0" in text
    (found,) = re.findall(r'<script type="application/json" id="chart-data">(.*?)</script>', text, re.DOTALL)
    (points,) = [chart for chart in json.loads(found) if chart["id"] == "pareto"]
    assert {trace["name"]: len(trace["x"]) for trace in points["data"]} == {"front": 1, "met constraints": 1}


def test_of_equal_trials_of_a_chip_that_of_the_front_is_shown(tmp_path: Path) -> None:
    """Put last, so that the order of the trials does not choose it."""
    equal = trial(0, "a", 3e-6, 0.5), trial(1, "a", 1e-6, 0.5)
    text = page(tmp_path, [*equal, trial(2, "b", 2e-6, 0.4)], front=[1])
    (found,) = re.findall(r'<script type="application/json" id="chart-data">(.*?)</script>', text, re.DOTALL)
    (chips,) = [chart for chart in json.loads(found) if chart["id"] == "chips"]
    by_accuracy = next(each for each in chips["choices"] if each["label"] == "accuracy")
    assert by_accuracy["data"][0]["hovertext"][0].startswith("trial 1<br>")


@pytest.mark.parametrize(("least", "kind"), [(1e-6, "linear"), (1e-8, "log"), (0.0, "linear")])
def test_small_values_are_not_lost(least: float, kind: str, tmp_path: Path) -> None:
    text = page(tmp_path, [trial(0, "a", least, 0.5), trial(1, "a", 2e-6, 0.6)])
    (found,) = re.findall(r'<script type="application/json" id="chart-data">(.*?)</script>', text, re.DOTALL)
    layout = json.loads(found)[0]["layout"]
    assert layout["xaxis"]["type"] == kind
    assert layout["yaxis"]["autorangeoptions"] == {"clipmax": 100.0}  # %


@pytest.mark.parametrize(("energy", "said"), [(2e-6, False), (1.0001e-6, True)])
def test_a_front_whose_rounded_figures_look_dominated_is_explained(energy: float, said: bool, tmp_path: Path) -> None:
    text = page(tmp_path, [trial(0, "a", 1e-6, 0.5), trial(1, "a", energy, 0.6)], front=[0, 1])
    assert ("digits that are not shown" in text) == said


def test_one_chip_is_beside_no_other(tmp_path: Path) -> None:
    assert "Chips side by side" not in page(tmp_path, [trial(0, "a", 1.0, 0.5), trial(1, "a", 2.0, 0.6)])
