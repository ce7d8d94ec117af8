"""Accuracy over many devices: each is programmed once, with errors of its own, and classifies all images."""

import multiprocessing
import pickle
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.notebook import html_table
from prap_pim.common.parallel import cores, end_with_parent, ignoring_interrupts
from prap_pim.common.progress import unheard
from prap_pim.common.settings import nearest
from prap_pim.crossbar.model import CrossbarModel
from prap_pim.crossbar.network import (
    Evaluate,
    OnCrossbars,
    Progress,
    SimulationReport,
    check_parts,
    labelled,
)
from prap_pim.frontend import Captured
from prap_pim.frontend.evaluate import InMemory, Labelled
from prap_pim.ir.plan import NetworkPlan


class OverDevices(NamedTuple):
    """Accuracy, or what else was measured, over a number of devices.

    Attributes:
        mean: of the accuracies.
        spread: their standard deviation from device to device (n - 1); 0 for one device.
        worst: the least.
    """

    mean: float
    spread: float
    worst: float

    @staticmethod
    def of(values: Sequence[float], less: bool = False) -> "OverDevices":
        """Of at least one device; ``less``: less is better."""
        return OverDevices(fmean(values), stdev(values) if len(values) > 1 else 0.0, (max if less else min)(values))


@dataclass(frozen=True)
class MonteCarloReport:
    """What was found on each device, in the order of their numbers; ``mean``, ``spread``, ``worst`` as ``OverDevices``,
    of accuracy, or of the first number that the user's own metric gives.

    Attributes:
        devices: one report each.
        minimize: names of numbers of which less is better, so that the worst is the greatest.
    """

    devices: tuple[SimulationReport, ...]
    minimize: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """What is measured first."""
        return next(iter(self.devices[0].metrics))

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of each device."""
        return tuple(report.accuracy for report in self.devices)

    def of(self, metric: str) -> OverDevices:
        """One of several numbers over the devices.

        Raises:
            UserError: there is no such number.
        """
        known = list(self.devices[0].metrics)
        if metric not in known:
            raise UserError(f"no number {metric!r} was measured ({nearest(metric, known)})")
        return OverDevices.of([report.metrics[metric] for report in self.devices], metric in self.minimize)

    @property
    def mean(self) -> float:
        """Over the devices."""
        return self.of(self.metric).mean

    @property
    def spread(self) -> float:
        """Standard deviation from device to device."""
        return self.of(self.metric).spread

    @property
    def worst(self) -> float:
        """Of the devices."""
        return self.of(self.metric).worst

    def __repr__(self) -> str:
        return f"MonteCarloReport({len(self.devices)} devices: {'; '.join(map(self._told, self.devices[0].metrics))})"

    def _told(self, metric: str) -> str:
        of = self.of(metric)
        return f"{metric} {of.mean:.4g}, spread {of.spread:.2g}, worst {of.worst:.4g}"

    def _repr_html_(self) -> str:
        of = {metric: self.of(metric) for metric in self.devices[0].metrics}
        rows = [(metric, *(f"{value:.4g}" for value in each)) for metric, each in of.items()]
        return html_table(f"{len(self.devices)} devices", ("", *OverDevices._fields), rows)


def monte_carlo(
    captured: Captured,
    plan: NetworkPlan,
    model: CrossbarModel,
    images: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any],
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
        captured: the network, as for ``measure``.
        plan: its compressed form.
        model: the crossbars and their devices.
        images: or tokens, one at least.
        labels: theirs.
        devices: how many.
        seed: of all devices and their read noise.
        batch_size: images at a time; neither devices nor noise depend on it.
        progress: called with the devices done and the devices in all.
        processes: how many to work on at once, each in a process of its own (a script that asks for more than one
            needs ``if __name__ == "__main__"``); 1: here, with all cores.

    Raises:
        UserError: there is not at least one device and one process, a process died, or as for ``measure``.
    """
    check_parts(captured, plan, model)
    images, labels = labelled(images, labels)
    networks = {plan.method: (captured, plan)}
    evaluate = Labelled(InMemory(images, labels), batch_size)
    return over_devices(networks, model, evaluate, devices, seed, processes, progress or unheard)


