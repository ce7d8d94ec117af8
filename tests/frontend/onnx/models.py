"""Small ONNX models made by hand, each with something that makes trouble, and inputs for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

Array = NDArray[Any]
NEWEST = onnx.defs.onnx_opset_version()
OPSETS = (13, 17, NEWEST)


@dataclass
class Case:
    """What is needed to build a model: all but its opset."""

    nodes: list[onnx.NodeProto]
    weights: Mapping[str, Array]
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ("y",)
    fixed: bool = False  # the batch
    also_inputs: bool = False  # initialisers are listed among the inputs, as old exporters did
    function: Callable[[int], onnx.FunctionProto] | None = None  # of an opset
    layers: int | None = None
    domains: Sequence[str] = field(default=())

    def model(self, opset: int = 17) -> onnx.ModelProto:
        infos = [_info(name, x, self.fixed) for name, x in self.inputs.items()]
        if self.also_inputs:
            infos += [_info(name, x, True) for name, x in self.weights.items()]
        stored = [numpy_helper.from_array(np.asarray(x, order="C"), name) for name, x in self.weights.items()]
        bare = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "made by hand", infos, bare, stored)
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in self.domains)]
        made = helper.make_model(
            graph, opset_imports=imports, functions=[self.function(opset)] if self.function else [], ir_version=10
        )
        for info, x in zip(made.graph.output, run(made.SerializeToString(), self.inputs), strict=True):
            sizes = [f"{info.name}_{i}" for i in range(x.ndim)]
            kind = helper.np_dtype_to_tensor_dtype(x.dtype)
            info.CopyFrom(helper.make_tensor_value_info(info.name, kind, sizes))
        return made

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(x.astype("f4") if x.dtype.kind == "f" else x) for x in self.inputs.values())


def run(model: bytes | str, inputs: Mapping[str, Array]) -> list[Array]:
    """By onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def _info(name: str, x: Array, fixed: bool) -> onnx.ValueInfoProto:
    shape = list(x.shape) if fixed or not x.ndim else ["batch", *x.shape[1:]]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), shape)


def save(case: Case, folder: Path, opset: int = 17, external: bool = False, name: str = "model.onnx") -> Path:
    path = folder / name
    if external:
        onnx.save_model(
            case.model(opset), path, save_as_external_data=True, location=f"{name}.weights", size_threshold=0
        )
    else:
        onnx.save_model(case.model(opset), path)
    return path


