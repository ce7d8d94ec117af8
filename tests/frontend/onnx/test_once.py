"""Inputs without a batch, with the batch on another axis, and branches that follow from what is given once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from prap_pim.__main__ import main
from prap_pim.api.onnx import compress_onnx, together
from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx import OnnxFile, capture_onnx, read_inputs
from tests.frontend.onnx.models import Array, node, random, run

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
N = 70


def _model(nodes: Sequence[NodeProto], inputs: Any, outputs: Any, weights: dict[str, Array]) -> ModelProto:
    stored = [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in weights.items()]
    infos = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "made by hand", *infos, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _branch(name: str, nodes: Sequence[NodeProto], outputs: Sequence[str], weights: dict[str, Array]) -> GraphProto:
    stored = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    return helper.make_graph(
        list(nodes), name, [], [onnx.ValueInfoProto(name=each) for each in outputs], initializer=stored
    )


def recurrent(batch: Any = "batch", second: Any = "batch") -> ModelProto:
    """A cell with its state in front of the batch and a rate that chooses between two sets of weights, as Silero's.

    Both branches call their values alike, both read one weight from outside, and in one there is an If again.
    """

    def branch(name: str, seed: int, inner: Sequence[NodeProto]) -> GraphProto:
        nodes = [
            helper.make_node("Constant", [], ["v"], value=numpy_helper.from_array(random(8, 16, seed=seed))),
            node("MatMul", "x w", "m"),
            node("Gather", "state 0", "h", axis=0),
            node("MatMul", "h shared", "r"),
            node("Add", "m r", "s"),
            node("Tanh", "s", "t"),
            node("MatMul", "t v", "u"),
            *inner,
            node("Gather", "state 1", "c", axis=0),
        ]
        return _branch(name, nodes, ["z", "c"], {"w": random(6, 8, seed=seed + 1)})

    deeper = _branch("deeper", [node("MatMul", "u w", "m2"), node("Relu", "m2", "d")], ["d"], {"w": random(16, 16)})
    other = _branch("other", [node("Neg", "u", "d")], ["d"], {})
    nested = [
        node("Greater", "sr low", "is_more"),
        helper.make_node("If", ["is_more"], ["z"], name="inner", then_branch=deeper, else_branch=other),
    ]
    nodes = [
        node("Equal", "sr high", "is_high"),
        helper.make_node(
            "If",
            ["is_high"],
            ["p", "q"],
            name="rate",
            then_branch=branch("then", 1, nested),
            else_branch=branch("else", 5, [node("Relu", "u", "z")]),
        ),
        node("MatMul", "p head", "y"),
        node("Unsqueeze", "q axis", "q1"),
        node("Concat", "q1 q1", "next", axis=0),
    ]
    inputs = [("x", FLOAT, [batch, 6]), ("state", FLOAT, [2, second, 8]), ("sr", INT, [])]
    outputs = [("y", FLOAT, [batch, 4]), ("next", FLOAT, [2, second, 8])]
    weights = {
        "shared": random(8, 8),
        "head": random(16, 4),
        "0": np.array(0),
        "1": np.array(1),
        "axis": np.array([0]),
        "high": np.array(16000),
        "low": np.array(100),
    }
    return _model(nodes, inputs, outputs, weights)


def given(rate: int = 16000, count: int = N) -> dict[str, Array]:
    return {"x": random(count, 6), "state": random(2, count, 8), "sr": np.array(rate)}


def put(folder: Path, model: ModelProto, arrays: dict[str, Array]) -> tuple[Path, Path]:
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", **arrays)
    return folder / "model.onnx", folder / "data.npz"


@pytest.mark.parametrize(("rate", "layers"), [(16000, 5), (8000, 4)])
@pytest.mark.parametrize("names", [("batch", "batch"), (None, None), ("N", "other")])
def test_it_computes_the_same(names: tuple[Any, Any], rate: int, layers: int, tmp_path: Path) -> None:
    model, data = put(tmp_path, recurrent(*names), given(rate))
    file, batches = read_inputs(OnnxFile.read(model), data)
    assert file.axes == {"state": 1}
    assert list(file.once) == ["sr"]
    assert [tuple(tuple(each.shape) for each in batch) for batch in batches] == [
        ((64, 6), (64, 2, 8)),
        ((6, 6), (6, 2, 8)),
    ]
    found = capture_onnx(file, batches[0])
    assert len(found.captured.network.layers) == layers
    assert found.captured.unsupported == {}
    with torch.no_grad():
        outputs = [
            np.concatenate(each, axis) for axis, each in enumerate(zip(*map(_outputs(found), batches), strict=True))
        ]
    for own, other in zip(run(str(model), given(rate)), outputs, strict=True):
        np.testing.assert_allclose(other, own, rtol=1e-4, atol=1e-4)


def _outputs(found: Any) -> Any:
    return lambda batch: [each.numpy() for each in found.captured.module(*batch)]


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_the_other_branch_is_as_it_was(ratio: float, tmp_path: Path) -> None:
    model, data = put(tmp_path, recurrent(), given())
    out = tmp_path / "out.onnx"
    summary = compress_onnx(model, data, out, compute_ratio=ratio)
    assert summary.once == {"sr": "16000"}
    assert summary.batch_axes == {"state": 1}
    assert summary.branches == {"rate": "then_branch", "inner": "then_branch"}
    assert summary.compute_ratio <= ratio
    assert _signature(model) == _signature(out)
    assert "sr" not in {each.name for each in onnx.load(out).graph.initializer}
    for rate in (16000, 50, 8000):
        before, after = run(str(model), given(rate)), run(str(out), given(rate))
        if rate == 16000:  # int8 leaves 30 dB and more
            noise = np.square(before[0] - after[0]).sum() / np.square(before[0]).sum()
            assert 0 < noise < (10**-3 if ratio == 1 else 0.5)
            signal = np.square(before[0] - before[0].mean(0)).sum()
            wanted = 10 * np.log10(signal / np.square(before[0] - after[0]).sum())
            assert summary.outputs[0].sqnr_db == pytest.approx(wanted, abs=0.01)
        else:  # the head behind it is compressed for all
            assert not np.array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[1], after[1])
    written = {each.name: each for each in onnx.load(out).graph.node}
    for part in ("then_branch", "else_branch"):
        own, old = (_weights(written["rate"], part), _weights(_node(model, "rate"), part))
        assert (own == old) == (part == "else_branch")


def _node(path: Path, name: str) -> NodeProto:
    return next(each for each in onnx.load(path).graph.node if each.name == name)


def _weights(node: NodeProto, part: str) -> list[bytes]:
    graph = next(each.g for each in node.attribute if each.name == part)
    constants = [each.attribute[0].t for each in graph.node if each.op_type == "Constant"]
    return [numpy_helper.to_array(each).tobytes() for each in (*graph.initializer, *constants)]


def _signature(path: Path) -> list[bytes]:
    graph = onnx.load(path).graph
    return [each.SerializeToString() for each in (*graph.input, *graph.output)]


def test_a_weight_of_both_branches_changes_in_one(tmp_path: Path) -> None:
    """Without a product behind the branches, the other rate gives what it gave, bit for bit."""
    whole = recurrent()
    whole.graph.node[2].CopyFrom(node("Identity", "p", "y"))
    del whole.graph.output[0].type.tensor_type.shape.dim[1]
    whole.graph.output[0].type.tensor_type.shape.dim.add(dim_value=16)
    model, data = put(tmp_path, whole, given())
    summary = compress_onnx(model, data, tmp_path / "out.onnx", compute_ratio=0.5)
    assert len(summary.layers) == 4
    for rate in (16000, 8000):
        before, after = (run(str(tmp_path / name), given(rate))[0] for name in ("model.onnx", "out.onnx"))
        assert np.array_equal(before, after) == (rate == 8000)


def test_one_input_at_a_time(tmp_path: Path) -> None:
    """A model of a fixed batch of 1 with a state of [2, 1, 8]: its inputs are put together, the plan is the same."""
    plans = []
    for names in (("batch", "batch"), (1, 1)):
        model, data = put(tmp_path, recurrent(*names), given())
        summary = compress_onnx(model, data, tmp_path / "out.onnx", method="similar", compute_ratio=0.5)
        assert summary.inputs == N
        plans.append(summary.plan_sha256)
    assert plans[0] == plans[1]


def test_one_at_a_time_are_put_together_on_any_axis(tmp_path: Path) -> None:
    """An output with the batch in its second place, as in the state that it is."""
    whole = _plain(("x", FLOAT, [1, 6]), ("h", FLOAT, [2, 1, 5]))
    model, data = put(tmp_path, whole, {"x": random(N, 6), "h": random(2, N, 5)})
    file, batches = read_inputs(OnnxFile.read(model), data)
    assert len(batches) == N
    found = capture_onnx(file, batches[0])
    assert [len(batch[0]) for batch in together(found, batches)] == [64, 6]


def _plain(*inputs: Any) -> ModelProto:
    """x w, and inputs of which nothing is made but outputs."""
    others = [each for each in inputs if each[0] != "x"]
    nodes = [node("MatMul", "x w", "y"), *(node("Identity", each[0], f"{each[0]}_out") for each in others)]
    outputs = [("y", FLOAT, [None, 4]), *((f"{name}_out", kind, [None] * len(sizes)) for name, kind, sizes in others)]
    return _model(nodes, inputs, outputs, {"w": random(6, 4)})


X = ("x", FLOAT, ["batch", 6])


@pytest.mark.parametrize(
    ("inputs", "arrays", "asked", "axes", "once"),
    [
        ([X, ("r", INT, [])], {"r": np.array(3)}, {}, {}, {"r": ()}),
        ([X, ("r", INT, [])], {"r": np.array([3])}, {}, {}, {"r": ()}),
        ([X, ("r", INT, [1])], {"r": np.array(3)}, {}, {}, {"r": (1,)}),
        ([("r", INT, []), X], {"r": np.array(3)}, {}, {}, {"r": ()}),
        ([X, ("h", FLOAT, [1, 1, 5])], {"h": random(1, 1, 5)}, {}, {}, {"h": (1, 1, 5)}),
        ([("h", FLOAT, [1, 1, 5]), X], {"h": random(1, 1, 5)}, {}, {}, {"h": (1, 1, 5)}),
        ([("h", FLOAT, [2, "batch", 5]), X], {"h": random(2, 9, 5)}, {}, {"h": 1}, {}),
        ([("h", FLOAT, [2, None, 5]), X], {"h": random(2, 9, 5)}, {}, {"h": 1}, {}),
        ([X, ("h", FLOAT, [5, 2, "batch"])], {"h": random(5, 2, 9)}, {}, {"h": 2}, {}),
        ([X, ("h", FLOAT, [9, None, 5])], {"h": random(9, 9, 5)}, {}, {"h": 1}, {}),
        ([X, ("h", FLOAT, [None, None, None])], {"h": random(9, 9, 9)}, {}, {}, {}),
        ([X, ("h", FLOAT, [None, None, None])], {"h": random(9, 9, 9)}, {"h": 2}, {"h": 2}, {}),
        ([X, ("h", FLOAT, [None, None, None])], {"h": random(9, 9, 9)}, {"h": -2}, {"h": 1}, {}),
        ([X, ("h", FLOAT, [None, 5])], {"h": random(9, 5)}, {"h": None}, {}, {"h": (9, 5)}),
        ([X, ("h", FLOAT, [None, 5])], {"h": random(2, 5)}, {"h": None}, {}, {"h": (2, 5)}),
        ([("x", FLOAT, [3, 6]), ("h", FLOAT, [2, 3, 5])], {"h": random(2, 9, 5)}, {}, {"h": 1}, {}),
        ([("x", FLOAT, [3, 6]), ("h", FLOAT, [2, 3, 5])], {"h": random(2, 3, 5)}, {}, {}, {"h": (2, 3, 5)}),
    ],
)
def test_where_the_batch_is(
    inputs: Any, arrays: Any, asked: Any, axes: dict[str, int], once: dict[str, Any], tmp_path: Path
) -> None:
    model, data = put(tmp_path, _plain(*inputs), {"x": random(9, 6), **arrays})
    file, batches = read_inputs(OnnxFile.read(model), data, asked)
    assert file.axes == axes
    assert {name: value.shape for name, value in file.once.items()} == once
    for i, name in enumerate(each.name for each in file.inputs):
        whole = np.concatenate([batch[i].numpy() for batch in batches])
        np.testing.assert_array_equal(np.moveaxis(whole, 0, axes.get(name, 0)), {"x": random(9, 6), **arrays}[name])


@pytest.mark.parametrize(
    ("inputs", "arrays", "asked", "why"),
    [
        ([X, ("r", INT, [])], {"r": np.full(9, 3)}, {}, r"array r is \[9\], the model takes one number, the same"),
        ([X, ("h", FLOAT, [2, None, 5])], {"h": random(2, 8, 5)}, {}, "none of its axes holds the 9 inputs.*h=none"),
        ([X, ("h", FLOAT, [2, "batch", 5])], {"h": random(2, 8, 5)}, {}, "hold 9, 8 inputs.*--batch-axis"),
        ([X, ("h", FLOAT, [2, None, None])], {"h": random(2, 9, 9)}, {}, "axes 1 and 2 hold the 9 inputs: name"),
        ([X, ("h", FLOAT, [2, "batch", 5])], {"h": random(3, 9, 5)}, {}, r"\[3, 9, 5\], the model takes \[2, N, 5\]"),
        ([X, ("h", FLOAT, [2, 1, 5])], {"h": random(2, 9, 5)}, {}, r"\[2, 9, 5\], the model takes \[2, 1, 5\]"),
        ([X, ("h", FLOAT, [2, None, 5])], {"h": random(2, 9, 5)}, {"h": 3}, "has 3 dimensions, so no axis 3"),
        ([X, ("h", FLOAT, [2, None, 5])], {"h": random(2, 9, 5)}, {"g": 1}, "no input 'g'.*allowed: h, x"),
        ([X, ("r", INT, [])], {"r": np.array(3)}, {"r": 0}, "has 0 dimensions, so no axis 0"),
        ([X], {}, {"x": None}, "no input of the model has a batch dimension"),
        ([("x", FLOAT, [3, 6]), ("h", FLOAT, [4, 5])], {"h": random(9, 5)}, {}, "batches of 3 and 4"),
        ([X, ("h", FLOAT, [1, 5])], {"h": np.full((1, 5), np.nan)}, {}, "NaN or infinity"),
    ],
)
def test_what_does_not_fit(inputs: Any, arrays: Any, asked: Any, why: str, tmp_path: Path) -> None:
    model, data = put(tmp_path, _plain(*inputs), {"x": random(9, 6), **arrays})
    with pytest.raises(UserError, match=why):
        read_inputs(OnnxFile.read(model), data, asked)


def test_what_is_given_once_is_no_weight(tmp_path: Path) -> None:
    """A matrix that is an input is multiplied by digitally; so is what is the same for every batch."""
    nodes = [
        node("MatMul", "x p", "1"),
        node("MatMul", "h w", "2"),
        node("Add", "1 2", "3"),
        node("MatMul", "3 w", "y"),
    ]
    inputs = [("x", FLOAT, ["batch", 6]), ("p", FLOAT, [6, 8]), ("h", FLOAT, [1, 8])]
    whole = _model(nodes, inputs, [("y", FLOAT, ["batch", 8])], {"w": random(8, 8)})
    arrays = {"x": random(9, 6), "p": random(6, 8), "h": random(1, 8)}
    model, data = put(tmp_path, whole, arrays)
    summary = compress_onnx(model, data, tmp_path / "out.onnx", compute_ratio=1.0)
    assert [layer.name for layer in summary.layers] == ["y"]
    assert summary.digital == {"/2/MatMul (MatMul)": "its input is given once: it is the same for every batch"}
    assert summary.once == {"p": "float32 [6, 8]", "h": "float32 [1, 8]"}
    before, after = (run(str(tmp_path / name), arrays)[0] for name in ("model.onnx", "out.onnx"))
    np.testing.assert_allclose(after, before, atol=0.02 * np.abs(before).max())


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = put(tmp_path, recurrent(None, None), given())
    command = ["compress", str(model), "--calibration", str(data), "-o", str(tmp_path / "out.onnx"), "--ratio", "0.5"]
    assert main([*command, "--batch-axis", "state=1", "--batch-axis", "sr=none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_axes"] == {"state": 1}
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "given once: sr = 16000" in shown
    assert "If rate: its then_branch is compressed; the other branch keeps its weights" in shown
    for wrong, why in (
        (["state"], "NAME=AXIS"),
        (["state=x"], "NAME=AXIS"),
        (["state=1", "state=0"], "twice"),
        (["stat=1"], "did you mean 'state'?"),
    ):
        assert main([*command, "--quiet", *(part for each in wrong for part in ("--batch-axis", each))]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert why in line


def test_a_recurrent_layer_is_named(tmp_path: Path) -> None:
    """An LSTM inside of an If that depends on the data, and one whose steps are the inputs' axis."""
    weights = {"w": random(1, 32, 6), "r": random(1, 32, 8), "a": random(6, 6), "0": np.array(0.0, "f4")}
    lstm = helper.make_node("LSTM", ["s", "w", "r"], ["o", "", ""], name="cell", hidden_size=8)
    then = _branch("then", [lstm, node("Squeeze", "o one", "t")], ["t"], {"one": np.array([1])})
    other = _branch("else", [node("Concat", "s wide", "c", axis=-1)], ["c"], {"wide": random(9, 1, 2)})
    nodes = [
        node("MatMul", "x a", "1"),
        node("Unsqueeze", "1 axis", "s"),
        node("ReduceMax", "1", "2", keepdims=0),
        node("Greater", "2 0", "is"),
        helper.make_node("If", ["is"], ["3"], name="maybe", then_branch=then, else_branch=other),
        node("Transpose", "3", "4", perm=[1, 2, 0]),
        node("Conv", "4 k", "y"),
    ]
    weights |= {"axis": np.array([1]), "k": random(4, 8, 1)}
    whole = _model(nodes, [("x", FLOAT, ["batch", 6])], [("y", FLOAT, [None] * 3)], weights)
    model, data = put(tmp_path, whole, {"x": random(9, 6)})
    file, batches = read_inputs(OnnxFile.read(model), data)
    found = capture_onnx(file, batches[0])
    assert found.captured.unsupported == {
        "maybe (If)": "what is inside of If is not mapped: LSTM",
        "/y/Conv (Conv)": "its input has no batch in front",
    }


