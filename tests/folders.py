"""Folders of finished runs, changed on purpose."""

import json
from pathlib import Path

from prap_pim.common.files import file_digest, key_of, write_json


def renew(folder: Path) -> None:
    """Make the manifest that of the files as they are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    content["files"] = {name: file_digest(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", {**content, "sha256": key_of(content)})


def as_earlier(folder: Path) -> None:
    """Make the manifest one of an earlier version, which kept no digests of files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {k: v for k, v in manifest.items() if k not in ("files", "coming", "sha256")})
