"""A whole study: checked, begun or joined, run in as many processes as asked for, and its results written."""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from prap_pim.common.errors import UserError
from prap_pim.common.files import check_writable, path_of
from prap_pim.common.progress import Progress, quiet
from prap_pim.common.settings import read_yaml
from prap_pim.common.tables import data_frame
from prap_pim.report.html.study import front_table, write_study_report
from prap_pim.report.study import summary
from prap_pim.results.folder import Manifest
from prap_pim.results.study import StudyResults
from prap_pim.runs.fit import fitting_processes
from prap_pim.runs.stages import versions
from prap_pim.runs.study.config import StudyConfig
from prap_pim.runs.study.folder import Locks, StudyFolder, open_study
from prap_pim.runs.study.processes import in_processes
from prap_pim.runs.study.search import Search
from prap_pim.runs.study.tables import table, write_tables
from prap_pim.runs.study.trial import Stages
from prap_pim.runs.study.work import Kind, one_by_one, work
from prap_pim.training import torch_threads


class Study(StudyResults):
    """What ``explore`` returns: the trials of a study and its front."""

    _config: Path = PrivateAttr(default=Path())

    @staticmethod
    def of(folder: StudyFolder) -> "Study":
        """What a finished folder holds."""
        study = Study.load(folder.study)
        study._config = folder.config
        return study

    def __eq__(self, other: object) -> bool:
        """Wherever they are kept."""
        return isinstance(other, Study) and self.model_dump() == other.model_dump()

    def report(self, path: str | Path) -> None:
        """Write the page of the study, one HTML file that needs no network.

        Raises:
            UserError: it cannot be written.
        """
        check_writable(page := path_of(path, "path"))
        write_study_report(self, page, self._config)

    def to_pandas(self) -> Any:
        """The trials as a DataFrame, a row each: settings and figures, as in ``trials.parquet``.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(table(self, self.trials).to_pylist())

    def __repr__(self) -> str:
        return f"Study({self.name}: {summary(self)})"

    def _repr_html_(self) -> str:
        return front_table(self)


def explore_config(
    config: Any,
    output: str | Path | None,
    resume: bool,
    processes: int | None,
    scheduler: str | None,
    progress: Progress | None,
    allow_imports: bool,
) -> Study:
    """``prap_pim.explore`` of a configuration.

    Raises:
        UserError: as there.
    """
    if processes is not None and (not isinstance(processes, int) or isinstance(processes, bool) or processes < 1):
        raise UserError(f"processes must be a whole number of at least 1, or None for one per core, not {processes!r}")
    if not isinstance(config, Mapping | str | Path):
        raise UserError(f"config must be a study's values, or the path of a YAML file, not {config!r}")
    if isinstance(config, str | Path):
        study = StudyConfig.checked(read_yaml(Path(config)), str(config))
    else:
        study = StudyConfig.checked(dict(config), "study")
    folder = study.output if output is None else path_of(output, "output")
    how = "prap_pim.explore", resume, processes, scheduler, progress or quiet
    return run_study(study, folder, *how, Stages(allow_imports))


def run_study(
    config: StudyConfig,
    output: Path,
    command: str,
    resume: bool,
    processes: int | None,
    scheduler: str | None,
    progress: Progress,
    kind: Kind = Stages(),  # noqa: B008 (it is frozen)
) -> Study:
    """``prap_pim.explore`` with a checked configuration; what is not said here is as there.

    Args:
        command: how the user called it, for the report.
        kind: what finds the figures.

    Raises:
        UserError: as ``explore``.
    """
    manifest = Manifest(
        format="prap-pim study 1",
        seed=config.seed,
        threads=config.threads,
        versions=versions(),
        inputs=kind.check(config),
    )
    with ExitStack() as stack:
        client = None
        if scheduler is not None:  # before there is a folder
            from prap_pim.common.cluster import connected
            from prap_pim.runs.study.cluster import on_cluster

            client = stack.enter_context(connected(scheduler))
        folder, locks = stack.enter_context(open_study(output, config.resolved(), manifest, resume))
        search = Search(config, folder, locks)
        with suppress(UserError):  # results that cannot be read are made of the trials anew
            if search.finished == search.total:
                folder.check_whole()
                return Study.of(folder)
        progress("trials", search.finished, search.total, "")
        if client is not None:
            on_cluster(client, config, search, folder, locks, kind, progress)
        else:
            _here(config, search, folder, locks, processes, kind, progress)
        _write(config, command, search, folder, locks)
        return Study.of(folder)


def _here(
    config: StudyConfig,
    search: Search,
    folder: StudyFolder,
    locks: Locks,
    processes: int | None,
    kind: Kind,
    progress: Progress,
) -> None:
    count = processes or fitting_processes()
    if count > 1:
        in_processes(count, config, folder.path, kind, search.commit, progress)
        return
    with torch_threads(config.threads):
        work(search, folder, locks, one_by_one(config, kind(config, folder, locks, progress)), progress)


def _write(config: StudyConfig, command: str, search: Search, folder: StudyFolder, locks: Locks) -> None:
    """The results. Processes that finish together write the same, one after the other."""
    trials = [trial for _, trial in search.trials() if trial is not None]
    results = StudyResults(
        name=config.name,
        command=command,
        seed=config.seed,
        sampler=config.sampler,
        versions=versions(),
        objectives=config.objectives,
        constraints={name: str(limit) for name, limit in config.constraints.items()},
        space={name: str(values) for name, values in config.space.items()},
        trials=trials,
        front=search.front(),
    )
    with locks.order():
        write_tables(results, folder)
        write_study_report(results, folder.report, folder.config)
        folder.finish(results)
