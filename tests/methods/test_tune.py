"""Label-free tuning: weights and gradients against dense float64 matrices, figures against the finished network's."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import prap_pim
from prap_pim import UserError
from prap_pim.frontend import Captured, Output, capture, divergence, losses, on_copies, outputs
from prap_pim.frontend.quantize import InputGrid, QuantizeConfig
from prap_pim.hardware.chip import load_chip
from prap_pim.methods import tune as tuning
from prap_pim.methods.calibrate.config import CalibratedReuse
from prap_pim.methods.compress import Compressed, bit_true_network, compress_network
from prap_pim.methods.config import MethodConfig, Tune
from prap_pim.methods.rebuild import Rebuilt
from prap_pim.methods.request import CalibrationInputs, Request
from tests.methods.calibrate.networks import Normed, Odd, captured_of, compress, images
from tests.reference.calibrate import slow_weight

CHIP = load_chip("isaac-32nm")
SHORT = Tune(steps=45, inputs=32, mixed=0, rate=1e-3, donor_rate=0.03)


class Tokens(nn.Module):
    """Each token by itself, but for padding; layer norm with parameters, and a layer without a bias."""

    def __init__(self, together: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.norm = nn.LayerNorm(16)
        self.first = nn.Linear(16, 24, bias=False)
        self.second = nn.Linear(24, 6)
        self.together = together

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(self.norm(self.table(tokens)))))
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) if self.together else x


def sentences(count: int = 40) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 8, (count, 1), generator=generator)
    mask = (torch.arange(7) < lengths).long()
    return {"tokens": torch.randint(0, 20, (count, 7), generator=generator), "mask": mask}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make().eval()


def request(tune: Tune | None = SHORT, seed: int = 0, **reuse: Any) -> Request:
    settings = {"compute_ratio": 0.4, "bits": [4], "uses": 2, **reuse}
    method = MethodConfig(name="mine", reuse=CalibratedReuse.model_validate(settings))
    return Request(method.model_copy(update={"tune": tune}), CHIP, seed, QuantizeConfig(norm=2))


def inputs_of(captured: Captured, asked: Request, count: int = 60) -> CalibrationInputs:
    """Some of those that it is tuned on are those held back, too: it becomes better on these for certain."""
    given = CalibrationInputs.of(captured, images(count), asked.method)
    return replace(given, held=[tuple(x[:16] for x in given.batches[0])])


def tuned(captured: Captured, asked: Request, **how: Any) -> Compressed:
    return compress_network(captured, inputs_of(captured, asked), asked, **how)


def begun(kind: type[nn.Module], **reuse: Any) -> tuple[Captured, Rebuilt, tuning._Network, tuning._Examples]:
    captured, asked = captured_of(kind), request(**reuse)
    given = inputs_of(captured, asked, 20)
    found = compress(captured, images(20), compute_ratio=0.4, bits=[4], uses=2, **reuse)
    assert found.rebuilt is not None
    work = tuning._Network(captured, found.rebuilt, asked)
    return captured, found.rebuilt, work, tuning._Examples.of(captured, given.batches, given, SHORT)


def slow_values(rebuilt: Rebuilt, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by one product after another, in float64, whatever numbers the donors are."""
    found = {name: value.double() for name, value in trained.items() if not name.endswith((".donors", ".size"))}
    for name, plan in rebuilt.plans.items():
        matrix = torch.tensor(slow_weight(plan, trained[f"{name}.donors"].tolist()), dtype=torch.float64)
        steps = torch.from_numpy(plan.step.astype(np.float64)) * trained[f"{name}.size"].double()
        shape = rebuilt.module.get_submodule(name).weight.shape
        found[f"{name}.weight"] = (matrix * steps[:, None]).reshape(shape)
    return found