def random(*shape: int, dtype: str = "f4", seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Names are separated by blanks; "-" is an input left out."""
    given = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, given, outputs.split(), name=f"/{outputs.split()[0]}/{op}", **attributes)


def convolutions() -> Case:
    """Groups, dilation, strides, uneven pads, both kinds of automatic pads, with bias and without."""
    return Case(
        nodes=[
            node("Conv", "x a ab", "1", kernel_shape=[3, 2], pads=[1, 0, 2, 1], strides=[2, 1]),
            node("Relu", "1", "2"),
            node("Conv", "2 b -", "3", group=2, auto_pad="SAME_UPPER", strides=[2, 2]),
            node("Conv", "3 c cb", "4", auto_pad="SAME_LOWER"),
            node("Conv", "4 d", "5", auto_pad="VALID", group=8, dilations=[1, 2]),
            node("GlobalAveragePool", "5", "6"),
            node("Flatten", "6", "y"),
        ],
        weights={
            "a": random(6, 3, 3, 2),
            "ab": random(6),
            "b": random(8, 3, 2, 2),
            "c": random(8, 8, 2, 4),
            "cb": random(8, seed=1),
            "d": random(8, 1, 1, 2),
        },
        inputs={"x": random(4, 3, 13, 9)},
        layers=4,
    )


def other_dimensions() -> Case:
    return Case(
        nodes=[
            node("Conv", "x a", "1", pads=[2, 0]),
            node("Reshape", "1 shape", "2"),
            node("Conv", "2 b bb", "y", pads=[0, 1, 0, 1, 0, 1]),
        ],
        weights={"a": random(4, 2, 3), "b": random(3, 2, 2, 2, 2), "bb": random(3), "shape": np.array([0, 2, 2, 3, 4])},
        inputs={"x": random(3, 2, 12)},
        layers=2,
    )


def gemms() -> Case:
    """Every flag, and every form of what is added."""
    return Case(
        nodes=[
            node("Gemm", "x a ac", "1", alpha=0.5, beta=-2.0, transB=1),
            node("Gemm", "1 b", "2", alpha=2.0),
            node("Gemm", "2 c cc", "3", beta=0.25),
            node("Gemm", "3 d one", "4"),
            node("Gemm", "4 e 1", "5", beta=0.5, alpha=3.0),
            node("Gemm", "5 f fc", "6", beta=0.0),
            node("Transpose", "6", "7", perm=[1, 0]),
            node("Gemm", "7 g", "y", transA=1, transB=1),
        ],
        weights={
            "a": random(7, 5),
            "ac": random(7),
            "b": random(7, 6),
            "c": random(6, 4),
            "cc": random(1, 4),
            "d": random(4, 4),
            "one": np.array(1.5, "f4"),
            "e": random(4, 7),
            "f": random(7, 3),
            "fc": random(3),
            "g": random(5, 3),
        },
        inputs={"x": random(4, 5)},
        layers=7,
    )


def matmuls() -> Case:
    """Of matrices and of sequences; additions that are a bias, and others that are not."""
    return Case(
        nodes=[
            node("MatMul", "x a", "1"),
            node("Add", "1 ab", "2"),
            node("MatMul", "2 b", "3"),
            node("Add", "bb 3", "4"),
            node("MatMul", "4 c", "5"),
            node("Add", "5 2", "6"),  # a residual
            node("MatMul", "6 d", "7"),
            node("Add", "7 db", "8"),
            node("Mul", "7 8", "9"),  # reads the product, too
            node("MatMul", "9 e", "10"),
            node("Add", "10 eb", "11"),  # not one number a filter
            node("MatMul", "11 f", "y"),
        ],
        weights={
            "a": random(5, 8),
            "ab": random(8),
            "b": random(8, 6),
            "bb": random(1, 1, 6),
            "c": random(6, 8),
            "d": random(8, 4),
            "db": random(4),
            "e": random(4, 4, seed=5),
            "eb": random(3, 4),
            "f": random(4, 2),
        },
        inputs={"x": random(4, 3, 5)},
        outputs=("y", "3"),
        layers=6,
    )


def roundabout() -> Case:
    """Weights from Constant nodes, transposed, cast, renamed; one chain serves two products."""
    constant = numpy_helper.from_array(random(6, 5, seed=3))
    return Case(
        nodes=[
            helper.make_node("Constant", [], ["a"], value=constant),
            node("Transpose", "a", "at", perm=[1, 0]),
            node("MatMul", "x at", "1"),
            node("Identity", "b", "bi"),
            node("Gemm", "1 bi bb", "2"),
            node("Cast", "c", "cf", to=TensorProto.FLOAT),
            node("MatMul", "2 cf", "3"),
            node("MatMul", "3 cf", "4"),
            node("Transpose", "e", "et", perm=[1, 0]),
            node("MatMul", "4 et", "6"),
            node("Add", "6 e1", "y"),
        ],
        weights={
            "b": random(6, 4),
            "bb": random(4),
            "c": random(4, 4, dtype="f2"),
            "e": random(3, 4),
            "e1": random(3),
        },
        inputs={"x": random(4, 5)},
        layers=4,
    )


def dequantised() -> Case:
    return Case(
        nodes=[node("DequantizeLinear", "a scale zero", "b", axis=1), node("MatMul", "x b", "y")],
        weights={
            "a": np.random.default_rng(0).integers(-127, 128, (4, 6)).astype("i1"),
            "scale": np.full(6, 0.01, "f4"),
            "zero": np.zeros(6, "i1"),
        },
        inputs={"x": random(4, 4)},
        layers=1,
    )


def tied() -> Case:
    """A table that is looked up and multiplied by; two products with one weight and different additions."""
    return Case(
        nodes=[
            node("Gather", "table ids", "1"),
            node("MatMul", "1 w", "2"),
            node("Add", "2 b1", "3"),
            node("Relu", "3", "4"),
            node("MatMul", "4 w", "5"),
            node("Add", "5 b2", "6"),
            node("Conv", "6 k kb", "7", pads=[1, 1]),
            node("Conv", "7 k kb", "8", pads=[1, 1]),
            node("Transpose", "table", "tt", perm=[1, 0]),
            node("MatMul", "8 tt", "y"),
        ],
        weights={
            "table": random(11, 8),
            "w": random(8, 8),
            "b1": random(8),
            "b2": random(8, seed=1),
            "k": random(6, 6, 3),
            "kb": random(6),
        },
        inputs={"ids": np.random.default_rng(0).integers(0, 11, (4, 6))},
        layers=3,
    )


def normed() -> Case:
    """Batch norm that folds, that does not, whose values come from nodes; on a vector."""
    values = {f"{n}{what}": random(6, seed=i) for i, (n, what) in enumerate((n, w) for n in "pqr" for w in "sbm")}
    values |= {f"{n}v": np.abs(random(6, seed=9)) + 0.1 for n in "pq"}
    return Case(
        nodes=[
            node("Conv", "x a", "1"),
            node("BatchNormalization", "1 ps pb pm pv", "2", epsilon=0.01),
            node("Relu", "2", "3"),
            node("Conv", "3 b bb", "4"),
            node("Add", "3 4", "5"),
            node("BatchNormalization", "5 qs qb qm qv", "6"),
            node("GlobalAveragePool", "6", "7"),
            node("Flatten", "7", "8"),
            node("Gemm", "8 c", "9"),
            helper.make_node("Constant", [], ["rv"], value_floats=[0.5, 1, 2, 3, 4, 5.0]),
            node("BatchNormalization", "9 rs rb rm rv", "y"),
        ],
        weights={"a": random(6, 2, 3, 3), "b": random(6, 6, 1, 1), "bb": random(6), "c": random(6, 6), **values},
        inputs={"x": random(5, 2, 6, 7)},
        layers=3,
    )


def sizes() -> Case:
    """Shapes computed from shapes, positions from sizes, several inputs, and a product of activations."""
    return Case(
        nodes=[
            node("Shape", "x", "s"),
            node("Gather", "s 0", "n", axis=0),
            node("Gather", "s one", "l", axis=0),
            node("Unsqueeze", "n axis", "n1"),
            node("Unsqueeze", "l axis", "l1"),
            node("Range", "0 l one", "places"),
            node("Gather", "positions places", "p"),
            node("MatMul", "x a", "1"),
            node("Add", "1 p", "2"),
            node("Concat", "n1 l1 two minus", "to", axis=0),
            node("Reshape", "2 to", "3"),
            node("Transpose", "3", "4", perm=[0, 2, 1, 3]),
            node("Transpose", "3", "5", perm=[0, 2, 3, 1]),
            node("MatMul", "4 5", "6"),
            node("Softmax", "6", "7", axis=-1),
            node("Split", "7 halves", "8 9", axis=1),
            node("Add", "8 9", "10"),
            node("Where", "mask 10 zero", "11"),
            node("MatMul", "11 b", "y"),
        ],
        weights={
            "0": np.array(0),
            "one": np.array(1),
            "two": np.array([2]),
            "axis": np.array([0]),
            "minus": np.array([-1]),
            "halves": np.array([1, 1]),
            "zero": np.array(0, "f4"),
            "positions": random(9, 8),
            "a": random(5, 8),
            "b": random(6, 3),
        },
        inputs={"x": random(4, 6, 5), "mask": random(4, 1, 6, 6) > 0},
        outputs=("y", "7"),
        layers=2,
    )


def control_flow() -> Case:
    """A graph inside a node that takes a weight and a value from outside; a list of tensors; a local function."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(list(nodes), name, [], [out])

    def function(opset: int) -> onnx.FunctionProto:
        nodes = [node("MatMul", "u v", "m"), node("Relu", "m", "w")]
        return helper.make_function("mine", "Dense", ["u", "v"], ["w"], nodes, [helper.make_opsetid("", opset)])

    return Case(
        nodes=[
            node("MatMul", "x a", "1"),
            node("ReduceMax", "1", "2", keepdims=0),
            node("Greater", "2 zero", "3"),
            helper.make_node(
                "If",
                ["3"],
                ["4"],
                then_branch=branch("then", node("MatMul", "1 inner", "then_out")),
                else_branch=branch("else", node("Neg", "1", "else_out")),
            ),
            node("SplitToSequence", "4 two", "5", axis=1),
            node("ConcatFromSequence", "5", "6", axis=1),
            helper.make_node("Dense", ["6", "b"], ["y"], domain="mine"),
        ],
        weights={
            "a": random(5, 8),
            "zero": np.array(0, "f4"),
            "inner": random(8, 8),
            "two": np.array([4, 4]),
            "b": random(8, 3),
        },
        inputs={"x": random(4, 5)},
        function=function,
        domains=("mine",),
        layers=2,
    )


def fixed_batch() -> Case:
    """A model for batches of 3; what the exporter knew is written into the shapes."""
    return Case(
        nodes=[
            node("Conv", "x a", "1"),
            node("Reshape", "1 shape", "2"),
            node("Gemm", "2 b c", "y"),
        ],
        weights={"a": random(4, 2, 3, 3), "shape": np.array([3, 16]), "b": random(16, 5), "c": random(3, 5)},
        inputs={"x": random(3, 2, 4, 4)},
        fixed=True,
        layers=2,
    )


def parts() -> Case:
    """Weights on the left, stacks of matrices, einsums in any order of axes."""

    def einsum(inputs: str, output: str, equation: str) -> onnx.NodeProto:
        return helper.make_node("Einsum", inputs.split(), [output], equation=equation)

    return Case(
        nodes=[
            node("Transpose", "x", "1", perm=[0, 2, 1]),
            node("MatMul", "left 1", "2"),  # [4, 6, 3]
            node("Transpose", "2", "3", perm=[0, 2, 1]),
            node("Unsqueeze", "3 one", "4"),
            node("MatMul", "4 stack", "5"),  # [4, 1, 3, 6] @ [2, 6, 5]
            node("MatMul", "5 pair", "6"),  # [4, 2, 3, 5] @ [2, 5, 4]
            einsum("6 heads", "7", "bgtd,dhk->bghtk"),
            einsum("8 7", "9", "xk,bghtk->bxght"),
            einsum("9 each", "y", "bxght,ght->bx"),
        ],
        weights={
            "left": random(6, 5),
            "one": np.array([1]),
            "stack": random(2, 6, 5),
            "pair": random(2, 5, 4),
            "heads": random(4, 2, 3),
            "8": random(5, 3),
            "each": random(2, 2, 3),
        },
        inputs={"x": random(4, 3, 5)},
        layers=1 + 2 + 2 + 1 + 1 + 1,
    )


def transposed() -> Case:
    """Transposed convolutions of one to three dimensions, grouped, padded in every way."""

    def conv(inputs: str, output: str, **how: Any) -> onnx.NodeProto:
        return node("ConvTranspose", inputs, output, **how)

    return Case(
        nodes=[
            conv("x a ab", "1", strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0]),
            conv("1 b", "2", group=2, dilations=[2, 1], kernel_shape=[2, 3]),
            conv("2 c", "3", strides=[2, 2], auto_pad="SAME_UPPER"),
            conv("3 d", "4", strides=[2, 2], output_shape=[41, 16]),
            node("Flatten", "4", "5"),
            node("MatMul", "5 head", "y"),
        ],
        weights={
            "a": random(4, 6, 3, 2),
            "ab": random(6),
            "b": random(6, 2, 2, 3),
            "c": random(4, 3, 3, 3),
            "d": random(3, 2, 3, 2),
            "head": random(2 * 41 * 16, 3),
        },
        inputs={"x": random(4, 4, 4, 2)},
        layers=5,
    )


