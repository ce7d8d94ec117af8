"""Products of an ONNX model that is already quantised, as products of real numbers with the same integers and steps.

QLinearConv, QLinearMatMul and QGemm become what onnx calls QDQ: DequantizeLinear, the product, QuantizeLinear.
ConvInteger and MatMulInteger become products of the integers, less their zero points, which float32 holds exactly. So
all that follows knows of one kind of product.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from prap_pim.frontend.onnx.graphs import own_graphs

_AXES = 13  # the opset that brought steps by channel


def dequantise(model: ModelProto) -> None:
    """Write such products out, in graphs inside of others, too."""
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    _graph(model.graph, opset, {})


def _graph(graph: GraphProto, opset: int, outer: dict[str, Sequence[int]]) -> None:
    shapes = outer | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        for inner in own_graphs(node):
            _graph(inner, opset, shapes)
        nodes += _Written(node, shapes, opset).nodes() or [node]
    del graph.node[:]
    graph.node.extend(nodes)


class _Written:
    """One node as the nodes that it is written out as."""

    def __init__(self, node: NodeProto, shapes: dict[str, Sequence[int]], opset: int) -> None:
        self.node, self.shapes, self.opset = node, shapes, opset
        self.inputs = [*node.input, *[""] * (9 - len(node.input))]
        self.made: list[NodeProto] = []

    def nodes(self) -> list[NodeProto]:
        """None if it is another kind of node, or one that cannot be written out."""
        quantised = {"QLinearConv": ("Conv", 0), "QLinearMatMul": ("MatMul", -1)}
        if self.node.op_type in quantised and self.node.domain in ("", "ai.onnx"):
            op, axis = quantised[self.node.op_type]
            bias = self.inputs[8] if op == "Conv" else ""
            return self._quantised(op, axis, bias, self.inputs[6:8], self._attributes())
        if self.node.op_type == "QGemm" and self.node.domain == "com.microsoft":
            given = self._attributes()
            if given.get("alpha", 1.0) != 1:
                return []
            axis = 0 if given.get("transB", 0) else 1
            return self._quantised("Gemm", axis, self.inputs[6], self.inputs[7:9], given)
        integer = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
        if self.node.op_type in integer and self.node.domain in ("", "ai.onnx"):
            return self._integers(integer[self.node.op_type])
        return []

    def _attributes(self) -> dict[str, Any]:
        return {each.name: helper.get_attribute_value(each) for each in self.node.attribute}

    def _put(self, op: str, inputs: Sequence[str], part: str, **attributes: Any) -> str:
        name = f"{self.node.output[0]}/{part}"
        self.made.append(helper.make_node(op, inputs, [name], f"{self.node.name}/{part}", **attributes))
        return name

    def _quantised(
        self, op: str, axis: int, bias: str, result: Sequence[str], attributes: dict[str, Any]
    ) -> list[NodeProto]:
        """A product with a step and a zero point of each operand and of the result, whose bias has both steps."""
        x, x_step, x_zero, w, w_step, w_zero = self.inputs[:6]
        by_channel = prod(self.shapes.get(w_step, ())) > 1
        if by_channel and self.opset < _AXES:
            return []
        along = {"axis": axis % max(1, len(self.shapes.get(w, (0, 0))))} if by_channel else {}
        given = [
            self._put("DequantizeLinear", [x, x_step, x_zero], "x"),
            self._put("DequantizeLinear", [w, w_step, w_zero], "weight", **along),
        ]
        if bias:
            both = self._put("Mul", [x_step, w_step], "bias_step")
            given.append(self._put("Mul", [self._put("Cast", [bias], "bias_integers", to=1), both], "bias"))
        output = self._put(op, given, op, **attributes)
        if result[0]:
            self._put("QuantizeLinear", [output, *result], "y")
        self.made[-1].output[0] = self.node.output[0]
        return self.made

    def _integers(self, op: str) -> list[NodeProto]:
        """A product of integers, less their zero points."""
        x, w, x_zero, w_zero = self.inputs[:4]
        weight = self.shapes.get(w, ())
        if prod(self.shapes.get(x_zero, ())) > 1 or (prod(self.shapes.get(w_zero, ())) > 1 and not weight):
            return []
        places = [1] * (len(weight) - 1) if op == "Conv" and prod(self.shapes.get(w_zero, ())) > 1 else []
        given = [self._less(x, x_zero, "x", []), self._less(w, w_zero, "weight", places)]
        self._put("Cast", [self._put(op, given, op, **self._attributes())], "y", to=TensorProto.INT32)
        self.made[-1].output[0] = self.node.output[0]
        return self.made

    def _less(self, integers: str, zero: str, part: str, places: Sequence[int]) -> str:
        """Integers less their zero point, as float; ``places``: axes of size 1 to put behind a zero of each channel."""
        value = self._put("Cast", [integers], f"{part}_integers", to=TensorProto.FLOAT)
        if not zero:
            return value
        shift = self._put("Cast", [zero], f"{part}_zero", to=TensorProto.FLOAT)
        if places:
            shape = self._put("Constant", [], f"{part}_shape", value_ints=[-1, *places])
            shift = self._put("Reshape", [shift, shape], f"{part}_zeros")
        return self._put("Sub", [value, shift], part)
