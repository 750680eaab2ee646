"""Failures grouped by what their errors have in common."""

from __future__ import annotations

import httpx
import pytest

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.web import failures
from taskflow_otel.web.failures import normalise
from tests.turns import Turns
from tests.web.house import House, make_record


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ""),
        ("user 42 not found", "user ‹n› not found"),
        ("can't open 'a.txt'\nsecond line", "can't open ‹value›"),
        ("task 01a1ffe6-a28e-73e0-87a5-3c9d2ba30b21 is gone", "task ‹id› is gone"),
        ("<object at 0x7f1a2b>", "<object at ‹address›>"),
        ("no mailbox ada@example.com", "no mailbox ‹address›"),
        ("commit 3f9a0c1d2e4b failed", "commit ‹id› failed"),
        ("HTTP2 is off", "HTTP2 is off"),
    ],
)
def test_errors_are_normalised_to_what_they_have_in_common(error: str | None, expected: str) -> None:
    assert normalise(error) == expected


@pytest.mark.parametrize(("window", "scanned"), [(1, 3), (2, 4)])
async def test_failures_are_looked_for_on_several_pages_but_not_on_all(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch, window: int, scanned: int
) -> None:
    monkeypatch.setattr(failures, "_PAGES", 3)
    engine.backend.window = window
    for number in range(4):
        engine.put(make_record(status=TaskStatus.FAILED, error=f"boom {number}"))
    found = (await client.get("/tasks/failures?q=boom")).json()
    assert (found["scanned"], found["truncated"]) == (scanned, scanned < 4)


async def test_failures_are_grouped_by_what_is_the_same_in_their_errors(
    client: httpx.AsyncClient, engine: House
) -> None:
    for number in (3, 14):
        engine.put(make_record(status=TaskStatus.FAILED, error_type="OSError", error=f"disk {number} is 'full'\nmore"))
    engine.put(make_record("other", TaskStatus.FAILED, error_type="KeyError", error="'x'", retried_by="another"))
    engine.put(make_record())
    found = (await client.get("/tasks/failures?since=1h")).json()
    assert found["scanned"] == 3
    assert [(group["error"], group["count"], len(group["retryable"])) for group in found["groups"]] == [
        ("disk ‹n› is ‹value›", 2, 2),
        ("‹value›", 1, 0),
    ]


async def test_interrupted_and_rejected_tasks_are_problems_and_what_was_meant_is_not(
    client: httpx.AsyncClient, engine: House
) -> None:
    for _ in range(2):
        engine.keep(make_record(status=TaskStatus.INTERRUPTED, reason=Reason.PROCESS_DIED.value))
    engine.keep(make_record(status=TaskStatus.REJECTED, reason=Reason.QUEUE_FULL.value))
    engine.keep(make_record(status=TaskStatus.FAILED, error_type="KeyError", error="'x'"))
    for reason in (Reason.DUPLICATE, Reason.OVERLAP):
        engine.keep(make_record(status=TaskStatus.REJECTED, reason=reason.value))
    engine.keep(make_record(status=TaskStatus.CANCELLED, reason=Reason.CANCELLED.value))

    async def groups(query: str) -> list[tuple[str, str | None, str | None, int]]:
        found = (await client.get(f"/tasks/failures{query}")).json()
        return [(one["status"], one["reason"], one["error_type"], one["count"]) for one in found["groups"]]

    interrupted = (TaskStatus.INTERRUPTED.value, Reason.PROCESS_DIED.value, None, 2)
    assert sorted(await groups("")) == [
        (TaskStatus.FAILED.value, None, "KeyError", 1),
        interrupted,
        (TaskStatus.REJECTED.value, Reason.QUEUE_FULL.value, None, 1),
    ]
    assert await groups("?status=interrupted") == [interrupted]
    assert (await client.get("/tasks/failures?status=success")).status_code == 422


async def test_many_failures_are_grouped_in_slices(
    client: httpx.AsyncClient, engine: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        engine.put(make_record(status=TaskStatus.FAILED, error=f"boom {number}"))
    async with Turns() as turns:
        monkeypatch.setattr(failures, "normalise", turns.counted(normalise))
        [group] = (await client.get("/tasks/failures")).json()["groups"]
    assert (group["count"], turns.calls) == (300, 300)
    assert turns.most <= 50
