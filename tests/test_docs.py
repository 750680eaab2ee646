"""The documentation: it builds strictly, and reads without any other server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import taskflow_otel
from taskflow_otel import backends, client, testing

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a link to a page, a file or a heading that does not exist is an error."""
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_the_site_is_read_without_any_other_server(site: Path) -> None:
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 30
    loaded = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href|srcset)=\"?(?:https?:)?//[^\">]*")
    assert {path.name: found for path, text in pages.items() if (found := loaded.findall(text))} == {}


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (site / "api" / "index.html").read_text("utf-8")
    headings = {heading.rpartition(".")[2] for heading in re.findall(r'<h\d id="(taskflow_otel\.[\w.]+)"', page)}
    names = {*taskflow_otel.__all__, *backends.__all__, *client.__all__, *testing.__all__}
    assert names - headings == {
        "ScheduledOnce",  # another name of `ScheduledRun`
        "__version__",
    }
