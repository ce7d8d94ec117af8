"""What mkdocs does for this site beside rendering docs/: links that lead out of docs/."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK_OUT = re.compile(r"\]\(\.\./([^)#]+)")  # as [examples/gpt.yaml](../examples/gpt.yaml)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Files outside docs/ that pages link to are copied into the site, each under its path."""
    pages = [file for file in files.documentation_pages() if file.src_uri.endswith(".md")]
    for path in sorted({path for page in pages for path in LINK_OUT.findall(page.content_string)}):
        if (ROOT / path).is_file():  # else the build warns of the link, and a strict one fails
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link out of docs/ becomes one to the copy."""
    return LINK_OUT.sub(r"](\1", markdown)
