"""Training the donors themselves: a filter is tied to those that it takes through its gains, which stay as they are."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prap_pim.common.errors import UserError
from prap_pim.common.files import write_whole
from prap_pim.frontend.weights import layer_weight, put_weights
from prap_pim.ir.plan import LayerWeights, NetworkPlan
from prap_pim.training import Checkpoint, Hooks, Training, run_epochs


def train_donors(
    model: nn.Module, training: Training, start: Checkpoint, plans: Mapping[str, LayerWeights]
) -> dict[str, LayerWeights]:
    """Train from epoch ``start.epoch`` to the recipe's last with the named layers' donors in place of their weights.

    The loss is base training's, cross-entropy and weight decay, without PRAP's penalties. In every forward pass donors
    are rounded to the plan's bits; their gradient passes through the rounding unchanged (Bengio et al., 2013). Who
    takes which donor with which gain is fixed. Layers without a plan are trained as before.

    Args:
        model: with the weights of the plans (``put_weights``); trained in place, and left with those of the new plans.
        start: base training's checkpoint; the momentum of what is still there is continued.
        plans: by layer name, with the scale of the weights alone.
        training: data, recipe, and where the checkpoints go.

    Returns:
        the plans with new donors.

    Raises:
        UserError: a plan is of another layer; or as ``training.train``.
    """
    _tie(model, plans)
    known = dict(model.named_parameters())
    momentum = {name: value for name, value in start.momentum.items() if name.partition(":")[0] in known}
    origin = Checkpoint.of(start.epoch, "", model, momentum)
    last = training.config.epochs
    run_epochs(model, training, _Tied(model, plans), origin=origin, stop=last, keep=last)
    trained = {}
    for name, plan in plans.items():
        layer = model.get_submodule(name)
        (original,) = layer.parametrizations["weight"].parameters()  # type: ignore[index, union-attr]
        (donors,) = layer.parametrizations["weight"]  # type: ignore[index]
        trained[name] = _with_donors(plan, (original.detach() / donors.scale).double().numpy())
        parametrize.remove_parametrizations(layer, "weight")
        put_weights(model, name, replace(trained[name], bias=np.zeros_like(plan.bias)))  # the layer has it already
    return trained


def tie(model: nn.Module, structure: bytes) -> None:
    """Make ``model`` the one that another process trains by ``train_donors``, but for its weights.

    Args:
        model: of the same kind, changed in place.
        structure: what that process tells of it (``Hooks.structure``).

    Raises:
        UserError: they do not fit.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plans.safetensors"
        write_whole(path, structure)
        _tie(model, NetworkPlan.load(path).layers)


def _tie(model: nn.Module, plans: Mapping[str, LayerWeights]) -> None:
    for name, plan in plans.items():
        donors = Donors(plan, layer_weight(model, name).shape)
        parametrize.register_parametrization(model.get_submodule(name), "weight", donors)


class Donors(nn.Module):
    """A layer's weight as a function of its donors, real [D, h], which integers stand for.

    Each weight is the sum of what its filter's uses give it.

    What is trained is a donor times the power of two nearest to the root mean square of its gains, so that a step in it
    is as large a step in the weights whatever the scale at which the donor is stored.

    Args:
        plan: who takes which donor with which gain.
        shape: of the weight, [O, ...].

    Raises:
        UserError: the plan is of another shape.
    """

    def __init__(self, plan: LayerWeights, shape: torch.Size) -> None:
        super().__init__()
        if (plan.filters, plan.fan_in) != (shape[0], shape.numel() // shape[0]):
            raise UserError(f"layer {plan.name}: a plan of {plan.filters} x {plan.fan_in} weights for {tuple(shape)}")
        rows = plan.rows[plan.use_group]  # [use, h]
        use, place = np.nonzero(rows >= 0)
        where = plan.use_filter[use].astype(np.int64) * plan.fan_in + rows[use, place] % plan.fan_in
        order = np.argsort(where, kind="stable")
        first = np.searchsorted(where[order], where)  # [use and place], in that order
        turn = np.argsort(order) - first  # the how many-th that the weight gets
        sums = int(turn.max(initial=0)) + 1, plan.filters * plan.fan_in
        source = np.full(sums, plan.donors.size, np.int32)  # one past the end: nothing, 0
        gain = np.zeros(sums, np.float32)
        source[turn, where] = plan.use_donor[use].astype(np.int64) * plan.rows.shape[1] + place
        gains = (
            np.ldexp(plan.use_sign.astype(np.float64), plan.use_exponent) * relative_steps(plan)[plan.use_filter]
        )  # [use]
        gain[turn, where] = gains[use]
        self.source: Tensor
        self.gain: Tensor
        self.register_buffer("source", torch.from_numpy(source), persistent=False)
        self.register_buffer("gain", torch.from_numpy(gain), persistent=False)
        uses = np.bincount(plan.use_donor, minlength=len(plan.donors))
        square = np.bincount(plan.use_donor, weights=gains**2, minlength=len(plan.donors))
        scale = np.exp2(np.rint(np.log2(square / uses) / 2)).astype(np.float32)[:, None]
        self.scale: Tensor
        self.register_buffer("scale", torch.from_numpy(scale), persistent=False)
        self.step: Tensor
        largest = np.abs(plan.step).max()
        self.register_buffer("step", torch.tensor(largest), persistent=False)
        self._shape, self._largest = shape, plan.largest_weight
        self._start = torch.from_numpy(plan.donors.astype(np.float32) * largest * scale)

    def forward(self, donors: Tensor) -> Tensor:
        """What is trained, [D, h], to the weight."""
        stored = donors / self.scale
        step = (
            self.step if donors.numel() == 0 else torch.maximum(self.step, stored.detach().abs().amax() / self._largest)
        )
        rounded = stored + (torch.round(stored / step) * step - stored).detach()
        flat = torch.cat([rounded.flatten(), rounded.new_zeros(1)])
        return (
            flat.index_select(0, self.source.flatten()).view_as(self.gain).mul_(self.gain).sum(0).reshape(self._shape)
        )

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What training starts with: the donors of the plan."""
        return self._start.to(weight).clone()


class _Tied(Hooks):
    """Nothing beyond descending the loss; tells one set of plans from another, and what model they make."""

    def __init__(self, model: nn.Module, plans: Mapping[str, LayerWeights]) -> None:
        self._plans = plans

    def digest(self) -> str:
        """SHA-256 over the plans."""
        total = sha256()
        for name, plan in self._plans.items():
            total.update(name.encode() + plan.digest().encode())
        return total.hexdigest()

    def structure(self) -> bytes:
        """The plans, as a file has them."""
        if not self._plans:
            return b""
        layers = {name: plan.alone() for name, plan in self._plans.items()}
        return NetworkPlan("", layers, dict.fromkeys(layers, 1.0)).packed()


def _with_donors(plan: LayerWeights, donors: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> LayerWeights:
    """The plan with other donors, real [D, h], and the step that they need."""
    most = plan.largest_weight
    step = max(np.abs(plan.step).max(), np.float32(np.abs(donors).max(initial=0.0) / most))  # the grid of ``Donors``
    whole = np.clip(np.rint(donors / np.float64(step)), -most, most).astype(np.int8)
    return replace(plan, donors=whole, step=(step * relative_steps(plan)).astype(np.float32))


def relative_steps(plan: LayerWeights) -> NDArray[np.float64]:
    """The filters' steps in the largest of them, float64 [O]."""
    return np.asarray(plan.step / np.abs(plan.step).max().astype(np.float64))
