"""The table of methods on a terminal."""

from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prap_pim.common.errors import printable
from prap_pim.report.allocation import HEADINGS, allocations
from prap_pim.report.quality import measured, qualities
from prap_pim.report.quantities import significant, times
from prap_pim.report.simulation import HEADINGS as SIMULATION_HEADINGS
from prap_pim.report.simulation import QUANTITIES, row_cells, summary, title, value_text
from prap_pim.report.summary import Comparison, Section, comparisons, energy_section, exactness, sections
from prap_pim.report.terminal.tables import print_by_value, print_table
from prap_pim.results.run import Results, SimulationResult

_GAP = 2  # columns between two columns of the table


def print_results(results: Results, console: Console, details: bool = False) -> None:
    """Print figures (rows) of all methods (columns), then the chip's warnings and what the bit-true
    check found.

    Where the methods do not fit side by side, further tables follow; each shows the first method, too.
    With ``details`` the energy of every component is listed.
    """
    parts = [*sections(results), *([energy_section(results)] if details else [])]
    title = f"{results.name}: {results.network} on {results.chip.name}, for one inference"
    console.print(Text(printable(title), style="bold"))
    _print_sections(console, [printable(method.name) for method in results.methods], parts)
    if len(results.methods) > 2:
        _print_summary(results, console)
    for allocation in allocations(results):
        title = f"Budget of {allocation.method}, layer by layer"
        headings = ["", *("\n".join(heading.rsplit(" ", 1)) for heading in HEADINGS)]
        console.print()
        print_table(console, headings, [(name, *cells) for name, cells in allocation.rows.items()], title, spare=(3, 1))
        console.print(Text(allocation.summary))
    for line in results.tunings:
        console.print(Text(printable(line)))
    for warning in results.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))
    if not measured(results):
        console.print(Text(f"accuracy was not measured; weights: {printable(results.weights)}", style="yellow"))
    found = exactness(results)
    console.print(Text(found.line, style="green" if found.proven else "bold red"))
    if found.overflow_line:
        console.print(Text(printable(found.overflow_line), style="bold red"))
    for simulation in results.simulations:
        console.print()
        print_simulation(simulation, console)


def print_simulation(simulation: SimulationResult, console: Console) -> None:
    """Print what the crossbars were like and who says so, then the accuracy of every method and setting."""
    console.print(
        Text(f"{printable(title(simulation))} under device effects: {printable(simulation.name)}", style="bold")
    )
    console.print(Text(summary(simulation)))
    settings = [(each.name, each.value, each.source) for each in simulation.parameters]
    print_table(console, ("setting", "value", "source"), settings, texts=(1, 2))
    console.print()
    swept = [] if simulation.sweep is None else [QUANTITIES[simulation.sweep].replace(" of ", "\nof ")]
    rows = []
    for point in simulation.points:
        value = [] if simulation.sweep is None else [value_text(point)]
        rows.append((point.method, *value, *row_cells(simulation, point)))
    headings = ["", *swept, *SIMULATION_HEADINGS]
    print_table(console, headings, rows, spare=[headings.index(name) for name in ("devices", "overflows")])


def _print_sections(console: Console, names: list[str], parts: list[Section]) -> None:
    """Methods side by side, as many as there is room for beside the first; where there is none, below one another."""
    label = max(cell_len(row.label) for part in parts for row in part.rows) + 2
    widths = [
        max(cell_len(name), *(cell_len(row.values[i]) for part in parts for row in part.rows))
        for i, name in enumerate(names)
    ]

    def width(columns: list[int]) -> int:
        return label + sum(_GAP + widths[i] for i in columns)

    if any(width([0, i]) > console.width for i in range(1, len(names))):
        for part in parts:
            console.print()
            console.print(Text(printable(part.title), style="bold underline"))
            print_by_value(console, ["", *names], [(row.label, *row.values) for row in part.rows])
        return
    tables = [[0]]
    for i in range(1, len(names)):
        if width([*tables[-1], i]) <= console.width:
            tables[-1].append(i)
        else:
            tables.append([0, i])
    for columns in tables:
        head = _grid(label, columns, widths)
        head.add_row("", *(Text(names[i]) for i in columns))
        console.print(head)
        console.print(Text("─" * width(columns)))
        for number, part in enumerate(parts):
            if number:
                console.print()
            console.print(Text(printable(part.title), style="bold"))
            body = _grid(label, columns, widths)
            for row in part.rows:
                body.add_row(Text(f"  {row.label}"), *(Text(row.values[i]) for i in columns))
            console.print(body)
        console.print()


def _grid(label: int, columns: list[int], widths: list[int]) -> Table:
    grid = Table(box=None, show_header=False, padding=0, pad_edge=False)
    grid.add_column(width=label, no_wrap=True)
    for i in columns:
        grid.add_column(width=_GAP + widths[i], justify="right", no_wrap=True)
    return grid


def _print_summary(results: Results, console: Console) -> None:
    """The gains of all methods, a line each: what one looks for first among many."""
    columns: list[tuple[str, Callable[[Comparison], str]]] = [
        ("compute\nratio", lambda each: significant(each.method.compute_ratio)),
        ("speedup\nserial", lambda each: times(each.serial_speedup)),
        ("speedup\npipelined", lambda each: times(each.pipelined_speedup)),
        ("energy\ngain", lambda each: times(each.energy_gain)),
        ("throughput\nat budget", lambda each: times(each.at_budget.throughput_gain)),
    ]
    of = qualities(results)[0]
    if any(of.bit_true(method) is not None for method in results.methods):
        name = "bits/byte" if of.kind == "bits" else of.label
        columns.insert(0, (f"bit-true\n{name}", lambda each: of.text(of.bit_true(each.method))))
    rows = [(each.method.name, *(text(each) for _, text in columns)) for each in comparisons(results)]
    print_table(console, ["", *(heading for heading, _ in columns)], rows, f"Gains over {results.methods[0].name}")
