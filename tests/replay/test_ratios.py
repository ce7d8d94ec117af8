"""The replay of the authors' model: by hand, against their figures, and from the command line."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.__main__ import main
from prap_pim.hardware.chip import load_chip
from prap_pim.hardware.components import load_table
from prap_pim.methods.published import PublishedLayer, expected_gains, published
from prap_pim.replay.ratios import METHODS, ReplayMethod, Spread, joules, replay, replay_layer, seconds, spread

CHIP = load_chip("prap-2023")
TABLE = load_table("prap-2023")


def layer(inputs: int = 64, filters: int = 64, kernel: int = 3, size: int = 16, stride: int = 1) -> PublishedLayer:
    return PublishedLayer.model_validate(
        {
            "name": "one",
            "type": "conv" if kernel else "linear",
            "in": inputs,
            "out": filters,
            "kernel": kernel or 1,
            "stride": stride,
            "input_size": size if kernel else 1,
            "group_channels": 2,
            "kept_positions": 4 if kernel > 1 else None,
            "keep": {"structured": 0.65, "orc": 0.2},
            "compute_ratio": {"identical": 0.5, "similar": 0.375, "prap": 0.375},
        }
    )


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        # 576 rows are 72 OU rows, 4.5 crossbars, over 16 PEs: 128 x 4.5 / 16 = 36 rows each, 5 OU rows.
        # 64 filters are 64 OU columns, 4 crossbars, over the 8 of a PE: 128 x 4 / 8 = 64 columns.
        (layer(64, 64), Spread(5, 64, 1)),
        # 27 rows are 4 OU rows, 1/4 crossbar: 27 x 0.25 / 16 = 0.42 rows; 16 filters, 1 crossbar: 128 x 1 / 8 = 16
        (layer(3, 16), Spread(1, 16, 1)),
        # 2304 rows, 18 crossbars: 2 tiles along rows, 128 x 18 / 32 = 72 rows; 512 filters, 32 crossbars: 4 tiles
        (layer(256, 512), Spread(9, 128, 8)),
        # linear: 32 x 256 full crossbars of 128 a tile; 512 x 10: 4 crossbars, 80 columns of which are in use
        (layer(4096, 4096, kernel=0), Spread(16, 128, 64)),
        (layer(512, 10, kernel=0), Spread(16, 80, 1)),
        # linear, fewer inputs than a crossbar has rows: 20 rows take 3 OU rows
        (layer(20, 10, kernel=0), Spread(3, 80, 1)),
    ],
)
def test_a_layer_is_spread_evenly_over_its_tiles(of: PublishedLayer, expected: Spread) -> None:
    assert spread(of, CHIP) == expected


def test_one_layer_by_hand() -> None:
    # 5 OU rows, 64 columns (above). Step 1 keeps 4 of 9 positions: R = ceil(20 / 9) = 3. 0.375 x 64 = 24 columns are
    # computed, D = 3; all of them: A = 8. So R D = 9, R A = 24. A map 16 wide: 2 x 2 copies of 8 x 8 positions.
    counted = replay_layer(layer(), METHODS["prap"], CHIP)
    assert (counted.positions, counted.copies, counted.crossbars) == (64, 4, 128)
    # input bits x OUs x columns x (register, decoder, DAC, crossbar; mux, ADC; shift, add)
    walk = 8 * 9 * 8 * (0.8333 + 0.55866 + 2.5 + 3.16 + 0.16372 + 8 / 1.2 + 2 * 0.83335)
    registers = 9 * 0.8333  # results written
    digital = (2 * 24 + 24 + 8 * 24) * 0.8333  # two adds and a shift a sum; the merge adds those of 8 crossbars
    buffers = 8 * (3 + 24 + 24 + 9 + 24) * 1.2  # 8 crossbars a port: inputs, sums read and written, results, index
    transfer = 4 * 64 * 8 / 20  # bits at 20 Gb/s
    position = walk + registers + digital + buffers + transfer
    assert sum(seconds(counted, CHIP, TABLE).values()) == pytest.approx(64 * position * 1e-9, rel=1e-6)
    # ADC 0.6425 mW for 8 cycles of 1.2 GHz; 8 registers 0.23 mW, 2 adders and 2 shifters 0.05 mW for one; 8 DACs
    conversion = 0.6425 * 8 / 1.2 + (8 * 0.23 + 4 * 0.05) / 1.2 + 8 * 0.0039 * 2.5
    conversions = 8 * 9 * 8 * 64 * 4 * 128
    assert joules(counted, CHIP, TABLE) == pytest.approx(conversions * conversion * 1e-12, rel=1e-4)


@pytest.mark.parametrize(
    ("method", "inputs", "sums", "adds", "index"),
    # of one crossbar; R = 5, but 5 x 0.65 = 3.25 -> 4 (structured), 3 (pattern), 5 x 0.2 = 1 (orc). A = 8.
    # sums: R A read, R A written, R D results; adds: R A, twice with gains, and R A for each of 8 crossbars merged
    [
        ("dense", 5, 80, 40 + 320, 0),
        ("structured", 4, 64, 32 + 256, 0),
        ("pattern", 3, 48, 24 + 192, 3),
        ("orc", 8, 16, 8 + 64, 8),
        ("identical", 5, 80 + 20, 40 + 320, 40),  # D = 0.5 x 8
        ("similar", 5, 80 + 15, 80 + 320, 40),  # D = 0.375 x 8
        ("structured+identical", 4, 64 + 16, 32 + 256, 32),
        ("prap", 3, 48 + 9, 48 + 192, 24),
    ],
)
def test_what_each_method_adds(method: str, inputs: int, sums: int, adds: int, index: int) -> None:
    busiest = replay_layer(layer(), METHODS[method], CHIP).busiest
    assert busiest.input_accesses == 8 * inputs
    assert busiest.partial_sum_accesses == 8 * sums
    assert busiest.updates == adds
    assert busiest.index_accesses == 8 * index


@pytest.mark.parametrize("network", ["vgg16", "resnet18"])
@pytest.mark.parametrize("method", list(METHODS))
def test_the_authors_figures(network: str, method: str) -> None:
    gain = replay("prap-2023", [network], [method])[network][method]
    expected = expected_gains("prap-2023")[network][method]
    # the issue allows 7 % and 15 %; the remaining differences are explained in docs/replay.md
    assert gain.speedup == pytest.approx(expected.speedup, rel=0.02)
    assert gain.energy_gain == pytest.approx(expected.energy_gain, rel=0.075)


@given(
    of=st.builds(
        layer, st.integers(1, 600), st.integers(1, 600), st.integers(0, 3), st.integers(1, 40), st.integers(1, 2)
    ),
    less=st.fractions(0, 1),
    more=st.fractions(0, 1),
    rows=st.booleans(),
)
def test_less_is_never_slower_or_hungrier(of: PublishedLayer, less: Fraction, more: Fraction, rows: bool) -> None:
    def costs(share: Fraction) -> tuple[float, float]:
        shares = (share, Fraction(1)) if rows else (Fraction(1), share)
        method = ReplayMethod(lambda _: shares[0], lambda _: shares[1], reuses=True)
        counted = replay_layer(of, method, CHIP)
        return sum(seconds(counted, CHIP, TABLE).values()), joules(counted, CHIP, TABLE)

    few, many = costs(min(less, more)), costs(max(less, more))
    assert few[0] <= many[0]
    assert few[1] <= many[1]


def test_json_has_the_gains_by_network_and_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "prap-2023", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == list(published("prap-2023"))
    for methods in printed.values():
        assert list(methods) == list(METHODS)
        assert all(set(gain) == {"speedup", "energy_gain"} for gain in methods.values())
        assert methods["dense"] == {"speedup": 1.0, "energy_gain": 1.0}


def test_a_table_shows_the_expected_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "prap-2023", "--network", "vgg16", "--network", "resnet50", "--method", "prap"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("vgg16", "resnet50", "prap", "5.669", "7.490", "%"))
    assert "identical" not in printed


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["prap-2024"], "no preset 'prap-2024' (did you mean 'prap-2023'?)"),
        (["prap-2023", "--network", "vgg"], "no network 'vgg' in prap-2023 (did you mean 'vgg16'?)"),
        (["prap-2023", "--method", "identcal"], "no method 'identcal' (did you mean 'identical'?)"),
    ],
)
def test_unknown_names(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *arguments]) == 2
    assert capsys.readouterr().err == f"prap-pim: {line}\n"
