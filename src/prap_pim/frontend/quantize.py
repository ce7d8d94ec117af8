"""Static integer grids of the activations that enter crossbar layers: of 8 bits, or as few as the chip takes."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.progress import Steps, counted, unheard
from prap_pim.common.settings import Settings, nearest
from prap_pim.frontend import Captured, Inputs, Output, cut, divergence, judged_outputs
from prap_pim.frontend.inputs import on_copies
from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import Layer
from prap_pim.ir.plan import INT8, NetworkPlan, largest_integer

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_INPUTS = 32  # with which ranges are compared by what they do to the network's outputs, about
_AT_ONCE = 1 << 23  # values that are rounded
_VALUES = 1 << 19  # of a layer's input that are looked at, about
_POSITIONS = 512  # and positions, at least
_SHARES = [2 ** (-i / 4) for i in range(17)]  # of the largest magnitude, down to a sixteenth: ranges that are tried
_WORTH_IT = 0.9  # of the error: a zero point must do better than that, or another way to find ranges
_WHOLE = 1e-3  # how far from a whole number what was divided by its step may be
_GOLDEN = 2654435761  # Knuth's multiplicative hash: which positions are looked at does not depend on batches
_HASHES = 1 << 32


_OTHERS = "*"  # layers that are not named
InputBits = Annotated[int, Field(ge=2, le=INT8, strict=True)]


class QuantizeConfig(Settings):
    """How the int8 grid of a layer's input is found on calibration inputs.

    Attributes:
        input_percentile: percentage of the input's magnitudes that int8 must reach; 100 is the largest one seen. None:
            the range whose error, of rounding and of clipping together, is least, each input channel's counted by the
            weights that it meets.
        norm: power of these errors, 2 or 4: at 4 large ones, which are those of clipping, weigh more. None: of 2, 4 and
            a percentile of 100 the one for the whole network that leaves its outputs nearest to those of float inputs.
            A maximum that is clipped matters where only the largest of many values is read on, as by a max pool.
        zero_point: whether an input that is not symmetric about 0 may get a zero point. It costs a constant for each
            filter, which is part of the bias.
        equalize: whether large input channels are divided by a factor, and the weights that read them multiplied by it,
            where the network allows it and int8 then loses less (Nagel et al., ICCV 2019; Xiao et al., ICML 2023).
        input_bits: of an activation, 2 to 8; or of what layers read, by their names, "*" being all others. None, and
            for layers that are not named: as many as the chip's inputs have, at most 8.
    """

    input_percentile: float | None = Field(default=None, gt=50, le=100)
    norm: Literal[2, 4] | None = None
    zero_point: bool = True
    equalize: bool = True
    input_bits: InputBits | dict[str, InputBits] | None = None

    def bits(self, layer: str) -> int:
        """Of what a layer reads."""
        given = self.input_bits or INT8
        return given if isinstance(given, int) else given.get(layer, given.get(_OTHERS, INT8))

    def check_names(self, names: Collection[str]) -> None:
        """
        Raises:
            UserError: bits were given for a layer that is not there.
        """
        for name in self.input_bits if isinstance(self.input_bits, dict) else ():
            if name not in {*names, _OTHERS}:
                raise UserError(f"quantize.input_bits: there is no layer {name!r} ({nearest(name, list(names))})")

    def on(self, chip: Chip) -> "QuantizeConfig":
        """With the bits of the chip's inputs, where they are fewer than 8 and nothing was said.

        Raises:
            UserError: more were asked for, or its weights have a single bit.
        """
        if chip.grain.stored_bits < 2:
            raise UserError(f"chip {chip.name}: its weights have 1 bit (weight_bits); 2 are needed")
        most, given = min(INT8, chip.grain.input_bits), self.input_bits
        needed = max([2, *(given.values() if isinstance(given, dict) else [given] if given else [])])
        if needed > most:
            raise UserError(f"chip {chip.name}: its inputs have {most} bits (input_bits); {needed} are needed")
        if most == INT8 or isinstance(given, int):
            return self
        return self.model_copy(update={"input_bits": most if given is None else {_OTHERS: most, **given}})

    @staticmethod
    def given(value: "QuantizeConfig | Mapping[str, Any] | None") -> "QuantizeConfig":
        """As a user gives it: settings by name will do.

        Raises:
            UserError: there is no such setting, or it is wrong.
        """
        if isinstance(value, QuantizeConfig):
            return value
        if value is not None and not isinstance(value, Mapping):
            raise UserError(f"quantize must hold settings by name, not {value!r}")
        return QuantizeConfig.checked(dict(value or {}), "quantize")


LARGEST = QuantizeConfig(input_percentile=100)  # nothing is clipped


@dataclass(frozen=True)
class InputGrid:
    """What the integers at a layer's input stand for: ``x = step * (integer - zero)``.

    Attributes:
        step: the real activation that a difference of 1 stands for, positive.
        zero: the integer that stands for 0, -128..127 of 8 bits.
        bits: of an integer.
    """

    step: float
    zero: int = 0
    bits: int = INT8

    @property
    def least(self) -> int:
        """The lowest integer."""
        return -self.most - 1

    @property
    def most(self) -> int:
        """The highest integer."""
        return largest_integer(self.bits)

    def integers(self, x: Tensor) -> Tensor:
        """int8 activations: x / step, rounded half to even, plus zero, clipped. The one home of this rule."""
        found, parts = torch.empty_like(x, dtype=torch.int8), 1 + x.numel() // _AT_ONCE
        both = ((each if each.ndim else each[None]).tensor_split(parts) for each in (found, x.detach()))
        for own, part in zip(*both, strict=True):
            own.copy_((part / self.step).round_().add_(self.zero).clamp_(self.least, self.most))
        return found

    def rounded(self, x: Tensor) -> Tensor:
        """The values of the grid that x becomes, of the type of x."""
        return (x / self.step).round_().clamp_(self.least - self.zero, self.most - self.zero).mul_(self.step)


def grid_in(plan: NetworkPlan, name: str) -> InputGrid:
    """What the inputs of a layer stand for in a plan."""
    return InputGrid(plan.input_step[name], plan.input_zero[name], plan.layers[name].input_bits)


def input_grids(
    captured: Captured,
    inputs: Tensor | Sequence[Inputs],
    batch_size: int,
    config: QuantizeConfig | None = None,
    told: Steps = unheard,
) -> dict[str, InputGrid]:
    """The grid of the input of every layer, in one pass over the inputs.

    Args:
        captured: the network; run as it is, in float.
        inputs: calibration inputs [N, ...], or batches of them.
        batch_size: inputs at a time, of one tensor.
        config: how they are found.
        told: called with the batches done and all of them.

    Returns:
        grids by layer name; a step of 1 for an input that is always 0.

    Raises:
        UserError: there are no inputs, or an activation is NaN or infinite.
    """
    batches, config = cut(inputs, batch_size, captured.network.name), config or QuantizeConfig()
    return {name: layer.grid(config) for name, layer in seen_inputs(captured, counted(batches, told)).items()}


def seen_inputs(
    captured: Captured, batches: Iterable[tuple[Tensor, ...]], names: Collection[str] | None = None
) -> dict[str, "SeenInputs"]:
    """What layers read, those that are named or all, in one pass over batches.

    Raises:
        UserError: an activation is NaN or infinite.
    """
    seen = {x.name: SeenInputs(x) for x in captured.network.layers if names is None or x.name in names}
    for _ in _outcomes(captured, batches, _observers(seen)):
        pass
    return seen


@torch.no_grad()
def settled(
    captured: Captured, batches: Sequence[tuple[Tensor, ...]], judges: tuple[Output, ...], config: QuantizeConfig
) -> QuantizeConfig:
    """With the ranges chosen that are best for the network, where that was left open (``QuantizeConfig.norm``).

    Args:
        captured: the network.
        batches: calibration inputs; the first 32 or so are looked at, fewer of a large network.
        judges: how its outputs are judged.
        config: what was given.
    """
    if config.norm is not None or config.input_percentile is not None:
        return config
    some, name = captured.first_inputs(batches, _INPUTS), captured.network.name
    seen = {layer.name: SeenInputs(layer) for layer in captured.network.layers}
    wanted = [judged_outputs(own, name) for own in _outcomes(captured, some, _observers(seen))]
    best, least = config, inf
    for update in ({"norm": 2}, {"norm": 4}, {"input_percentile": 100.0}):
        tried = config.model_copy(update=update)
        hooks = {layer: rounding(inputs.grid(tried)) for layer, inputs in seen.items()}
        found = (judged_outputs(other, name) for other in _outcomes(captured, some, hooks))
        lost = divergence(judges, zip(wanted, found, strict=True))
        if lost < _WORTH_IT * least:
            best, least = tried, lost
    return best


def _outcomes(
    captured: Captured, batches: Iterable[tuple[Tensor, ...]], hooks: Mapping[str, Callable[..., Any]]
) -> Iterator[Any]:
    """What a network gives, batch by batch, with hooks in front of layers while it is computed."""
    for batch in batches:
        handles = [captured.module.get_submodule(n).register_forward_pre_hook(hook) for n, hook in hooks.items()]
        try:
            with torch.no_grad():
                outcome = on_copies(captured.module, batch)
        finally:
            for handle in handles:
                handle.remove()
        yield outcome


def _observers(seen: Mapping[str, "SeenInputs"]) -> dict[str, Callable[..., Any]]:
    """Hooks that make layers show what they read."""

    def observe(seen: SeenInputs, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.add(inputs[0])

    return {name: partial(observe, layer) for name, layer in seen.items()}


def rounding(grid: InputGrid) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that makes a layer read int8 inputs."""

    def rounded(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (grid.rounded(args[0]), *args[1:])

    return rounded


class SeenInputs:
    """The range of a layer's input over any number of batches, and the input at some positions.

    Which positions these are depends on their number among all alone, not on how inputs are cut into batches.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.low = self.high = 0.0
        self._most = max(_POSITIONS, _VALUES // layer.channels)
        self._count = 0
        self._below = _HASHES
        self._hashes = torch.zeros(0, dtype=torch.int64)
        self._rows = torch.zeros(0, layer.channels)
        self._energy = channel_energy(layer)

    def add(self, x: Tensor, keep: bool = True) -> None:
        """
        Args:
            x: [N, C, *map] for a convolution, [..., C] for a linear layer.
            keep: whether some positions are kept, or the range alone.

        Raises:
            UserError: it holds NaN or infinity.
        """
        x = x.detach()
        low, high = float(x.amin()), float(x.amax())  # torch.aminmax takes ten times as long where channels come last
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UserError(f"layer {self.layer.name}: its input is NaN or infinite on a calibration input")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not keep:
            return
        positions = x.numel() // self.layer.channels
        hashes = torch.arange(self._count, self._count + positions) * _GOLDEN % _HASHES
        self._count += positions
        chosen = (hashes < self._below).nonzero().flatten()
        by_place = x.movedim(1, -1) if self.layer.kind == "conv" else x.reshape(-1, self.layer.channels)
        rows = by_place[torch.unravel_index(chosen, by_place.shape[:-1])]
        self._hashes = torch.cat([self._hashes, hashes[chosen]])
        self._rows = torch.cat([self._rows, rows.float().cpu()])
        while len(self._rows) > self._most:
            self._below //= 2
            kept = self._hashes < self._below
            self._hashes, self._rows = self._hashes[kept], self._rows[kept]

    def grid(self, config: QuantizeConfig) -> InputGrid:
        """The grid that suits what was seen; what has no step, an input that is always 0, gets 1. Inputs that are
        integers of a step already keep them."""
        bits = config.bits(self.layer.name)
        if bits == INT8 and (own := self._own):
            return own
        symmetric_of, between = partial(_symmetric, bits=bits), partial(_between, bits=bits)
        largest = max(-self.low, self.high)
        if config.input_percentile is not None:
            magnitude = self._percentile(config.input_percentile, largest)
            share = magnitude / largest if largest > 0 else 1.0
            if config.zero_point and self._lopsided:
                return between(share * self.low, share * self.high)
            return symmetric_of(magnitude)
        if largest == 0:
            return InputGrid(1.0, bits=bits)
        lost = partial(self.error, norm=config.norm or 2)
        symmetric = min((symmetric_of(share * largest) for share in _SHARES), key=lost)  # of equals the widest
        if not config.zero_point:
            return symmetric
        low, high = self.low, self.high
        for _ in range(2):  # one end after the other
            high = min((share * self.high for share in _SHARES), key=lambda end: lost(between(low, end)))
            low = min((share * self.low for share in _SHARES), key=lambda end: lost(between(end, high)))
        lopsided = between(low, high)
        return lopsided if lost(lopsided) < _WORTH_IT * lost(symmetric) else symmetric

    def error(self, grid: InputGrid, norm: int = 2) -> float:
        """Mean squared error of the layer's outputs, summed over filters, were the errors of its inputs independent.

        With a norm of 4 the square root of the mean of fourth powers.
        """
        ends = np.float32(grid.least - grid.zero), np.float32(grid.most - grid.zero)
        energy = self._energy ** (norm // 2)
        return float(_error(self._rows.numpy(), energy, norm == 4, np.float32(grid.step), *ends) ** (2 / norm))

    @property
    def rows(self) -> Float32:
        """The input at the positions that are looked at, float32 [n, C]."""
        return self._rows.numpy()

    def scaled(self, factors: Float64, energy: Float64) -> "SeenInputs":
        """The same inputs with each channel divided by a factor [C], and the squared weights [C] that then read it."""
        other = SeenInputs(self.layer)
        other._rows = self._rows / torch.from_numpy(factors.astype(np.float32))
        other._energy = energy
        other.low, other.high = (float(end) for end in torch.aminmax(other._rows)) if len(other._rows) else (0.0, 0.0)
        other.low, other.high = min(0.0, other.low), max(0.0, other.high)
        return other

    @property
    def _own(self) -> InputGrid | None:
        """The grid of a model that is already quantised, if it holds what was seen."""
        given = self.layer.integers
        if given is None or given.input_step is None:
            return None
        step, zero = given.input_step, given.input_zero
        whole = InputGrid(step)
        least, most = whole.least, whole.most
        grid = InputGrid(step, round(max(least, min(most, least - self.low / step))) if zero is None else zero)
        rows = self._rows / step
        fits = self.low / step + grid.zero > least - _WHOLE and self.high / step + grid.zero < most + _WHOLE
        return grid if fits and bool(((rows - rows.round()).abs() < _WHOLE).all()) else None

    @property
    def _lopsided(self) -> bool:
        """Whether one side of 0 has a quarter of the other's reach at most."""
        return 4 * min(-self.low, self.high) < max(-self.low, self.high)

    def _percentile(self, percentage: float, largest: float) -> float:
        if percentage == 100 or largest == 0:
            return largest
        return float(np.percentile(self._rows.abs().numpy(), percentage, method="higher"))


def grid_of(layer: Layer, inputs: Sequence[Tensor], config: QuantizeConfig) -> InputGrid:
    """The int8 grid of a layer's inputs.

    Raises:
        UserError: an input is NaN or infinite.
    """
    seen = SeenInputs(layer)
    for x in inputs:
        seen.add(x, keep=config.input_percentile != LARGEST.input_percentile)
    return seen.grid(config)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _error(
    rows: Float32, energy: Float64, fourth: bool, step: np.float32, least: np.float32, most: np.float32
) -> float:
    """Of squared errors, or of their squares."""
    total, inverse = 0.0, np.float32(1) / step
    sums = np.zeros(rows.shape[1])
    for n in range(len(rows)):
        for c in range(rows.shape[1]):
            x = rows[n, c] * inverse
            off = min(max(np.rint(x), least), most) - x
            square = off * off
            sums[c] += square * square if fourth else square
    for c in range(rows.shape[1]):
        total += energy[c] * sums[c]
    squared = float(step) * float(step)
    return total * (squared * squared if fourth else squared) / max(1, len(rows))


def channel_energy(layer: Layer) -> Float64:
    """The squared weights that read each input channel, batch norm's factor included, float64 [C]."""
    scaled = layer.matrix.astype(np.float64) * layer.filter_scale[:, None]
    groups = scaled.reshape(layer.groups, -1, layer.channels // layer.groups, layer.kernel_positions)
    return np.asarray(np.square(groups).sum((1, 3)).ravel())


def _symmetric(reach: float, bits: int) -> InputGrid:
    return InputGrid(reach / InputGrid(1.0, bits=bits).most if reach > 0 else 1.0, bits=bits)


def _between(low: float, high: float, bits: int) -> InputGrid:
    """The grid whose ends are ``low`` <= 0 and ``high`` >= 0, as near as 0 is one of its values."""
    whole = InputGrid(1.0, bits=bits)
    step = (high - low) / (whole.most - whole.least)
    return InputGrid(step, round(whole.least - low / step), bits) if step > 0 else whole
