import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prap_pim.__main__ import main
from prap_pim.cli.commands import config_file
from prap_pim.cli.parser import cli
from prap_pim.hardware.chip import load_chip
from prap_pim.runs.config import RunConfig
from tests.docs.pages import PAGES, ROOT, blocks, commands

# What is added to a command that would take minutes, so that it takes a second or two. What the reader's own command
# says is checked before that: its configuration is loaded with its own --set and nothing else.
SMALL_TRAINING = "training={epochs: 2, compress_at: 1, batch_size: 64, project_every: 1}"  # unless there is none
SMALL_RUN = {  # by the data
    "digits": ["data.size=8", "data.train=160", "data.calibration=40", "data.test=40", "model.width=8"]
}
SMALL = {
    "explore": f"--processes 1 --set trials=4 --set batch=2 --set 'base.{SMALL_TRAINING}'",
    "simulate": "--samples 8 --devices 2 --processes 1",
    "replay --mapped": "--network resnet18 --method prap",
    "reproduce": "--network resnet18",
}
_SHELL = set("|&;<>$`()")


def _parsed(words: list[str]) -> dict[str, Any]:
    """The arguments of a command by name, as the command line reads them."""
    name, *rest = words
    return cli.commands[name].make_context(name, rest).params


def _config(arguments: dict[str, Any]) -> RunConfig:
    return RunConfig.load(config_file(SimpleNamespace(**arguments)), arguments["overrides"])


class Reader:
    """Somebody who types what the pages say, in a folder with the repository's examples. Each command is given once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.given = folder, dict[str, str]()
        shutil.copytree(ROOT / "examples", folder / "examples")
        for page in PAGES:
            for block in blocks(page):
                if block.title:
                    (folder / block.title).write_text(block.text)
        # the example on the page makes the model.onnx and data.npz that commands speak of
        onnx = next(block for block in blocks(ROOT / "docs" / "onnx.md") if block.language == "python")
        with self._inside():
            exec(compile(onnx.text, "example", "exec"), {"__name__": "example"})

    def type(self, command: str) -> str:
        """Give the command, after those that make the finished runs it speaks of; returns what it prints."""
        if command not in self.given:
            self.given[command] = ""
            for run in re.findall(r"(?<!--output )\bruns/[\w.-]+", command):
                if not (self.folder / run).exists():
                    self._make(run, command)
            with self._inside():
                self.given[command] = self._shell(command) if _SHELL & set(command) else self._direct(command)
        return self.given[command]

    def _make(self, run: str, command: str) -> None:
        """Give the first command on the pages that leaves this run folder."""
        for each in commands():
            if each.text != command and each.text.startswith(("prap-pim run ", "prap-pim compare ")):
                arguments = _parsed(shlex.split(each.text)[1:])
                with self._inside():
                    output = arguments["output"] or _config(arguments).output
                if str(output) == run:
                    self.type(each.text)
                    return

    def _direct(self, command: str) -> str:
        program, *words = shlex.split(command)
        if program != "prap-pim":
            return self._shell(command)
        words += self._made_small(words)
        printed, errors = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(errors),
        ):
            patch.setattr(sys, "argv", ["prap-pim", *words])
            patch.setattr(sys, "stdout", printed)
            code = main(words)
        assert code == 0, f"{command}: {errors.getvalue()}"
        return printed.getvalue()

    def _shell(self, command: str) -> str:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment["PYTHONPATH"] = str(ROOT / "src")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _made_small(self, words: list[str]) -> list[str]:
        for name, more in SMALL.items():
            if set(name.split()) <= set(words):
                return shlex.split(more)
        if words[0] not in ("run", "compare"):
            return []
        arguments = _parsed(words)
        config = _config(arguments)
        load_chip(config.chip)
        more = [*SMALL_RUN[config.data.name], *([SMALL_TRAINING] if config.training else [])]
        more += ["model.depth=8"] if config.model.name == "resnet" else []
        if config.training and config.training.shards:
            more.append(f"training.shards={config.training.shards}")
        return [word for each in more for word in ("--set", each)]

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(before)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))