def recurrent() -> Case:
    """In both directions, with and without biases and states, and the two ways in which a GRU resets."""

    def cell(op: str, inputs: Sequence[str], outputs: Sequence[str], size: int = 6, **how: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, outputs, hidden_size=size, **how)

    return Case(
        nodes=[
            node("Transpose", "x", "0", perm=[1, 0, 2]),
            cell("LSTM", ["0", "w1", "r1", "b1"], ["1", "h1", "c1"], direction="bidirectional"),
            node("ReduceSum", "1 one", "2", keepdims=0),
            node("ReduceSum", "h1 zero", "3", keepdims=1),
            cell("GRU", ["2", "w2", "r2", "b2", "", "3"], ["4"], linear_before_reset=1),
            node("Reshape", "4 flat", "5"),
            cell("GRU", ["5", "w2", "r2"], ["6", "h6"], direction="reverse"),
            node("Reshape", "6 flat", "7"),
            cell("RNN", ["7", "w3", "r3", "b3"], ["8"], activations=["Relu"]),
            node("Reshape", "8 flat", "9"),
            cell("LSTM", ["9", "w4", "r4"], ["10", "", "c10"]),
            node("Concat", "c1 c10 h6", "11", axis=0),
            node("Transpose", "11", "12", perm=[1, 0, 2]),
            node("Flatten", "12", "13"),
            node("MatMul", "13 head", "y"),
        ],
        weights={
            **{"w1": random(2, 24, 5), "r1": random(2, 24, 6), "b1": random(2, 48)},
            **{"w2": random(1, 18, 6), "r2": random(1, 18, 6), "b2": random(1, 36)},
            **{"w3": random(1, 6, 6), "r3": random(1, 6, 6), "b3": random(1, 12)},
            **{"w4": random(1, 24, 6), "r4": random(1, 24, 6), "flat": np.array([3, 4, 6])},
            **{"zero": np.array([0]), "one": np.array([1])},
            "head": random(4 * 6, 2),
        },
        inputs={"x": random(4, 3, 5)},
        layers=4 + 2 + 3 + 2 + 2 + 1,
    )


