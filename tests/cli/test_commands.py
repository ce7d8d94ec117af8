"""What every command promises: help, quiet, JSON, completion, exit codes, one line for a mistake."""

import io
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest
import yaml
from rich.console import Console

from prap_pim.__main__ import main
from prap_pim.cli import output
from prap_pim.cli.launch import Launch
from prap_pim.cli.parser import ACCELERATORS, METHODS, PRECISIONS, STUDIES, cli
from prap_pim.common.errors import UserError
from prap_pim.hardware.chip import preset_names
from prap_pim.methods import method as methods
from prap_pim.replay import mapped, ratios
from tests.api.test_onnx import network
from tests.frontend.onnx.models import save
from tests.report.made_up import method, results, simulation

COMMANDS = list(cli.commands)
TINY = {
    "name": "tiny",
    "data": {"name": "digits", "size": 8, "train": 120, "calibration": 40, "test": 40},
    "model": {"name": "cnn", "width": 4},
    "training": {"epochs": 2, "compress_at": 1, "batch_size": 40},
    "methods": [{"name": "dense"}],
}
ENTRY = [sys.executable, "-m", "prap_pim"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands below take."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    base = {**TINY, "training": "none"}
    space = {"chip.adc_bits": [6, 7]}
    study = {"name": "study", "base": base, "space": space, "objectives": ["energy"], "sampler": "grid"}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    results(simulations=[simulation()]).save(folder / "told" / "results.json")
    case = network()
    save(case, folder)
    np.savez(folder / "data.npz", **case.inputs)
    assert main(["run", str(folder / "tiny.yaml"), "--output", str(folder / "real"), "--quiet"]) == 0
    return folder


# every command, as small as it goes; {n} differs from call to call
EXAMPLES = Path(__file__).parents[2] / "examples"
SMALLEST = {
    "run": "run tiny.yaml --output run{n} --set training=null",
    "compare": "compare tiny.yaml --output compare{n} --set training=null --methods dense",
    "explore": "explore study.yaml --output study{n} --processes 1",
    "report": "report told",
    "plot": "plot told --figure energy",
    "simulate": "simulate real --sweep adc-bits=4 --samples 4 --processes 1 --name s{n}",
    "compress": "compress model.onnx --calibration data.npz --method structured --set ratio=0.5 -o out{n}.onnx",
    "replay": "replay prap-2023 --network vgg16 --method prap",
    "reproduce": "reproduce --network resnet18",
    "example": "example digits",
    "completion": "completion bash",
}
REPORTING = [name for name in COMMANDS if name not in ("example", "completion")]  # which print a file and nothing else


def given(place: Path, monkeypatch: pytest.MonkeyPatch, command: str, *flags: str) -> int:
    monkeypatch.chdir(place)
    number = len(list(place.iterdir()))
    if command == "reproduce":  # takes seconds for the mapping of a network
        every = {"resnet18": {method: ratios.inference("prap-2023", "resnet18", method) for method in ratios.METHODS}}
        monkeypatch.setattr(mapped, "mapped_inferences", lambda *asked, **_: every)
    return main([*shlex.split(SMALLEST[command].format(n=f"{number}-{'-'.join(flags)}")), *flags])


def test_all_commands_are_tried() -> None:
    assert list(SMALLEST) == COMMANDS


def test_an_example_is_run_as_its_file_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the repository has it; its text can be printed, changed and run."""
    small = "--set training=null --set data.test=4 --set data.size=8 --set model.depth=8 --set checked_images=4"
    monkeypatch.chdir(place)
    assert main(["run", "--example", "digits", "--output", "by-name", "--quiet", *shlex.split(small)]) == 0
    file = str(EXAMPLES / "digits.yaml")
    assert main(["run", file, "--output", "by-file", "--quiet", *shlex.split(small)]) == 0
    plans = [(place / each / "methods/prap/plan.safetensors").read_bytes() for each in ("by-name", "by-file")]
    assert plans[0] == plans[1]


def test_examples_are_printed_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(EXAMPLES.glob("*.yaml"), key=lambda file: file.stem)
    assert main(["example"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [file.stem for file in files]
    assert all(len(line) <= 120 and len(line.split()) > 3 for line in listed)
    assert [file.stem for file in files if "space" in yaml.safe_load(file.read_text())] == list(STUDIES)
    for file in files:
        assert main(["example", file.stem]) == 0
        assert capsys.readouterr().out == file.read_text()


@pytest.mark.parametrize("words", ["run", "run digits.yaml --example digits", "explore"])
def test_a_configuration_comes_from_one_place(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err == "prap-pim: give a configuration, or --example NAME; not both\n"


@pytest.mark.parametrize("command", REPORTING)
def test_quiet_prints_nothing(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert given(place, monkeypatch, command, "--quiet") == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", REPORTING)
def test_json_is_one_document_and_nothing_else(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert given(place, monkeypatch, command, "--json") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert isinstance(json.loads(out), dict)
    assert out.count("\n") == 1


def test_quiet_takes_nothing_from_json(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert given(place, monkeypatch, "report", "--json") == 0
    alone = capfd.readouterr()
    assert given(place, monkeypatch, "report", "--json", "--quiet") == 0
    assert capfd.readouterr() == alone


@pytest.mark.parametrize(
    "line",
    [
        "report told --output new/page.html",
        "report told real --output new/page.html",
        "plot told --figure energy -o new/e.pdf",
        "compress model.onnx --calibration data.npz --ratio 0.5 -o new/m.onnx",
        "compress model.onnx --calibration data.npz --ratio 0.5 -o m.onnx --plan new/m.safetensors",
    ],
)
def test_folders_are_not_made_for_a_file(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A misspelt folder is a mistake; docs/cli.md says so."""
    monkeypatch.chdir(place)
    file = re.search(r"new/\S+", line)
    assert file
    assert main(shlex.split(line)) == 2
    assert capfd.readouterr() == ("", f"prap-pim: cannot write {file[0]}: there is no folder new\n")
    assert not Path("new").exists()
    assert not Path("m.onnx").exists()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example_that_parses(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # a narrow terminal does not break it
    assert main([*command.split(), "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  example")]
    examples = re.findall(r"prap-pim ([^;\n)]+)", "\n".join(lines))
    assert examples
    for example in examples:
        name, *words = shlex.split(example.strip(' "'))
        assert cli.commands[name].make_context(name, words).params
        assert name == command or not command


def test_without_arguments_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE) == COMMANDS


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("plto x", "No such command 'plto'. Did you mean 'plot'? (see prap-pim --help)"),
        ("--versoin", "No such option '--versoin'. Did you mean '--version'? (see prap-pim --help)"),
        ("run x --outptu=y", "No such option '--outptu'. Did you mean '--output'? (see prap-pim run --help)"),
        ("plot x --figur energy", "No such option '--figur'. Did you mean '--figure'? (see prap-pim plot --help)"),
        (
            "plot x --figure enrgy",
            "Invalid value for '--figure': 'enrgy' is unknown, did you mean 'energy'? (see prap-pim plot --help)",
        ),
        ("compress m -o x", "Missing option '--calibration' (see prap-pim compress --help)"),
        (
            "replay qqqqq -z",
            "No such option '-z' (allowed: --network, --method, --mapped, --quiet, --json, --help) "
            "(see prap-pim replay --help)",
        ),
        (
            "zzz",
            "No such command 'zzz' (allowed: run, compare, explore, report, plot, simulate, compress, replay, "
            "reproduce, example, completion) (see prap-pim --help)",
        ),
        ("run x.yaml --set", "Option '--set' requires an argument (see prap-pim run --help)"),
        ("run x --output ''", "Invalid value for '--output': must not be empty (see prap-pim run --help)"),
        ("compress m -o ''", "Invalid value for '-o' / '--output': must not be empty (see prap-pim compress --help)"),
        ("report", "Missing argument 'RUN...' (see prap-pim report --help)"),
        ("simulate 'a\n\x1bb' 'c\n\x1bd'", None),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(
    line: str, complaint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err == f"prap-pim: {complaint}\n" if complaint else "\x1b" not in told.err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("explore x --processes 0", "Invalid value for '--processes': must be at least 1, not 0"),
        ("explore x --processes 1025", "Invalid value for '--processes': must be at most 1024, not 1025"),
        ("explore x --processes -1", "Invalid value for '--processes': must be at least 1, not -1"),
        ("explore x --processes 1.5", "Invalid value for '--processes': must be a whole number, not '1.5'"),
        ("explore x --processes two", "Invalid value for '--processes': must be a whole number, not 'two'"),
        ("simulate x --processes 0", "Invalid value for '--processes': must be at least 1, not 0"),
        ("simulate x --samples many", "Invalid value for '--samples': must be a whole number, not 'many'"),
        ("simulate x --devices 1.5", "Invalid value for '--devices': must be a whole number, not '1.5'"),
        ("simulate x --seed s", "Invalid value for '--seed': must be a whole number, not 's'"),
        ("compress m --seed s", "Invalid value for '--seed': must be a whole number, not 's'"),
        ("compress m --ratio all", "Invalid value for '--ratio': must be a number, not 'all'"),
        ("compress m --max-drop x", "Invalid value for '--max-drop': must be a number, not 'x'"),
    ],
)
def test_a_number_that_is_none_or_out_of_range(line: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)) == 2
    assert capsys.readouterr() == ("", f"prap-pim: {complaint} (see prap-pim {line.split()[0]} --help)\n")


