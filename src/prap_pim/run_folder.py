"""The folder of one run: who may write there, what it holds, and how a killed run is found again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prap_pim.errors import UserError
from prap_pim.files import read_json, write_json, write_whole
from prap_pim.settings import read_yaml

_FORMAT = "prap-pim run 1"
_LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder. Every file there is whole, because files are written aside and renamed."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Format, versions, seed, threads, and the hashes of the plans once the run has finished."""
        return self.path / "manifest.json"

    @property
    def results(self) -> Path:
        """Every figure, with its unit."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def comparison(self) -> Path:
        """Every figure of every method, a line each."""
        return self.path / "comparison.csv"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the base training."""
        return self.path / "checkpoints"

    def method(self, name: str) -> Path:
        """The folder of one method: its checkpoints, plan.safetensors and result.json."""
        return self.path / "methods" / name


@contextmanager
def open_run(path: Path, config: dict[str, Any], manifest: dict[str, Any], resume: bool) -> Iterator[RunFolder]:
    """Take a folder for one run and hold it against a second process until the block ends.

    Args:
        path: the folder; made when missing.
        config: the resolved configuration as plain values.
        manifest: what else identifies the run: versions, seed.
        resume: go on with the run that the folder holds, if its configuration is the same.

    Raises:
        UserError: the folder holds another run, something else, or is in use; or it cannot be written.
    """
    folder = RunFolder(path)
    _refuse_foreign(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"cannot use the output folder {path}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"the output folder {path} is in use by another process") from error
        _claim(folder, config, manifest, resume)
        yield folder
    finally:
        os.close(handle)


def _refuse_foreign(folder: RunFolder) -> None:
    """A run writes its config first: files without one belong to somebody else."""
    try:
        if not folder.path.exists() or folder.config.exists():
            return
        others = [p.name for p in folder.path.iterdir() if p.name != _LOCK and not p.name.endswith(".part")]
    except OSError as error:
        raise UserError(f"cannot use the output folder {folder.path}: {error.strerror or error}") from error
    if others:
        raise UserError(f"the output folder {folder.path} is not empty and holds no run: choose another with --output")


def _claim(folder: RunFolder, config: dict[str, Any], manifest: dict[str, Any], resume: bool) -> None:
    if not folder.config.exists():
        write_whole(folder.config, yaml.safe_dump(config, sort_keys=False))
        write_json(folder.manifest, {"format": _FORMAT, **manifest})
        return
    difference = _first_difference(config, read_yaml(folder.config))
    if difference:
        raise UserError(
            f"the output folder {folder.path} holds another run ({difference}): choose another with --output"
        )
    if not resume:
        raise UserError(
            f"the output folder {folder.path} holds this run already: "
            "go on with --resume, or choose another with --output"
        )
    for leftover in folder.path.rglob(".*.part"):  # of a process that was killed while it wrote
        leftover.unlink(missing_ok=True)
    if folder.manifest.exists():
        before = read_json(folder.manifest).get("versions", {})
        for package, version in manifest["versions"].items():
            if before.get(package, version) != version:
                raise UserError(
                    f"the run in {folder.path} was begun with {package} {before[package]}, this is {version}: "
                    "its figures could differ; choose another folder with --output"
                )
    else:  # killed between the two files
        write_json(folder.manifest, {"format": _FORMAT, **manifest})


def _first_difference(new: Any, old: Any, where: str = "") -> str | None:
    if isinstance(new, dict) and isinstance(old, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            found = _first_difference(new.get(key), old.get(key), f"{where}.{key}" if where else str(key))
            if found:
                return found
        return None
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        for index, (one, other) in enumerate(zip(new, old, strict=True)):
            found = _first_difference(one, other, f"{where}.{index}")
            if found:
                return found
        return None
    return None if new == old else f"its {where} is {old!r}, not {new!r}"
