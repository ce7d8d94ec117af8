from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prap_pim.common.errors import UserError
from prap_pim.hardware.chip import CHIPS, Chip, load_chip, preset_names


def test_presets_are_the_papers_hardware() -> None:
    for name in ("prap-2023", "isaac-32nm", "survey-32nm"):
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
        ("crossbar_rows = 128", "crossbar_rows = 4", "an OU of 8 rows does not fit a crossbar of 4 rows"),
        ("crossbar_rows = 128", "", "crossbar_rows"),
        ("ou_columns = 8", "ou_columns = 129", "an OU of 129 columns does not fit a crossbar of 128 columns"),
        ("ou_columns = 8", "ou_columns = 8\nencoding = 'differencial'", "encoding must be two's complement or offset"),
        ("cell_bits = 1", 'cell_bits = 2\nencoding = "two\'s complement"', "two's complement needs 1-bit cells, not 2"),
        ("[grain]", "crossbars_per_adc = 3\n[grain]", "crossbars_per_adc (3) must divide crossbars_per_pe (8)"),
        ("[grain]", "crossbars_per_adc = 2\n[grain]", "crossbars_per_adc = 2 needs sample_and_hold = true"),
        ("[grain]", "conversions = 'per weight'\n[grain]", "conversions = 'per weight' needs sample_and_hold = true"),
        ("[grain]", "dac_time = '2^n'\n[grain]", "dac_time: must be '1', 'bits' or '2^bits-1', not '2^n'"),
        ("ou_rows = 8", "ou_row = 8", "unknown key 'ou_row' (did you mean 'ou_rows'?)"),
        ("ou_rows = 8", "ou_rows = 0", "ou_rows must be at least 1, not 0"),
        ("ou_rows = 8", "ou_rows = 8.0", "ou_rows must be a whole number, not 8.0"),
        ('adc_time = "(bits+2)/rate"', 'adc_time = "fast"', "'1/rate', 'bits/rate', '(bits+2)/rate', '2^bits/rate' or"),
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


def test_published_chips_are_presets() -> None:
    """What is published of their structure: crossbar, OU, cells of a weight, input steps, ADCs and their bits."""
    expected = {
        "puma-32nm": ((128, 128), (128, 128), 8, 16, 1, 8),
        "neurram-130nm": ((128, 512), (128, 512), 2, 1, 256, 6),  # 256 x 256 cells, two to a weight
        "forms-32nm": ((128, 128), (8, 128), 4, 16, 4, 4),
        "sre-32nm": ((128, 128), (16, 16), 4, 8, 1, 6),
        "chen-65nm": ((512, 512), (9, 16), 14, 8, 16, 3),  # P and N side by side
    }
    assert set(preset_names()) == {*expected, "prap-2023", "isaac-32nm", "survey-32nm"}
    for name, published in expected.items():
        chip = load_chip(name)
        crossbar, ou = (chip.crossbar_rows, chip.crossbar_columns), (chip.grain.ou_rows, chip.grain.ou_columns)
        converters = chip.adcs_per_crossbar, chip.adc_bits
        assert (crossbar, ou, chip.grain.columns_per_weight, chip.grain.input_steps, *converters) == published
    assert with_grain(load_chip("chen-65nm"), weight_bits=2).grain.columns_per_weight == 2  # ternary


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


def with_grain(chip: Chip, **changes: Any) -> Chip:
    grain = replace(chip.grain, **{key: changes.pop(key) for key in list(changes) if key in vars(chip.grain)})
    return Chip.checked(chip.model_dump() | {"grain": grain} | changes, "test")


def test_an_ou_need_not_divide_the_crossbar() -> None:
    """9 rows, as a 3x3 kernel has: 14 OUs stand on one another in 128 rows, and 2 rows are left over."""
    chip = with_grain(load_chip("isaac-32nm"), ou_rows=9)
    assert chip.ous_per_crossbar == 14 * 16
    whole = with_grain(chip, ou_rows=128, ou_columns=128)
    assert whole.ous_per_crossbar == 1


def test_cells_of_an_encoding() -> None:
    chip = load_chip("isaac-32nm")
    found = {
        (encoding, cells): with_grain(chip, encoding=encoding, cell_bits=cells).grain.columns_per_weight
        for encoding in ("offset", "differential")
        for cells in (1, 2, 3)
    }
    assert found == {
        ("offset", 1): 8,
        ("offset", 2): 4,
        ("offset", 3): 3,
        ("differential", 1): 14,  # 7 bits of magnitude, twice
        ("differential", 2): 8,
        ("differential", 3): 6,
    }


def test_codes_that_lose_nothing() -> None:
    """8 rows of 1-bit cells: 0..8. A weight as a whole: 8 x 255 with an offset, -8 x 127..8 x 127 as a difference."""
    chip = load_chip("isaac-32nm")
    assert with_grain(chip, dac_bits=2).lossless_adc_bits == 5  # 0..24
    assert with_grain(chip, conversions="per weight", encoding="offset").lossless_adc_bits == 11  # 0..2040
    assert with_grain(chip, conversions="per weight", encoding="differential").lossless_adc_bits == 11  # -1016..1016


def test_rounds_and_pulses() -> None:
    chip = load_chip("isaac-32nm")
    assert chip.conversion_rounds == 8
    assert with_grain(chip, conversions="per weight").conversion_rounds == 1
    straddling = with_grain(chip, conversions="per weight", encoding="differential", ou_columns=20)
    assert straddling.conversion_rounds == 3  # 14 columns each: 3 of 20 columns' weights are cut
    assert with_grain(chip, conversions="per weight", adcs_per_crossbar=2, ou_columns=64).conversion_rounds == 4
    wide = with_grain(chip, input_bits=7, dac_bits=4)
    assert wide.grain.step_bits() == (4, 3)
    assert [wide.input_pulses(law) for law in ("1", "bits", "2^bits-1")] == [2, 7, 15 + 7]


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
