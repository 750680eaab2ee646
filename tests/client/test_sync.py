"""The synchronous client: it is the asynchronous one without `await`."""

from __future__ import annotations

from tests.client.twin import TWIN, synchronous


def test_both_clients_are_one() -> None:
    assert TWIN.read_text("utf-8") == synchronous(), "run: python -m tests.client.twin"
