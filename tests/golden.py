"""The published cases of PRAP's steps 1 and 2: inputs and the outputs to reproduce bit for bit."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def golden_cases() -> dict[str, dict[str, NDArray]]:
    """Case name -> its arrays: weight, source, scale, group_channels, keep_ratio; mask, kept_positions where pruned."""
    cases: dict[str, dict[str, NDArray]] = {}
    with np.load(Path(__file__).with_name("golden_public.npz")) as file:
        for key in file.files:
            case, name = key.split("/")
            cases.setdefault(case, {})[name] = file[key]
    return cases
