"""Acting on many tasks at once, by their ids or by a filter."""

from __future__ import annotations

import httpx
import pytest

from taskflow_otel.model.status import TaskStatus
from tests.web.house import House, make_record


async def test_bulk_retry_takes_what_it_can_and_says_why_it_skips_the_rest(
    client: httpx.AsyncClient, engine: House
) -> None:
    failed, running = (engine.put(make_record(status=status)) for status in (TaskStatus.FAILED, TaskStatus.RUNNING))
    answer = await client.post(
        "/tasks/bulk-retry", json={"task_ids": [failed.task_id, failed.task_id, running.task_id, "none"]}
    )
    assert answer.status_code == 202
    assert [pair["task_id"] for pair in answer.json()["retried"]] == [failed.task_id]
    assert {skip["task_id"] for skip in answer.json()["skipped"]} == {running.task_id, "none"}


async def test_retry_failed_takes_the_failures_of_the_window_that_nothing_has_retried(
    client: httpx.AsyncClient, engine: House
) -> None:
    engine.put(make_record(status=TaskStatus.FAILED, age=7 * 3600))
    engine.put(make_record(status=TaskStatus.FAILED, retried_by="another"))
    engine.put(make_record(status=TaskStatus.SUCCESS))
    wanted = [engine.put(make_record(status=TaskStatus.FAILED, age=3600)).task_id for _ in range(2)]
    answer = await client.post("/tasks/retry-failed?since=6h")
    assert {pair["task_id"] for pair in answer.json()["retried"]} == set(wanted)
    assert (await client.post("/tasks/retry-failed?since=6h")).json() == {
        "retried": [],
        "skipped": [],
        "more": False,
        "matched": 0,
        "dry_run": False,
    }


async def test_retry_failed_stops_at_its_limit_and_says_that_there_is_more(
    client: httpx.AsyncClient, engine: House
) -> None:
    for _ in range(3):
        engine.put(make_record(status=TaskStatus.FAILED))
    answer = (await client.post("/tasks/retry-failed?limit=2")).json()
    assert (len(answer["retried"]), answer["more"]) == (2, True)


async def test_deleting_history_leaves_live_tasks_and_newer_ones(client: httpx.AsyncClient, engine: House) -> None:
    for age in (10 * 86400, 3600):
        engine.put(make_record(age=age))
    engine.put(make_record(status=TaskStatus.RUNNING, age=20 * 86400))
    assert (await client.delete("/tasks/history?before=7d")).json() == {"deleted": 1}
    assert (await client.delete("/tasks/history")).json() == {"deleted": 1}
    assert [record.status for record in engine.records.values()] == [TaskStatus.RUNNING]


@pytest.mark.parametrize("route", ["bulk-retry", "retry-failed", "bulk-cancel"])
@pytest.mark.parametrize(
    "query",
    [
        "func_name=report",
        "queue=mail",
        "tag=tenant:acme",
        "source=retry",
        "since=5m",
        "until=1h",
        f"trace_id={'c' * 32}",
        "q=report",
        "func_name=report&queue=mail",
    ],
)
async def test_bulk_actions_select_what_the_list_shows_for_the_same_filter(
    client: httpx.AsyncClient, engine: House, route: str, query: str
) -> None:
    status = TaskStatus.PENDING if route == "bulk-cancel" else TaskStatus.FAILED
    for fields in ({"queue": "mail"}, {"tags": {"tenant": "acme"}}, {"source": "retry"}, {"age": 7200.0}, {}):
        for name in ("report", "send"):
            engine.put(make_record(name, status, **{"age": 600.0, **fields}))  # type: ignore[arg-type]  # mixed values
    engine.put(make_record("report", TaskStatus.SUCCESS, queue="mail"))
    shown = [task["task_id"] for task in (await client.get(f"/tasks?{query}&status={status}")).json()]
    counted = (await client.post(f"/tasks/{route}?{query}&dry_run=true")).json()
    assert (counted["matched"], counted["dry_run"], counted["skipped"]) == (len(shown), True, [])
    assert all(
        record.retried_by is None and record.status is not TaskStatus.CANCELLED for record in engine.records.values()
    )
    done = (await client.post(f"/tasks/{route}?{query}")).json()
    acted_on = done["cancelled"] if route == "bulk-cancel" else [pair["task_id"] for pair in done["retried"]]
    assert acted_on == shown


async def test_a_filter_selects_what_can_be_retried_and_was_not_yet(client: httpx.AsyncClient, engine: House) -> None:
    wanted = {
        engine.put(make_record(status=status)).task_id
        for status in (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.INTERRUPTED, TaskStatus.REJECTED)
    }
    for status in (TaskStatus.SUCCESS, TaskStatus.RUNNING, TaskStatus.PENDING):
        engine.put(make_record(status=status))
    engine.put(make_record(status=TaskStatus.FAILED, retried_by="another"))
    answer = (await client.post("/tasks/bulk-retry?queue=default")).json()
    assert {pair["task_id"] for pair in answer["retried"]} == wanted
    assert answer["skipped"] == []


@pytest.mark.parametrize(
    ("query", "body", "says"),
    [
        ("", None, "give task_ids in the request body, or a filter"),
        ("?dry_run=true", None, "give task_ids in the request body, or a filter"),
        ("?queue=mail", {"task_ids": ["x"]}, "not both"),
        ("", {"task_ids": ["x", "\x00"]}, "NUL"),
        ("?status=success", None, "status must be"),
        ("?queue=mail", {"filter": "x"}, "filter"),
    ],
)
@pytest.mark.parametrize("route", ["bulk-retry", "bulk-cancel"])
async def test_a_bulk_action_that_does_not_say_which_tasks_is_refused(
    client: httpx.AsyncClient, engine: House, route: str, query: str, body: object, says: str
) -> None:
    engine.put(make_record(status=TaskStatus.FAILED))
    answer = (
        await client.post(f"/tasks/{route}{query}", json=body) if body else await client.post(f"/tasks/{route}{query}")
    )
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert len(engine.records) == 1


async def test_retry_failed_refuses_another_state_than_failed(client: httpx.AsyncClient, engine: House) -> None:
    engine.put(make_record(status=TaskStatus.CANCELLED))
    assert (await client.post("/tasks/retry-failed?status=cancelled")).status_code == 422
    assert (await client.post("/tasks/retry-failed?status=failed")).json()["matched"] == 0


async def test_bulk_cancel_takes_what_it_can_and_says_why_it_skips_the_rest(
    client: httpx.AsyncClient, engine: House
) -> None:
    running, pending, done = (
        engine.put(make_record(status=status)).task_id
        for status in (TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.SUCCESS)
    )
    answer = await client.post("/tasks/bulk-cancel", json={"task_ids": [done, running, "none", pending, running]})
    assert answer.status_code == 202
    assert answer.json()["cancelled"] == [running, pending]
    assert {skip["task_id"] for skip in answer.json()["skipped"]} == {done, "none"}


async def test_bulk_cancel_stops_at_its_limit_and_says_that_there_is_more(
    client: httpx.AsyncClient, engine: House
) -> None:
    for _ in range(3):
        engine.put(make_record(status=TaskStatus.PENDING))
    answer = (await client.post("/tasks/bulk-cancel?status=pending&limit=2")).json()
    assert (len(answer["cancelled"]), answer["more"]) == (2, True)
