"""A finished run opened again: its compressed networks as they were, without training anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest, read_yaml
from prap_pim.frontend import Captured
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.ir.plan import NetworkPlan
from prap_pim.results.folder import RunFolder, open_finished
from prap_pim.results.run import Results
from prap_pim.runs.config import RunConfig
from prap_pim.runs.stages import digests, saved_method, trace
from prap_pim.training.data import Splits, load


@dataclass(frozen=True)
class FinishedRun:
    """What the folder of a finished run holds and names.

    Attributes:
        folder: it is held until the block of ``reopen`` ends.
        config: as it was written.
        results: as they were written.
        splits: read again; the same as in the run.
        chip: likewise.
        inputs: digests of what the configuration only names.
    """

    folder: RunFolder
    config: RunConfig
    results: Results
    splits: Splits
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
        return saved_method(self._graph, self.folder.method(name))

    @cached_property
    def _graph(self) -> Captured:
        return trace(self.config.model_copy(update={"checkpoint": None}), self.splits)


@contextmanager
def reopen(path: str | Path) -> Iterator[FinishedRun]:
    """Open the folder of a finished run, and hold it until the block ends.

    Raises:
        UserError: it is not the folder of a finished run, is damaged or in use; or the data or the chip, which the
            run's configuration only names, are missing or have changed.
    """
    with open_finished(Path(path)) as folder:
        results, manifest = folder.read_results(), folder.read_manifest()
        config = RunConfig.checked(read_yaml(folder.config), str(folder.config))
        splits, chip = load(config.data, config.seed), load_chip(config.chip)
        inputs = digests(config.model_copy(update={"checkpoint": None}), splits, chip)
        for what in ("data", "chip"):
            if inputs[what] != manifest.inputs.get(what):
                raise UserError(f"the run in {path} was made with other content of {what}")
        yield FinishedRun(folder, config, results, splits, chip, inputs)
