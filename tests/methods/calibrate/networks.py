"""Tiny networks with odd layers, and what the tests know of how one is handed over to be compressed."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prap_pim.common.progress import Progress, quiet
from prap_pim.frontend import Captured, capture, cut
from prap_pim.frontend.quantize import QuantizeConfig
from prap_pim.frontend.weights import put_weights
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan
from prap_pim.methods.calibrate.config import CalibratedReuse, LowBits
from prap_pim.methods.calibrate.network import Calibration, calibrate
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.request import CalibrationInputs, Request, judges_of

GRAIN = Grain()
CHIP = load_chip("isaac-32nm")  # of this grain


class Odd(nn.Module):
    """No batch norm. Strides, padding and dilation that differ; a branch; rows and filters that fill no OU."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 10, (3, 2), stride=(2, 1), padding=(1, 2))
        self.left = nn.Conv2d(10, 6, 3, padding=2, dilation=2, bias=False)
        self.right = nn.Conv2d(10, 6, 1)
        self.one = nn.Conv2d(6, 1, 3, padding=1)
        self.tokens = nn.Linear(10, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.left(x) + self.right(x))
        x = self.one(x).squeeze(1)  # [N, 4, 10]: a product at each of 4 places
        return self.head(torch.relu(self.tokens(x))).mean(1)


class Normed(nn.Module):
    """Batch norm after each convolution but one, one of them after an addition, on vectors too."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.norm3 = nn.BatchNorm2d(12, affine=False)
        self.head = nn.Linear(12, 5)
        self.norm4 = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(x + self.conv2(x)))
        x = torch.relu(self.norm3(self.conv3(x)))
        return self.norm4(self.head(x.mean((2, 3))))


def images(count: int = 20, kind: str = "usual", channels: int = 2, seed: int = 0) -> Tensor:
    """[count, channels, 8, 7]; 7 + 2 * 2 - 2 + 1 = 10 outputs across in ``Odd``."""
    x = torch.randn(count, channels, 8, 7, generator=torch.Generator().manual_seed(seed))
    x += 0.5 + torch.roll(x, 1, 3)
    if kind == "constant":
        x = torch.full_like(x, 0.7)
    elif kind == "zero":
        x = torch.zeros_like(x)
    elif kind == "dead":
        x[:, 1] = 0
    return x


def captured_of(kind: type[nn.Module], seed: int = 0) -> Captured:
    """A network with random weights in evaluation mode, its batch norm fed, no class far above the others, sure of some
    inputs and not of others: what it gives is taken for classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind()
    with torch.no_grad():
        for _ in range(3):
            model.train()(images(30, seed=9))
        outputs = model.eval()(images(30, seed=9))
        last = model.norm4 if kind is Normed else model.head
        size = (outputs - outputs.mean(0)).std()
        last.weight *= 2 / size
        last.bias.copy_((last.bias - outputs.mean(0)) * 2 / size)
    return capture(model, images(1), kind.__name__)


def on_grid(x: Tensor) -> Tensor:
    """x rounded to int8. Its largest magnitude is 127; where one side has a quarter of the other at most, its ends are
    -128 and 127."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    if 4 * min(-low, high) >= max(-low, high):
        step, zero = max(-low, high) / 127 or 1.0, 0
    else:
        step = (high - low) / 255
        zero = round(-128 - low / step)
    return ((x / step).round().add(zero).clamp(-128, 127) - zero) * step


def compress(
    captured: Captured,
    x: Tensor | Sequence[Tensor],
    seed: int = 0,
    whole: tuple[str, ...] = (),
    chip: Chip | None = None,
    quantize: QuantizeConfig | None = None,
    progress: Progress = quiet,
    **config: object,
) -> Calibration:
    """By calibrated reuse or in few bits, with int8 grids that reach the largest value, as the tests have it too."""
    batches = cut(x, 64, captured.network.name)
    reuse = LowBits if config.get("kind") == "lowbit" else CalibratedReuse
    method = MethodConfig(name="mine", reuse=reuse.model_validate(config))
    given = CalibrationInputs(batches, [], judges_of(captured, batches[0], method))
    on_chip, grids = chip or load_chip("isaac-32nm"), quantize or QuantizeConfig(input_percentile=100)
    return calibrate(captured, given, Request(method, on_chip, seed, grids), whole, progress)


def with_plans(captured: Captured, found: Calibration) -> nn.Module:
    """The network with the compressed weights and corrected biases, its batch norms as they were."""
    model = copy.deepcopy(captured.module)
    for name, plan in found.plans.items():
        put_weights(model, name, plan)
    return model


def plan_ratio(captured: Captured, found: Calibration) -> float:
    """OU steps of the plans and of the layers that have none, of those of the same layers with every pattern."""
    taken = dense = 0
    for layer in captured.network.layers:
        steps = GRAIN.input_steps * layer.positions
        every = -(-layer.fan_in // 8) * layer.filters  # a pattern of 8 weights of 8 bits fills an OU
        taken += steps * (plan_ous(found.plans[layer.name]) if layer.name in found.plans else every)
        dense += steps * every
    return taken / dense


def plan_ous(plan: LayerPlan) -> int:
    return int(sum(GRAIN.of_bits(plan.weight_bits).ous(int(count)) for count in plan.donors_per_group))


def digest(found: Calibration) -> list[str]:
    return [plan.digest() for plan in found.plans.values()]