@pytest.mark.parametrize("kind", [Odd, Normed])
def test_gradients_are_those_of_dense_weights(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch):
    """By finite differences in float64, of inputs that are not rounded and a loss that is written out."""
    monkeypatch.setattr(tuning, "_reading", lambda grid: lambda module, args: args)
    captured, rebuilt, work, examples = begun(kind)
    kept = {name: value.detach().clone() for name, value in work.trained.items()}
    generator = torch.Generator().manual_seed(0)
    for name, value in work.trained.items():
        if not name.endswith(".donors"):
            value.data *= 1 + 0.1 * torch.rand(value.shape, generator=generator)
            kept[name] = value.detach().clone()
    batch = examples.parts[0]
    work.differentiate(examples, [batch])
    module = copy.deepcopy(work._module).double().requires_grad_(False)
    p = torch.softmax(captured.module(batch[0]).detach().double(), 1)

    def loss(trained: dict[str, Tensor]) -> float:
        with torch.no_grad():
            found = functional_call(module, slow_values(rebuilt, trained), (batch[0].double(),))
        return float((p * (p.log() - torch.log_softmax(found, 1))).sum() / len(p))

    for name, value in work.values().items():
        torch.testing.assert_close(value.double(), slow_values(rebuilt, kept)[name], rtol=1e-5, atol=1e-6)
    rng = np.random.default_rng(0)
    largest = max(float(value.grad.abs().max()) for value in work.trained.values() if value.grad is not None)
    for name, value in work.trained.items():
        for _ in range(4):
            at, ends = tuple(int(rng.integers(n)) for n in value.shape), []
            size = 1e-5 * max(1.0, float(kept[name].abs().max()))
            for way in (-size, size):
                moved = {other: each.double() for other, each in kept.items()}
                moved[name][at] += way
                ends.append(loss(moved))
            slope = 0.0 if value.grad is None else float(value.grad[at])
            assert slope == pytest.approx((ends[1] - ends[0]) / (2 * size), rel=0.02, abs=1e-3 * largest), name


def test_rounded_inputs_pass_their_gradient_on_but_for_those_that_are_clipped():
    grid = InputGrid(0.5, zero=3)
    x = torch.tensor([-70.0, -65.0, 0.2, 0.3, 61.9, 62.0, 63.0], requires_grad=True)
    y = tuning._Rounded.apply(x, grid)
    torch.testing.assert_close(y.detach(), torch.tensor([-65.5, -65.0, 0.0, 0.5, 62.0, 62.0, 62.0]))
    y.backward(torch.arange(1.0, 8))
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 2, 3, 4, 5, 6, 0]))


