from pathlib import Path
from typing import Any

import pytest

from prap_pim.common.errors import UserError
from prap_pim.hardware.chip import CHIPS, Chip, load_chip, preset_names


def test_presets_are_the_papers_hardware() -> None:
    assert {"prap-2023", "isaac-32nm", "survey-32nm"} <= set(preset_names())
    for name in preset_names():
        chip = load_chip(name)
        assert (chip.crossbar_rows, chip.crossbar_columns) == (128, 128)
        assert (chip.grain.ou_rows, chip.grain.ou_columns, chip.grain.cell_bits) == (8, 8, 1)
        assert chip.ous_per_crossbar == 256
        assert chip.lossless_adc_bits == 4  # counts 0..8
        assert chip.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("crossbar_rows = 128", "crossbar_row = 128", "unknown key 'crossbar_row' (did you mean 'crossbar_rows'?)"),
        (
            "crossbar_rows = 128",
            "crossbar_rows = 0",
            "crossbar_rows: must be at least 1, not 0",
        ),
        ("crossbar_rows = 128", "crossbar_rows = 'many'", "crossbar_rows: must be a whole number, not 'many'"),
        ("crossbar_rows = 128", "crossbar_rows = 100", "an OU of 8 rows does not divide a crossbar of 100 rows"),
        ("crossbar_rows = 128", "", "crossbar_rows"),
        ("ou_columns = 8", "ou_columns = 24", "an OU of 24 columns does not divide a crossbar of 128 columns"),
        ("ou_rows = 8", "ou_row = 8", "unknown key 'ou_row' (did you mean 'ou_rows'?)"),
        ("ou_rows = 8", "ou_rows = 0", "ou_rows must be at least 1, not 0"),
        ("ou_rows = 8", "ou_rows = 8.0", "ou_rows must be a whole number, not 8.0"),
        ('adc_time = "(bits+2)/rate"', 'adc_time = "fast"', "'1/rate' or '(bits+2)/rate'"),
        ("clock_hz = 1.2e9", "clock_hz = nan", "clock_hz"),
        ("clock_hz = 1.2e9", "clock_hz = 1.2e9\naccumulate = 'gathered'", "accumulate: must be 'scatter' or 'gather'"),
        ("[grain]", "[grain", "not valid TOML"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = (CHIPS / "prap-2023.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_chip(path)
    assert says in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_presets_scatter_and_a_file_may_say_gather(tmp_path: Path) -> None:
    text = (CHIPS / "isaac-32nm.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("[grain]", 'accumulate = "gather"\n[grain]'))
    mine = load_chip(tmp_path / "mine.toml")
    for chip in map(load_chip, preset_names()):
        assert (chip.accumulate, chip.gathers, chip.sums_per_access) == ("scatter", False, 1)
    assert (mine.gathers, mine.sums_per_access) == (True, 8)  # 256 bits, 32 each
    assert mine.dot_bits == 19  # of 8 rows, -128 x -128 each: 2**17, and a sign
    assert mine.model_copy(update={"partial_sum_bits": 300}).sums_per_access == 1


def test_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no chip 'prap-2024' \(did you mean 'prap-2023'\?\)"):
        load_chip("prap-2024")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"adc_bits": 3}, "an ADC of 3 bits cannot count what the 8 rows of an OU sum to; 4 bits lose nothing"),
        ({"adcs_per_crossbar": 10}, "10 ADCs share the 8 columns of an OU: 2 are idle"),
    ],
)
def test_odd_chips_are_warned_of(change: dict[str, Any], says: str) -> None:
    (warning,) = Chip.checked(load_chip("prap-2023").model_dump() | change, "test").warnings
    assert says in warning


def test_hops_are_manhattan() -> None:
    chip = load_chip("isaac-32nm")  # 14 tiles in a row
    assert chip.hops(3, 3) == 0
    assert chip.hops(13, 14) == 14  # end of one row to the start of the next
    assert chip.hops(0, 29) == 2 + 1
