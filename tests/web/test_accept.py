"""What an `Accept` header prefers."""

from __future__ import annotations

import pytest

from taskflow_otel.web.accept import prefers_json


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", True),
        ("APPLICATION/JSON", True),
        ("application/json;q=0.9, text/plain;q=0.1", True),
        ("application/json;q=0.1, text/plain;q=0.9", False),
        ("application/json;q=0", False),
        ("application/json;q=x", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("", False),
    ],
)
def test_json_is_preferred_only_where_it_is_named_and_not_behind_text(accept: str, expected: bool) -> None:
    assert prefers_json(accept) is expected
