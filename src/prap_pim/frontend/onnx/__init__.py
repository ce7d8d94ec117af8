"""ONNX files: read with suspicion, captured as any other model, and written again with the compressed weights."""

from prap_pim.common.errors import UserError

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
except ImportError as error:
    raise UserError("ONNX files need two more packages: pip install 'prap-pim[onnx]'") from error

from prap_pim.frontend.onnx.calibration import read_batches, read_inputs
from prap_pim.frontend.onnx.file import OnnxFile
from prap_pim.frontend.onnx.lower import OnnxCapture, capture_onnx
from prap_pim.frontend.onnx.write import write_onnx

__all__ = [
    "OnnxCapture",
    "OnnxFile",
    "capture_onnx",
    "read_batches",
    "read_inputs",
    "write_onnx",
]
