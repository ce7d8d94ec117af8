"""``prap-pim compress`` of whatever a configuration's ``model`` and ``data`` may name, and of short forms of them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from prap_pim.api.model import Compression, compress
from prap_pim.common.arrays import read_arrays
from prap_pim.common.errors import UserError
from prap_pim.common.files import check_plain
from prap_pim.common.texts import parse_yaml
from prap_pim.frontend import Inputs
from prap_pim.runs.config import RunConfig
from prap_pim.runs.task import load_task
from prap_pim.training.data import Examples, Splits, load
from prap_pim.training.data.images import to_calibrate_with


def model_settings(text: str) -> dict[str, Any]:
    """What ``model`` of a configuration would be: itself in braces, an ONNX file, or a folder of transformers.

    Raises:
        UserError: it is something else.
    """
    if text.lstrip().startswith("{"):
        return _mapping(text, "model")
    if Path(text).is_dir():
        return {"transformers": text}
    check_plain(Path(text))
    return {"onnx": text}


def data_settings(text: str, tokenizer: Path | None) -> dict[str, Any]:
    """What ``data`` would be: itself in braces, or a text file.

    Raises:
        UserError: it is something else.
    """
    if text.lstrip().startswith("{"):
        return _mapping(text, "--calibration")
    if not Path(text).exists():
        raise UserError(f"--calibration: there is no file or folder {text}")
    check_plain(Path(text))
    return {"name": "text", "files": [text], "tokenizer": tokenizer and str(tokenizer)}


def compress_named(
    model: dict[str, Any],
    calibration: str,
    output: Path,
    *,
    checkpoint: Path | None,
    tokenizer: Path | None,
    allow_imports: bool,
    **how: Any,
) -> Compression:
    """Compress a PyTorch model and keep all of it in a folder (``Compression.save``).

    Args:
        model: as ``model`` of a configuration.
        calibration: an npz file with an array for each of its arguments, a folder of pictures, or what
            ``data_settings`` takes.
        output: the folder.
        checkpoint: a file of its weights.
        tokenizer: a folder, for a text file.
        allow_imports: whether code that is named may run.
        how: as for ``prap_pim.compress``.

    Raises:
        UserError: as ``compress``, or a file cannot be read or written.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"cannot write {output}: the output of a PyTorch model is a folder")
    alone = arrays_of(Path(calibration)) if Path(calibration).suffix == ".npz" else _pictures(calibration)
    data = {"name": "digits"} if alone is not None else data_settings(calibration, tokenizer)
    values = {"name": "compress", "model": model, "data": data, "training": "none", "methods": [{"name": "dense"}]}
    config = RunConfig.checked({**values, "checkpoint": checkpoint and str(checkpoint)}, "compress")
    task = load_task(config, allow_imports)
    given: Any = inputs_of(task.data) if alone is None else alone
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* times the OU steps of dense")  # the summary says so
        found = compress(task.model, given, **how)
    found.save(output)
    return found


def as_arrays(calibration: str, tokenizer: Path | None, folder: str) -> Path:
    """Calibration inputs of an ONNX model of one input, as the npz file that is read for it.

    Raises:
        UserError: they cannot be read.
    """
    inputs = _pictures(calibration)
    if inputs is None:
        values = {"name": "compress", "data": data_settings(calibration, tokenizer), "methods": [{"name": "dense"}]}
        config = RunConfig.checked(values, "compress")
        if config.imports:
            raise UserError("--calibration: import is for PyTorch models: give an npz file, pictures or text")
        inputs = inputs_of(load(config.data, config.seed))
    if not isinstance(inputs, Tensor):
        raise UserError("--calibration: an ONNX model takes an npz file, pictures or text")
    path = Path(folder) / "calibration.npz"
    np.savez(path, input=inputs.numpy())
    return path


def _pictures(calibration: str) -> Tensor | None:
    """Of a folder; None where ``calibration`` is none."""
    return to_calibrate_with(Path(calibration)) if Path(calibration).is_dir() else None


def inputs_of(data: Splits) -> Tensor | Inputs:
    """Calibration inputs of what a configuration names."""
    found = data.calibration
    return found.inputs if isinstance(found, Examples) else found


def arrays_of(path: Path) -> Inputs:
    """A batch of named arguments, or the only one, of an npz file.

    Raises:
        UserError: it is missing, or holds other things than arrays of numbers.
    """
    found = read_arrays(path)
    return next(iter(found.values())) if len(found) == 1 else found


def _mapping(text: str, where: str) -> dict[str, Any]:
    value = parse_yaml(text, where)
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected {{key: value}}, as in a configuration")
    return value