def over_devices(
    networks: "Networks",
    model: CrossbarModel,
    evaluate: Evaluate,
    devices: int,
    seed: int,
    processes: int,
    told: Progress,
    minimize: tuple[str, ...] = (),
) -> MonteCarloReport:
    """``monte_carlo`` of one network by any measure.

    Args:
        networks: the one, by name.
        evaluate: measures it.
        minimize: as of ``MonteCarloReport``.
        Others as for ``monte_carlo``.

    Raises:
        UserError: there is not at least one device and one process, a process died, or as ``evaluate``.
    """
    if devices < 1 or processes < 1:
        raise UserError(f"a Monte Carlo needs at least 1 device and 1 process, not {devices} and {processes}")
    (name,) = networks
    trials = [Trial(name, model, each) for each in device_seeds(model, devices, seed)]
    random = len(trials) == devices
    found: dict[int, SimulationReport] = {}
    for number, report in measure_each(networks, trials, evaluate, processes=processes):
        found[number] = report
        told(len(found) if random else devices, devices)
    return MonteCarloReport(tuple(found[number if random else 0] for number in range(devices)), minimize)


def device_seeds(model: CrossbarModel, devices: int, seed: int) -> list[np.random.SeedSequence]:
    """The seed of each device, by its number; of one alone if nothing in the model is random."""
    random = model.device is not None and model.device.random
    return [np.random.SeedSequence(seed, spawn_key=(number,)) for number in range(devices if random else 1)]


@dataclass(frozen=True)
class Trial:
    """One device that is to be measured.

    Attributes:
        network: which of the networks runs on it.
        model: what its crossbars are like.
        seed: of its errors.
    """

    network: str
    model: CrossbarModel
    seed: np.random.SeedSequence


Networks = Mapping[str, tuple[Captured, NetworkPlan]]


def measure_each(
    networks: Networks,
    trials: Sequence[Trial],
    evaluate: Evaluate,
    *,
    processes: int = 1,
) -> Iterator[tuple[int, SimulationReport]]:
    """What each trial's network is worth; yields its place in ``trials`` and the report, in the order of their ends.

    Args:
        networks: by name, each with its plan.
        trials: what to measure.
        evaluate: measures it.
        processes: as for ``monte_carlo``.

    Raises:
        UserError: a process died, ``evaluate`` cannot be sent to one, or as for ``measure``.
    """
    shared = networks, evaluate
    processes = min(processes, len(trials))
    if processes < 2:
        for number, trial in enumerate(trials):
            yield number, _one(shared, trial)
        return
    try:
        pickle.dumps(evaluate)
    except Exception as error:  # of many kinds, by what it holds
        raise UserError(
            f"{processes} processes: evaluate cannot be sent to them ({one_line(error)}): "
            "define it at the top of a module, or ask for one process"
        ) from error
    # spawned, not forked: a fork in the middle of other threads' work may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start, (shared, max(1, cores() // processes)))
    try:
        with ignoring_interrupts():
            numbers = {pool.submit(_one_of_many, trial): number for number, trial in enumerate(trials)}
        for future in as_completed(numbers):
            try:
                report = future.result()
            except BrokenProcessPool as error:
                raise UserError(f"a process died; fewer than {processes} need less memory") from error
            yield numbers.pop(future), report
    finally:
        pool.shutdown(cancel_futures=True)


_Shared = tuple[Networks, Evaluate]
_shared: list[_Shared] = []  # of a worker process: sent once, not with every trial


def _start(shared: _Shared, threads: int) -> None:
    torch.set_num_threads(threads)
    _shared.append(shared)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # interrupted with its parent, without a word
    end_with_parent()


def _one_of_many(trial: Trial) -> SimulationReport:
    return _one(_shared[0], trial)


def _one(shared: _Shared, trial: Trial) -> SimulationReport:
    networks, evaluate = shared
    network = OnCrossbars(*networks[trial.network], trial.model, trial.seed, check=0)
    return network.report(evaluate(network))