def test_losses_are_those_of_torch():
    own, other = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    nats = nn.functional.kl_div(other.log_softmax(1), own.log_softmax(1), reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(losses(Output("0", 0, "classes", -1), own, other), nats)
    squares = nn.functional.mse_loss(other, own, reduction="none")
    torch.testing.assert_close(losses(Output("0", 0, "values", -1), own, other), squares)


@pytest.mark.parametrize("kind", [Odd, Normed])
def test_what_is_told_is_of_the_network_on_crossbars(kind: type[nn.Module]):
    """Its divergence anew, by integers of the finished plan; and it has become less."""
    captured, asked = captured_of(kind), request()
    given = inputs_of(captured, asked)
    found = tuned(captured, asked)
    result = found.check.tuning
    assert result is not None
    crossbars, name = bit_true_network(found.captured, found.plan, CHIP), captured.network.name
    for batches, told in ((given.batches, result.after), (given.held, result.held_after)):
        pairs = ((outputs(captured.module(*x), name), outputs(crossbars(*x), name)) for x in batches)
        with torch.no_grad():
            assert told == pytest.approx(divergence(given.judges, pairs), rel=1e-3)
    once = tuned(captured, request(None))
    crossbars = bit_true_network(once.captured, once.plan, CHIP)
    with torch.no_grad():
        pairs = ((outputs(captured.module(*x), name), outputs(crossbars(*x), name)) for x in given.batches)
        assert result.before == pytest.approx(divergence(given.judges, pairs), rel=1e-3)
    assert 0 < result.taken <= SHORT.steps
    assert result.after < result.before
    assert result.held_after is not None
    assert result.held_before is not None
    assert result.held_after <= result.held_before
    assert once.check.tuning is None


def test_ties_are_kept():
    captured = captured_of(Normed)
    once, after = tuned(captured, request(None)), tuned(captured, request())
    changed = 0
    for name, plan in once.plan.layers.items():
        other = after.plan.layers[name]
        for key in ("rows", "donor_start", "use_start", "use_filter", "use_donor", "use_sign", "use_exponent"):
            np.testing.assert_array_equal(getattr(plan, key), getattr(other, key))
        assert other.weight_bits == plan.weight_bits
        changed += int((plan.donors != other.donors).sum())
        assert name not in after.changed or (plan.step != other.step).any()
    assert changed > 10
    assert after.plan.input_step == once.plan.input_step


def test_the_users_model_gets_all_that_was_tuned():
    """Norms and new biases, too: its outputs are those of the plan's real weights."""
    model, inputs = seeded(Tokens), sentences()
    before = copy.deepcopy(model.state_dict())
    found = prap_pim.compress(model, [inputs], compute_ratio=0.4, tune={"steps": 20, "rate": 0.01, "inputs": 8})
    assert found.check.tuning is not None
    assert found.check.tuning.taken
    with torch.no_grad():
        own = found.model(**inputs)
        torch.testing.assert_close(own, found._compressed.captured.module(*inputs.values()), rtol=1e-5, atol=1e-5)
    state = found.model.state_dict()
    assert all(not torch.equal(state[f"norm.{key}"], before[f"norm.{key}"]) for key in ("weight", "bias"))
    assert state["first.bias"].any()  # it had none
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    again = prap_pim.compress(model, [inputs], compute_ratio=0.4, tune=Tune(steps=20, rate=0.01, inputs=8))
    assert again.plan.digest() == found.plan.digest()


def test_layers_left_whole_keep_all_they_have():
    model = seeded(Normed)
    rough = {"compute_ratio": 0.6, "bits": [8], "uses": 1}  # leaves something to tune
    found = prap_pim.compress(model, images(15), skip=["conv1", "head"], tune=Tune(steps=10, rate=0.01), **rough)
    own, other = model.state_dict(), found.model.state_dict()
    for key in ("conv1.weight", "norm1.weight", "norm1.bias", "head.weight", "head.bias", "norm4.weight", "norm4.bias"):
        assert torch.equal(own[key], other[key]), key
    assert not torch.equal(own["conv2.weight"], other["conv2.weight"])
    assert not torch.equal(own["norm2.weight"], other["norm2.weight"])  # behind an addition, in front of nothing whole


def test_a_budget_that_changes_nothing_leaves_nothing_to_tune():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    how = {"compute_ratio": 1.0, "quantize": {"equalize": False}, "tune": 2}
    found = prap_pim.compress(model, torch.rand(40, 16), method="lowbit", **how)
    assert found.changed == ()
    assert found.check.tuning is not None
    assert found.check.tuning.taken == 0
    for own, other in zip(model.state_dict().values(), found.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_padding_does_not_count():
    model, inputs = seeded(Tokens), sentences()
    captured = capture(model, inputs, "tokens")
    asked = request()
    given = CalibrationInputs.of(captured, [inputs], asked.method)
    examples = tuning._Examples.of(captured, given.batches, given, SHORT)
    padded = ~examples.parts[0][0 if examples.parts[0][0].max() == 1 else 1].bool()
    assert padded.any()
    part, (wanted,) = examples.parts[0], examples.wanted[0] or ()
    noise = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))
    at_padding, elsewhere = wanted + noise * padded[..., None], wanted + noise * ~padded[..., None]
    assert (
        float(examples.loss(part, (wanted,), (at_padding,))) == 0 < float(examples.loss(part, (wanted,), (elsewhere,)))
    )


def test_a_steps_inputs_are_drawn_from_all_that_are_alike():
    captured, asked = captured_of(Odd), request()
    given = inputs_of(captured, asked, 50)  # 42 to tune on
    several = replace(given, batches=[tuple(x[:30] for x in given.batches[0]), tuple(x[30:] for x in given.batches[0])])
    examples = tuning._Examples.of(captured, several.batches, several, Tune(inputs=7))
    every = torch.cat([part[0] for part in examples.parts])
    assert torch.equal(every, given.batches[0][0])
    assert max(len(part[0]) for part in examples.parts) <= 7
    plain, seen = Tune(inputs=40, mixed=0), set()
    for step in range(3):
        rng, again = (np.random.default_rng([0, step]) for _ in range(2))
        parts, same = examples.drawn(plain, rng), examples.drawn(plain, again)
        assert [len(part[0]) for part in parts] == [7, 7, 7, 7, 6, 6]
        assert all(
            torch.equal(one, other)
            for part, twin in zip(parts, same, strict=True)
            for one, other in zip(part, twin, strict=True)
        )
        which = [int((every == x).flatten(1).all(1).nonzero()) for part in parts for x in part[0]]
        assert len(set(which)) == 40
        seen |= set(which)
        assert which != sorted(which)
    assert seen == set(range(42))
    fixed = replace(several, divisible=False)
    whole = tuning._Examples.of(captured, fixed.batches, fixed, Tune(inputs=7))
    assert [len(part[0]) for part in whole.parts] == [30, 12]
    assert [len(part[0]) for part in whole.drawn(Tune(inputs=7), np.random.default_rng(0))] in ([30], [12])


