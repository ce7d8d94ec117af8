"""The site builds strictly, and asks nothing of the network: neither when it is built nor when it is read."""

import json
import os
import re
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

FETCHING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "http_proxy": _nowhere(), "https_proxy": _nowhere()}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _nowhere() -> str:
    """A proxy that is not there: whatever asks for the network fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_every_page_is_in_it(site: Path) -> None:
    built = {page.relative_to(site).with_suffix("").as_posix() for page in site.rglob("*.html")}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= built


def test_what_pages_load_is_beside_them(site: Path) -> None:
    class Loads(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            target = dict(attrs).get(FETCHING.get(tag, ""))
            if target and dict(attrs).get("rel") not in ("canonical", "prev", "next"):
                found.append(target)

    for page in site.rglob("*.html"):
        found: list[str] = []
        Loads().feed(page.read_text())
        assert found
        for target in found:
            if not target.startswith("data:"):
                assert page.name == "404.html" or (page.parent / target.partition("?")[0]).is_file(), (page, target)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text()), style


@pytest.mark.parametrize("page", ["index.html", "concepts.html", "api.html"])
def test_a_browser_asks_nothing_of_the_network(page: str, site: Path, tmp_path: Path) -> None:
    text, asked = _browse(f"file://{site / page}", tmp_path)
    assert "md-content" in text
    assert not asked


def test_what_a_page_asks_would_be_seen(tmp_path: Path) -> None:
    """The control: a page that loads a script and fetches from elsewhere."""
    page, elsewhere = tmp_path / "page.html", _nowhere()
    page.write_text(f"<script src='{elsewhere}/script.js'></script><script>fetch('{elsewhere}/data')</script>")
    _, asked = _browse(f"file://{page}", tmp_path)
    assert asked == {f"{elsewhere}/script.js", f"{elsewhere}/data"}


def test_search_works_from_disk(site: Path, tmp_path: Path) -> None:
    text, asked = _browse(f"file://{site}/index.html?q=accumulator", tmp_path)
    found = set(re.findall(r'/([a-z-]+\.html)[^"]*" class="md-search-result__link"', text))
    assert {"cost.html", "function.html", "api.html"} <= found
    assert not asked


def _browse(address: str, folder: Path) -> tuple[str, set[str]]:
    """Open a page in a browser: what it holds in the end, and all that it asked of the network."""
    log = folder / "log.json"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    command += ["--virtual-time-budget=5000", f"--log-net-log={log}", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    logged = json.loads(log.read_text())
    start = logged["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event.get("params", {}) for event in logged["events"] if event["type"] == start]
    # what the browser asks for itself (its updates, the time) has no page behind it
    return done.stdout, {job["url"] for job in jobs if job.get("initiator", "not an origin") != "not an origin"}
