"""The check of a compressed network on inputs that were held back for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim.__main__ import main
from prap_pim.common.errors import UserError
from prap_pim.frontend import Comparison, Output
from prap_pim.results.onnx import OnnxSummary
from prap_pim.results.run import CheckResult, OutputCheck
from tests.frontend.onnx.models import Case, node, random, save

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("dense", {}),
    ("similar", {"keep": 0.5}),
    ("calibrated", {"compute_ratio": 0.5}),
]


def held(count: int) -> list[int]:
    """Places of the inputs that are held back: a tenth, at least 8, evenly spread; none of fewer than 16."""
    return {15: [], 16: [1, 3, 5, 7, 9, 11, 13, 15], 48: [3, 9, 15, 21, 27, 33, 39, 45], 100: [*range(5, 100, 10)]}[
        count
    ]


def network(scale: float = 8.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
    model.append(nn.Linear(48, 10))
    model[-1].weight.data *= scale  # large enough to tell classes apart
    for _ in range(20):
        model(torch.randn(64, 20))
    return model.eval()


def inputs(count: int) -> Tensor:
    return torch.randn(count, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cut", [7, 100])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_what_is_held_back_is_not_compressed_with(method: str, options: dict[str, Any], cut: int) -> None:
    """A hundredfold input is of no effect on the plan if it is held back, and of some otherwise."""
    x = inputs(100)
    plan = prap_pim.compress(network(), x.split(cut), method, **options).plan.digest()
    for places in ([0], [94], held(100)):
        other = x.clone()
        other[places] *= 100
        found = prap_pim.compress(network(), other.split(cut), method, **options)
        assert (found.plan.digest() == plan) == (places == held(100))


@pytest.mark.parametrize(("count", "looked_at"), [(15, range(15)), (16, held(16)), (48, held(48)), (100, held(100))])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_the_check_is_of_the_bit_true_network(
    method: str, options: dict[str, Any], count: int, looked_at: list[int]
) -> None:
    model, x = network(), inputs(count)
    found = prap_pim.compress(model, x, method, **options)
    some = x[list(looked_at)]
    with torch.no_grad():
        own, other = model(some).double(), found.bit_true(some).double()
    (output,) = found.check.outputs
    assert (found.check.inputs, found.check.held_back) == (len(some), count >= 16)
    signal = (own - own.mean(0)).square().sum()
    assert output.sqnr_db == pytest.approx(10 * float(torch.log10(signal / (own - other).square().sum())))
    assert output.changed == float((own.argmax(1) != other.argmax(1)).double().mean())
    which = f"{len(some)} held-back inputs" if count >= 16 else f"{count} calibration inputs, which it was fitted"
    first, second, third, *_ = found.summary().splitlines()
    assert first.startswith(f"{method}: ")
    assert second.startswith(f"check: the bit-true network against the original on {which}")
    assert third == f"  output 0: {output.sqnr_db:.1f} dB, {output.changed:.1%} of the classes changed"


def test_values_have_no_classes() -> None:
    found = prap_pim.compress(network(scale=0.01), inputs(48), "similar", keep=0.5)
    (output,) = found.check.outputs
    assert output.changed is None
    assert f"  output 0: {output.sqnr_db:.1f} dB\n" in found.summary()


def test_a_ruined_network_is_warned_of_and_layers_named() -> None:
    model, x = network(), inputs(100)
    good = prap_pim.compress(model, x, "dense")
    assert good.check.warning == ""
    assert "warning" not in good.summary()
    bad = prap_pim.compress(model, x, "structured", ratio=0.1)
    assert bad.check.outputs[0].changed > 0.1
    assert bad.check.warning in " ".join(bad.summary().split())
    assert bad.check.warning.startswith("warning: too much of output 0 has changed (more than 10% of the classes")
    for name, error in bad.check.worst.items():
        assert f"{name} ({error:.1%})" in bad.check.warning
    assert list(bad.check.worst.values()) == sorted(bad.check.worst.values(), reverse=True)

    layers = {"0": model[0], "3": model[3], "5": model[5]}
    assert set(bad.check.worst) == set(layers)  # by hand, on the inputs that are held back; the largest first
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0], y)}))
    with torch.no_grad():
        model(x[held(100)])
        for name, (read, own) in seen.items():
            lost = (bad.model[int(name)](read) - own).square().sum() / (own - own.mean(0)).square().sum()
            assert bad.check.worst[name] == pytest.approx(float(lost), rel=1e-4)


@pytest.mark.parametrize(
    ("sqnr_db", "changed", "far"),
    [
        (30.0, None, False),
        (10.0, None, False),
        (9.99, None, True),
        (None, None, False),
        (9.0, 0.1, False),  # classes are what counts of an output that has any
        (30.0, 0.11, True),
        (None, 0.0, False),
    ],
)
def test_the_limits(sqnr_db: float | None, changed: float | None, far: bool) -> None:
    fine = OutputCheck(name="fine", sqnr_db=40, changed=None)
    check = CheckResult(
        inputs=9,
        held_back=True,
        outputs=[fine, OutputCheck(name="y", sqnr_db=sqnr_db, changed=changed)],
        worst={"conv1": 0.5},
    )
    assert bool(check.warning) == far
    assert ("output y has changed" in check.warning) == far
    assert "fine" not in check.warning
    assert " ".join(" ".join(check.lines[len(check.findings) :]).split()) == check.warning
    assert not far or "conv1 (50.0%)" in check.warning


class Noisy(nn.Module):
    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise, self.inner = noise, network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.noise * torch.randn(10)


@pytest.mark.parametrize(("noise", "told"), [(0.0, False), (1e-5, False), (1.0, True)])
def test_a_network_that_gives_other_outputs_each_time_is_told_of(noise: float, told: bool) -> None:
    found = prap_pim.compress(Noisy(noise), inputs(48), "dense")
    assert found.check.varies == told
    assert ("gives other outputs each time" in found.check.warning) == told


def onnx_case() -> Case:
    nodes = [
        node("Gemm", "x a.weight", "1", transB=1),
        node("Relu", "1", "2"),
        node("Gemm", "2 b.weight", "3", transB=1),
    ]
    nodes += [node("Relu", "3", "4"), node("Gemm", "4 c.weight", "y", transB=1)]
    weights = {"a.weight": random(48, 20), "b.weight": random(48, 48), "c.weight": random(10, 48)}
    return Case(nodes, weights, {"x": random(48, 20)})


def test_a_file_is_checked_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # a worker has no terminal, and narrow lines are continued on the next
    case = onnx_case()
    save(case, tmp_path)
    np.savez(tmp_path / "data.npz", **case.inputs)
    command = ["compress", "model.onnx", "--calibration", "data.npz", "-o", "out.onnx"]

    def summary(*more: str) -> tuple[OnnxSummary, bytes]:
        assert main([*command, *more, "--json", "--quiet"]) == 0
        return OnnxSummary.model_validate(json.loads(capsys.readouterr().out)), (tmp_path / "out.onnx").read_bytes()

    whole, _ = summary("--method", "dense")
    assert (whole.check.inputs, whole.check.held_back, whole.check.warning) == (8, True, "")
    assert [output.name for output in whole.check.outputs] == ["y"]
    assert main([*command, "--method", "dense"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("for one inference")
    assert shown[1 : 1 + len(whole.check.lines)] == whole.check.lines

    ruined, before = summary("--ratio", "0.1")
    assert ruined.check.warning
    assert main([*command, "--ratio", "0.1"]) == 0
    assert ruined.check.warning in " ".join(capsys.readouterr().out.split())
    for place in (4, held(48)[0]):  # the second is held back: the file is the same
        poisoned = case.inputs["x"].copy()
        poisoned[place] *= 100
        np.savez(tmp_path / "data.npz", x=poisoned)
        assert (summary("--ratio", "0.1")[1] == before) == (place in held(48))


def _noise(own: Tensor, other: Tensor, kind: Any = "values") -> float:
    found = Comparison((Output("0", 0, kind, 1),))
    for some, others in zip(own.split(5), other.split(5), strict=True):
        found.add((some,), (others,))
    return found.differences()[0].sqnr_db


def test_what_does_not_vary_is_no_signal() -> None:
    """An output of 100 +- 1 that has become 100 is lost, and not 40 dB near."""
    own = 100 + torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    noise = own.double() - own.double().mean(0)
    other = torch.full((30, 4), 100.0)
    expected = 10 * torch.log10(noise.square().sum() / (own.double() - 100).square().sum())
    assert _noise(own, other) == pytest.approx(float(expected), abs=1e-3)
    assert _noise(own, own) == float("inf")
    assert _noise(other, other + 1) == pytest.approx(40)  # nothing varies: its size


@pytest.mark.parametrize("mask", [-torch.inf, torch.finfo(torch.float32).min, -1e4])
@pytest.mark.parametrize("kind", ["values", "classes"])
def test_masks_are_no_signal(mask: float, kind: str) -> None:
    own = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    other = own + 0.1
    masked, others = (torch.cat([x, torch.full((30, 2), mask)], 1) for x in (own, other))
    assert _noise(masked, others, kind) == pytest.approx(_noise(own, other, kind), abs=1e-3)
    others[3, 4] = 0.0
    assert _noise(masked, others, kind) < 0


def test_a_network_at_its_floor_is_warned_of() -> None:
    model, x = network(), inputs(100)
    with pytest.raises(UserError, match="is not possible here") as caught:
        prap_pim.compress(model, x, compute_ratio=1e-6)
    floor = float(str(caught.value).partition("it is ")[2].partition(",")[0])
    bad = prap_pim.compress(model, x, compute_ratio=floor)
    assert bad.check.outputs[0].changed > 0.1
    assert bad.check.warning in " ".join(bad.summary().split())
    assert bad.check.warning.startswith("warning: too much of output 0 has changed (more than 10% of the classes")
    for name, error in bad.check.worst.items():
        assert f"{name} ({error:.1%})" in bad.check.warning


def test_layers_that_make_good_what_others_lost_are_not_blamed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    found = prap_pim.compress(model, torch.randn(200, 16), compute_ratio=0.3)
    errors = {layer.name: layer.error for layer in found.calibration.layers}
    assert found.check.worst == dict(sorted(errors.items(), key=lambda each: -each[1])[:3])
