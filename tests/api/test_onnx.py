"""The whole command: a model file and inputs in, a compressed model file and its figures out."""

import builtins
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from torch.nn import functional

from prap_pim.__main__ import main
from prap_pim.api.onnx import compress_onnx, together
from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx import OnnxFile, capture_onnx, read_batches
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.plan import NetworkPlan
from prap_pim.report.terminal.onnx import print_summary
from prap_pim.results.onnx import OnnxSummary
from tests.frontend.onnx.models import NEWEST, Case, node, random, run, save


def network() -> Case:
    """A small network of convolutions, products and a batch norm, without what makes trouble."""
    x, conv = random(48, 3, 6, 6), random(16, 3, 3, 3)
    products = functional.conv2d(torch.from_numpy(x), torch.from_numpy(conv), padding=1).transpose(0, 1).flatten(1)
    values = {"s": np.abs(random(16)) + 0.5, "b": random(16)}
    values |= {"m": products.mean(1).numpy(), "v": products.var(1).numpy()}
    return Case(
        nodes=[
            node("Conv", "x conv.weight", "1", pads=[1, 1, 1, 1]),
            node("BatchNormalization", "1 s b m v", "2"),
            node("Relu", "2", "3"),
            node("Conv", "3 deep.weight deep.bias", "4", group=2),
            node("Relu", "4", "5"),
            node("GlobalAveragePool", "5", "6"),
            node("Flatten", "6", "7"),
            node("MatMul", "7 w", "8"),
            node("Relu", "8", "9"),
            node("Gemm", "9 head.weight", "y", transB=1),
        ],
        weights={
            "conv.weight": conv,
            "deep.weight": random(16, 8, 3, 3),
            "deep.bias": random(16),
            "w": random(16, 32),
            "head.weight": random(10, 32),
            **values,
        },
        inputs={"x": x},
    )


def compressed(folder: Path, case: Case | None = None, opset: int = 17, **how: Any) -> tuple[OnnxSummary, Case]:
    case = case or network()
    save(case, folder, opset)
    np.savez(folder / "data.npz", **case.inputs)
    return compress_onnx(folder / "model.onnx", folder / "data.npz", folder / "out.onnx", **how), case


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def sqnr(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    signal = sum(float(np.square(one - one.mean(0)).sum()) for one in wanted)
    noise = sum(float(np.square(one - other).sum()) for one, other in zip(wanted, found, strict=True))
    return 10 * np.log10(signal / noise)


def test_low_bits_are_in_the_file(tmp_path: Path) -> None:
    """By name and ratio on the command line; every filter has at most 2**bits - 1 different weights."""
    case = network()
    save(case, tmp_path, 17)
    np.savez(tmp_path / "data.npz", **case.inputs)
    model = str(tmp_path / "model.onnx")
    named = {"--calibration": "data.npz", "-o": "out.onnx", "--plan": "plan.safetensors", "--bit-true": "exact.onnx"}
    places = [part for option, name in named.items() for part in (option, str(tmp_path / name))]
    assert main(["compress", model, *places, "--method", "lowbit", "--ratio", "0.5", "--quiet"]) == 0
    plan, weights = NetworkPlan.load(tmp_path / "plan.safetensors"), weights_of(tmp_path / "out.onnx")
    by_filter = {"conv.weight": 0, "deep.weight": 0, "w": 1, "head.weight": 0}
    assert len(plan.layers) == len(by_filter)
    bits = [layer.weight_bits for layer in plan.layers.values()]
    assert min(bits) < 8
    for (name, axis), layer in zip(by_filter.items(), plan.layers.values(), strict=True):
        for values in np.moveaxis(weights[name], axis, 0):
            assert len(np.unique(values)) <= 2**layer.weight_bits - 1
    wanted, found, exact = (run(str(tmp_path / name), case.inputs) for name in ("model.onnx", "out.onnx", "exact.onnx"))
    assert sqnr(wanted, found) > 10
    assert sqnr(wanted, exact) > 10
    summary, _ = compressed(tmp_path, case, method="lowbit", options={"bits": [4]})
    assert summary.compute_ratio == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("opset", [13, NEWEST])
def test_nothing_reused_is_int8(opset: int, tmp_path: Path) -> None:
    """All patterns kept: the weights are int8 times a step, which leaves 25 dB and more; the costs are dense."""
    summary, case = compressed(tmp_path, opset=opset, compute_ratio=1.0)
    assert summary.compute_ratio == 1
    assert summary.dense == summary.compressed
    original, written = (run(str(tmp_path / name), case.inputs) for name in ("model.onnx", "out.onnx"))
    assert summary.outputs[0].sqnr_db == pytest.approx(sqnr(original, written), abs=0.5)
    assert summary.outputs[0].sqnr_db is not None
    assert summary.outputs[0].sqnr_db > 25
    stored = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "out.onnx").graph.initializer
    }
    for name in ("conv.weight", "deep.weight", "w", "head.weight"):
        before = case.weights[name]
        filters = (stored[name] if name != "w" else stored[name].T).reshape(before.shape[name == "w"], -1)
        whole = filters / (np.abs(filters).max(axis=1, keepdims=True) / 127)  # of each filter one step, 127 at most
        own = filters / (np.abs(filters).max() / 127)
        near = np.minimum(np.abs(whole - np.rint(whole)).max(), np.abs(own - np.rint(own)).max())
        assert near < 1e-2, name
        np.testing.assert_allclose(stored[name], before, atol=np.abs(before).max() / 254 * 1.001)