@pytest.mark.parametrize(
    "line",
    [
        "simulate real --samples 0",
        "simulate real --devices 0",
        "simulate real --devices 100001",
        "simulate real --seed -1",
        "simulate real --seed 2147483648",
        "compress model.onnx --calibration data.npz -o bad.onnx --ratio nan",
        "compress model.onnx --calibration data.npz -o bad.onnx --ratio -0.5",
        "compress model.onnx --calibration data.npz -o bad.onnx --max-drop inf",
        "compress model.onnx --calibration data.npz -o bad.onnx --ratio 0.5 --seed -1",
    ],
)
def test_a_number_that_the_command_refuses(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert not Path("bad.onnx").exists()


@pytest.mark.parametrize(
    "line",
    [
        "explore x --processes 2 --scheduler tcp://h:1",
        "compress m --calibration c -o x --ratio 0.5 --max-drop 0.1",
        "compress m --calibration c -o x --ratio 0.5 --budget energy=0.5",
        "compress m --calibration c -o x --budget energy=0.5 --max-drop 0.1",
    ],
)
def test_two_options_that_exclude_each_other(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)) == 2
    first, second = re.findall("--(?:processes|scheduler|ratio|budget|max-drop)", line)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"prap-pim: {first} and {second} exclude each other")
    assert err.count("\n") == 1


