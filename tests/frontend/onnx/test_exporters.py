"""Files as exporters write them: torch's two, and onnx's own helper. What each computes is what the model computes, and
its layers are those that torch's tracer finds, or one line says what stays digital."""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from prap_pim.api.onnx import compress_onnx
from prap_pim.frontend import capture
from prap_pim.frontend.onnx.file import OnnxFile
from prap_pim.frontend.onnx.lower import OnnxCapture, capture_onnx
from tests.frontend.onnx.models import Mixed


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, stride=2)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(torch.relu(self.norm(self.conv(x))))
        return self.head(self.attention(x.flatten(2).transpose(1, 2)).mean(1))


class Choosing(nn.Module):
    """By the values of its inputs, which is an If of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cond(x.sum() > 0, self.one, self.other, (x,)))


class Repeating(nn.Module):
    """As often as the input is long, which is a Loop of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for _ in range(x.shape[0]):
            y = torch.tanh(self.again(y))
        return y


@pytest.fixture(autouse=True)
def in_silence() -> Iterator[None]:
    """What exporters warn and log of."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def by_dynamo(model: nn.Module, x: Tensor, path: Path, opset: int = 20, external: bool = False) -> OnnxFile:
    pytest.importorskip("onnxscript")
    batch = {"x": {0: torch.export.Dim("n", min=2)}}
    how = {"input_names": ["x"], "dynamic_shapes": batch, "opset_version": opset, "verbose": False}
    torch.onnx.export(model, (x,), dynamo=True, **how).save(str(path), external_data=external)
    return OnnxFile.read(path)


def by_script(model: nn.Module, x: Tensor, path: Path, opset: int = 17) -> OnnxFile:
    how = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}, "opset_version": opset}
    torch.onnx.export(model, (x,), str(path), dynamo=False, **how)
    return OnnxFile.read(path)


def sizes(layers: tuple[object, ...]) -> list[tuple[int, int, int]]:
    return sorted((each.rows, each.filters, each.positions) for each in layers)


def same(found: OnnxCapture, model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(found.captured.module(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("export", [by_dynamo, by_script])
@pytest.mark.parametrize(("kind", "shape"), [(Vision, (4, 3, 9, 9)), (Mixed, (4, 7, 8))])
def test_the_layers_that_torch_finds(
    kind: type[nn.Module], shape: tuple[int, ...], export: Callable[..., OnnxFile], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(shape)
    found = capture_onnx(export(model, x, tmp_path / "model.onnx"), (x,))
    assert not found.captured.unsupported
    assert sizes(found.captured.network.layers) == sizes(capture(model, x, "model").network.layers)
    same(found, model, x)


@pytest.mark.parametrize("opset", [18, 23])
def test_opsets_of_the_dynamo_exporter(opset: int, tmp_path: Path) -> None:
    """23 brought Attention, which is counted as torch's own attention is."""
    torch.manual_seed(0)
    model, x = Vision().eval(), torch.randn(4, 3, 9, 9)
    found = capture_onnx(by_dynamo(model, x, tmp_path / "model.onnx", opset), (x,))
    assert sizes(found.captured.network.layers) == sizes(capture(model, x, "model").network.layers)
    same(found, model, x)


def test_names_are_those_of_modules(tmp_path: Path) -> None:
    """Also where the exporter has transposed a weight beforehand, which then has no name of its own."""
    model, x = Vision().eval(), torch.randn(4, 3, 9, 9)
    file = by_dynamo(model, x, tmp_path / "model.onnx")
    names = [layer.name for layer in capture_onnx(file, (x,)).captured.network.layers]
    assert names[:2] == ["conv", "depthwise"]
    assert names[3:] == ["attention.self_attn.out_proj", "attention.linear1", "attention.linear2", "head"]


def test_external_data(tmp_path: Path) -> None:
    model, x = Vision().eval(), torch.randn(4, 3, 9, 9)
    file = by_dynamo(model, x, tmp_path / "model.onnx", external=True)
    assert [path.name for path in file.external] == ["model.onnx.data"]
    same(capture_onnx(file, (x,)), model, x)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((40, 3, 9, 9), np.float32))
    summary = compress_onnx(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "small.onnx", "dense")
    assert (tmp_path / "small.onnx.data").exists()
    assert min(each.sqnr_db for each in summary.outputs) > 30


