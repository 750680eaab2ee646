"""Retries by hand of one task, many at the same moment and on several instances: one wins, the others name it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager, TaskRecord, TaskStatus
from taskflow_otel.backends.base import Applied, Change, Insert
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.errors import TaskNotFoundError, TaskStateError
from taskflow_otel.model.query import TaskQuery
from tests.asgi import running
from tests.ledger.fleet import Fleet
from tests.managers import finish
from tests.turns import Turns


class Work:
    """One task type on several managers, whose runs stay in the function until they may end."""

    def __init__(self, *managers: TaskManager, persist: bool, fails: bool = True) -> None:
        self.ran: Counter[int] = Counter()
        self.fails = fails
        self._open = asyncio.Event()

        async def work(number: int) -> None:
            self.ran[number] += 1
            if self.ran[number] > 1:
                await self._open.wait()
            elif self.fails:
                raise ConnectionError("no")

        for manager in managers:
            self.task = manager.task(name="work", persist=persist)(work)

    def finish(self) -> None:
        """Let the retries end."""
        self._open.set()


async def outcome(manager: TaskManager, task_id: str) -> TaskRecord | str:
    try:
        return await manager.retry(task_id)
    except TaskStateError as exc:
        return str(exc)


@pytest.mark.parametrize("persist", [True, False], ids=["persisted", "history"])
async def test_of_many_retries_at_once_on_two_instances_one_wins_and_the_others_name_it(
    fleet: Fleet, persist: bool
) -> None:
    one, other = fleet.manager(commit_timeout=60), fleet.manager(commit_timeout=60)
    work = Work(one, other, persist=persist)
    await fleet.start(one, other)
    task_id = await one.enqueue(work.task, 1)
    assert (await finish(one, task_id)).status is TaskStatus.FAILED
    # Written as history by the first retry at the latest; another instance sees it only then.
    assert await one.engine.lookup.logs(task_id) == []

    outcomes = await asyncio.gather(*(outcome(manager, task_id) for manager in (one, other) for _ in range(5)))
    [winner] = [found for found in outcomes if isinstance(found, TaskRecord)]
    refusals = [found for found in outcomes if isinstance(found, str)]
    assert refusals == [f"task {task_id} is being retried already, by {winner.task_id}"] * 9
    work.finish()
    assert (await finish(one, winner.task_id)).status is TaskStatus.SUCCESS
    assert work.ran == {1: 2}
    original = await fleet.storage.get(task_id)
    assert original is not None
    assert original.retried_by == winner.task_id


async def test_two_bulk_retries_of_the_same_tasks_retry_each_once(fleet: Fleet) -> None:
    one, other = fleet.manager(commit_timeout=60), fleet.manager(commit_timeout=60)
    work = Work(one, other, persist=True)
    apps = [FastAPI(), FastAPI()]
    for app, manager in zip(apps, (one, other), strict=True):
        TaskAdmin(app, manager)
    await fleet.start(one, other)
    ids = [await one.enqueue(work.task, number) for number in range(30)]
    for task_id in ids:
        await finish(one, task_id)

    async def bulk(app: FastAPI, ids: list[str]) -> dict[str, list[dict[str, str]]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answer = await client.post("/tasks/bulk-retry", json={"task_ids": ids})
            assert answer.status_code == 202
            found: dict[str, list[dict[str, str]]] = answer.json()
            return found

    # In opposite orders, so that their transactions meet in the middle.
    answers = await asyncio.gather(bulk(apps[0], ids), bulk(apps[1], ids[::-1]))
    retried = [one["task_id"] for answer in answers for one in answer["retried"]]
    skipped = [one["task_id"] for answer in answers for one in answer["skipped"]]
    assert sorted(retried) == sorted(skipped) == sorted(ids)
    work.finish()
    for answer in answers:
        for pair in answer["retried"]:
            await finish(one, pair["new_task_id"])
    assert set(work.ran.values()) == {2}
    assert len(await fleet.records(TaskQuery(func_name="work", status=TaskStatus.SUCCESS))) == 30


async def test_many_retries_share_few_transactions_and_each_says_what_happened_to_it(fleet: Fleet) -> None:
    manager = fleet.manager(commit_timeout=60)
    work = Work(manager, persist=True)
    await fleet.start(manager)
    ids = await asyncio.gather(*(manager.enqueue(work.task, number) for number in range(150)))
    for task_id in ids:
        await finish(manager, task_id)
    again = (await manager.retry(ids[0])).task_id
    await manager.engine.lookup.logs(again)
    applied: list[list[Change]] = []
    backend: Any = fleet.wires[manager]
    apply = backend.apply

    async def recorded(changes: Sequence[Change]) -> list[Applied]:
        applied.append([change for change in changes if isinstance(change, Insert)])
        answers: list[Applied] = await apply(changes)
        return answers

    backend.apply = recorded
    results = await manager.engine.retries.retry_all([*ids, ids[1], again, "none"])
    assert list(results) == [*ids, again, "none"]
    assert str(results[ids[0]]) == f"task {ids[0]} is being retried already, by {again}"
    assert "only a finished task can be retried" in str(results[again])
    assert isinstance(results["none"], TaskNotFoundError)
    new = [record for record in results.values() if isinstance(record, TaskRecord)]
    assert [record.retry_of for record in new] == ids[1:]
    # A hundred at a time.
    assert [len(inserts) for inserts in applied if inserts] == [99, 50]
    work.finish()
    for record in new:
        assert (await finish(manager, record.task_id)).status is TaskStatus.SUCCESS
    assert set(work.ran.values()) == {2}


async def test_ten_posts_at_once_answer_202_once_and_409_with_the_id_of_the_winner() -> None:
    app, manager = FastAPI(), TaskManager()
    TaskAdmin(app, manager)
    work = Work(manager, persist=False)
    async with (
        running(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        task_id = await manager.enqueue(work.task, 1)
        await finish(manager, task_id)
        answers = await asyncio.gather(*(client.post(f"/tasks/{task_id}/retry") for _ in range(10)))
        [winner] = [answer.json()["task_id"] for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert [answer.status_code for answer in refused] == [409] * 9
        assert all(winner in answer.json()["detail"] for answer in refused)
        work.finish()
        await finish(manager, winner)
    assert work.ran == {1: 2}


async def test_what_has_succeeded_is_run_once_more_only_when_that_is_said() -> None:
    app, manager = FastAPI(), TaskManager()
    TaskAdmin(app, manager)
    work = Work(manager, persist=False, fails=False)
    work.finish()
    async with (
        running(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        task_id = await manager.enqueue(work.task, 1)
        await finish(manager, task_id)
        with pytest.raises(TaskStateError, match="use rerun=true"):
            await manager.retry(task_id)
        refused = await client.post(f"/tasks/{task_id}/retry")
        assert (refused.status_code, "rerun=true" in refused.json()["detail"]) == (409, True)
        accepted = await client.post(f"/tasks/{task_id}/retry?rerun=true")
        assert accepted.status_code == 202
        assert (await finish(manager, accepted.json()["task_id"])).retry_of == task_id
    assert work.ran == {1: 2}


async def test_many_retries_are_built_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    app, manager = FastAPI(), TaskManager(commit_timeout=60)
    TaskAdmin(app, manager)
    work = Work(manager, persist=False)
    async with (
        running(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        ids = [await manager.enqueue(work.task, number) for number in range(300)]
        for task_id in ids:
            await finish(manager, task_id)
        async with Turns() as turns:
            monkeypatch.setattr(TaskBuilder, "rebuild", turns.counted(TaskBuilder.rebuild))
            answer = (await client.post("/tasks/bulk-retry", json={"task_ids": ids})).json()
        assert (len(answer["retried"]), answer["skipped"]) == (300, [])
        assert turns.calls == 300
        assert turns.most <= 10
        work.finish()
        for pair in answer["retried"]:
            await finish(manager, pair["new_task_id"])
