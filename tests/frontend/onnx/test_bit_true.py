"""A file that computes as the crossbars do: onnxruntime gives what the bit-true network gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from prap_pim.api import onnx as api
from prap_pim.api.onnx import compress_onnx
from prap_pim.common.errors import UserError
from prap_pim.frontend.quantize import InputGrid
from prap_pim.ir.plan import NetworkPlan
from tests.frontend.onnx.models import Case, node, random, run, save

RNG = np.random.default_rng(0)


def model(folder: Path, opset: int = 17, dtype: type = np.float32) -> Path:
    """A padded convolution with batch norm, ReLU, another convolution without bias, and a product."""

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((RNG.standard_normal(shape) / 3).astype(dtype), name)

    ones = numpy_helper.from_array(RNG.uniform(0.5, 2, 6).astype(dtype), "variance")
    made = [weight("one", 6, 3, 3, 3), weight("scale", 6), weight("shift", 6), weight("mean", 6), ones]
    made += [weight("two", 4, 6, 3, 3), weight("three", 4, 5)]
    nodes = [
        helper.make_node("Conv", ["x", "one"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "two"], ["d"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "three"], ["y"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", kind, ["n", 5])], made)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def calibration(folder: Path, dtype: type = np.float32) -> Path:
    path = folder / "data.npz"
    np.savez(path, x=RNG.uniform(0, 1, (40, 3, 8, 8)).astype(dtype))
    return path


@pytest.mark.parametrize("method", ["dense", "calibrated", "orc"])
def test_onnxruntime_gives_what_integers_give(tmp_path: Path, method: str) -> None:
    path, data, plan_file = model(tmp_path), calibration(tmp_path), tmp_path / "plan.safetensors"
    written = tmp_path / "exact.onnx"
    ratio = None if method == "dense" else 0.6
    found = compress_onnx(
        path, data, tmp_path / "small.onnx", method, compute_ratio=ratio, plan=plan_file, bit_true=written
    )
    assert str(written) in found.files
    (exact,) = found.bit_true_outputs or []
    assert exact.sqnr_db is None or exact.sqnr_db > 50
    x = RNG.uniform(0, 1, (9, 3, 8, 8)).astype(np.float32)
    given = onnxruntime.InferenceSession(written).run(None, {"x": x})[0]
    np.testing.assert_allclose(given, by_hand(NetworkPlan.load(plan_file), x), rtol=1e-3, atol=1e-4)


def by_hand(plan: NetworkPlan, x: np.ndarray) -> np.ndarray:
    """Integers from their zero on, window after window; scale and bias from the plan."""

    def integers(name: str, x: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(x / np.float32(plan.input_step[name])) + zero(name), -128, 127) - zero(name)

    def zero(name: str) -> int:
        return plan.input_zero[name]

    def conv(name: str, x: np.ndarray, stride: int) -> np.ndarray:
        layer, q = plan.layers[name], np.pad(integers(name, x), ((0, 0), (0, 0), (1, 1), (1, 1)))
        size = (x.shape[2] - 1) // stride + 1
        out = np.zeros((len(x), layer.filters, size, size))
        for i in range(size):
            for j in range(size):
                window = q[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3].reshape(len(x), -1)
                out[:, :, i, j] = window @ layer.real_weights().T * plan.input_step[name] + layer.bias
        return out

    first, second, third = plan.layers
    hidden = conv(second, np.maximum(conv(first, x, 1), 0), 2).mean((2, 3))
    layer = plan.layers[third]
    return integers(third, hidden) @ layer.real_weights().T * plan.input_step[third] + layer.bias


def test_layers_left_whole_inside_of_nodes_that_take_no_bias(tmp_path: Path) -> None:
    weights = {"up": random(4, 3, 3), "heads": random(3, 2, 5)}
    nodes = [
        node("ConvTranspose", "x up", "1", strides=[2]),  # [40, 3, 9]
        node("Relu", "1", "2"),
        helper.make_node("Einsum", ["2", "heads"], ["y"], equation="bct,chk->bthk"),
    ]
    case = Case(nodes, weights, {"x": random(40, 4, 4)})
    data, exact = tmp_path / "data.npz", tmp_path / "exact.onnx"
    np.savez(data, **case.inputs)
    compress_onnx(save(case, tmp_path), data, tmp_path / "small.onnx", "dense", bit_true=exact)
    (wanted,), (given,) = run(str(tmp_path / "model.onnx"), case.inputs), run(str(exact), case.inputs)
    assert given.shape == wanted.shape
    assert 20 * np.log10(np.linalg.norm(wanted) / np.linalg.norm(wanted - given)) > 30


def test_what_cannot_be_written_so_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path, data = model(tmp_path, dtype=np.float16), calibration(tmp_path, np.float16)
    written, small = tmp_path / "exact.onnx", tmp_path / "small.onnx"
    with pytest.raises(UserError, match="a bit-true file needs opset 11 or later and float32 weights"):
        compress_onnx(path, data, small, "dense", bit_true=written)
    assert not written.exists()
    assert not small.exists()
    with pytest.raises(UserError, match="it would replace the output"):
        compress_onnx(path, data, small, "dense", bit_true=small)


def test_a_file_that_computes_something_else_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose layers read other grids."""
    path, data, written, small = (
        model(tmp_path),
        calibration(tmp_path),
        tmp_path / "exact.onnx",
        tmp_path / "small.onnx",
    )
    grid = api.grid_in

    def coarse(*which: Any) -> InputGrid:
        return replace(grid(*which), step=100 * grid(*which).step)

    monkeypatch.setattr(api, "grid_in", coarse)
    with pytest.raises(UserError, match=r"exact\.onnx: what was written does not compute as the crossbars do: output"):
        compress_onnx(path, data, small, "dense", bit_true=written)
    assert not written.exists()
    assert not small.exists()
    compress_onnx(path, data, small, "dense")
