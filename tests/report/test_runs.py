"""Runs side by side: what may be compared is said, what differs is named."""

import io

import pytest
from rich.console import Console

from prap_pim.common.errors import UserError
from prap_pim.report.differences import NamedRun, aspects, read_runs, settings, verdict
from prap_pim.report.html.runs import render_runs
from prap_pim.report.runs import HEADINGS, proofs, rows
from prap_pim.report.terminal.runs import print_runs
from prap_pim.results.folder import Manifest, RunFolder
from tests.report.made_up import EVIL, layer, method, results


def two(**changes):
    return [NamedRun("runs/a", results(), {}), NamedRun("runs/b", results(**changes), {})]


def configured(one, other):
    """Runs whose configurations differ."""
    return [NamedRun("a", results(), one), NamedRun("b", results(), other)]


def test_runs_of_one_kind_can_be_compared():
    found = verdict(two(command="another"))
    assert found.alike
    assert found.same
    assert found.sentences == (
        "These runs have the same chip, network, data, training, seed, zero-input skipping, costing, versions "
        "and crossbar budget.",
    )
    assert [aspect.label for aspect in aspects(two(seed=5)) if aspect.differs] == ["seed"]


def test_what_differs_is_named_with_what_follows():
    other = results().chip.model_copy(update={"name": "other"})
    costs = "Latency, energy and area of different runs are not of the same thing"
    answers = "Accuracies of different runs are not of the same trained network"
    for changes, told, follows in (
        ({"chip": other, "data": "CIFAR-10", "network": "vgg16"}, "chip, network and data", [costs, answers]),
        ({"zero_input_skipping": True}, "zero-input skipping", [costs]),
        ({"energy_of": "calibration"}, "costing", [costs]),
        ({"timing": "events"}, "costing", [costs]),
        ({"images": {"test": 1}}, "data", [costs, answers]),
        ({"seed": 5, "weights": "trained longer"}, "training and seed", [answers]),
        ({"versions": {"prap-pim": "0.2.0"}}, "versions", []),
    ):
        found = verdict(two(**changes))
        first, *rest = found.sentences
        assert first == f"These runs differ in {told}."
        assert [sentence[: len(start)] for sentence, start in zip(rest, follows, strict=True)] == follows
        assert found.alike == (not follows)
        assert not found.same


def test_accuracies_that_say_nothing_are_named():
    found = verdict(two(float_accuracy=None, weights="random, never trained"))
    assert found.sentences[-1] == "runs/b: accuracy was not measured (random, never trained)."
    chance = [NamedRun("a", results(classes=10, float_accuracy=0.11), {}), NamedRun("b", results(classes=10), {})]
    found = verdict(chance)
    assert found.sentences[1:] == ("a: the float network, with 11.00 %, is no better than guessing among 10 classes.",)
    assert not found.alike
    lost = results(classes=10, methods=[method(0), method(1, bit_true_accuracy=0.1)])
    found = verdict([NamedRun("a", lost, {}), NamedRun("b", results(classes=10), {})])
    assert found.sentences[1:] == ("a: prap: no better than guessing.",)


def test_settings_that_differ_are_listed_and_those_that_no_aspect_tells_are_named():
    one = {"name": "a", "training.epochs": "5", "training.augment.kind": "affine", "mapping": "spread"}
    found = settings(configured(one, one | {"name": "b", "training.epochs": "6", "quantize.input_percentile": "99"}))
    assert [(each.label, each.values) for each in found] == [
        ("training.epochs", ("5", "6")),
        ("quantize.input_percentile", ("not set", "99")),
    ]
    told = verdict(configured(one, one | {"training.epochs": "6"})).sentences
    assert told[0] == "These runs differ in training.epochs."
    assert told[1].startswith("Accuracies of different runs")
    told = verdict(configured(one, one | {"mapping": "pack"})).sentences
    assert told[0] == "These runs differ in mapping."
    assert told[1].startswith("Latency, energy and area")
    many = {f"training.setting{i}": "1" for i in range(4)}
    assert verdict(configured(one, one | many)).sentences[0] == "These runs differ in 4 further settings."
    unknown = [NamedRun("a", results(), one), NamedRun("b", results())]
    assert verdict(unknown).sentences[1] == "Further settings are not compared: b came without a configuration."
    assert settings(unknown) == []


def test_settings_of_a_method_are_compared_where_all_runs_have_it():
    one = {"methods.prap.reuse.keep": "0.25", "methods.prap.description": "one", "methods.orc.prune.ratio": "0.2"}
    other = {"methods.prap.reuse.keep": "0.5", "methods.prap.description": "two"}
    found = configured(one, other)  # both have prap, neither has results of orc
    assert [each.label for each in settings(found)] == ["methods.prap.reuse.keep"]
    assert verdict(found).same  # runs of other methods are what one compares


def folder(path, config, **changes):
    results(**changes).save(path / "results.json")
    (path / "config.yaml").write_text(config)
    manifest = Manifest(seed=0, threads=1, versions={}, inputs={"data": "0123456789abcdef"})
    RunFolder(path).write_manifest(manifest)
    return RunFolder(path)


