"""ONNX files: read with suspicion, captured as any other model, and written again with the compressed weights."""

from prap_pim.errors import UserError

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
except ImportError as error:
    raise UserError("ONNX files need two more packages: pip install 'prap-pim[onnx]'") from error

from prap_pim.onnx_model.calibration import read_batches, read_inputs
from prap_pim.onnx_model.compress import OnnxSummary, compress_onnx
from prap_pim.onnx_model.file import OnnxFile
from prap_pim.onnx_model.lower import OnnxCapture, capture_onnx
from prap_pim.onnx_model.show import print_summary
from prap_pim.onnx_model.write import write_onnx

__all__ = [
    "OnnxCapture",
    "OnnxFile",
    "OnnxSummary",
    "capture_onnx",
    "compress_onnx",
    "print_summary",
    "read_batches",
    "read_inputs",
    "write_onnx",
]