def test_calibrated(tmp_path: Path) -> None:
    summary, case = compressed(tmp_path, compute_ratio=0.5, plan=tmp_path / "plan.safetensors")
    assert summary.compute_ratio <= 0.5
    assert [layer.name for layer in summary.layers] == ["conv", "deep", "8", "head"]
    plan = NetworkPlan.load(tmp_path / "plan.safetensors")
    assert plan.digest() == summary.plan_sha256
    stored = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "out.onnx").graph.initializer
    }
    # the plan computes what the file's product and its batch norm, measured anew, do together
    factor = case.weights["s"] / np.sqrt(stored["v"].astype("f8") + 1e-5)
    weight = stored["conv.weight"].reshape(16, -1) * factor[:, None]
    np.testing.assert_allclose(plan.layers["conv"].real_weights(), weight, atol=1e-5 * np.abs(weight).max())
    for name, file, turned in (("deep", "deep.weight", False), ("8", "w", True), ("head", "head.weight", False)):
        weight = stored[file].T if turned else stored[file].reshape(len(stored[file]), -1)
        np.testing.assert_allclose(plan.layers[name].real_weights(), weight, atol=1e-5 * np.abs(weight).max())
    original, written = (run(str(tmp_path / name), case.inputs) for name in ("model.onnx", "out.onnx"))
    assert summary.outputs[0].sqnr_db == pytest.approx(sqnr(original, written), abs=0.01)
    assert summary.outputs[0].largest_difference == pytest.approx(np.abs(original[0] - written[0]).max(), rel=1e-3)
    assert summary.dense.energy_j > summary.compressed.energy_j


@pytest.mark.parametrize(
    ("method", "ratio", "options", "below"),
    [
        ("similar", None, {"keep": 0.5}, 0.55),
        ("similar", 0.5, {}, 0.5),
        ("identical", None, {"threshold": 0.9}, 1.0),
        ("orc", None, {"ratio": 0.5}, 0.6),
        ("structured", None, {"ratio": 0.5}, 0.6),
        ("pattern", None, {}, 0.8),
        ("prap", None, {"keep": 0.5}, 0.5),
        ("dense", None, {}, 1.0),
    ],
)
def test_other_methods(method: str, ratio: float | None, options: dict[str, Any], below: float, tmp_path: Path) -> None:
    summary, _ = compressed(tmp_path, method=method, compute_ratio=ratio, options=options)
    assert summary.compute_ratio <= below


