import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.cost.adc import conventions, conversion_energy, conversion_time, warnings
from prap_pim.cost.price import Instances, area, leakage
from prap_pim.cost.schedule import ou_step_stages
from prap_pim.hardware.chip import Chip, load_chip, preset_names
from prap_pim.hardware.components import COMPONENTS, REQUIRED, load_table, table_names
from prap_pim.results.run import Results


@pytest.mark.parametrize("name", table_names())
def test_every_figure_has_value_unit_and_source(name: str) -> None:
    table = load_table(name)
    assert {key for key in table.figures} >= {(part, what) for part, needed in REQUIRED.items() for what in needed}
    assert all(len(figure.source) > 5 and figure.unit for figure in table.figures.values())
    assert table.has_leakage == (name == "survey-32nm")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[adc]\npower", "[adc]\nenergy", "unknown figure"),
        ('unit = "Hz"', 'unit = "GHz"', "unit must be Hz, not 'GHz'"),
        ("value = 1.2e9", "value = -1", "must be at least 0, not -1"),
        ("value = 1.2e9", "value = 0", "adc.rate must be greater than 0"),
        ("[dac]", "[dacs]", "did you mean 'dac'?"),
        ('source = "authors: 1.2 GS/s"', 'source = ""', "source"),
        ("[adc]", "adc", "not valid TOML"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = (COMPONENTS / "prap-2023.toml").read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_table(tmp_path / "mine.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_figure_is_named(tmp_path: Path) -> None:
    lines = (COMPONENTS / "prap-2023.toml").read_text().splitlines()
    (tmp_path / "mine.toml").write_text("\n".join(line for line in lines if "energy_per_shift" not in line))
    with pytest.raises(UserError, match=r"component accumulator has no energy_per_shift \(J\)"):
        load_table(tmp_path / "mine.toml")
    with pytest.raises(UserError, match="no component table 'nothing'"):
        load_table("nothing")


def test_adc_conventions() -> None:
    """Against components.json's notes: SRE's 6-bit ADC 0.535 or 4.28 pJ; ISAAC's 8-bit 1.667, scaled to 6 0.536 pJ."""
    paper, isaac = load_chip("prap-2023"), load_chip("isaac-32nm")
    sre, isaac_table = load_table("prap-2023"), load_table("isaac-32nm")
    assert conversion_energy(paper, sre) == pytest.approx(4.28e-12, rel=1e-3)
    assert conversion_energy(paper.model_copy(update={"adc_energy": "power/rate"}), sre) == pytest.approx(
        0.535e-12, rel=2e-3
    )
    assert conversion_time(paper, sre) == pytest.approx(6.667e-9, rel=1e-3)
    for bits, picojoules in ((4, 0.188), (5, 0.312), (6, 0.536), (7, 0.938), (8, 1.667)):
        chip = isaac.model_copy(update={"adc_bits": bits})
        assert conversion_energy(chip, isaac_table) == pytest.approx(picojoules * 1e-12, rel=3e-3)
        assert conversion_time(chip, isaac_table) == pytest.approx(0.833e-9, rel=1e-3)


def test_leakage_is_charged_where_given(tmp_path: Path) -> None:
    text = (COMPONENTS / "prap-2023.toml").read_text()
    given = '[router]\nleakage = { value = 1e-3, unit = "W", source = "a test" }'
    (tmp_path / "mine.toml").write_text(text.replace("[router]", given))
    chip, two_tiles = load_chip("prap-2023"), Instances(crossbars=130, pes=17, tiles=2, index_bytes=0)
    watts = leakage(two_tiles, chip, load_table(tmp_path / "mine.toml"))
    assert watts is not None
    assert {component: value for component, value in watts.items() if value} == {"router": pytest.approx(2e-3)}
    assert leakage(two_tiles, chip, load_table("prap-2023")) is None


def test_what_gathering_needs_is_asked_for_where_it_is_used(tmp_path: Path) -> None:
    """A table may lack the dot registers as long as no chip gathers; not a part of their figures."""
    text = (COMPONENTS / "prap-2023.toml").read_text()
    begin, end = text.index("[dot_register]"), text.index("[accumulator]")
    (tmp_path / "without.toml").write_text(text[:begin] + text[end:])
    scatter, bytes_ = load_chip("prap-2023"), Instances(1, 1, 1, index_bytes=0, dot_register_bytes=1000)
    gather, without = scatter.model_copy(update={"accumulate": "gather"}), load_table(tmp_path / "without.toml")
    assert area(bytes_, scatter, without) == area(bytes_, scatter, load_table("prap-2023"))
    with pytest.raises(UserError, match=r"without\.toml: dot_register has no area_per_byte$"):
        area(bytes_, gather, without)
    lines = [line for line in text.splitlines() if not line.startswith("energy_per_access_byte")]
    (tmp_path / "part.toml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"component dot_register has no energy_per_access_byte \(J/B\)"):
        load_table(tmp_path / "part.toml")
    leak = '[dot_register]\nleakage_per_byte = { value = 2e-9, unit = "W/B", source = "a test" }'
    (tmp_path / "leaks.toml").write_text(text.replace("[dot_register]", leak))
    watts = leakage(bytes_, gather, load_table(tmp_path / "leaks.toml"))
    assert watts is not None
    assert {component: value for component, value in watts.items() if value} == {"dot_register": pytest.approx(2e-6)}


def test_a_tables_dot_registers_are_a_line_through_isaacs_register_files() -> None:
    """ISAAC, table I: 256 B 0.23 mW, 2 KB 1.24 mW, 3 KB 1.68 mW, at 1.2 GHz: within 10 % of each."""
    table = load_table("isaac-32nm")
    for size, watts in ((256, 0.23e-3), (2048, 1.24e-3), (3072, 1.68e-3)):
        joules = table("dot_register", "energy_per_access") + size * table("dot_register", "energy_per_access_byte")
        assert joules == pytest.approx(watts / 1.2e9, rel=0.1)
    authors = load_table("prap-2023")("dot_register", "energy_per_access_byte")
    assert 256 * authors == pytest.approx(load_table("prap-2023")("output_register", "energy_per_write"), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "nanoseconds", "picojoules"),
    [  # of 6 bits; the table: 2 mW and 1.2 GS/s for 8 bits
        ({}, 1 / 1.2, 2 / 1.2),
        ({"adc_time": "bits/rate", "adc_energy": "power*bits/rate"}, 6 / 1.2, 6 * 2 / 1.2),
        ({"adc_time": "(bits+2)/rate", "adc_energy": "power*(bits+2)/rate"}, 8 / 1.2, 8 * 2 / 1.2),
        ({"adc_time": "2^bits/rate", "adc_energy": "power*2^bits/rate"}, 64 / 1.2, 64 * 2 / 1.2),  # a ramp
        ({"adc_scaling": "bits"}, 1 / 1.2, 6 / 8 * 2 / 1.2),
        ({"adc_scaling": "2^bits"}, 1 / 1.2, 64 / 256 * 2 / 1.2),
        ({"adc_scaling": "2^b/(b+1)"}, 1 / 1.2, (64 / 7) / (256 / 9) * 2 / 1.2),
    ],
)
def test_laws_of_a_converter(change: dict[str, str], nanoseconds: float, picojoules: float) -> None:
    chip = Chip.checked(load_chip("isaac-32nm").model_dump() | {"adc_scaling": "as published"} | change, "test")
    table = load_table("isaac-32nm")
    assert conversion_time(chip, table) == pytest.approx(nanoseconds * 1e-9, rel=1e-9)
    assert conversion_energy(chip, table) == pytest.approx(picojoules * 1e-12, rel=1e-9)


def test_a_converter_of_two_resolutions_is_warned_of(tmp_path: Path) -> None:
    """Both are named: whose power it is, of how many bits, beside a resolution of the chip's or the table's own."""
    chip, table = load_chip("isaac-32nm"), load_table("isaac-32nm")
    assert warnings(chip, table) == ()
    published = chip.model_copy(update={"adc_scaling": "as published"})
    (found,) = warnings(published, table)
    assert "its ADC of 6 bits is charged as component table isaac-32nm has it for 8 bits (adc_scaling" in found
    for fits in ({"adc_bits": 8}, {"adc_energy": "power*bits/rate"}):  # of which the second counts the bits
        assert warnings(published.model_copy(update=fits), table) == ()
    mixed = tmp_path / "mixed.toml"
    entries = (
        'resolution = { value = 5, unit = "bit", source = "x" }',
        'power = { value = 1, unit = "W", source = "x" }',
    )
    for given, borrowed, entry in zip(("resolution", "power"), ("power", "resolution"), entries, strict=True):
        mixed.write_text(f'borrows = "prap-2023"\n[adc]\n{entry}\n')
        (found,) = warnings(chip, load_table(mixed))
        assert f"adc.{given} is its own, adc.{borrowed} is borrowed from prap-2023, whose ADC has 6 bits" in found
    mixed.write_text('borrows = "prap-2023"\n[adc]\n' + "\n".join(entries))
    assert warnings(chip, load_table(mixed)) == ()
    for name in preset_names():
        preset = load_chip(name)
        assert warnings(preset, load_table(preset.components)) == preset.warnings


def test_the_warning_reaches_reports(tmp_path: Path) -> None:
    """Of ``estimate`` and of a run."""
    chip = load_chip("isaac-32nm").model_copy(update={"adc_scaling": "as published"})
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), torch.rand(8, 1, 8, 8)
    (found,) = prap_pim.estimate(model, inputs, chip=chip).warnings
    assert "of 6 bits is charged" in found
    prap_pim.compare(model, inputs, methods=["dense"], chip=chip, output=tmp_path / "r")
    assert Results.load(tmp_path / "r/results.json").chip.warnings == [found]


def test_time_of_a_conversion_by_table(tmp_path: Path) -> None:
    row = '[adc]\ntime_at_6_bits = { value = 4e-9, unit = "s", source = "a test" }'
    (tmp_path / "mine.toml").write_text((COMPONENTS / "isaac-32nm.toml").read_text().replace("[adc]", row))
    chip = load_chip("isaac-32nm").model_copy(update={"adc_time": "by table"})
    assert conversion_time(chip, load_table(tmp_path / "mine.toml")) == 4e-9
    with pytest.raises(UserError, match=r"no time of an ADC of 6 bits \(adc_bits\).* choose another adc_time"):
        conversion_time(chip, load_table("isaac-32nm"))


def test_crossbars_that_share_converters() -> None:
    """4 of the 8 crossbars of a PE: two sets of ADCs to a PE, and 4 turns of conversions to an OU step."""
    chip, table = load_chip("isaac-32nm"), load_table("isaac-32nm")
    shared = Chip.checked(chip.model_dump() | {"crossbars_per_adc": 4}, "test")
    whole = Instances(crossbars=16, pes=2, tiles=1, index_bytes=0)
    assert area(whole, shared, table)["adc"] == pytest.approx(area(whole, chip, table)["adc"] / 4)
    assert ou_step_stages(shared, table)["ADC"] == pytest.approx(4 * ou_step_stages(chip, table)["ADC"])
    assert ou_step_stages(shared, table)["crossbar"] == ou_step_stages(chip, table)["crossbar"]


def test_resolution_that_the_table_lacks() -> None:
    """It names those that it has; a table without any says what to do."""
    survey, paper = load_chip("survey-32nm"), load_chip("prap-2023")
    with pytest.raises(
        UserError, match=r"survey-32nm: no energy of an ADC of 9 bits \(adc_bits\); it has 4, 5, 6, 7, 8"
    ):
        conversion_energy(survey.model_copy(update={"adc_bits": 9}), load_table("survey-32nm"))
    with pytest.raises(UserError, match="it has none by bits: choose another adc_scaling"):
        conversion_energy(paper.model_copy(update={"adc_scaling": "by table"}), load_table("prap-2023"))
    for wrong in ("energy_at_0_bits", "energy_at_six_bits", "power_at_6_bits"):
        with pytest.raises(UserError, match=f"adc.{wrong}: unknown figure"):
            _with_line(wrong, "J")
    with pytest.raises(UserError, match=r"adc\.area_at_6_bits: unit must be m2, not 'um2'"):
        _with_line("area_at_6_bits", "um2")


def _with_line(quantity: str, unit: str) -> None:
    text = (COMPONENTS / "prap-2023.toml").read_text()
    line = f'[adc]\n{quantity} = {{ value = 1, unit = "{unit}", source = "a test" }}'
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mine.toml").write_text(text.replace("[adc]", line, 1))
        load_table(Path(folder) / "mine.toml")


def test_conventions_say_that_a_chip_gathers() -> None:
    chip, table = load_chip("isaac-32nm"), load_table("isaac-32nm")
    gathers = conventions(chip.model_copy(update={"accumulate": "gather"}), table)
    assert gathers[:-1] == conventions(chip, table)
    assert gathers[-1] == "partial sums are gathered: a PE updates the accumulator of a filter once"


def test_conventions_are_said_in_words() -> None:
    words = {name: conventions(load_chip(name), load_table(name)) for name in table_names()}
    assert words["prap-2023"] == (
        "a conversion of 6 bits takes (bits+2)/rate = 6.667 ns",
        "a conversion costs power*(bits+2)/rate = 4.283 pJ, power as published for 6 bits",
        "an OU is driven anew for every round of conversions",
    )
    assert words["isaac-32nm"][1:] == (
        "a conversion costs power/rate = 0.536 pJ, power scaled from 8 bits by 2^b/(b+1)",
        "an OU is driven once and its columns are sampled",
    )
    assert words["survey-32nm"][1] == (
        "a conversion costs power/rate = 0.852 pJ, power from the table's row of that resolution"
    )


def test_a_table_borrows_what_it_does_not_have(tmp_path: Path) -> None:
    adc = """
        [adc]
        power = { value = 1e-3, unit = "W", source = "a test" }
        rate = { value = 1e9, unit = "Hz", source = "a test" }
        resolution = { value = 5, unit = "bit", source = "a test" }
        area = { value = 1e-9, unit = "m2", source = "a test" }
        """
    (tmp_path / "mine.toml").write_text('borrows = "survey-32nm"' + adc)
    mine, lender = load_table(tmp_path / "mine.toml"), load_table("survey-32nm")
    assert mine("adc", "rate") == 1e9
    assert mine("accumulator", "energy_per_add") == lender("accumulator", "energy_per_add")
    source = lender.figures["accumulator", "energy_per_add"].source
    assert mine.figures["accumulator", "energy_per_add"].source == f"borrowed from survey-32nm: {source}"
    assert ("adc", "energy_at_6_bits") not in mine.figures  # of another converter
    (tmp_path / "mine.toml").write_text('borrows = "isaac"' + adc)
    with pytest.raises(UserError, match=r"mine.toml: borrows: no component table 'isaac' \(did you mean 'isaac-32nm'"):
        load_table(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text('borrows = ["isaac-32nm"]' + adc)
    with pytest.raises(UserError, match=r"mine.toml: borrows: no component table"):
        load_table(tmp_path / "mine.toml")
