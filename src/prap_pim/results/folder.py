"""The folder of one run: who may write there, what it holds, and how a killed run is found again."""

import fcntl
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of, file_digest, json_text, key_of, read_json, write_json, write_whole
from prap_pim.common.settings import Settings, read_yaml
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.entries import check_entries, damaged
from prap_pim.results.run import MethodResult, Results
from prap_pim.results.study import STUDY, StudyResults

PLAN = "plan.safetensors"  # of a method's folder
TABLES = "components"  # the folder of the user's own component tables
_LOCK = ".lock"
_OF_METHODS = ("*.json", "*.safetensors")  # what finished results rest on; checkpoints are in a folder of their own


class Manifest(Settings):
    """What a run's figures depend on beside its configuration.

    Attributes:
        format: of the folder.
        seed: of everything random.
        threads: that share the sums of floats.
        versions: of Python and the packages that compute.
        arithmetic: accelerator and precision of the training.
        inputs: digests of what the configuration only names: chip, component figures, data, the user's weights.
        plans: digests of the plans by method (``NetworkPlan.digest``, over values, not file bytes), once finished.
        files: digests of all files that a finished folder must have as they were written, by their paths in it. None:
            not finished, or by an earlier version, which kept none.
        coming: digests of files that are about to take the place of others: either is right.
        started_in: the directory that relative paths of the configuration were of; empty: not noted.
    """

    from_outside = False

    format: Literal["prap-pim run 1", "prap-pim study 1"] = "prap-pim run 1"
    seed: int
    threads: int = Field(ge=1, le=1024)
    versions: dict[str, str]
    arithmetic: dict[str, str] = Field(default={"accelerator": "cpu", "precision": "32-true"})  # before it was noted
    inputs: dict[str, str]
    plans: dict[str, str] | None = None
    files: dict[str, str] | None = None
    coming: dict[str, str] = Field(default={})
    started_in: str = ""

    @property
    def origin(self) -> "Manifest":
        """Without what is added when the run or study finishes."""
        return self.model_copy(update={"plans": None, "files": None, "coming": {}, "started_in": ""})

    def check_file(self, folder: Path, name: str) -> None:
        """
        Raises:
            UserError: a file of the folder is missing, or not what was written, as far as that is known.
        """
        if (digest := (self.files or {}).get(name)) is None:
            return
        path = folder / name
        if path.exists() and not path.is_file():
            raise damaged(path)
        if file_digest(path) not in (digest, self.coming.get(name)):
            raise damaged(path)


