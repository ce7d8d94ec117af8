"""Configurations of runs, studies and crossbars, chips, tables of figures, and ``--set``."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml

from prap_pim.hardware.chip import CHIPS
from prap_pim.hardware.components import COMPONENTS
from tests.fuzz.case import Case
from tests.fuzz.values import HOSTILE, changed, damaged, places

RUN_IT = ("run", "c.yaml", "--output", "out", "--quiet")
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
ONE = {**RUN, "methods": RUN["methods"][1:]}  # of one method, where another file is what is hostile
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
    return Case(f"{told} {more}", {"c.yaml": content, "text.txt": text}, RUN_IT)


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
    files = {"c.yaml": yaml.safe_dump({**ONE, "chip": "chip.toml"}).encode(), "chip.toml": content}
    return Case(f"{told} {more}", files, RUN_IT)


def table_toml(random: Random, finished: Path) -> Case:
    """Figures of components."""

    tree, told = changed(tomllib.loads((COMPONENTS / "isaac-32nm.toml").read_text()), random, [1e-12])
    content, more = _of_toml(tree, random)
    chip = (CHIPS / "isaac-32nm.toml").read_text().replace('components = "isaac-32nm"', 'components = "t.toml"')
    files = {
        "c.yaml": yaml.safe_dump({**ONE, "chip": "chip.toml"}).encode(),
        "chip.toml": chip.encode(),
        "t.toml": content,
    }
    return Case(f"{told} {more}", files, RUN_IT)


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
    files = {"c.yaml": yaml.safe_dump(RUN).encode()}
    return Case(f"--set {path[:60]}={text[:60]}", files, (*RUN_IT, "--set", f"{path}={text}"))
