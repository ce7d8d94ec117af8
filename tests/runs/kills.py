"""``python -m tests.runs.kills N``: N times SIGKILL for each command, at random after its first file; ends are equal.

A child of a process that has the library loaded writes until it is killed: a hook on the flush of files counts them,
and from the one of a random number on a timer strikes after a random time. The command is then called again, and
killed again, and at last left alone.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml
from safetensors.numpy import load_file

from prap_pim.__main__ import main as prap_pim
from prap_pim.common.errors import UserError
from tests.fuzz import server
from tests.fuzz.__main__ import prepared
from tests.fuzz.configurations import STUDY, TRAINED
from tests.fuzz.models import calibration, network

_MOMENTS = (0.0, 0.001, 0.01, 0.1, 0.4)  # seconds from a file to the kill, at most
_CONFIG: dict[str, Any] = {
    **TRAINED,
    "methods": [
        *TRAINED["methods"],
        {"name": "c", "reuse": {"kind": "calibrated", "compute_ratio": 0.8}, "finetune": False},
    ],
}


@dataclass(frozen=True)
class Command:
    """Something that writes files, and goes on where it was killed.

    Attributes:
        work: does it, in the current folder; gives the exit code.
        last: number of the last file that it writes.
    """

    work: Callable[[], int]
    last: int


def _simulate() -> int:
    flags = ("--set", "device.variation.sigma=0.1", "--devices", "4", "--samples", "5", "--processes", "1", "--quiet")
    return prap_pim(("simulate", "out", *flags))


def _compress() -> int:
    flags = ("--method", "similar", "--set", "keep=0.5", "--plan", "p.safetensors", "--bit-true", "b.onnx", "--quiet")
    return prap_pim(("compress", "m.onnx", "--calibration", "d.npz", "--output", "o.onnx", *flags))


def _finetune() -> int:
    import torch

    import prap_pim as library

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    batches = [(torch.randn(8, 1, 6, 6), torch.randint(0, 3, (8,))) for _ in range(3)]
    loss = _cross_entropy
    try:
        library.finetune(model, batches, output="out", method="similar", epochs=3, loss=loss, compute_ratio=0.6)
    except UserError as error:  # as the command line does
        print(f"prap-pim: {error}", file=sys.stderr)
        return 2
    return 0


def _cross_entropy(model: Any, batch: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


COMMANDS = {
    "run": Command(lambda: prap_pim(("run", "c.yaml", "--output", "out", "--resume", "--quiet")), 24),
    "compare": Command(
        lambda: prap_pim(("compare", "c.yaml", "--methods", "prap,c", "--output", "out", "--resume", "--quiet")), 18
    ),
    "simulate": Command(_simulate, 16),
    "explore": Command(
        lambda: prap_pim(("explore", "s.yaml", "--output", "out", "--resume", "--processes", "1", "--quiet")), 24
    ),
    "compress": Command(_compress, 3),
    "finetune": Command(_finetune, 12),
}


def strike(work: Callable[[], int], number: int, delay: float) -> int:
    """Do it in this process, which ends by SIGKILL ``delay`` seconds after the file of this number was written."""
    left, flush = [number], os.fsync

    def announced(handle: int) -> None:
        flush(handle)
        left[0] -= 1
        if left[0] == 0:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    os.fsync = announced
    return work()


def contents(place: Path) -> dict[str, Any]:
    """What a command left that somebody reads: values of JSON without the call, bytes of others."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        name = path.relative_to(place).as_posix()
        if path.suffix == ".json":
            found[name] = _without_call(json.loads(path.read_bytes()))
        elif path.suffix == ".safetensors":  # the library writes what is beside the tensors in any order
            found[name] = {key: (tensor.shape, tensor.tobytes()) for key, tensor in load_file(path).items()}
        elif path.suffix in (".onnx", ".csv"):
            found[name] = path.read_bytes()
        elif path.name.endswith(".part") and (place / "out") in path.parents:  # elsewhere nobody may take it away
            found[name] = "left over"
    return found


def _without_call(value: Any) -> Any:
    """Digests of files that hold the call differ, too."""
    if isinstance(value, dict):
        skipped = ("command", "sha256", "results.json", "study.json", "started_in")
        return {key: _without_call(each) for key, each in value.items() if key not in skipped}
    return [_without_call(each) for each in value] if isinstance(value, list) else value


def begun(name: str, root: Path, base: Path | None) -> Path:
    """A folder to call a command in."""
    place = root / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "c.yaml").write_text(yaml.safe_dump(_CONFIG))
    (place / "s.yaml").write_text(yaml.safe_dump({**STUDY, "trials": 4}))
    (place / "m.onnx").write_bytes(network().SerializeToString())
    (place / "d.npz").write_bytes(calibration())
    if base is not None:
        shutil.copytree(base / "out", place / "out")
    return place


def tried(name: str, count: int, root: Path, base: Path | None) -> tuple[int, str]:
    """Kill a command ``count`` times; how many struck, and what is wrong with what was left (nothing: empty)."""
    command, random = COMMANDS[name], Random(f"kills {name}")
    whole = begun(f"{name}-whole", root, base)
    outcome = server.run(command.work, whole)
    if outcome.code:
        return 0, f"undisturbed: exit {outcome.code}: {outcome.error}"
    wanted, killed = contents(whole), 0
    place = begun(f"{name}-killed", root, base)
    while killed < count:
        number, delay = random.randrange(1, command.last + 1), random.uniform(0, random.choice(_MOMENTS))
        outcome = server.run(lambda n=number, d=delay: strike(command.work, n, d), place)
        if outcome.code == -signal.SIGKILL and outcome.seconds < server.SECONDS:
            killed += 1
            if name == "compress" and any(wanted[key] != value for key, value in contents(place).items()):
                return killed, "a file is there that is not whole"
        elif outcome.code:
            return killed, f"exit {outcome.code}: {outcome.error}"
        else:  # it had finished, before the timer struck
            if contents(place) != wanted:
                return killed, "what was left differs"
            place = begun(f"{name}-killed", root, base)
    outcome = server.run(command.work, place)
    left = contents(place)
    differing = sorted(key for key in {**wanted, **left} if wanted.get(key) != left.get(key))
    return killed, outcome.wrong or (f"what was left differs: {differing}" if differing else "")


def main() -> int:
    os.environ.pop("PRAP_PIM_TRACEBACK", None)
    count, failed = int(sys.argv[1]), 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared(root)
        base = begun("base", root, None)
        assert server.run(COMMANDS["run"].work, base).code == 0
        for name in sys.argv[2:] or COMMANDS:
            killed, wrong = tried(name, count, root, base if name == "simulate" else None)
            print(f"{name:10} killed {killed:3} times: {wrong or 'ended as undisturbed'}", flush=True)
            failed += wrong != ""
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