def test_help_waits_for_no_library() -> None:
    """--help and completion take a fraction of a second."""
    heavy = ("torch", "numpy", "pydantic", "rich", "importlib.metadata")
    ask = (
        f"import sys, prap_pim.__main__ as start; start.main(['run', '--help']); print(set(sys.modules) & {{*{heavy}}})"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_word_after_two_dashes_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--", "--nowhere"]) == 2
    assert "there is no folder --nowhere" in capsys.readouterr().err


def test_a_fault_of_the_program_is_one_line_and_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no\nsuch thing")

    monkeypatch.delenv("PRAP_PIM_TRACEBACK")
    monkeypatch.setattr("prap_pim.results.folder.RunFolder.read_results", broken)
    assert main(["report", "x"]) == 1
    told = "prap-pim: a fault of the program: ValueError: no such thing (with PRAP_PIM_TRACEBACK=1 it says where)\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr("prap_pim.results.folder.RunFolder.read_results", lambda _: bytearray(1 << 62))
    assert main(["report", "x"]) == 2
    assert capsys.readouterr().err.startswith("prap-pim: out of memory: ")


def in_a_process(line: str, place: Path, *, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f"{shlex.join(ENTRY)} {line}{shell}"
    return subprocess.run(["bash", "-c", command], cwd=place, env={**os.environ, **environment}, capture_output=True)


def test_output_that_nobody_reads(place: Path) -> None:
    """A reader that goes away, and streams that are closed."""
    for line in ("report told", "--help", "completion bash"):
        gone = in_a_process(line, place, shell=" | true; exit ${PIPESTATUS[0]}")
        assert (gone.returncode, gone.stderr) == (0, b""), line
    closed = in_a_process("report told", place, shell=" >&-")
    assert (closed.returncode, closed.stderr) == (0, b"")
    assert in_a_process("report nowhere", place, shell=" 2>&-").returncode == 2
    full = in_a_process("report told", place, shell=" > /dev/full")
    assert full.returncode == 2
    assert full.stderr == b"prap-pim: cannot write to the output: No space left on device\n"


def test_a_terminal_that_knows_ascii_only(place: Path) -> None:
    plain = in_a_process("report told", place, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert (plain.returncode, plain.stderr) == (0, b"")
    shown = plain.stdout.decode("ascii")
    assert re.search(r"area +2.13 mm2 ", shown)
    assert re.search(r"latency, pipelined +900 us +600 us", shown)


def on_a_terminal(words: Sequence[str], place: Path, columns: int, **environment: str) -> str:
    """All that a terminal of so many columns is sent."""
    ours, theirs = pty.openpty()
    there = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    at_once = "import prap_pim.cli.output as output, prap_pim.__main__ as start; output._PATIENCE = 0; start.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", at_once, *words], cwd=place, env=there, stdout=theirs, stderr=theirs, stdin=theirs
    )
    os.close(theirs)
    sent = b""
    try:
        while part := os.read(ours, 65536):
            sent += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return sent.decode()


CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_forty_columns_and_no_color(place: Path) -> None:
    words = [*shlex.split(SMALLEST["simulate"].format(n="-terminal"))]
    sent = on_a_terminal(words, place, 40, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", sent)  # no colour
    assert "%" in sent  # a bar
    lines = [line for line in re.split(r"[\r\n]+", CONTROL.sub("", sent)) if "report: " not in line]
    assert max(map(len, lines)) <= 40
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", on_a_terminal(["report", "told"], place, 100))


def test_what_is_piped_is_not_wrapped(place: Path) -> None:
    names = ["dense", *(f"a method of some length, number {i}" for i in range(1, 9))]
    made_up = results(methods=[method(i % 2, name=name) for i, name in enumerate(names)])
    made_up.save(place / "wide" / "results.json")
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    piped = subprocess.run([*ENTRY, "report", "wide"], cwd=place, env=environment, capture_output=True, text=True)
    (head,) = (line for line in piped.stdout.splitlines() if line.split()[:1] == ["dense"] and "number 8" in line)
    assert [name for name in names if name in head] == names


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_progress_fits_its_line_and_tells_the_time_left(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, now = io.StringIO(), [0.0]
    console = Console(file=screen, width=width, force_terminal=True, color_system=None, get_time=lambda: now[0])
    monkeypatch.setattr(output, "Output", lambda **_: console)
    monkeypatch.setattr(output, "_PATIENCE", 0)
    with output.progress_bars(quiet=False) as progress:
        for done in range(6):
            now[0] += 2  # 20 s for all: 8 are left at last
            progress("a phase with a name of some length", done, 9, "a note [red]of it")
    lines = re.split(r"[\r\n]+", CONTROL.sub("", screen.getvalue()))
    last = [line for line in lines if line.strip()][-1]
    assert len(last.rstrip()) <= width
    assert last.startswith("a phase")
    assert re.search(r"\b0?0:08\b", last)
    assert ("[red]" in last) == (width >= 100)


def test_what_comes_before_the_first_phase_is_shown_as_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=100, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "Output", lambda **_: console)
    monkeypatch.setattr(output, "_PATIENCE", 0)
    with output.progress_bars(quiet=False) as progress:
        assert "starting" in screen.getvalue()
        progress("the first", 0, 2)
        screen.truncate(0)
        progress("the first", 1, 2)
    assert "the first" in screen.getvalue()
    assert "starting" not in screen.getvalue()


@pytest.fixture(scope="module")
def installed(place: Path) -> dict[str, str]:
    """An environment in which a shell finds `prap-pim`, which its completion calls."""
    program = place / "bin" / "prap-pim"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(ENTRY)} "$@"\n')
    program.chmod(0o755)
    return os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}


