"""What surrounds a process changes nothing: a clock that jumps, times of files, locale, names that are no text."""

import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from prap_pim.runs.crossbars import Crossbars
from tests.runs.kills import COMMANDS, begun, contents

ROOT = Path(__file__).parents[2]
NAMES = {"run": ("run", "simulate", "run", "compress"), "study": ("explore",)}
YEAR = 3e7  # seconds
COMMA = "de_DE.ASCII"


def jumping_clock() -> None:
    """Every look at the clock is up to a year early or late."""
    real, jumps = time.time, random.Random(0)
    time.time = lambda: real() + jumps.uniform(-YEAR, YEAR)
    time.time_ns = lambda: int(time.time() * 1e9)


def work(root: Path) -> None:
    """All commands, with files that are older or newer than they can be when the next one reads them."""
    for name, commands in NAMES.items():
        os.chdir(root / name)
        for command in commands:
            assert COMMANDS[command].work() == 0
            for path in (root / name).rglob("*"):
                os.utime(path, (0, 0) if len(path.name) % 2 else (2**32, 2**32))


def odd_locale(folder: Path) -> dict[str, str]:
    """The environment of a locale with decimal commas and without UTF-8; where none can be made, of C's."""
    with suppress(FileNotFoundError):
        made = ["localedef", "-c", "-i", "de_DE", "-f", "ANSI_X3.4-1968", str(folder / COMMA)]
        subprocess.run(made, check=False, capture_output=True)
    kept = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # else Python takes UTF-8
    return {"LC_ALL": COMMA if (folder / COMMA).exists() else "C", "LOCPATH": str(folder), **kept}


def test_clock_times_of_files_and_locale_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, odd = tmp_path / "plain", tmp_path / os.fsdecode("größe Ω ".encode() + b"\xff")  # the last is no text
    for root in (plain, odd):
        for name in NAMES:
            begun(name, root, None)
    monkeypatch.chdir(plain)
    work(plain)
    program = (
        "import locale, sys; from pathlib import Path; from tests.runs import test_surroundings as here; "
        "locale.setlocale(locale.LC_ALL, ''); here.jumping_clock(); here.work(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(odd)]
    surroundings = {**os.environ, **odd_locale(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in NAMES:
        assert contents(odd / name) == contents(plain / name)


def test_a_device_file_whose_name_is_no_text_is_named_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"d\xff.yaml")
    file.write_text("adc_bits: 6")
    found = Crossbars.read(file, [])
    assert (found.title, found.sources) == ("d\ufffd", {"adc_bits": "d\ufffd.yaml"})
