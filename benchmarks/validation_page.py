"""The page that benchmarks/validation.py writes, and what it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from validation_points import CIMLOOP

NEAR = 0.15  # a figure that is further off says why
_HEAD = """# Against published chips

Written by `python benchmarks/validation.py --write docs/validation.md`; do not edit. What the cost model says of chips
that others have measured or published, beside what they say: {figures} figures, {silicon} of them of silicon.
{predicted} are predicted, of which {near} are within {limit:.0%}; where one is further off, the section says why.

- *predicted*: from figures of other quantities, or of other precisions;
- *parts*: the sum of parts that the component table has from the same publication;
- *fitted*: the table was made of this very value, so it shows nothing.

*Source*: A, read in the authors' or a tool's repository, or in the paper's title or abstract; B, second hand (a paper,
tool or note that quotes it); D, arithmetic on others. What is known from memory alone is not here.

NeuRRAM is the strongest check: from energies at {fitted} of its 8 precisions, efficiencies at the others are off by
{energy:.0%} (median), energies of parts by {parts:.0%}, throughput by {throughput:.0%}. Its steps' times are published;
that a product takes one more step of 0.3 us, and two phases take two conversions, was chosen with its times in view.
[CiMLoop](comparison.md) (ISPASS 2024) reports these errors of its own models of macros, NeuRRAM among them:

| CiMLoop | error |
|---|---|"""
_BOUNDS = """## Bounds: a conversion and an output

Macros publish one efficiency for all that they do. A conversion of as many bits must take less than an output, cells,
drivers and converter together: a table's converter that takes more is dearer than what has been built.

| bits | converter | pJ a conversion | silicon, pJ an output with everything | below it |
|---|---|---|---|---|"""
_OF_BOUNDS = """The survey's model is of converters of any use from 4 effective bits; sense amplifiers that tell a few
currents apart are simpler. NeuRRAM's is of an older node, PUMA's of 1 GS/s whatever its bits. The law `2^b/(b+1)`
leaves cells and drivers half of the least output."""


@dataclass(frozen=True)
class Figure:
    """A published figure, and ours.

    Attributes:
        what: the quantity, with its unit.
        ours, published: in this unit.
        confidence: of the published value: A, B or D.
        how: "predicted": from figures of other quantities; "parts": the sum of parts that the component table has from
            the same publication; "fitted": the table was made of this very value.
        why: where ours is off.
    """

    what: str
    ours: float
    published: float
    confidence: str
    how: str = "predicted"
    why: str = ""

    @property
    def ratio(self) -> float:
        """Ours over the published one."""
        return self.ours / self.published

    @property
    def near(self) -> bool:
        """Whether it needs no explanation."""
        return abs(self.ratio - 1) <= NEAR


@dataclass(frozen=True)
class Subject:
    """A chip that was published, and its figures."""

    name: str
    silicon: bool
    source: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Bound:
    """A converter of ours, and all that silicon takes for an output of as many bits.

    Attributes:
        bits: of the converter.
        law: where its energy is from.
        picojoules: of a conversion.
        silicon: of an output, all included, by macro.
    """

    bits: int
    law: str
    picojoules: float
    silicon: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether the converter alone takes less than any macro takes for everything."""
        return self.picojoules < min(self.silicon.values())


def document(found: Sequence[Subject], bounds: Sequence[Bound], fitted: int) -> str:
    """The page."""
    figures = [(subject, figure) for subject in found for figure in subject.figures]
    silicon = [figure for subject, figure in figures if subject.silicon]
    predicted = [figure for _, figure in figures if figure.how == "predicted"]
    ours = [f for f in found[0].figures if f.how == "predicted"]
    parts = [
        _HEAD.format(
            figures=len(figures),
            silicon=len(silicon),
            predicted=len(predicted),
            near=sum(figure.near for figure in predicted),
            limit=NEAR,
            fitted=fitted,
            energy=_middle(ours, "TOPS/W"),
            parts=_middle(ours, "fJ"),
            throughput=_middle(ours, "GOPS"),
        ),
        *(f"| {what} | {error:.0%} |" for what, error in CIMLOOP.items()),
        "",
    ]
    for subject in found:
        parts += [f"## {subject.name.replace('`', '').partition(',')[0]}", "", *_table(subject), ""]
    parts += _bounds(bounds)
    return "\n".join(parts).rstrip() + "\n"


def _bounds(found: Sequence[Bound]) -> list[str]:
    """Conversions beside outputs of silicon."""
    lines = [_BOUNDS]
    for each in found:
        outputs = "; ".join(f"{value:.3g} ({name})" for name, value in each.silicon.items())
        holds = "yes" if each.holds else "no"
        lines.append(f"| {each.bits} | {each.law} | {each.picojoules:.3g} | {outputs} | {holds} |")
    return [*lines, "", _OF_BOUNDS]


def _middle(figures: Sequence[Figure], unit: str) -> float:
    return median(abs(figure.ratio - 1) for figure in figures if unit in figure.what)


def _table(subject: Subject) -> list[str]:
    kind = "Silicon" if subject.silicon else "A simulated architecture"
    lines = [
        f"{kind}: {subject.source}. Ours: {subject.name}.",
        "",
        "| figure | ours | published | ratio | source | how |",
        "|---|---|---|---|---|---|",
    ]
    reasons: dict[str, list[str]] = {}
    for figure in subject.figures:
        cells = (f"{figure.ours:.4g}", f"{figure.published:.4g}", f"{figure.ratio:.2f}", figure.confidence, figure.how)
        lines.append(f"| {figure.what} | {' | '.join(cells)} |")
        if not figure.near:
            reasons.setdefault(figure.why, []).append(figure.what)
    if reasons:
        lines += ["", "Why the others are off:", ""]
        lines += [f"- {'; '.join(whats)}: {why}." for why, whats in reasons.items()]
    return lines