# bash knows compopt only while a key is pressed; this one offers what bash then would
COMPOPT = """
compopt() {
    case $2 in dirnames) flag=-d ;; default) flag=-f ;; *) return 1 ;; esac
    mapfile -t COMPREPLY < <(compgen "$flag" -- "${COMP_WORDS[COMP_CWORD]}")
}
"""


def completed(place: Path, environment: dict[str, str], *words: str) -> set[str]:
    """What a real bash offers for the last of these words."""
    script = place / "completion.bash"
    if not script.exists():
        script.write_bytes(in_a_process("completion bash", place).stdout)
    ask = (
        f"source {shlex.quote(str(script))}\n{COMPOPT}"
        f"COMP_WORDS=({shlex.join(['prap-pim', *words])}); COMP_CWORD={len(words)}\n"
        "registered=$(complete -p prap-pim); [[ $registered =~ -F\\ ([^ ]+) ]]; ${BASH_REMATCH[1]} prap-pim\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", ask], cwd=place, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes(place: Path, installed: dict[str, str]) -> None:
    assert completed(place, installed, "") == set(COMMANDS)
    assert completed(place, installed, "com") == {"compare", "compress", "completion"}
    assert completed(place, installed, "plot", "--fi") == {"--figure"}
    assert completed(place, installed, "plot", "told", "--figure", "layer-s") == {"layer-steps"}
    assert completed(place, installed, "plot", "told", "--figure", "energy", "--format", "") == {
        "pdf",
        "svg",
        "png",
        "tex",
        "csv",
        "parquet",
    }
    assert completed(place, installed, "plot", "told", "--figure=bre") == {"breakdown"}
    assert completed(place, installed, "run", "tin") == {"tiny.yaml"}
    assert completed(place, installed, "compress", "model.onnx", "--calibration", "da") == {"data.npz"}
    assert completed(place, installed, "report", "to") == {"told"}
    assert completed(place, installed, "report", "tin") == set()  # a file is no run


