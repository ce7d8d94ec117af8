"""``python -m tests.runs.full_disk N``: commands on file systems of N sizes each, on which they run out of room or not.

They end with 0, or with 2 and one line that says so. Only root may mount.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz import server
from tests.fuzz.__main__ import prepared
from tests.runs.kills import COMMANDS, begun

_MOST = 16 << 10  # KiB: enough for all of them
_NAMES = ("run", "compare", "explore", "simulate", "compress", "finetune")


def tried(name: str, size: int, root: Path, base: Path | None) -> str:
    """One command on a file system of ``size`` KiB; what is wrong, or how it ended."""
    mounted = root / "mounted"
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(mounted)], check=True)
    try:
        place = begun("p", mounted, base)
        outcome = server.run(lambda: os.chdir(place) or COMMANDS[name].work(), root)
    except OSError:
        return "no room to begin"
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    if outcome.code == 2 and "No space left on device" in outcome.error and len(outcome.error.splitlines()) == 1:
        return "full"
    return "fine" if outcome.code == 0 else f"exit {outcome.code}: {outcome.error}"


def main() -> int:
    os.environ.pop("PRAP_PIM_TRACEBACK", None)
    count = int(sys.argv[1])
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared(root)
        base = begun("base", root, None)
        assert server.run(COMMANDS["run"].work, base).code == 0
        for name in _NAMES:
            sizes = [int(16 * (_MOST / 16) ** (i / (count - 1))) for i in range(count)]
            found = Counter(tried(name, size, root, base if name == "simulate" else None) for size in sizes)
            print(name, dict(found), flush=True)
            failed += len(set(found) - {"full", "fine", "no room to begin"})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
