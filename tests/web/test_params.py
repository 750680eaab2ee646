"""What callers write in a query string."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import pytest

from tests.web.house import House


@pytest.mark.parametrize(
    "moment",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00+02:00",
        quote("2026-01-01T00:00:00+02:00"),
        "2026-01-01",
        "90m",
        "1.5h",
    ],
)
async def test_moments_are_understood_as_times_and_as_ages(client: httpx.AsyncClient, moment: str) -> None:
    assert (await client.get(f"/tasks?since={moment}")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("GET", "/tasks?since=yesterday", "since"),
        ("GET", "/tasks?until=2026-13-01T00:00:00Z", "until"),
        ("GET", f"/tasks?since={'9' * 30}d", "since"),
        ("GET", "/tasks?since=1h&until=6h", "until"),
        ("GET", "/tasks?ended_since=1h&ended_until=6h", "ended_until"),
        ("GET", "/tasks?ended_since=soon", "ended_since"),
        ("GET", "/tasks?status=done", "status"),
        ("GET", "/tasks?limit=0", "limit"),
        ("GET", "/tasks?limit=100000", "limit"),
        ("GET", "/tasks?limit=many", "limit"),
        ("GET", "/tasks?cursor=abc", "cursor"),
        ("GET", "/tasks?tag=:x", "tag"),
        ("GET", "/tasks?source=unknown", "source"),
        ("GET", "/tasks?trace_id=xyz", "trace_id"),
        ("GET", "/tasks?q=%00", "q"),
        ("GET", "/tasks?error=%00", "error"),
        ("GET", "/tasks?min_duration=long", "min_duration"),
        ("GET", "/tasks?max_duration=", "max_duration"),
        ("GET", "/tasks?max_duration=-1s", "max_duration"),
        ("GET", "/tasks?min_duration=5s&max_duration=1s", "max_duration"),
        ("GET", f"/tasks?q={'x' * 201}", "q"),
        ("GET", "/tasks/overview?window=1y", "window"),
        ("POST", "/tasks/retry-failed?since=soon", "since"),
        ("DELETE", "/tasks/history?before=once", "before"),
        ("POST", "/tasks/bulk-retry", "request body"),
        ("PATCH", "/tasks/queues/mail", "request body"),
    ],
)
async def test_input_that_cannot_be_understood_is_answered_with_a_sentence(
    client: httpx.AsyncClient, method: str, path: str, names: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 422
    assert names in answer.json()["detail"]
    assert set(answer.json()["fields"]) <= {names, "task_ids"}
    assert answer.json()["fields"] or names == "request body"


async def test_since_is_inclusive_and_in_utc_whatever_zone_it_was_written_in(
    client: httpx.AsyncClient, engine: House
) -> None:
    await client.get("/tasks?since=2026-01-01T02:00:00%2B02:00")
    assert engine.backend.queries[-1].since == datetime(2026, 1, 1, tzinfo=UTC)
