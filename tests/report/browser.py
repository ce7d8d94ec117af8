"""Reports in headless Chromium, and whether axe-core objects to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser import watched


@contextmanager
def opened(chromium: Browser, file: Path, width: int = 1280) -> Iterator[Page]:
    """A report from disk, drawn; when the block ends it must have logged nothing and asked for nothing but itself."""
    with watched(chromium, width) as seen:
        seen.page.goto(file.as_uri())
        seen.page.evaluate("() => page.ready")  # charts are drawn
        seen.page.wait_for_function("() => !document.querySelector('#reuse-map[hidden]')")
        yield seen.page
        assert seen.said == []
        assert set(seen.asked) == {file.as_uri()}


def violations(page: Page) -> list[str]:
    """What axe-core objects to, rule and element. The insides of charts, each one image to a reader, are taken away."""
    page.evaluate("() => document.querySelectorAll('.main-svg').forEach((each) => each.remove())")
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['target']} {node['html'][:200]}" for each in found for node in each["nodes"]]
