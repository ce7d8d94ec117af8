"""A finished run opened again: its compressed networks as they were, without training anything."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of, path_of, read_json
from prap_pim.common.settings import nearest, read_yaml
from prap_pim.frontend import Captured
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.folder import RunFolder, open_finished
from prap_pim.results.run import Results
from prap_pim.runs.config import RunConfig
from prap_pim.runs.places import chip_digest, roots_of
from prap_pim.runs.stages import saved_method
from prap_pim.runs.task import Task, load_task
from prap_pim.training.data import Splits


@dataclass(frozen=True)
class FinishedRun:
    """What the folder of a finished run holds and names.

    Attributes:
        folder: it is held until the block of ``reopen`` ends.
        config: as it was written.
        results: as they were written.
        task: the network and what it is for, as in the run.
        chip: likewise.
        inputs: digests of what the configuration only names.
    """

    folder: RunFolder
    config: RunConfig
    results: Results
    task: Task
    chip: Chip
    inputs: dict[str, str]

    def method(self, name: str) -> tuple[Captured, NetworkPlan]:
        """The compressed network of a method and its plan, as ``saved_method`` gives them.

        Raises:
            UserError: the run has no such method, or its files are missing or not those of the run.
        """
        methods = {method.name: method for method in self.results.methods}
        if name not in methods:
            raise UserError(f"no method {name!r} in the run {self.folder.path} ({nearest(name, list(methods))})")
        return saved_method(self.task.graph, self.folder.method(name))

    @property
    def splits(self) -> Splits:
        """The data, read again; the same as in the run."""
        return self.task.data


def reopen(
    path: str | Path, allow_imports: bool = False, task: Task | None = None
) -> AbstractContextManager[FinishedRun]:
    """Open the folder of a finished run, and hold it until the block ends.

    Args:
        path: the folder.
        allow_imports: whether code that its configuration names may run.
        task: the network and what it is for, where a program gave them; None: as the configuration says.

    Raises:
        UserError: it is not the folder of a finished run, is damaged or in use; or the data, which the run's
            configuration only names, are missing or have changed.
    """
    folder = path_of(path, "path")
    RunFolder(folder).check_finished()  # at once, not only where the block begins
    return _opened(folder, allow_imports, task)


@contextmanager
def _opened(path: Path, allow_imports: bool, task: Task | None) -> Iterator[FinishedRun]:
    with open_finished(path) as folder:
        results, manifest = folder.read_results(), folder.read_manifest()
        config = RunConfig.checked(read_yaml(folder.config), str(folder.config))
        roots = roots_of(folder)
        config = config.located(roots)
        without = config.model_copy(update={"checkpoint": None})
        task = task or load_task(without, allow_imports)
        kept = folder.chip
        chip = Chip.checked(read_json(kept), str(kept)) if kept.exists() else load_chip(config.chip)
        inputs, before = {"data": task.data_digest, "chip": chip_digest(chip)}, dict(manifest.inputs)
        if before.get("chip") == digest_of(chip.model_dump_json()):  # as earlier versions noted it
            before["chip"] = inputs["chip"]
        for what in inputs:
            if inputs[what] != before.get(what):
                raise UserError(f"the run in {path} was made with other content of {what}")
        yield FinishedRun(folder, config, results, task, chip, inputs)
