"""The wheel by itself: what is installed works without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ("src", "examples", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the repository."""
    copy, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info", ".numba_cache")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leftovers)
        else:
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(made), "."]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    (found,) = made.iterdir()
    return found


def test_it_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    package = ROOT / "src" / "prap_pim"
    wanted = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix[:4] != ".nb"}
    wanted |= {package / "examples" / p.name for p in (ROOT / "examples").glob("*.yaml")}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("prap_pim/")}
    assert names == {path.relative_to(package.parent).as_posix() for path in wanted}


@pytest.mark.flow
def test_it_runs_an_example_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(place)
    (tmp_path / "work").mkdir()
    small = ["--set", "training=null", "--set", "data.size=8", "--set", "model.depth=8"]
    command = [sys.executable, "-m", "prap_pim", "run", "--example", "digits", *small]
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "energy gain" in done.stdout
    assert (tmp_path / "work" / "runs" / "digits" / "report.html").exists()
    where = [sys.executable, "-c", "import prap_pim; print(prap_pim.__file__)"]
    found = subprocess.run(where, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(place))
