import os
import signal
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

# as the command line does: torch's threads must not spin where tests share the cores with something else
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# a fault of the program is shown where it is, not in one line
os.environ.setdefault("PRAP_PIM_TRACEBACK", "1")
# a shell starts what it runs in the background with Ctrl-C ignored; all that tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def small_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A few packages of the standard library stand for all of it (``data: {name: stdlib}``)."""
    folder, whole = tmp_path_factory.mktemp("library"), Path(sysconfig.get_path("stdlib"))
    for name in ("json", "html", "urllib", "logging", "dbm"):
        for path in (whole / name).glob("*.py"):
            (folder / f"{name}_{path.name}").write_bytes(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sysconfig, "get_path", lambda name: str(folder))
        yield
