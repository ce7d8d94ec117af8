"""Every format of files that the command line reads: a good file, and how it is made bad."""

import io
import json
import shutil
import struct
import sys
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from prap_pim.__main__ import main
from prap_pim.common.errors import UserError, one_line
from prap_pim.hardware.chip import CHIPS
from prap_pim.hardware.components import COMPONENTS
from tests.fuzz.values import HOSTILE, changed, damaged, places

RUN: dict[str, Any] = {
    "name": "t",
    "seed": 0,
    "output": "out",
    "data": {"name": "digits", "size": 8, "train": 60, "calibration": 20, "test": 20, "perturb": {"rotation": 5.0}},
    "model": {"name": "cnn", "width": 1},
    "checkpoint": None,
    "training": "none",
    "quantize": {"input_percentile": 99.9},
    "chip": "isaac-32nm",
    "mapping": "spread",
    "crossbar_budget": 50,
    "checked_images": 2,
    "zero_input_skipping": False,
    "cost": {"timing": "formula", "data": "uniform"},
    "methods": [
        {"name": "dense"},
        {
            "name": "prap",
            "prune": {"kind": "pattern", "group_channels": 2, "pointwise_group": 16, "shapes": 8},
            "reuse": {"kind": "similar", "keep": 0.5},
            "exceptions": [{"layers": "classifier"}],
        },
    ],
}
TRAINED = {
    **RUN,
    "training": {
        "epochs": 2,
        "compress_at": 1,
        "batch_size": 20,
        "learning_rate": 0.1,
        "warmup": 1,
        "weight_decay": 5e-4,
    },
}
_CALIBRATED: dict[str, Any] = {
    "kind": "calibrated",
    "compute_ratio": 0.5,
    "shapes": [9, 8, 4],
    "balance": True,
    "passes": 1,
}
OTHERS: list[dict[str, Any]] = [
    {**RUN, "methods": [{"name": "c", "reuse": {**_CALIBRATED, "mimic": 1.0, "damping": 0.01, "update_weight": 0.05}}]},
    {
        **RUN,
        "methods": [
            {"name": "b", "reuse": {"kind": "lowbit", "compute_ratio": 0.6}, "tune": {"steps": 2, "inputs": 4}}
        ],
    },
    {**RUN, "methods": [{"name": "r", "method": "similar", "compute_ratio": 0.5}], "zero_input_skipping": True},
    {
        **RUN,
        "model": {"name": "resnet", "depth": 8, "width": 2},
        "methods": [
            {"name": "o", "prune": {"kind": "orc", "ratio": 0.2}},
            {
                "name": "s",
                "prune": {"kind": "structured", "ratio": 0.5},
                "reuse": {"kind": "identical", "threshold": 0.75},
            },
        ],
    },
    {
        **RUN,
        "data": {
            "name": "text",
            "files": ["text.txt"],
            "length": 8,
            "held_out": 0.1,
            "train": 20,
            "calibration": 8,
            "test": 8,
        },
        "model": {"name": "gpt", "layers": 1, "width": 8, "heads": 2},
    },
]
STUDY: dict[str, Any] = {
    "name": "s",
    "base": {**RUN, "methods": [RUN["methods"][1]]},
    "space": {"methods.prap.reuse.keep": {"low": 0.25, "high": 0.75, "step": 0.25}, "chip.adc_bits": [3, 4, 6]},
    "objectives": ["latency", "energy"],
    "constraints": {"area": "<= 1e-2"},
    "sampler": "random",
    "trials": 2,
    "batch": 2,
    "threads": 1,
}
STUDY["base"].pop("output")
DEVICE: dict[str, Any] = {
    "encoding": "differential",
    "adc_range": "clip",
    "adc_bits": 6,
    "accumulator_bits": 32,
    "fraction_bits": 2,
    "overflow": "saturate",
    "dot_bits": 30,
    "copies": {"share": 0.25, "copies": 4},
    "device": {
        "on_off_ratio": 16.7,
        "reference_column": True,
        "variation": {"sigma": 0.1},
        "write_verify": {"tolerance": 0.2, "attempts": 3},
        "stuck_on": 0.01,
        "stuck_off": 0.01,
        "read_noise": 0.01,
        "drift": {"seconds": 100, "exponent": 0.05},
        "row_wire_ohm": 1.0,
        "column_wire_ohm": 1.0,
        "on_resistance_ohm": 6000.0,
    },
}


