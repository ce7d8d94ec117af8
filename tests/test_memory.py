"""Memory that is kept while a network is compressed is given back afterwards."""

import sys
from pathlib import Path

import numpy as np
import pytest

from prap_pim.memory import kept_memory

_PIECES, _BYTES = 8, 16 << 20


def _resident() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of Linux is told")
def test_memory_is_used_again_meanwhile_and_given_back_afterwards() -> None:
    with kept_memory():
        pieces = [np.ones(_BYTES, np.uint8) for _ in range(_PIECES)]
        full = _resident()
        del pieces
        kept = _resident()
    after = _resident()
    assert kept > full - _BYTES  # nothing was given back
    assert after < full - (_PIECES - 1) * _BYTES