def test_more_ou_steps_than_dense_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One filter of a shape leaves OUs of many columns empty."""
    chip = load_chip("isaac-32nm")
    wide = chip.model_copy(update={"grain": replace(chip.grain, ou_columns=128)})
    summary, _ = compressed(tmp_path, method="pattern", chip=wide)
    assert summary.compute_ratio > 1
    print_summary(summary, Console(width=300))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: pattern takes")]
    assert f"{summary.compute_ratio:.4g} times the OU steps of dense" in line
    fewer, _ = compressed(tmp_path, method="pattern")
    print_summary(fewer, Console(width=300))
    assert "times the OU steps" not in capsys.readouterr().out


def test_skipped_layers_are_whole(tmp_path: Path) -> None:
    summary, _ = compressed(tmp_path, method="similar", options={"keep": 0.25}, skip=["conv", "he*"])
    assert [layer.name for layer in summary.layers if layer.ou_steps == layer.dense_ou_steps] == ["conv", "head"]


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        compressed(tmp_path, compute_ratio=0.5, seed=3)
        contents.append((tmp_path / "out.onnx").read_bytes())
    assert contents[0] == contents[1]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = network()
    path = save(case, tmp_path)
    np.savez(tmp_path / "data.npz", **case.inputs)
    command = ["compress", str(path), "--calibration", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.onnx")]
    assert main([*command, "--ratio", "0.5", "--json"]) == 0
    summary = OnnxSummary.model_validate(json.loads(capsys.readouterr().out))
    assert summary.inputs == 48
    assert main([*command, "--method", "similar", "--set", "keep=0.5", "--skip", "head"]) == 0
    shown = capsys.readouterr().out
    assert "deep" in shown
    assert "signal to noise" in shown
    assert main([*command, "--max-drop", "0.1", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--ratio", "x"], "'--ratio': must be a number, not 'x'"),
        (["--ratio", "2"], "compute_ratio"),
        ([], "give either compute_ratio (--ratio), budget (--budget) or max_drop (--max-drop)"),
        (["--method", "similr"], "did you mean 'similar'?"),
        (["--method", "similar"], "keep"),
        (["--method", "dense", "--ratio", "0.5"], "its compute ratio is always 1"),
        (["--method", "pattern", "--ratio", "0.001"], "reach"),
        (["--ratio", "0.5", "--set", "nonsense=1"], "nonsense"),
        (["--ratio", "0.5", "--skip", "heed"], "did you mean 'head'?"),
        (["--ratio", "0.5", "--chip", "none"], "no chip 'none'"),
        (["--ratio", "0.5", "--seed", "first"], "'--seed': must be a whole number, not 'first'"),
        (["--ratio", "0.5", "-o", "model.onnx"], "it would replace the model"),
        (["--ratio", "0.5", "-o", "same.onnx"], "it would replace the model"),
        (["--ratio", "0.5", "-o", "data.npz"], "it would replace the calibration inputs"),
        (["--ratio", "0.5", "--plan", "out.onnx"], "cannot write the output to out.onnx: it would replace the plan"),
        (["--ratio", "0.5", "-o", "."], "it is a folder"),
        (["--ratio", "0.5", "-o", "data.npz/out.onnx"], "cannot write"),
        (["--ratio", "0.5", "--plan", "data.npz/plan"], "cannot write"),
    ],
)
def test_mistakes(
    arguments: list[str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = network()
    save(case, tmp_path)
    np.savez(tmp_path / "data.npz", **case.inputs)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same.onnx").hardlink_to(tmp_path / "model.onnx")
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert main(["compress", "model.onnx", "--calibration", "data.npz", "-o", "out.onnx", "--quiet", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert why in lines[0]
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    there = builtins.__import__

    def gone(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return there(name, *rest)

    for name in [each for each in sys.modules if each.startswith(("prap_pim.frontend.onnx", "prap_pim.api.onnx"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", gone)
    assert main(["compress", "model.onnx", "--calibration", "data.npz", "-o", "out.onnx"]) == 2
    assert "pip install 'prap-pim[onnx]'" in capsys.readouterr().err


def test_a_model_that_is_not_finite_after_all(tmp_path: Path) -> None:
    case = Case([node("Div", "x zero", "1"), node("MatMul", "1 w", "y")], {"w": random(5, 6)}, {"x": random(4, 5)})
    case.weights = {**case.weights, "zero": np.array(0, "f4")}
    with pytest.raises(UserError, match="output y is NaN or infinite"):
        compressed(tmp_path, case, compute_ratio=0.5)


def test_a_model_for_one_input_at_a_time(tmp_path: Path) -> None:
    """Its inputs are put together: the same plan as of the same model for any number."""
    case = network()
    _, plans = compressed(tmp_path, case, compute_ratio=0.5, plan=tmp_path / "any"), []
    single = replace(case, inputs={"x": case.inputs["x"][:1]}, fixed=True)
    save(single, tmp_path)
    summary = compress_onnx(
        tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out.onnx", compute_ratio=0.5, plan=tmp_path / "one"
    )
    assert summary.inputs == 48
    for name in ("any", "one"):
        plans.append(NetworkPlan.load(tmp_path / name))
    for layer, plan in plans[0].layers.items():
        np.testing.assert_allclose(plan.real_weights(), plans[1].layers[layer].real_weights(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("flipped", [False, True])
def test_batches_are_put_together_where_that_is_the_same(flipped: bool, tmp_path: Path) -> None:
    """Also where the batch is not in front between two nodes; not where a product takes it from behind."""
    ends = [node("Reshape", "5 shape", "6"), node("Gemm", "6 c", "y")]
    if flipped:
        ends = [node("Reshape", "5 turned", "6"), node("Gemm", "6 c", "y", transA=1)]
    case = Case(
        nodes=[
            node("MatMul", "x a", "1"),
            node("Transpose", "1", "2", perm=[1, 0, 2]),
            node("Relu", "2", "3"),
            node("MatMul", "3 b", "4"),
            node("Transpose", "4", "5", perm=[1, 0, 2]),
            *ends,
        ],
        weights={
            "a": random(8, 16),
            "b": random(16, 4),
            "c": random(12, 4),
            "shape": np.array([1, 12]),
            "turned": np.array([12, 1]),
        },
        inputs={"x": random(1, 3, 8)},
        fixed=True,
    )
    found = capture_onnx(OnnxFile.read(save(case, tmp_path)), case.tensors())
    np.savez(tmp_path / "data.npz", x=random(20, 3, 8, seed=4))
    batches = read_batches(found.file, tmp_path / "data.npz")
    assert [len(batch[0]) for batch in together(found, batches)] == ([1] * 20 if flipped else [20])
    summary = compress_onnx(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out.onnx", compute_ratio=0.5)
    assert summary.inputs == 20
    assert summary.compute_ratio <= 0.5


def test_long_names_are_cut_in_tables_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As exporters from TensorFlow make them."""
    names = [f"{'StatefulPartitionedCall/model/' * 5}block_{i}/kernel" for i in (1, 2)]
    case = Case(
        [node("MatMul", f"x {names[0]}", "1"), node("MatMul", f"1 {names[1]}", "2"), node("Einsum", "2 e", "y")],
        {names[0]: random(8, 8), names[1]: random(8, 8), "e": random(8, 8)},
        {"x": random(9, 8)},
    )
    for each in case.nodes:
        each.name = f"{each.input[1]}/{each.op_type}"
    case.nodes[2].name = f"{names[0]}/Einsum"
    case.nodes[2].attribute.append(onnx.helper.make_attribute("equation", "ab,bb->ab"))
    save(case, tmp_path)
    np.savez(tmp_path / "data.npz", **case.inputs)
    command = ["compress", str(tmp_path / "model.onnx"), "--calibration", str(tmp_path / "data.npz")]
    command += ["-o", str(tmp_path / "out.onnx"), "--ratio", "0.5"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "Stateful" in told
    for i in (1, 2):
        assert f"block_{i}.kernel" in told
    assert names[0].replace("/", ".") not in told
    assert max(len(line) for line in told.splitlines() if not line.startswith("warning:")) < 200
    assert main([*command, "--json"]) == 0
    summary = OnnxSummary.model_validate(json.loads(capsys.readouterr().out))
    whole = [name.replace("/", ".") for name in names]
    assert [layer.name for layer in summary.layers] == whole
    assert list(summary.digital) == [f"{names[0]}/Einsum (Einsum)"]


def test_an_axis_that_holds_no_batch_is_told_of(tmp_path: Path) -> None:
    case = Case(nodes=[node("MatMul", "x a", "y")], weights={"a": random(16, 8)}, inputs={"x": random(96, 16)})
    with pytest.raises(UserError, match="does not run on 8 inputs at a time: mat1 and mat2 shapes cannot be multipl"):
        compressed(tmp_path, case, method="dense", batch_axes={"x": 1})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ratio", "0.5", "--set", "compute_ratio=0.4"], "compute_ratio is given twice: 0.5 and 0.4"),
        (["--max-drop", "0.1", "--set", "max_drop=0.4"], "max_drop is given twice: 0.1 and 0.4"),
    ],
)
def test_a_setting_given_twice_is_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(network(), tmp_path)
    np.savez(tmp_path / "data.npz", **network().inputs)
    line = ["compress", str(tmp_path / "model.onnx"), "--calibration", str(tmp_path / "data.npz")]
    assert main([*line, "-o", str(tmp_path / "out.onnx"), *flags]) == 2
    assert capsys.readouterr().err == f"prap-pim: {message}\n"
    assert not (tmp_path / "out.onnx").exists()


