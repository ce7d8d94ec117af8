"""Pages in headless Chromium: what they log, what they ask for, and whether axe-core objects to them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium; skips where it is not installed."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (on Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opened(chromium: Browser, file: Path, width: int = 1280) -> Iterator[Page]:
    """A page from disk, drawn; when the block ends it must have logged nothing and asked for nothing but itself."""
    context = chromium.new_context(viewport={"width": width, "height": 900})
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(file.as_uri())
        page.evaluate("() => page.ready")  # charts are drawn
        page.wait_for_function("() => !document.querySelector('#reuse-map[hidden]')")
        yield page
        assert said == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    """What axe-core objects to, rule and element. The insides of charts, each one image to a reader, are taken away."""
    page.evaluate("() => document.querySelectorAll('.main-svg').forEach((each) => each.remove())")
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['target']} {node['html'][:200]}" for each in found for node in each["nodes"]]
