import os
import signal
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported. One thread for each process of the tests, so that `pytest -n 2` fills two cores and no more,
# and a result is the same alone and beside others. Tests of threads ask for the number that they need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# as the command line does: torch's threads must not spin where tests share the cores with something else
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# an error of the program is shown where it is, not in one line
os.environ.setdefault("PRAP_PIM_TRACEBACK", "1")
# a shell starts what it runs in the background with Ctrl-C ignored; all that tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402

from tests.browser import browser  # noqa: E402

# `make test` tries the same examples each time, `make check` few, and new ones each time
settings.register_profile("thorough", deadline=None, derandomize=True)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "thorough"))

TESTS = Path(__file__).parent
# Folders of nothing but flows; elsewhere a flow is marked where it is.
FLOWS = [TESTS / name for name in ("benchmarks", "cli", "docs", "runs")]
# In turn for two workers: one compiles kernels, which the other, busy with pages, later finds compiled.
FIRST = ("api/test_own.py", "docs/test_site.py", "runs/test_calibrated_run.py", "report/test_browser.py")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the flows, and put files that hold some first: what takes long does not begin last. Of these, ``FIRST``."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()) or any(folder in item.path.parents for folder in FLOWS):
            item.add_marker("flow")
    long = {item.path for item in items if item.get_closest_marker("flow")}
    first = {TESTS / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: (first.get(item.path, len(FIRST)), item.path not in long))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


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
