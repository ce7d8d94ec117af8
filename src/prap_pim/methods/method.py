"""Methods as a caller asks for them: config objects, or their names with keyword settings."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings, nearest
from prap_pim.frontend import Captured
from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import Network
from prap_pim.methods.calibrate.config import CalibratedReuse, LowBits
from prap_pim.methods.config import AnyReuse, LayerRule, MethodConfig
from prap_pim.methods.equal_compute import IDENTICAL, ORC, STRUCTURED, Family, at_compute_ratio, patterns, similar
from prap_pim.methods.prune import NoPruning, OrcPruning, PatternPruning, PruneConfig, StructuredPruning
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, SimilarReuse

_Config = TypeVar("_Config", bound=Settings)


class Method(Settings):
    """What to do to the layers of a network; the same to all that are not left dense."""

    name: ClassVar[str]
    decides: ClassVar[str] = ""  # the settings that say how much it computes
    if not TYPE_CHECKING:
        kind: ClassVar[None] = None  # of the configurations that some inherit from: no setting of a method

    def __init__(self, *unnamed: Any, **settings: Any) -> None:
        """
        Raises:
            UserError: a setting is wrong; one line that says which and what is allowed.
        """
        if unnamed and not type(self).model_fields:
            raise UserError(f"method {self.name} has no settings, {unnamed[0]!r} is none")
        if settings.get("compute_ratio") is not None and "compute_ratio" not in type(self).model_fields:
            raise UserError(self._without_ratio())
        if settings and not type(self).model_fields:
            raise UserError(f"method {self.name} has no setting {min(settings)!r}")
        super().__init__(*unnamed, **settings)

    @classmethod
    def _called(cls) -> str:
        return f"method {cls.name}"

    @classmethod
    def _foremost(cls) -> str:
        return cls.decides if cls.decides in cls.model_fields else super()._foremost()

    def _without_ratio(self) -> str:
        others = [name for name, other in METHODS.items() if "compute_ratio" in other.model_fields]
        others_named = f"choose a method that takes one ({', '.join(others)})"
        return (
            f"method {self.name} keeps every pattern, its compute ratio is always 1: leave compute_ratio (--ratio) "
            f"out, or {others_named}"
        )

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        """How it prunes, and whose patterns it reuses."""
        return NoPruning(), NoReuse()

    def config(self, network: Network, chip: Chip, whole: Sequence[str]) -> MethodConfig:
        """The same as a configuration for one network.

        Args:
            network: its layers.
            chip: decides what an OU holds.
            whole: names of the layers that are left dense.

        Raises:
            UserError: the compute ratio is out of reach.
        """
        pruning, reusing = self.parts()
        return MethodConfig(name=self.name, prune=pruning, reuse=reusing, exceptions=_left_whole(whole))

    def _as(self, config: type[_Config]) -> _Config:
        """The settings of ``config`` among those of this method."""
        return config(**self.model_dump(include=set(config.model_fields) - {"kind"}))


class _ByShare(Method):
    """A method that computes in each layer by one number, ``decides``; a compute ratio finds it for every layer."""

    compute_ratio: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.compute_ratio is None) == (not self._decided()):
            raise ValueError(f"give either {self.decides} or compute_ratio (--ratio), which decides it")
        return self

    def _decided(self) -> bool:
        """Whether it is said how much it computes."""
        return getattr(self, self.decides) is not None

    def family(self) -> Family:
        """Its settings as a function of the number."""
        raise NotImplementedError

    def config(self, network: Network, chip: Chip, whole: Sequence[str]) -> MethodConfig:
        if self.compute_ratio is None:
            return super().config(network, chip, whole)
        asked = self.family(), network, chip, self.compute_ratio, whole, self.name
        settings = at_compute_ratio(*asked)
        rules = (
            LayerRule(layers=literal(layer), prune=pruning, reuse=reusing)
            for layer, (pruning, reusing) in settings.items()
        )
        return MethodConfig(name=self.name, exceptions=(*_left_whole(whole), *rules))


class Dense(Method):
    """Every weight pattern stored and computed."""

    name = "dense"


class Calibrated(Method, CalibratedReuse):
    """Donors that keep each layer's output on calibration inputs; no labels, no training.

    Attributes:
        compute_ratio: OU steps of the network, of the dense one's: short for ``budget={"compute": ...}``.
        budget: what the network may take, of what the dense one takes on the chip, each layer built once: one of
            ``compute`` (OU steps), ``energy``, ``latency`` (of one inference, serial) and ``interval`` (of a pipeline
            of layers). Energy and latency are shared out by what donors, uses and indices cost on the chip; of the
            interval every layer may take all.
        max_drop: instead: the least compute ratio at which at most this share of the calibration inputs is classified
            otherwise than by the network itself.
        shapes: what the filters of a 3x3 layer that share donors may keep of a kernel: 9 positions (all of it), 8 or 4;
            the budget chooses for each layer. A layer whose OU rows none of them fills keeps all of it.
        bits: of donors, 2 to 8; the budget chooses among them for each layer. Donors of b bits take b / 8 of the OUs.
            Left out, they are at most the bits of the chip's weights.
        uses: donors, at most, whose sum a filter takes of a row group. A further use costs no OU steps, but a partial
            sum and an index entry.
        balance: for a pipeline of layers, whose interval its slowest layer sets: no layer takes longer than the
            compute ratio times the dense network's slowest layer, on the crossbars that its dense plan takes. It costs
            accuracy.
        passes: over all row groups of a layer after the first one.
        mimic: how far each layer makes good what the layers before it have changed, 0 (not at all) to 1. What is made
            good on a few inputs is in part peculiar to them: half of it loses less on others.
        damping: added to the covariance of a layer's inputs, in its mean diagonal; where a layer sees few positions,
            at least a tenth of its inputs over its positions.
        fisher: exponent of the squared gradient of the outputs' loss by which a filter's error counts where no batch
            norm says it, 0 (all count the same; nothing is differentiated) to 1.
        update_weight: what adding up one partial sum counts, in OU steps: a filter does without a row group that would
            gain it less than that much more computing would gain elsewhere. 0: every gain is taken. Budgets of energy
            and latency take a tenth of what a use costs on the chip instead.
        outputs: what outputs of the network count, by name (a key, or a number in order); 0 leaves one out, those that
            are not named count 1.
    """

    name = "calibrated"

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return NoPruning(), self._as(CalibratedReuse)


class LowBit(Method, LowBits):
    """Weights of few bits: every filter its own patterns, each rounded to make good the errors of those before (GPTQ).

    Attributes:
        compute_ratio: OU steps of the network, of the dense one's; neither this nor one of the next two where all
            layers are to have the same number of bits, the only one in ``bits``.
        budget: as for ``Calibrated``.
        max_drop: as for ``Calibrated``.
        bits: 2 to 8, of a weight; the budget chooses among them for each layer. A layer of b bits takes b / 8 of the
            OUs. No indices are needed. Left out, they are at most the bits of the chip's weights.
        balance: as for ``Calibrated``.
        mimic: likewise.
        damping: likewise.
        fisher: likewise.
        outputs: likewise.
    """

    name = "lowbit"

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return NoPruning(), self._as(LowBits)


class Similar(_ByShare):
    """Patterns similar up to a power of two computed once: PRAP's step 2 alone.

    Attributes:
        keep: share of the filters of a block of inputs that keep their patterns, as donors.
        compute_ratio: instead: OU steps of the network, of the dense one's.
    """

    name = "similar"
    decides = "keep"
    keep: float | None = Field(default=None, gt=0, le=1)

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return NoPruning(), self._as(SimilarReuse)

    def family(self) -> Family:
        return similar(NoPruning())


class Prap(_ByShare, PatternPruning):
    """Pattern pruning and reuse of similar patterns: PRAP.

    Attributes:
        keep: as for ``Similar``.
        compute_ratio: instead: OU steps of the network, of the dense one's.
        group_channels: as for ``Pattern``.
        pointwise_group: likewise.
        shapes: likewise.
    """

    name = "prap"
    decides = "keep"
    keep: float | None = Field(default=None, gt=0, le=1)

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return self._as(PatternPruning), self._as(SimilarReuse)

    def family(self) -> Family:
        return similar(self._as(PatternPruning))


class Identical(_ByShare):
    """Nearly identical patterns computed once, after PattPIM.

    Attributes:
        threshold: theta. Patterns nearer to each other than the norm of the filter that the share theta of all filters
            comes before, by norm, are computed once; 1 shares equal ones alone.
        compute_ratio: instead: OU steps of the network, of the dense one's.
    """

    name = "identical"
    decides = "threshold"
    threshold: float | None = Field(default=None, gt=0, le=1)

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return NoPruning(), self._as(IdenticalReuse)

    def family(self) -> Family:
        return IDENTICAL


class Orc(_ByShare):
    """Small weights dropped and each filter's rest packed anew, after SRE.

    Attributes:
        ratio: share of a filter's weights that are kept.
        compute_ratio: instead: OU steps of the network, of the dense one's.
    """

    name = "orc"
    decides = "ratio"
    ratio: float | None = Field(default=None, gt=0, le=1)

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return self._as(OrcPruning), NoReuse()

    def family(self) -> Family:
        return ORC


class Structured(_ByShare):
    """Input channels of little weight dropped.

    Attributes:
        ratio: share of a layer's input channels that are kept.
        compute_ratio: instead: OU steps of the network, of the dense one's.
    """

    name = "structured"
    decides = "ratio"
    ratio: float | None = Field(default=None, gt=0, le=1)

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return self._as(StructuredPruning), NoReuse()

    def family(self) -> Family:
        return STRUCTURED


class Pattern(_ByShare, PatternPruning):
    """Pattern pruning: PRAP's step 1 alone.

    Attributes:
        compute_ratio: instead of the next two: OU steps of the network, of the dense one's.
        group_channels: n, input channels that share a shape, for kernels of more than one position; ou_rows / n
            positions of a kernel are kept. The paper uses 1, 2 and 4. None: as many as fill an OU with 4 positions
            each, as 2 channels do an OU of 8 rows.
        pointwise_group: inputs of which ou_rows are kept, for 1x1 convolutions and linear layers. None: twice the OU's
            rows.
        shapes: the most shapes that a channel group may have.
    """

    name = "pattern"
    decides = "group_channels and pointwise_group"

    def parts(self) -> tuple[PruneConfig, AnyReuse]:
        return self._as(PatternPruning), NoReuse()

    def family(self) -> Family:
        return patterns(self.shapes)

    def _decided(self) -> bool:
        """Both have defaults, which are of no effect beside a compute ratio."""
        named = {"group_channels", "pointwise_group"} & self.model_fields_set
        return bool(named) or self.compute_ratio is None


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Dense, Calibrated, LowBit, Similar, Prap, Identical, Orc, Structured, Pattern)
}


def given_once(options: Any, **named: Any) -> dict[str, Any]:
    """Settings of a method, some of which have an argument of their own beside ``options``.

    Raises:
        UserError: one is in both, or ``options`` has no names.
    """
    if not isinstance(options, Mapping | None):
        raise UserError(f"options must hold settings by name, not {options!r}")
    given = {str(key): value for key, value in (options or {}).items()}
    for key, value in named.items():
        if value is not None and given.get(key) is not None:
            raise UserError(f"{key} is given twice: {value!r} and {given[key]!r}")
    return given | {key: value for key, value in named.items() if value is not None}


def method_of(method: "str | Method | MethodConfig", settings: Mapping[str, Any]) -> Method | MethodConfig:
    """The method that a call asks for: an object, or a name with its settings; settings that are None are left out.

    Raises:
        UserError: there is no such method, or a setting is wrong.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if isinstance(method, str):
        if method not in METHODS:
            raise UserError(f"there is no method {method!r} ({nearest(method, list(METHODS))})")
        return METHODS[method](**given)
    if not isinstance(method, Method | MethodConfig):
        raise UserError(f"method must be a name, or an object such as Calibrated(compute_ratio=0.25), not {method!r}")
    if given:
        raise UserError(f"method {method.name} is given as an object: give {min(given)} to it")
    return method


