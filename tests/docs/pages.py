"""README and docs as data: their blocks of code, the commands that they tell a reader to give, forms of commands."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')
_INLINE = re.compile(r"`((?:\.venv/bin/)?(?:prap-pim|python|make|pip)\s[^`]+)`")
_PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\.\.\.|…")


@dataclass(frozen=True)
class Block:
    """Fenced code; ``title`` is the name of the file that it shows, if it shows one."""

    page: Path
    line: int
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """What a reader is told to type."""

    page: Path
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks in order."""
    text, found = page.read_text(), []
    for match in _FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = _TITLE.search(rest)
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, line, language, title[1] if title else "", match["text"]))
    return found


def commands() -> list[Command]:
    """Every command of every ``sh`` block, and those within a sentence; each once, where it comes first."""
    found: dict[str, Command] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.language == "sh":
                for line, text in _lines(block):
                    found.setdefault(text, Command(page, line, text))
        for command in _inline(page):
            if not _is_form(command.text):
                found.setdefault(command.text, command)
    return list(found.values())


def forms() -> list[Command]:
    """What only shows how a command looks: `prap-pim report RUN`, or just its name, within a sentence."""
    return [command for page in PAGES for command in _inline(page) if _is_form(command.text)]


def prose(page: Path) -> str:
    """The page with its fenced blocks blanked out, line for line."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())


def _inline(page: Path) -> list[Command]:
    text = prose(page)
    return [Command(page, text.count("\n", 0, match.start()) + 1, _plain(match[1])) for match in _INLINE.finditer(text)]


def _is_form(text: str) -> bool:
    return text.startswith("prap-pim ") and (len(text.split()) == 2 or bool(_PLACEHOLDER.search(text)))


def _lines(block: Block) -> list[tuple[int, str]]:
    found, start, pending = [], block.line, ""
    for offset, line in enumerate(block.text.splitlines()):
        if not pending:
            start = block.line + offset
        pending += line.strip().removesuffix("\\")
        if not line.rstrip().endswith("\\"):
            text = _plain(re.sub(r"\s#\s.*$", "", pending))
            if text and not text.startswith("#"):
                found.append((start, text))
            pending = ""
    return found


def _plain(command: str) -> str:
    return " ".join(command.split()).removeprefix(".venv/bin/")
