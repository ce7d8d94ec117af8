"""ReRAM cells as they are: what programming leaves in them, and what is read. Equations: docs/function.md.

Conductances are counted in levels: neighbouring levels of a cell lie 1 apart, so that the current of a bitline, with
every driven row at 1, is the count that the ADC is to find.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from prap_pim.common.settings import Settings, nearest

Float64 = NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
_LEAST_RATIO = 1.001  # below it level 0 conducts so much that counts of it do not fit an integer
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(ge=1e-12, le=1e12)]
Ohm = Annotated[float, Field(ge=0, le=1e12)]


class LognormalVariation(Settings):
    """A cell programmed to g has ``g * exp(sigma * z)``, z standard normal: its median is g.

    Attributes:
        sigma: of the logarithm, no unit. FORMS (Yuan et al., ISCA 2021) takes 0.1, other studies up to 0.5.
    """

    kind: Literal["lognormal"] = "lognormal"
    sigma: Annotated[float, Field(ge=0, le=20)]

    def programmed(self, target: Float64, on: float, random: np.random.Generator) -> Float64:
        """Draw a conductance for every target; ``on`` is that of the highest level. All in levels."""
        drawn: Float64 = target * np.exp(self.sigma * random.standard_normal(target.shape))
        return drawn


class PolynomialVariation(Settings):
    """A cell programmed to g has ``g + s(g) * z``, z standard normal, at least 0. s is a polynomial, at least 0.

    ``s(g) = g_on / reference * (c0 + c1 * (g / g_on) + c2 * (g / g_on)**2 + ...)``: the form in which AIHWKit gives
    measured programming errors. ``PUBLISHED_VARIATIONS`` has three of them.

    Attributes:
        coefficients: c0, c1, ... in microsiemens.
        reference: the largest conductance of the devices that were measured, in microsiemens.
    """

    kind: Literal["polynomial"] = "polynomial"
    coefficients: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] = Field(min_length=1, max_length=32)
    reference: Annotated[float, Field(ge=1e-6, le=1e12)]

    def sigma(self, target: Float64, on: float) -> Float64:
        """Standard deviation for every target, in levels."""
        microsiemens = np.polynomial.polynomial.polyval(target / on, np.array(self.coefficients))
        scaled: Float64 = np.maximum(microsiemens, 0) * (on / self.reference)
        return scaled

    def programmed(self, target: Float64, on: float, random: np.random.Generator) -> Float64:
        """As ``LognormalVariation.programmed``."""
        drawn: Float64 = np.maximum(target + self.sigma(target, on) * random.standard_normal(target.shape), 0)
        return drawn


PUBLISHED_VARIATIONS: Mapping[str, PolynomialVariation] = MappingProxyType(
    {
        # phase-change memory: Joshi et al., Nature Communications 11, 2473 (2020); coefficients as in AIHWKit's
        # PCMLikeNoiseModel, after Nandakumar et al., ICECS 2019
        "joshi-2020": PolynomialVariation(coefficients=(0.26348, 1.9650, -1.1731), reference=25),
        # ReRAM: Wan et al., Nature 608, 504 (2022), extended data figure 3; fits of AIHWKit's ReRamWan2022NoiseModel
        "wan-2022-1s": PolynomialVariation(coefficients=(0.348, 16.030, -43.853, 45.393, -16.815), reference=40),
        "wan-2022-1day": PolynomialVariation(coefficients=(0.701, 22.086, -50.773, 47.095, -16.458), reference=40),
    }
)


class Drift(Settings):
    """A conductance falls with time: ``g(t) = g * (t / t0)**-nu``, nu drawn for each cell, normal, at least 0.

    Source of the law: phase-change memory (Joshi et al. 2020; AIHWKit: t0 = 20 s, nu 0.05 to 0.1). For ReRAM no law of
    this form is established; its relaxation is in ``wan-2022-1day``.

    Attributes:
        seconds: since programming.
        reference_seconds: t0, when the programmed value was read.
        exponent, exponent_sigma: mean and standard deviation of nu.
    """

    seconds: Seconds
    reference_seconds: Seconds = 20.0
    exponent: Annotated[float, Field(ge=0, le=10)]
    exponent_sigma: Annotated[float, Field(ge=0, le=10)] = 0.0

    @model_validator(mode="after")
    def _later(self) -> "Drift":
        if self.seconds < self.reference_seconds:
            raise ValueError(
                f"seconds ({self.seconds:g}) must not be before reference_seconds ({self.reference_seconds:g})"
            )
        return self

    def factors(self, shape: tuple[int, ...], random: np.random.Generator) -> Float64:
        """What each cell's conductance is multiplied by."""
        nu = np.maximum(self.exponent + self.exponent_sigma * random.standard_normal(shape), 0)
        factor: Float64 = (self.seconds / self.reference_seconds) ** -nu
        return factor


class WriteVerify(Settings):
    """A cell is read after it was programmed, and programmed anew while it is too far off.

    Attributes:
        tolerance: largest error that is accepted, in levels.
        attempts: times that a cell is programmed at most; the last attempt stays, accepted or not.
    """

    tolerance: Positive
    attempts: Annotated[int, Field(ge=1, le=1000, strict=True)]


