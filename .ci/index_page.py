"""The README as the page of a package index: without what works only beside the repository's other files.

Hatchling calls this when it builds: `tool.hatch.metadata.hooks.custom` in `pyproject.toml`. A relative link leads
nowhere on such a page, so it becomes the name of the file, which is in the source distribution. Pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class IndexPage(MetadataHookInterface):
    """Sets the field `readme` of the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Give the metadata the page."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": index_page(text)}


def index_page(readme: str) -> str:
    """The README without relative links and pictures."""
    text = re.sub(r"<picture>.*?</picture>\n+", "", readme, flags=re.DOTALL)
    return re.sub(r"\[([^\]]+)\]\((?!https?://|#)([^)]+)\)", r"\1 (`\2`)", text)
