"""Every figure of every method in one flat table, for spreadsheets and scripts. SI units, named in the columns."""

import csv
import io
from pathlib import Path
from typing import Any

from prap_pim.common.files import write_whole
from prap_pim.results.run import Results

_NESTED = {"layers", "copies", "copy_crossbars"}  # tables of their own, in results.json


def rows(results: Results) -> list[dict[str, Any]]:
    """Every figure of every method, by name; nested names with dots between them."""
    return [
        {
            "float_accuracy": results.float_accuracy,
            "float_bits_per_byte": results.float_bits_per_byte,
            **{f"float_metrics.{name}": value for name, value in results.float_metrics.items()},
            **_flat(method.model_dump(exclude=_NESTED)),
        }
        for method in results.methods
    ]


def write_comparison(results: Results, path: Path) -> None:
    """Write a CSV file with a line for every method, whole or not at all. An empty cell: not measured.

    Raises:
        UserError: the file cannot be written.
    """
    table = rows(results)
    columns = list(dict.fromkeys(["name", *(column for row in table for column in row)]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_whole(path, text.getvalue())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in _NESTED:
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
