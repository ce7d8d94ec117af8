"""Every block of code in the README and the docs is run or checked as what it is; links lead somewhere."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from prap_pim.common.settings import read_yaml
from prap_pim.common.texts import parse_yaml
from prap_pim.hardware.chip import load_chip
from prap_pim.hardware.components import COMPONENTS, load_table
from prap_pim.runs.config import RunConfig
from prap_pim.runs.study import StudyConfig
from prap_pim.runs.study.space import SearchSpace
from tests.docs.pages import PAGES, ROOT, Block, blocks, prose


def _python(block: Block) -> None:
    exec(compile(block.text, "example", "exec"), {"__name__": "example"})


def _small_encoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights and sentences of made-up words in the place of what would be fetched from a hub."""
    transformers = pytest.importorskip("transformers")
    words = [f"w{i}" for i in range(60)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    (folder / "sentences.txt").write_text("\n".join(" ".join(words[i % 50 : i % 50 + 4 + i % 6]) for i in range(40)))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=65, **sizes)).eval()
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda _: tokenizer)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda _: model)


def _yaml(block: Block) -> None:
    """Settings of a run or, if there is a space, of a study, put into an example that is whole."""
    given = parse_yaml(block.text, block.page.name)
    if "space" in given:
        study = read_yaml(ROOT / "examples" / "explore.yaml") | given
        SearchSpace(StudyConfig.checked(study | {"base": str(ROOT / study["base"])}, block.page.name))
    else:
        RunConfig.checked(read_yaml(ROOT / "examples" / "digits.yaml") | given, block.page.name)


def _toml(block: Block) -> None:
    """A chip, or whole components, put into a table of figures that is whole."""
    path = Path("given.toml")
    if "grain" in tomllib.loads(block.text):
        path.write_text(block.text)
        load_chip(path)
    else:
        figures = _components((COMPONENTS / "isaac-32nm.toml").read_text()) | _components(block.text)
        path.write_text("".join(figures.values()))
        load_table(path)


def _components(text: str) -> dict[str, str]:
    parts = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    return {part.partition("]")[0]: part.rstrip() + "\n" for part in parts if part.startswith("[")}


def _given_elsewhere(block: Block) -> None:
    """Commands are given by test_commands.py; text is what a program prints, or a formula."""


CHECKS: dict[str, Callable[[Block], None]] = {
    "python": _python,
    "yaml": _yaml,
    "toml": _toml,
    "sh": _given_elsewhere,
    "text": _given_elsewhere,
}
ALL = [pytest.param(block, id=f"{block.page.name}:{block.line}") for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL)
def test_it_works(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "from_pretrained" in block.text:
        _small_encoder(tmp_path, monkeypatch)
    CHECKS[block.language](block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_fit_the_page(page: Path) -> None:
    """Ruff sees to the Python among them; test_site.py, that lines of this length do fit. The README has no menus."""
    longest = tomllib.loads((ROOT / "docs" / "ruff.toml").read_text())["line-length"]
    longest += 10 if page.name == "README.md" else 0
    lines = [line for block in blocks(page) for line in block.text.splitlines()]
    assert [line for line in lines if len(line) > longest] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_fenced(page: Path) -> None:
    """Indented code has no language: nothing would check it."""
    assert not re.search(r"(?:^|\n)\n {4,}(?![-*+\d])\S", prose(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(r"`((?:tests|src|scripts|examples|benchmarks|docs)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose(page)):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
