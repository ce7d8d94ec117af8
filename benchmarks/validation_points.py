"""Published figures that benchmarks/validation.py compares with."""

from typing import NamedTuple

SOURCES = {
    "isaac": "Shafiee et al., ISCA 2016, tables I and IV and text, as quoted. Areas are of the whole preset, whose"
    " tile has an adder for partial sums at each crossbar and a shift-adder at each ADC; ISAAC's own parts by the table"
    " alone come within 0.3 % ([checks](cost.md#what-is-checked))",
    "puma": "Ankit et al., ASPLOS 2019; parts from its authors' simulator (Aayush-Ankit/puma-simulator). Its peak of"
    " 52.31 TOPS does not follow from the time of an MVM (31.4 TOPS) and is left out",
    "forms": "Yuan et al., ISCA 2021 (arXiv 2106.09144); converters via hwcomponents-library",
    "sre": "Yang et al., ISCA 2019 (10.1145/3307650.3322271), via the PRAP authors' public code",
    "neurram": "Wan et al., Nature 608:504 (2022), Extended Data, as mit-emze/cimloop has it (commit d6e1390)",
    "chen": "Chen et al., ISSCC 2018; Nature Electronics 2019 (10.1038/s41928-019-0288-0)",
    "xue": "Xue et al., ISSCC 2019; JSSC 55:203 (2020)",
    "xue20": "Xue et al., ISSCC 2020 (10.1109/isscc19947.2020.9063078)",
    "hung": "Hung et al., Nature Electronics 4:921 (2021) (10.1038/s41928-021-00676-9)",
}

# All energy of an output at the peak efficiency of silicon, in pJ, 2 operations a row: by the bits of an output
SILICON_OUTPUTS = {
    3: {"Chen 2019, 65 nm, 9 rows": 1.06195},
    4: {"Xue 2019, 55 nm, 9 rows": 0.338537, "Ye 2023, 28 nm, 32 rows": 0.415476},
}

CIMLOOP = {  # mit-emze/cimloop, ISPASS 2024, section V-A and table III
    "energy over supply": 0.07,
    "throughput over supply": 0.02,
    "energy over input bits": 0.06,
    "throughput over input bits": 0.05,
    "energy of parts": 0.04,
    "area of parts": 0.08,
}


class Point(NamedTuple):
    """A precision at which NeuRRAM was measured.

    Attributes:
        output_bits, input_bits: signed.
        phases: parts in which the bits of an input are applied, each read and converted.
        gops: throughput of 48 cores.
        tops_per_w: efficiency.
        parts_fj: of an operation: switching of word lines, neurons with control, input pulses. () where not published.
            Those of (8, 6) add up to the efficiency of one phase, not of two.
    """

    output_bits: int
    input_bits: int
    phases: int
    gops: float
    tops_per_w: float
    parts_fj: tuple[float, ...] = ()


NEURRAM = (
    Point(3, 1, 1, 2122.3, 43.0788, (8.990, 10.619, 3.446)),
    Point(4, 2, 1, 1793.1, 40.3341, (8.271, 12.387, 3.956)),
    Point(5, 3, 1, 1165.4, 23.0907, (15.463, 20.118, 7.732)),
    Point(6, 4, 1, 743.87, 15.9541, (21.756, 29.108, 11.507)),
    Point(7, 5, 2, 525.41, 11.0317, (30.926, 44.212, 14.025)),
    Point(8, 6, 2, 417.72, 8.2572, (37.219, 52.483, 19.239)),
    Point(9, 7, 2, 343.87, 7.75, (43.692, 61.833, 22.835)),
    Point(10, 8, 2, 263.87, 6.4374, (50.525, 75.857, 27.510)),
    Point(7, 5, 1, 451.56, 11.33),
    Point(8, 6, 1, 260.8, 9.1224),
)
