"""Models that are already quantised keep their integers and steps."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from prap_pim import compress_onnx
from prap_pim.frontend.onnx import OnnxFile, capture_onnx
from prap_pim.frontend.onnx.calibration import read_inputs
from prap_pim.ir.plan import NetworkPlan
from tests.frontend.onnx.models import Case, node, random, run, save

pytestmark = pytest.mark.filterwarnings("ignore")

X = random(64, 3, 12, 12)


def network() -> Case:
    return Case(
        nodes=[
            node("Conv", "x k", "c1"),
            node("Relu", "c1", "r1"),
            node("Conv", "r1 k2 b2", "c2"),
            node("GlobalAveragePool", "c2", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f m", "y"),
        ],
        weights={
            "k": random(16, 3, 3, 3) / 5,
            "k2": random(32, 16, 3, 3) / 12,
            "b2": random(32),
            "m": random(32, 10) / 6,
        },
        inputs={"x": X},
    )


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = iter([{"x": X[i : i + 8]} for i in range(0, 64, 8)])

    def get_next(self) -> Any:
        return next(self.left, None)


def quantised(folder: Path, kind: str) -> Path:
    plain, made = save(network(), folder), folder / f"{kind}.onnx"
    if kind.startswith("dynamic"):
        quantize_dynamic(plain, made, weight_type=QuantType.QInt8)
    else:
        form = QuantFormat.QDQ if kind.startswith("qdq") else QuantFormat.QOperator
        quantize_static(
            plain, made, Reader(), quant_format=form, per_channel=kind.endswith("by channel"),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    np.savez(folder / "data.npz", x=X)
    return made


def integers(file: onnx.ModelProto) -> dict[tuple[int, ...], np.ndarray]:
    """The weights in a file that are int8, by shape."""
    arrays = [numpy_helper.to_array(each) for each in file.graph.initializer]
    return {each.shape: each for each in arrays if each.dtype == np.int8 and each.ndim > 1}


@pytest.mark.parametrize("kind", ["qdq", "qdq by channel", "operators", "operators by channel", "dynamic"])
def test_the_cells_hold_the_models_own_integers(kind: str, tmp_path: Path) -> None:
    path, plan = quantised(tmp_path, kind), tmp_path / "plan.safetensors"
    summary = compress_onnx(path, tmp_path / "data.npz", tmp_path / "out.onnx", "dense", plan=plan)
    own = integers(onnx.load(path))
    assert (summary.mapped_weights, summary.mapped_macs, len(own)) == (1, 1, 3)
    kept = NetworkPlan.load(plan)
    for layer in kept.layers.values():
        (mine,) = (each for each in own.values() if each.size == layer.filters * layer.inputs)
        np.testing.assert_array_equal(layer.weights(), mine.T if mine.ndim == 2 else mine.reshape(len(mine), -1))
    assert [output.sqnr_db for output in summary.check.outputs] == [None]  # not a bit of the outputs is another


@pytest.mark.parametrize("kind", ["qdq by channel", "operators", "dynamic"])
def test_they_compute_what_onnxruntime_does(kind: str, tmp_path: Path) -> None:
    path = quantised(tmp_path, kind)
    file, batches = read_inputs(OnnxFile.read(path), tmp_path / "data.npz")
    found = capture_onnx(file, batches[0])
    assert [(each.rows, each.filters) for each in found.captured.network.layers] == [(27, 16), (144, 32), (32, 10)]
    (wanted,) = run(str(path), {"x": X})
    given = found.captured.module(*batches[0]).numpy()
    np.testing.assert_allclose(given, wanted, atol=0.01 * np.abs(wanted).max())
