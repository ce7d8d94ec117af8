"""The page on chips of one's own says what happens with mistakes: it does."""

import re
import shutil
from pathlib import Path

import pytest

from prap_pim.__main__ import main
from prap_pim.hardware.chip import CHIPS
from prap_pim.hardware.components import COMPONENTS
from tests.docs.pages import ROOT

CHIP, FIGURES = "my-chip.toml", "my-figures.toml"
# what is done to which file, for the first cell of each row: a pattern and what stands in its place
MISTAKES = {
    "`adc_bit = 4`": (CHIP, r"^adc_bits = .*", "adc_bit = 4"),
    "no `mesh_columns`": (CHIP, r"^mesh_columns = .*", ""),
    "`crossbar_rows = 4`": (CHIP, r"^crossbar_rows = .*", "crossbar_rows = 4"),
    '`accumulate = "gathered"`': (CHIP, r"^mesh_columns = .*", 'mesh_columns = 14\naccumulate = "gathered"'),
    '`components = "isaac"`': (CHIP, r"^components = .*", 'components = "isaac"'),
    'in the table, `unit = "mW"`': (FIGURES, r'^(power = .*unit = )"W"', r'\1"mW"'),
    'in the table, `source = ""`': (FIGURES, r"^(power = .*source = ).*", r'\1"" }'),
    "in the table, no `[bus]`": (FIGURES, r"^\[bus\]\n(.+\n)+", ""),
}
ROWS = re.findall(r"^\| (.+?) \| `(.+)` \|$", (ROOT / "docs" / "chip.md").read_text(), flags=re.MULTILINE)


def test_every_row_is_tried() -> None:
    assert [mistake for mistake, _ in ROWS] == list(MISTAKES)


@pytest.mark.parametrize(("mistake", "answer"), ROWS)
def test_the_answer(
    mistake: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chip = (CHIPS / "isaac-32nm.toml").read_text()
    Path(CHIP).write_text(re.sub(r"(?m)^components = .*", f'components = "{FIGURES}"', chip))
    shutil.copy(COMPONENTS / "isaac-32nm.toml", FIGURES)
    file, pattern, instead = MISTAKES[mistake]
    text, times = re.subn(pattern, instead, Path(file).read_text(), count=1, flags=re.MULTILINE)
    assert times == 1
    Path(file).write_text(text)
    command = ["run", str(ROOT / "examples" / "digits.yaml"), "--set", f"chip={CHIP}", "--output", "run"]
    assert main(command) == 2
    assert capsys.readouterr().err == f"prap-pim: {answer}\n"
    assert not Path("run").exists()
