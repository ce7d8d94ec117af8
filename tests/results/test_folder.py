from pathlib import Path

import pytest

from prap_pim.common.errors import UserError
from prap_pim.results.folder import Manifest, RunFolder, open_finished, open_run
from tests.report.made_up import results
from tests.runs.crash import Killed, killed_at_write

CONFIG = {"name": "a", "methods": [{"keep": 0.5}], "seed": 0}
MANIFEST = Manifest(seed=0, threads=2, versions={"torch": "1"}, inputs={"chip": "aa"})


def take(path: Path, config=CONFIG, manifest=MANIFEST, resume=False) -> None:
    with open_run(path, config, manifest, resume):
        pass


def test_a_new_folder_and_its_resumption(tmp_path: Path):
    take(tmp_path / "r")
    assert (tmp_path / "r/config.yaml").exists()
    assert (tmp_path / "r/manifest.json").exists()
    take(tmp_path / "r", resume=True)
    with pytest.raises(UserError, match="holds this run already: go on with --resume"):
        take(tmp_path / "r")


def test_another_run_is_refused_and_the_difference_named(tmp_path: Path):
    take(tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"holds another run \(its methods.0.keep is 0.5, not 0.25\)"):
            take(tmp_path, {**CONFIG, "methods": [{"keep": 0.25}]}, resume=resume)
        with pytest.raises(UserError, match=r"its extra is None, not 1"):
            take(tmp_path, {**CONFIG, "extra": 1}, resume=resume)


def test_the_difference_is_told_shortly(tmp_path: Path):
    take(tmp_path, {**CONFIG, "methods": [{"keep": i / 100} for i in range(1000)]})
    with pytest.raises(UserError) as caught:
        take(tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_foreign_folder_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        take(tmp_path, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_cannot_share_a_folder(tmp_path: Path):
    with (
        open_run(tmp_path, CONFIG, MANIFEST, False),
        pytest.raises(UserError, match="in use by another process"),
        open_run(tmp_path, CONFIG, MANIFEST, True),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": {"torch": "2"}}, "begun with another version of torch"),
        ({"inputs": {"chip": "bb"}}, "begun with other content of chip"),
        ({"inputs": {"chip": "aa", "checkpoint": "cc"}}, "begun with other content of checkpoint"),
    ],
)
def test_another_origin_is_refused(tmp_path: Path, change: dict[str, object], message: str):
    take(tmp_path)
    with pytest.raises(UserError, match=message):
        take(tmp_path, manifest=MANIFEST.model_copy(update=change), resume=True)


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"versions": null}', "[" * 100_000])
def test_a_broken_manifest_is_one_line(tmp_path: Path, text: str):
    take(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        take(tmp_path, resume=True)


@pytest.mark.parametrize("left", ["results.json", "study.json", "checkpoints", "methods"])
def test_a_run_without_its_manifest_gets_no_other(tmp_path: Path, left: str):
    take(tmp_path)
    (tmp_path / left).mkdir()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing, which says what the run was begun with") as error:
        take(tmp_path, resume=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "manifest.json").exists()


def test_killed_in_any_write_of_the_results_the_folder_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It holds the old results or the new ones."""
    take(tmp_path)
    folder, found = RunFolder(tmp_path), [results(name="one"), results(name="two")]
    folder.finish(found[0])
    for write in (1, 2, 3):
        with monkeypatch.context() as patch:
            killed_at_write(patch, write)
            with pytest.raises(Killed):
                folder.finish(found[1])
        assert folder.read_results() == found[write > 2]
    folder.finish(found[1])
    assert folder.read_results() == found[1]
    assert folder.read_manifest().coming == {}
    found[0].save(folder.results)  # not by the folder
    with pytest.raises(UserError, match=r"results\.json is damaged: it is not what was written"):
        folder.read_results()


@pytest.mark.parametrize("left", [[], [".lock"], [".config.yaml.x.part"], ["config.yaml"]])
def test_killed_before_the_folder_was_claimed(tmp_path: Path, left: list[str]):
    take(tmp_path)
    for path in tmp_path.iterdir():
        if path.name not in left:
            path.unlink()
    for name in left:
        if name.endswith(".part"):
            (tmp_path / name).write_text("na")
    take(tmp_path, resume=True)
    assert (tmp_path / "manifest.json").exists()


def test_an_unusable_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot use the output folder"):
        take(tmp_path / "file")


def test_a_finished_run_is_taken_and_held(tmp_path: Path):
    with (
        pytest.raises(UserError, match=r"is not the folder of a run: it holds no results\.json"),
        open_finished(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # not even a lock
    take(tmp_path)
    with pytest.raises(UserError, match="has not finished: go on with"), open_finished(tmp_path):
        pass
    (tmp_path / "results.json").write_text("{}")
    with (
        open_finished(tmp_path),
        pytest.raises(UserError, match="in use by another process"),
        open_finished(tmp_path),
    ):
        pass
