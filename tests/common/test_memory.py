"""Memory that is kept while a network is compressed is given back afterwards."""

import subprocess
import sys

import pytest

# In a process of its own: others leave free memory of which nobody knows when it is given back.
PROGRAM = """
from pathlib import Path
import numpy as np
from prap_pim.common.memory import kept_memory

pieces, size = 8, 16 << 20

def resident():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024

with kept_memory():
    taken = [np.ones(size, np.uint8) for _ in range(pieces)]
    full = resident()
    del taken
    kept = resident()
after = resident()
assert kept > full - size, "something was given back"
assert after < full - (pieces - 1) * size, "not all was given back"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of Linux is told")
def test_memory_is_used_again_meanwhile_and_given_back_afterwards() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