def of_type(dtype: str) -> Callable[[], Case]:
    def made() -> Case:
        def r(*shape: int) -> Array:
            return random(*shape, dtype=dtype)

        return Case(
            nodes=[
                node("MatMul", "x a", "1"),
                node("Relu", "1", "2"),
                node("MatMul", "2 b", "3"),
                node("Gemm", "3 c 3", "y", beta=0.5),
            ],
            weights={"a": r(5, 6), "b": r(6, 4), "c": r(4, 4)},
            inputs={"x": r(4, 5)},
            layers=3,
        )

    return made


def hostile_names() -> Case:
    """Names that would break out of generated code, clash with a module's own, or lead through one another."""
    names = [
        'a"); import os; ("',
        "training.weight",
        "forward.weight",
        "x.1.weight",
        "x.weight",
        "..weight",
        "ä/\n.weight",
    ]
    nodes = [
        helper.make_node("MatMul", [f"v{i}", name], [f"v{i + 1}"], name=name if i % 2 else "")
        for i, name in enumerate(names)
    ]
    return Case(
        nodes=nodes,
        weights={name: random(4, 4, seed=i) for i, name in enumerate(names)},
        inputs={"v0": random(4, 4)},
        outputs=(f"v{len(names)}",),
        layers=len(names),
    )


