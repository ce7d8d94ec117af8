"""Pieces of an ONNX graph, computed by onnxruntime itself: every operator of every opset is what it says it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.frontend import DigitalModule
from prap_pim.frontend.onnx.file import Array, first_line, is_apart

_FLOATS = (np.dtype("f2"), np.dtype("f8"))
_NAMES = {
    "averagepool": "avgpool",
    "globalaveragepool": "avgpool",
    "globalmaxpool": "maxpool",
    "batchnormalization": "batchnorm",
    "layernormalization": "layernorm",
    "depthtospace": "pixelshuffle",
    "spacetodepth": "pixelshuffle",
    "sum": "add",
}


def session(model: "bytes | str", weights: Mapping[str, Array], threads: int) -> Any:
    """An onnxruntime session.

    Args:
        model: serialised, or the path of a file.
        weights: values of the initialisers that lie apart.
        threads: that one operator may take.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # each piece would keep the most it ever needed
    options.log_severity_level = 4  # what matters comes as an error
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(each, order="C")) for each in weights.values()]
        options.add_external_initializers(list(weights), values)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Program:
    """An ONNX model that is ready to run. It has no state: copies of what holds it share it."""

    def __init__(self, model: ModelProto, weights: Mapping[str, Array]) -> None:
        """
        Args:
            model: may have initialisers whose values lie apart.
            weights: these, among others.

        Raises:
            UserError: onnxruntime does not know what to do with it.
        """
        apart = {tensor.name for tensor in model.graph.initializer if is_apart(tensor)}
        self.weights = {name: weights[name] for name in apart}
        self.model = model.SerializeToString()
        self.inputs = tuple(each.name for each in model.graph.input)
        self._session: Any = None
        self._start()

    def _start(self) -> None:
        try:
            self._session = session(self.model, self.weights, 1)
        except Exception as error:  # onnxruntime's are of many kinds, without a name in common
            raise UserError(f"onnxruntime does not take it: {first_line(error)}") from error

    def __call__(self, *values: Array) -> list[Any]:
        """
        Raises:
            UserError: it fails on these inputs.
        """
        if self._session is None:
            self._start()
        try:
            found: list[Any] = self._session.run(None, dict(zip(self.inputs, values, strict=True)))
        except Exception as error:
            raise UserError(f"onnxruntime cannot compute it: {first_line(error)}") from error
        return found

    def __deepcopy__(self, memo: object) -> "Program":
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


class Piece(DigitalModule):
    """A node of an ONNX graph, with what it needs of constants and sizes.

    Tensors of 16 or 64 bit float come in and go out as float32, for the layers in between; ``dtypes`` says what they
    are in the model.

    Args:
        op: as ``DigitalOp.op``.
        program: computes it.
        dtypes: of its inputs.
    """

    def __init__(self, op: str, program: Program, dtypes: Sequence[np.dtype[Any]]) -> None:
        super().__init__()
        self.op = _NAMES.get(op.lower(), op.lower())
        self.program, self.dtypes = program, tuple(dtypes)
        self.products = 0
        self.held: Mapping[str, int] = {}
        self.batches: list[int] | None = None

    def of_example(self, products: int, batches: list[int] | None, held: Mapping[str, int] | None = None) -> None:
        """Multiplications of the example batch; sizes of the inputs' first dimensions, where these are fixed; numbers
        in each of its matrices."""
        self.products, self.batches, self.held = products, batches, held or {}

    def stored(self) -> dict[Any, int]:
        return dict(self.held)

    def forward(self, *given: Tensor) -> Any:
        """One tensor, or a tuple of them. Several batches of a fixed size are computed one after another."""
        times = self.times(given)
        if times <= 1:
            found = [to_tensor(each) for each in self.arrays(*given)]
        else:
            parts = zip(*(x.tensor_split(times) for x in given), strict=True)
            every = [[to_tensor(each) for each in self.arrays(*part)] for part in parts]
            found = [torch.cat(each) for each in zip(*every, strict=True)]
        return found[0] if len(found) == 1 else tuple(found)

    def times(self, given: Sequence[Tensor]) -> int:
        """Batches of a fixed size that are computed one after another."""
        return len(given[0]) // self.batches[0] if self.batches and given[0].ndim else 1

    def arrays(self, *given: Tensor) -> list[Any]:
        """As they are in the model."""
        return self.program(*self.as_arrays(given))

    def as_arrays(self, given: Sequence[Tensor]) -> list[Array]:
        """Inputs for onnxruntime, of the types that the model has."""
        return [to_array(x, dtype) for x, dtype in zip(given, self.dtypes, strict=True)]

    def differentiable(self) -> nn.Module:
        from prap_pim.frontend.onnx.gradient import Differentiable  # which knows of pieces

        return Differentiable(self)

    def macs(self, inputs: Sequence[torch.Size], output: torch.Size) -> int:
        """As was counted for the example."""
        return self.products


def to_array(x: Tensor, dtype: np.dtype[Any]) -> Array:
    """For onnxruntime."""
    return np.asarray(x.detach().cpu().numpy(), dtype, order="C")


def to_tensor(value: Any) -> Tensor:
    """From onnxruntime; float as float32."""
    array = np.asarray(value)
    return torch.from_numpy(np.asarray(array, np.float32 if array.dtype in _FLOATS else None, order="C"))


def is_tensor(value: Any) -> bool:
    """Whether torch can hold it: no text, no list, no map."""
    return isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind in "fiub"
