"""Each public name of fastapi-taskflow works here, or is in the table of differences with its reason."""

from __future__ import annotations

import pytest

from tests.drop_in.differences import ROWS, Difference
from tests.drop_in.page import PAGE, page
from tests.drop_in.surface import items


def test_each_item_works_or_has_a_reason() -> None:
    unexplained = [item for item in items() if item.difference and not any(row.covers(item.text) for row in ROWS)]
    assert unexplained == []
    assert len(items()) > 400


def test_an_item_has_one_reason() -> None:
    twice = [item.text for item in items() if sum(row.covers(item.text) for row in ROWS) > 1]
    assert twice == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.items[0])
def test_a_reason_is_about_something_that_differs(row: Difference) -> None:
    for pattern in row.items:
        covered = [item for item in items() if row._replace(items=(pattern,)).covers(item.text)]
        assert covered, f"{pattern} covers nothing"
        if not row.behaves:
            assert any(item.difference for item in covered), f"{pattern} works now"
    assert row.why.endswith(".")


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text() == page()
