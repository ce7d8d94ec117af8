"""Base training: hand-computed steps, and the same bits whether or not it was interrupted."""

from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.frontend.evaluate import evaluate
from prap_pim.training import PRAP_2023, Checkpoint, Training, TrainingConfig, learning_rate, train
from prap_pim.training.checkpoint import CheckpointFolder
from prap_pim.training.data import AffineAugment, Examples
from prap_pim.training.loop import _advice, _layout
from prap_pim.training.models import GPTConfig, ResNetConfig, build
from prap_pim.training.objective import Loader

STILL = AffineAugment(rotation=0, shift=0, scale=0, noise=0)
SHORT = TrainingConfig(epochs=4, compress_at=2, batch_size=6)


def tiny_model() -> nn.Module:
    return build(ResNetConfig(depth=8, width=2), 1, 3, 0)


def tiny_examples(seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(20, 1, 8, 8, generator=generator), torch.arange(20) % 3)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_defaults_are_the_papers_schedule() -> None:
    # PRAP, step 3
    assert (
        TrainingConfig(
            epochs=200,
            compress_at=150,
            batch_size=128,
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=0.5e-3,
            mask_penalty=0.5e-3,
            reuse_penalty=1e-3,
            project_every=5,
            warmup=0,
        )
        == PRAP_2023
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"compress_at": 200},
        {"compress_at": -1},
        {"batch_size": 0},
        {"learning_rate": 0},
        {"momentum": 1},
        {"weight_decay": -1},
        {"project_every": 0},
        {"augment": {"shift": 0.6}},
        {"optimizer": "sgd"},
        {"restart": 0},
        {"epoch_size": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (0, 0.1),
        (50, 0.1 * (1 + 0.5**0.5) / 2),  # cos 45 degrees
        (100, 0.05),
        (150, 0.1 * (1 - 0.5**0.5) / 2),
        (200, 0),
    ],
)
def test_learning_rate_is_a_cosine_over_all_epochs(time: float, expected: float) -> None:
    assert learning_rate(PRAP_2023, time) == pytest.approx(expected, abs=1e-12)


def test_warmup_rises_to_the_cosine() -> None:
    config = TrainingConfig(epochs=8, compress_at=4, learning_rate=1, warmup=2)
    assert learning_rate(config, 0) == 0
    assert learning_rate(config, 1) == pytest.approx(0.5 * (1 + 0.9238795325) / 2)  # cos 22.5 degrees
    assert learning_rate(config, 4) == pytest.approx(0.5)


def test_one_step_descends_the_papers_loss(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, compress_at=1, batch_size=20, learning_rate=0.5, weight_decay=0.3, augment=STILL)
    model, examples = tiny_model(), tiny_examples()
    model.train()
    # the loss as the paper writes it, with its weight term spelt out; weights are all but biases and batch norm
    loss = nn.functional.cross_entropy(model(examples.inputs), examples.labels)
    loss = loss + 0.3 * sum((p**2).sum() for n, p in model.named_parameters() if "norm" not in n and "bias" not in n)
    loss.backward()
    expected = {name: p.detach() - 0.5 * p.grad for name, p in model.named_parameters()}
    trained = tiny_model()
    train(trained, Training(examples, config, 0, tmp_path))
    for name, value in trained.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], atol=1e-4, rtol=1e-3)
    weight = dict(tiny_model().named_parameters())["stem.conv.weight"]
    decay = 0.5 * 2 * 0.3 * weight.detach()  # of which half, were the factor forgotten, would be missing
    assert float(decay.abs().max()) > 0.05


def test_momentum_carries_on(tmp_path: Path) -> None:
    """A linear layer, one batch an epoch: three steps by hand."""
    examples = tiny_examples()
    config = TrainingConfig(epochs=4, compress_at=3, batch_size=20, learning_rate=0.5, augment=STILL)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    weight, velocity = torch.zeros(3, 65), torch.zeros(3, 65)
    x = torch.cat([examples.inputs.flatten(1), torch.ones(20, 1)], dim=1)
    one_hot = nn.functional.one_hot(examples.labels, 3).float()
    for cosine in (1, 0.5**0.5, 0):  # of 0, 45 and 90 degrees: epochs 0, 1, 2 of 4
        slope = (torch.softmax(x @ weight.T, dim=1) - one_hot).T @ x / 20
        slope[:, :64] += 2 * 0.5e-3 * weight[:, :64]
        velocity = 0.9 * velocity + slope
        weight = weight - 0.5 * (1 + cosine) / 2 * velocity
    train(model, Training(examples, config, 0, tmp_path))
    torch.testing.assert_close(torch.cat([model[1].weight, model[1].bias[:, None]], dim=1).detach(), weight)


