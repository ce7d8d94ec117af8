"""``python -m tests.fuzz N``: N hostile inputs of every kind, a table of what came of them, and those that failed."""

import argparse
import contextlib
import gc
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import yaml

from tests.fuzz import server
from tests.fuzz.case import Case
from tests.fuzz.configurations import RUN, RUN_IT, STUDY, TRAINED
from tests.fuzz.formats import FORMATS
from tests.fuzz.models import COMPRESS, calibration, network

# what shows when layers are computed, overflows and the crossbars of a calibrated plan: what was done before is kept
_COMPUTED = re.compile(
    r"(on a calibration input|(step and bias must be|its bias holds NaN or) (finite|infinity)|"
    r"\(\w\) needs [\d,]+ crossbars .*budget is \d+)$"
)


@dataclass(frozen=True)
class Fuzz:
    """What all cases share.

    Attributes:
        root: a folder for them.
        finished: the folder of a finished run.
        seed: of all cases.
        kept: the folder of what failed, with what reproduces it.
    """

    root: Path
    finished: Path
    seed: int
    kept: Path

    def all(self, count: int, formats: list[str], verbose: bool) -> int:
        """Try ``count`` cases and print a table; returns how many failed."""
        table = {kind: Counter[str]() for kind in formats}
        begun, slowest = time.monotonic(), (0.0, "")
        for i in range(count):
            kind, number = formats[i % len(formats)], i // len(formats)
            outcome = self.one(kind, number)
            table[kind][str(outcome.code) if not outcome.wrong else "else"] += 1
            if verbose:
                print(f"{kind}:{number} exit {outcome.code}, {outcome.seconds:.1f} s: {outcome.error.strip()}")
            slowest = max(slowest, (outcome.seconds, f"{kind}:{number}"))
        total = sum(table.values(), Counter[str]())
        print(f"{'format':22}{'tried':>8}{'exit 0':>8}{'exit 2':>8}{'else':>8}")
        for kind, counts in [*table.items(), ("all", total)]:
            print(f"{kind:22}{counts.total():8}{counts['0']:8}{counts['2']:8}{counts['else']:8}")
        print(f"{time.monotonic() - begun:.0f} s; the slowest took {slowest[0]:.1f} s: {slowest[1]}")
        return total["else"]

    def one(self, kind: str, number: int, keep: bool = False) -> server.Outcome:
        """Try one case."""
        case = FORMATS[kind](Random(f"{self.seed} {kind} {number}"), self.finished)
        place = self.root / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        case.put(place, self.finished)
        outcome = server.run(case, place)
        computed = _COMPUTED.search(outcome.error.strip())
        if not outcome.wrong and outcome.code == 2 and not computed and (place / "out").exists():
            outcome = replace(outcome, wrong=f"what is refused has left a folder: {outcome.error.strip()}")
        if outcome.wrong or keep:
            kept = self.kept / re.sub(r"[^\w.-]", "", f"{kind}-{self.seed}-{number}")
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(place, kept, ignore=shutil.ignore_patterns("*.html"))
            again = f'python -m tests.fuzz 1 --seed {self.seed} --only "{kind}:{number}"'
            (kept / "case.json").write_text(json.dumps([case.told, case.command, vars(outcome), again], indent=1))
            print(f"{kind}:{number} {case.told[:120]}\n    {outcome.wrong[:300]}", file=sys.stderr, flush=True)
        return outcome


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("count", type=int)
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--format", choices=FORMATS, action="append")
    given.add_argument("--verbose", action="store_true", help="show every case and its message")
    given.add_argument("--kept", type=Path, default=Path("build/fuzz"), help="folder of what failed")
    given.add_argument("--only", help="FORMAT:NUMBER, a single case; its folder is kept")
    asked = given.parse_args()
    os.environ.pop("PRAP_PIM_TRACEBACK", None)
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder), prepared(Path(folder)), asked.seed, asked.kept)
        if asked.only:
            kind, _, number = asked.only.rpartition(":")
            print(outcome := fuzz.one(kind, int(number), keep=True))
            return int(outcome.wrong != "")
        return int(fuzz.all(asked.count, asked.format or list(FORMATS), asked.verbose) > 0)


def prepared(root: Path) -> Path:
    """The folder of a finished run, and all that children need loaded: imports, kernels, templates.

    Every command is called once in this process, but for training: once autograd has run, it can no longer be forked.
    """
    place = root / "finished"
    place.mkdir()
    _once(Case("", {"c.yaml": yaml.safe_dump(RUN).encode()}, RUN_IT))
    trained = Case("", {"c.yaml": yaml.safe_dump(TRAINED).encode()}, RUN_IT)
    trained.put(place, Path())
    outcome = server.run(trained, place)
    if outcome.code or outcome.error:
        raise SystemExit(f"the run that all begins with failed: {outcome}")
    quiet = ("--quiet", "--processes", "1")
    wrong = ("--set", "device.variation.sigma=0.1", "--samples", "2", "--devices", "1")
    _once(Case("", {}, ("simulate", "run", *wrong, *quiet), run=True), place / "out")
    _once(Case("", {}, ("plot", "run", "--figure", "energy", "--output", "f.csv", "--quiet"), run=True), place / "out")
    _once(Case("", {"s.yaml": yaml.safe_dump(STUDY).encode()}, ("explore", "s.yaml", "--output", "out", *quiet)))
    _once(Case("", {"m.onnx": network().SerializeToString(), "d.npz": calibration()}, COMPRESS))
    gc.freeze()  # a collection in a child would write to every page of this process, and so copy it
    return place / "out"


def _once(case: Case, finished: Path = Path()) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        case.put(Path(), finished)
        if code := case():
            raise SystemExit(f"{case.command} failed: exit {code}")


if __name__ == "__main__":
    sys.exit(main())