class Inside:
    """A path inside a folder, by its name there: an attribute of the folder's class."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: "RunFolder", kind: type["RunFolder"]) -> Path:
        """Of this folder."""
        return folder.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder. Every file there is whole, because files are written aside and renamed."""

    path: Path
    kind = "run"  # what the folder holds, for messages
    config = Inside("config.yaml")  # the resolved configuration
    manifest = Inside("manifest.json")  # see ``Manifest``
    chip = Inside("chip.json")  # the chip itself, which the configuration only names
    results = Inside("results.json")  # every figure, with its unit
    study = Inside(STUDY)  # see ``StudyResults``; a run has none
    report = Inside("report.html")  # the page for people
    comparison = Inside("comparison.csv")  # every figure of every method, a line each
    checkpoints = Inside("checkpoints")  # of the base training
    diverged = Inside("diverged")  # says that a training diverged: another recipe may begin anew in this folder
    simulations = Inside("simulations")  # what simulations have measured so far, a file for each device

    def read_manifest(self) -> Manifest:
        """The manifest that the folder holds.

        Raises:
            UserError: it is missing or broken.
        """
        content = read_json(self.manifest)
        digest = content.pop("sha256", None) if isinstance(content, dict) else None  # earlier versions wrote none
        if digest is not None and digest != key_of(content):
            raise damaged(self.manifest)
        return Manifest.checked(content, str(self.manifest))

    def write_manifest(self, manifest: Manifest) -> None:
        """
        Raises:
            UserError: it cannot be written.
        """
        content = manifest.model_dump()
        write_json(self.manifest, {**content, "sha256": key_of(content)})

    def finish(self, results: Results | StudyResults) -> None:
        """Write the results, which say that the run or study has finished, and digests of all that they rest on.

        Whoever is killed here leaves the old results or the new ones, and a manifest that knows them.

        Raises:
            UserError: the folder cannot be written.
        """
        place = self.results if isinstance(results, Results) else self.study
        text = json_text(results.model_dump())
        manifest, before = self.read_manifest(), place.exists()
        files = manifest.files if before and isinstance(results, Results) else None  # as they were when it finished
        if files is None:
            patterns = (*(f"methods/*/{pattern}" for pattern in _OF_METHODS), f"{TABLES}/*")
            kept = sorted(path for pattern in patterns for path in self.path.glob(pattern))
            paths = [self.config, *([self.chip] if self.chip.exists() else []), *kept]
            files = {path.relative_to(self.path).as_posix(): file_digest(path) for path in paths}
        update: dict[str, Any] = {"files": {**files, place.name: digest_of(text)}, "coming": {}}
        if isinstance(results, Results):
            update["plans"] = {method.name: method.plan_sha256 for method in results.methods}
        manifest = manifest.model_copy(update=update)
        if before:
            either = {"files": {**files, place.name: file_digest(place)}, "coming": {place.name: digest_of(text)}}
            self.write_manifest(manifest.model_copy(update=either))
        else:
            self.write_manifest(manifest)
        write_whole(place, text)
        if before:
            self.write_manifest(manifest)

    def check_whole(self) -> None:
        """The one check of a finished folder, run or study: all that its results rest on is as it was written.

        Of a run by an earlier version, which kept fewer digests, what they tell; results that somebody took out of
        their folder, alone, are taken as they are.

        Raises:
            UserError: a file is missing or damaged, which is named.
        """
        parts = (self.config, self.manifest, *(self.path / name for name in ("methods", "trials")))
        if not any(part.exists() for part in parts):
            return
        manifest = self.read_manifest()
        try:
            for name in manifest.files or {}:
                manifest.check_file(self.path, name)
        except UserError:
            if self.read_manifest() != manifest:  # somebody has put in other results since
                return self.check_whole()
            raise
        if manifest.files is None:
            read_yaml(self.config)
            for place in sorted(self.path.glob("methods/*")):
                check_entries(place)

    def read_results(self) -> Results:
        """The results of a finished run.

        Raises:
            UserError: the folder holds no finished run, or one of which a file is missing or damaged.
        """
        self._check(self.results)
        self.check_whole()
        results = Results.load(self.results)
        if self.manifest.exists() and self.read_manifest().files is None:
            for method in results.methods:
                self.load_plan(method)
        return results

    def check_finished(self) -> None:
        """
        Raises:
            UserError: the folder holds no finished run with its configuration.
        """
        self._check(self.results, self.config)

    def read_study(self) -> StudyResults:
        """The results of a finished study.

        Raises:
            UserError: the folder holds no finished study, or one of which a file is missing or damaged.
        """
        self._check(self.study)
        self.check_whole()
        return StudyResults.load(self.study)

    def _check(self, *files: Path) -> None:
        """
        Raises:
            UserError: one of these is not there; what the folder holds instead is said.
        """
        try:
            missing = [file for file in files if not file.is_file()]
            if missing:
                raise UserError(self._instead(missing[0]))
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _instead(self, missing: Path) -> str:
        if not self.path.is_dir():
            return f"{self.path} is no folder" if self.path.exists() else f"there is no folder {self.path}"
        asked = "study" if missing == self.study else "run"
        if not any(file.exists() for file in (self.config, self.results, self.study)):
            return f"{self.path} is not the folder of a {asked}: it holds no {missing.name}"
        if self.study.exists():
            return f"{self.path} is the folder of a study, not of a run: see prap-pim plot --figure pareto"
        if _begun_as_study(self.manifest):
            return f"the study in {self.path} has not finished: go on with prap-pim explore ... --resume"
        if asked == "study":
            return f"{self.path} is the folder of a run, not of a study (prap-pim explore makes one)"
        if self.results.exists():
            return f"{self.path} is not the whole folder of a run: it holds no {missing.name}"
        return f"the run in {self.path} has not finished: go on with prap-pim run ... --resume"

    def method(self, name: str) -> Path:
        """The folder of one method: checkpoints, plan.safetensors, digital.safetensors, and what its stages found.

        Raises:
            UserError: the name, which may come from a file of somebody else's, would lead elsewhere.
        """
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UserError(f"{self.path}: a method cannot be called {name!r}")
        return self.path / "methods" / name

    def load_plan(self, method: MethodResult) -> NetworkPlan | None:
        """The plan of a method; None: there is none, as in runs of early versions.

        Raises:
            UserError: it is damaged, or not that of the results.
        """
        file = self.method(method.name) / PLAN
        if not file.exists():
            return None
        plan = NetworkPlan.load(file)
        if plan.digest() != method.plan_sha256:
            raise UserError(f"{file} is damaged: it is not the plan of this run's results")
        return plan


def _begun_as_study(manifest: Path) -> bool:
    try:
        return str(read_json(manifest)["format"]).startswith("prap-pim study")
    except (UserError, KeyError, TypeError):
        return False


@contextmanager
def open_run(path: Path, config: dict[str, Any], manifest: Manifest, resume: bool) -> Iterator[RunFolder]:
    """Take a folder for one run and hold it against a second process until the block ends.

    Args:
        path: the folder; made when missing.
        config: the resolved configuration as plain values.
        manifest: what else the figures depend on.
        resume: go on with the run that the folder holds, if its configuration is the same.

    Raises:
        UserError: the folder holds another run, something else, or is in use; or it cannot be written.
    """
    folder = RunFolder(path)
    refuse_foreign(folder)
    with _held(path):
        claim(folder, config, manifest, resume)
        if resume:
            remove_leftovers(folder)
        yield folder


