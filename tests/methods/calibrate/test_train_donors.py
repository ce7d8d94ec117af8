"""Donors trained directly: against an explicit dense construction, step by step, and resumed to the bit."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prap_pim.common.errors import UserError
from prap_pim.frontend.weights import put_weights
from prap_pim.ir.plan import LayerPlan
from prap_pim.methods.calibrate.train_donors import Donors, train_donors
from prap_pim.training import Checkpoint, Training, TrainingConfig, train
from prap_pim.training.data import AffineAugment, Examples
from tests.methods.calibrate.networks import Normed, captured_of, compress, images
from tests.reference.calibrate import slow_weight
from tests.strategies import examples, layer_plans

STILL = AffineAugment(rotation=0, shift=0, scale=0, noise=0)
SHORT = TrainingConfig(epochs=4, compress_at=1, batch_size=8, learning_rate=0.02)


def in_largest_step(plan: LayerPlan) -> np.ndarray:
    """The filters' steps, [O, 1]."""
    return plan.step.astype(np.float64)[:, None] / float(np.abs(plan.step).max())


def spread(plan: LayerPlan) -> Tensor:
    """[weights, donors * h]: what each donor's value adds to each weight, by trying one value after another. The value
    is in the largest step of a filter; each filter has its share of that."""
    units = np.eye(plan.donors.size).reshape(-1, *plan.donors.shape)
    every = [slow_weight(plan, unit.tolist()) * in_largest_step(plan) for unit in units]
    return torch.tensor(np.array(every)).flatten(1).T


@given(layer_plans(height=4), st.integers(0, 2**32))
@examples(40)
def test_weight_and_gradient_are_those_of_an_explicit_matrix(plan: LayerPlan, seed: int):
    shape = torch.Size((plan.filters, plan.inputs, 1, 1))
    if len(plan.donors) == 0:
        return  # see below
    steps = np.random.default_rng(seed).uniform(0.01, 2, plan.filters).astype(np.float32)
    plan = replace(plan, step=steps if seed % 4 else plan.step)
    tied, matrix = Donors(plan, shape), spread(plan)
    generator = torch.Generator().manual_seed(seed)
    donors = torch.randn(plan.donors.shape, generator=generator).requires_grad_()
    weight = tied(donors)
    assert weight.shape == shape
    # on the grid of the plan, or a coarser one that holds the largest
    real = donors.detach().double() / tied.scale
    step = max(float(plan.step.max()), float(real.abs().max()) / plan.largest_weight)
    stored = torch.round(real / step)
    torch.testing.assert_close(weight.double().flatten(), matrix @ stored.flatten() * step, rtol=1e-5, atol=1e-6)
    slope = torch.randn(weight.shape, generator=generator)
    weight.backward(slope)
    explicit = donors.detach().double().clone().requires_grad_()
    ((matrix @ (explicit / tied.scale).flatten()) @ slope.double().flatten()).backward()  # straight through
    torch.testing.assert_close(donors.grad.double(), explicit.grad, rtol=1e-5, atol=1e-5)
    # it starts from the plan's donors
    start = tied.right_inverse(torch.zeros(shape))
    np.testing.assert_array_equal((start / tied.scale).numpy(), plan.donors * plan.step.max())


def test_only_a_plan_of_the_layer_is_taken():
    plan = tiny_plans()["conv1"]
    with pytest.raises(UserError, match=r"layer conv1: a plan of 8 x 18 weights for \(8, 3, 3, 3\)"):
        Donors(plan, torch.Size((8, 3, 3, 3)))


def test_a_layer_without_donors_can_be_trained_beside_others(tmp_path: Path):
    plan = tiny_plans()["conv2"]
    nothing = np.zeros(1, np.int64)
    empty = {"rows": plan.rows[:0], "donors": plan.donors[:0], "donor_start": nothing, "use_start": nothing}
    empty |= {key: getattr(plan, key)[:0] for key in ("use_filter", "use_donor", "use_sign", "use_exponent")}
    plans = {**tiny_plans(), "conv2": replace(plan, **empty)}
    model, found = trained(tmp_path, plans)
    assert not model.conv2.weight.any()
    assert found["conv2"].uses == 0


_PLANS: dict[str, LayerPlan] = {}


def tiny_plans() -> dict[str, LayerPlan]:
    if not _PLANS:
        _PLANS.update(compress(captured_of(Normed), images(), compute_ratio=0.35, bits=(8,), uses=1).plans)
    return dict(_PLANS)


def examples(count: int = 24) -> Examples:
    return Examples(images(count, seed=3), torch.arange(count) % 5)


def put(model: nn.Module, plans: dict[str, LayerPlan]) -> nn.Module:
    for name, plan in plans.items():
        put_weights(model, name, plan)
    return model