def test_bash_completes_values(place: Path, installed: dict[str, str]) -> None:
    assert completed(place, installed, "compress", "m", "--method", "") == set(METHODS)
    assert completed(place, installed, "compress", "m", "--chip", "isaac") == {"isaac-32nm"}
    assert completed(place, installed, "compress", "m", "--chip", "tin") == {"tiny.yaml"}  # or a file
    assert completed(place, installed, "run", "tiny.yaml", "--accelerator", "c") == {"cpu", "cuda"}
    assert completed(place, installed, "run", "tiny.yaml", "--precision", "b") == {"bf16-mixed"}
    assert completed(place, installed, "replay", "") == {"prap-2023"}


def test_words_that_are_completed_are_those_allowed() -> None:
    """The command line has lists of its own, as it loads nothing to complete a word."""
    assert sorted(METHODS) == sorted(methods.METHODS)
    assert get_args(Launch.model_fields["accelerator"].annotation) == ACCELERATORS
    assert get_args(Launch.model_fields["precision"].annotation) == PRECISIONS
    offered = {
        (name, parameter.name): [item.value for item in parameter.shell_complete(context, "")]
        for name, command in cli.commands.items()
        for context in [click.Context(command)]
        for parameter in command.params
        if parameter.name in ("chip", "preset")
    }
    assert offered == {
        ("compress", "chip"): preset_names(),
        ("replay", "preset"): ["prap-2023"],
        ("reproduce", "preset"): ["prap-2023"],
    }


