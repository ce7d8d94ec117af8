"""A written file computes what the captured network computes with the same weights, and differs in nothing else."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from prap_pim.api.onnx import compress_onnx
from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx import OnnxCapture, OnnxFile, capture_onnx, write_onnx
from tests.frontend.onnx.models import CASES, NEWEST, Case, node, of_type, random, run, save, tied
from tests.frontend.onnx.test_lower import captured, outputs


@torch.no_grad()
def changed(found: OnnxCapture, biased: bool) -> nn.Module:
    """The captured network with other weights, statistics and biases; with biases everywhere if ``biased``."""
    module = copy.deepcopy(found.captured.module)
    generator = torch.Generator().manual_seed(0)
    for name in found.calls:
        layer = module.get_submodule(name)
        layer.weight += 0.1 * torch.randn(layer.weight.shape, generator=generator)
        if layer.bias is not None or (biased and found.captured.origins[name].takes_bias):
            layer.bias = nn.Parameter(torch.randn(len(layer.weight), generator=generator))
    for name in found.norms:
        norm = module.get_submodule(name)
        norm.running_mean += 0.1
        norm.running_var *= 1.5
    return module


@pytest.mark.parametrize("opset", [13, NEWEST])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_network_does(name: str, biased: bool, opset: int, tmp_path: Path) -> None:
    if name == "dequantised":
        opset = 13
    case = CASES[name]()
    found = captured(case, tmp_path, opset)
    module = changed(found, biased)
    out = tmp_path / "out.onnx"
    assert write_onnx(found, module, out) == (out,)
    wanted = outputs(module(*case.tensors()))
    tolerance = 1e-2 if name == "float16" else 2e-5
    for one, other in zip(wanted, run(str(out), case.inputs), strict=True):
        np.testing.assert_allclose(other.astype("f8"), one.astype("f8"), atol=tolerance * np.abs(one).max())


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_kept(name: str, tmp_path: Path) -> None:
    """No operator is added where no bias is, weights keep their types, and nothing is left over."""
    case = CASES[name]()
    found = captured(case, tmp_path)
    write_onnx(found, changed(found, False), tmp_path / "out.onnx")
    before, after = (onnx.load(tmp_path / each) for each in ("model.onnx", "out.onnx"))
    gone = {"Constant", "Transpose", "Identity", "Cast", "DequantizeLinear"}  # that led from stored to used weights
    if name != "control flow":  # where a function is written out
        left = [each.op_type for each in after.graph.node if each.op_type not in gone]
        assert left == [each.op_type for each in before.graph.node if each.op_type not in gone]
    assert [each.name for each in after.graph.output] == [each.name for each in before.graph.output]
    assert after.opset_import == before.opset_import
    types = {each.name: each.data_type for each in before.graph.initializer}
    for each in after.graph.initializer:
        assert types.get(each.name, each.data_type) == each.data_type
    if name in ("float16", "float64"):
        assert {each.data_type for each in after.graph.initializer} == set(types.values())
    read = {given for each in after.graph.node for given in each.input} | {each.name for each in after.graph.output}
    inner = {"inner", "const"}  # read by a graph inside a node; read by none before, either
    assert {each.name for each in after.graph.initializer} <= read | inner


def test_a_table_that_is_looked_up_keeps_its_values(tmp_path: Path) -> None:
    case = tied()
    found = captured(case, tmp_path)
    write_onnx(found, changed(found, False), tmp_path / "out.onnx")
    stored = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "out.onnx").graph.initializer
    }
    np.testing.assert_array_equal(stored["table"], case.weights["table"])
    assert {name for name, value in stored.items() if value.size == 88} == {"table", "y.weight"}


def test_a_weight_that_something_else_reads_keeps_its_values(tmp_path: Path) -> None:
    case = Case([node("MatMul", "x w", "1"), node("Mul", "1 w", "y")], {"w": random(5, 5)}, {"x": random(5, 5)})
    found = captured(case, tmp_path)
    module = changed(found, False)
    write_onnx(found, module, tmp_path / "out.onnx")
    wanted = module(*case.tensors()).detach().numpy()  # whose Mul reads the old values
    np.testing.assert_allclose(run(str(tmp_path / "out.onnx"), case.inputs)[0], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["convolutions", "tied", "float16", "passed through"])
def test_weights_beside_the_model(name: str, tmp_path: Path) -> None:
    """A model whose weights lie in another file gets one of its own; it computes the same."""
    case = CASES[name]()
    folder = tmp_path / "in"
    folder.mkdir()
    found = capture_onnx(OnnxFile.read(save(case, folder, external=True)), case.tensors())
    module = changed(found, True)
    out = tmp_path / "out.onnx"
    assert write_onnx(found, module, out) == (tmp_path / "out.onnx.data", out)
    inside = captured(case, tmp_path)
    write_onnx(inside, module, tmp_path / "whole.onnx")
    for one, other in zip(run(str(out), case.inputs), run(str(tmp_path / "whole.onnx"), case.inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    again = OnnxFile.read(out)
    for weight, value in OnnxFile.read(tmp_path / "whole.onnx").weights.items():
        np.testing.assert_array_equal(again.weights[weight], value)


def test_a_large_model_gets_a_file_beside_it(tmp_path: Path) -> None:
    case = Case([node("MatMul", "x w", "y")], {"w": random(40, 30)}, {"x": random(4, 40)})
    found = captured(case, tmp_path)
    module = changed(found, False)
    assert len(write_onnx(found, module, tmp_path / "one.onnx", most=6000)) == 1
    assert len(write_onnx(found, module, tmp_path / "two.onnx", most=4000)) == 2
    assert (tmp_path / "two.onnx.data").stat().st_size >= 4800
    np.testing.assert_array_equal(*(run(str(tmp_path / each), case.inputs)[0] for each in ("one.onnx", "two.onnx")))


def test_half_precision_that_overflows_is_refused(tmp_path: Path) -> None:
    case = of_type("f2")()
    found = captured(case, tmp_path)
    module = copy.deepcopy(found.captured.module)
    module.get_submodule(next(iter(found.calls))).weight.data *= 1e6
    with pytest.raises(UserError, match="out of the range of float16"):
        write_onnx(found, module, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_the_weights_of_the_model_are_not_overwritten(tmp_path: Path) -> None:
    case = tied()
    path = save(case, tmp_path, external=True, name="model.onnx")
    path.with_name("model.onnx.weights").rename(tmp_path / "out.onnx.data")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "out.onnx.data"
    path.write_bytes(model.SerializeToString())
    found = capture_onnx(OnnxFile.read(path), case.tensors())
    with pytest.raises(UserError, match=r"weights of .*model.onnx are in it"):
        write_onnx(found, found.captured.module, tmp_path / "out.onnx")
    data, kept = tmp_path / "out.onnx.data", (tmp_path / "out.onnx.data").read_bytes()
    np.savez(tmp_path / "x.npz", **case.inputs)
    for output, plan in ((data, None), (tmp_path / "new.onnx", data)):
        with pytest.raises(UserError, match=r"out.onnx.data: weights of .*model.onnx are in it"):
            compress_onnx(path, tmp_path / "x.npz", output, compute_ratio=0.5, plan=plan)
    assert data.read_bytes() == kept
