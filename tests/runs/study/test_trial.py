"""Studies of real, tiny networks: figures are those of a run, stages are shared, mistakes are one line."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

import prap_pim
from prap_pim.__main__ import main
from prap_pim.common.errors import UserError
from prap_pim.results.run import Results
from prap_pim.runs.stages import MethodStages
from prap_pim.runs.study import StudyConfig
from prap_pim.runs.study import trial as stages
from prap_pim.runs.study.space import SearchSpace

BASE: dict[str, Any] = {
    "data": {"name": "digits", "size": 8, "train": 120, "calibration": 40, "test": 40},
    "model": {"name": "cnn", "width": 4},
    "training": {"epochs": 2, "compress_at": 1, "batch_size": 40},
    "checked_images": 0,
    "methods": [
        {"name": "dense"},
        {
            "name": "prap",
            "prune": {"kind": "pattern", "group_channels": 2, "pointwise_group": 8},
            "reuse": {"kind": "similar", "keep": 0.5},
            "exceptions": [{"layers": "classifier"}],
        },
    ],
}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "base": BASE,
    "space": {
        "method": ["dense", "prap"],
        "chip.adc_bits": [4, 6],
        "chip.adcs_per_crossbar": [1, 2],
        "chip.crossbar_rows": [128, 64],
    },
    "objectives": ["latency", "energy", "accuracy", "at_budget.pipelined.throughput_per_s"],
    "constraints": {"area": "<= 1"},
    "sampler": "grid",
}


@pytest.fixture(scope="module")
def calls() -> dict[str, int]:
    return {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, calls: dict[str, int]) -> Path:
    """A study, its stages counted."""
    folder = tmp_path_factory.mktemp("study") / "s"
    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((stages, "train_network"), (MethodStages, "_compress"), (MethodStages, "_measure")):
            original = getattr(place, name)

            def counted(*args: Any, _name: str = name, _original: Any = original) -> Any:
                calls[_name] = calls.get(_name, 0) + 1
                return _original(*args)

            patch.setattr(place, name, counted)
        prap_pim.explore(STUDY, folder)
    return folder


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "study.json").read_text())["trials"]
    return found


def test_trials_that_differ_in_adc_and_crossbar_share_training_plan_and_accuracy(finished: Path, calls: dict[str, int]):
    assert len(trials(finished)) == 2 * 2 * 2 * 2
    assert calls == {"train_network": 1, "_compress": 2, "_measure": 2}
    told = [(trial["figures"]["energy_j"], trial["figures"]["serial.latency_s"]) for trial in trials(finished)]
    assert len(set(told)) == 16  # each was costed


def test_an_adc_that_loses_something_has_an_accuracy_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    proved = []
    measure = MethodStages._measure
    monkeypatch.setattr(MethodStages, "_measure", lambda self: proved.append(self.chip.adc_bits) or measure(self))
    study = {**STUDY, "space": {"method": ["dense"], "chip.adc_bits": [1, 2, 4, 5, 8]}}
    found = prap_pim.explore(study, tmp_path / "s").trials
    assert proved == [1, 2, 4]  # 4 bits count the 8 rows of an OU; more lose nothing either
    assert len({trial.figures["bit_true_accuracy"] for trial in found[2:]}) == 1
    assert found[0].figures["bit_true_accuracy"] < found[2].figures["bit_true_accuracy"]


def test_the_figures_of_a_trial_are_those_of_a_run(finished: Path, tmp_path: Path):
    """The same chip as a file, the same method, through ``prap-pim run``."""
    trial = next(
        trial
        for trial in trials(finished)
        if trial["values"]
        == {"method": "prap", "chip.adc_bits": 4, "chip.adcs_per_crossbar": 2, "chip.crossbar_rows": 128}
    )
    chip = tmp_path / "mine.toml"
    preset = (Path(prap_pim.__file__).parent / "hardware/chips/isaac-32nm.toml").read_text()
    text = preset.replace("adc_bits = 6", "adc_bits = 4").replace("adcs_per_crossbar = 1", "adcs_per_crossbar = 2")
    assert text != preset
    chip.write_text(text)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**BASE, "name": "tiny", "chip": str(chip)}))
    flags = ["--accelerator", "cpu", "--quiet"]
    assert main(["run", str(path), "--output", str(tmp_path / "r"), *flags]) == 0
    method = next(m for m in Results.load(tmp_path / "r/results.json").methods if m.name == "prap")
    figures = trial["figures"]
    for name in ("compute_ratio", "ou_steps", "energy_j", "area_m2", "crossbars", "bit_true_accuracy"):
        assert figures[name] == getattr(method, name), name
    assert figures["compressed_accuracy"] == method.compressed_accuracy
    assert figures["pipelined.latency_s"] == method.pipelined.latency_s
    assert figures["energy_breakdown_j.adc"] == method.energy_breakdown_j["adc"]
    assert figures["at_budget.pipelined.throughput_per_s"] == method.at_budget.pipelined.throughput_per_s
    assert figures["at_budget.budget"] == method.at_budget.budget


def test_what_nobody_asks_for_is_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MethodStages, "_measure", None)
    study = {**STUDY, "base": {**BASE, "training": "none"}, "objectives": ["energy"]}
    found = prap_pim.explore(study, tmp_path / "s").trials
    assert all(trial.reason is None for trial in found)
    assert not any("accuracy" in name or name.startswith("at_budget") for name in found[0].figures)


def test_a_chip_that_cannot_be_is_a_trial_without_figures(tmp_path: Path):
    space = {"chip.crossbar_rows": [32, 128], "chip.grain.ou_rows, chip.grain.ou_columns": [8, 64], "method": ["dense"]}
    study = {**STUDY, "base": {**BASE, "training": "none"}, "objectives": ["energy"], "space": space}
    found = prap_pim.explore(study, tmp_path / "s")
    assert [trial.reason is None for trial in found.trials] == [True, False, True, True]
    assert "an OU of 64 rows does not fit a crossbar of 32 rows" in str(found.trials[1].reason)
    assert "1 without figures" in (tmp_path / "s/report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"space": {"chip.adc_bit": [4]}},
            "setting 'chip.adc_bit': 'adc_bit' is unknown (did you mean 'adc_bits'?)",
        ),
        ({"space": {"chips.adc_bits": [4]}}, "'chips' is unknown (did you mean 'chip'?)"),
        ({"space": {"chip.grain.ou_row": [4]}}, "(did you mean 'ou_rows'?)"),
        ({"space": {"methods.parp.reuse.keep": [0.5]}}, "'parp' is unknown (did you mean 'prap'?)"),
        ({"space": {"methods.prap.reuse.kep": [0.5]}}, "'kep' is unknown (did you mean 'keep'?)"),
        ({"space": {"methods.prap.exceptions.clasifier.reuse": [0.5]}}, "(did you mean 'classifier'?)"),
        ({"space": {"seed.x": [1]}}, "nothing is below 'seed'"),
        ({"space": {"": [1]}}, "a setting's name is empty"),
        ({"space": {"chip.adc_bits, ": [4]}}, "a setting's name is empty"),
        ({"space": {"name": ["x"]}}, "name has no effect on a figure"),
        ({"space": {"methods.prap.name": ["x"]}}, "methods.prap.name has no effect on a figure"),
        ({"space": {"method": ["dense", "parp"]}}, "the base has no method 'parp' (did you mean 'prap'?)"),
        ({"space": {"chip": ["isaac-32n"]}}, "no chip 'isaac-32n' (did you mean 'isaac-32nm'?)"),
        ({"space": {"chip.adc_bits": [4, 40]}}, "chip.adc_bits: must be at most 16"),
        (
            {"space": {"chip.crossbars_per_adc": [1, 2, 3]}},
            "chip.crossbars_per_adc: 3 is possible on no chip: crossbars_per_adc (3) must divide crossbars_per_pe (8)",
        ),
        (
            {"space": {"chip.crossbars_per_adc": [1, 2, 3, 5], "chip.crossbars_per_pe": [4, 6, 8]}},
            "chip.crossbars_per_adc: 5 is possible on no chip: crossbars_per_adc (5) must divide crossbars_per_pe (8)",
        ),
        (
            {"space": {"chip.grain.ou_rows": [8, 256], "chip.crossbar_rows": {"low": 64, "high": 128, "step": 64}}},
            "chip.grain.ou_rows: 256 is possible on no chip: an OU of 256 rows does not fit a crossbar of 128 rows",
        ),
        ({"space": {"chip.grain.ou_rows": ["8"]}}, "ou_rows must be a whole number, not '8'"),
        ({"space": {"methods.prap.reuse.keep": [0.5, 2]}}, "keep: must be at most 1, not 2"),
        ({"space": {"crossbar_budget": {"low": 0, "high": 9}}}, "crossbar_budget: must be at least"),
        ({"space": {"chip.adc_bits": [4, 4]}}, "a value is given twice"),
        ({"space": {"chip.adc_bits": 4}}, "expected a list of values, or {low: ..., high: ...}"),
        ({"space": {"chip.adc_bits": {"low": 4, "hihg": 8}}}, "unknown key 'hihg' (did you mean 'high'?)"),
        ({"space": {"chip.adc_bits": {"low": 8, "high": 4}}}, "low (8) must be less than high (4)"),
        ({"space": {"chip.adc_bits": [4], "method, chip.adc_bits": [4]}}, "chip.adc_bits is given twice"),
        ({"space": {"chip.adc_bits": [4]}}, "the base has 2 methods; say which to try: method: [dense, prap]"),
        ({"space": {"chip.clock_hz": {"low": 1e9, "high": 2e9}}}, "a grid needs a step, or a list of values"),
        ({"space": {"crossbar_budget": {"low": 1, "high": 10**15}}}, "a grid of 1,000,000,000,000,000 points"),
        ({"space": {}}, "space: must not be empty"),
        ({"sampler": "nsga3"}, "sampler: must be 'grid', 'random', 'nsga2' or 'tpe', not 'nsga3'"),
        ({"sampler": "tpe"}, "trials is missing: tpe goes on for ever"),
        ({"objectives": ["latenzy"]}, "unknown figure 'latenzy' (did you mean 'latency'?)"),
        ({"objectives": {"energy": "small"}}, "objectives: must be 'minimize' or 'maximize'"),
        ({"objectives": {"energy": "minimize", "energy_j": "minimize"}}, "energy_j is given twice"),
        (
            {"objectives": ["latency", "energy", "pipelined.latency_s"]},
            "objectives: pipelined.latency_s is given twice",
        ),
        (
            {"objectives": []},
            "objectives: expected a list of figures, as accuracy, latency, throughput, energy, area, or",
        ),
        ({"objectives": {}}, "objectives: expected a list of figures"),
        ({"objectives": "energetic"}, "unknown figure 'energetic' (did you mean 'energy'?)"),
        ({"objectives": ["endured_inferences"]}, "endured_inferences cannot be asked for in a study: it is n/a"),
        ({"constraints": {"at_budget.endured_inferences": ">= 1"}}, "give cells_written, of which less is better"),
        ({"objectives": ["xyz"]}, "(allowed: accuracy, latency, throughput, energy, area, and those of results.json"),
        ({"space": {"chip.adc_bits": {"low": "a", "high": 4}}}, "space.chip.adc_bits.low: must be a number, not 'a'"),
        ({"space": {"chip.adc_bits": {"low": 4}}}, "space.chip.adc_bits.high is missing"),
        ({"constraints": {"area": "< 3"}}, "constraints.area: expected '<= NUMBER' or '>= NUMBER'"),
        ({"constraints": {"area": ">= 1e308"}}, "study: constraints.area: limit must be 0, or between"),
        ({"constraints": {"area": ">= 1e999"}}, "study: constraints.area: must be finite"),
        ({"constraints": {"area": "<= 3", "area_m2": "<= 4"}}, "constraints: area_m2 is given twice"),
        ({"constraints": {"aera": "<= 3"}}, "unknown figure 'aera' (did you mean 'area'?)"),
        ({"base": {**BASE, "trainig": "none"}}, "base: unknown key 'trainig' (did you mean 'training'?)"),
        ({"base": "nowhere.yaml"}, "base: cannot read nowhere.yaml: No such file or directory"),
        ({"base": {**BASE, "training": "none"}}, "accuracy needs training or a checkpoint"),
        *(
            (
                {
                    "base": {**BASE, "training": training, "methods": [{"name": "orc", "compute_ratio": 0.001}]},
                    "objectives": ["energy"],
                    "space": {"chip.adc_bits": [4, 6]},
                },
                "a compute ratio of 0.001 is out of reach: orc has 0.",
            )
            for training in ("none", BASE["training"])
        ),
        ({"objectvies": []}, "unknown key 'objectvies' (did you mean 'objectives'?)"),
    ],
)
def test_mistakes_are_one_line_before_any_work(changes: dict[str, Any], complaint: str, tmp_path: Path):
    with pytest.raises(UserError) as error:
        prap_pim.explore({**STUDY, **changes}, tmp_path / "s")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "s").exists()


def test_settings_of_one_layer_and_of_several_at_once():
    space = {
        "method": ["prap"],
        "methods.prap.exceptions.classifier.reuse": [{"kind": "none"}, {"kind": "similar", "keep": 0.25}],
        "methods.prap.prune.pointwise_group, methods.prap.prune.shapes": [8, 16],
        "chip": ["isaac-32nm", "survey-32nm"],
        "chip.adc_bits": [7],
    }
    found = SearchSpace(StudyConfig.checked({**STUDY, "space": space}, "study"))
    grid = found.grid()
    assert len(grid) == 2 * 2 * 2
    point = found.point(grid[-1])
    (method,) = point.config.methods
    assert method.exceptions[0].reuse.model_dump() == {"kind": "similar", "keep": 0.25}
    assert (method.prune.pointwise_group, method.prune.shapes) == (16, 16)
    assert (point.chip.name, point.chip.adc_bits) == ("survey-32nm", 7)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid() == 0:  # whom modes do not stop
        folder = Path("/proc/nowhere")
    with pytest.raises(UserError, match="cannot use the output folder") as error:
        prap_pim.explore(STUDY, folder)
    assert "\n" not in str(error.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "study.yaml"
    base = {**BASE, "training": "none"}
    path.write_text(yaml.safe_dump({**STUDY, "base": base, "objectives": ["energy", "latency"]}, sort_keys=False))
    arguments = ["explore", str(path), "--output", str(tmp_path / "s"), "--processes", "1"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "tiny: 16 trials, " in shown
    assert "method=prap, adc_bits=4, adcs_per_crossbar=2, crossbar_rows=" in " ".join(shown.split())
    assert main(arguments) == 2
    assert "holds this study already: go on with --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "s/study.json").read_text())
    (tmp_path / "s/report.html").unlink()
    assert main(["report", str(tmp_path / "s")]) == 0
    assert "tiny: 16 trials, " in capsys.readouterr().out
    assert (tmp_path / "s/report.html").exists()
    assert main([*arguments, "--resume", "--set", "seed=3"]) == 2
    assert "holds another study (its seed is 0, not 3)" in capsys.readouterr().err
    assert main([*arguments[:-1], "no"]) == 2
    assert "'--processes': must be a whole number, not 'no'" in capsys.readouterr().err


def test_names_are_text_on_the_page_and_in_a_notebook(tmp_path: Path):
    bad = "<script>alert(1)</script>"
    base = {**BASE, "training": "none", "methods": [{"name": "dense", "description": bad}]}
    study = {**STUDY, "name": bad, "base": base, "space": {"chip.adc_bits": [5, 6]}, "objectives": ["energy"]}
    found = prap_pim.explore(study, tmp_path / "s")
    shown = found._repr_html_()
    for page in (shown, (tmp_path / "s/report.html").read_text()):
        assert bad not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert shown.count("<tr>") == 1 + len(found.front)
    assert "<td>5</td>" in shown
