"""Every format of files that the command line reads: each makes a good file, and makes it bad."""

from tests.fuzz import arrays, configurations, finished, models, tensors
from tests.fuzz.case import Make

FORMATS: dict[str, Make] = {
    "run.yaml": configurations.run_yaml,
    "study.yaml": configurations.study_yaml,
    "device.yaml": configurations.device_yaml,
    "chip.toml": configurations.chip_toml,
    "table.toml": configurations.table_toml,
    "--set": configurations.set_flag,
    "data.npz": arrays.npz_data,
    "calibration.npz": arrays.npz_calibration,
    "model.onnx": models.onnx_model,
    "weights.safetensors": tensors.checkpoint,
    "plan.safetensors": tensors.plan,
    "run's files": finished.run_json,
}
