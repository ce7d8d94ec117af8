"""The table of methods on a terminal."""

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prap_pim.errors import printable
from prap_pim.report.allocation import HEADINGS, UNITS, Allocation, allocations
from prap_pim.report.quantities import bits, percent, significant, times
from prap_pim.report.simulation import HEADINGS as SIMULATION_HEADINGS
from prap_pim.report.simulation import QUANTITIES, row_cells, summary, value_text
from prap_pim.report.summary import Section, comparisons, energy_section, exactness, sections
from prap_pim.results import Results, SimulationResult

_GAP = 3  # columns between two columns of the table


def print_results(results: Results, console: Console, details: bool = False) -> None:
    """Print figures (rows) of all methods (columns), then the chip's warnings and what the bit-true
    check found.

    Where the methods do not fit side by side, further tables follow; each shows the first method, too.
    With ``details`` the energy of every component is listed.
    """
    parts = [*sections(results), *([energy_section(results)] if details else [])]
    names = [printable(method.name) for method in results.methods]
    title = f"{results.name}: {results.network} on {results.chip.name}, for one inference"
    console.print(Text(printable(title), style="bold"))
    for columns in _that_fit(names, parts, console.width):
        console.print(_table([names[i] for i in columns], columns, parts))
    if len(results.methods) > 2:
        console.print(_summary(results))
    for allocation in allocations(results):
        console.print(_allocation(allocation))
        console.print(Text(allocation.summary))
    for warning in results.chip.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))
    if results.float_accuracy is None:
        console.print(Text(f"accuracy was not measured; weights: {printable(results.weights)}", style="yellow"))
    found = exactness(results)
    console.print(Text(found.line, style="green" if found.proven else "bold red"))
    if found.overflow_line:
        console.print(Text(printable(found.overflow_line), style="bold red"))
    for simulation in results.simulations:
        print_simulation(simulation, console)


def print_simulation(simulation: SimulationResult, console: Console) -> None:
    """Print what the crossbars were like and who says so, then the accuracy of every method and setting."""
    console.print(Text(f"Accuracy under device effects: {printable(simulation.name)}", style="bold"))
    console.print(Text(summary(simulation)))
    settings = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    for heading in ("setting", "value", "source"):
        settings.add_column(heading, overflow="fold")
    for each in simulation.parameters:
        settings.add_row(*(Text(printable(text)) for text in (each.name, each.value, each.source)))
    console.print(settings)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("", overflow="fold")
    if simulation.sweep is not None:
        table.add_column(QUANTITIES[simulation.sweep].replace(" of ", "\nof "), justify="right")
    for heading in SIMULATION_HEADINGS:
        table.add_column(heading, justify="right")
    for point in simulation.points:
        swept = [value_text(point)] if simulation.sweep is not None else []
        table.add_row(Text(printable(point.method)), *swept, *row_cells(simulation, point))
    console.print(table)


def _table(names: list[str], columns: list[int], parts: list[Section]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), show_edge=False)
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for part in parts:
        table.add_row(Text(printable(part.title), style="bold"))
        for index, row in enumerate(part.rows):
            cells = [Text(row.values[i]) for i in columns]
            table.add_row(Text(f"  {row.label}"), *cells, end_section=index == len(part.rows) - 1)
    return table


def _summary(results: Results) -> Table:
    """The gains of all methods, a line each: what one looks for first among many."""
    reference = printable(results.methods[0].name)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, title=f"Gains over {reference}")
    table.add_column("", overflow="fold")
    headings = ("bit-true", "compute", "speedup", "speedup", "energy", "throughput")
    of_bytes = results.float_bits_per_byte is not None
    kinds = ("bits/byte" if of_bytes else "accuracy", "ratio", "serial", "pipelined", "gain", "at budget")
    for heading, kind in zip(headings, kinds, strict=True):
        table.add_column(f"{heading}\n{kind}", justify="right")
    for each in comparisons(results):
        table.add_row(
            Text(printable(each.method.name)),
            bits(each.method.bit_true_bits_per_byte) if of_bytes else percent(each.method.bit_true_accuracy),
            significant(each.method.compute_ratio),
            times(each.serial_speedup),
            times(each.pipelined_speedup),
            times(each.energy_gain),
            times(each.budget_throughput_gain),
        )
    return table


def _allocation(allocation: Allocation) -> Table:
    title = f"Budget of {printable(allocation.method)}, layer by layer"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, title=title)
    table.add_column("", overflow="fold")
    for heading, unit in zip(HEADINGS, UNITS, strict=True):
        table.add_column(f"{heading}\n{unit}", justify="right")
    for name, cells in allocation.rows.items():
        table.add_row(Text(printable(name)), *cells)
    return table


def _that_fit(names: list[str], parts: list[Section], width: int) -> list[list[int]]:
    """Which methods go into each table: the first one, and as many others as ``width`` allows (at least one)."""
    labels = max(max(cell_len(printable(p.title)), *(cell_len(row.label) + 2 for row in p.rows)) for p in parts)
    needs = [
        _GAP + max(cell_len(name), *(cell_len(row.values[i]) for p in parts for row in p.rows))
        for i, name in enumerate(names)
    ]
    tables = [[0]]
    for i in range(1, len(names)):
        last = tables[-1]
        if len(last) > 1 and labels + _GAP + sum(needs[j] for j in [*last, i]) > width:
            tables.append([0, i])
        else:
            last.append(i)
    return tables