class Device(Settings):
    """The cells of a crossbar and the wires between those of an OU. The default is the ideal device.

    Attributes:
        on_off_ratio: conductance of the highest level over that of level 0; None: level 0 does not conduct.
        reference_column: the ADC's input is freed of what ideal cells of level 0 would conduct on the driven rows.
        variation: of each cell, drawn once when it is programmed; a name of ``PUBLISHED_VARIATIONS``, or None.
        write_verify: programming is repeated; None: each cell is programmed once.
        stuck_on: share of the cells that stay at the highest level, whatever is written.
        stuck_off: share of the cells that stay at level 0.
        read_noise: standard deviation of a cell's conductance from read to read, over its conductance.
        drift: fall of the conductances since they were programmed; cells that are stuck do not drift.
        row_wire_ohm: wire between neighbouring cells of a wordline.
        column_wire_ohm: wire between neighbouring cells of a bitline.
        on_resistance_ohm: of a cell at the highest level; only the wires' effect depends on it.
    """

    on_off_ratio: Annotated[float, Field(gt=1, le=1e12)] | None = None
    reference_column: bool = False
    variation: Annotated[LognormalVariation | PolynomialVariation, Field(discriminator="kind")] | None = None
    write_verify: WriteVerify | None = None
    stuck_on: Share = 0.0
    stuck_off: Share = 0.0
    read_noise: Annotated[float, Field(ge=0, le=100)] = 0.0
    drift: Drift | None = None
    row_wire_ohm: Ohm = 0.0
    column_wire_ohm: Ohm = 0.0
    on_resistance_ohm: Annotated[float, Field(ge=1e-3, le=1e15)] = 6000.0

    @field_validator("variation", mode="before")
    @classmethod
    def _published(cls, value: Any) -> Any:
        if isinstance(value, dict) and "sigma" in value:
            return {"kind": "lognormal", **value}  # it alone has a sigma
        if not isinstance(value, str):
            return value
        if value not in PUBLISHED_VARIATIONS:
            raise ValueError(f"no variation {value!r} ({nearest(value, list(PUBLISHED_VARIATIONS))})")
        return PUBLISHED_VARIATIONS[value]

    @model_validator(mode="after")
    def _shares(self) -> "Device":
        if self.stuck_on + self.stuck_off > 1:
            raise ValueError(
                f"stuck_on ({self.stuck_on:g}) and stuck_off ({self.stuck_off:g}) together must not exceed 1"
            )
        if self.on_off_ratio is not None and self.on_off_ratio < _LEAST_RATIO:
            raise ValueError(f"on_off_ratio must be at least {_LEAST_RATIO}, not {self.on_off_ratio!r}")
        if self.write_verify is not None and self.variation is None:
            raise ValueError("write_verify needs a variation to correct")
        return self

    @property
    def ideal(self) -> bool:
        """Whether every bitline carries exactly what its levels say."""
        return (self.on_off_ratio is None or (self.reference_column and not self.has_wires)) and not (
            self.random or self.drift is not None or self.has_wires
        )

    @property
    def random(self) -> bool:
        """Whether devices, or their reads, differ from one another."""
        drifts = self.drift is not None and self.drift.exponent_sigma > 0
        return self.variation is not None or self.stuck_on > 0 or self.stuck_off > 0 or self.read_noise > 0 or drifts

    @property
    def has_wires(self) -> bool:
        """Whether any wire has a resistance."""
        return self.row_wire_ohm > 0 or self.column_wire_ohm > 0

    def off(self, largest_level: int) -> float:
        """Conductance of level 0, in levels; a multiple of 2**-24, so that sums with whole levels do not round."""
        return 0.0 if self.on_off_ratio is None else round(largest_level / (self.on_off_ratio - 1) * 2**24) / 2**24

    def program(self, levels: NDArray[np.integer[Any]], largest_level: int, seed: np.random.SeedSequence) -> Float64:
        """The conductance of every cell after programming, faults and drift, in levels.

        Args:
            levels: what the cells are to store, of any shape.
            largest_level: of a cell.
            seed: of this device; each effect has a stream of its own, so that one more does not change the others.
        """
        variation, faults, drift = (np.random.default_rng(child) for child in seed.spawn(3))
        off = self.off(largest_level)
        on = largest_level + off
        target: Float64 = levels + np.float64(off)
        conductance: Float64 = target
        if self.variation is not None:
            conductance = self.variation.programmed(target, on, variation)
            for _ in range(self.write_verify.attempts - 1 if self.write_verify else 0):
                assert self.write_verify is not None
                rejected = np.abs(conductance - target) > self.write_verify.tolerance
                if not rejected.any():
                    break
                conductance[rejected] = self.variation.programmed(target[rejected], on, variation)
        if self.drift is not None:
            conductance = conductance * self.drift.factors(target.shape, drift)
        if self.stuck_on or self.stuck_off:
            lot = faults.random(target.shape)
            conductance = np.where(lot < self.stuck_on, on, conductance)
            conductance = np.where((lot >= self.stuck_on) & (lot < self.stuck_on + self.stuck_off), off, conductance)
        return conductance
