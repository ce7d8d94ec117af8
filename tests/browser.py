"""Pages in headless Chromium, and what they log and ask for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
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


@dataclass(frozen=True)
class Watched:
    """A page; what it and its frames have logged, and the addresses that they have asked for, up to now."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def watched(chromium: Browser, width: int = 1280) -> Iterator[Watched]:
    """An empty page of its own, nothing kept from others. What is in an address itself (``data:``) is not asked for."""
    context = chromium.new_context(viewport={"width": width, "height": 900})
    seen = Watched(context.new_page())
    seen.page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.said.append(f"error: {error}"))
    seen.page.on("request", lambda request: _note(request.url, seen.asked))
    try:
        yield seen
    finally:
        context.close()


def _note(address: str, asked: list[str]) -> None:
    if not address.startswith(("data:", "blob:")):
        asked.append(address)