def config_of(method: Method | MethodConfig, captured: Captured, chip: Chip, skip: Collection[str]) -> MethodConfig:
    """A method as the configuration for one network, with layers that are left dense.

    Args:
        skip: names of layers, of modules that hold them, or patterns with * and ?.

    Raises:
        UserError: no layer is called so, or the compute ratio is out of reach.
    """
    layers = [layer.name for layer in captured.network.layers]
    for pattern in skip:
        if not any(_named(path, pattern) for path in (*layers, *captured.unsupported)):
            raise UserError(f"skip: no layer is called {pattern!r} ({nearest(pattern, layers)})")
    whole = [layer for layer in layers if any(_named(layer, pattern) for pattern in skip)]
    if isinstance(method, Method):
        return method.config(captured.network, chip, whole)
    return method.model_copy(update={"exceptions": (*_left_whole(whole), *method.exceptions)})


def _left_whole(layers: Sequence[str]) -> tuple[LayerRule, ...]:
    return tuple(LayerRule(layers=literal(layer)) for layer in layers)


def _named(path: str, pattern: str) -> bool:
    """Whether a pattern fits the path of a layer, or a module that it is in."""
    return fnmatchcase(path, pattern) or path.startswith(f"{pattern}.")


def literal(layer: str) -> str:
    """A pattern that fits this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in layer)


def settled(method: MethodConfig, captured: Captured, chip: Chip, trained: bool) -> MethodConfig:
    """A method whose ``compute_ratio`` is asked for in a configuration, with the settings that meet it.

    Args:
        trained: whether the network is trained after this: what depends on its weights is not known yet.

    Raises:
        UserError: there is no such method, it takes no ratio, or that is out of reach.
    """
    if method.compute_ratio is None:
        return method
    name = method.method or method.name
    if name == Identical.name and trained:
        raise UserError(
            f"method {method.name}: how much it computes depends on the trained weights: give threshold, or say "
            "training: none"
        )
    asked = method_of(name, {"compute_ratio": method.compute_ratio})
    found = config_of(asked, captured, chip, [rule.layers for rule in method.exceptions])
    kept = {key: getattr(method, key) for key in ("name", "description", "finetune", "tune")}
    return found.model_copy(update=kept)


def names_to_skip(skip: str | Collection[str]) -> tuple[str, ...]:
    """
    Raises:
        UserError: they are no names.
    """
    if not isinstance(skip, str | Collection):
        raise UserError(f"skip must hold names of layers; it is {skip!r}")
    names = (skip,) if isinstance(skip, str) else tuple(skip)
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"skip must hold names of layers, not {name!r}")
    return names
