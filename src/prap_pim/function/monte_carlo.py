"""Accuracy over many devices: each is programmed once, with errors of its own, and classifies all images."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prap_pim.capture import Captured
from prap_pim.errors import UserError
from prap_pim.function.model import CrossbarModel
from prap_pim.function.simulate import Progress, SimulationReport, measure
from prap_pim.parallel import cores
from prap_pim.plan import NetworkPlan


@dataclass(frozen=True)
class MonteCarloReport:
    """What was found on each device, in the order of their numbers.

    Attributes:
        devices: one report each.
    """

    devices: tuple[SimulationReport, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of each device."""
        return tuple(report.accuracy for report in self.devices)

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracy from device to device (n - 1); 0 for one device."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.devices) > 1 else 0.0

    @property
    def worst(self) -> float:
        """The least accuracy."""
        return min(self.accuracies)


def monte_carlo(
    captured: Captured,
    plan: NetworkPlan,
    model: CrossbarModel,
    images: Tensor,
    labels: Tensor,
    devices: int,
    *,
    seed: int = 0,
    batch_size: int = 50,
    progress: Progress | None = None,
    processes: int = 1,
) -> MonteCarloReport:
    """``measure`` on a number of devices that are alike but for their errors.

    Device i has the same errors whatever ``devices`` and ``processes`` are. If nothing in the model is random, one
    device is measured and stands for all.

    Args:
        captured, plan, model, images, labels, batch_size: as for ``measure``.
        devices: how many.
        seed: of all devices and their read noise.
        progress: called with the devices done and the devices in all.
        processes: how many to work on at once, each in a process of its own (a script that asks for more than one
            needs ``if __name__ == "__main__"``); 1: here, with all cores.

    Raises:
        UserError: there is not at least one device and one process, a process died, or as for ``measure``.
    """
    if devices < 1 or processes < 1:
        raise UserError(f"a Monte Carlo needs at least 1 device and 1 process, not {devices} and {processes}")
    random = model.device is not None and model.device.random
    seeds = [np.random.SeedSequence(seed, spawn_key=(number,)) for number in range(devices if random else 1)]
    found: dict[int, SimulationReport] = {}
    arguments = (captured, plan, model, images, labels, batch_size)
    for number, report in _each(arguments, seeds, min(processes, len(seeds))):
        found[number] = report
        if progress is not None:
            progress(len(found) if random else devices, devices)
    return MonteCarloReport(tuple(found[number if random else 0] for number in range(devices)))


_Arguments = tuple[Captured, NetworkPlan, CrossbarModel, Tensor, Tensor, int]


def _each(
    arguments: _Arguments, seeds: list[np.random.SeedSequence], processes: int
) -> Iterator[tuple[int, SimulationReport]]:
    """Number and report of every device, in the order in which they are done."""
    if processes == 1:
        for number, seed in enumerate(seeds):
            yield number, _one(arguments, seed)
        return
    # spawned, not forked: a fork in the middle of other threads' work may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (arguments, max(1, cores() // processes))) as pool:
        numbers = {pool.submit(_one_of_many, seed): number for number, seed in enumerate(seeds)}
        for future in as_completed(numbers):
            try:
                yield numbers[future], future.result()
            except BrokenProcessPool as error:
                raise UserError(f"a process died; fewer than {processes} need less memory") from error


_shared: list[_Arguments] = []  # of a worker process: sent once, not with every device


def _start(arguments: _Arguments, threads: int) -> None:
    torch.set_num_threads(threads)
    _shared.append(arguments)


def _one_of_many(seed: np.random.SeedSequence) -> SimulationReport:
    return _one(_shared[0], seed)


def _one(arguments: _Arguments, seed: np.random.SeedSequence) -> SimulationReport:
    captured, plan, model, images, labels, batch_size = arguments
    return measure(captured, plan, model, images, labels, seed=seed, batch_size=batch_size)