def test_mixed_real_numbers_lie_between_two_inputs():
    x = images(30)
    (found,) = tuning._mixed((x,), 0.5, np.random.default_rng(0))
    kept = (found == x).flatten(1).all(1)
    assert 5 < int(kept.sum()) < 25
    for mixed, own in zip(found[~kept], x[~kept], strict=True):
        others = [((mixed - own) / (other - own)) for other in x if not torch.equal(own, other)]
        assert any(float(share.std()) < 1e-3 and 0 < float(share.mean()) <= 1 for share in others)
    assert torch.equal(tuning._mixed((x,), 0, np.random.default_rng(0))[0], x)


def test_mixed_tokens_are_those_of_one_or_the_other_and_padding_stays():
    """Each sentence has one token of its own, so that it shows whose they are."""
    mask, whose = sentences(12)["mask"], torch.arange(12)[:, None].expand(12, 7)
    tokens = torch.where(mask.bool(), 100 + whose, whose)
    shared = torch.tensor([[0.5, 0.25]])
    found, own_mask, same = tuning._mixed((tokens, mask, shared), 1, np.random.default_rng(3))
    assert torch.equal(own_mask, mask)
    assert torch.equal(same, shared)
    assert torch.equal(found[mask == 0], tokens[mask == 0])
    assert bool((found[mask == 1] >= 100).all())
    assert all(len({*row.tolist()} - {100 + i}) <= 2 for i, row in enumerate(found))  # one other's, and padding
    assert 10 < int((found != tokens).sum()) < 60


def test_outputs_that_are_not_kept_are_computed_anew(monkeypatch: pytest.MonkeyPatch):
    captured = captured_of(Odd)
    wanted = tuned(captured, request()).plan.digest()
    monkeypatch.setattr(tuning, "_KEPT", 20)
    assert tuned(captured, request()).plan.digest() == wanted


class Stopped(BaseException):
    pass


def test_a_seed_gives_one_result_and_what_is_interrupted_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "_EVERY", 3)
    captured, whole = captured_of(Normed), tuned(captured_of(Normed), request())
    assert tuned(captured, request(seed=1)).plan.digest() != whole.plan.digest()
    steps: list[int] = []

    def stop(phase: str, done: int, total: int, note: str) -> None:
        if phase == "mine: tuning":
            steps.append(done)
            assert total == SHORT.steps
            assert note.startswith("loss ")
            if len(steps) == 8:
                raise Stopped

    with pytest.raises(Stopped):
        tuned(captured, request(), checkpoints=tmp_path, progress=stop)
    found = tuned(captured, request(), checkpoints=tmp_path, progress=stop)
    assert steps == [*range(1, 9), *range(7, 46)]  # the newest checkpoint is of step 6
    assert found.plan.digest() == whole.plan.digest()
    assert found.check == whole.check
    steps.clear()
    finished = tuned(captured, request(), checkpoints=tmp_path, progress=stop)
    assert (steps, finished.plan.digest()) == ([], whole.plan.digest())
    with pytest.raises(Stopped):  # others are begun anew
        tuned(
            captured, request(replace_steps(SHORT, 13)), checkpoints=tmp_path, progress=lambda *told: stop_at_13(told)
        )


def replace_steps(tune: Tune, steps: int) -> Tune:
    return tune.model_copy(update={"steps": steps})


def stop_at_13(told: tuple[Any, ...]) -> None:
    if told[0] == "mine: tuning":
        assert told[1] == 1
        raise Stopped


def test_the_network_is_left_as_it_was_where_nothing_becomes_better():
    captured, wild = captured_of(Odd), Tune(steps=3, rate=0.9, donor_rate=1)
    once, found = tuned(captured, request(None)), tuned(captured, request(wild))
    result = found.check.tuning
    assert result is not None
    assert result.taken == 0
    assert (result.before, result.held_before) == (result.after, result.held_after)
    assert found.plan.digest() == once.plan.digest()
    assert "the network is left as it was" in " ".join(" ".join(found.check.lines).split())