def test_runs_go_by_their_names_and_by_folders_only_where_they_have_one(tmp_path):
    config = (
        "name: x\ntraining: {epochs: 5, shards: null}\nmethods: [{name: prap, reuse: {keep: 0.25}}]\nlist: [1, {a: b}]"
    )
    paths = [tmp_path / name for name in ("a/seed0", "b/seed0", "c")]
    for path in paths:
        path.mkdir(parents=True)
    folders = [folder(path, config, name=name) for path, name in zip(paths, ("one", "one", "two"), strict=True)]
    found = read_runs(folders)
    assert [run.name for run in found] == ["one (a/seed0)", "one (b/seed0)", "two"]
    assert found[0].settings == {
        "name": "x",
        "training.epochs": "5",
        "methods.prap.reuse.keep": "0.25",
        "methods.prap.name": "prap",
        "list.0": "1",
        "list.1.a": "b",
    }
    assert found[2].inputs == {"data": "0123456789abcdef"}
    for name in ("config.yaml", "manifest.json"):  # results that somebody took out of their folder, alone
        (tmp_path / "c" / name).unlink()
    assert (read_runs(folders)[2].settings, read_runs(folders)[2].inputs) == (None, {})


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
@pytest.mark.parametrize("damage", ["{", None])
def test_a_folder_of_an_earlier_version_is_named_where_it_cannot_be_read(tmp_path, name, damage):
    made = folder(tmp_path, "name: x")
    file = tmp_path / name
    file.write_text(damage) if damage else file.unlink()
    with pytest.raises(UserError, match=f"{file}"):
        read_runs([made])


def test_a_configuration_made_to_explode_does_not(tmp_path):
    """Aliases that stand for 10^9 values."""
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for new, old in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]")
    with pytest.raises(UserError, match="more than 200,000 values"):
        read_runs([folder(tmp_path, "\n".join(lines))])


def test_data_of_another_content_differ():
    runs = [NamedRun(name, results(), {}, {"data": name * 64}) for name in "ab"]
    first, follows = verdict(runs).sentences
    assert first == "These runs differ in content and split of the data."
    assert follows.startswith("Accuracies")


def test_what_was_proven_is_told_for_each_run():
    wrong = method(1, layers=[layer("conv", 0, 1, mismatches=3)], checked_images=4)
    runs = two(methods=[wrong])
    runs.append(NamedRun("c", results(methods=[method(0, layers=[])]), {}))
    found = [(name, words, proof.checked, proof.mismatches) for name, words, proof in proofs(runs)]
    assert found == [
        ("runs/a", "exact", 2 * 20 * 65_536, 0),
        ("runs/b", "not exact", 65_536, 3),
        ("c", "not checked", 0, 0),
    ]


def test_chips_of_one_name_and_other_figures_differ():
    chip = results().chip
    dearer = chip.figures[0].model_copy(update={"value": 1.0})
    runs = two(chip=chip.model_copy(update={"figures": [dearer, *chip.figures[1:]]}))
    assert aspects(runs)[0].values == ("digits-128", "digits-128, with other figures (2)")
    assert not verdict(runs).alike
    alike = chip.model_copy(update={"cells_per_crossbar": None, "warnings": ["one"]})  # of an earlier version
    assert verdict(two(chip=alike)).same


def test_every_method_of_every_run_has_a_row():
    """Gains over the first method of the same run: 4.1/2.5, 0.9/0.6, 100/80, 12000/4000."""
    found = rows(two(methods=[method(1), method(0)]))
    assert [(run, name) for run, name, *_ in found] == [
        *(("runs/a", "dense"), ("runs/a", "prap"), ("runs/b", "prap"), ("runs/b", "dense")),
    ]
    cells = dict(zip(HEADINGS, (text for text, _ in found[1][2]), strict=True))
    assert cells == {
        "accuracy": "97.22 %",
        "compute ratio": "0.250",
        "latency, serial": "2.50 ms",
        "latency, pipelined": "600 µs",
        "throughput, pipelined": "7,000 /s",
        "energy": "80.0 µJ",
        "area": "2.13 mm²",
        "speedup, serial": "1.64x",
        "speedup, pipelined": "1.50x",
        "energy gain": "1.25x",
        "throughput gain, equal crossbars": "3.00x",
    }
    assert found[3][2][7][0] == "0.610x"
    assert [caveat for *_, caveat in rows(two(float_accuracy=0.99))] == [
        *("", ""),
        *(f"loses {lost} points of the float network's 99.00 %" for lost in ("1.41", "1.78")),
    ]


def test_the_terminal_tells_the_same():
    stream = io.StringIO()
    print_runs(two(seed=5, name="x\x1b[2J", command="\x1b]0;x\x07"), Console(file=stream, width=80))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "seed:\n  runs/a: 20231126\n  runs/b: 5" in text
    lines = [line.split() for line in text.splitlines()]
    assert (
        lines.count(["prap", *["97.22", "%", "2.50", "ms", "600", "µs", "80.0", "µJ", "2.13", "mm²", "1.64x", "1.25x"]])
        == 2
    )


def test_names_on_the_page_are_text():
    evil = NamedRun(EVIL[1], results(data=EVIL[0], command=EVIL[1]), {EVIL[0]: EVIL[1]})
    page = render_runs([NamedRun(EVIL[0], results(), {}), evil])
    assert "<script>alert" not in page
    assert "<img" not in page
    assert len(page.encode()) < 6_000_000
    assert "These runs differ in data" in page