def test_a_choice_by_values_stays_digital_in_one_line(tmp_path: Path) -> None:
    model, x = Choosing().eval(), torch.randn(4, 6)
    found = capture_onnx(by_dynamo(model, x, tmp_path / "model.onnx"), (x,))
    assert [layer.name for layer in found.captured.network.layers] == ["last"]
    (reason,) = found.captured.unsupported.values()
    assert reason == "products inside of If are not mapped"
    for sign in (1, -1):
        same(found, model, sign * x.abs())


def test_a_loop_stays_digital_in_one_line(tmp_path: Path) -> None:
    model, x = torch.jit.script(Repeating().eval()), torch.randn(4, 4)
    found = capture_onnx(by_script(model, x, tmp_path / "model.onnx"), (x,))
    assert [layer.name for layer in found.captured.network.layers] == ["first"]
    assert list(found.captured.unsupported.values()) == ["products inside of Loop are not mapped"]
    same(found, model, x)


def _initial(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(len(name)).standard_normal(shape, np.float32), name)


def _saved(path: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto], **more: object) -> OnnxFile:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 3)))
    graph = helper.make_graph(nodes, "made", [x], [y], weights)
    onnx.save(helper.make_model(graph, ir_version=10, **more), path)
    return OnnxFile.read(path)


def test_local_functions_that_call_one_another(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    product = helper.make_node("MatMul", ["x", "w"], ["p"])
    dense = helper.make_function(
        "own", "Dense", ["x", "w", "b"], ["y"], [product, helper.make_node("Add", ["p", "b"], ["y"])], opsets
    )
    inner = [
        helper.make_node("Dense", ["x", "w", "b"], ["d"], domain="own"),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    block = helper.make_function("own", "Block", ["x", "w", "b"], ["y"], inner, opsets)
    nodes = [
        helper.make_node("Block", ["x", "w1", "b1"], ["a"], domain="own"),
        helper.make_node("Block", ["a", "w2", "b2"], ["y"], domain="own"),
    ]
    weights = [_initial("w1", 4, 6), _initial("b1", 6), _initial("w2", 6, 3), _initial("b2", 3)]
    file = _saved(tmp_path / "m.onnx", nodes, weights, functions=[dense, block], opset_imports=opsets)
    x = np.random.default_rng(1).standard_normal((5, 4), np.float32)
    found = capture_onnx(file, (torch.from_numpy(x),)).captured
    assert sizes(found.network.layers) == [(4, 6, 1), (6, 3, 1)]
    assert not found.unsupported
    (wanted,) = ReferenceEvaluator(str(file.path)).run(None, {"x": x})
    np.testing.assert_allclose(found.module(torch.from_numpy(x)).numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_scan_stays_digital_in_one_line(tmp_path: Path) -> None:
    """Along the second axis; a product with a weight before it is a layer."""
    kinds = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("state", "each", "out", "seen")
    )
    state, each, out, seen = kinds
    body = [
        helper.make_node("MatMul", ["state", "inner"], ["turned"]),
        helper.make_node("Add", ["turned", "each"], ["out"]),
        helper.make_node("Identity", ["out"], ["seen"]),
    ]
    graph = helper.make_graph(body, "body", [state, each], [out, seen], [_initial("inner", 3, 3)])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "zero"], ["begin"]),
        helper.make_node("Unsqueeze", ["h", "axis"], ["h1"]),
        helper.make_node("Scan", ["begin", "h1"], ["y", "all"], num_scan_inputs=1, scan_input_axes=[1], body=graph),
    ]
    zero = numpy_helper.from_array(np.zeros(3, np.float32), "zero")
    axis = numpy_helper.from_array(np.array([1]), "axis")
    weights = [_initial("w", 4, 3), zero, axis]
    file = _saved(tmp_path / "m.onnx", nodes, weights, opset_imports=[helper.make_opsetid("", 18)])
    x = np.random.default_rng(1).standard_normal((5, 4), np.float32)
    found = capture_onnx(file, (torch.from_numpy(x),)).captured
    assert sizes(found.network.layers) == [(4, 3, 1)]
    assert list(found.unsupported.values()) == ["products inside of Scan are not mapped"]
    (wanted,) = onnxruntime.InferenceSession(file.path).run(None, {"x": x})
    np.testing.assert_allclose(found.module(torch.from_numpy(x)).numpy(), wanted, rtol=1e-4, atol=1e-5)