def test_inputs_held_back_have_the_last_word(monkeypatch: pytest.MonkeyPatch):
    """Tuned though the loss is told to rise on the inputs that it is tuned on."""
    told = iter((1.0, 2.0))
    first: list[tuning._Examples] = []
    real = tuning._Examples.divergence

    def rising(examples: tuning._Examples, work: tuning._Network) -> float:
        first.append(examples)
        return next(told) if examples is first[0] else real(examples, work)

    monkeypatch.setattr(tuning._Examples, "divergence", rising)
    result = tuned(captured_of(Odd), request(Tune(steps=20))).check.tuning
    assert result is not None
    assert result.held_before is not None
    assert result.held_after is not None
    assert (result.before, result.after) == (1, 2)
    assert result.held_after < result.held_before
    assert result.taken > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": 0}, "tune: steps: must be at least 1, not 0"),
        ({"tune": {"step": 3}}, "tune: unknown key 'step' (did you mean 'steps'?)"),
        ({"tune": True}, "tune: steps must be a number, not true"),
        ({"tune": 5, "method": "dense"}, "method dense changes no layer, so there are no donors to tune"),
    ],
)
def test_mistakes_are_one_line(settings: dict[str, Any], message: str):
    ratio = {} if "method" in settings else {"compute_ratio": 0.5}
    with pytest.raises(UserError) as error:
        prap_pim.compress(seeded(Odd), images(20), **ratio, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_outputs_that_torch_cannot_differentiate_are_one_line():
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 12)

        def forward(self, x: Tensor) -> Tensor:
            return torch.round(self.layer(x)).detach()

    with pytest.raises(UserError, match="tune: torch cannot differentiate the outputs of Cut by its weights"):
        prap_pim.compress(seeded(Cut), torch.randn(40, 16), compute_ratio=0.5, tune=2)


def test_one_training_or_the_other():
    assert not MethodConfig(name="mine", tune=Tune(steps=3)).finetune
    with pytest.raises(UserError, match="finetune trains with labels, tune without: choose one of them"):
        MethodConfig(name="mine", tune=Tune(steps=3), finetune=True)
    mine = MethodConfig(name="mine", tune=Tune(steps=3))
    assert MethodConfig.model_validate(mine.model_dump()) == mine
    with pytest.raises(UserError, match="tune is given twice"):
        prap_pim.compress(seeded(Odd), images(20), mine, tune=3)


@pytest.mark.parametrize("method", ["similar", "prap", "orc", "pattern"])
def test_methods_that_prune_and_reuse_are_tuned_too(method: str):
    given = {"pattern": {}, "prap": {"keep": 0.7}}.get(method, {"compute_ratio": 0.5})
    found = prap_pim.compress(seeded(Normed), images(60), method, tune={"steps": 10, "rate": 0.005}, **given)
    result = found.check.tuning
    assert result is not None
    assert result.after < result.before


def test_divergence_agrees_with_the_frontends():
    captured, _, work, examples = begun(Odd)
    values = work.values()
    with torch.no_grad():
        pairs = [
            (outputs(on_copies(captured.module, part), "odd"), work.outputs(values, part)) for part in examples.parts
        ]
    assert examples.divergence(work) == pytest.approx(divergence(examples.judges, pairs), rel=1e-5)


def test_the_rate_rises_and_falls():
    shares = [tuning._share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares == pytest.approx([min(1, (i + 1) / 10) * 0.5 * (1 + np.cos(np.pi * i / 100)) for i in range(100)])
    assert int(np.argmax(shares)) == 9


def test_steps_that_were_too_large_are_taken_back():
    _, _, work, examples = begun(Normed)
    run = tuning._Descent(work, Tune(rate=0.1, donor_rate=1), work.units(examples.parts[0]))
    start = {name: value.detach().clone() for name, value in work.trained.items()}

    def moved() -> dict[str, float]:
        work.differentiate(examples, examples.parts)
        run.step(1.0)
        return {name: float((value - start[name]).detach().abs().max()) for name, value in work.trained.items()}

    run.look(1.0)
    first = moved()
    assert first["head.donors"] == pytest.approx(1, rel=0.01)  # Adam's first step
    assert first["norm4.weight"] == pytest.approx(0.1 * float(start["norm4.weight"].abs().max()), rel=0.01)
    assert first["head.size"] == pytest.approx(0.1, rel=0.01)
    run.look(1.19)  # not much more
    assert any(not torch.equal(value, start[name]) for name, value in work.trained.items())
    run.look(1.21)
    assert all(torch.equal(value, start[name]) for name, value in work.trained.items())
    again = moved()
    assert all(
        again[name] == pytest.approx(first[name] / 4, rel=0.02) for name in first if not name.endswith(".donors")
    )
    run.look(0.9)
    best = {name: value.detach().clone() for name, value in work.trained.items()}
    moved()
    assert run.take_best() == 2
    assert all(torch.equal(value, best[name]) for name, value in work.trained.items())