def test_a_shell_that_asks_without_a_line(place: Path) -> None:
    done = in_a_process("", place, _PRAP_PIM_COMPLETE="bash_complete")
    told = b"prap-pim: _PRAP_PIM_COMPLETE is for the script that prap-pim completion prints ('COMP_WORDS')\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", told)


def test_an_interruption_of_an_import_ends_in_130(place: Path) -> None:
    """Python would end by SIGINT after code that was made of text was interrupted."""
    ask = (
        "import sys, prap_pim.__main__ as start; start.cli.invoke = lambda _: exec('raise KeyboardInterrupt'); "
        "sys.exit(start.main(['report', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"prap-pim: interrupted; nothing was written\n")


def test_simulate_lists_what_it_takes(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["simulate", "real", "--set", "foo=1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("prap-pim: --set: unknown key 'foo' (allowed: accumulator_bits, adc_bits,")
    assert "grain.cell_bits, grain.dac_bits, overflow" in told


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(place: Path, installed: dict[str, str]) -> None:
    (place / "completion.fish").write_bytes(in_a_process("completion fish", place).stdout)
    ask = "source completion.fish; complete -C 'prap-pim com'; complete -C 'prap-pim run tin'"
    done = subprocess.run(["fish", "--no-config", "-c", ask], cwd=place, env=installed, capture_output=True, text=True)
    offered = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert offered == {"compare", "compress", "completion", "tiny.yaml"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_takes_its_script(place: Path) -> None:
    script = in_a_process("completion zsh", place).stdout
    load = 'autoload -U compinit; compinit -D; eval "$(cat)"; print $_comps[prap-pim]'
    done = subprocess.run(["zsh", "-f", "-c", load], input=script, capture_output=True)
    assert (done.stdout, done.stderr) == (b"_prap_pim_completion\n", b"")


def test_mistakes_are_user_errors_that_end_in_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*_: object) -> None:
        raise UserError("two\nlines")

    monkeypatch.setattr("prap_pim.results.folder.RunFolder.read_results", wrong)
    assert main(["report", "x", "--json"]) == 2
    assert capsys.readouterr() == ("", "prap-pim: two lines\n")


def test_an_interruption_ends_in_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prap_pim.results.folder.RunFolder.read_results", stopped)
    assert main(["report", "x"]) == 130
    assert capsys.readouterr().err == "prap-pim: interrupted; nothing was written\n"


def test_cycles_are_not_searched_for_at_the_end() -> None:
    """It takes longer than anybody waits who interrupts; nothing depends on it: files are closed by then."""
    ask = (
        "import sys\nclass Cycle:\n def __init__(self): self.me = self\n def __del__(self): print('found')\n"
        "sys.argv[1:] and __import__('prap_pim.__main__')\nCycle()"
    )
    for given, printed in ([], b"found\n"), (["ours"], b""):
        done = subprocess.run([sys.executable, "-c", ask, *given], capture_output=True, check=True)
        assert done.stdout == printed


def test_the_page_of_commands_is_whole() -> None:
    """Every command has its part and an example there, and exit codes (docs/files.md) are those of the help."""
    page, files = ((EXAMPLES.parent / "docs" / name).read_text() for name in ("cli.md", "files.md"))
    parts = dict(
        zip(
            re.findall(r"^## `prap-pim ([a-z]+)`", page, re.MULTILINE),
            re.split(r"^## `.*$", page, flags=re.MULTILINE)[1:],
            strict=True,
        )
    )
    assert list(parts) == COMMANDS
    for command, part in parts.items():
        assert f"prap-pim {command} " in part.split("```sh")[1].split("```")[0]
    codes = re.findall(r"^\| (\d+) \|", files, re.MULTILINE)
    assert codes == re.findall(r"\b(\d+) [a-z]", (cli.epilog or "").split("example")[0])
