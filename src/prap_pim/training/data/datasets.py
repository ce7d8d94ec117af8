"""A Hugging Face data set as ``save_to_disk`` leaves it: Arrow files, read row by row where they lie."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import digest_of, read_json
from prap_pim.common.settings import nearest
from prap_pim.training.data.pictures import Pictures, to_calibrate
from prap_pim.training.data.splits import Examples, Splits, Streamed, load, stratified_order
from prap_pim.training.data.text import Windows

_HELD = ("validation", "test", "valid", "val")
_SHARE = 5
_TEXTS = ("string", "large_string")  # Arrow's names of types
_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


class DatasetsConfig(Pictures, Windows):
    """Pictures with labels, or text for language models.

    Attributes:
        path: the folder that ``save_to_disk`` wrote, of one data set or of several parts, as train and test.
        input: the column of pictures or text.
        label: the column of labels, whole numbers from 0; none of text.
    """

    name: Literal["datasets"] = "datasets"
    path: Path
    input: str = "image"
    label: str = "label"


@load.register
def _(config: DatasetsConfig, seed: int) -> Splits:
    parts = _parts(config.path)
    train, test = _Part(parts[0]), _Part(parts[1]) if len(parts) > 1 else None
    if train.kind(config.input) in _TEXTS:
        tokens, classes = config.tokens()
        texts = [tokens("\n".join(part.column(config.input))) for part in (train, *([test] if test else []))]
        return config.splits(f"{config.path.name} (the user's own)", texts, classes)
    generator = np.random.default_rng(seed)
    labels = train.labels(config.label)
    order = stratified_order(labels, generator)
    held = 0 if test is not None else min(config.test, len(order) // _SHARE)
    rest = order[held:]
    most = DatasetsConfig.model_fields["calibration"].default
    count = to_calibrate(config.calibration, most, config.train, len(rest), config.path)
    calibration, training = rest[:count], rest[count:][: config.train]
    if not count or not len(training):
        few = f"too few for {count or 1:,} to calibrate with"
        raise UserError(f"data: {config.path} has {len(rest):,} pictures, {few}")
    looked = train.streamed(config, calibration)
    if test is not None:
        tests = test.streamed(config, stratified_order(test.labels(config.label), generator)[: config.test])
    else:
        tests = train.streamed(config, order[:held])
    return Splits(
        f"{config.path.name} (the user's own)",
        int(labels.max()) + 1,
        train.streamed(config, training),
        Examples(*looked.take(torch.arange(len(looked)))),
        tests,
    )


def _parts(path: Path) -> list[Path]:
    """The folder to train with, and that to test with if there is one.

    Raises:
        UserError: it is no data set that was saved.
    """
    if (path / "state.json").is_file():
        return [path]
    if not (path / "dataset_dict.json").is_file():
        raise UserError(f"data: {path} is not a folder of save_to_disk: it holds no state.json or dataset_dict.json")
    names = list(read_json(path / "dataset_dict.json")["splits"])
    if "train" not in names:
        raise UserError(f"data: {path} has no part train ({nearest('train', names)})")
    held = next((name for name in _HELD if name in names), None)
    return [path / "train", *([path / held] if held else [])]


class _Part:
    """One data set of Arrow files, mapped into memory."""

    def __init__(self, path: Path) -> None:
        state = read_json(path / "state.json")
        if state.get("_indices_files"):
            raise UserError(f"data: {path} has rows in another order than its files: save it after flatten_indices()")
        import pyarrow as pa  # imported here: no other data need it

        self.path, self._batches = path, list[Any]()
        for file in state["_data_files"]:
            try:
                self._batches += pa.ipc.open_stream(pa.memory_map(str(path / file["filename"]))).read_all().to_batches()
            except (OSError, pa.ArrowInvalid) as error:
                raise UserError(f"data: cannot read {path / file['filename']}: {one_line(error)}") from error
        self._ends = np.cumsum([len(batch) for batch in self._batches])
        if not self._batches:
            raise UserError(f"data: {path} is empty")
        self._digest = digest_of(*(f"{file['filename']} {state.get('_fingerprint')}" for file in state["_data_files"]))

    def kind(self, column: str) -> str:
        """The type of a column, as Arrow names it.

        Raises:
            UserError: there is none of that name.
        """
        names = self._batches[0].schema.names
        if column not in names:
            raise UserError(f"data: {self.path} has no column {column!r} ({nearest(column, names)})")
        return str(self._batches[0].schema.field(column).type)

    def column(self, name: str) -> list[Any]:
        """All of a column."""
        self.kind(name)
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]

    def labels(self, column: str) -> NDArray[np.int64]:
        """Of all rows, int64 [N].

        Raises:
            UserError: they are no whole numbers.
        """
        if self.kind(column) not in _WHOLE:
            raise UserError(f"data: {self.path}: column {column!r} must hold whole numbers")
        return np.array(self.column(column), np.int64)

    def streamed(self, config: DatasetsConfig, rows: NDArray[np.int64]) -> Streamed:
        """Pictures of these rows with their labels."""
        self.kind(config.input)
        settings = config.model_dump_json(include=set(Pictures.model_fields))
        numbers = tuple(int(row) for row in rows)
        return Streamed(len(numbers), _Read(self, config, numbers), digest_of(self._digest, str(numbers), settings))

    def row(self, row: int, *columns: str) -> list[Any]:
        """What these columns hold there."""
        place = int(np.searchsorted(self._ends, row, side="right"))
        batch = self._batches[place]
        at = row - int(self._ends[place] - len(batch))
        return [batch.column(column)[at].as_py() for column in columns]

    def __reduce__(self) -> Any:
        """Another process opens the files itself."""
        return _Part, (self.path,)


@dataclass(frozen=True, eq=False)
class _Read:
    """A picture and its label, by their number."""

    part: _Part
    config: DatasetsConfig
    rows: Sequence[int]

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        row, config = self.rows[number], self.config
        value, label = self.part.row(row, config.input, config.label)
        name = f"{self.part.path}, row {row}"
        if not isinstance(value, dict) or value.get("bytes") is None:
            raise UserError(f"{name}: {config.input!r} holds no picture")
        return config.picture(io.BytesIO(value["bytes"]), name), torch.tensor(int(label))
