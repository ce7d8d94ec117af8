"""The trials of a study as Parquet tables."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prap_pim.common.files import write_whole
from prap_pim.results.study import StudyResults, TrialResult
from prap_pim.runs.study.folder import StudyFolder


def write_tables(results: StudyResults, folder: StudyFolder) -> None:
    """Write ``trials.parquet`` and ``front.parquet``.

    Raises:
        UserError: they cannot be written.
    """
    for trials, path in ((results.trials, folder.trials_table), (results.front_trials, folder.front_table)):
        buffer = io.BytesIO()
        pq.write_table(table(results, trials), buffer)
        write_whole(path, buffer.getvalue())


def table(results: StudyResults, trials: Sequence[TrialResult]) -> pa.Table:
    """A row each: number, feasible, front, reason, then the settings by name, then the figures.

    A setting that is not a plain number, text or truth value in all trials is written as JSON.
    """
    figures = dict.fromkeys(name for trial in results.trials for name in trial.figures)
    front = set(results.front)
    columns: dict[str, Any] = {
        "trial": pa.array([trial.number for trial in trials], pa.int64()),
        "feasible": pa.array([trial.feasible for trial in trials], pa.bool_()),
        "front": pa.array([trial.number in front for trial in trials], pa.bool_()),
        "reason": pa.array([trial.reason for trial in trials], pa.string()),
    }
    for name in results.space:
        columns[name] = _column([trial.values.get(name) for trial in trials])
    for name in figures:
        columns[name] = pa.array([_number(trial.figures.get(name)) for trial in trials], pa.float64())
    return pa.table(columns)


def _number(value: int | float | None) -> float | None:
    return None if value is None else float(value)


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    for kind, of_arrow in ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()), (str, pa.string())):
        if kinds == {kind}:
            return pa.array(values, of_arrow)
    if kinds == {int, float}:
        return pa.array([_number(value) for value in values], pa.float64())
    return pa.array([None if value is None else json.dumps(value, sort_keys=True) for value in values], pa.string())
