"""One group of failures of the real engine: what it shows, and what acts on exactly its tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI

from taskflow_otel.model.record import TaskRecord
from tests.waiting import eventually
from tests.web.conftest import ClientOf
from tests.web.house import House


async def charge(order: int) -> None:
    """Fail for some orders alike, and for others in another way."""
    try:
        raise OSError(f"no answer for {order}")
    except OSError as cause:
        if order < 100:
            raise LookupError(f"order {order} not charged") from cause
        raise


async def raised(engine: House, *orders: int) -> list[TaskRecord]:
    """Tasks of the engine that fail, each for its order."""
    ids = [await engine.manager.enqueue(charge, order) for order in orders]
    return [await engine.manager.wait(task_id, 20) for task_id in ids]


async def test_a_group_shows_its_causes_its_samples_and_arguments_where_they_may_be_shown(
    client_of: ClientOf, engine: House
) -> None:
    engine.manager.task(name="charge")(charge)
    tasks = await raised(engine, 7, 8, 700)
    kind = tasks[0].fingerprint
    assert tasks[1].fingerprint == kind != tasks[2].fingerprint
    client = client_of(display_func_args=True)
    found = (await client.get(f"/tasks/failures/{kind}")).json()
    assert (found["func_name"], found["error"], found["count"], found["open"]) == (
        "charge",
        "order ‹n› not charged",
        2,
        2,
    )
    first, last = found["causes"]
    assert (first["error"], last["error"]) == ("OSError: no answer for 8", "LookupError: order 8 not charged")
    assert [(frame["function"], frame["own"], frame["code"]) for frame in first["frames"]] == [
        ("charge", True, 'raise OSError(f"no answer for {order}")')
    ]
    assert [frame["function"] for frame in last["frames"] if frame["own"]] == ["charge"]
    assert len(last["frames"]) > 1
    assert found["arguments"] == '{\n  "order": 8\n}'
    assert [task["task_id"] for task in found["samples"]] == [tasks[1].task_id, tasks[0].task_id]
    assert sum(found["points"]) == 2
    hidden = (await client_of().get(f"/tasks/failures/{kind}")).json()
    assert (hidden["arguments"], hidden["samples"][0].get("args")) == (None, None)
    assert (await client.get("/tasks/failures/0000000000000000")).status_code == 404
    assert (await client.get("/tasks/failures/nonsense")).status_code == 422


async def test_a_bulk_retry_of_a_group_retries_exactly_its_open_tasks(client: httpx.AsyncClient, engine: House) -> None:
    engine.manager.task(name="charge")(charge)
    tasks = await raised(engine, 1, 2, 3, 400)
    kind = tasks[0].fingerprint
    assert (await client.post(f"/tasks/{tasks[0].task_id}/retry")).status_code == 202
    group = (await client.get(f"/tasks/failures/{kind}")).json()
    assert group["open"] in (2, 3)  # the retry may have failed already
    dry = (await client.post(f"/tasks/bulk-retry?fingerprint={kind}&dry_run=true&until=0s")).json()
    done = (await client.post(f"/tasks/bulk-retry?fingerprint={kind}")).json()
    assert {tasks[1].task_id, tasks[2].task_id} <= {one["task_id"] for one in done["retried"]}
    assert tasks[0].task_id not in {one["task_id"] for one in done["retried"]}
    assert tasks[3].task_id not in {one["task_id"] for one in done["retried"]}
    assert dry["matched"] >= 2
    for one in done["retried"]:
        await engine.manager.wait(one["new_task_id"], 20)
    after = (await client.get(f"/tasks/failures/{kind}")).json()
    assert after["count"] == 4 + len(done["retried"])
    assert after["open"] == after["count"] - 1 - len(done["retried"])


async def test_those_that_wait_for_another_attempt_are_cancelled_as_a_group(
    client: httpx.AsyncClient, engine: House
) -> None:
    manager = engine.manager
    manager.task(name="charge", retries=1, delay=600)(charge)
    ids = [await manager.enqueue(charge, order) for order in (1, 2)]
    other = await manager.enqueue(charge, 500)

    async def waiting(task_id: str) -> TaskRecord:
        async def failed_once() -> bool:
            record = await manager.get(task_id)
            return record.status == "pending" and record.fingerprint is not None

        await eventually(failed_once, "the first attempt")
        return await manager.get(task_id)

    kind = (await waiting(ids[0])).fingerprint
    assert kind == (await waiting(ids[1])).fingerprint != (await waiting(other)).fingerprint
    # It has no task that ended yet.
    assert (await client.get(f"/tasks/failures/{kind}")).status_code == 404
    done = (await client.post(f"/tasks/bulk-cancel?fingerprint={kind}&status=pending")).json()
    assert sorted(done["cancelled"]) == sorted(ids)
    assert (await manager.get(other)).status == "pending"
    assert [one.retry_at is not None for one in (await manager.get(other)).failures] == [True]


async def test_a_group_is_ignored_with_a_name_and_a_time_and_comes_back_when_it_rises(
    app_of: Callable[..., FastAPI], engine: House
) -> None:
    engine.manager.task(name="charge")(charge)
    transport = httpx.ASGITransport(app_of(auth=("ada", "secret")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", auth=("ada", "secret")) as client:
        kind = (await raised(engine, 1, 2))[0].fingerprint

        async def shown(only: str) -> list[dict[str, Any]]:
            groups: list[dict[str, Any]] = (await client.get(f"/tasks/failures?show_ignored={only}")).json()["groups"]
            return groups

        assert len(await shown("false")) == 1
        answer = await client.post(f"/tasks/failures/{kind}/ignore?until=2h&reason=known")
        assert answer.status_code == 200
        assert (answer.json()["ignored"]["by"], answer.json()["ignored"]["reason"]) == ("ada", "known")
        assert await shown("false") == []
        [group] = await shown("true")
        assert group["ignored"]["by"] == "ada"
        for wrong in ("2001-01-01", "2999-01-01", "soon", "0s"):
            assert (await client.post(f"/tasks/failures/{kind}/ignore?until={wrong}")).status_code == 422
        [entry] = [
            one
            for one in (await client.get("/tasks/audit?action=ignore-failure&outcome=done")).json()
            if one["reason"] == "known"
        ]
        assert (entry["actor"], entry["target"]) == ("ada", kind)
        await client.post(f"/tasks/failures/{kind}/ignore?until=2h")
        await raised(engine, 3, 4, 5)

        async def risen() -> bool:
            # What was counted is used again for a second.
            return [(one["count"], one["ignored"]) for one in await shown("false")] == [(5, None)]

        await eventually(risen, "the group to come back")
        assert (await client.delete(f"/tasks/failures/{kind}/ignore")).status_code == 200