def passed_through() -> Case:
    """An input and an initialiser that are outputs; initialisers that are listed as inputs; dead nodes."""
    return Case(
        nodes=[node("MatMul", "x w", "y"), node("MatMul", "x w", "dead"), node("Identity", "x", "same")],
        weights={"w": random(5, 3), "const": random(2, 2)},
        inputs={"x": random(4, 5)},
        outputs=("y", "same", "const"),
        also_inputs=True,
        layers=1,
    )


CASES: dict[str, Callable[[], Case]] = {
    "convolutions": convolutions,
    "other dimensions": other_dimensions,
    "gemms": gemms,
    "matmuls": matmuls,
    "roundabout": roundabout,
    "dequantised": dequantised,
    "tied": tied,
    "normed": normed,
    "sizes": sizes,
    "control flow": control_flow,
    "fixed batch": fixed_batch,
    "parts": parts,
    "transposed": transposed,
    "recurrent": recurrent,
    "float16": of_type("f2"),
    "float64": of_type("f8"),
    "hostile names": hostile_names,
    "passed through": passed_through,
}


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.gru, self.up = nn.GRU(12, 6, batch_first=True), nn.ConvTranspose1d(6, 4, 3, stride=2)
        self.experts = nn.Parameter(torch.randn(3, 4, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.gru(self.lstm(x)[0])[0].transpose(1, 2)).transpose(1, 2)
        return torch.einsum("btd,edh->bteh", y, self.experts).mean((1, 2))
