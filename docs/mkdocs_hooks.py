"""Pages of the site that are not in `docs/`: what the documentation links to elsewhere in the repository.

The Markdown links work where the repository is browsed, such as `[an example](../examples/basic.py)`. On the site, each
such file is a page of its own, and the links lead there. MkDocs calls the two functions, see `mkdocs.yml`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MOVED = {"README.md": "index.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
"""Files beside `docs/` that have a page of a shorter name."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml"}
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside `docs/` that a page links to."""
    linked = {"SECURITY.md", "CHANGELOG.md"}
    for page in (ROOT / "docs").rglob("*.md"):
        linked |= {target for target in _targets(page) if not target.startswith("docs/")}
    for name in sorted(linked - {"README.md"}):
        # What is not in the navigation is found by its links.
        level = InclusionLevel.UNDEFINED if name in MOVED else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page_of(name), content=_content(ROOT / name), inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links to files outside `docs/` to their pages."""
    here = page.file.src_uri
    original = next((name for name, moved in MOVED.items() if moved == here and here != "index.md"), f"docs/{here}")

    def lead(link: re.Match[str]) -> str:
        if "://" in link[2]:
            return link[0]
        target = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(original), link[2])))
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(here) or '.')}{link[3]}"

    pieces = _FENCE.split(markdown)
    return "".join(piece if piece.startswith("```") else _LINK.sub(lead, piece) for piece in pieces)


def page_of(name: str) -> str:
    """Where the site has a file of the repository."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return MOVED.get(name) or f"source/{name}.md"


def _targets(page: Path) -> Iterator[str]:
    folder = page.parent.relative_to(ROOT).as_posix()
    for piece in _FENCE.split(page.read_text("utf-8")):
        if piece.startswith("```"):
            continue
        for _, target, _ in _LINK.findall(piece):
            name = posixpath.normpath(posixpath.join(folder, target))
            if "://" not in target and (ROOT / name).is_file():
                yield name


def _content(path: Path) -> str:
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.relative_to(ROOT).as_posix()}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"
