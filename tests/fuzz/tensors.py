"""Safetensors: weights and plans."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load, save

from tests.fuzz.case import Case
from tests.fuzz.configurations import ONE, RUN_IT
from tests.fuzz.values import changed, damaged


def changed_tensors(content: bytes, random: Random, texts: bool) -> tuple[bytes, str]:
    """One whose header, its length, bytes or contents are hostile."""
    size = int.from_bytes(content[:8], "little")
    how = random.randrange(7)
    if how > 3:
        return _sound(content, random, texts)
    if how == 0:
        return damaged(content, random)
    if how == 1:
        odd = random.choice([0, 1, size + 1, size - 1, 2**31, 2**63, 2**64 - 1])
        return odd.to_bytes(8, "little") + content[8:], f"header of {odd} bytes"
    header = json.loads(content[8 : 8 + size])
    header, told = changed(header, random, ["F64", "I8", "BF16", [0, 4], [0, 2**62], [2**40, 2**20]])
    text = json.dumps(header).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + content[8 + size :], told


def _sound(content: bytes, random: Random, texts_too: bool) -> tuple[bytes, str]:
    """A sound file of an array, or of texts beside the arrays, that are not what they should be."""
    tensors, size = load(content), int.from_bytes(content[:8], "little")
    texts = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    if texts_too and random.random() < 0.5:
        tree, told = changed({key: _value(text) for key, text in texts.items()}, random, [])
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in tree.items()}
    else:
        name = random.choice(sorted(tensors))
        tensors[name], told = _array(tensors[name], random)
        told = f"{name}: {told}"
    texts = {_utf8(key): _utf8(text) for key, text in texts.items()}
    return save(tensors, texts), told


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _array(array: Any, random: Random) -> tuple[Any, str]:
    how, odd = random.randrange(4), random.choice([0, 1, -1, 7, 127, 255, 2**31, 2**40, np.nan, np.inf, 1e38, 1e-45])
    with np.errstate(all="ignore"):
        if how == 0:
            kind = random.choice(["f2", "f4", "f8", "i1", "u1", "i4", "i8", "u8", "?"])
            return array.astype(kind), f"of {kind}"
        if how == 1:
            shape = random.choice([(), (0,), (array.size,), (*array.shape, 1), (1, *array.shape)])
            return np.resize(array, shape), f"of {shape}"
        found = array.copy()
        place = random.randrange(found.size) if found.size and how == 2 else slice(None)
        found.reshape(-1)[place] = np.array(odd).astype(array.dtype)
        return found, f"{odd} at {place}"


def checkpoint(random: Random, finished: Path) -> Case:
    """A user's weights."""
    source = sorted(finished.glob("checkpoints/*.safetensors"))[-1]
    content, told = changed_tensors(source.read_bytes(), random, texts=False)
    files = {"c.yaml": yaml.safe_dump({**ONE, "checkpoint": "w.safetensors"}).encode(), "w.safetensors": content}
    return Case(told, files, RUN_IT)


def plan(random: Random, finished: Path) -> Case:
    """A plan by itself, costed by the library."""
    content, told = changed_tensors((finished / "methods/prap/plan.safetensors").read_bytes(), random, texts=True)
    return Case(told, {"p.safetensors": content}, work=lambda: cost_plan(Path("p.safetensors")))


def cost_plan(path: Path) -> None:
    """Read a plan, and what its network costs."""
    from prap_pim import NetworkPlan, load_chip
    from prap_pim.cost import cost

    found = NetworkPlan.load(path)
    cost(found.network(), found, load_chip("isaac-32nm"))
