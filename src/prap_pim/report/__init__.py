"""What people read: a table on the terminal and one HTML file, both from results alone."""

from prap_pim.report.comparison import write_comparison
from prap_pim.report.differences import read_runs
from prap_pim.report.html import write_report
from prap_pim.report.runs import print_runs, write_runs
from prap_pim.report.terminal import print_results, print_simulation

__all__ = [
    "print_results",
    "print_runs",
    "print_simulation",
    "read_runs",
    "write_comparison",
    "write_report",
    "write_runs",
]
