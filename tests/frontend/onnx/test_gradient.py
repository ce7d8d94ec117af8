"""Pieces of ONNX graphs by torch: their values and derivatives are those of onnxruntime, by finite differences."""

from typing import Any

import numpy as np
import pytest
import torch

from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx.gradient import _OPERATORS, Differentiable
from prap_pim.frontend.onnx.program import Piece, Program
from tests.frontend.onnx.models import Case, node, random

MAP, ROWS = (2, 4, 6, 6), (3, 8)
INT = np.int64


def ints(*values: int) -> np.ndarray:
    return np.array(values, INT)


# operator, shape of x, attributes, further inputs by name (as in "x a - b"), opset
CASES: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, np.ndarray], int]] = [
    *((op, ROWS, {}, {}, 17) for op in ("Abs", "Erf", "Exp", "Identity", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh")),
    *((op, ROWS, {}, {"a": random(8)}, 17) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum")),
    ("Div", ROWS, {}, {"a": 2 + random(8) ** 2}, 17),
    ("AveragePool", MAP, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0]}, {}, 17),
    ("AveragePool", MAP, {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, {}, 17),
    ("Cast", ROWS, {"to": 1}, {}, 17),
    ("Clip", ROWS, {}, {"a": np.float32(-0.5), "b": np.float32(0.7)}, 17),
    ("Clip", ROWS, {"min": -0.5}, {}, 9),
    ("Concat", ROWS, {"axis": 1}, {"a": random(3, 2)}, 17),
    ("Dropout", ROWS, {}, {}, 17),
    ("Elu", ROWS, {"alpha": 0.7}, {}, 17),
    ("Expand", (3, 1, 8), {}, {"a": ints(3, 4, 8)}, 17),
    ("Flatten", MAP, {"axis": 2}, {}, 17),
    ("Gather", ROWS, {"axis": 1}, {"a": np.array([[0, -1], [3, 3]])}, 17),
    ("Gather", ROWS, {"axis": 1}, {"a": np.array(2)}, 17),
    ("Gelu", ROWS, {"approximate": "tanh"}, {}, 20),
    ("Gemm", ROWS, {"alpha": 0.5, "beta": 2.0, "transB": 1}, {"a": random(5, 8), "b": random(5)}, 17),
    ("GlobalAveragePool", MAP, {}, {}, 17),
    ("GlobalMaxPool", MAP, {}, {}, 17),
    ("HardSigmoid", ROWS, {"alpha": 0.3}, {}, 17),
    ("HardSwish", ROWS, {}, {}, 17),
    ("LayerNormalization", ROWS, {"epsilon": 1e-3}, {"a": random(8), "b": random(8, seed=1)}, 17),
    ("LeakyRelu", ROWS, {"alpha": 0.2}, {}, 17),
    ("Softmax", ROWS, {}, {}, 17),
    ("Softmax", MAP, {"axis": 1}, {}, 17),
    ("Softmax", MAP, {"axis": 2}, {}, 11),
    ("LogSoftmax", ROWS, {"axis": 0}, {}, 17),
    ("MatMul", ROWS, {}, {"a": random(8, 4)}, 17),
    ("MaxPool", MAP, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}, {}, 17),
    ("MaxPool", MAP, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, {}, 17),
    ("PRelu", MAP, {}, {"a": random(4, 1, 1)}, 17),
    ("Pad", MAP, {}, {"a": ints(0, 0, 1, 2, 0, 0, 0, 1), "b": np.float32(0.5)}, 17),
    ("Pow", ROWS, {}, {"a": np.float32(2)}, 17),
    ("ReduceL2", ROWS, {"axes": [1]}, {}, 17),
    ("ReduceMax", ROWS, {"axes": [1], "keepdims": 0}, {}, 17),
    ("ReduceMean", MAP, {"axes": [-1, 2]}, {}, 17),
    ("ReduceMean", MAP, {}, {"a": ints(2, 3)}, 18),
    ("ReduceSum", MAP, {"keepdims": 0}, {"a": ints(1)}, 17),
    ("ReduceMean", ROWS, {}, {}, 17),
    ("Reshape", MAP, {}, {"a": ints(0, 2, -1)}, 17),
    ("Slice", MAP, {}, {"a": ints(1, -1), "b": ints(100, 0), "c": ints(2, 3), "d": ints(2, -2)}, 17),
    ("Slice", ROWS, {"starts": [2], "ends": [-1], "axes": [1]}, {}, 9),
    ("Squeeze", (3, 1, 8), {}, {"a": ints(1)}, 17),
    ("Transpose", MAP, {"perm": [0, 2, 3, 1]}, {}, 17),
    ("Unsqueeze", ROWS, {}, {"a": ints(1, -1)}, 17),
    ("Unsqueeze", ROWS, {"axes": [0]}, {}, 11),
]
NEAR_ONE = {"Log", "Reciprocal", "Sqrt"}  # of positive numbers
CASES += [(op, ROWS, {}, {}, 17) for op in sorted(NEAR_ONE)]


def piece_of(nodes: list[Any], x: np.ndarray, weights: dict[str, np.ndarray], opset: int, *outputs: str) -> Piece:
    model = Case(nodes=nodes, weights=weights, inputs={"x": x}, outputs=outputs or ("y",)).model(opset)
    return Piece("piece", Program(model, {}), [x.dtype])


def same_slope(piece: Piece, x: np.ndarray) -> None:
    """Along a random direction, of a random sum of what it gives."""
    given = torch.from_numpy(x.copy()).requires_grad_()
    found = Differentiable(piece)(given)
    every = found if isinstance(found, tuple) else (found,)
    slopes = [torch.from_numpy(random(*y.shape, seed=7)) for y in every]
    sum((y * slope).sum() for y, slope in zip(every, slopes, strict=True)).backward()
    way, size = random(*x.shape, seed=8), 1e-3
    ends = [piece.program(x + side * size * way) for side in (-1, 1)]
    wanted = sum(
        float((slope.numpy() * (high.astype("f8") - low.astype("f8"))).sum()) / (2 * size)
        for slope, low, high in zip(slopes, *ends, strict=True)
    )
    assert given.grad is not None
    assert float((given.grad * torch.from_numpy(way)).sum()) == pytest.approx(wanted, rel=0.02, abs=0.02)


@pytest.mark.parametrize(("op", "shape", "attributes", "more", "opset"), CASES)
def test_operators(op: str, shape: tuple[int, ...], attributes: dict[str, Any], more: dict[str, Any], opset: int):
    x = random(*shape, seed=3)
    if op in NEAR_ONE:
        x = np.abs(x) + 0.5
    kinks = np.abs(x) < 0.01
    x = np.where(kinks, np.float32(0.05), x)
    inputs = " ".join(["x", *more])
    same_slope(
        piece_of([node(op, inputs, "y", **attributes)], x, {k: np.asarray(v) for k, v in more.items()}, opset), x
    )


def test_every_operator_is_tried():
    assert {case[0] for case in CASES} | {"Split", "Where"} == set(_OPERATORS)


def test_several_results_and_a_choice():
    x = random(3, 8, seed=2)
    split = [node("Split", "x sizes", "y z", axis=1)]
    same_slope(piece_of(split, x, {"sizes": ints(3, 5)}, 17, "y", "z"), x)
    choice = [node("Where", "which x other", "y")]
    same_slope(piece_of(choice, x, {"which": random(3, 8) > 0, "other": random(8)}, 17), x)


def test_sizes_are_computed_from_what_is_given():
    """A shape that follows from the input's, as exporters write it."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "count"),
        node("Unsqueeze", "count axes", "counts"),
        node("Concat", "counts rest", "wanted", axis=0),
        node("Reshape", "x wanted", "y"),
    ]
    x = random(3, 4, 2)
    same_slope(piece_of(nodes, x, {"zero": np.array(0), "axes": ints(0), "rest": ints(-1)}, 17), x)


def test_batches_of_a_fixed_size_are_computed_one_after_another():
    x = random(4, 5)
    piece = piece_of([node("Softmax", "x", "y", axis=0)], x[:2], {}, 17)
    piece.of_example(0, [2])
    given = torch.from_numpy(x).requires_grad_()
    torch.testing.assert_close(
        Differentiable(piece)(given).detach(), torch.softmax(given.reshape(2, 2, 5), 1).reshape(4, 5).detach()
    )


def test_what_torch_has_not_or_computes_otherwise_is_one_line(monkeypatch: pytest.MonkeyPatch):
    x = random(3, 8)
    given = torch.from_numpy(x).requires_grad_()
    other = Differentiable(piece_of([node("Mish", "x", "y")], x, {}, 18))
    other(given.detach())  # nothing to differentiate
    with torch.no_grad():
        other(given)
    with pytest.raises(UserError, match="tune: torch has no derivative for operator Mish of this model"):
        other(given)
    monkeypatch.setitem(_OPERATORS, "Relu", lambda x, a: 1.01 * x[0].relu())
    with pytest.raises(UserError, match="tune: torch computes Relu of this model otherwise than onnxruntime"):
        Differentiable(piece_of([node("Relu", "x", "y")], x, {}, 17))(given)
    uneven = {"kernel_shape": [2, 2], "pads": [1, 0, 0, 0]}
    image = random(2, 4, 6, 6)
    mean = Differentiable(piece_of([node("AveragePool", "x", "y", **uneven)], image, {}, 17))
    with pytest.raises(UserError, match="tune: operator AveragePool as in this model: uneven padding"):
        mean(torch.from_numpy(image).requires_grad_())