def model_and_start(plans: dict[str, LayerPlan]) -> tuple[nn.Module, Checkpoint]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Normed()
    generator = torch.Generator().manual_seed(1)
    momentum = {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in model.named_parameters()}
    start = Checkpoint.of(SHORT.compress_at, "", model, momentum)
    return put(model, plans), start


def trained(
    folder: Path,
    plans: dict[str, LayerPlan],
    config: TrainingConfig = SHORT,
    seed: int = 0,
    data: Examples | None = None,
    **options: object,
) -> tuple[nn.Module, dict[str, LayerPlan]]:
    model, start = model_and_start(plans)
    return model, train_donors(model, Training(data or examples(), config, seed, folder, **options), start, plans)


def test_what_is_trained_and_what_stays(tmp_path: Path):
    plans = tiny_plans()
    plans.pop("conv3")
    model, found = trained(tmp_path, plans)
    assert list(found) == list(plans)
    for name, plan in found.items():
        before = plans[name]
        same = replace(plan, donors=before.donors, step=before.step)
        assert same.same_as(before)  # who takes which donor with which gain
        assert not np.array_equal(plan.donors, before.donors)
        assert 100 < np.abs(plan.donors.astype(int)).max() <= 127  # the step only grows
        np.testing.assert_allclose(plan.step / before.step, plan.step[0] / before.step[0], rtol=1e-5)
        assert (plan.step >= before.step * (1 - 1e-6)).all()
        weight = model.get_submodule(name).weight
        assert not parametrize.is_parametrized(model.get_submodule(name))
        assert torch.equal(weight, torch.from_numpy(plan.real_weights()).float().reshape(weight.shape))
    start, _ = model_and_start(plans)
    for name in ("conv3.weight", "norm2.weight", "conv2.bias"):  # trained as before
        assert not torch.equal(model.state_dict()[name], start.state_dict()[name])
    assert set(model.state_dict()) == set(start.state_dict())
    assert not model.training


def summing(plan: LayerPlan) -> LayerPlan:
    """The plan in 4 bits; every filter takes half of the next donor of a row group, too, if there is one."""
    uses = set()
    for use, group in enumerate(plan.use_group):
        donor, filter_ = int(plan.use_donor[use]), int(plan.use_filter[use])
        uses.add((group, filter_, donor, int(plan.use_sign[use]), int(plan.use_exponent[use])))
        if donor + 1 < plan.donor_start[group + 1]:
            uses.add((group, filter_, donor + 1, 1, int(plan.use_exponent[use]) - 1))
    group, *columns = np.array(sorted(uses)).T
    taken = dict(zip(("use_filter", "use_donor", "use_sign", "use_exponent"), columns, strict=True))
    return replace(
        plan,
        donors=plan.donors >> 4,
        step=16 * plan.step,
        weight_bits=4,
        use_start=np.searchsorted(group, np.arange(plan.groups + 1)),
        **{key: value.astype(getattr(plan, key).dtype) for key, value in taken.items()},
    )


def test_donors_of_few_bits_of_which_a_filter_takes_several_are_trained(tmp_path: Path):
    plans = {name: summing(plan) for name, plan in tiny_plans().items()}
    assert plans["conv3"].uses > tiny_plans()["conv3"].uses
    model, found = trained(tmp_path, plans)
    for name, plan in found.items():
        assert replace(plan, donors=plans[name].donors, step=plans[name].step).same_as(plans[name])
        assert not np.array_equal(plan.donors, plans[name].donors)
        assert np.abs(plan.donors.astype(int)).max() == 7
        weight = model.get_submodule(name).weight
        assert torch.equal(weight, torch.from_numpy(plan.real_weights()).float().reshape(weight.shape))


def test_one_step_by_hand(tmp_path: Path):
    """Cross-entropy and weight decay by an explicit matrix; the momentum of what is still there goes on."""
    config = TrainingConfig(
        epochs=2, compress_at=1, batch_size=24, learning_rate=0.1, momentum=0.5, weight_decay=0.05, augment=STILL
    )
    plans, data = tiny_plans(), examples()
    model, start = model_and_start(plans)
    model.train()
    # a donor is trained times the power of two nearest to the root mean square of its gains
    scales = {}
    for name, plan in plans.items():
        gains = 2.0**plan.use_exponent * in_largest_step(plan)[plan.use_filter, 0]
        squares = [gains[plan.use_donor == k] ** 2 for k in range(len(plan.donors))]
        scales[name] = torch.tensor([[2.0 ** np.rint(np.log2(np.mean(each)) / 2)] for each in squares])
    donors = {
        name: (torch.tensor(plan.donors * np.float64(plan.step.max())) * scales[name]).requires_grad_()
        for name, plan in plans.items()
    }
    values = dict(model.double().named_parameters())
    shaped = {
        f"{name}.weight": (spread(plan) @ (donors[name] / scales[name]).flatten()).reshape(
            values[f"{name}.weight"].shape
        )
        for name, plan in plans.items()
    }
    free = {name: value for name, value in values.items() if name not in shaped}
    logits = torch.func.functional_call(model, {**values, **shaped}, (data.inputs.double(),))
    loss = nn.functional.cross_entropy(logits, data.labels)
    loss = loss + 0.05 * sum((value**2).sum() for value in donors.values())
    loss.backward()
    rate = 0.1 * 0.5  # the cosine half way
    wanted = {name: (value.detach() - rate * value.grad) / scales[name] for name, value in donors.items()}
    others = {name: v.detach() - rate * (v.grad + 0.5 * start.momentum[name].double()) for name, v in free.items()}

    model, found = trained(tmp_path, plans, config)
    for name, value in wanted.items():
        step = float(found[name].step.max())
        assert step == pytest.approx(max(float(plans[name].step.max()), float(value.abs().max()) / 127), rel=1e-4)
        far = np.abs(found[name].donors * step - value.numpy()).max()
        assert far < 0.51 * step
    for name, value in others.items():
        torch.testing.assert_close(model.state_dict()[name].double(), value, rtol=1e-4, atol=1e-5)


