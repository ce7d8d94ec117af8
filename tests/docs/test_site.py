"""The site builds strictly, and asks nothing of the network: neither when it is built nor when it is read."""

import os
import re
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import watched
from tests.docs.pages import ROOT

# what a reader may look for, and the page that explains it
EXPLAINED = {
    "donor": "concepts",
    "operation unit": "concepts",
    "row group": "concepts",
    "latency": "cost",
    "ADC": "components",
    "noise": "function",
    "index": "cost",
}
TOO_LONG = """() => [...document.querySelectorAll("pre > code")]
    .filter(code => code.scrollWidth > code.clientWidth)
    .map(code => code.innerText)"""
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


def test_the_reference_names_what_there_is(site: Path) -> None:
    """Docstrings are read as they are meant: no "a, b:" for two attributes at once, no marks of markup left over."""
    article = (site / "api.html").read_text().partition("<article")[2].partition("</article")[0]
    names = [re.sub("<.*?>", "", each) for each in re.findall(r"<b>\s*<code>(.*?)</code>\s*</b>", article)]
    assert "adcs_per_crossbar" in names
    assert [name for name in names if not name.isidentifier()] == []
    text = re.sub(r"<(pre|code)\b.*?</\1>", "", article, flags=re.DOTALL)
    assert not re.search(r"`|<strong>|:\w+:|\]\(", re.sub(r"<(?!strong).*?>", "", text))


@pytest.mark.parametrize("page", ["index.html", "concepts.html", "api.html"])
def test_a_browser_asks_nothing_of_the_network(page: str, site: Path, chromium: Browser) -> None:
    with watched(chromium) as seen:
        seen.page.goto(f"file://{site / page}", wait_until="networkidle")
        assert seen.page.locator("article h1").count() == 1
        assert seen.said == []
        assert all(address.startswith("file://") for address in seen.asked)


def test_what_a_page_asks_would_be_seen(tmp_path: Path, chromium: Browser) -> None:
    """The control: a page that loads a script, and fetches from elsewhere in a frame."""
    page, frame, elsewhere = tmp_path / "page.html", tmp_path / "frame.html", _nowhere()
    page.write_text(f"<script src='{elsewhere}/script.js'></script><iframe src='frame.html'></iframe>")
    frame.write_text(f"<script>fetch('{elsewhere}/data')</script>")
    with watched(chromium) as seen:
        seen.page.goto(f"file://{page}", wait_until="networkidle")
        assert {f"{elsewhere}/script.js", f"{elsewhere}/data"} == {each for each in seen.asked if each[:4] == "http"}
        assert seen.said


def test_pages_fit_the_screen(site: Path, chromium: Browser) -> None:
    """At 1280 pixels no line of code is longer than its box; at 360 nothing makes a page wider."""
    with watched(chromium) as seen:
        for page in sorted(site.glob("*.html")):
            seen.page.set_viewport_size({"width": 1280, "height": 900})
            seen.page.goto(f"file://{page}", wait_until="domcontentloaded")
            assert seen.page.evaluate(TOO_LONG) == [], page.name
            seen.page.set_viewport_size({"width": 360, "height": 900})
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360, page.name


@pytest.mark.parametrize(("word", "page"), EXPLAINED.items())
def test_search_finds_what_explains_a_word_first(word: str, page: str, site: Path, chromium: Browser) -> None:
    with watched(chromium) as seen:
        seen.page.goto(f"file://{site}/index.html?q={word.replace(' ', '+')}")
        first = seen.page.locator(".md-search-result__link").first
        first.wait_for(state="attached")
        assert re.search(r"([a-z-]+)\.html", first.get_attribute("href") or "")[1] == page
        assert all(address.startswith("file://") for address in seen.asked)
