"""Fine-tuning: the penalties' gradient against a slow loop, projection against the plan, and resumption to the bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.ir.patterns import PatternSet, ReuseMap, plan_weights
from prap_pim.methods.finetune import Assignments, Drawn, finetune, matrix, project
from prap_pim.training import Checkpoint, Training, TrainingConfig, train
from prap_pim.training.data import AffineAugment, Examples
from prap_pim.training.models import ResNetConfig, build
from tests.reference.penalties import penalties
from tests.strategies import examples

SHORT = TrainingConfig(epochs=5, compress_at=1, batch_size=6, project_every=2, learning_rate=0.02)


def random_assignment(filters: int, inputs: int, generator: np.random.Generator) -> tuple[PatternSet, ReuseMap]:
    """Blocks of 8 rows, up to three random shapes of 1..8 rows in each; random donors, reusers and nothings."""
    rows, block_start, shapes, sources = [], [0], [], []
    for first in range(0, inputs, 8):
        block = np.arange(first, min(first + 8, inputs))
        for _ in range(generator.integers(1, 4)):
            kept = np.sort(generator.choice(block, generator.integers(1, len(block) + 1), replace=False))
            rows.append(np.pad(kept, (0, 8 - len(kept)), constant_values=-1))
        block_start.append(len(rows))
        shape = generator.integers(block_start[-2] - 1, block_start[-1], filters)
        shape[shape < block_start[-2]] = -1
        donor = (shape >= 0) & (generator.random(filters) < 0.5)
        choice = np.append(np.flatnonzero(donor), -1)
        sources.append(np.where(donor, np.arange(filters), generator.choice(choice, filters)))
        shapes.append(shape)
    source = np.array(sources, np.int32).T
    own = source == np.arange(filters)[:, None]
    sign = np.where(own, 1, generator.choice([-1, 1], source.shape)).astype(np.int8)
    exponent = np.where(own, 0, generator.integers(-4, 3, source.shape)).astype(np.int8)
    shape = np.array(shapes, np.int32).T
    patterns = PatternSet(inputs, np.array(rows, np.int32), np.array(block_start, np.int64), shape)
    return patterns, ReuseMap(source, sign, exponent)


def tiny_model(width: int = 3) -> nn.Module:
    return build(ResNetConfig(depth=8, width=width), 1, 3, 0)


def tiny_assignments(model: nn.Module, seed: int = 0) -> Assignments:
    generator = np.random.default_rng(seed)
    names = ["stage1.block1.conv1", "stage2.block1.shortcut.conv", "stage3.block1.conv2", "classifier"]
    return {name: random_assignment(*matrix(model, name).shape, generator) for name in names}


def tiny_examples() -> Examples:
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(20, 1, 8, 8, generator=generator), torch.arange(20) % 3)


@given(filters=st.integers(1, 6), inputs=st.integers(1, 20), seed=st.integers(0, 1000), bits=st.sampled_from([8, 4, 2]))
@examples(40)
def test_the_gradient_is_that_of_the_loss_written_out(filters: int, inputs: int, seed: int, bits: int) -> None:
    generator = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(inputs, filters))
    assignment = random_assignment(filters, inputs, generator)
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(generator.standard_normal((filters, inputs))))
    config = SHORT.model_copy(update={"mask_penalty": 0.3, "reuse_penalty": 0.7})
    hooks = Drawn(model, {"0": assignment}, config, Checkpoint.of(0, "", model, {}), bits)
    before = torch.full((filters, inputs), 0.25)
    model[0].weight.grad = before.clone()
    hooks.add_gradients(1e-6)

    weight = model[0].weight.detach().double().requires_grad_()
    penalties(weight, *assignment, 0.3, 0.7, bits).backward()
    assert weight.grad is not None
    torch.testing.assert_close((model[0].weight.grad - before).double(), weight.grad, atol=1e-3, rtol=1e-4)


def test_the_pull_is_capped_where_a_step_would_overshoot() -> None:
    """One row, a donor of 1 and a reuser of 0.5 with gain 2**-8: 1 / gain^2 is 65536."""
    patterns = PatternSet(1, np.array([[0]], np.int32), np.array([0, 1]), np.zeros((2, 1), np.int32))
    reuse = ReuseMap(np.array([[0], [0]], np.int32), np.ones((2, 1), np.int8), np.array([[0], [-8]], np.int8))
    model = nn.Sequential(nn.Linear(1, 2))
    hooks = Drawn(model, {"0": (patterns, reuse)}, SHORT, Checkpoint.of(0, "", model, {}))
    for rate, pull in ((1e-3, 65.536), (0.1, 10.0)):  # 1e-3 / gain^2, and 1 / rate where that is less
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[1.0], [0.5]]))
        model[0].weight.grad = torch.zeros(2, 1)
        hooks.add_gradients(rate)
        assert model[0].weight.grad[1].item() == pytest.approx(2 * pull * (0.5 - 1 / 256), rel=1e-5)


def test_projected_weights_are_exactly_the_plans() -> None:
    model = tiny_model()
    assignments = tiny_assignments(model)
    original = {name: value.clone() for name, value in model.state_dict().items()}
    plans = project(model, assignments)
    gains_above_one = False
    for name, (patterns, reuse) in assignments.items():
        before = original[f"{name}.weight"].reshape(patterns.filters, -1).numpy()
        scale = np.linspace(-2, 3, patterns.filters).astype(np.float32)  # as batch norm's; the integers stay
        plan = plan_weights(name, before, patterns, reuse).scaled(scale, scale)
        np.testing.assert_array_equal(plans[name].donors, plan.donors)
        np.testing.assert_allclose(plans[name].scaled(scale, scale).step, plan.step, rtol=1e-6)
        np.testing.assert_array_equal(plans[name].scaled(scale, scale).bias, plan.bias)
        step = np.float64(np.float32(np.float64(np.abs(before).max()) / 127))
        expected = (plan.weights() * (step * 2.0**-plan.fraction_bits)).astype(np.float32)
        np.testing.assert_array_equal(matrix(model, name), expected)
        again = plan_weights(name, matrix(model, name), patterns, reuse).scaled(scale, scale)
        gains_above_one |= not np.array_equal(again.donors, plan.donors)
    assert gains_above_one  # why plans are made of the weights before the projection
    others = {name for name in original if name.removesuffix(".weight") not in assignments}
    assert all(torch.equal(model.state_dict()[name], original[name]) for name in others)


def test_projected_weights_of_few_bits_are_the_plans() -> None:
    model = tiny_model()
    assignments = tiny_assignments(model)
    digests = [Drawn(model, assignments, SHORT, Checkpoint.of(0, "", model, {}), bits).digest() for bits in (8, 4)]
    assert digests[0] != digests[1]
    for name, plan in project(model, assignments, 4).items():
        assert plan.weight_bits == 4
        assert 3 < np.abs(plan.donors).max() <= 7
        np.testing.assert_allclose(matrix(model, name), plan.real_weights(), rtol=1e-6)


def start_of(tmp_path: Path) -> Checkpoint:
    return train(tiny_model(), Training(tiny_examples(), SHORT, 7, tmp_path / "base"))


def test_finetuned_weights_are_exactly_the_plans(tmp_path: Path) -> None:
    start, model = start_of(tmp_path), tiny_model()
    assignments = tiny_assignments(model)
    finetune(model, Training(tiny_examples(), SHORT, 7, tmp_path / "tuned"), start, assignments)
    trained = {name: matrix(model, name) for name in assignments}
    plans = project(model, assignments)
    assert list(plans) == list(assignments)
    for name, plan in plans.items():
        np.testing.assert_array_equal(matrix(model, name), plan.real_weights().astype(np.float32))
        assert not np.array_equal(matrix(model, name), start.model[f"{name}.weight"].reshape(plan.filters, -1))
        assert not np.array_equal(matrix(model, name), trained[name])  # the last projection is the caller's


def test_projections_are_due_every_few_epochs_after_the_start() -> None:
    model = tiny_model()
    assignments = tiny_assignments(model)
    start = Checkpoint.of(3, "", model, {})
    hooks = Drawn(model, assignments, SHORT.model_copy(update={"project_every": 2}), start)
    projected = []
    for epoch in range(3, 10):
        start.restore(model)
        hooks.before_epoch(epoch)
        if not torch.equal(model.state_dict()["classifier.weight"], start.model["classifier.weight"]):
            projected.append(epoch)
    assert projected == [5, 7, 9]


def test_finetuning_without_assignments_is_base_training_continued(tmp_path: Path) -> None:
    start, model, other = start_of(tmp_path), tiny_model(), tiny_model()
    finetune(model, Training(tiny_examples(), SHORT, 7, tmp_path / "tuned"), start, {})
    train(other, Training(tiny_examples(), SHORT, 7, tmp_path / "base", resume=True), stop=5)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_penalties_draw_the_weights_to_their_targets(tmp_path: Path) -> None:
    start = start_of(tmp_path)
    far = {}
    for penalty in (0.0, 20.0):
        config = SHORT.model_copy(update={"mask_penalty": penalty, "reuse_penalty": penalty, "momentum": 0.5})
        config = config.model_copy(update={"project_every": 9})
        model = tiny_model()
        assignments = tiny_assignments(model)
        finetune(model, Training(tiny_examples(), config, 7, tmp_path / str(penalty)), start, assignments)
        before = {name: matrix(model, name) for name in assignments}
        project(model, assignments)
        far[penalty] = sum(np.square(value - matrix(model, name)).sum() for name, value in before.items())
    assert far[20.0] < 0.2 * far[0.0]


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


@pytest.mark.flow
def test_interrupted_anywhere_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    start, model = start_of(tmp_path), tiny_model()
    assignments = tiny_assignments(model)
    finetune(model, Training(tiny_examples(), SHORT, 7, tmp_path / "whole"), start, assignments)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for steps in (0, 3, 4, 5, 8, 9, 12, 13, 15, 16):  # 4 epochs of 4 batches, projections after the second and fourth
        folder = tmp_path / f"cut-{steps}"
        for _ in range(2 if steps > 4 else 1):  # interrupted twice
            try:
                cut = stop_after(steps // 2 + 1 if steps > 4 else steps)
                finetune(
                    tiny_model(),
                    Training(tiny_examples(), SHORT, 7, folder, resume=True, progress=cut),
                    start,
                    assignments,
                )
            except Stop:
                pass
        model = tiny_model()
        finetune(model, Training(tiny_examples(), SHORT, 7, folder, resume=True), start, assignments)
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items()), steps


def test_only_the_same_finetuning_is_resumed(tmp_path: Path) -> None:
    start, model = start_of(tmp_path), tiny_model()
    folder = tmp_path / "tuned"
    finetune(model, Training(tiny_examples(), SHORT, 7, folder), start, tiny_assignments(model))
    with pytest.raises(UserError, match="already holds checkpoints"):
        finetune(model, Training(tiny_examples(), SHORT, 7, folder), start, tiny_assignments(model))
    moved = Checkpoint(start.epoch, "", {name: value + 1 for name, value in start.model.items()}, start.momentum)
    for origin, seed in ((start, 1), (moved, 0)):
        with pytest.raises(UserError, match="other settings"):
            finetune(
                model, Training(tiny_examples(), SHORT, 7, folder, resume=True), origin, tiny_assignments(model, seed)
            )


def test_divergence_is_told(tmp_path: Path) -> None:
    start, model = start_of(tmp_path), tiny_model()
    config = SHORT.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match="training diverged in epoch 2 of 5"):
        finetune(model, Training(tiny_examples(), config, 7, tmp_path / "tuned"), start, tiny_assignments(model))


def test_assignments_must_fit_the_network() -> None:
    model = tiny_model()
    assignment = random_assignment(3, 9, np.random.default_rng(0))
    for name, complaint in (
        ("nowhere", "no layer nowhere"),
        ("stem.relu", "no layer stem.relu"),
        ("stem.norm", "no weight matrix"),
        ("classifier", "do not match"),
    ):
        with pytest.raises(UserError, match=complaint):
            project(model, {name: assignment})
    with pytest.raises(UserError, match="do not match"):
        Drawn(model, {"classifier": assignment}, SHORT, Checkpoint.of(0, "", model, {}))


def test_augmentation_off_and_large_batches_work(tmp_path: Path) -> None:
    still = AffineAugment(rotation=0, shift=0, scale=0, noise=0)
    config = SHORT.model_copy(update={"augment": still, "batch_size": 1000, "epochs": 2})
    model = tiny_model()
    start = train(model, Training(tiny_examples(), config, 0, tmp_path / "base"))
    finetune(model, Training(tiny_examples(), config, 0, tmp_path / "tuned"), start, tiny_assignments(model))
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