@contextmanager
def open_finished(path: Path) -> Iterator[RunFolder]:
    """Take the folder of a finished run and hold it against a second process until the block ends.

    Raises:
        UserError: the folder holds no run or an unfinished one, or is in use; or it cannot be written.
    """
    folder = RunFolder(path)
    folder.check_finished()
    with _held(path):
        remove_leftovers(folder)
        yield folder


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """The lock of a run's folder, which is made when missing."""
    handle = open_lock(path)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"the output folder {path} is in use by another process") from error
        yield
    finally:
        os.close(handle)


def open_lock(path: Path) -> int:
    """The file that holds the locks of a folder, open; the folder is made when missing.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        return os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"cannot use the output folder {path}: {error.strerror or error}") from error


def refuse_foreign(folder: RunFolder) -> None:
    """A run writes its config first: files without one belong to somebody else.

    Raises:
        UserError: there are such files, or the folder cannot be read.
    """
    try:
        if not folder.path.exists() or folder.config.exists():
            return
        others = [path.name for path in folder.path.iterdir() if not _is_ours(path)]
    except OSError as error:
        raise UserError(f"cannot use the output folder {folder.path}: {error.strerror or error}") from error
    if others:
        raise UserError(
            f"the output folder {folder.path} is not empty and holds no {folder.kind}: choose another output (--output)"
        )


def _is_ours(path: Path, *names: str) -> bool:
    """Whether a process that was killed at once may have left this."""
    return path.name in (_LOCK, *names) or path.name.endswith(".part")


def claim(folder: RunFolder, config: dict[str, Any], manifest: Manifest, resume: bool) -> None:
    """Make an empty folder that of a run, or see that it is that run's already.

    Raises:
        UserError: it holds another run, or this one and it is not to be resumed, or this one begun with other versions
            or inputs; or it cannot be written.
    """
    if not folder.config.exists():
        write_whole(folder.config, yaml.safe_dump(config, sort_keys=False))
        folder.write_manifest(manifest)
        return
    known = folder.manifest.exists()
    if known:
        begun, text = folder.read_manifest(), yaml.safe_dump(config, sort_keys=False)
        try:
            begun.check_file(folder.path, folder.config.name)
        except UserError:
            if not resume or (begun.files or {}).get(folder.config.name) != digest_of(text):
                raise
            write_whole(folder.config, text)  # as it was
    kept = read_yaml(folder.config)
    difference = _first_difference(config, kept)
    if difference and resume and folder.diverged.exists():
        one, other = ({key: value for key, value in each.items() if key != "training"} for each in (config, kept))
        if _first_difference(one, other) is None:
            _begin_anew(folder, config, manifest)
            return
    if difference:
        raise UserError(
            f"the output folder {folder.path} holds another {folder.kind} ({difference}): "
            "choose another output (--output)"
        )
    if not resume:
        raise UserError(
            f"the output folder {folder.path} holds this {folder.kind} already: "
            "go on with --resume (resume=True), or choose another output (--output)"
        )
    if not known:
        if any(not _is_ours(path, folder.config.name) for path in folder.path.iterdir()):
            raise UserError(
                f"{folder.manifest} is missing, which says what the {folder.kind} was begun with: "
                "choose another output (--output)"
            )
        folder.write_manifest(manifest)  # killed between the two files
        return
    before = folder.read_manifest()
    for what, old, new in (
        ("another version of", before.versions, manifest.versions),
        ("other content of", before.inputs, manifest.inputs),
    ):
        changed = [key for key in new if old.get(key) != new[key]]
        if changed:
            raise UserError(
                f"the {folder.kind} in {folder.path} was begun with {what} {changed[0]}: "
                "its figures would differ; choose another output (--output)"
            )
    for key, value in before.arithmetic.items():
        if manifest.arithmetic.get(key) != value:
            raise UserError(f"the run in {folder.path} was begun with --{key} {value}: go on with that")


def _begin_anew(folder: RunFolder, config: dict[str, Any], manifest: Manifest) -> None:
    """In the place of a run whose training has diverged, with another recipe: no checkpoint is of use to that."""
    for place in (folder.checkpoints, *folder.path.glob("methods/*/checkpoints")):
        for file in place.glob("epoch-*.safetensors"):
            file.unlink(missing_ok=True)
    folder.manifest.unlink(missing_ok=True)
    write_whole(folder.config, yaml.safe_dump(config, sort_keys=False))
    folder.write_manifest(manifest)
    folder.diverged.unlink(missing_ok=True)


def remove_leftovers(folder: RunFolder) -> None:
    """Remove the unfinished files of processes that were killed; nobody else may be writing there."""
    for leftover in folder.path.rglob(".*.part"):
        with suppress(OSError):  # of a folder that can only be read
            leftover.unlink()


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
    return None if new == old else f"its {where} is {reprlib.repr(old)}, not {reprlib.repr(new)}"
