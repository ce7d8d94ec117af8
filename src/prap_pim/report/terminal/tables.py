"""Tables on a terminal of any width: no word and no number is broken for want of room."""

from collections.abc import Collection, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prap_pim.common.errors import printable

_SENTENCE = 24  # columns that a text gets at least before it is broken between words
_UNBOUND = 100_000  # columns


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    texts: Collection[int] = (),
    spare: Sequence[int] = (),
) -> None:
    """Print a table; where it has no room, without some columns, or with every value on a line of its own.

    Args:
        console: to print on.
        headings: of the columns, the first of which names the rows; a line break in a heading parts its lines.
        rows: a cell for each heading. Names out of a user's file will do: what a terminal would obey is replaced.
        title: above the table.
        texts: numbers of the columns of words, which begin on the left; if the last one is among them, its texts are
            broken between words.
        spare: numbers of the columns that may be left out, this one first; a line tells which were.
    """
    if title:
        console.print(Text(printable(title), style="bold"))
    cells = [[printable(cell) for cell in row] for row in rows]
    columns = list(range(len(headings)))
    while not _fits(console, table := _table(headings, cells, columns, texts)):
        if len(columns) == len(headings) - len(spare):
            print_by_value(console, headings, cells, texts)
            return
        columns.remove(spare[len(headings) - len(columns)])
    console.print(table)
    if left_out := [_one_line(heading) for i, heading in enumerate(headings) if i not in columns]:
        console.print(Text(f"no room for: {', '.join(left_out)}; a wider terminal shows all"))


def print_by_value(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int] = ()
) -> None:
    """Print each row as its name, and below it a line for each value; ``headings``, ``rows``, ``texts`` as above."""
    for name, *values in rows:
        console.print(Text(f"{_one_line(headings[0])} {name}".strip(), style="bold"))
        grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(no_wrap=True, min_width=max(cell_len(_one_line(heading)) for heading in headings))
        numbers = [cell_len(value) for i, value in enumerate(values, start=1) if i not in texts]
        grid.add_column(overflow="fold", min_width=max(numbers, default=0))
        for i, value in enumerate(values, start=1):
            if value:
                grid.add_row(_one_line(headings[i]), Text(value, justify="left" if i in texts else "right"))
        if _fits(console, grid, 2):
            console.print(Padding(grid, (0, 0, 0, 2), expand=False))
            continue
        for i, value in enumerate(values, start=1):
            if value:
                console.print(Padding(Text(f"{_one_line(headings[i])}:"), (0, 0, 0, 2), expand=False))
                console.print(Padding(Text(value), (0, 0, 0, 4), expand=False))


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int], texts: Collection[int]
) -> Table:
    """These columns, two spaces apart."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i in columns:
        widest = max(map(cell_len, [*headings[i].splitlines(), *(row[i] for row in rows)]), default=0)
        if i in texts and i == len(headings) - 1:
            table.add_column(Text(headings[i]), overflow="fold", min_width=min(widest, _SENTENCE))
        else:
            table.add_column(
                Text(headings[i]), justify="right" if i and i not in texts else "left", no_wrap=True, min_width=widest
            )
    for row in rows:
        table.add_row(*(Text(row[i]) for i in columns))
    return table


def _fits(console: Console, table: Table, indent: int = 0) -> bool:
    """Whether there is room for what must not be broken."""
    return Measurement.get(console, console.options.update(max_width=_UNBOUND), table).minimum + indent <= console.width


def _one_line(heading: str) -> str:
    return " ".join(heading.split())