class Stop(Exception):
    pass


def stop_after(steps: int) -> Callable[[str, int, int, str], None]:
    """Progress that interrupts the run after some batches."""
    seen = 0

    def progress(phase: str, done: int, total: int, note: str) -> None:
        nonlocal seen
        seen += 1
        if seen > steps:
            raise Stop

    return progress


@pytest.mark.flow
def test_interrupted_anywhere_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    model = tiny_model()
    whole = train(model, Training(tiny_examples(), SHORT, 7, tmp_path / "whole"), stop=4)
    assert same(dict(whole.model), {name: value.contiguous() for name, value in model.state_dict().items()})
    for steps in range(16):  # 4 epochs of 4 batches
        folder = tmp_path / f"cut-{steps}"
        with pytest.raises(Stop):
            train(tiny_model(), Training(tiny_examples(), SHORT, 7, folder, progress=stop_after(steps)), stop=4)
        model = tiny_model()
        resumed = train(model, Training(tiny_examples(), SHORT, 7, folder, resume=True), stop=4)
        assert same(resumed.model, whole.model), steps
        assert same(resumed.momentum, whole.momentum), steps
        assert resumed.digest() == whole.digest()
    train(
        model, Training(tiny_examples(), SHORT, 7, folder, resume=True, progress=stop_after(0)), stop=4
    )  # nothing left to do


def test_two_calls_are_as_one_and_the_branching_point_is_kept(tmp_path: Path) -> None:
    whole = train(tiny_model(), Training(tiny_examples(), SHORT, 7, tmp_path / "whole"), stop=4)
    model = tiny_model()
    half = train(model, Training(tiny_examples(), SHORT, 7, tmp_path / "parts"))
    assert half.epoch == 2
    # the network is built anew for the second call, as a resumed run does
    rest = train(tiny_model(), Training(tiny_examples(), SHORT, 7, tmp_path / "parts", resume=True), stop=4)
    assert same(rest.model, whole.model)
    folder = CheckpointFolder(tmp_path / "parts", keep=2)
    assert folder.epochs() == [2, 4]
    again = train(model, Training(tiny_examples(), SHORT, 7, tmp_path / "parts", resume=True))
    assert again.digest() == half.digest() == Checkpoint.load(folder.file(2)).digest()


def test_dropout_is_resumed_too(tmp_path: Path) -> None:
    def model() -> nn.Module:
        linear = nn.Linear(64, 3)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), linear)

    whole = train(model(), Training(tiny_examples(), SHORT, 1, tmp_path / "whole"), stop=3)
    train(model(), Training(tiny_examples(), SHORT, 1, tmp_path / "cut"), stop=1)
    torch.rand(3)  # the global generator has moved meanwhile
    assert same(
        train(model(), Training(tiny_examples(), SHORT, 1, tmp_path / "cut", resume=True), stop=3).model, whole.model
    )


@pytest.mark.parametrize("flipped", [False, True])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, flipped: bool) -> None:
    whole = train(tiny_model(), Training(tiny_examples(), SHORT, 7, tmp_path), stop=4)
    newest = CheckpointFolder(tmp_path, keep=2).file(4)
    content = newest.read_bytes()
    newest.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:] if flipped else content[:-50])
    resumed = train(tiny_model(), Training(tiny_examples(), SHORT, 7, tmp_path, resume=True), stop=4)
    assert resumed.digest() == whole.digest()  # of weights and momentum