def test_no_learning_rate_no_change(tmp_path: Path):
    plans = tiny_plans()
    _, found = trained(tmp_path, plans, SHORT.model_copy(update={"learning_rate": 1e-30}))
    for name, plan in found.items():
        assert plan.same_as(dataclasses.replace(plans[name], step=plan.step))
        np.testing.assert_allclose(plan.step, plans[name].step, rtol=1e-6)


class Stop(Exception):
    pass


def stop_after(steps: int) -> Callable[[str, int, int, str], None]:
    seen = 0

    def progress(phase: str, done: int, total: int, note: str) -> None:
        nonlocal seen
        seen += 1
        if seen > steps:
            raise Stop

    return progress


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_interrupted_anywhere_it_ends_with_the_same_bits(tmp_path: Path):
    plans = tiny_plans()
    model, whole = trained(tmp_path / "whole", plans)
    for steps in (0, 1, 3, 4, 6, 8):  # 3 epochs of 3 batches
        folder = tmp_path / f"cut-{steps}"
        with pytest.raises(Stop):
            trained(folder, plans, progress=stop_after(steps))
        again, found = trained(folder, plans, resume=True)
        assert all(found[name].same_as(plan) for name, plan in whole.items())
        assert same(model, again)
    trained(folder, plans, resume=True, progress=stop_after(0))  # nothing left to do


def test_only_the_same_training_is_resumed(tmp_path: Path):
    plans = tiny_plans()
    trained(tmp_path, plans)
    with pytest.raises(UserError, match="already holds checkpoints"):
        trained(tmp_path, plans)
    conv1 = replace(plans["conv1"], use_sign=-plans["conv1"].use_sign)
    for changed, options in (
        ({**plans, "conv1": conv1}, {}),
        (plans, {"seed": 1}),
        (plans, {"config": SHORT.model_copy(update={"momentum": 0.5})}),
        (plans, {"data": examples(23)}),
    ):
        with pytest.raises(UserError, match="other settings, seed, data or network"):
            trained(tmp_path, changed, resume=True, **options)


def test_training_without_plans_is_base_training(tmp_path: Path):
    config = SHORT.model_copy(update={"compress_at": 2})
    model = model_and_start({})[0]
    half = train(model, Training(examples(), config, 5, tmp_path / "base"))
    train(model, Training(examples(), config, 5, tmp_path / "base", resume=True), stop=4)
    other = model_and_start({})[0]
    half.restore(other)
    assert train_donors(other, Training(examples(), config, 5, tmp_path / "donors"), half, {}) == {}
    assert same(model, other)


def test_it_learns(tmp_path: Path):
    plans, data = tiny_plans(), examples()
    model, _ = model_and_start(plans)

    def loss(module: nn.Module) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(module.train()(data.inputs), data.labels))

    config = TrainingConfig(epochs=9, compress_at=1, batch_size=24, learning_rate=0.1, augment=STILL)
    assert loss(trained(tmp_path, plans, config)[0]) < 0.9 * loss(model)


@pytest.mark.parametrize(
    ("layer", "message"), [("conv9", "the network has no layer conv9"), ("conv2", "a plan of 8 x 18 weights")]
)
def test_a_plan_of_another_layer_is_refused(layer: str, message: str, tmp_path: Path):
    model, start = model_and_start({})
    with pytest.raises(UserError, match=message):
        train_donors(model, Training(examples(), SHORT, 0, tmp_path), start, {layer: tiny_plans()["conv1"]})


def test_divergence_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="training diverged in epoch 2 of 4"):
        trained(tmp_path, tiny_plans(), SHORT.model_copy(update={"learning_rate": 1e30}))
