"""What the networks of a run are worth: bits per byte, accuracy, and the numbers of a user's own metric."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prap_pim.report.quantities import bits, percent, points, relative, significant
from prap_pim.results.run import MethodResult, Results

_Value = float | None
Kind = Literal["share", "bits", "ratio"]


@dataclass(frozen=True)
class Quality:
    """One measure of what networks are worth.

    Attributes:
        name: of the fields and columns that hold it, such as "accuracy".
        title: for people.
        kind: how numbers are shown: "share", "bits" or "ratio".
        less: whether less is better.
        before: the float network's.
        compressed: a method's in float arithmetic.
        bit_true: a method's on crossbars.
    """

    name: str
    title: str
    kind: Kind
    less: bool
    before: _Value
    compressed: Callable[[MethodResult], _Value]
    bit_true: Callable[[MethodResult], _Value]

    @property
    def label(self) -> str:
        """In the middle of a sentence."""
        return self.title if self.kind == "ratio" else self.title.lower()

    @property
    def axis(self) -> str:
        """Of a chart."""
        return {"share": f"{self.label} / %", "bits": "bits / byte"}.get(self.kind, self.title)

    @property
    def factor(self) -> float:
        """From a value to what a chart's axis counts."""
        return 100.0 if self.kind == "share" else 1.0

    def text(self, value: _Value) -> str:
        """A value for people."""
        return measure_text(value, self.kind)

    def change(self, value: float, other: float) -> str:
        """How far a value is from another, for people."""
        if self.kind == "share":
            return points(value - other)
        return relative(value / other - 1) if other else significant(value - other)


def measure_text(value: _Value, kind: Kind) -> str:
    """A value of a measure for people; ``kind`` as of ``Quality``."""
    if kind == "share":
        return percent(value)
    return bits(value) if kind == "bits" else "not measured" if value is None else significant(value, 4)


def kind_of(metric: str) -> Kind:
    """How numbers of a metric are shown."""
    return "share" if metric == "accuracy" else "ratio"


def qualities(results: Results) -> list[Quality]:
    """All that the run measures, the most important first; accuracy if there is nothing."""
    of_bytes = Quality(
        "bits_per_byte",
        "Bits per byte",
        "bits",
        True,
        results.float_bits_per_byte,
        lambda method: method.compressed_bits_per_byte,
        lambda method: method.bit_true_bits_per_byte,
    )
    accuracy = Quality(
        "accuracy",
        "Accuracy of the next byte" if of_bytes.before is not None else "Accuracy",
        "share",
        False,
        results.float_accuracy,
        lambda method: method.compressed_accuracy,
        lambda method: method.bit_true_accuracy,
    )
    own = [_own(name, results) for name in results.float_metrics]
    return [each for each in (of_bytes, accuracy, *own) if each.before is not None] or [accuracy]


def _own(name: str, results: Results) -> Quality:
    less, before = name in results.minimize, results.float_metrics[name]
    compressed = lambda method: method.compressed_metrics.get(name)  # noqa: E731
    bit_true = lambda method: method.bit_true_metrics.get(name)  # noqa: E731
    return Quality(name, name, "ratio", less, before, compressed, bit_true)


def measured(results: Results) -> bool:
    """Whether anything was."""
    return qualities(results)[0].before is not None
