"""How many processes work at once on this machine, where nobody said it."""

from prap_pim.common.memory import available_memory
from prap_pim.common.parallel import cores

_BYTES = 2 << 30  # that a process may need: torch itself, a network with its plans or tables of cells (1 GiB), images


def fitting_processes() -> int:
    """One for each core, as far as memory allows."""
    return max(1, min(cores(), available_memory() // _BYTES))
