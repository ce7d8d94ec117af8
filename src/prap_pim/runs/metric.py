"""What networks are worth: how well they predict labels, or what a user's own function gives, checked."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of
from prap_pim.common.imports import running
from prap_pim.common.progress import Steps, unheard
from prap_pim.common.settings import Settings, nearest
from prap_pim.crossbar import Metrics, OnCrossbars
from prap_pim.frontend import state_digest
from prap_pim.frontend.evaluate import Labelled, Pairs, evaluate_pairs
from prap_pim.training.data import Examples, Streamed

ACCURACY, BITS = "accuracy", "bits_per_byte"  # metrics that results have fields of their own for
PERPLEXITY = "perplexity"


@dataclass(frozen=True, eq=False)
class LabelMetric:
    """How well test labels are predicted: accuracy; of bytes also bits per byte, of other tokens perplexity."""

    pairs: Pairs
    of: Literal["classes", "bytes", "tokens"]
    minimize: tuple[str, ...] = (BITS, PERPLEXITY)

    def of_first(self, count: int) -> "LabelMetric":
        """The same on the first so many pairs."""
        every = self.pairs
        if isinstance(every, Examples):
            return replace(self, pairs=Examples(every.inputs[:count], every.labels[:count]))
        assert isinstance(every, Streamed)
        return replace(self, pairs=replace(every, count=min(count, every.count)))

    def __call__(self, network: nn.Module, told: Steps = unheard, first: int = 0) -> Metrics:
        """What a network is worth that takes the tensors of a batch; ``first`` inputs are in batches of their own."""
        if isinstance(network, OnCrossbars):
            found = Labelled(self.pairs, first=first)(network)
        else:
            found = vars(evaluate_pairs(network, self.pairs, told=told))
        bytes_ = {BITS: found["nats"] / math.log(2)} if self.of == "bytes" else {}
        tokens = {PERPLEXITY: math.exp(found["nats"])} if self.of == "tokens" else {}
        return {ACCURACY: found["accuracy"], **bytes_, **tokens}


@dataclass(frozen=True, eq=False)
class OwnMetric:
    """A user's function of a module, checked: whatever it raises or returns wrongly becomes one line.

    Attributes:
        function: of a module that is called as the model is; gives a number, or numbers by name.
        minimize: names of those of which less is better.
        called: makes such a module of a network that takes the tensors of a batch.
    """

    function: Callable[[nn.Module], Any]
    minimize: tuple[str, ...] = ()
    called: Callable[[nn.Module], nn.Module] = field(default=lambda network: network)

    @property
    def name(self) -> str:
        """What its number is called if it gives but one."""
        name = str(getattr(self.function, "__name__", "metric"))
        return "metric" if name in ("evaluate", "<lambda>") else name

    def __call__(self, network: nn.Module, told: Steps = unheard, first: int = 0) -> Metrics:
        """What a network is worth that takes the tensors of a batch."""
        return self.of_model(self.called(network))

    def of_model(self, model: nn.Module) -> Metrics:
        """What a module is worth that is called as the model is.

        Raises:
            UserError: the function raises, changes the model's state, or gives no finite number.
        """
        model.eval()
        before = state_digest(model)
        with running(f"evaluate {self.name}"), torch.no_grad():
            given = self.function(model)
        if state_digest(model) != before:
            raise UserError(
                f"evaluate {self.name} changed the model: is its batch norm in training mode? Call model.eval() in it, "
                "not model.train()"
            )
        return self._checked(given)

    def _checked(self, given: Any) -> Metrics:
        values = dict(given) if isinstance(given, Mapping) else {self.name: given}
        if not values:
            raise UserError(f"evaluate {self.name} gave no number")
        found = {}
        for key, value in values.items():
            if isinstance(value, Tensor) and value.numel() == 1:
                value = value.item()
            if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
                value = value.item()
            what = f"evaluate {self.name}" + (f": {key!r}" if isinstance(given, Mapping) else "")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{what} must be a number, not {type(value).__name__} {str(value)[:40]!r}")
            if not math.isfinite(value):
                raise UserError(f"{what} is {value:g}: it must be finite")
            if key == ACCURACY and not 0 <= value <= 1:
                raise UserError(f"{what} is {value:g}: an accuracy is a share, 0 to 1; call it otherwise if it is not")
            found[str(key)] = float(value)
        for name in self.minimize:
            if name not in found:
                raise UserError(f"minimize: evaluate {self.name} gives no {name!r} ({nearest(name, list(found))})")
        return found

    def twice(self, model: nn.Module) -> Metrics:
        """As ``of_model``.

        Raises:
            UserError: as there; or it gives other values for the same model.
        """
        first, second = self.of_model(model), self.of_model(model)
        for name, value in first.items():
            if not math.isclose(value, second.get(name, math.nan), rel_tol=1e-6, abs_tol=1e-12):
                raise UserError(
                    f"evaluate {self.name} gives {value:.6g} and {second.get(name, math.nan):.6g} for the same model: "
                    "what differs between methods would be chance. Seed what it draws, and take the same data each time"
                )
        return first


class FloatQuality(Settings):
    """What the network is worth before compression."""

    from_outside = False

    metrics: dict[str, float]
    inputs: int | None = None  # that the user's own metric looked at


@dataclass(frozen=True, eq=False)
class OfTest:
    """A metric that may take the test data as well."""

    function: Any
    test: Any

    @property
    def __name__(self) -> str:  # as a function has
        return str(self.function.__name__)

    @property
    def digest(self) -> str:
        """Of the code, and its arguments."""
        return str(self.function.digest)

    def __call__(self, model: nn.Module) -> Any:
        try:
            inspect.signature(self.function.found).bind(None, None, **self.function.arguments)
        except TypeError:
            return self.function(model)
        return self.function(model, self.test)


def code_digest(function: Callable[..., Any]) -> str:
    """Of a function's source, as far as that can be found."""
    try:
        return digest_of(inspect.getsource(function))
    except (OSError, TypeError):
        return digest_of(getattr(function, "__qualname__", type(function).__qualname__))


class Counter:
    """Counts the inputs of a model."""

    def __init__(self) -> None:
        self.inputs = 0

    def on(self, model: nn.Module) -> Any:
        """Until the block ends."""
        return model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, model: nn.Module, given: Any, named: Any) -> None:
        found = [x for x in (*given, *named.values()) if isinstance(x, Tensor) and x.ndim]
        self.inputs += len(found[0]) if found else 0