# What stands in the place of others in configurations: methods, networks, data.
CHOICES: list[Any] = [
    *("prap-2023", "gpt", "pack", "prap"),
    *({"kind": "orc", "ratio": 0.2}, {"kind": "structured", "ratio": 0.5}, {"kind": "identical", "threshold": 0.75}),
    *(
        {"kind": "calibrated", "compute_ratio": 0.5},
        {"kind": "lowbit", "compute_ratio": 0.5},
        {"kind": "similar", "keep": 0.1},
    ),
    *(
        {"name": "resnet", "depth": 8, "width": 2},
        {"name": "gpt", "layers": 1, "width": 8, "heads": 2},
        {"name": "cnn", "width": 3},
    ),
    *(
        {"name": "text", "files": ["c.yaml"], "length": 8},
        {"import": "os:abort"},
        {"onnx": "c.yaml"},
        {"transformers": "."},
    ),
    *({"name": "images", "folder": "."}, {"name": "npz", "path": "c.yaml"}, {"name": "datasets", "path": "."}),
    *(
        {"name": "c", "compute_ratio": 0.5, "method": "similar"},
        {"name": "x", "reuse": {"kind": "calibrated", "max_drop": 0.5}},
    ),
    *({"low": 1, "high": 9}, {"low": 0.5, "high": 1.5, "log": True}, {"low": 0, "high": 1, "step": 0.3}),
]


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        told: what was changed.
        files: by name, in the case's folder.
        command: of ``prap-pim``; empty: ``work`` is called.
        run: whether the finished run is copied there, as ``run``; files are put into that copy, too.
    """

    told: str
    files: Mapping[str, bytes]
    command: tuple[str, ...] = ()
    run: bool = False
    work: Callable[[], None] | None = field(default=None)

    def put(self, place: Path, finished: Path) -> None:
        """Write its files."""
        if self.run:
            shutil.copytree(finished, place / "run")
        for name, content in self.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)

    def __call__(self) -> int:
        if self.work is None:
            return main(self.command)
        try:
            self.work()
        except UserError as error:
            print(f"prap-pim: {one_line(error)}", file=sys.stderr)
            return 2
        return 0


Make = Callable[[Random, Path], Case]  # of a seed and the folder of a finished run


def _yaml(tree: Any, random: Random) -> tuple[bytes, str]:
    """As a file, which is sometimes damaged as bytes."""
    content = yaml.safe_dump(tree, sort_keys=False, allow_unicode=False).encode("utf-8", "surrogatepass")
    return damaged(content, random) if random.random() < 0.1 else (content, "")


def _toml(value: Any) -> str:
    """A value; ``None`` is something that TOML has not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _of_toml(tree: Mapping[str, Any], random: Random) -> tuple[bytes, str]:
    text = "".join(f"{json.dumps(str(key))} = {_toml(value)}\n" for key, value in tree.items())
    content = text.encode("utf-8", "surrogatepass")
    return damaged(content, random) if random.random() < 0.1 else (content, "")


def run_yaml(random: Random, finished: Path) -> Case:
    """A run's configuration."""
    base = random.choice((RUN, TRAINED, *OTHERS))
    tree, told = changed(base, random, [*CHOICES, base["methods"][-1]])
    content, more = _yaml(tree, random)
    text = b"The quick brown fox jumps over the lazy dog.\n" * 40
    return Case(
        f"{told} {more}", {"c.yaml": content, "text.txt": text}, ("run", "c.yaml", "--output", "out", "--quiet")
    )


def study_yaml(random: Random, finished: Path) -> Case:
    """A study's configuration."""
    base = {
        **STUDY,
        **random.choice(
            ({}, {"sampler": "nsga2", "trials": 5}, {"sampler": "tpe"}, {"sampler": "grid", "trials": None})
        ),
    }
    tree, told = changed(base, random, [*CHOICES, "nsga2", "tpe", "grid", ["accuracy"], {"energy": "maximize"}])
    content, more = _yaml(tree, random)
    command = ("explore", "c.yaml", "--output", "out", "--quiet", "--processes", "1")
    return Case(f"{told} {more}", {"c.yaml": content}, command)


