"""What is asked of a compression, and the inputs that it is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prap_pim.common.errors import UserError, one_line
from prap_pim.frontend import Captured, Inputs, Output, cut, judged, judged_outputs, on_copies
from prap_pim.frontend.quantize import QuantizeConfig
from prap_pim.hardware.chip import Chip
from prap_pim.methods.calibrate.config import Budgeted
from prap_pim.methods.config import MethodConfig

_BATCH = 64  # inputs of one tensor at a time


_ACTIVATION = 1 << 24  # bytes, of the largest of a batch: what caches and memory still hold


_HELD_BACK = 10  # one in so many calibration inputs is kept for the check of the result


_LEAST_HELD_BACK = 8


@dataclass(frozen=True)
class Request:
    """What is to be done to a network.

    Attributes:
        method: what to do to which layer.
        chip: decides what an OU holds.
        seed: see ``calibrate``.
        quantize: how the int8 grids of the activations are found.
    """

    method: MethodConfig
    chip: Chip
    seed: int = 0
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise UserError(f"seed must be a whole number from 0 to 2**31 - 1, not {self.seed!r}")
        object.__setattr__(self, "quantize", self.quantize.on(self.chip))


@dataclass(frozen=True, eq=False)
class CalibrationInputs:
    """Inputs of a network, and how its outputs are judged.

    Attributes:
        batches: to compress with.
        held: kept for the check of the result: a tenth, at least 8, evenly spread; none where that would be more than
            half of all.
        judges: of the outputs.
        divisible: whether the network takes any number of inputs at a time.
    """

    batches: list[tuple[Tensor, ...]]
    held: list[tuple[Tensor, ...]]
    judges: tuple[Output, ...]
    divisible: bool = True

    @property
    def count(self) -> int:
        """Inputs to compress with."""
        return sum(len(batch[0]) for batch in self.batches)

    @staticmethod
    def of(
        captured: Captured,
        inputs: Tensor | Sequence[Inputs],
        method: MethodConfig,
        divisible: bool = True,
        classes: bool = False,
    ) -> "CalibrationInputs":
        """
        Args:
            divisible: whether the network takes any number of inputs at a time: few where its activations are large.
            classes: whether its outputs are known to have classes; else that is judged by their values.

        Raises:
            UserError: there are none, or the method counts an output that the network does not have.
        """
        batches = cut(inputs, _BATCH, captured.network.name)
        batches, held = held_back(_divided(batches, captured) if divisible else batches)
        return CalibrationInputs(batches, held, judges_of(captured, batches[0], method, classes), divisible)


def _divided(batches: list[tuple[Tensor, ...]], captured: Captured) -> list[tuple[Tensor, ...]]:
    """Batches of whose activations none takes more than ``_ACTIVATION`` bytes, or of two inputs."""
    most = max(2, _ACTIVATION // (4 * max(node.output_elements for node in captured.network)))
    found = []
    for batch in batches:
        count = len(batch[0])
        for places in torch.tensor_split(torch.arange(count), -(-count // most)):
            some = tuple(x[places] if x.ndim and len(x) == count else x for x in batch)
            found.append(tuple(map(_laid_out, some)) if captured.takes_any_layout else some)
    return found


def _laid_out(x: Tensor) -> Tensor:
    """Images with their channels last, as ``Captured.module`` has weights: twice as fast on a CPU, or faster."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def held_back(
    batches: list[tuple[Tensor, ...]],
) -> tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]]:
    """Batches to compress with, and those that are kept (``CalibrationInputs``)."""
    total = sum(len(batch[0]) for batch in batches)
    count = max(_LEAST_HELD_BACK, -(-total // _HELD_BACK))
    if 2 * count > total:
        return batches, []
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[(torch.arange(count) * total + total // 2) // count] = True
    used: list[tuple[Tensor, ...]] = []
    kept: list[tuple[Tensor, ...]] = []
    first = 0
    for batch in batches:
        here = chosen[first : first + len(batch[0])]
        first += len(here)
        for which, found in ((~here, used), (here, kept)):
            if which.any():
                found.append(tuple(x[which] if x.ndim and len(x) == len(which) else x for x in batch))
    return used, kept


@torch.no_grad()
def judges_of(
    captured: Captured, batch: tuple[Tensor, ...], method: MethodConfig, classes: bool = False
) -> tuple[Output, ...]:
    """How the network's outputs are judged, by a method's weights of them if it has any."""
    name, count = captured.network.name, len(batch[0])
    try:
        outcome = judged_outputs(on_copies(captured.module, batch), name)
    except RuntimeError as error:
        raise UserError(f"model {name} does not run on {count} inputs at a time: {one_line(error)}") from error
    half = tuple(x[: count // 2] if x.ndim and len(x) == count else x for x in batch)
    try:
        fewer = judged_outputs(on_copies(captured.module, half), name) if count > 1 else None
    except RuntimeError:  # it takes so many and no others
        fewer = None
    weights = method.reuse.outputs if isinstance(method.reuse, Budgeted) else None
    names = captured.outputs or tuple(str(i) for i in range(len(outcome)))
    maps = captured.network.layers[-1].kind == "conv"
    try:
        judges = judged(captured.module, outcome, names, maps, weights, known=classes, fewer=fewer)
    except UserError as error:
        raise UserError(f"model {name}: {error}") from error
    for output in judges:
        if bool(outcome[output.place].isnan().all()):
            raise UserError(f"model {name}: output {output.name} is NaN on the first calibration inputs")
    return judges
