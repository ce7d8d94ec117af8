"""One command on several processes: started, watched and ended together. Knows nothing of what they compute.

A launcher starts the processes of one machine and gives each its place in the variables that torchrun also uses; where
torchrun has started them, nothing is launched.

Why not torchrun or Fabric's launcher: torchrun prints 30 lines and exits with 1 whatever the failed process said, and
ends with a traceback on Ctrl-C; and with either of them processes stay behind when the one that started them is killed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import IO, Any, Literal

from pydantic import Field, model_validator

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings

LOST = 75  # exit code of a process that ends only because another one has: the launcher prints why
_LAUNCHED = "PRAP_PIM_LAUNCHED"
_GRACE = 3.0  # seconds in which the first process may print itself what is wrong, after another one has ended
_CLEARING = 2.0  # seconds in which it may clean up


class Launch(Settings):
    """How many processes, and what they compute with."""

    as_text = True

    devices: int = Field(default=1, ge=1, le=1024)  # processes on each machine, each with a GPU of its own if any
    nodes: int = Field(default=1, ge=1, le=1024)  # machines
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # auto: GPUs where there are any
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    @staticmethod
    def of(given: Mapping[str, Any], environment: Mapping[str, str]) -> "Launch":
        """From flags, and from the variables that torchrun or a launcher has set for this process.

        Raises:
            UserError: a value is out of range, or flags and environment disagree; or machines cannot find each other.
        """
        if not is_one_of_many(environment):
            launch = Launch.checked(given, "run")
            if launch.nodes > 1:
                missing = [key for key in _PLACE if key not in environment]
                if missing:
                    raise UserError(
                        f"--nodes {launch.nodes}: {missing[0]} is missing, every machine needs "
                        f"{', '.join(_PLACE)} in its environment (docs/training.md)"
                    )
                place = _Place.checked({key: environment[key] for key in _PLACE}, "environment")
                if launch.nodes <= place.NODE_RANK:
                    raise UserError(f"NODE_RANK must be less than --nodes {launch.nodes}: 0 on the first machine")
            return launch
        counts = _Counts.checked({key: environment[key] for key in _COUNTS if key in environment}, "environment")
        started = {"devices": counts.LOCAL_WORLD_SIZE, "nodes": counts.WORLD_SIZE // counts.LOCAL_WORLD_SIZE}
        launch = Launch.checked({**started, **given}, "run")
        if any(getattr(launch, key) != value for key, value in started.items()):
            raise UserError(
                f"--devices {launch.devices} --nodes {launch.nodes}: {counts.WORLD_SIZE} processes were started, "
                f"{counts.LOCAL_WORLD_SIZE} on this machine"
            )
        return launch


class _Place(Settings):
    """What each machine of several must know: where the first one is, and its own number."""

    as_text = True

    MASTER_ADDR: str = Field(min_length=1)
    MASTER_PORT: int = Field(ge=1, le=65535)
    NODE_RANK: int = Field(ge=0)


class _Counts(Settings):
    """The numbers that a launcher gives to the processes that it starts."""

    as_text = True

    WORLD_SIZE: int = Field(ge=1)
    LOCAL_WORLD_SIZE: int = Field(ge=1)

    @model_validator(mode="after")
    def _alike(self) -> "_Counts":
        if self.WORLD_SIZE % self.LOCAL_WORLD_SIZE:
            raise ValueError("every machine must have as many processes (LOCAL_WORLD_SIZE)")
        return self


_PLACE, _COUNTS = tuple(_Place.model_fields), tuple(_Counts.model_fields)


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether this process is alone, or the first of its machine."""
    return environment.get("LOCAL_RANK", "0") == "0"


def is_one_of_many(environment: Mapping[str, str]) -> bool:
    """Whether a launcher, this one or torchrun, has started this process."""
    return "LOCAL_RANK" in environment


def start(arguments: Sequence[str], launch: Launch) -> int:
    """Run ``python -m prap_pim`` with these arguments in every process of this machine, until all have ended.

    The first one's output is this process's. When one fails, or this one is interrupted or killed, all end.

    Returns:
        0 if all did what they should; otherwise the exit code of the process that printed what is wrong.

    Raises:
        UserError: a process was killed, or another machine cannot be reached.
        KeyboardInterrupt: this process was interrupted, or one of the others.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    if launch.nodes > 1:
        shared = {key: os.environ[key] for key in _PLACE}
    shared |= {"WORLD_SIZE": str(launch.devices * launch.nodes), "LOCAL_WORLD_SIZE": str(launch.devices)}
    shared |= {_LAUNCHED: "1", "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
    # -P: files in the current directory are not imported as modules, unless this process would import them
    path_flag = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    command = [sys.executable, *path_flag, "-m", "prap_pim", *arguments]
    ranks: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as errors:
        try:
            for local in range(launch.devices):
                # in a session of its own: Ctrl-C reaches the launcher, which ends all in order
                rank = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=None if local == 0 and shared["NODE_RANK"] == "0" else subprocess.DEVNULL,
                    stderr=None if local == 0 else errors,
                    env=os.environ | shared | {"LOCAL_RANK": str(local)},
                    start_new_session=True,
                )
                ranks.append(rank)
            codes = _watch(ranks)
        finally:
            _end(ranks)
        first = int(shared["NODE_RANK"]) * launch.devices + 1
        names = [f"process {first + i} of {shared['WORLD_SIZE']}" for i in range(launch.devices)]
        return _verdict(codes, names, errors)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _watch(ranks: Sequence["subprocess.Popen[bytes]"]) -> list[int | None]:
    """Until all have ended, or one has failed; returns the exit codes, None of those that still run."""
    deadline = float("inf")
    while any(rank.poll() is None for rank in ranks):
        if any(rank.returncode for rank in ranks):
            deadline = min(deadline, time.monotonic() + _GRACE)
        if ranks[0].returncode or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return [rank.returncode for rank in ranks]


def _end(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    if ranks and ranks[0].poll() is None:
        ranks[0].terminate()
        with suppress(subprocess.TimeoutExpired):
            ranks[0].wait(_CLEARING)
    for rank in ranks:
        rank.kill()
        rank.wait()
        assert rank.stdin is not None
        rank.stdin.close()


def _verdict(codes: Sequence[int | None], names: Sequence[str], errors: IO[bytes]) -> int:
    if codes[0] is not None and codes[0] >= 0 and codes[0] != LOST:
        return codes[0]
    if -signal.SIGINT in codes:
        raise KeyboardInterrupt
    for name, code in zip(names, codes, strict=True):
        if code is not None and code < 0:
            raise UserError(f"{name} was killed ({signal.Signals(-code).name}); go on with --resume")
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    for name, code in zip(names, codes, strict=True):
        if code and code != LOST and lines:
            print(f"prap-pim: {name}: {lines[-1].removeprefix('prap-pim: ')}", file=sys.stderr)
            return code
    raise UserError("the connection to the processes of another machine was lost; go on with --resume")


def follow() -> bool:
    """In a process that ``start`` may have started: end with the launcher, however that ends.

    Returns:
        whether there is a launcher, which prints why the processes end.
    """
    if os.environ.pop(_LAUNCHED, None) is None:
        return False
    if os.environ["LOCAL_RANK"] == "0":
        signal.signal(signal.SIGTERM, _terminated)
    else:  # to end at once, even while it waits for the first process
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    return True


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(LOST)


def _end_with_launcher() -> None:
    """Its end of the pipe is closed when it ends, even killed."""
    while os.read(0, 1):
        pass
    os._exit(LOST)
