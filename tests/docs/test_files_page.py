"""The page on files names every file of the folders that commands and the library leave."""

import re

from prap_pim.api import model
from prap_pim.results.folder import Inside, RunFolder
from prap_pim.runs.study.folder import StudyFolder
from tests.docs.pages import ROOT


def _section(title: str) -> set[str]:
    """Names in the first column of a section's table."""
    text = (ROOT / "docs" / "files.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}


def _inside(folder: type[RunFolder]) -> set[str]:
    return {each._name for each in vars(folder).values() if isinstance(each, Inside)}


def test_files_of_a_run() -> None:
    assert _inside(RunFolder) - {"study.json"} <= _section("A run")


def test_files_of_a_study() -> None:
    assert _inside(StudyFolder) | {"study.json"} <= _section("A study")


def test_files_of_a_saved_compression() -> None:
    saved = {model._PLAN, model._MODEL, model._CAPTURED, model._EXAMPLE, "manifest.json"}
    assert saved == _section("A saved compression")
