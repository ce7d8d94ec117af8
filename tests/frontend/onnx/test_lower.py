"""The captured network computes what onnxruntime makes of the file, whatever the operators and the opset."""

import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.frontend import capture
from prap_pim.frontend.onnx import OnnxCapture, OnnxFile, capture_onnx
from prap_pim.ir.network import Call, DigitalOp
from tests.frontend.onnx.models import CASES, NEWEST, OPSETS, Case, Mixed, node, random, run, save, sizes, tied


def captured(case: Case, folder: Path, opset: int = 17) -> OnnxCapture:
    file = OnnxFile.read(save(case, folder, opset))
    return capture_onnx(file, case.tensors())


def outputs(found: Tensor | tuple[Tensor, ...]) -> list[np.ndarray]:
    return [each.detach().numpy() for each in ((found,) if isinstance(found, Tensor) else found)]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same(name: str, opset: int, tmp_path: Path) -> None:
    if name == "dequantised" and opset == NEWEST:
        pytest.skip("onnxruntime 1.32 has no DequantizeLinear of opset 28")
    case = CASES[name]()
    found = captured(case, tmp_path, opset)
    assert len(found.captured.network.layers) == case.layers
    wanted = run(str(tmp_path / "model.onnx"), case.inputs)
    with torch.no_grad():
        given = outputs(found.captured.module(*case.tensors()))
    tolerance = 1e-2 if name == "float16" else 2e-5
    for one, other in zip(wanted, given, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other.astype("f8"), one.astype("f8"), atol=tolerance * np.abs(one).max())


@torch.no_grad()
def test_any_batch_goes_through(tmp_path: Path) -> None:
    found = captured(tied(), tmp_path).captured.module
    x = tied().tensors()[0]
    torch.testing.assert_close(found(torch.cat([x, x, x]))[-4:], found(x))


def test_a_weight_is_stored_once(tmp_path: Path) -> None:
    found = captured(tied(), tmp_path)
    nodes = list(found.captured.network)
    assert sorted(len(each) for each in found.calls.values()) == [1, 2, 2]  # the table's lookup is no product
    assert sum(isinstance(node, Call) for node in nodes) == 2
    lookups = [node for node in nodes if isinstance(node, DigitalOp) and node.op == "embedding"]
    assert [each.output_elements for each in lookups] == [6 * 8]


def test_digital_work_is_counted(tmp_path: Path) -> None:
    network = captured(sizes(), tmp_path).captured.network
    ops = {node.op: node for node in network if isinstance(node, DigitalOp)}
    assert ops["matmul"].macs == 2 * 6 * 6 * 4  # heads, queries, keys, width: of one inference
    assert ops["softmax"].input_elements == 2 * 6 * 6
    assert not {"shape", "gather", "range", "unsqueeze"} & set(ops)  # sizes are no work


def test_what_stays_digital_is_told(tmp_path: Path) -> None:
    weights = {"a": random(5, 6), "b": random(2, 6, 6), "c": random(3, 4), "e": random(6, 6)}
    then = helper.make_graph(
        [node("MatMul", "3 e", "t")], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [node("Neg", "3", "f")], "else", [], [helper.make_tensor_value_info("f", TensorProto.FLOAT, None)]
    )
    case = Case(
        nodes=[
            node("MatMul", "x a", "1"),
            node("MatMul", "1 b", "2"),
            node("MatMul", "c 2", "3"),
            node("ReduceMax", "3", "m", keepdims=0),
            node("Greater", "m zero", "is"),
            helper.make_node("If", ["is"], ["4"], then_branch=then, else_branch=other),
            helper.make_node("Einsum", ["4", "square"], ["y"], equation="bij,jj->bij"),
        ],
        weights=weights | {"zero": np.array(0, "f4"), "square": random(6, 6)},
        inputs={"x": random(2, 4, 5)},
    )
    assert captured(case, tmp_path).captured.unsupported == {
        "4 (If)": "products inside of If are not mapped",
        "y (Einsum)": "a weight [6, 6] cannot be mapped: it reads a diagonal",
    }


def test_names_lead_to_modules(tmp_path: Path) -> None:
    found = captured(CASES["hostile names"](), tmp_path)
    names = [layer.name for layer in found.captured.network.layers]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"\w+(\.\w+)*", name, flags=re.ASCII)
        assert isinstance(found.captured.module.get_submodule(name), nn.Linear)