def device_yaml(random: Random, finished: Path) -> Case:
    """Crossbars of a simulation."""
    tree, told = changed(DEVICE, random, ["joshi-2020", {"coefficients": [1e6], "reference": 1e-6}])
    content, more = _yaml(tree, random)
    command = (
        "simulate",
        "run",
        "--device",
        "d.yaml",
        "--quiet",
        "--samples",
        "3",
        "--devices",
        "2",
        "--processes",
        "1",
    )
    return Case(f"{told} {more}", {"d.yaml": content}, command, run=True)


def chip_toml(random: Random, finished: Path) -> Case:
    """A chip."""

    tree, told = changed(tomllib.loads((CHIPS / "isaac-32nm.toml").read_text()), random, [16, 64, 256, 512])
    content, more = _of_toml(tree, random)
    files = {"c.yaml": yaml.safe_dump({**RUN, "chip": "chip.toml"}).encode(), "chip.toml": content}
    return Case(f"{told} {more}", files, ("run", "c.yaml", "--output", "out", "--quiet"))


def table_toml(random: Random, finished: Path) -> Case:
    """Figures of components."""

    tree, told = changed(tomllib.loads((COMPONENTS / "isaac-32nm.toml").read_text()), random, [1e-12])
    content, more = _of_toml(tree, random)
    chip = (CHIPS / "isaac-32nm.toml").read_text().replace('components = "isaac-32nm"', 'components = "t.toml"')
    files = {
        "c.yaml": yaml.safe_dump({**RUN, "chip": "chip.toml"}).encode(),
        "chip.toml": chip.encode(),
        "t.toml": content,
    }
    return Case(f"{told} {more}", files, ("run", "c.yaml", "--output", "out", "--quiet"))


def set_flag(random: Random, finished: Path) -> Case:
    """``--set`` and ``--sweep``."""
    value = random.choice(HOSTILE)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", "")
    if random.random() < 0.2:
        name = random.choice(["sigma", "adc-bits", "fault-rate", "x", ""])
        text = random.choice(
            [text, "0,0.1", "0,1e30", ",".join(map(str, range(2000))), "1_0", "1,1", "-1", "[1]", "3,4"]
        )
        flags = (
            "--samples",
            random.choice(["3", "1_0", "-1", "1e3", "9" * 30]),
            "--devices",
            random.choice(["2", "0", "x"]),
        )
        command = ("simulate", "run", "--sweep", f"{name}={text}", "--quiet", "--processes", "1", *flags)
        return Case(f"--sweep {name}={text[:60]} {flags}", {}, command, run=True)
    path = ".".join(map(str, random.choice(list(places(RUN)))))
    path = random.choice([path, path, path, f"{path}.x", path[:-1], "", ".", "a" * 500, "methods.99999999999.name"])
    command = ("run", "c.yaml", "--output", "out", "--quiet", "--set", f"{path}={text}")
    return Case(f"--set {path[:60]}={text[:60]}", {"c.yaml": yaml.safe_dump(RUN).encode()}, command)


def _npz(arrays: Mapping[str, Any], random: Random) -> tuple[bytes, str]:
    """An archive, one of whose headers, entries or bytes is hostile."""
    arrays, told = dict(arrays), "as it was"
    how = random.randrange(7)
    name = random.choice(list(arrays))
    if how == 0:
        del arrays[name]
        told = f"{name} left out"
    elif how == 1:
        odd = np.full(arrays[name].shape, random.choice([np.nan, np.inf, 1e308, -1, 255, 2**40]))
        kinds = ["f2", "f4", "f8", "i1", "u8", "c8", "S3", "?", "M8[s]"]
        with np.errstate(all="ignore"):
            arrays[name] = (odd if random.random() < 0.5 else arrays[name]).astype(random.choice(kinds))
        told = f"{name} of {arrays[name].dtype}"
    elif how == 2:
        shape = random.choice(
            [(), (0,), (1,), (1, 1, 1, 1, 1, 1), (2, 0, 3), (1 << 14, 1 << 14), (3, 1, 8, 8), (400, 8, 8)]
        )
        arrays[random.choice([name, "other"])] = np.zeros(shape, np.uint8)
        told = f"shape {shape}"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            inner = io.BytesIO()
            np.save(inner, array, allow_pickle=False)
            content = inner.getvalue()
            if how == 3 and key == name:
                content, told = _npy_header(content, random)
            archive.writestr(f"{key}.npy", content)
        if how == 4:
            archive.writestr(
                random.choice(["../x.npy", f"{name}.npy", "x", "/etc/x.npy"]), b"\x93NUMPY\x01\x00\x00\x00"
            )
            told = "an odd entry"
    if how > 4:
        return damaged(stream.getvalue(), random)
    return stream.getvalue(), told


