"""The page about problems agrees with the code."""

from __future__ import annotations

from pathlib import Path

from taskflow_otel.wire import problems_doc

PAGE = Path(__file__).parents[2] / "docs" / "problems.md"


def test_the_page_shows_the_problems_as_they_are() -> None:
    assert PAGE.read_text("utf-8") == problems_doc.render(), (
        "run: python -m taskflow_otel.wire.problems_doc > docs/problems.md"
    )
