"""Failures as a worklist: groups with true numbers, in the order that a person asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from taskflow_otel.model.query import FailureGroup, Trend
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason, Trending
from taskflow_otel.web import failures
from taskflow_otel.web.failures import Slots, trending
from tests.web.house import House, make_record

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def fail(engine: House, name: str = "send_email", status: TaskStatus = TaskStatus.FAILED, **fields: Any) -> TaskRecord:
    """A task that went wrong, stored as the engine stores it."""
    return engine.keep(make_record(name, status, **fields))


async def listed(client: httpx.AsyncClient, query: str = "") -> dict[str, Any]:
    answer = await client.get(f"/tasks/failures{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_groups_have_the_numbers_of_all_their_tasks(client: httpx.AsyncClient, engine: House) -> None:
    for number in range(3_000):
        fail(engine, error_type="OSError", error=f"disk {number} is 'full'\nmore", duration=0.5)
    fail(engine, "other", error_type="KeyError", error="'x'", retried_by="another")
    engine.keep(make_record())
    found = await listed(client)
    assert (found["total"], found["open"], found["exact"]) == (2, 3_000, True)
    by_error = {group["error"]: group for group in found["groups"]}
    group = by_error["disk ‹n› is ‹value›"]
    assert (group["count"], group["open"], group["func_name"], group["trend"]) == (3_000, 3_000, "send_email", "new")
    assert sum(group["points"]) == 3_000
    assert group["example"].startswith("disk ")
    other = by_error["‹value›"]
    assert (other["count"], other["open"]) == (1, 0)
    assert int((await client.get(f"/tasks?fingerprint={group['fingerprint']}")).headers["X-Total-Count"]) == 3_000


async def test_interrupted_and_rejected_tasks_are_problems_and_what_was_meant_is_not(
    client: httpx.AsyncClient, engine: House
) -> None:
    for _ in range(2):
        fail(engine, status=TaskStatus.INTERRUPTED, reason=Reason.PROCESS_DIED.value)
    fail(engine, status=TaskStatus.REJECTED, reason=Reason.QUEUE_FULL.value)
    fail(engine, error_type="KeyError", error="'x'")
    for reason in (Reason.DUPLICATE, Reason.OVERLAP):
        fail(engine, status=TaskStatus.REJECTED, reason=reason.value)
    engine.keep(make_record(status=TaskStatus.CANCELLED, reason=Reason.CANCELLED.value))

    async def groups(query: str) -> list[tuple[str, str | None, str | None, int]]:
        found = await listed(client, query)
        return [(one["status"], one["reason"], one["error_type"], one["count"]) for one in found["groups"]]

    interrupted = (TaskStatus.INTERRUPTED.value, Reason.PROCESS_DIED.value, None, 2)
    assert sorted(await groups("")) == [
        (TaskStatus.FAILED.value, None, "KeyError", 1),
        interrupted,
        (TaskStatus.REJECTED.value, Reason.QUEUE_FULL.value, None, 1),
    ]
    assert await groups("?status=interrupted") == [interrupted]
    assert (await client.get("/tasks/failures?status=success")).status_code == 422


async def test_groups_are_filtered_searched_sorted_and_paged(client: httpx.AsyncClient, engine: House) -> None:
    letters = "abcdefg"
    for place, letter in enumerate(letters):
        for _ in range(place + 1):
            fail(engine, "send" if place % 2 else "other", error_type="E", error=f"no {letter}", age=7_000 - place * 60)
    fail(engine, error_type="Old", error="of yesterday", age=90_000, queue="mail")

    async def errors(query: str) -> str:
        return "".join(group["error"].removeprefix("no ") for group in (await listed(client, query))["groups"])

    recent = "?ended_since=3h"
    assert await errors(recent) == letters[::-1]
    assert await errors(f"{recent}&order=appeared") == letters[::-1]
    assert await errors(f"{recent}&order=count&func_name=send") == "fdb"
    assert await errors(f"{recent}&q=NO+C") == "c"
    assert await errors("?q=yesterday") == "of yesterday"
    assert await errors("?queue=mail") == "of yesterday"
    assert await errors("?ended_until=20h") == "of yesterday"
    seen, cursor = "", ""
    while cursor is not None:
        page = await listed(client, f"{recent}&order=open&limit=3" + (f"&cursor={cursor}" if cursor else ""))
        assert page["total"] == len(letters)
        seen += "".join(group["error"].removeprefix("no ") for group in page["groups"])
        cursor = page["next_cursor"]
    assert seen == letters[::-1]
    assert (await client.get("/tasks/failures?cursor=nonsense")).status_code == 422
    assert (await client.get("/tasks?fingerprint=nonsense")).status_code == 422


@pytest.mark.parametrize("window", [1, 3_000])
async def test_a_backend_that_counts_no_groups_is_read_in_part_and_the_answer_says_so(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    async def nothing(*_: object) -> None:
        return None

    lookup = engine.manager.engine.lookup
    monkeypatch.setattr(lookup, "failure_groups", nothing)
    monkeypatch.setattr(lookup, "occurrences", nothing)
    monkeypatch.setattr(failures, "SCAN_LIMIT", window)
    for number in range(3):
        fail(engine, error_type="OSError", error=f"boom {number}")
    found = await listed(client)
    [group] = found["groups"]
    assert (found["exact"], group["count"], group["points"]) == ((True, 3, []) if window > 3 else (False, 1, []))


@pytest.mark.parametrize(
    ("first", "recent", "before", "expected"),
    [
        (timedelta(minutes=10), 1, 0, Trending.NEW),
        (timedelta(days=3), 5, 48, Trending.RISING),
        (timedelta(days=3), 4, 0, None),
        (timedelta(days=3), 100, 1_200, None),
        (timedelta(days=3), 101, 1_200, Trending.RISING),
    ],
)
def test_a_group_is_new_in_its_first_hour_and_rises_above_twice_its_average(
    first: timedelta, recent: int, before: int, expected: Trending | None
) -> None:
    trend = Trend(NOW - timedelta(hours=1), NOW - timedelta(hours=25))
    group = FailureGroup(
        fingerprint="1" * 16,
        total=9,
        open=9,
        waiting=0,
        first_at=NOW - first,
        last_at=NOW,
        recent=recent,
        before=before,
        newest="x",
    )
    assert trending(group, trend) is expected


@pytest.mark.parametrize(
    ("since", "seconds"), [(None, 3_600), (timedelta(minutes=1), 60), (timedelta(days=900), 111_600)]
)
def test_the_points_of_a_group_reach_from_the_beginning_of_the_window_until_now(
    since: timedelta | None, seconds: int
) -> None:
    slots = Slots.until(NOW, None if since is None else NOW - since, 24)
    assert (slots.last - slots.first, slots.seconds) == (23 * seconds, seconds)
    assert slots.last <= NOW.timestamp() < slots.last + seconds