def _npy_header(content: bytes, random: Random) -> tuple[bytes, str]:
    length = struct.unpack("<H", content[8:10])[0]
    odd = [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 8, 8), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8), }",
        "{'descr': [('a', '<f4')], 'fortran_order': True, 'shape': (4,), }",
        "{'descr': '<f4', 'shape': (4,)}",
        "(" * 3000,
        "__import__('os').abort()",
    ]
    header = random.choice(odd).encode()
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + length :], f"header {header[:60]!r}"


def npz_data(random: Random, finished: Path) -> Case:
    """A user's images."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (120, 8, 8), np.uint8), np.arange(120) % 3
    content, told = _npz({"images": images, "labels": labels}, random)
    data = {"name": "npz", "path": "d.npz", "train": 60, "calibration": 20, "test": 20}
    files = {"c.yaml": yaml.safe_dump({**RUN, "data": data}).encode(), "d.npz": content}
    return Case(told, files, ("run", "c.yaml", "--output", "out", "--quiet"))


def npz_calibration(random: Random, finished: Path) -> Case:
    """Calibration inputs of an ONNX model."""
    content, told = _npz({"x": np.random.default_rng(0).standard_normal((8, 1, 6, 6), np.float32)}, random)
    command = ("compress", "m.onnx", "--calibration", "d.npz", "--output", "o.onnx", "--method", "similar", "--quiet")
    return Case(told, {"m.onnx": network().SerializeToString(), "d.npz": content}, (*command, "--set", "keep=0.5"))


def network() -> onnx.ModelProto:
    """A small network of two layers."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((4, 1, 3, 3), np.float32),
        "b": generator.standard_normal(4, np.float32),
        "v": generator.standard_normal((3, 4), np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["p"], keepdims=0),
        helper.make_node("Gemm", ["p", "v"], ["y"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def onnx_model(random: Random, finished: Path) -> Case:
    """A user's ONNX model."""
    model, told = network(), ""
    for _ in range(random.choice((1, 1, 2))):
        told += _change(model, random) + "; "
    content = model.SerializeToString()
    if random.random() < 0.25:
        content, told = damaged(content, random)
    inputs = io.BytesIO()
    np.savez(inputs, x=np.random.default_rng(0).standard_normal((8, 1, 6, 6), np.float32))
    command = ("compress", "m.onnx", "--calibration", "d.npz", "--output", "o.onnx", "--method", "similar", "--quiet")
    return Case(told, {"m.onnx": content, "d.npz": inputs.getvalue()}, (*command, "--set", "keep=0.5"))


def _change(model: onnx.ModelProto, random: Random) -> str:
    graph, odd = model.graph, random.choice([0, -1, 2**31, 2**62, 7, 3])
    node, tensor = random.choice(graph.node), random.choice(graph.initializer)
    how = random.randrange(9)
    if how == 0 and node.attribute:
        attribute = random.choice(node.attribute)
        if attribute.ints:
            attribute.ints[random.randrange(len(attribute.ints))] = odd
        else:
            attribute.i = odd
        return f"{node.op_type}.{attribute.name}: {odd}"
    if how == 1:
        node.op_type = random.choice(
            ["MatMul", "Loop", "If", "ConstantOfShape", "Expand", "", "Tile", "Add", "LSTM", "Softmax"]
        )
        return f"a {node.op_type}"
    if how == 2:
        place = random.randrange(len(node.input))
        node.input[place] = random.choice(["", "x", "w", "y", "nowhere", node.output[0]])
        return f"{node.op_type} reads {node.input[place]!r}"
    if how == 3:
        tensor.dims[random.randrange(len(tensor.dims))] = odd
        return f"{tensor.name} of {list(tensor.dims)}"
    if how == 4:
        tensor.data_type = random.choice([0, 1, 7, 8, 9, 10, 14, 16, 99])
        return f"{tensor.name} of type {tensor.data_type}"
    if how == 5:
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", random.choice(["../d.npz", "/etc/passwd", "d.npz", "", "m.onnx", "."])
        return f"{tensor.name} at {entry.value!r}"
    if how == 6:
        shape = graph.input[0].type.tensor_type.shape
        shape.dim[random.randrange(4)].dim_value = odd
        return f"an input with a side of {odd}"
    if how == 7:
        opset = model.opset_import[0]
        opset.version = random.choice([0, 1, 9, 13, 17, 99, 2**40])
        return f"opset {opset.version}"
    values = numpy_helper.to_array(tensor).astype("f4")
    values = np.full_like(values, random.choice([np.nan, np.inf, 1e38, 1e-45, 0]))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return f"{tensor.name} full of {values.flat[0]}"


def _safetensors(content: bytes, random: Random) -> tuple[bytes, str]:
    """One whose header, its length or bytes are hostile."""
    size = int.from_bytes(content[:8], "little")
    how = random.randrange(4)
    if how == 0:
        return damaged(content, random)
    if how == 1:
        odd = random.choice([0, 1, size + 1, size - 1, 2**31, 2**63, 2**64 - 1])
        return odd.to_bytes(8, "little") + content[8:], f"header of {odd} bytes"
    header = json.loads(content[8 : 8 + size])
    header, told = changed(header, random, ["F64", "I8", "BF16", [0, 4], [0, 2**62], [2**40, 2**20]])
    text = json.dumps(header).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + content[8 + size :], told


def checkpoint(random: Random, finished: Path) -> Case:
    """A user's weights."""
    source = sorted(finished.glob("checkpoints/*.safetensors"))[-1]
    content, told = _safetensors(source.read_bytes(), random)
    files = {"c.yaml": yaml.safe_dump({**RUN, "checkpoint": "w.safetensors"}).encode(), "w.safetensors": content}
    return Case(told, files, ("run", "c.yaml", "--output", "out", "--quiet"))


def plan(random: Random, finished: Path) -> Case:
    """A plan by itself, costed by the library."""
    content, told = _safetensors((finished / "methods/prap/plan.safetensors").read_bytes(), random)
    return Case(told, {"p.safetensors": content}, work=_cost)


def _cost() -> None:
    from prap_pim import NetworkPlan, load_chip
    from prap_pim.cost import cost

    found = NetworkPlan.load("p.safetensors")
    cost(found.network(), found, load_chip("isaac-32nm"))


def run_json(random: Random, finished: Path) -> Case:
    """A file of a finished run, whatever reads it."""
    files = sorted(
        path for path in finished.rglob("*") if path.is_file() and path.suffix in (".json", ".safetensors", ".yaml")
    )
    path = random.choice(files)
    if path.suffix == ".json" and random.random() < 0.7:
        tree, told = changed(json.loads(path.read_bytes()), random, [])
        content = json.dumps(tree).encode()
    else:
        content, told = damaged(path.read_bytes(), random)
    name = path.relative_to(finished).as_posix()
    # without the manifest's digests, as a run of an earlier version, more of the file is looked at
    bare = {"run/manifest.json": _bare(finished)} if random.random() < 0.5 and name != "manifest.json" else {}
    command = random.choice(
        [
            ("report", "run", "--quiet"),
            ("report", "run", "--json"),
            ("plot", "run", "--figure", "energy", "--output", "f.csv", "--quiet"),
            ("simulate", "run", "--quiet", "--samples", "2", "--devices", "1", "--processes", "1"),
            ("run", "c.yaml", "--output", "run", "--resume", "--quiet"),
        ]
    )
    given = {"c.yaml": yaml.safe_dump({**TRAINED, "output": "run"}).encode()}
    return Case(f"{name}: {told} ({command[0]})", {**given, **bare, f"run/{name}": content}, command, run=True)


def _bare(finished: Path) -> bytes:
    manifest = json.loads((finished / "manifest.json").read_text())
    return json.dumps({k: v for k, v in manifest.items() if k not in ("files", "coming", "sha256")}).encode()


FORMATS: dict[str, Make] = {
    "run.yaml": run_yaml,
    "study.yaml": study_yaml,
    "device.yaml": device_yaml,
    "chip.toml": chip_toml,
    "table.toml": table_toml,
    "--set": set_flag,
    "data.npz": npz_data,
    "calibration.npz": npz_calibration,
    "model.onnx": onnx_model,
    "weights.safetensors": checkpoint,
    "plan.safetensors": plan,
    "run's files": run_json,
}
