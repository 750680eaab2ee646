"""The table of the performance page is that of the committed figures."""

from __future__ import annotations

import re

import pytest

from benchmarks import page
from benchmarks.suite.rows import ROWS

TEXT = page.PAGE.read_text()


def test_the_table_agrees_with_the_figures() -> None:
    assert page.written(TEXT) == TEXT, "python -m benchmarks.page"


def test_every_row_has_been_measured_without_shortcuts() -> None:
    after = page.load("after")
    assert after["quick"] is False
    assert set(after["rows"]) == {row.name for row in ROWS}
    assert all(after["rows"][row.name]["rounds"] >= (row.rounds or 3) for row in ROWS)


def test_every_row_that_is_not_met_is_explained() -> None:
    section = TEXT.partition("## Rows that are not met")[2].partition("\n## ")[0]
    explained = set(re.findall(r"\*\*`([\w-]+)`\*\*", section))
    assert explained >= set(page.not_met(page.load("after")))


def test_a_page_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        page.written("# Performance\n")
