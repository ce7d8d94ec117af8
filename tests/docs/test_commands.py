"""Every command in the README and the docs is given, as a reader would give it."""

import contextlib
import io
import re
import subprocess

import pytest

from prap_pim.__main__ import main
from tests.docs.conftest import Reader
from tests.docs.pages import ROOT, Command, commands, forms

# Commands that are not given, and why. All others are.
OWN = "needs the reader's own network; tests/runs/test_own_libraries.py gives such"
NETWORK, LONG, SUITE = "needs a package index", "hours or many minutes; its quick form is in tests/", "runs this suite"
NOT_GIVEN = {
    "make demo": "installs, then runs the digits, as other commands do",
    "make docs": "installs, then builds the site as test_site.py does",
    "make test": SUITE,
    "make test-long": LONG,
    "make bench": LONG,
    "make fuzz N=10000": LONG,
    "make fuzz-parsers": LONG,
    "make audit": NETWORK,
    "make bench-real": LONG,
    "prap-pim compress bert-folder --calibration text.txt --tokenizer bert-folder --ratio 0.25 -o small": OWN,
    'prap-pim compress "{timm: resnet10t}" --checkpoint weights.safetensors --calibration pictures '
    "--ratio 0.25 -o small": OWN,
    "pip install 'prap-pim[cluster]'": NETWORK,
    "pip install 'prap-pim[events]'": NETWORK,
    "pip install 'prap-pim[pandas]'": NETWORK,
    "pip install 'prap-pim[transformers]'": NETWORK,
    "pip install 'prap-pim[onnx]'": NETWORK,
    "pip install -c constraints.txt -e .": NETWORK,
    "python benchmarks/accuracy.py --write docs/accuracy.md": LONG,
    "python benchmarks/accuracy.py --networks resnet20-w16 --lines lowbit calibrated calibrated-tuned "
    "--ratios 1/2 27/100 1/4 1/8 1/16 1/32": LONG,
    "python benchmarks/gpt.py --write docs/gpt.md": LONG,
    "python benchmarks/real.py --cached --write docs/real.md": LONG,
    "python benchmarks/validation.py --write docs/validation.md": "tests/benchmarks/test_validation.py does",
    "python benchmarks/calibrate.py": LONG,
    "python scripts/method_drawings.py": "writes the drawings of this repository; test_drawings.py compares them",
    "python benchmarks/architectures.py --write docs/any-model.md": LONG,
    "python benchmarks/accumulate.py": LONG,
    "python benchmarks/scale.py --methods calibrated": LONG,
    "python benchmarks/large.py": LONG,
    "python benchmarks/explore.py": LONG,
    "python benchmarks/function.py": LONG,
    "python benchmarks/methods.py": LONG,
    "python benchmarks/pipeline.py": LONG,
    "python benchmarks/robustness.py --seeds 0 --devices 3 --sigmas 0.1 0.2 0.3": LONG,
    "python benchmarks/robustness.py --seeds 2 0 --devices 3 --sigmas 0.2": LONG,
}
ALL = commands()


@pytest.mark.parametrize("command", [pytest.param(each, id=each.where) for each in ALL if each.text not in NOT_GIVEN])
def test_it_can_be_given(command: Command, reader: Reader) -> None:
    reader.type(command.text)


def test_all_others_are_named_with_a_reason() -> None:
    assert set(NOT_GIVEN) <= {each.text for each in ALL}


@pytest.mark.parametrize("command", sorted(x for x in NOT_GIVEN if not x.startswith(("pip", "prap-pim"))))
def test_what_is_not_given_could_be(command: str) -> None:
    """There is such a target, or such a script."""
    program, name, *_ = command.split()
    if program == "make":
        subprocess.run(["make", "--dry-run", name], cwd=ROOT, check=True, capture_output=True)
    else:
        assert (ROOT / name).is_file()


@pytest.mark.parametrize("form", [pytest.param(each, id=each.where) for each in forms()])
def test_forms_name_what_there_is(form: Command) -> None:
    """`prap-pim report RUN` in a sentence is not given, but there is such a command with such options."""
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text):
        assert main([form.text.split()[1], "--help"]) == 0
    for option in re.findall(r"--[a-z-]+", form.text):
        assert re.search(rf"{option}\b", help_text.getvalue()), option
