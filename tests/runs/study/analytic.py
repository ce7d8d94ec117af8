"""A study whose front is known by arithmetic: x is the ADC's bits, y its number, and no network is computed.

energy = x + 5 * (y - 1), latency = (16 - x) + 5 * (y - 1): for y = 1 each x trades one for the other, and any y > 1
is worse than y = 1 with the same x. So the front is y = 1 with every x.
"""

import errno
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prap_pim.common.errors import UserError
from prap_pim.common.progress import Progress
from prap_pim.runs.study import StudyConfig
from prap_pim.runs.study.folder import Locks, StudyFolder

SLOW = "PRAP_PIM_TEST_SECONDS"  # of a trial
STUDY: dict[str, Any] = {
    "name": "analytic",
    "seed": 5,
    "base": {
        "data": {"name": "digits", "size": 16, "train": 60, "calibration": 20, "test": 20},
        "model": {"name": "resnet", "depth": 8, "width": 8},
        "training": "none",
        "methods": [{"name": "dense"}],
    },
    "space": {"chip.adc_bits": {"low": 1, "high": 16}, "chip.adcs_per_crossbar": [1, 2, 4]},
    "objectives": ["energy", "latency"],
    "sampler": "grid",
}


def study(**changes: Any) -> StudyConfig:
    """The study with other settings."""
    return StudyConfig.checked({**STUDY, **changes}, "study")


class Analytic:
    """Figures by arithmetic; each run of a trial is noted in the study's folder."""

    def __init__(self, study: StudyConfig, folder: StudyFolder, locks: Locks, progress: Progress) -> None:
        self._log = folder.path / "runs.log"

    @staticmethod
    def check(study: StudyConfig) -> dict[str, str]:
        return {}

    def __call__(self, values: Mapping[str, Any]) -> dict[str, int | float | None]:
        with self._log.open("a") as log:
            log.write(f"{os.getpid()} {sorted(values.items())}\n")
        time.sleep(float(os.environ.get(SLOW, "0")))
        x, y = values["chip.adc_bits"], values["chip.adcs_per_crossbar"]
        if (x, y) == (16, 4):
            raise UserError("this point cannot be")
        return {"energy_j": x + 5.0 * (y - 1), "pipelined.latency_s": 16 - x + 5.0 * (y - 1), "area_m2": float(y)}


class Dying(Analytic):
    """Kills its process in each trial."""

    deaths = 1000

    def __call__(self, values: Mapping[str, Any]) -> dict[str, int | float | None]:
        with (self._log.parent / "deaths").open("a+") as log:
            log.seek(0)
            if len(log.read()) < self.deaths:
                log.write("x")
                log.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(values)


class DyingTwice(Dying):
    """Kills its process in the first two trials."""

    deaths = 2


class OnFullDisk(Analytic):
    """Can write nothing."""

    def __call__(self, values: Mapping[str, Any]) -> dict[str, int | float | None]:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise UserError(f"cannot write here: {error.strerror}") from error


def runs(folder: Path) -> list[str]:
    """Every run of a trial so far: its values."""
    return [line.partition(" ")[2] for line in (folder / "runs.log").read_text().splitlines()]
