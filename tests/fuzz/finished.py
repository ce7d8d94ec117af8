"""Files of a finished run."""

import json
from pathlib import Path
from random import Random

import yaml

from tests.fuzz.case import Case
from tests.fuzz.configurations import TRAINED
from tests.fuzz.values import changed, damaged


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