def test_places_and_the_chip_in_other_forms(tmp_path: Path) -> None:
    save(network(), tmp_path)
    np.savez(tmp_path / "data.npz", **network().inputs)
    model, data, out = (str(tmp_path / name) for name in ("model.onnx", "data.npz", "out.onnx"))
    with pytest.raises(UserError, match=r"^compute_ratio is given twice: 0\.5 and 0\.4$"):
        compress_onnx(model, data, out, compute_ratio=0.5, options={"compute_ratio": 0.4})
    with pytest.raises(UserError, match=r"^model must be the path of a file, not 3$"):
        compress_onnx(3, data, out)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^options must hold settings by name, not 3$"):
        compress_onnx(model, data, out, options=3)  # type: ignore[arg-type]
    chip = load_chip("isaac-32nm")
    plan, exact = str(tmp_path / "p.safetensors"), str(tmp_path / "exact.onnx")
    summary = compress_onnx(model, data, out, "dense", chip=chip, plan=plan, bit_true=exact, progress=None)
    assert (summary.output, summary.chip) == (out, "isaac-32nm")
    assert all(Path(each).exists() for each in (out, plan, exact))


def test_tuned(tmp_path: Path) -> None:
    """The plan, the written weights and the batch norm are one."""
    (tmp_path / "once").mkdir()
    case = network()
    case.inputs = {"x": random(15, 3, 6, 6)}  # too few to hold some back
    how = {"compute_ratio": 0.4, "plan": tmp_path / "plan.safetensors"}
    once, _ = compressed(tmp_path / "once", case, **how)
    summary, _ = compressed(
        tmp_path, case, tune={"steps": 40, "rate": 0.002, "mixed": 0}, bit_true=tmp_path / "true.onnx", **how
    )
    result = summary.check.tuning
    assert result is not None
    assert result.taken
    assert result.after < result.before
    assert once.check.tuning is None
    stored = weights_of(tmp_path / "out.onnx")
    plan = NetworkPlan.load(tmp_path / "plan.safetensors").layers["conv"]
    factor = stored["s"] / np.sqrt(stored["v"].astype("f8") + 1e-5)
    assert not np.array_equal(stored["s"], case.weights["s"])
    weight = stored["conv.weight"].reshape(16, -1) * factor[:, None]
    np.testing.assert_allclose(plan.real_weights(), weight, atol=1e-5 * np.abs(weight).max())
    bias = next(value for name, value in stored.items() if value.shape == (16,) and name.startswith("b"))
    np.testing.assert_allclose(plan.bias, bias - factor * stored["m"], atol=1e-3 * np.abs(plan.bias).max())


def test_a_model_that_cannot_be_tuned_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = network()
    case.nodes[2] = node("Mish", "2", "3")
    save(case, tmp_path, 18)
    np.savez(tmp_path / "data.npz", **case.inputs)
    command = ["compress", str(tmp_path / "model.onnx"), "--calibration", str(tmp_path / "data.npz"), "--ratio", "0.5"]
    command += ["--output", str(tmp_path / "out.onnx"), "--quiet"]
    assert main([*command, "--tune", "2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "prap-pim: tune: torch has no derivative for operator Mish of this model"
    ]
    assert not (tmp_path / "out.onnx").exists()
    for wrong, message in (
        (["--tune", "2", "--set", "tune.steps=3"], "steps is given twice: 2 and 3"),
        (["--tune", "0"], "tune: steps: must be at least 1, not 0"),
        (["--set", "tune.step=3"], "tune: unknown key 'step' (did you mean 'steps'?)"),
    ):
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err
