"""Bulk operations survive their process: another instance takes them over, and each task is worked on once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends.base import Insert
from taskflow_otel.engine.admin import run
from taskflow_otel.engine.admin.work import RetryWork
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.operation import Operation, OperationItem, Order, Selection
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.vocabulary import OperationKind
from tests.ledger.fleet import Fleet
from tests.managers import finish
from tests.waiting import eventually


class Flaky:
    """One task type that fails the first time, and then succeeds at once."""

    def __init__(self, *managers: TaskManager) -> None:
        self.ran: Counter[int] = Counter()

        async def work(number: int) -> None:
            self.ran[number] += 1
            if self.ran[number] == 1:
                raise ConnectionError("no")

        for manager in managers:
            self.task = manager.task(name="work", persist=True)(work)

    async def failed(self, manager: TaskManager, number: int) -> list[str]:
        """The ids of tasks that have failed."""
        ids = list(await asyncio.gather(*(manager.enqueue(self.task, n) for n in range(number))))
        for task_id in ids:
            assert (await finish(manager, task_id)).status is TaskStatus.FAILED
        return ids


async def ended(fleet: Fleet, operation_id: str) -> Operation:
    store: Any = fleet.storage
    found: list[Operation] = []

    async def has_ended() -> bool:
        found[:] = [await store.operation_store.get(operation_id)]
        return found[0].ended_at is not None

    await eventually(has_ended, "the end of the operation", timeout=120)
    return found[0]


async def items_of(fleet: Fleet, operation_id: str) -> list[OperationItem]:
    store: Any = fleet.storage
    found: list[OperationItem] = await store.operation_store.items(operation_id, 0, 5_000)
    return found


async def retries_of(fleet: Fleet) -> Counter[str | None]:
    """How many retries each task has. One that was refused because another was first never runs."""
    records = await fleet.records(TaskQuery(func_name="work"))
    return Counter(
        record.retry_of for record in records if record.retry_of and record.status is not TaskStatus.REJECTED
    )


async def test_an_operation_of_a_dead_instance_is_finished_by_another_one_and_no_task_is_retried_twice(
    fleet: Fleet,
) -> None:
    one, other = fleet.manager(commit_timeout=60), fleet.manager(commit_timeout=60)
    work = Flaky(one, other)
    await fleet.start(one, other)
    ids = await work.failed(one, 130)
    wire = fleet.wires[one]

    def die_before_the_first_results_are_stored(method: str, args: tuple[Any, ...]) -> None:
        if method == "save" and args[0].done:
            wire.cut = True

    wire.before_store = die_before_the_first_results_are_stored
    begun = await one.engine.operations.begin(Order(kind=OperationKind.RETRY, task_ids=[*ids, "none"]))
    await eventually(lambda: wire.cut, "the death")
    assert len(await retries_of(fleet)) == 100, "they were made, and no one knows it"
    await fleet.die(one)
    done = await ended(fleet, begun.operation_id)
    assert (done.status, done.done, done.succeeded, done.token) == ("done", 131, 130, 1)
    items = await items_of(fleet, begun.operation_id)
    assert [item.task_id for item in items] == [*ids, "none"]
    assert {item.outcome for item in items[:130]} == {"done"}
    assert items[130].outcome == "refused"
    assert await retries_of(fleet) == Counter(ids)
    retries = {record.task_id: record.retry_of for record in await fleet.records(TaskQuery(func_name="work"))}
    assert [retries[item.new_task_id or ""] for item in items[:130]] == ids


async def test_one_request_at_two_instances_is_one_operation_for_both_callers(fleet: Fleet) -> None:
    one, other = fleet.manager(commit_timeout=60), fleet.manager(commit_timeout=60)
    work = Flaky(one, other)
    await fleet.start(one, other)
    ids = await work.failed(one, 3)
    storing, continued = asyncio.Event(), asyncio.Event()

    async def wait_for_the_other() -> None:
        storing.set()
        await continued.wait()

    fleet.wires[one].before_store = lambda method, args: wait_for_the_other() if method == "save" else None
    order = Order(kind=OperationKind.RETRY, task_ids=tuple(ids), key="key", request="request")
    first = asyncio.create_task(one.engine.operations.begin(order))
    await storing.wait()
    second = await other.engine.operations.begin(order)
    continued.set()
    assert (await first).operation_id == second.operation_id
    assert (await ended(fleet, second.operation_id)).succeeded == 3
    assert await retries_of(fleet) == Counter(ids)


async def test_a_stop_leaves_an_operation_to_the_next_start(fleet: Fleet) -> None:
    one = fleet.manager(commit_timeout=60)
    work = Flaky(one)
    await fleet.start(one)
    ids = await work.failed(one, 3)
    asked = asyncio.Event()

    def notice(method: str, args: tuple[Any, ...]) -> None:
        if method == "items":
            asked.set()
            raise BackendUnavailableError("not now")

    fleet.wires[one].before_store = notice
    begun = await one.engine.operations.begin(Order(kind=OperationKind.RETRY, task_ids=ids))
    await asked.wait()
    await fleet.stop(one)
    store: Any = fleet.storage
    left = await store.operation_store.get(begun.operation_id)
    assert (left.owner, left.ended_at, left.done) == (None, None, 0)
    two = fleet.manager(commit_timeout=60)
    Flaky(two)
    await fleet.start(two)
    assert (await ended(fleet, begun.operation_id)).succeeded == 3
    assert await retries_of(fleet) == Counter(ids)


async def test_an_operation_by_filter_shows_its_progress_and_continues_after_a_restart_where_it_was(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_COLLECTED_AT_ONCE", 10)
    monkeypatch.setattr(RetryWork, "slice", 5)
    one = fleet.manager(commit_timeout=60)
    work, app = Flaky(one), FastAPI()
    TaskAdmin(app, one)
    await fleet.start(one)
    ids = (await work.failed(one, 23))[::-1]
    asked = asyncio.Event()

    def trouble_after_the_second_slice(method: str, args: tuple[Any, ...]) -> None:
        if method == "save" and args[0].done == 10 and args[0].total > 10:
            asked.set()
            raise BackendUnavailableError("not now")

    fleet.wires[one].before_store = trouble_after_the_second_slice
    selection = Selection(statuses=["failed"], query=TaskQuery(func_name="work"), limit=22)
    begun = await one.engine.operations.begin(Order(kind=OperationKind.RETRY, selection=selection, filter="q=1"))
    await asked.wait()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        middle = (await client.get(f"/tasks/operations/{begun.operation_id}")).json()
        results = (await client.get(f"/tasks/operations/{begun.operation_id}/results")).json()
    assert {name: middle[name] for name in ("status", "done", "succeeded", "total", "ended_at", "filter")} == {
        "status": "running", "done": 10, "succeeded": 10, "total": 10, "ended_at": None, "filter": "q=1",
    }  # fmt: skip
    assert [(item["task_id"], item["outcome"]) for item in results] == [(task_id, "done") for task_id in ids[:10]]
    await fleet.stop(one)
    two = fleet.manager(commit_timeout=60)
    Flaky(two)
    await fleet.start(two)
    done = await ended(fleet, begun.operation_id)
    assert (done.status, done.done, done.succeeded, done.filter) == ("done", 22, 22, "q=1")
    assert done.selection is not None
    assert done.selection.more
    assert [item.task_id for item in await items_of(fleet, begun.operation_id)] == ids[:22]
    assert await retries_of(fleet) == Counter(ids[:22])


async def test_a_request_that_was_not_stored_completely_does_nothing_and_its_repetition_continues_it(
    fleet: Fleet,
) -> None:
    one = fleet.manager(commit_timeout=60)
    work = Flaky(one)
    await fleet.start(one)
    ids = await work.failed(one, 3)

    def refuse_items(method: str, _: tuple[Any, ...]) -> None:
        if method == "save":
            raise BackendUnavailableError("not now")

    fleet.wires[one].before_store = refuse_items
    order = Order(kind=OperationKind.RETRY, task_ids=ids, key="k", request="r")
    with pytest.raises(BackendUnavailableError):
        await one.engine.operations.begin(order)
    await one.engine.operations.tick()
    assert await retries_of(fleet) == Counter()
    fleet.wires[one].before_store = lambda method, args: None
    begun = await one.engine.operations.begin(order)
    assert (await ended(fleet, begun.operation_id)).succeeded == 3
    assert (await one.engine.operations.begin(order)).operation_id == begun.operation_id
    assert await retries_of(fleet) == Counter(ids)


async def test_cancelling_and_deleting_can_be_repeated(fleet: Fleet) -> None:
    one, other = fleet.manager(commit_timeout=60), fleet.manager(commit_timeout=60)
    work = Flaky(one, other)
    await fleet.start(one, other)
    failed = await work.failed(one, 3)
    await one.pause_queue("default")
    waiting = [await one.enqueue(work.task, number) for number in range(10, 13)]
    wire = fleet.wires[other]
    begun = []

    def lose_the_results(method: str, args: tuple[Any, ...]) -> None:
        if method == "save" and args[0].done and args[0].token == 0:
            raise BackendUnavailableError("not now")

    wire.before_store = lose_the_results
    for kind, ids in ((OperationKind.CANCEL, waiting), (OperationKind.DELETE, failed)):
        begun.append((await other.engine.operations.begin(Order(kind=kind, task_ids=ids))).operation_id)

    async def are_done() -> bool:
        left = (await fleet.storage.get_all([*failed, *waiting])).values()
        return [record.status for record in left] == [TaskStatus.CANCELLED] * 3

    await eventually(are_done, "the work")
    wire.before_store = lambda method, args: None
    for operation_id in begun:
        assert (await ended(fleet, operation_id)).succeeded == 3


async def test_a_task_that_the_backend_refuses_for_good_has_its_reason_and_keeps_no_other_from_being_done(
    fleet: Fleet,
) -> None:
    one, other = fleet.manager(commit_timeout=60), fleet.manager(commit_timeout=60)
    work = Flaky(one, other)
    await fleet.start(one, other)
    ids = await work.failed(one, 5)
    await one.pause_queue("default")
    waiting = [await one.enqueue(work.task, number) for number in range(10, 13)]
    wire: Any = fleet.wires[other]

    def refuse(method: str, is_bad: Callable[[Any], bool]) -> None:
        passed = getattr(wire, method)

        async def call(given: Any) -> Any:
            if is_bad(given):
                raise BackendError("db.internal refuses it", transient=False, reason="too large")
            return await passed(given)

        setattr(wire, method, call)

    refuse("apply", lambda changes: any(isinstance(one, Insert) and one.record.retry_of == ids[2] for one in changes))
    refuse("request_cancel", lambda task_id: task_id == waiting[1])
    refuse("delete_tasks", lambda task_ids: ids[3] in task_ids)
    for kind, asked, bad in (
        (OperationKind.RETRY, ids, ids[2]),
        (OperationKind.CANCEL, waiting, waiting[1]),
        (OperationKind.DELETE, ids, ids[3]),
    ):
        begun = await other.engine.operations.begin(Order(kind=kind, task_ids=asked))
        done = await ended(fleet, begun.operation_id)
        assert (done.status, done.done, done.succeeded) == ("done", len(asked), len(asked) - 1), kind
        items = {item.task_id: item for item in await items_of(fleet, begun.operation_id)}
        assert (items.pop(bad).outcome, {item.outcome for item in items.values()}) == ("failed", {"done"}), kind
        [failed] = [item for item in await items_of(fleet, begun.operation_id) if item.task_id == bad]
        assert failed.detail == "too large", "the message names a server"
        if kind is OperationKind.RETRY:
            assert await retries_of(fleet) == Counter(task_id for task_id in ids if task_id != bad)
            retries = [item.new_task_id or "" for item in items.values()]
            assert {(await finish(other, task_id)).status for task_id in retries} == {TaskStatus.SUCCESS}


@pytest.mark.parametrize("backend_factory", ["sqlite", "postgres", "mysql", "redis"], indirect=True)
async def test_of_a_thousand_tasks_that_two_callers_retry_at_once_each_is_retried_once(fleet: Fleet) -> None:
    one, other = fleet.manager(commit_timeout=60), fleet.manager(commit_timeout=60)
    work = Flaky(one, other)
    apps = [FastAPI(), FastAPI()]
    for app, manager in zip(apps, (one, other), strict=True):
        TaskAdmin(app, manager)
    await fleet.start(one, other)
    ids = await work.failed(one, 1_000)

    async def bulk(app: FastAPI, ids: list[str]) -> tuple[str, dict[str, Any]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=120) as client:
            answer = await client.post("/tasks/bulk-retry", json={"task_ids": ids})
            assert answer.status_code == 202
            return answer.json()["operation_id"], answer.json()

    # In opposite orders, so that their transactions meet in the middle. The retries end at once, while others begin.
    (first, _), (second, _) = await asyncio.gather(bulk(apps[0], ids), bulk(apps[1], ids[::-1]))
    counts = [await ended(fleet, operation_id) for operation_id in (first, second)]
    assert sum(operation.succeeded for operation in counts) == 1_000
    assert [operation.done for operation in counts] == [1_000, 1_000]
    assert await retries_of(fleet) == Counter(ids)
    items = [item for operation_id in (first, second) for item in await items_of(fleet, operation_id)]
    winners = {item.task_id: item.new_task_id for item in items if item.outcome == "done"}
    assert {item.task_id: item.new_task_id for item in items if item.outcome == "refused"} == winners