def test_a_random_model_is_refused(tmp_path: Path) -> None:
    case = Case(
        nodes=[node("RandomNormalLike", "x", "1"), node("MatMul", "1 w", "y")],
        weights={"w": random(5, 5)},
        inputs={"x": random(4, 5)},
    )
    with pytest.raises(UserError, match="is it random"):
        captured(case, tmp_path)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no layer that can be mapped"):
        captured(Case([node("Relu", "x", "y")], {}, {"x": random(4, 5)}), tmp_path)


def test_a_model_whose_products_all_stay_digital_says_why(tmp_path: Path) -> None:
    weights = {"w": random(1, 24, 5), "r": random(1, 24, 6)}
    case = Case([node("LSTM", "x w r", "y", hidden_size=6)], weights, {"x": random(4, 3, 5)})  # batch in front
    message = r"mapped on crossbars: /y/LSTM \(LSTM\): .* not mapped with its batch in another place$"
    with pytest.raises(UserError, match=message):
        captured(case, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(value: float, tmp_path: Path) -> None:
    weight = random(5, 5)
    weight[2, 3] = value
    with pytest.raises(UserError, match=r"layer w\.0: its weight holds NaN or infinity"):
        captured(Case([node("MatMul", "x w.0.weight", "y")], {"w.0.weight": weight}, {"x": random(4, 5)}), tmp_path)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    case = Case([node("MatMul", "x w", "y")], {"w": np.arange(10).reshape(5, 2)}, {"x": np.arange(20).reshape(4, 5)})
    with pytest.raises(UserError, match="no layer that can be mapped"):
        captured(case, tmp_path)


def test_an_exported_network(tmp_path: Path) -> None:
    """What torch itself exports, with batch norm left as it is, has the layers that torch's own tracer finds."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8, stride=2)
            self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.depthwise(torch.relu(self.norm(self.conv(x))))
            return self.head(self.attention(x.flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(0)
    model, x = Network(), torch.randn(4, 3, 9, 9)
    model(x)
    model.eval()
    how = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}, "opset_version": 17, "do_constant_folding": False}
    training = torch.onnx.TrainingMode.PRESERVE  # batch norm is folded into the weights otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of this exporter's age
        torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=False, training=training, **how)
    found = capture_onnx(OnnxFile.read(tmp_path / "model.onnx"), (x,))
    names = ["conv", "depthwise", "attention.self_attn.MatMul", "attention.self_attn.out_proj"]
    assert [layer.name for layer in found.captured.network.layers] == [
        *names,
        "attention.linear1",
        "attention.linear2",
        "head",
    ]
    assert found.captured.folded == {"conv": "norm"}
    theirs = {layer.name: layer for layer in capture(model, x, "model").network.layers}
    for layer in found.captured.network.layers:
        own = theirs[layer.name.replace("self_attn.MatMul", "self_attn.in_proj")]
        assert (layer.rows, layer.filters, layer.positions) == (own.rows, own.filters, own.positions)
        np.testing.assert_array_equal(layer.weight, own.weight)
        np.testing.assert_array_equal(layer.filter_bias, own.filter_bias)
    with torch.no_grad():
        torch.testing.assert_close(found.captured.module(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_recurrent_layers_and_experts_as_torch_exports_them(tmp_path: Path) -> None:
    model, x, path = Mixed().eval(), torch.randn(4, 7, 8), tmp_path / "mixed.onnx"
    how = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}, "dynamo": False}
    torch.onnx.export(model, (x,), str(path), **how)
    found = capture_onnx(OnnxFile.read(path), (x,)).captured
    assert not found.unsupported
    own = capture(model, x, "net").network  # the same layers, whichever way they come
    shapes = [[(each.rows, each.filters, each.positions) for each in net.layers] for net in (own, found.network)]
    assert sorted(shapes[0]) == sorted(shapes[1])
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_padding_beyond_all_memory_is_refused(tmp_path: Path) -> None:
    """Of 2**62 rows on one side alone, which a module of its own makes."""
    conv = node("Conv", "x w", "y", pads=[2, 1, 0, 1])
    case = Case([conv], {"w": random(4, 1, 3, 3)}, {"x": random(2, 1, 6, 6)})
    path = save(case, tmp_path)
    model = onnx.load(path)
    (pads,) = [each for each in model.graph.node[0].attribute if each.name == "pads"]
    pads.ints[0] = 2**62
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"model\.onnx: node .*Conv"):
        capture_onnx(OnnxFile.read(path), case.tensors())
