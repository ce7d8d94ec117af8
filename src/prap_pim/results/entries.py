"""Files of values that are kept once (``runs/store.py``): each holds digests of itself and of the files beside it."""

import re
from pathlib import Path
from typing import Any

from prap_pim.common.errors import UserError
from prap_pim.common.files import file_digest, json_text, key_of, read_json, read_text

_NAME = re.compile(r".+-[0-9a-f]{32}\.json")  # of a file that ``Store.entry`` names


def check_entries(folder: Path) -> None:
    """
    Raises:
        UserError: a file of a value that the folder holds is missing or damaged; it is named.
    """
    for path in sorted(folder.glob("*.json")):
        if _NAME.fullmatch(path.name):
            read_entry(path)


def read_entry(path: Path) -> dict[str, Any]:
    """What the file of a value holds: what it depends on, the value, and digests of its other files.

    Raises:
        UserError: it or a file that belongs to it is not what was written, and is named.
    """
    saved = read_json(path)
    try:
        content = {key: saved[key] for key in ("depends_on", "value", "files")}
        written = json_text({**content, "sha256": key_of(content)})
        intact = read_text(path) == written  # to the byte: digests of finished folders are over these
        files = [(path.parent / name, digest) for name, digest in content["files"].items()]
    except (KeyError, TypeError, AttributeError, ValueError):
        intact, files = False, []
    if not intact:
        raise damaged(path)
    for file, digest in files:
        if file_digest(file) != digest:
            raise damaged(file)
    return content


def damaged(path: Path) -> UserError:
    """What is said of a file whose digest is another."""
    return UserError(f"{path} is damaged: it is not what was written")
