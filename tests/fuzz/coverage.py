"""``python -m tests.fuzz.coverage plan|onnx FOLDER [libFuzzer's options]``: atheris on the parser of plans or of ONNX.

atheris, which is to be installed for it, changes bytes so that lines of the parser are reached that none reached
before. The folder keeps what reached some and begins with a sound file. All but a ``UserError`` ends it, and is kept
there, too.
"""

import contextlib
import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-untyped]

from prap_pim.api.onnx import compress_onnx
from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx import branches, dequantise, file, graphs, lower, parts, products
from prap_pim.frontend.onnx import calibration as batches
from prap_pim.ir import outline, plan
from tests.fuzz.models import calibration, network
from tests.fuzz.tensors import cost_plan

_PARSERS = (plan, outline, file, graphs, branches, dequantise, lower, parts, products, batches)


def instrument() -> None:
    """Count the lines of all parsers' functions, but of those that numba compiles from their bytecode."""
    for module in _PARSERS:
        owners = [each for each in vars(module).values() if inspect.isclass(each)]
        for owner in (module, *owners):
            for name, function in list(vars(owner).items()):
                if inspect.isfunction(function) and function.__module__ == module.__name__:
                    setattr(owner, name, atheris.instrument_func(function))


def of_onnx(path: Path) -> None:
    """Read a model and take it apart."""
    model, given = batches.read_inputs(file.OnnxFile.read(path), path.parent / "d.npz")
    lower.capture_onnx(model, given[0])


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir="/dev/shm"))
    model, given, sound = place / "m.onnx", place / "d.npz", folder / "sound"
    model.write_bytes(network().SerializeToString())
    given.write_bytes(calibration())
    compress_onnx(model, given, place / "o.onnx", method="similar", compute_ratio=0.5, plan=place / "p")
    sound.write_bytes((place / "p" if kind == "plan" else model).read_bytes())
    instrument()
    work: Callable[[Path], None] = {"plan": cost_plan, "onnx": of_onnx}[kind]

    def one(content: bytes) -> None:
        path = place / "case"
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            work(path)

    options = ["-max_len=20000", "-timeout=60", "-rss_limit_mb=6000", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], str(folder), *options, *sys.argv[3:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