def test_only_the_same_run_is_resumed(tmp_path: Path) -> None:
    train(tiny_model(), Training(tiny_examples(), SHORT, 7, tmp_path))
    with pytest.raises(UserError, match="already holds checkpoints"):
        train(tiny_model(), Training(tiny_examples(), SHORT, 7, tmp_path))
    other = SHORT.model_copy(update={"learning_rate": 0.05})
    wider = build(ResNetConfig(depth=8, width=3), 1, 3, 0)
    for model, examples, config, seed in (
        (tiny_model(), tiny_examples(), other, 7),
        (tiny_model(), tiny_examples(), SHORT, 8),
        (tiny_model(), tiny_examples(1), SHORT, 7),
        (wider, tiny_examples(), SHORT, 7),
    ):
        with pytest.raises(UserError, match="other settings, seed, data or network"):
            train(model, Training(examples, config, seed, tmp_path, resume=True))


def test_seed_decides_and_global_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first = train(tiny_model(), Training(tiny_examples(), SHORT, 1, tmp_path / "1"), stop=1)
    other = train(tiny_model(), Training(tiny_examples(), SHORT, 2, tmp_path / "2"), stop=1)
    assert not same(first.model, other.model)
    assert torch.equal(before, torch.get_rng_state())


def test_divergence_is_told_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    config = SHORT.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"diverged in epoch 1 of 4, .*: lower learning_rate \(now 1e\+30\)"):
        train(tiny_model(), Training(tiny_examples(), config, 0, tmp_path))
    assert not list(tmp_path.iterdir())
    # one batch an epoch: the loss was finite, the weights after it are not
    config = config.model_copy(update={"learning_rate": 3e38, "batch_size": 20, "weight_decay": 100.0})
    with pytest.raises(UserError, match="diverged in epoch 1"):
        train(tiny_model(), Training(tiny_examples(), config, 0, tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("inputs", "the first batch holds values that are not finite"),
        ("weights", "weights 0.weight are not finite"),
        ("large", r"layer 0 gives values that are not finite; those of the first batch reach 1e\+38"),
        ("loss", "all layers give finite values, those of the first batch reach 1: look at the loss itself"),
    ],
)
def test_a_loss_that_is_never_finite_is_not_blamed_on_the_learning_rate(what: str, said: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    inputs = torch.ones(8, 4)
    if what == "inputs":
        inputs[3, 2] = nan
    elif what == "weights":
        model[0].weight.data[1, 1] = inf
    elif what == "large":
        inputs[0] = 1e38
        model[0].weight.data *= 1e3

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(batch).mean() * (0.0 / torch.zeros(()) if what == "loss" else 1.0)

    batches = Loader.of([inputs], "the loader")
    with pytest.raises(UserError, match=f"the loss is (nan|inf|-inf) before any step: {said}"):
        train(model, Training(batches, SHORT, 0, tmp_path, loss=loss))
    assert not list(tmp_path.iterdir())


def test_progress_is_told_after_every_batch(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int, note: str) -> None:
        told.append((phase, done, total))
        assert note.startswith("epoch ")

    train(tiny_model(), Training(tiny_examples(), SHORT, 0, tmp_path, phase="base", progress=progress))
    assert told == [("base", i, 8) for i in range(1, 9)]  # 2 epochs of 20 images in batches of at most 6


def test_a_checkpoint_survives_save_and_load(tmp_path: Path) -> None:
    checkpoint = train(tiny_model(), Training(tiny_examples(), SHORT, 0, tmp_path), stop=1)
    loaded = Checkpoint.load(CheckpointFolder(tmp_path, keep=2).file(1))
    assert (loaded.epoch, loaded.identity, loaded.digest()) == (1, checkpoint.identity, checkpoint.digest())
    assert loaded.momentum
    model = tiny_model()
    loaded.restore(model)
    assert same(dict(checkpoint.model), dict(model.state_dict()))
    with pytest.raises(UserError, match="another network"):
        loaded.restore(nn.Linear(2, 2))


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x08" + b"\x00" * 7 + b"{}      "])
def test_what_is_no_checkpoint_is_a_mistake_of_the_user(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "epoch-00001.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*epoch-00001"):
        Checkpoint.load(path)


def tokens(seed: int = 0) -> Examples:
    """Sequences that count upwards by 1 or 2 modulo 5: learnable."""
    generator = torch.Generator().manual_seed(seed)
    start, step = torch.randint(5, (24, 1), generator=generator), torch.randint(1, 3, (24, 1), generator=generator)
    sequence = (start + step * torch.arange(7)) % 5
    return Examples(sequence[:, :-1], sequence[:, 1:])


def tiny_gpt() -> nn.Module:
    return build(GPTConfig(layers=1, width=8, heads=2), 6, 5, 0)


ADAMW = TrainingConfig(
    epochs=4, compress_at=2, batch_size=6, optimizer="adamw", learning_rate=0.01, weight_decay=0.05, warmup=1
)


def test_adamw_by_hand(tmp_path: Path) -> None:
    """Three steps of Loshchilov and Hutter's algorithm 2, one batch an epoch."""
    config = TrainingConfig(
        epochs=4, compress_at=3, batch_size=24, optimizer="adamw", learning_rate=0.1, weight_decay=0.3, momentum=0.8
    )
    examples, model = tokens(), tiny_gpt()
    train(model, Training(examples, config, 0, tmp_path))
    reference = tiny_gpt()
    first = {name: torch.zeros_like(value) for name, value in reference.named_parameters()}
    second = {name: torch.zeros_like(value) for name, value in reference.named_parameters()}
    for step, cosine in enumerate((1, 0.5**0.5, 0), start=1):  # of 0, 45 and 90 degrees: epochs 0, 1, 2 of 4
        rate = 0.1 * (1 + cosine) / 2
        logits = reference(examples.inputs)
        chosen = logits.log_softmax(-1).gather(-1, examples.labels[..., None])
        slopes = torch.autograd.grad(-chosen.mean(), list(reference.parameters()))  # the mean over N * T labels
        with torch.no_grad():
            for (name, value), slope in zip(reference.named_parameters(), slopes, strict=True):
                first[name] = 0.8 * first[name] + 0.2 * slope
                second[name] = 0.95 * second[name] + 0.05 * slope**2
                if value.ndim > 1:
                    value *= 1 - rate * 2 * 0.3  # the loss term 0.3 * |w|^2
                unbiased = first[name] / (1 - 0.8**step), second[name] / (1 - 0.95**step)
                value -= rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
    for (name, value), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        if "qkv.bias" not in name:  # a key's bias changes no score: its slope is noise, of which AdamW takes the sign
            torch.testing.assert_close(value, expected, atol=2e-4, rtol=2e-3)


@pytest.mark.flow
def test_a_transformer_learns(tmp_path: Path) -> None:
    model = tiny_gpt()
    before = evaluate(model, tokens().inputs, tokens().labels)
    config = ADAMW.model_copy(update={"epochs": 40, "compress_at": 39})
    train(model, Training(tokens(), config, 0, tmp_path), stop=40)
    after = evaluate(model, tokens().inputs, tokens().labels)
    assert after.accuracy > 0.8 > before.accuracy  # all but the first label of a sequence can be told
    assert after.nats < 0.5 * before.nats


@pytest.mark.parametrize("interrupted", [1, 3])
def test_adamw_goes_on_as_if_undisturbed(tmp_path: Path, interrupted: int) -> None:
    whole, part = tiny_gpt(), tiny_gpt()
    train(whole, Training(tokens(), ADAMW, 0, tmp_path / "whole"), stop=4)
    train(part, Training(tokens(), ADAMW, 0, tmp_path / "part"), stop=interrupted)
    again = tiny_gpt()
    last = train(again, Training(tokens(), ADAMW, 0, tmp_path / "part", resume=True), stop=4)
    assert same(whole.state_dict(), again.state_dict())
    found = Checkpoint.load(CheckpointFolder(tmp_path / "whole", keep=2).file(4))
    assert same(dict(last.momentum), dict(found.momentum))
    assert {key.partition(":")[2] for key in found.momentum} == {"step", "exp_avg", "exp_avg_sq"}


def test_an_epoch_of_some_examples(tmp_path: Path) -> None:
    """Two of 24 sequences each epoch, drawn anew."""
    seen: list[torch.Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_gpt()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.clone())
            out: torch.Tensor = self.inner(x)
            return out

    config = ADAMW.model_copy(update={"epochs": 12, "compress_at": 11, "epoch_size": 5, "batch_size": 4})
    train(Watched(), Training(tokens(), config, 0, tmp_path))
    assert [len(batch) for batch in seen] == [3, 2] * 11
    assert all(len(torch.cat(seen[i : i + 2])) == 5 for i in range(0, 22, 2))
    assert len({tuple(row.tolist()) for batch in seen for row in batch}) > 5


def test_a_restart_begins_a_second_cosine() -> None:
    config = TrainingConfig(epochs=12, compress_at=8, learning_rate=1, restart=0.5, warmup=2)
    expected = {0: 0, 1: 0.5 * (1 + 0.9238795325) / 2, 4: 0.5, 7.999: 0, 8: 0, 9: 0.25 * (1 + 0.5**0.5) / 2, 10: 0.25}
    for time, rate in expected.items():
        assert learning_rate(config, time) == pytest.approx(rate, abs=1e-6), time


def test_a_setting_that_is_not_made_use_of_changes_no_identity(tmp_path: Path) -> None:
    """Checkpoints of a version that did not know the setting can be gone on from."""
    from prap_pim.training.loop import Hooks, _identity

    origin = Checkpoint.of(0, "", tiny_gpt(), {})
    values = SHORT.model_dump()
    for later in ("optimizer", "restart", "epoch_size", "shards"):
        assert values.pop(later) is None

    class Old(TrainingConfig):
        def model_dump(self, **_: object) -> dict[str, object]:  # type: ignore[override]
            return values

    def identity(config: TrainingConfig) -> str:
        return _identity(Training(tokens(), config, 0, tmp_path), origin, Hooks())

    assert identity(Old()) == identity(SHORT)


@pytest.mark.parametrize(("filters", "last"), [(4, False), (12, False), (16, True), (32, True)])
def test_narrow_convolutions_are_trained_channels_first(filters: int, last: bool, tmp_path: Path):
    """Channels last, torch 2.13 corrupts its memory there with two threads."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, filters, 3), nn.Flatten(), nn.Linear(36 * filters, 3))
    examples = Examples(torch.randn(8, 1, 8, 8), torch.arange(8) % 3)
    train(model, Training(examples, TrainingConfig(epochs=2, compress_at=1, batch_size=4), 0, tmp_path))
    assert _layout(model) == (torch.channels_last if last else torch.contiguous_format)


def test_in_the_end_batch_norm_has_the_statistics_of_the_training_inputs(tmp_path: Path) -> None:
    """And the last checkpoint has them; before the end they are what training left."""
    model, examples = tiny_model(), tiny_examples()
    for stop in (2, 4):
        saved = train(model, Training(examples, SHORT, 0, tmp_path, resume=True), stop=stop)
        seen = nn.functional.conv2d(examples.inputs, model.stem.conv.weight, padding=1).detach()
        mean, variance = seen.mean((0, 2, 3)), seen.transpose(0, 1).flatten(1).var(1)
        found = model.stem.norm.running_mean, model.stem.norm.running_var
        at_the_end = all(
            torch.allclose(own, its, rtol=1e-4, atol=1e-6) for own, its in zip(found, (mean, variance), strict=True)
        )
        assert at_the_end == (stop == 4)
        assert same(Checkpoint.load(tmp_path / f"epoch-{stop:05}.safetensors").model, saved.model)
        assert same(saved.model, model.state_dict())


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"learning_rate": 1e30}, r"its loss is \w+: lower learning_rate \(now 1e\+30\) or lengthen warmup"),
        ({"weight_decay": 1e9}, r"weight_decay \(1e\+09\) must be below 19 at a learning rate of 0\.1"),
    ],
)
def test_the_advice_names_what_is_out_of_range(changes: dict[str, float], advice: str, tmp_path: Path) -> None:
    config = SHORT.model_copy(update={"learning_rate": 0.1, "momentum": 0.9, **changes})
    with pytest.raises(UserError, match=advice):
        train(tiny_model(), Training(tiny_examples(), config, 0, tmp_path), stop=4)


def test_the_advice_follows_the_setting_that_counts_at_the_time() -> None:
    config = TrainingConfig(epochs=4, compress_at=2, restart=0.5, mask_penalty=4)
    assert _advice(config, 1).startswith("lower learning_rate (now 0.1)")
    assert _advice(config, 2) == "mask_penalty (4) must be below 3.8 at a learning rate of 0.5"
    assert _advice(config.model_copy(update={"mask_penalty": 0}), 2).startswith("lower restart (now 0.5)")
    assert "makes steps 100 times longer" in _advice(config.model_copy(update={"momentum": 0.99}), 1)
