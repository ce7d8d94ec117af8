"""The table behind a figure: every format is made of it. Values are in SI units; what is shown takes a prefix."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prap_pim.common.errors import printable
from prap_pim.report.quantities import Scale, bits, count, percent, quantity, scale, significant, times

Value = str | int | float | None  # None: not measured
Kind = Literal["text", "count", "ratio", "gain", "share", "bits", "quantity"]

_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "µ": r"\textmu{}",
    "²": r"\textsuperscript{2}",
    "[": "{[}",  # after the end of a row it would begin an argument,
    "*": "{*}",  # and this would be one
}
_LIGATURE = re.compile("(?<=-)(?=-)|(?<=,)(?=,)")  # two of them would be a dash, or a quotation mark
_NOT_MEASURED = "--"
_LATIN = "\u017f"  # the last letter that LaTeX knows by itself


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        name: in CSV, Parquet and JSON; ends in its unit, as names in results.json do.
        label: for people.
        kind: how its values are written: text, counts, shares of 1 (shown in percent), bits per byte, plain ratios,
            gains ("1.64x"), or quantities with a unit.
        unit: of a quantity, SI without prefix.
    """

    name: str
    label: str
    kind: Kind = "text"
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of values; a figure's only source.

    Attributes:
        title: what the figure shows.
        columns: what they hold.
        rows: a value for each column.
        hidden: columns that say the same in each row: in files for scripts, but not shown.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    hidden: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)

    def column(self, name: str) -> Column:
        """The column of this name."""
        return self.columns[self._index(name)]

    def values(self, name: str) -> list[Value]:
        """Of one column."""
        index = self._index(name)
        return [row[index] for row in self.rows]

    def numbers(self, name: str) -> list[float]:
        """Of one column; NaN where nothing was measured."""
        return [float("nan") if value is None else float(value) for value in self.values(name)]

    def texts(self, name: str) -> list[str]:
        """Of one column of words."""
        return [str(value) for value in self.values(name)]

    def scale(self, *names: str) -> Scale:
        """In which the values of these columns are shown together; they have one unit."""
        column = self.column(names[0])
        if column.kind == "quantity":
            return scale((value for name in names for value in self.numbers(name)), column.unit)
        return Scale(100.0, "%") if column.kind == "share" else Scale(1.0, "")

    def where(self, name: str, value: Value) -> "Table":
        """With those rows only that hold ``value`` there."""
        index = self._index(name)
        return replace(self, rows=tuple(row for row in self.rows if row[index] == value))

    def records(self) -> list[dict[str, Value]]:
        """Rows as mappings from the columns' names."""
        return [{c.name: value for c, value in zip(self.columns, row, strict=True)} for row in self.rows]

    def as_json(self) -> dict[str, Any]:
        """Plain values: title, columns with labels and units, rows as mappings."""
        columns = [{"name": c.name, "label": c.label, "unit": c.unit} for c in self.columns]
        return {"title": self.title, "columns": columns, "rows": self.records()}

    def _index(self, name: str) -> int:
        return [column.name for column in self.columns].index(name)


def shown(column: Column, value: Value) -> str:
    """One value as people read it, with its unit."""
    if value is None:
        return "not measured"
    match column.kind, value:
        case "text", _:
            return printable(str(value))
        case "count", int():
            return count(value)
        case "share", int() | float():
            return percent(value)
        case "bits", int() | float():
            return bits(value)
        case "gain", int() | float():
            return times(value)
        case "quantity", int() | float():
            return quantity(value, column.unit)
        case _:
            return significant(float(value))


def to_csv(table: Table) -> bytes:
    """A heading and a line for every row; nothing between two commas: not measured."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in table.columns])
    writer.writerows(table.rows)
    return text.getvalue().encode()


def to_parquet(table: Table) -> bytes:
    """Columns with their labels and units as metadata."""
    import pyarrow
    from pyarrow import parquet

    types = {"text": pyarrow.string(), "count": pyarrow.int64()}
    fields = [
        pyarrow.field(c.name, types.get(c.kind, pyarrow.float64()), metadata={"label": c.label, "unit": c.unit})
        for c in table.columns
    ]
    schema = pyarrow.schema(fields, metadata={"title": table.title})
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(table.records(), schema), buffer)
    return buffer.getvalue()


def to_tex(table: Table) -> bytes:
    """A tabular for ``\\input``, with the rules of booktabs; units in the heading, three significant digits."""
    columns = [column for column in table.columns if column.name not in table.hidden]
    heads, cells = [], []
    for column in columns:
        unit, texts = _column_texts(table, column)
        heads.append(escape_tex(f"{column.label} / {unit}" if unit else column.label))
        cells.append([_NOT_MEASURED if text is None else escape_tex(text) for text in texts])
    alignment = "".join("l" if column.kind == "text" else "r" for column in columns)
    foreign = any(c > _LATIN for texts in cells for text in texts for c in text)
    also = "; XeLaTeX or LuaLaTeX and a font that has all letters" if foreign else ""
    lines = [
        f"% {printable(table.title)}. Needs \\usepackage{{booktabs}}{also}.",
        f"\\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        "\\toprule",
        _tex_row(heads),
        "\\midrule",
        *map(_tex_row, zip(*cells, strict=True)),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return ("\n".join(lines) + "\n").encode()


def _column_texts(table: Table, column: Column) -> tuple[str, list[str | None]]:
    """The unit that all values share, and the values without it."""
    chosen = table.scale(column.name)

    def text(value: Value) -> str | None:
        if value is None:
            return None
        if column.kind == "quantity":
            return significant(float(value) * chosen.factor)
        return shown(column, value).removesuffix(f" {chosen.unit}")

    return chosen.unit, [text(value) for value in table.values(column.name)]


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape_tex(text: str) -> str:
    """A name that LaTeX prints letter by letter, whatever is in it."""
    plain = printable(text).replace("\N{REPLACEMENT CHARACTER}", "?")
    return _LIGATURE.sub("{}", "".join(_TEX.get(c, c) for c in plain))
