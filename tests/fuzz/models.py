"""ONNX models."""

import io
from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.case import Case
from tests.fuzz.values import damaged

COMPRESS = (
    "compress",
    "m.onnx",
    "--calibration",
    "d.npz",
    "--output",
    "o.onnx",
    "--method",
    "similar",
    "--set",
    "keep=0.5",
    "--quiet",
)


def network() -> onnx.ModelProto:
    """A small network of two layers."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((4, 1, 3, 3), np.float32),
        "b": generator.standard_normal(4, np.float32),
        "v": generator.standard_normal((3, 4), np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["p"], keepdims=0),
        helper.make_node("Gemm", ["p", "v"], ["y"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def calibration() -> bytes:
    """Inputs of it, as an archive."""
    inputs = io.BytesIO()
    np.savez(inputs, x=np.random.default_rng(0).standard_normal((8, 1, 6, 6), np.float32))
    return inputs.getvalue()


def onnx_model(random: Random, finished: Path) -> Case:
    """A user's ONNX model."""
    model, told = network(), ""
    for _ in range(random.choice((1, 1, 2))):
        told += _change(model, random) + "; "
    content = model.SerializeToString()
    if random.random() < 0.25:
        content, told = damaged(content, random)
    return Case(told, {"m.onnx": content, "d.npz": calibration()}, COMPRESS)


def _change(model: onnx.ModelProto, random: Random) -> str:
    graph, odd = model.graph, random.choice([0, -1, 2**31, 2**62, 7, 3])
    node, tensor = random.choice(graph.node), random.choice(graph.initializer)
    how = random.randrange(9)
    if how == 0 and node.attribute:
        attribute = random.choice(node.attribute)
        if attribute.ints:
            attribute.ints[random.randrange(len(attribute.ints))] = odd
        else:
            attribute.i = odd
        return f"{node.op_type}.{attribute.name}: {odd}"
    if how == 1:
        node.op_type = random.choice(
            ["MatMul", "Loop", "If", "ConstantOfShape", "Expand", "", "Tile", "Add", "LSTM", "Softmax"]
        )
        return f"a {node.op_type}"
    if how == 2:
        place = random.randrange(len(node.input))
        node.input[place] = random.choice(["", "x", "w", "y", "nowhere", node.output[0]])
        return f"{node.op_type} reads {node.input[place]!r}"
    if how == 3:
        tensor.dims[random.randrange(len(tensor.dims))] = odd
        return f"{tensor.name} of {list(tensor.dims)}"
    if how == 4:
        tensor.data_type = random.choice([0, 1, 7, 8, 9, 10, 14, 16, 99])
        return f"{tensor.name} of type {tensor.data_type}"
    if how == 5:
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", random.choice(["../d.npz", "/etc/passwd", "d.npz", "", "m.onnx", "."])
        return f"{tensor.name} at {entry.value!r}"
    if how == 6:
        shape = graph.input[0].type.tensor_type.shape
        shape.dim[random.randrange(4)].dim_value = odd
        return f"an input with a side of {odd}"
    if how == 7:
        opset = model.opset_import[0]
        opset.version = random.choice([0, 1, 9, 13, 17, 99, 2**40])
        return f"opset {opset.version}"
    sound = next(each for each in network().graph.initializer if each.name == tensor.name)  # it may be changed already
    values = numpy_helper.to_array(sound).astype("f4")
    values = np.full_like(values, random.choice([np.nan, np.inf, 1e38, 1e-45, 0]))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return f"{tensor.name} full of {values.flat[0]}"
