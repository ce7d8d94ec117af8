"""Arrays in a user's npz file; nothing is unpickled."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prap_pim.common.errors import UserError


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file, by name.

    Raises:
        UserError: it cannot be read, or holds other things than arrays of numbers.
    """
    try:
        with path.open("rb") as stream:
            opened = np.load(stream, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise UserError(f"cannot read {path}: it is no npz file; write one with numpy.savez")
            found = {name: opened[name] for name in opened.files}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive makes zipfile, zlib and numpy say many things
        raise UserError(f"cannot read {path}: it is no whole npz file of plain arrays (none is unpickled)") from error
    if not all(isinstance(array, np.ndarray) for array in found.values()):
        raise UserError(f"cannot read {path}: it holds other things than arrays")
    return found
