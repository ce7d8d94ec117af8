"""What mkdocs does for this site beside rendering docs/: links that lead out of docs/, and the tour."""

import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# In search, what explains a word comes before pages that use it, and guides before reports and the reference.
RANK = {
    "concepts.md": 4.0,
    "cost.md": 2.0,
    "components.md": 2.0,
    "function.md": 2.0,
    "accuracy.md": 0.5,
    "gpt.md": 0.5,
    "benchmarks.md": 0.5,
    "files.md": 0.5,
    "replay.md": 0.5,
    "validation.md": 0.5,
    "comparison.md": 0.5,
    "architecture.md": 0.5,
    "api.md": 0.0001,
}
LINK_OUT = re.compile(r"\]\(\.\./([^)#]+)")  # as [examples/gpt.yaml](../examples/gpt.yaml)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Files outside docs/ that pages link to are copied into the site, each under its path; the tour is a page."""
    pages = [file for file in files.documentation_pages() if file.src_uri.endswith(".md")]
    for path in sorted({path for page in pages for path in LINK_OUT.findall(page.content_string)}):
        if (ROOT / path).is_file():  # else the build warns of the link, and a strict one fails
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "tour.md", content=_as_markdown(ROOT / "examples" / "tour.ipynb")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link out of docs/ becomes one to the copy, or to the page of the tour; the page gets its rank in search."""
    page.meta["search"] = {"boost": RANK.get(page.file.src_uri, 1.0)}
    return LINK_OUT.sub(r"](\1", markdown.replace("](../examples/tour.ipynb)", "](tour.md)"))


def _as_markdown(path: Path) -> str:
    """A notebook's cells and what they print and draw."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace("](../docs/", "]("))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            if output.output_type == "stream":
                parts.append(f"```text\n{output.text.rstrip()}\n```")
            else:
                picture = output.data["image/png"].replace("\n", "")
                parts.append(f"![what the code above draws](data:image/png;base64,{picture})")
    return "\n\n".join(parts)