@pytest.mark.parametrize(("axis", "mapped"), [(1, True), (0, False)])
def test_a_branch_that_follows_from_sizes(axis: int, mapped: bool, tmp_path: Path) -> None:
    """Of the length, which all inputs have; not of the batch, which may be any."""
    then = _branch("then", [node("MatMul", "x w", "t")], ["t"], {"w": random(6, 8)})
    other = _branch("else", [node("MatMul", "x w", "e")], ["e"], {"w": random(6, 8, seed=1)})
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s at", "l", axis=0),
        node("Equal", "l many", "is"),
        helper.make_node("If", ["is"], ["1"], name="long", then_branch=then, else_branch=other),
        node("MatMul", "1 head", "y"),
    ]
    weights = {"at": np.array(axis), "many": np.array(5 if mapped else 64), "head": random(8, 4)}
    inputs, outputs = [("x", FLOAT, ["batch", "length", 6])], [("y", FLOAT, ["batch", "length", 4])]
    model, data = put(tmp_path, _model(nodes, inputs, outputs, weights), {"x": random(N, 5, 6)})
    summary = compress_onnx(model, data, tmp_path / "out.onnx", compute_ratio=1.0)
    assert len(summary.layers) == 1 + mapped
    assert summary.branches == ({"long": "then_branch"} if mapped else {})
    assert bool(summary.digital) != mapped
    for length in (5, 7):
        x = {"x": random(9, length, 6)}
        before, after = (run(str(tmp_path / name), x)[0] for name in ("model.onnx", "out.onnx"))
        np.testing.assert_allclose(after, before, atol=0.03 * np.abs(before).max())
    old, new = (_weights(_node(path, "long"), "else_branch") for path in (model, tmp_path / "out.onnx"))
    assert old == new


def test_a_recurrent_layer_is_counted(tmp_path: Path) -> None:
    """Each weight is multiplied by once for every step."""
    lstm = helper.make_node("LSTM", ["s", "w", "r"], ["o", "", ""], name="cell", hidden_size=8)
    nodes = [node("Transpose", "x", "s", perm=[1, 0, 2]), lstm, node("Gather", "o last", "l", axis=0)]
    nodes += [node("Squeeze", "l zero", "q"), node("MatMul", "q h", "y")]
    weights = {"w": random(1, 32, 6), "r": random(1, 32, 8), "h": random(8, 4)}
    weights |= {"last": np.array(-1), "zero": np.array([0])}
    whole = _model(nodes, [("x", FLOAT, ["batch", 7, 6])], [("y", FLOAT, ["batch", 4])], weights)
    model, data = put(tmp_path, whole, {"x": random(9, 7, 6)})
    file, batches = read_inputs(OnnxFile.read(model), data)
    found = capture_onnx(file, batches[0]).captured
    assert [(each.rows, each.filters, each.positions) for each in found.network.layers] == [
        (6, 32, 7),
        (8, 32, 7),
        (8, 4, 1),
    ]
    assert not found.unsupported
